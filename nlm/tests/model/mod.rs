//! The lock service against a model that is plainly right: an owner for each byte of a small file, and a
//! list of those who wait.
//!
//! - [`step`]: what can happen, decoded from any bytes, so that a property test and a fuzz target play the same
//!   game, and shown as a line, so that a person can read what went wrong;
//! - [`bytes`]: the model;
//! - [`pair`]: service and model side by side, compared after every step.
//!
//! Two crates use these files: `nlm/tests/state_machine.rs`, and the library of `tests`, for the fuzz target
//! `lock_service`. Both call this crate `nlm`.

pub mod bytes;
pub mod pair;
pub mod step;
