//! `nfslab shell`: a server, a guest with its export mounted, and a terminal in it.

use super::run::prepare;
use super::{Done, Exit, OrExit, runtime};
use crate::control::client::Endpoint;
use crate::server::{Config, ControlAt, Server};
use anyhow::{Context, Result, anyhow};
use clap::Args;
use nix::sys::termios::{self, SetArg, Termios};
use std::io::{Read, Write};
use tokio::sync::mpsc;
use vm::net::{Namespace, SERVER};
use vm::{Cache, EventKind, Extras, Guest, GuestConfig, Mount, Series};

/// The label that the guest's shell has among its processes.
const SHELL: &str = "shell";

/// Flags of `nfslab shell`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nfslab shell\n  nfslab shell --kernel 6.12\n\n\
                        The export is mounted on /mnt; `exit` ends the guest and the server. A file in the \
                        guest can be locked with `flock -x /mnt/f sleep 60 &`. From another terminal, \
                        NFSLAB_CONTROL=unix:PATH (printed at the start) reaches the server.")]
pub struct Shell {
    /// The guest's kernel.
    #[arg(long, value_name = "SERIES", default_value = "6.1")]
    kernel: Series,
    /// Seconds for the guest's nlm_timeout: 3 makes its lockd complain after 18 s rather than 60.
    #[arg(long, value_name = "SECONDS")]
    nlm_timeout: Option<u32>,
    /// How the lock service behaves where servers differ.
    #[arg(long, value_name = "NAME", default_value = "linux-6.1")]
    personality: String,
}

impl Shell {
    pub fn main(self) -> Done {
        if !console::user_attended() {
            return Err(anyhow!(
                "shell needs a terminal; for scripts there is `nfslab run`"
            ))
            .or_exit(Exit::Usage);
        }
        let personality = nlm::personality::Personality::by_name(&self.personality)
            .ok_or_else(|| {
                anyhow!(
                    "no personality '{}': there are {}",
                    self.personality,
                    crate::server::personalities()
                )
            })
            .or_exit(Exit::Usage)?;
        let cache = Cache::open().or_exit(Exit::Broken)?;
        let (userland, mut kernels) =
            prepare(&cache, [self.kernel], &Extras::default()).or_exit(Exit::Skipped)?;
        let kernel = kernels.remove(&self.kernel.to_string());
        let kernel = kernel
            .ok_or_else(|| anyhow!("kernel {} is not fetched", self.kernel))
            .or_exit(Exit::Broken)?;
        let namespace = vm::net::enter_namespace().or_exit(Exit::Skipped)?;
        let mut guest = GuestConfig::new("lab", 1, kernel, userland);
        guest.nlm_timeout = self.nlm_timeout;
        let runtime = runtime()?;
        let done = runtime.block_on(session(&cache, namespace, guest, personality));
        // Reading the terminal cannot be interrupted; the process ends with it.
        runtime.shutdown_background();
        done.or_exit(Exit::Broken)?;
        Ok(Exit::Passed)
    }
}

async fn session(
    cache: &Cache,
    namespace: Namespace,
    mut guest: GuestConfig,
    personality: nlm::personality::Personality,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // The namespace hides TCP ports from other terminals; a socket in the file system it does not.
    let control = Endpoint::Unix(folder.path().join("control.sock"));
    let config = Config {
        bind: vec![SERVER.into()],
        control: ControlAt::At(control.clone()),
        personality,
        ..Config::default()
    };
    let server = Server::start(config).await?;
    guest.network = Some(namespace);
    guest.mounts = vec![Mount::v3(format!("{SERVER}:/lab"), "/mnt")];
    let guest = Guest::boot(guest, cache).await?;
    eprintln!("{SERVER}:/lab is mounted on /mnt; control the server with NFSLAB_CONTROL={control}\r");
    let outcome = attend(&guest).await;
    guest.shutdown().await?;
    server.stop().await;
    outcome
}

/// Joins our terminal to the guest's until its shell ends.
async fn attend(guest: &Guest) -> Result<()> {
    let (rows, columns) = console::Term::stdout().size();
    let mut terminal = guest.shell(rows, columns).await?;
    let _raw = Raw::enter()?;
    let (typed, mut keys) = mpsc::channel::<Vec<u8>>(16);
    std::thread::spawn(move || {
        let (mut stdin, mut bytes) = (std::io::stdin(), [0; 256]);
        while let Ok(n @ 1..) = stdin.read(&mut bytes) {
            if typed
                .blocking_send(bytes.get(..n).unwrap_or_default().to_vec())
                .is_err()
            {
                return;
            }
        }
    });
    let mut events = guest.events();
    loop {
        tokio::select! {
            shown = terminal.output.recv() => {
                use tokio::sync::broadcast::error::RecvError;
                match shown {
                    Ok(bytes) => {
                        let mut stdout = std::io::stdout();
                        stdout.write_all(&bytes)?;
                        stdout.flush()?;
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(()),
                }
            }
            Some(bytes) = keys.recv() => terminal.input.send(bytes).await.context("the guest is gone")?,
            event = events.recv() => match event.map(|event| event.kind) {
                Some(EventKind::Exit { label, .. }) if label == SHELL => return Ok(()),
                None => return Ok(()),
                _ => {}
            }
        }
    }
}

/// The terminal without line editing, put back when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Raw> {
        let before = termios::tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
