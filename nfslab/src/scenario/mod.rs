//! Scenarios: a server, real kernels as its clients, faults, checks, and a verdict.
//!
//! - [`file`]: what a scenario file may say;
//! - [`run`](mod@run): runs one; `stage` has its steps;
//! - [`timeline`]: prints server and clients side by side, `tell` and `digest` fill it, in few words;
//! - [`report`]: the verdict, and its forms for machines.

mod digest;
pub mod file;
pub mod report;
pub mod run;
mod stage;
mod tell;
pub mod timeline;
