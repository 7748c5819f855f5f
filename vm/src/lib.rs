//! Boots a real Linux kernel under QEMU as an NFS client, or with further
//! packages and modules as a server, and runs things in it.
//!
//! How it fits together:
//!
//! - [`Cache`] keeps everything that is fetched or built;
//! - [`kernels`] and [`userland`] bring a kernel and the guest's programs from
//!   Debian's packages, without installing any;
//! - [`initramfs`] packs them with our own executable as process 1;
//! - that executable, in the guest, is the [`agent`]: it mounts, runs what it is
//!   told, and sends back output, kernel messages and the state of processes;
//! - a client that wants no kernel of its own ([`FuseConfig`]) has the same agent
//!   as process 1 of namespaces, and our FUSE client for a mount;
//! - [`Guest`] is the host's side of it, [`net`] the network between the two;
//! - [`accel`] finds out whether KVM works by booting with it, [`doctor`] what
//!   else this machine lacks.
//!
//! Invariants: nothing persists outside the cache once we are gone (TAP devices
//! and the namespace vanish with the process, QEMU is told to die with us);
//! every wait has a deadline; the agent never touches an NFS mount itself, so a
//! hung server hangs the guest's processes and not our view of them.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod accel;
pub mod agent;
mod apt;
mod cache;
mod child;
pub mod doctor;
mod elf;
mod error;
mod guest;
mod ifconfig;
mod image;
pub mod initramfs;
pub mod kernels;
mod modules;
pub mod net;
mod progress;
mod protocol;
mod qemu;
pub mod userland;
mod vmlinux;

pub use accel::Accel;
pub use apt::Mirror;
pub use cache::Cache;
pub use child::dies_with_us;
pub use error::{Error, Result};
pub use guest::{Booted, EventKind, Events, FuseConfig, Guest, GuestConfig, GuestEvent, Terminal};
pub use kernels::{Kernel, Series};
pub use progress::{Progress, Silent, Stderr};
pub use protocol::{Fixture, Mount, Output, Process, Status, Stream};
pub use userland::{ExtraPackage, Extras, HostFile, Userland};
