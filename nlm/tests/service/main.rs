//! The lock service in virtual time: nothing here waits for a clock.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod callbacks;
mod lab;
mod model;
mod procedures;
mod sharing;
mod stall;
