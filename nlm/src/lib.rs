//! nlm (head to be written with the service)

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod arena;
pub mod range;
pub mod short;
pub mod table;

/// Time since the server started.
pub type Now = std::time::Duration;
