//! nfslab: an NFSv3 server made to be tested against, with real kernels as its clients.
//!
//! - [`server`]: NFS, MOUNT, portmap, NLM and NSM in one process;
//! - [`control`]: the HTTP API on a running server;
//! - [`scenario`]: server, kernels, faults and checks from a file;
//! - [`events`], [`journal`], [`capture`], [`clock`], [`metrics`]: what happened, what was decided, what went over the
//!   wire, when, and how much;
//! - [`lab`]: the server inside anybody's test;
//! - [`cli`]: the commands.
//!
//! `ARCHITECTURE.md` has the picture.
//!
//! # In a test
//!
//! A [`Lab`](lab::Lab) has free ports, no files, and a clock that stands still until the test moves it. Here a client asks
//! for a lock while statd is absent; lockd waits for statd for a minute, and its only thread with it, so that even
//! NULL is not answered.
//!
//! ```
//! use nfslab::lab::{Condition, Lab, Service};
//! use nfslab::proto::nlm::{LockArgs, Nlm4Lock, NlmProc, PROGRAM, V4};
//! use nfslab::rpc::client::Target;
//! use std::time::Duration;
//!
//! # #[tokio::main]
//! # async fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().virtual_time().start().await?;
//! lab.set_service(Service::Statd, Condition::Absent).await?;
//!
//! let file = lab.make_file("/lab/session")?;
//! let client = lab.connect(Service::Lockd, [127, 0, 0, 2]).await?;
//! let asked = tokio::spawn(async move {
//!     let alock = Nlm4Lock {
//!         caller_name: "web1".into(), fh: file[..].into(), oh: "1".into(), svid: 1, l_offset: 0, l_len: 0,
//!     };
//!     let args = LockArgs { cookie: "c".into(), block: false, exclusive: true, alock, reclaim: false, state: 1 };
//!     client.call(Target::new(PROGRAM, V4, NlmProc::NLM_LOCK.0), &args, Duration::from_secs(10)).await
//! });
//! lab.wait_for(|event| event.kind() == "lockd/upcall-started").await?;
//! assert!(!asked.is_finished());
//!
//! lab.advance(Duration::from_secs(62)).await; // milliseconds
//! asked.await??;
//! assert_eq!(lab.locks().total, 1);
//! lab.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Faults on single calls are rules; a gate holds a call until the test has looked at it. Here the second LOCK is held
//! while its client's rival takes the lock:
//!
//! ```
//! use nfslab::lab::{Lab, Service, Verdict};
//! # use nfslab::proto::nlm::{LockArgs, Nlm4Lock, NlmProc, PROGRAM, V4};
//! # use nfslab::rpc::client::Target;
//! # use std::{sync::Arc, time::Duration};
//!
//! # #[tokio::main]
//! # async fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().rule("late: nlm.lock owner=1 count=1 -> hold g1").start().await?;
//! let file = lab.make_file("/lab/session")?;
//! let client = Arc::new(lab.connect(Service::Lockd, [127, 0, 0, 2]).await?);
//! let lock = move |svid| {
//!     let (client, file) = (client.clone(), file.clone());
//!     # async move {
//!     # let alock = Nlm4Lock {
//!     #     caller_name: "web1".into(), fh: file[..].into(), oh: "1".into(), svid, l_offset: 0, l_len: 0,
//!     # };
//!     # let args = LockArgs { cookie: "c".into(), block: false, exclusive: true, alock, reclaim: false, state: 1 };
//!     # client.call(Target::new(PROGRAM, V4, NlmProc::NLM_LOCK.0), &args, Duration::from_secs(10)).await
//!     # }
//!     // … a LOCK for this owner
//! };
//! let first = tokio::spawn(lock(1));
//! let held = lab.gate("g1").arrived(1).await?;
//! assert_eq!(held[0].call, "nlm.lock of web1 about /lab/session for owner 1");
//!
//! lock(2).await?; // overtakes it
//! lab.gate("g1").release(Verdict::Go);
//! first.await??; // is denied: the lock is its rival's
//! assert_eq!(lab.locks().held[0].svid, 2);
//!
//! lab.expect(&["2 of nlm.lock", "never nlm.cancel"]).await?;
//! lab.finish().await // fails if a rule was never done, or a call was left at a gate
//! # }
//! ```

pub mod capture;
pub mod cli;
pub mod clock;
pub mod control;
pub mod events;
pub mod journal;
pub mod lab;
mod lanes;
pub mod metrics;
pub mod scenario;
pub mod server;

pub use {faults, proto, rpc};
