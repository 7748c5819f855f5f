//! Scenarios: a server, real kernels as its clients, faults, checks, and a verdict.
//!
//! - [`file`]: what a scenario file may say;
//! - [`run`](mod@run): runs one;
//! - [`timeline`]: prints server and clients side by side, `digest` what the server did in few words;
//! - [`report`]: the verdict, and its forms for machines.

mod digest;
pub mod file;
pub mod report;
pub mod run;
pub mod timeline;
