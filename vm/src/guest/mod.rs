//! A guest: a machine that boots a kernel, mounts what it is told, and then
//! does what the host asks.
//!
//! [`Guest::boot`] returns when the guest is ready, or with an error that
//! carries the last lines of its console. Everything that the guest says later
//! is in [`Guest::events`]. Dropping a guest ends its machine.

mod config;
mod events;
mod machine;
mod wire;

use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc};

pub use config::{FuseConfig, GuestConfig};
pub use events::{EventKind, Events, GuestEvent};
pub(crate) use machine::try_boot;
use machine::{Launched, launch, launch_here};
use wire::{Life, NoAnswer};

use crate::accel;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::net::{add_client, guest_address};
use crate::protocol::{Answer, Bytes, CHUNK, Output, Process, Request, Setup, Status};

/// What a script's outputs may hold, each.
const OUTPUT_LIMIT: usize = 1 << 20;

/// How long a call that does no work may take. An emulated machine that is
/// busy still answers within this.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// How long a script's end may come after its own deadline.
const EXEC_GRACE: Duration = Duration::from_secs(5);

/// How long a clean power-off may take.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// The largest file that is carried either way.
const LARGEST_FILE: u64 = 64 << 20;

/// How long the steps of a boot took, from power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booted {
    /// To the agent's greeting.
    pub agent: Duration,
    /// To the last mount, if there was one.
    pub mounted: Option<Duration>,
    /// To the end of the set-up.
    pub ready: Duration,
}

/// A guest that is up.
pub struct Guest {
    machine: Launched,
    booted: Booted,
    address: std::net::Ipv4Addr,
    fuse: bool,
}

/// The console as a terminal: raw bytes both ways.
pub struct Terminal {
    /// What the guest shows. A reader that is too slow misses some.
    pub output: broadcast::Receiver<Vec<u8>>,
    /// What is typed.
    pub input: mpsc::Sender<Vec<u8>>,
}

impl Guest {
    /// Boots a guest and waits until it is ready. Needs a runtime; what is not
    /// in the cache yet (the initramfs, the KVM verdict) is made.
    pub async fn boot(config: GuestConfig, cache: &Cache) -> Result<Self> {
        config.check()?;
        let engine = accel::choose(&config, cache).await?;
        let launched = launch(&config, cache, engine).await?;
        Self::ready(
            launched,
            config.setup(),
            config.boot_deadline,
            config.index,
            false,
        )
        .await
    }

    /// Starts a client that needs no machine: see [`FuseConfig`]. Needs root, overlayfs and /dev/fuse.
    pub async fn on_fuse(config: FuseConfig) -> Result<Self> {
        config.check()?;
        add_client(config.network, config.index)?;
        let launched = launch_here(&config.name)?;
        Self::ready(launched, config.setup(), config.deadline, config.index, true).await
    }

