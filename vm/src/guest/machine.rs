//! From a configuration to a machine that is set up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::SHUTDOWN_DEADLINE;
use super::config::GuestConfig;
use super::events::EventKind;
use super::wire::{Life, NoAnswer, Wire};
use crate::agent::ENTER;
use crate::cache::Cache;
use crate::child;
use crate::error::{Context, Error, Result};
use crate::initramfs;
use crate::net::Tap;
use crate::protocol::{Answer, Request, Setup, VERSION};
use crate::qemu::{self, Engine, Machine};
use crate::vmlinux;

/// A machine that was switched on; dropping it switches it off.
pub(super) struct Launched {
    pub(super) name: String,
    pub(super) wire: Arc<Wire>,
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.wire.kill_and_wait();
    }
}

impl Launched {
    /// Waits for the agent's greeting. The caller keeps the deadline.
    pub(super) async fn greeting(&self) -> Result<Duration> {
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

    /// Has the agent do what `setup` says, `within` so long from power-on.
    pub(super) async fn set_up(&self, setup: Setup, within: Duration) -> Result<()> {
        let left = within.saturating_sub(self.wire.power_on.elapsed());
        // The guest gives up a little before us: its error says more.
        let inner = left
            .saturating_sub(Duration::from_millis(500))
            .max(Duration::from_millis(100));
        let setup = Setup {
            deadline_ms: u64::try_from(inner.as_millis()).unwrap_or(u64::MAX),
            ..setup
        };
        match self.wire.call(Request::Setup(setup), left).await {
            Ok(Answer::Done) => Ok(()),
            Ok(Answer::Error(problem)) => Err(self.failed(problem).await),
            Ok(other) => Err(self.failed(format!("an odd answer: {other:?}")).await),
            Err(NoAnswer::Ended(how)) => Err(self.error(how)),
            Err(NoAnswer::Deadline) => Err(self.failed(format!("not ready within {within:?}")).await),
        }
    }

    /// When the last export was mounted.
    pub(super) fn last_mount(&self) -> Option<Duration> {
        let mut events = self.wire.events.reader();
        let all = std::iter::from_fn(|| events.try_recv());
        let last = all.filter(|e| matches!(e.kind, EventKind::Mounted(_))).last()?;
        Some(last.at.saturating_duration_since(self.wire.power_on))
    }

    /// Ends the machine and makes the error, with everything on its console.
    pub(super) async fn failed(&self, problem: String) -> Error {
        self.wire.kill();
        let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, self.wire.ended()).await;
        self.error(problem)
    }

    pub(super) fn error(&self, problem: String) -> Error {
        Error::Boot {
            guest: self.name.clone(),
            problem,
            console: self.wire.tail(),
        }
    }
}

/// Switches a machine on.
pub(super) async fn launch(config: &GuestConfig, cache: &Cache, engine: Engine) -> Result<Launched> {
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

/// Starts a client that needs no machine: our own executable, in namespaces.
pub(super) fn launch_here(name: &str) -> Result<Launched> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.env(ENTER, "1");
    let power_on = Instant::now();
    // Its console stays silent: what there is to say goes over the link, or to its standard error.
    let running = child::start(name, "the client", command, |_| Ok(Vec::new()))?;
    let wire = Wire::connect(power_on, running, None).context(|| "connecting to a client".into())?;
    Ok(Launched {
        name: name.to_owned(),
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
