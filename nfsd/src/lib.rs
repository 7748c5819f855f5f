//! The file service: MOUNT v3 and NFSv3 (RFC 1813) over a store.
//!
//! A call comes in as a procedure number and bytes, with a [`Cx`] that says who asks, from where and what
//! time it is; a reply goes out into a [`Writer`](rpc::xdr::Writer). Nothing here opens a socket, reads a
//! clock or knows of a fault.
//!
//! ```text
//! Nfs3::call ── decode ── Exports: handle → export, file key; squash ── Vfs (memfs, dirfs) ── encode
//! Mount::call ─ decode ── Exports: path   → export, file key ───────── Vfs::lookup ───────── encode
//! ```
//!
//! Where to look:
//! - [`nfs3`]: one function per procedure, one file per group of procedures;
//! - [`mount`]: the six procedures of MOUNT and the mount list;
//! - [`export`]: what is exported, to whom, as whom; how a file handle leads to a file;
//! - [`handle`]: file handles that cannot be guessed or forged;
//! - [`perm`]: every rule about who may do what, in one place for all stores;
//! - [`vfs`]: the trait a store implements, and the names' rules that are the same for all;
//! - [`memfs`]: the in-memory store;
//! - [`dirfs`]: the store on a real directory;
//! - [`tree`]: files by path, for seeding a store and looking into it.
//!
//! # Invariants
//!
//! - A store sees only handles that [`handle`] has verified, callers that [`export`] has squashed, and names
//!   that [`vfs::check_name`] lets pass.
//! - Weak cache consistency data on success is taken under the same lock as the change (RFC 1813, 2.6). On
//!   failure only the attributes afterwards are sent: nothing changed, so there is nothing to bracket.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod cx;
pub mod dirfs;
pub mod export;
pub mod handle;
pub mod memfs;
pub mod mount;
pub mod nfs3;
pub mod perm;
pub mod tree;
pub mod vfs;

pub use cx::{CallError, Caller, Cx, TCP_PAYLOAD, UDP_PAYLOAD};
pub use dirfs::{DirError, DirFs};
pub use export::{Export, ExportError, ExportOptions, Exports, Lockable, Network, Squash};
pub use memfs::{MemConfig, MemFs};
pub use mount::Mount;
pub use nfs3::Nfs3;
pub use vfs::Vfs;
