//! The host's ends of a guest's console and of the line to its agent, and what is known of its
//! life: tasks that read, and the state they share.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::events::{EventKind, EventLog};
use crate::child::{Process, Running};
use crate::protocol::{Answer, Call, Lines, MAX_LINE, Message, Request, encode};

/// Console lines that an error carries.
const TAIL: usize = 30;

/// A console line longer than this is no line.
const LONGEST_CONSOLE_LINE: usize = 64 << 10;

/// How long a panicked machine may take to switch itself off.
const PANIC_GRACE: Duration = Duration::from_secs(2);

/// How far a guest has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Booting,
    /// The agent greeted us.
    Greeted {
        version: u32,
        at: Instant,
        boot: Duration,
    },
    /// It is gone, and how.
    Ended(String),
}

/// What tasks and callers share.
pub(super) struct Wire {
    pub(super) power_on: Instant,
    pub(super) events: EventLog,
    pub(super) life: watch::Sender<Life>,
    pub(super) console_bytes: broadcast::Sender<Vec<u8>>,
    to_link: mpsc::Sender<Vec<u8>>,
    pub(super) to_console: mpsc::Sender<Vec<u8>>,
    pending: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_id: AtomicU64,
    state: Mutex<State>,
    child: Arc<Process>,
}

#[derive(Default)]
struct State {
    tail: VecDeque<String>,
    panic: Option<String>,
    /// When the guest's kernel began to count, by our clock.
    boot_origin: Option<Instant>,
    ready: bool,
}

/// Why a call brought no answer.
pub(super) enum NoAnswer {
    Deadline,
    Ended(String),
}

impl Wire {
    /// Connects to a running machine. Must be called in a runtime.
    pub(super) fn connect(
        power_on: Instant,
        running: Running,
        console_log: Option<File>,
    ) -> std::io::Result<Arc<Self>> {
        let (console_read, console_write) = split(running.console)?;
        let (link_read, link_write) = split(running.link)?;
        let (to_link, from_callers) = mpsc::channel(64);
        let (to_console, from_terminal) = mpsc::channel(64);
        let wire = Arc::new(Self {
            power_on,
            events: EventLog::new(),
            life: watch::Sender::new(Life::Booting),
            console_bytes: broadcast::channel(1024).0,
            to_link,
            to_console,
            pending: Mutex::default(),
            next_id: AtomicU64::new(1),
            state: Mutex::default(),
            child: running.child,
        });
        tokio::spawn(pass_on(from_callers, link_write));
        tokio::spawn(pass_on(from_terminal, console_write));
        let console = tokio::spawn(wire.clone().read_console(console_read, console_log));
        let link = tokio::spawn(wire.clone().read_link(link_read));
        tokio::spawn(wire.clone().await_end(running.ended, console, link));
        Ok(wire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last lines of the console.
    pub(super) fn tail(&self) -> Vec<String> {
        self.state().tail.iter().cloned().collect()
    }

    /// Ends the machine at once: this child of ours, nothing else.
    pub(super) fn kill(&self) {
        self.child.kill();
    }

    /// Ends the machine, and returns when it is gone.
    pub(super) fn kill_and_wait(&self) {
        self.child.kill_and_wait();
    }

    pub(super) fn set_ready(&self) {
        self.state().ready = true;
        self.events.push(Instant::now(), EventKind::Ready);
    }

    /// Waits until the machine is gone; says how.
    pub(super) async fn ended(&self) -> String {
        let mut life = self.life.subscribe();
        let ended = life.wait_for(|l| matches!(l, Life::Ended(_))).await;
        match ended.as_deref() {
            Ok(Life::Ended(how)) => how.clone(),
            _ => "its tasks ended".to_owned(),
        }
    }

    /// Sends a call and waits for its answer, the guest's end or the deadline.
    pub(super) async fn call(&self, request: Request, deadline: Duration) -> Result<Answer, NoAnswer> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.pending().insert(id, tell);
        let line = encode(&Call { id, request });
        let exchange = async {
            if self.to_link.send(line).await.is_ok()
                && let Ok(answer) = told.await
            {
                return Ok(answer);
            }
            Err(NoAnswer::Ended(self.ended().await))
        };
        let result = tokio::select! {
            result = tokio::time::timeout(deadline, exchange) => result.unwrap_or(Err(NoAnswer::Deadline)),
            how = self.ended() => Err(NoAnswer::Ended(how)),
        };
        self.pending().remove(&id);
        result
    }

    async fn read_link(self: Arc<Self>, mut from: OwnedReadHalf) {
        let mut lines = Lines::default();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            for line in lines.push(buffer.get(..count).unwrap_or_default(), MAX_LINE) {
                match serde_json::from_slice(&line) {
                    Ok(message) => self.take(message),
                    Err(e) => tracing::debug!("a line of {} bytes that is no message: {e}", line.len()),
                }
            }
        }
    }

