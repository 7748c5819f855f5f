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
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    let runs = names.into_iter().map(|name| (name, ON_FUSE.to_vec()));
    // Hardly anything but waiting.
    run_all(runs.collect(), 8);
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

/// How many processes have this in their environment, which those that they start inherit.
fn processes_with(mark: &str) -> usize {
    let marked = |entry: std::io::Result<std::fs::DirEntry>| {
        let environment = std::fs::read(entry.ok()?.path().join("environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        variables
            .any(|variable| variable == mark.as_bytes())
            .then_some(())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(marked).count()
}

/// Its clients are in namespaces of processes of their own, in the midst of a lock that is never answered.
#[test]
fn an_interrupted_run_leaves_no_process_and_no_mount() {
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/lockd-hung.toml");
    for (signal, code) in [("-INT", Some(99)), ("-TERM", Some(99)), ("-KILL", None)] {
        let mark = format!("NFSLAB_TEST={signal}{}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut run = Command::new(nfslab_binary())
            .arg("run")
            .args(ON_FUSE)
            .arg(&scenario)
            .env(name, value)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(run.stdout.take().unwrap()).lines();
        assert!(
            told.any(|line| line.unwrap().contains("3 processes are in state D")),
            "they hang"
        );
        assert!(processes_with(&mark) > 4, "the mark is inherited");
        let killed = Command::new("kill")
            .args([signal, &run.id().to_string()])
            .status();
        assert!(killed.unwrap().success());
        assert_eq!(run.wait().unwrap().code(), code);
        // The kernel ends a namespace's processes one after the other.
        let deadline = Instant::now() + Duration::from_secs(10);
        while processes_with(&mark) > 0 {
            assert!(Instant::now() < deadline, "{signal}: a process is left");
            std::thread::yield_now();
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains("10.77.0.1:/lab"), "{mounts}");
}
