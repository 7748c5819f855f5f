//! Scenarios, run by the command that a user would type: each in a process of its own, in a process group of its own, so
//! that the test can see that nothing is left when it ends.

#![allow(dead_code, reason = "each test uses a part of it")]

use nfslab_tests::nfslab_binary;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A scenario that was run.
pub struct Run {
    pub folder: tempfile::TempDir,
    pub status: ExitStatus,
    pub group: u32,
}

impl Run {
    /// By name, with further arguments of `nfslab run`.
    pub fn of(scenario: &str, more: &[&str]) -> Run {
        Run::with(scenario, more, |_| ())
    }

    /// With what it prints in a file.
    pub fn quiet(scenario: &str, more: &[&str], output: &Path) -> Run {
        let file = std::fs::File::create(output).unwrap();
        Run::with(scenario, more, |command| {
            command.stdout(file.try_clone().unwrap()).stderr(file);
        })
    }

    fn with(scenario: &str, more: &[&str], prepare: impl FnOnce(&mut Command)) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = Command::new(nfslab_binary());
        command
            .arg("run")
            .arg(root.join(format!("scenarios/{scenario}.toml")))
            .arg("--pcap")
            .arg(folder.path().join("all.pcapng"))
            .arg("--report")
            .arg(format!("json={}", folder.path().join("report.json").display()))
            .args(more)
            .process_group(0);
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let group = child.id();
        let status = child.wait().unwrap();
        Run {
            folder,
            status,
            group,
        }
    }

    /// A file that it wrote.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its report.
    pub fn verdict(&self) -> Value {
        let text = std::fs::read(self.file("report.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()[0].take()
    }

    /// Passed, with a capture that an independent dissector understands, and nothing left behind.
    pub fn check(&self) {
        self.check_without_locks();
        assert_ne!(
            tshark(&self.file("all.pcapng"), "nlm"),
            "",
            "the capture has no NLM in it"
        );
    }

    /// As [`check`](Self::check), if nobody takes a lock.
    pub fn check_without_locks(&self) {
        assert!(self.status.success(), "the scenario failed: {}", self.status);
        assert_eq!(self.verdict()["passed"], true);
        let complaints = tshark(
            &self.file("all.pcapng"),
            "_ws.malformed || _ws.expert.severity == \"Error\"",
        );
        assert_eq!(complaints, "", "tshark finds malformed packets");
        self.check_nothing_left();
    }

    /// No process is left.
    pub fn check_nothing_left(&self) {
        // QEMU is told to die with its parent; give the kernel a moment to do it.
        let deadline = Instant::now() + Duration::from_secs(5);
        while group_exists(self.group) {
            assert!(
                Instant::now() < deadline,
                "processes of group {} are left",
                self.group
            );
            std::thread::yield_now();
        }
    }
}

fn group_exists(group: u32) -> bool {
    let stat = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()
    };
    std::fs::read_dir("/proc").unwrap().filter_map(stat).any(|stat| {
        // pid (comm) state ppid pgrp …
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        fields.first() != Some(&"Z") && fields.get(2) == Some(&group.to_string().as_str())
    })
}

/// What tshark finds in a capture.
pub fn tshark(capture: &Path, filter: &str) -> String {
    // A client's privileged port may be the well-known one of another protocol: 862 is TWAMP's.
    let output = Command::new("tshark")
        .args(["-o", "tcp.try_heuristic_first:TRUE"])
        .args(["-o", "udp.try_heuristic_first:TRUE"])
        .arg("-r")
        .arg(capture)
        .args(["-Y", filter])
        .output();
    let output = output.expect("tshark is missing: `make deps` installs it");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The names of all scenarios.
pub fn scenarios() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (path.extension()? == "toml").then_some(name)
    };
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().filter_map(name).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// Runs several at a time, since most of their time is waiting, and checks each. What a failed one has printed is shown.
pub fn run_all(names: Vec<String>, more: &[&str], at_once: usize) {
    let (todo, failed) = (Mutex::new(names.into_iter()), Mutex::new(Vec::new()));
    let next = || todo.lock().unwrap().next();
    let work = || {
        while let Some(name) = next() {
            let started = Instant::now();
            let output = tempfile::NamedTempFile::new().unwrap();
            let run = Run::quiet(&name, more, output.path());
            let seconds = started.elapsed().as_secs();
            let passed = std::panic::catch_unwind(|| run.check_without_locks()).is_ok();
            println!("{} {name}, {seconds} s", if passed { "ok    " } else { "FAILED" });
            if !passed {
                println!("{}", std::fs::read_to_string(output.path()).unwrap());
                failed.lock().unwrap().push(name);
            }
        }
    };
    std::thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}