    /// Waits until it is set up.
    async fn ready(
        launched: Launched,
        setup: Setup,
        deadline: Duration,
        index: u8,
        fuse: bool,
    ) -> Result<Self> {
        let boot = async {
            let agent = launched.greeting().await?;
            launched.set_up(setup, deadline).await?;
            Ok(agent)
        };
        let agent = match tokio::time::timeout(deadline, boot).await {
            Ok(result) => result?,
            Err(_) => return Err(launched.failed(format!("not ready within {deadline:?}")).await),
        };
        launched.wire.set_ready();
        let booted = Booted {
            agent,
            mounted: launched.last_mount(),
            ready: launched.wire.power_on.elapsed(),
        };
        Ok(Self {
            machine: launched,
            booted,
            address: guest_address(index),
            fuse,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// Its address.
    pub fn address(&self) -> std::net::Ipv4Addr {
        self.address
    }

    /// Whether its mounts are those of the FUSE client, on this machine's kernel.
    pub fn is_on_fuse(&self) -> bool {
        self.fuse
    }

    /// How long its boot took.
    pub fn booted(&self) -> Booted {
        self.booted
    }

    /// When it was switched on.
    pub fn power_on(&self) -> Instant {
        self.machine.wire.power_on
    }

    /// Everything that it said, from the first line on.
    pub fn events(&self) -> Events {
        self.machine.wire.events.reader()
    }

    /// Whether it is gone, and how.
    pub fn gone(&self) -> Option<String> {
        match &*self.machine.wire.life.borrow() {
            Life::Ended(how) => Some(how.clone()),
            _ => None,
        }
    }

    /// Runs a shell script to its end. At the deadline it is sent SIGKILL, and
    /// the status says [`Status::TimedOut`].
    pub async fn exec(&self, script: &str, deadline: Duration) -> Result<Output> {
        let request = Request::Exec {
            script: script.to_owned(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            limit: OUTPUT_LIMIT,
        };
        match self
            .call("a script", request, deadline.saturating_add(EXEC_GRACE))
            .await?
        {
            Answer::Output(output) => Ok(output),
            other => Err(self.odd("a script", &other)),
        }
    }

    /// Starts a shell script under a label and lets it run. Its output and its
    /// end come as events.
    pub async fn spawn(&self, label: &str, script: &str) -> Result<i32> {
        self.spawn_argv(label, ["/bin/sh", "-c", script]).await
    }

    /// Starts a program under a label and lets it run.
    pub async fn spawn_argv<S: Into<String>>(
        &self,
        label: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Result<i32> {
        let argv = argv.into_iter().map(Into::into).collect();
        let what = format!("starting {label}");
        match self
            .call(
                &what,
                Request::Spawn {
                    label: label.to_owned(),
                    argv,
                },
                CALL_DEADLINE,
            )
            .await?
        {
            Answer::Pid(pid) => Ok(pid),
            other => Err(self.odd(&what, &other)),
        }
    }

    /// Signals a labelled process and what it started (its process group).
    pub async fn signal(&self, label: &str, signal: i32) -> Result<()> {
        let request = Request::Signal {
            label: label.to_owned(),
            signal,
        };
        self.done(&format!("signal {signal} to {label}"), request).await
    }

    /// Every labelled process and its descendants, as the guest's kernel shows
    /// them now.
    pub async fn processes(&self) -> Result<Vec<Process>> {
        match self
            .call("listing processes", Request::Processes, CALL_DEADLINE)
            .await?
        {
            Answer::Processes(all) => Ok(all),
            other => Err(self.odd("listing processes", &other)),
        }
    }

    /// Writes a file in the guest, with its parent folders. Not for a path on
    /// an NFS mount: use [`Guest::exec`] there, which can be given up.
    pub async fn put_file(&self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let what = format!("writing {path}");
        if content.len() as u64 > LARGEST_FILE {
            return Err(self.refused(
                &what,
                format!("{} bytes, the limit is {LARGEST_FILE}", content.len()),
            ));
        }
        let empty: &[u8] = &[];
        let pieces = content.chunks(CHUNK).chain(content.is_empty().then_some(empty));
        let mut offset = 0;
        for piece in pieces {
            let data = Bytes(piece.to_vec());
            self.done(
                &what,
                Request::Put {
                    path: path.to_owned(),
                    mode,
                    offset,
                    data,
                },
            )
            .await?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads a file of the guest.
    pub async fn get_file(&self, path: &str) -> Result<Vec<u8>> {
        let what = format!("reading {path}");
        let mut content = Vec::new();
        loop {
            let request = Request::Get {
                path: path.to_owned(),
                offset: content.len() as u64,
            };
            match self.call(&what, request, CALL_DEADLINE).await? {
                Answer::Piece { data, end } => {
                    content.extend(data.0);
                    if end {
                        return Ok(content);
                    }
                }
                other => return Err(self.odd(&what, &other)),
            }
            if content.len() as u64 > LARGEST_FILE {
                return Err(self.refused(&what, format!("more than {LARGEST_FILE} bytes")));
            }
        }
    }

    /// Starts a shell on the console. Its end is an [`EventKind::Exit`] of the
    /// label `shell`.
    pub async fn shell(&self, rows: u16, columns: u16) -> Result<Terminal> {
        let terminal = Terminal {
            output: self.machine.wire.console_bytes.subscribe(),
            input: self.machine.wire.to_console.clone(),
        };
        match self
            .call(
                "starting a shell",
                Request::Shell { rows, columns },
                CALL_DEADLINE,
            )
            .await?
        {
            Answer::Pid(_) => Ok(terminal),
            other => Err(self.odd("starting a shell", &other)),
        }
    }

    /// Waits for the end of a labelled process.
    pub async fn wait(&self, label: &str, deadline: Duration) -> Result<Status> {
        let is_end = |kind: &EventKind| matches!(kind, EventKind::Exit { label: l, .. } if l == label);
        let found = self.events().wait_for(deadline, is_end).await;
        match (found.map(|e| e.kind), self.gone()) {
            (Some(EventKind::Exit { status, .. }), _) => Ok(status),
            (_, Some(how)) => Err(self.is_gone(how)),
            _ => Err(Error::Deadline {
                guest: self.machine.name.clone(),
                what: format!("process {label}"),
                deadline,
            }),
        }
    }

    /// Switches it off, and waits until it is. One that does not react is
    /// ended.
    pub async fn shutdown(self) -> Result<()> {
        // No answer, or one that says it is gone, is what we want.
        let _ = self.machine.wire.call(Request::PowerOff, SHUTDOWN_DEADLINE).await;
        match tokio::time::timeout(SHUTDOWN_DEADLINE, self.machine.wire.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => self.kill().await,
        }
    }

    /// Ends its machine at once, as a power failure would, and waits until it
    /// is gone.
    pub async fn kill(&self) -> Result<()> {
        self.machine.wire.kill();
        match tokio::time::timeout(SHUTDOWN_DEADLINE, self.machine.wire.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Deadline {
                guest: self.machine.name.clone(),
                what: "the end of its QEMU".into(),
                deadline: SHUTDOWN_DEADLINE,
            }),
        }
    }

    async fn call(&self, what: &str, request: Request, deadline: Duration) -> Result<Answer> {
        match self.machine.wire.call(request, deadline).await {
            Ok(Answer::Error(problem)) => Err(self.refused(what, problem)),
            Ok(answer) => Ok(answer),
            Err(NoAnswer::Deadline) => Err(Error::Deadline {
                guest: self.machine.name.clone(),
                what: what.to_owned(),
                deadline,
            }),
            Err(NoAnswer::Ended(how)) => Err(self.is_gone(how)),
        }
    }

    async fn done(&self, what: &str, request: Request) -> Result<()> {
        match self.call(what, request, CALL_DEADLINE).await? {
            Answer::Done => Ok(()),
            other => Err(self.odd(what, &other)),
        }
    }

    fn refused(&self, what: &str, problem: String) -> Error {
        Error::Refused {
            guest: self.machine.name.clone(),
            what: what.to_owned(),
            problem,
        }
    }

    fn odd(&self, what: &str, answer: &Answer) -> Error {
        self.refused(what, format!("an answer of another kind came: {answer:?}"))
    }

    fn is_gone(&self, problem: String) -> Error {
        Error::Gone {
            guest: self.machine.name.clone(),
            problem,
            console: self.machine.wire.tail(),
        }
    }
}
