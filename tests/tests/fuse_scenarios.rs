//! The scenarios that real kernels are put through, on the FUSE client: the same files, steps and scripts. Needs root and
//! /dev/fuse.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

#[path = "common/runs.rs"]
mod runs;

use nfslab_tests::nfslab_binary;
use runs::{run_all, scenarios};
use std::path::Path;
use std::process::Command;

const ON_FUSE: [&str; 2] = ["--client", "fuse"];

/// Those that say why they are about the kernel's client are left out (`kernel_only`).
fn on_fuse(name: &str) -> bool {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let text = std::fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
    let scenario: toml::Table = text.parse().unwrap();
    !scenario.contains_key("kernel_only")
}

#[test]
fn the_fuse_client_sees_what_a_kernel_sees() {
    let mut names = scenarios();
    names.retain(|name| on_fuse(name));
    assert!(names.len() >= 30, "only {} scenarios run on FUSE", names.len());
    // Hardly anything but waiting.
    run_all(names, &ON_FUSE, 8);
}

#[test]
fn a_scenario_about_the_kernel_is_refused_with_the_reason() {
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/vfs-out-of-sync.toml");
    let output = Command::new(nfslab_binary())
        .arg("run")
        .args(ON_FUSE)
        .arg(scenario)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("no second lock table in the kernel"), "{said}");
}
