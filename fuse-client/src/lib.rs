//! A userspace NFSv3 client: RPC, MOUNT, NFS, NLM and NSM of its own, mounted through FUSE.
//!
//! From the wire up, each to be read on its own:
//!
//! - [`options`]: what `-o` may say, with the names of nfs(5);
//! - [`line`]: calls to one program, pipelined, repeated by the same xid, over connections that come and go;
//! - [`dev`]: the FUSE device: what goes to `fuser`, and what it cannot do (interrupts, flock, data without a copy).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod client;
pub mod data;
pub mod dev;
pub mod fs;
pub mod host;
pub mod inodes;
pub mod line;
pub mod locks;
pub mod mount;
pub mod nfs;
pub mod options;
pub mod target;
