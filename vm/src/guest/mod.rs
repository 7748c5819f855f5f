//! A guest: a machine that boots a kernel, mounts what it is told, and then
//! does what the host asks.
//!
//! [`Guest::boot`] returns when the guest is ready, or with an error that
//! carries the last lines of its console. Everything that the guest says later
//! is in [`Guest::events`]. Dropping a guest ends its machine.

mod events;
mod wire;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc};

pub use events::{EventKind, Events, GuestEvent};
use wire::{Life, NoAnswer, Wire};

use crate::accel::{self, Accel};
use crate::cache::Cache;
use crate::error::{Context, Error, Result};
use crate::initramfs;
use crate::kernels::Kernel;
use crate::net::{MOST_GUESTS, Namespace, PREFIX, SERVER, Tap, guest_address};
use crate::protocol::{
    Addresses, Answer, Bytes, CHUNK, Fixture, Mount, Output, Process, Request, Setup, Status, VERSION,
};
use crate::qemu::{self, Engine, Machine};
use crate::userland::Userland;
use crate::vmlinux;

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

/// How a guest shall be.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Its host name, which NLM sends as `caller_name`.
    pub name: String,
    /// Which guest it is, from 1: it gets the address 10.77.0.(index+1).
    pub index: u8,
    /// What to boot.
    pub kernel: Kernel,
    /// The programs in it.
    pub userland: Userland,
    /// Where its network card goes. None: it has none.
    pub network: Option<Namespace>,
    /// Its memory.
    pub memory_mib: u32,
    /// What to mount before it counts as ready.
    pub mounts: Vec<Mount>,
    /// Its daemons.
    pub fixture: Fixture,
    /// Seconds for `nlm_timeout`: 3 shortens lockd's major timeout of 60 s to
    /// 18 s.
    pub nlm_timeout: Option<u32>,
    /// How long boot and mounts may take together.
    pub boot_deadline: Duration,
    /// A file for everything on its console.
    pub console_log: Option<PathBuf>,
    /// KVM or emulation.
    pub accel: Accel,
    /// The executable that is its process 1: one that calls
    /// [`crate::agent::main`] when [`crate::agent::is_guest_init`]. None: the
    /// one that runs.
    pub agent: Option<PathBuf>,
    /// Further words for the kernel's command line.
    pub kernel_args: String,
}

impl GuestConfig {
    /// A guest with 512 MiB, the usual daemons and nothing mounted.
    pub fn new(name: impl Into<String>, index: u8, kernel: Kernel, userland: Userland) -> Self {
        Self {
            name: name.into(),
            index,
            kernel,
            userland,
            network: None,
            memory_mib: 512,
            mounts: Vec::new(),
            fixture: Fixture::default(),
            nlm_timeout: None,
            boot_deadline: Duration::from_secs(60),
            console_log: None,
            accel: Accel::Auto,
            agent: None,
            kernel_args: String::new(),
        }
    }

    /// Refuses what cannot work, before anything is started.
    fn check(&self) -> Result<()> {
        let wrong = |problem: String| Error::Boot {
            guest: self.name.clone(),
            problem,
            console: Vec::new(),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(fits) {
            return Err(wrong(
                "its name must be 1 to 63 letters, digits and hyphens".into(),
            ));
        }
        if !(1..=MOST_GUESTS).contains(&self.index) {
            return Err(wrong(format!(
                "its index is {}, expected 1 to {MOST_GUESTS}",
                self.index
            )));
        }
        if self.network.is_none() && !self.mounts.is_empty() {
            return Err(wrong(
                "it has mounts but no network: call net::enter_namespace first".into(),
            ));
        }
        Ok(())
    }
}

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
}

/// The console as a terminal: raw bytes both ways.
pub struct Terminal {
    /// What the guest shows. A reader that is too slow misses some.
    pub output: broadcast::Receiver<Vec<u8>>,
    /// What is typed.
    pub input: mpsc::Sender<Vec<u8>>,
}

/// A machine that was switched on; dropping it switches it off.
struct Launched {
    name: String,
    wire: Arc<Wire>,
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.wire.kill_and_wait();
    }
}

