//! nfslab: an NFSv3 server made to be tested against, with real kernels as its clients.
//!
//! - [`server`]: NFS, MOUNT, portmap, NLM and NSM in one process;
//! - [`control`]: the HTTP API on a running server;
//! - [`scenario`]: server, kernels, faults and checks from a file;
//! - [`events`], [`journal`], [`capture`], [`clock`], [`metrics`]: what happened, what went over the wire, when, and how much;
//! - [`cli`]: the commands.
//!
//! `ARCHITECTURE.md` has the picture.

pub mod capture;
pub mod cli;
pub mod clock;
pub mod control;
pub mod events;
pub mod journal;
pub mod metrics;
pub mod scenario;
pub mod server;
