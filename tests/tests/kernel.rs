//! Scenarios on a real 6.1 kernel, by the command that a user would type.
//!
//! Each runs in a process of its own, in a process group of its own, so that the test can see that nothing is
//! left when it ends.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use nfslab_tests::nfslab_binary;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// From power-on to the mounted export, without KVM.
const BOOT_LIMIT_MS: f64 = 5000.0;

struct Run {
    folder: tempfile::TempDir,
    status: ExitStatus,
    group: u32,
}

impl Run {
    fn of(scenario: &str, more: &[&str]) -> Run {
        Run::with(scenario, more, |_| ())
    }

    /// With what it prints in a file.
    fn quiet(scenario: &str, output: &Path) -> Run {
        let file = std::fs::File::create(output).unwrap();
        Run::with(scenario, &[], |command| {
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

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn verdict(&self) -> Value {
        let text = std::fs::read(self.file("report.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()[0].take()
    }

    /// Passed, with a capture that an independent dissector understands, and nothing left behind.
    fn check(&self) {
        self.check_without_locks();
        assert_ne!(
            tshark(&self.file("all.pcapng"), "nlm"),
            "",
            "the capture has no NLM in it"
        );
    }

    /// As [`check`](Self::check), if nobody takes a lock.
    fn check_without_locks(&self) {
        assert!(self.status.success(), "the scenario failed: {}", self.status);
        assert_eq!(self.verdict()["passed"], true);
        let complaints = tshark(
            &self.file("all.pcapng"),
            "_ws.malformed || _ws.expert.severity == \"Error\"",
        );
        assert_eq!(complaints, "", "tshark finds malformed packets");
        self.check_nothing_left();
    }

    fn check_nothing_left(&self) {
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

fn tshark(capture: &Path, filter: &str) -> String {
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

#[test]
fn frozen_processes_are_frozen_explained_and_freed() {
    let run = Run::of("frozen-processes", &[]);
    run.check();
    // 8 LOCKs, each repeated while nobody answered.
    let calls = tshark(
        &run.file("all.pcapng"),
        "nlm.procedure_v4 == 2 && rpc.msgtyp == 0",
    );
    assert!(calls.lines().count() > 8, "no call was repeated: {calls}");
}

/// A busy machine may slow one run down; three in a row are the fault of the code.
const TRIES: usize = 3;

#[test]
fn healthy_locks_are_granted_at_once_and_a_boot_takes_less_than_five_seconds() {
    let (mut prompt, mut mounted) = (false, Vec::new());
    for _ in 0..TRIES {
        let run = Run::of("healthy-locks", &[]);
        run.check_nothing_left();
        // Its only figures are the 100 ms that a lock may take; it passes if they are kept.
        prompt |= run.status.success();
        mounted.push(run.verdict()["mounted_ms"][0].as_f64().unwrap());
        if prompt && mounted.iter().any(|ms| *ms < BOOT_LIMIT_MS) {
            run.check();
            break;
        }
    }
    println!("from power-on to the mounted export: {mounted:.0?} ms");
    assert!(prompt, "no run kept every lock under 100 ms");
    assert!(mounted.iter().any(|ms| *ms < BOOT_LIMIT_MS), "{mounted:?}");
}

#[test]
fn a_second_client_waits_and_is_called_back() {
    Run::of("two-clients", &[]).check();
}

#[test]
fn two_clients_are_granted_the_same_lock() {
    Run::of("double-grant", &[]).check();
}

#[test]
fn a_lock_outlives_a_reboot_if_its_client_is_told() {
    let run = Run::of("reboot-locks-reclaimed", &[]);
    run.check();
    let reclaims = tshark(&run.file("all.pcapng"), "nlm.reclaim == 1 && rpc.msgtyp == 0");
    assert_ne!(reclaims, "", "the kernel has not reclaimed its lock");
}

#[test]
fn a_real_directory_is_served() {
    Run::of("real-directory", &[]).check();
}

#[test]
fn the_personalities_differ_as_measured() {
    Run::of("statd-absent-linux-5.0", &[]).check();
    Run::of("statd-absent-linux-6.1", &[]).check();
    Run::of("statd-hung-linux-6.1", &[]).check();
}

/// The short of it; `make suites` runs all suites, and for longer.
#[test]
fn suites_of_others_pass() {
    for store in ["--store=mem", "--store=dir"] {
        Run::of("suites/git", &[store, "--set=files=20", "--set=commits=2"]).check_without_locks();
        Run::of("suites/sqlite", &[store, "--set=transactions=20"]).check();
        let stressors = "--set=stressors=flock fcntl dir rename";
        Run::of("suites/stress-ng", &[store, "--set=seconds=1", stressors]).check();
    }
}

#[test]
fn rpcinfo_and_showmount_print_what_there_is() {
    Run::of("tools-see-everything", &[]).check();
}

#[test]
fn a_client_that_is_no_kernel_sees_the_same() {
    Run::of("libnfs-tools", &[]).check_without_locks();
}

/// Scenarios that have a test of their own above.
const TOLD_APART: [&str; 11] = [
    "frozen-processes",
    "healthy-locks",
    "two-clients",
    "double-grant",
    "reboot-locks-reclaimed",
    "real-directory",
    "statd-absent-linux-5.0",
    "statd-absent-linux-6.1",
    "statd-hung-linux-6.1",
    "tools-see-everything",
    "libnfs-tools",
];

/// All other scenarios, several at a time: most of their time is waiting.
#[test]
fn every_symptom_is_seen() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (path.extension()? == "toml" && !TOLD_APART.contains(&name.as_str())).then_some(name)
    };
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().filter_map(name).collect();
    names.sort();
    assert!(!names.is_empty());
    let (todo, failed) = (Mutex::new(names.into_iter()), Mutex::new(Vec::new()));
    let next = || todo.lock().unwrap().next();
    let work = || {
        while let Some(name) = next() {
            let started = Instant::now();
            let output = tempfile::NamedTempFile::new().unwrap();
            let run = Run::quiet(&name, output.path());
            let seconds = started.elapsed().as_secs();
            let passed = std::panic::catch_unwind(|| run.check_without_locks()).is_ok();
            println!("{} {name}, {seconds} s", if passed { "ok    " } else { "FAILED" });
            if !passed {
                println!("{}", std::fs::read_to_string(output.path()).unwrap());
                failed.lock().unwrap().push(name);
            }
        }
    };
    let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn two_runs_with_the_same_seed_decide_the_same_and_one_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (one, two, three) = (file("one"), file("two"), file("three"));
    Run::of("unlock-reply-lost", &["--journal", &one]).check();
    Run::of("unlock-reply-lost", &["--journal", &two]).check();
    let replay = ["--journal", &three, "--replay", &one, "--seed", "77"];
    Run::of("unlock-reply-lost", &replay).check();
    let compared = Command::new(nfslab_binary())
        .args(["journal", "compare", &one, &two, &three])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compared.stdout);
    assert!(compared.status.success(), "{said}");
    assert!(!said.contains(" 0 decisions"), "{said}");
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    interrupted("-INT", &["frozen-processes"], Some(99));
}

/// Several scenarios run in a process each: whoever ends the first process means them too.
#[test]
fn an_interrupted_run_of_several_leaves_nothing_behind() {
    for (signal, code) in [("-INT", Some(99)), ("-TERM", Some(99)), ("-KILL", None)] {
        interrupted(signal, &["frozen-processes", "two-clients"], code);
    }
}

fn interrupted(signal: &str, scenarios: &[&str], code: Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let (out, temporary) = (folder.path().join("out"), folder.path().join("tmp"));
    std::fs::create_dir(&temporary).unwrap();
    let mut child = Command::new(nfslab_binary())
        .arg("run")
        .args(scenarios.iter().map(|name| root.join(format!("{name}.toml"))))
        .args(["--store", "dir", "--out"])
        .arg(&out)
        .env("TMPDIR", &temporary)
        .process_group(0)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The console log appears when the guest is switched on; of several scenarios each has a folder.
    let console = match scenarios {
        [_] => out.join("web1.console.log"),
        [first, ..] => out.join(first).join("web1.console.log"),
        [] => unreachable!("no scenario"),
    };
    let deadline = Instant::now() + Duration::from_secs(120);
    while !console.exists() {
        assert!(Instant::now() < deadline, "no guest was started");
        std::thread::yield_now();
    }
    let pid = child.id();
    let killed = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(killed.unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), code, "an interrupted run has no verdict");
    let run = Run {
        folder,
        status,
        group: pid,
    };
    run.check_nothing_left();
    // Nobody can clean up after a process that is killed.
    if code.is_some() {
        let left: Vec<_> = std::fs::read_dir(temporary).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
