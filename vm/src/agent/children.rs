//! Starting programs, and learning how they end.
//!
//! Process 1 inherits every orphan and must reap it. So one thread waits for
//! all, and passes the status on to whoever started the process. A start and
//! its registration happen under one lock, so that no end can come before it
//! is known whom to tell.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Agent;
use crate::protocol::{Lines, Message, Output, Status, Stream};

/// How long the outputs of an ended process are waited for: a grandchild may
/// hold them open for ever.
const LINGER: Duration = Duration::from_millis(300);

/// A line of output longer than this is cut.
const LONGEST_LINE: usize = 16 << 10;

/// Labels that are remembered.
const MOST_LABELS: usize = 4096;

/// The processes that we started.
pub(super) struct Children {
    state: Mutex<State>,
    started: Condvar,
}

#[derive(Default)]
struct State {
    /// Whom to tell of a process's end.
    waiting: HashMap<i32, Sender<Status>>,
    /// The process, and group, of each label.
    labels: BTreeMap<String, i32>,
}

pub(super) struct Started {
    pid: i32,
    pub(super) child: Child,
    ended: Receiver<Status>,
}

impl Children {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            started: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program, which the caller gave a process group of its own.
    pub(super) fn start(&self, command: &mut Command, label: Option<&str>) -> io::Result<Started> {
        let mut state = self.state();
        if let Some(label) = label {
            if state
                .labels
                .get(label)
                .is_some_and(|pid| state.waiting.contains_key(pid))
            {
                return Err(io::Error::other(format!(
                    "a process of the label {label} runs already"
                )));
            }
            if state.labels.len() >= MOST_LABELS {
                return Err(io::Error::other(format!("more than {MOST_LABELS} labels")));
            }
        }
        let child = command.spawn()?;
        let pid = child.id().cast_signed();
        let (tell, ended) = channel();
        state.waiting.insert(pid, tell);
        if let Some(label) = label {
            state.labels.insert(label.to_owned(), pid);
        }
        self.started.notify_all();
        Ok(Started { pid, child, ended })
    }

    /// The process group of each label.
    pub(super) fn labels(&self) -> BTreeMap<String, i32> {
        self.state().labels.clone()
    }

    /// Signals the group of a label.
    pub(super) fn signal(&self, label: &str, signal: i32) -> Result<(), String> {
        let group = self
            .labels()
            .get(label)
            .copied()
            .ok_or_else(|| format!("no process has the label {label}"))?;
        let signal = Signal::try_from(signal).map_err(|_| format!("there is no signal {signal}"))?;
        killpg(Pid::from_raw(group), signal).map_err(|e| format!("signalling {label} (group {group}): {e}"))
    }

    /// Runs a program to its end or its deadline.
    pub(super) fn run(&self, command: &mut Command, deadline: Duration, limit: usize) -> io::Result<Output> {
        let until = Instant::now() + deadline;
        piped(command);
        let mut started = self.start(command, None)?;
        let (stdout, stdout_end) = gather(started.child.stdout.take(), limit)?;
        let (stderr, stderr_end) = gather(started.child.stderr.take(), limit)?;
        let status = match started.ended.recv_timeout(deadline) {
            Ok(status) => status,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let _ = killpg(Pid::from_raw(started.pid), Signal::SIGKILL);
                Status::TimedOut
            }
        };
        let linger = LINGER.max(until.saturating_duration_since(Instant::now()).min(LINGER));
        for end in [stdout_end, stderr_end] {
            let _ = end.recv_timeout(linger);
        }
        let (stdout, cut_out) = take(&stdout);
        let (stderr, cut_err) = take(&stderr);
        Ok(Output {
            status,
            stdout,
            stderr,
            truncated: cut_out || cut_err,
        })
    }
}

