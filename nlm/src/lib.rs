//! The lock manager of an NFS server, and that of a client, without a socket and without a clock.
//!
//! Everything here is a function of what was put in: calls, the time (an argument called `now`), and the
//! results of what it wanted done. What it wants done comes out as a value ([`effect::Effects`]). So a test
//! can play a minute of a stalled lock manager in a microsecond, twice, with the same outcome; and so
//! the server can hold, drop or alter anything that goes in or out without this crate knowing.
//!
//! From the bottom up, each to be read on its own:
//!
//! - [`range`]: which bytes, and how;
//! - [`table`]: who holds what (POSIX lock semantics, logarithmic in everything);
//! - [`waiters`]: who waits for what, and `deadlock`: who would wait for ever;
//! - [`shares`]: who has a file open, and what that denies to others (DOS share modes);
//! - [`hosts`] and `owners`: what makes two requests the same owner's;
//! - [`upcall`]: what happens while the status monitor is asked;
//! - [`service`]: the lock manager itself, with its one worker;
//! - [`client`]: the other side: what a client's lock manager asks of such a service;
//! - [`personality`]: where servers differ; [`limits`]: how much of everything.
//!
//! Invariants: no `Instant`, no sleep, no random number, no thread, no map whose iteration order is random
//! (`clippy.toml` says so); nothing grows without a limit named in [`limits`]; the crate does not know the
//! status monitor (`nsm`): the driver carries "monitor this peer" and "this peer rebooted" between the two.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod arena;
pub mod client;
mod components;
mod deadlock;
pub mod effect;
pub mod hosts;
pub mod limits;
mod owners;
pub mod personality;
pub mod range;
pub mod request;
pub mod service;
pub mod shares;
pub mod short;
pub mod table;
pub mod upcall;
pub mod waiters;

/// Time since the server started.
pub type Now = std::time::Duration;
