//! How a guest shall be.

use std::path::PathBuf;
use std::time::Duration;

use crate::accel::Accel;
use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::net::{MOST_GUESTS, Namespace, PREFIX, SERVER, guest_address};
use crate::protocol::{Addresses, Fixture, Mount, Setup};
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
        check(&self.name, self.index)?;
        if self.network.is_none() && !self.mounts.is_empty() {
            return Err(wrong(
                &self.name,
                "it has mounts but no network: call net::enter_namespace first",
            ));
        }
        Ok(())
    }

    pub(super) fn setup(&self) -> Setup {
        Setup {
            hostname: self.name.clone(),
            network: self.network.map(|_| addresses(self.index)),
            fixture: self.fixture,
            nlm_timeout: self.nlm_timeout,
            mounts: self.mounts.clone(),
            deadline_ms: 0,
        }
    }
}

/// A client without a machine: processes of this kernel, in namespaces of their own, on a mount of the FUSE client.
#[derive(Clone, Debug)]
pub struct FuseConfig {
    /// Its host name, which NLM sends as `caller_name`.
    pub name: String,
    /// Which client it is, from 1: it gets the address 10.77.0.(index+1).
    pub index: u8,
    /// Where that address is.
    pub network: Namespace,
    /// What to mount before it counts as ready; the options are those of `nfslab mount`.
    pub mounts: Vec<Mount>,
    /// Seconds for the option `nlmtimeout`.
    pub nlm_timeout: Option<u32>,
    /// How long all of that may take.
    pub deadline: Duration,
}

impl FuseConfig {
    pub(super) fn check(&self) -> Result<()> {
        check(&self.name, self.index)
    }

    pub(super) fn setup(&self) -> Setup {
        Setup {
            hostname: self.name.clone(),
            network: Some(addresses(self.index)),
            fixture: Fixture::default(),
            nlm_timeout: self.nlm_timeout,
            mounts: self.mounts.clone(),
            deadline_ms: 0,
        }
    }
}

fn addresses(index: u8) -> Addresses {
    Addresses {
        guest: guest_address(index),
        prefix: PREFIX,
        server: SERVER,
    }
}

fn wrong(name: &str, problem: impl Into<String>) -> Error {
    Error::Boot {
        guest: name.to_owned(),
        problem: problem.into(),
        console: Vec::new(),
    }
}

fn check(name: &str, index: u8) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) {
        return Err(wrong(
            name,
            "its name must be 1 to 63 letters, digits and hyphens",
        ));
    }
    if !(1..=MOST_GUESTS).contains(&index) {
        return Err(wrong(
            name,
            format!("its index is {index}, expected 1 to {MOST_GUESTS}"),
        ));
    }
    Ok(())
}