    fn take(&self, message: Message) {
        let now = Instant::now();
        let kind = match message {
            Message::Hello { version, boot_ms } => {
                let boot = Duration::from_millis(boot_ms);
                self.state().boot_origin = now.checked_sub(boot);
                self.life.send_replace(Life::Greeted {
                    version,
                    at: now,
                    boot,
                });
                return;
            }
            Message::Reply { id, answer } => {
                if let Some(tell) = self.pending().remove(&id) {
                    let _ = tell.send(answer);
                }
                return;
            }
            Message::Complaint { problem } => {
                tracing::warn!("the guest got {problem}");
                return;
            }
            Message::Mounted { target } => EventKind::Mounted(target),
            Message::Kernel { boot_us, level, line } => {
                let since_boot = Duration::from_micros(boot_us);
                let at = self.time_of(since_boot, now);
                self.events.push(
                    at,
                    EventKind::Kernel {
                        since_boot,
                        level,
                        line,
                    },
                );
                return;
            }
            Message::Output { label, stream, line } => EventKind::Output { label, stream, line },
            Message::Exit { label, status } => EventKind::Exit { label, status },
        };
        self.events.push(now, kind);
    }

    /// The log's lines from before the agent ran come late and all at once, so
    /// their time is told from the guest's clock; the others come as they are
    /// printed.
    fn time_of(&self, since_boot: Duration, now: Instant) -> Instant {
        let state = self.state();
        match state.boot_origin {
            Some(origin) if !state.ready => (origin + since_boot).min(now),
            _ => now,
        }
    }

    async fn read_console(self: Arc<Self>, mut from: OwnedReadHalf, mut log: Option<File>) {
        let mut lines = Lines::default();
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let bytes = buffer.get(..count).unwrap_or_default();
            if let Some(file) = &mut log
                && let Err(e) = file.write_all(bytes)
            {
                tracing::warn!("the console log is cut off here: {e}");
                log = None;
            }
            let _ = self.console_bytes.send(bytes.to_vec());
            for line in lines.push(bytes, LONGEST_CONSOLE_LINE) {
                self.console_line(String::from_utf8_lossy(&line).into_owned());
            }
        }
        let rest = lines.rest();
        if !rest.is_empty() {
            self.console_line(String::from_utf8_lossy(&rest).into_owned());
        }
    }

    fn console_line(&self, line: String) {
        let is_panic = line.contains("Kernel panic - not syncing");
        let mut state = self.state();
        state.tail.push_back(line.clone());
        if state.tail.len() > TAIL {
            state.tail.pop_front();
        }
        let first_panic = is_panic && state.panic.is_none();
        if first_panic {
            state.panic = Some(line.clone());
        }
        drop(state);
        self.events.push(Instant::now(), EventKind::Console(line.clone()));
        if first_panic {
            self.events.push(Instant::now(), EventKind::Panic(line));
            // It should switch itself off; a machine that cannot is ended.
            let (child, mut life) = (self.child.clone(), self.life.subscribe());
            tokio::spawn(async move {
                let ended = life.wait_for(|l| matches!(l, Life::Ended(_)));
                if tokio::time::timeout(PANIC_GRACE, ended).await.is_err() {
                    child.kill();
                }
            });
        }
    }

    /// Waits for QEMU's end, and then for everything that it still had to say.
    async fn await_end(
        self: Arc<Self>,
        ended: oneshot::Receiver<String>,
        console: JoinHandle<()>,
        link: JoinHandle<()>,
    ) {
        let how = ended.await.unwrap_or_else(|_| "its thread ended".to_owned());
        for reader in [console, link] {
            let _ = tokio::time::timeout(PANIC_GRACE, reader).await;
        }
        let how = match &self.state().panic {
            Some(line) => format!("its kernel panicked: {}", line.trim()),
            None => how,
        };
        self.pending().clear();
        self.events.push(Instant::now(), EventKind::Gone(how.clone()));
        self.life.send_replace(Life::Ended(how));
    }
}

fn split(stream: std::os::unix::net::UnixStream) -> std::io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    stream.set_nonblocking(true)?;
    Ok(tokio::net::UnixStream::from_std(stream)?.into_split())
}

/// One task writes, so that a caller who gives up leaves no half line.
async fn pass_on(mut from: mpsc::Receiver<Vec<u8>>, mut to: OwnedWriteHalf) {
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