impl Agent {
    /// Waits for every process there is, for ever.
    pub(super) fn start_reaper(self: Arc<Self>) {
        let reaper = move || {
            loop {
                match waitpid(None, None) {
                    Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, Status::Exited(code)),
                    Ok(WaitStatus::Signaled(pid, signal, _)) => {
                        self.ended(pid, Status::Signaled(signal as i32))
                    }
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    // No process at all: wait until one is started.
                    Err(_) => {
                        let state = self.children.state();
                        let no_child = |state: &mut State| state.waiting.is_empty();
                        drop(self.children.started.wait_while(state, no_child));
                    }
                }
            }
        };
        if let Err(e) = thread::Builder::new().name("reaper".into()).spawn(reaper) {
            eprintln!("nfslab agent: no thread for the reaper: {e}");
        }
    }

    fn ended(&self, pid: Pid, status: Status) {
        if let Some(tell) = self.children.state().waiting.remove(&pid.as_raw()) {
            let _ = tell.send(status);
        }
    }

    /// Starts a program under a label; its output and its end become events.
    pub(super) fn spawn(self: Arc<Self>, label: &str, command: &mut Command) -> io::Result<i32> {
        piped(command);
        let mut started = self.children.start(command, Some(label))?;
        let outputs = [
            self.clone()
                .stream(label, Stream::Stdout, started.child.stdout.take())?,
            self.clone()
                .stream(label, Stream::Stderr, started.child.stderr.take())?,
        ];
        self.report_end(label, started, outputs)
    }

    /// Starts a program on a terminal, in a session of its own; only its end is
    /// an event.
    pub(super) fn spawn_on_terminal(
        self: Arc<Self>,
        label: &str,
        command: &mut Command,
        terminal: &File,
    ) -> io::Result<i32> {
        command
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal.try_clone()?);
        let own_session = || {
            // SAFETY: two plain system calls, allowed between fork and exec;
            // descriptor 0 is the terminal by then.
            match unsafe { libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 1) < 0 } {
                true => Err(io::Error::last_os_error()),
                false => Ok(()),
            }
        };
        // SAFETY: the closure makes system calls only and allocates nothing.
        unsafe { command.pre_exec(own_session) };
        let started = self.children.start(command, Some(label))?;
        self.report_end(label, started, [])
    }

    fn report_end<const N: usize>(
        self: Arc<Self>,
        label: &str,
        started: Started,
        outputs: [Receiver<()>; N],
    ) -> io::Result<i32> {
        let (pid, label) = (started.pid, label.to_owned());
        thread::Builder::new().spawn(move || {
            let Ok(status) = started.ended.recv() else { return };
            for output in outputs {
                let _ = output.recv_timeout(LINGER);
            }
            self.link.send(&Message::Exit { label, status });
        })?;
        Ok(pid)
    }

    /// Sends a stream's lines as events. The receiver hears of its end.
    fn stream(
        self: Arc<Self>,
        label: &str,
        stream: Stream,
        from: Option<impl Read + Send + 'static>,
    ) -> io::Result<Receiver<()>> {
        let (end, ended) = channel();
        let label = label.to_owned();
        thread::Builder::new().spawn(move || {
            each_line(from, |line| {
                self.link.send(&Message::Output {
                    label: label.clone(),
                    stream,
                    line,
                });
            });
            drop(end);
        })?;
        Ok(ended)
    }
}

/// A process group of its own, nothing to read, and outputs that we read.
fn piped(command: &mut Command) {
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

/// What was gathered, and whether something did not fit.
type Gathered = Arc<Mutex<(Vec<u8>, bool)>>;

/// Gathers a stream's first bytes and discards the rest. The receiver hears of
/// its end.
fn gather(from: Option<impl Read + Send + 'static>, limit: usize) -> io::Result<(Gathered, Receiver<()>)> {
    let gathered = Gathered::default();
    let (end, ended) = channel();
    let into = gathered.clone();
    thread::Builder::new().spawn(move || {
        read_all(from, |bytes| {
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            let room = limit.saturating_sub(into.0.len()).min(bytes.len());
            into.0.extend_from_slice(bytes.get(..room).unwrap_or_default());
            into.1 |= room < bytes.len();
        });
        drop(end);
    })?;
    Ok((gathered, ended))
}

fn take(gathered: &Gathered) -> (String, bool) {
    let gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
    (String::from_utf8_lossy(&gathered.0).into_owned(), gathered.1)
}

/// Reads lines to the end of a stream, the last one even if it has no end.
pub(super) fn each_line(from: Option<impl Read>, mut each: impl FnMut(String)) {
    let mut lines = Lines::default();
    let mut text = |line: Vec<u8>| each(String::from_utf8_lossy(&line).into_owned());
    read_all(from, |bytes| {
        lines.push(bytes, LONGEST_LINE).into_iter().for_each(&mut text);
    });
    let rest = lines.rest();
    if !rest.is_empty() {
        text(rest);
    }
}

fn read_all(from: Option<impl Read>, mut each: impl FnMut(&[u8])) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 8192];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => each(buffer.get(..count).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
