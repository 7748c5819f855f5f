//! A userspace NFSv3 client: RPC, MOUNT, NFS, NLM and NSM of its own, mounted through FUSE.
//!
//! From the wire up, each to be read on its own:
//!
//! - [`options`]: what `-o` may say, with the names of nfs(5);
//! - [`mod@line`]: calls to one program, pipelined, repeated by the same xid, over connections that come and go;
//! - [`target`]: from `HOST:/EXPORT` to a file handle (port mapper, MOUNT);
//! - [`nfs`]: the procedures of NFSv3; [`data`]: what was written and is not safe yet;
//! - [`host`]: what a server calls (our port mapper, lock manager, status monitor); [`locks`]: carries out what
//!   `nlm::client`, which is pure, wants done;
//! - [`inodes`] and [`client`]: files by the kernel's numbers, and the operations on them;
//! - [`dev`]: the FUSE device: what goes to `fuser`, and what it cannot do (interrupts, flock, data without a copy);
//! - [`fs`]: answers both; [`mount`]: all of it on a directory.
//!
//! ```text
//! kernel ── dev ─┬─ fuser ── fs ── client ── nfs ───── line ── server
//!                └─ data, locks ──┘   └─ data ──┘       │
//!                                 locks ── nlm::client ─┘  host ◄── callbacks
//! ```

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