impl Guest {
    /// Boots a guest and waits until it is ready. Needs a runtime; what is not
    /// in the cache yet (the initramfs, the KVM verdict) is made.
    pub async fn boot(config: GuestConfig, cache: &Cache) -> Result<Self> {
        config.check()?;
        let engine = accel::choose(&config, cache).await?;
        let launched = launch(&config, cache, engine).await?;
        let deadline = config.boot_deadline;
        let boot = async {
            let agent = launched.greeting().await?;
            launched.set_up(&config).await?;
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
            address: guest_address(config.index),
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
    pub async fn kill(self) -> Result<()> {
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

impl Launched {
    /// Waits for the agent's greeting. The caller keeps the deadline.
    async fn greeting(&self) -> Result<Duration> {
        let mut life = self.wire.life.subscribe();
        let life = life.wait_for(|l| *l != Life::Booting).await.map(|l| l.clone());
        match life {
            Ok(Life::Greeted {
                version: VERSION,
                at,
                boot,
            }) => {
                tracing::debug!("guest {}: greeted after {boot:?} of its own time", self.name);
                Ok(at.saturating_duration_since(self.wire.power_on))
            }
            Ok(Life::Greeted { version, .. }) => {
                let problem = format!(
                    "its agent speaks version {version}, we speak {VERSION}: is GuestConfig::agent stale?"
                );
                Err(self.failed(problem).await)
            }
            Ok(Life::Ended(how)) => Err(self.error(how)),
            _ => Err(self.error("its tasks ended".into())),
        }
    }

    async fn set_up(&self, config: &GuestConfig) -> Result<()> {
        let left = config.boot_deadline.saturating_sub(self.wire.power_on.elapsed());
        // The guest gives up a little before us: its error says more.
        let inner = left
            .saturating_sub(Duration::from_millis(500))
            .max(Duration::from_millis(100));
        let addresses = || Addresses {
            guest: guest_address(config.index),
            prefix: PREFIX,
            server: SERVER,
        };
        let setup = Setup {
            hostname: config.name.clone(),
            network: config.network.map(|_| addresses()),
            fixture: config.fixture,
            nlm_timeout: config.nlm_timeout,
            mounts: config.mounts.clone(),
            deadline_ms: u64::try_from(inner.as_millis()).unwrap_or(u64::MAX),
        };
        match self.wire.call(Request::Setup(setup), left).await {
            Ok(Answer::Done) => Ok(()),
            Ok(Answer::Error(problem)) => Err(self.failed(problem).await),
            Ok(other) => Err(self.failed(format!("an odd answer: {other:?}")).await),
            Err(NoAnswer::Ended(how)) => Err(self.error(how)),
            Err(NoAnswer::Deadline) => Err(self
                .failed(format!("not ready within {:?}", config.boot_deadline))
                .await),
        }
    }

    /// When the last export was mounted.
    fn last_mount(&self) -> Option<Duration> {
        let mut events = self.wire.events.reader();
        let all = std::iter::from_fn(|| events.try_recv());
        let last = all.filter(|e| matches!(e.kind, EventKind::Mounted(_))).last()?;
        Some(last.at.saturating_duration_since(self.wire.power_on))
    }

    /// Ends the machine and makes the error, with everything on its console.
    async fn failed(&self, problem: String) -> Error {
        self.wire.kill();
        let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, self.wire.ended()).await;
        self.error(problem)
    }

    fn error(&self, problem: String) -> Error {
        Error::Boot {
            guest: self.name.clone(),
            problem,
            console: self.wire.tail(),
        }
    }
}

/// Switches a machine on.
async fn launch(config: &GuestConfig, cache: &Cache, engine: Engine) -> Result<Launched> {
    let (kernel, initramfs) = prepare(config, cache).await?;
    let console_log = config.console_log.as_deref().map(create).transpose()?;
    let network = match config.network {
        Some(proof) => Some((Tap::open(proof, config.index)?.into_fd(), config.index)),
        None => None,
    };
    let machine = Machine {
        engine,
        memory_mib: config.memory_mib,
        kernel,
        initramfs,
        append: config.kernel_args.clone(),
        network,
    };
    let power_on = Instant::now();
    let running = qemu::start(&config.name, machine)?;
    let wire = Wire::connect(power_on, running, console_log).context(|| "connecting to QEMU".into())?;
    Ok(Launched {
        name: config.name.clone(),
        wire,
    })
}

/// Unpacks the kernel and builds the initramfs, unless the cache has them. That
/// may take a second, so it is done off the runtime's threads.
async fn prepare(config: &GuestConfig, cache: &Cache) -> Result<(PathBuf, PathBuf)> {
    let (cache, kernel, userland) = (cache.clone(), config.kernel.clone(), config.userland.clone());
    let agent = match &config.agent {
        Some(path) => path.clone(),
        None => std::env::current_exe().context(|| "finding our own executable".into())?,
    };
    let work = move || {
        let image = vmlinux::bootable(&cache, &kernel);
        Ok((image, initramfs::build(&cache, &kernel, &userland, &agent)?))
    };
    let built = tokio::task::spawn_blocking(work).await;
    built.map_err(|e| Error::Malformed {
        what: "preparing a boot".into(),
        problem: e.to_string(),
    })?
}

fn create(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(|| format!("creating {}", parent.display()))?;
    }
    File::create(path).context(|| format!("creating the console log {}", path.display()))
}

/// Boots to the agent's greeting and ends the machine: does this engine work?
pub(crate) async fn try_boot(config: &GuestConfig, cache: &Cache, engine: Engine) -> Result<Duration> {
    let launched = launch(config, cache, engine).await?;
    let greeting = tokio::time::timeout(config.boot_deadline, launched.greeting()).await;
    match greeting {
        Ok(Ok(time)) => {
            launched.wire.kill();
            launched.wire.ended().await;
            Ok(time)
        }
        Ok(Err(e)) => Err(e),
        Err(_) => Err(launched
            .failed(format!("no sign of life within {:?}", config.boot_deadline))
            .await),
    }
}
