//! The lock service in virtual time: nothing here waits for a clock.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod callbacks;
mod deadlocks;
mod graph;
mod lab;
mod model;
mod procedures;
mod queue;
mod reboots;
mod sharing;
mod stall;
mod table;
