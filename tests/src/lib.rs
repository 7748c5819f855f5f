//! What the tests of the whole share. The tests themselves are in `tests/tests`.
//!
//! - [`wire`]: connections to a server on which any bytes can be sent, with a deadline on every wait;
//! - [`call`]: RPC calls, right ones and wrong ones, built word by word;
//! - [`programs`]: every procedure that nfslab serves, with arguments as an example;
//! - [`lock_model`]: the lock service beside its model, shared with the tests of `nlm`;
//! - [`transcript`]: reads `tests/transcripts`, conversations with a lock server;
//! - [`fuzz`]: what a fuzz target does with its input; `fuzz/` and `tests/tests/corpus.rs` call it.
//!
//! Nothing here is async: a test that attacks a server does so from a thread of its own, so that a server
//! that hangs cannot keep the test from noticing.

pub mod call;
pub mod fuzz;
#[path = "../../nlm/tests/model/mod.rs"]
pub mod lock_model;
pub mod programs;
pub mod transcript;
pub mod wire;

use std::path::PathBuf;

/// The `nfslab` binary of the profile that the test was built in.
///
/// # Panics
/// If it has not been built: cargo builds a package's binaries for the tests of that package only.
pub fn nfslab_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // target/<profile>/deps/<test>
    let beside = test
        .parent()
        .and_then(|deps| deps.parent())
        .map(|profile| profile.join("nfslab"));
    match beside {
        Some(binary) if binary.is_file() => binary,
        looked => {
            panic!("no nfslab binary at {looked:?}: run `cargo build` first, as `make test` does")
        }
    }
}
