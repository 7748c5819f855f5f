//! How a guest shall be.

use std::path::PathBuf;
use std::time::Duration;

use crate::accel::Accel;
use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::net::{MOST_GUESTS, Namespace};
use crate::protocol::{Fixture, Mount};
use crate::userland::Userland;

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
    pub(super) fn check(&self) -> Result<()> {
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
