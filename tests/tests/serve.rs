//! `nfslab serve` and the commands on a running server, as a user types them; and the lock service over
//! loopback, where two addresses of 127.0.0.0/8 are two clients.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use common::{lock_args, make_file, mounted};
use faults::{Condition, Service};
use nfslab::server::{Config, Drc, Ports, Server};
use nfslab_tests::nfslab_binary;
use proto::nfs3::{Diropargs3, Nfs3Proc, NfsFh3, Nfsstat3, Remove3Res};
use proto::nlm::{LockArgs, Nlm4Lock, Nlm4Stat, NlmProc, Res, UnlockArgs};
use rpc::client::{CallError, Client, Identity, Target};
use rpc::msg::Transport;
use rpc::xdr;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

async fn connect(client: [u8; 4], server: &Server, service: Service) -> Client {
    common::connect(client.into(), server, service, Transport::Tcp).await
}

fn alock(fh: &[u8], svid: i32) -> Nlm4Lock<'_> {
    lock_args(fh, svid, 0, 0).alock
}

async fn lock(client: &Client, fh: &[u8], svid: i32) -> Result<Nlm4Stat, CallError> {
    let args = lock_args(fh, svid, 0, 0);
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);
    let reply = client.call(target, &args, PATIENCE).await?;
    Ok(xdr::from_bytes::<Res<'_>>(&reply)?.stat)
}

async fn unlock(client: &Client, fh: &[u8], svid: i32) -> Nlm4Stat {
    let args = UnlockArgs {
        cookie: "c".into(),
        alock: alock(fh, svid),
    };
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_UNLOCK.0);
    let reply = client.call(target, &args, PATIENCE).await.unwrap();
    xdr::from_bytes::<Res<'_>>(&reply).unwrap().stat
}

async fn start(statd: Condition, personality: &str) -> Server {
    let mut config = Config {
        ports: Ports::AUTO,
        ..Config::default()
    };
    config.personality = nlm::personality::Personality::by_name(personality).unwrap();
    config.conditions.set(Service::Statd, statd);
    Server::start(config).await.unwrap()
}

/// Waits until the server has logged an event of this kind.
async fn seen(server: &Server, kind: &str) {
    let (past, mut live) = server.node().events.since(0);
    if past.iter().any(|event| event.kind() == kind) {
        return;
    }
    let wait = async { while live.recv().await.unwrap().kind() != kind {} };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("no event {kind}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_lock_needs_no_grace_wait() {
    let server = start(Condition::Ok, "linux-6.1").await;
    let fh = make_file(&server, "f").await;
    let client = connect([127, 0, 0, 2], &server, Service::Lockd).await;
    let before = Instant::now();
    assert_eq!(lock(&client, &fh, 1).await.unwrap(), Nlm4Stat::NLM4_GRANTED);
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "{:?}",
        before.elapsed()
    );
    let other = connect([127, 0, 0, 3], &server, Service::Lockd).await;
    assert_eq!(
        lock(&other, &fh, 1).await.unwrap(),
        Nlm4Stat::NLM4_DENIED,
        "another peer is another owner"
    );
    assert_eq!(unlock(&client, &fh, 1).await, Nlm4Stat::NLM4_GRANTED);
    assert_eq!(lock(&other, &fh, 1).await.unwrap(), Nlm4Stat::NLM4_GRANTED);
    server.stop().await;
}

/// What the case study is about: one peer's upcall holds up every other peer's call, even NULL.
#[tokio::test(flavor = "multi_thread")]
async fn one_stalled_upcall_stalls_every_client_until_statd_is_back() {
    let server = start(Condition::Absent, "linux-6.1").await;
    let fh = make_file(&server, "f").await;
    let first = connect([127, 0, 0, 2], &server, Service::Lockd).await;
    let second = connect([127, 0, 0, 3], &server, Service::Lockd).await;
    let stalled = tokio::spawn({
        let fh = fh.clone();
        async move { lock(&first, &fh, 1).await }
    });
    seen(&server, "lockd/upcall-started").await;
    let null = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_NULL.0);
    let silence = second.call(null, &(), Duration::from_millis(300)).await;
    assert!(matches!(silence, Err(CallError::TimedOut(_))), "{silence:?}");
    server
        .node()
        .set_condition(Service::Statd, Condition::Ok)
        .await
        .unwrap();
    // The upcall's next look for statd, at most three seconds on.
    server.node().clock.advance(Duration::from_secs(3));
    assert_eq!(stalled.await.unwrap().unwrap(), Nlm4Stat::NLM4_GRANTED);
    second.call(null, &(), PATIENCE).await.unwrap();
    assert_eq!(server.node().peers()[0].monitored, "statd");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_personality_gives_up_on_statd_in_its_own_time_and_way() {
    let table = [
        (
            "linux-5.0",
            Condition::Absent,
            6_000,
            Nlm4Stat::NLM4_DENIED_NOLOCKS,
        ),
        ("linux-6.1", Condition::Absent, 61_500, Nlm4Stat::NLM4_GRANTED),
        (
            "linux-6.1",
            Condition::Hung,
            60_500,
            Nlm4Stat::NLM4_DENIED_NOLOCKS,
        ),
    ];
    for (personality, statd, after_ms, expected) in table {
        let server = start(statd, personality).await;
        let fh = make_file(&server, "f").await;
        let client = connect([127, 0, 0, 2], &server, Service::Lockd).await;
        let stalled = tokio::spawn({
            let fh = fh.clone();
            async move { lock(&client, &fh, 1).await }
        });
        seen(&server, "lockd/upcall-started").await;
        server
            .node()
            .clock
            .advance(Duration::from_millis(after_ms - 2_000));
        let early = tokio::time::timeout(Duration::from_millis(300), async {
            seen(&server, "lockd/upcall-ended").await;
        });
        assert!(early.await.is_err(), "{personality} {statd}: gave up too early");
        server.node().clock.advance(Duration::from_secs(2));
        assert_eq!(stalled.await.unwrap().unwrap(), expected, "{personality} {statd}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_lock_service_answers_late_and_one_at_a_time() {
    let server = start(Condition::Ok, "linux-6.1").await;
    let slow = Condition::Slow(Duration::from_millis(200));
    server.node().set_condition(Service::Lockd, slow).await.unwrap();
    let fh = make_file(&server, "f").await;
    let client = connect([127, 0, 0, 2], &server, Service::Lockd).await;
    let before = Instant::now();
    let (a, b) = tokio::join!(lock(&client, &fh, 1), lock(&client, &fh, 1));
    assert_eq!(
        (a.unwrap(), b.unwrap()),
        (Nlm4Stat::NLM4_GRANTED, Nlm4Stat::NLM4_GRANTED)
    );
    assert!(
        before.elapsed() >= Duration::from_millis(400),
        "{:?}",
        before.elapsed()
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_service_is_refused_and_comes_back_on_the_same_port() {
    let server = start(Condition::Ok, "linux-6.1").await;
    let port = server.port(Service::Portmap);
    let client = connect([127, 0, 0, 2], &server, Service::Portmap).await;
    server
        .node()
        .set_condition(Service::Portmap, Condition::Absent)
        .await
        .unwrap();
    let null = Target::new(proto::portmap::PROGRAM, 2, 0);
    assert!(
        client.call(null, &(), PATIENCE).await.is_err(),
        "its connections are dropped"
    );
    let refused = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    server.node().reset().await.unwrap();
    let client = connect([127, 0, 0, 2], &server, Service::Portmap).await;
    client.call(null, &(), PATIENCE).await.unwrap();
    server.stop().await;
}

/// A REMOVE whose answer was lost is sent again, on another connection: it must not say that the file is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_remove_is_answered_as_before_unless_the_cache_is_off() {
    for (drc, expected) in [
        (Drc::default(), Nfsstat3::NFS3_OK),
        (Drc::NONE, Nfsstat3::NFS3ERR_NOENT),
    ] {
        let config = Config {
            ports: Ports::AUTO,
            drc: drc.clone(),
            ..Config::default()
        };
        let server = Server::start(config).await.unwrap();
        let root = mounted(&server).await;
        make_file(&server, "f").await;
        let target = Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_REMOVE.0);
        let args = Diropargs3 {
            dir: NfsFh3::from(&root[..]),
            name: "f".into(),
        };
        let mut answers = Vec::new();
        for _ in 0..2 {
            // Every connection counts its xids from 1.
            let nfs = connect([127, 0, 0, 1], &server, Service::Nfs).await;
            let reply = nfs.call(target, &args, PATIENCE).await.unwrap();
            answers.push(xdr::from_bytes::<Remove3Res>(&reply).unwrap().status());
        }
        assert_eq!(answers, [Nfsstat3::NFS3_OK, expected], "cache: {drc}");
        server.stop().await;
    }
}

fn waiting_lock(fh: &[u8], svid: i32) -> LockArgs<'_> {
    LockArgs {
        block: true,
        ..lock_args(fh, svid, 0, 0)
    }
}

async fn lock_and_wait(client: &Client, fh: &[u8], svid: i32) -> Nlm4Stat {
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);
    let reply = client
        .call(target, &waiting_lock(fh, svid), PATIENCE)
        .await
        .unwrap();
    xdr::from_bytes::<Res<'_>>(&reply).unwrap().stat
}

/// Two clients in each other's way are shown as a cycle, and `lock break` lets one of them go on.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_whom_is_shown_and_a_lock_can_be_broken() {
    let folder = tempfile::tempdir().unwrap();
    let control = format!("unix:{}", folder.path().join("control").display());
    let mut config = Config {
        ports: Ports::AUTO,
        control: nfslab::server::ControlAt::At(control.parse().unwrap()),
        ..Config::default()
    };
    // It finds no deadlocks, so that there is one to see.
    config.personality.deadlock_hops = Some(0);
    let server = Server::start(config).await.unwrap();
    let (f, g) = (make_file(&server, "f").await, make_file(&server, "g").await);
    let one = connect([127, 0, 0, 2], &server, Service::Lockd).await;
    let two = connect([127, 0, 0, 3], &server, Service::Lockd).await;
    assert_eq!(lock(&one, &f, 1).await.unwrap(), Nlm4Stat::NLM4_GRANTED);
    assert_eq!(lock(&two, &g, 2).await.unwrap(), Nlm4Stat::NLM4_GRANTED);
    assert_eq!(lock_and_wait(&one, &g, 1).await, Nlm4Stat::NLM4_BLOCKED);
    assert_eq!(lock_and_wait(&two, &f, 2).await, Nlm4Stat::NLM4_BLOCKED);
    let ask = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(nfslab_binary());
        command.args(args).env("NFSLAB_CONTROL", &control);
        let output = command.output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = ask(&["lock", "graph"]).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 3), "{text}");
    assert!(lines[0].contains("cycle 1"), "{text}");
    assert!(
        lines[1].contains("owner 1 waits for test (127.0.0.3) owner 2 on /")
            && lines[1].ends_with("/g, the whole file (exclusive)"),
        "{text}"
    );
    let (_, text) = ask(&["lock", "graph", "--output", "json"]).await;
    let graph: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&graph["cycles"], &graph["waiting"]), (&1.into(), &2.into()));
    let path = graph["edges"][0]["path"].as_str().unwrap().to_owned();
    assert!(path.ends_with("/g"), "{path}");
    // Without a choice nothing is broken, by neither end.
    assert_eq!(ask(&["lock", "break"]).await.0, Some(2));
    assert_eq!(ask(&["lock", "break", "--all", "--svid", "1"]).await.0, Some(2));
    let broken = async |args: &[&str]| {
        let (_, text) = ask(&[&["lock", "break", "--output", "json"], args].concat()).await;
        serde_json::from_str::<Value>(&text).unwrap()["broken"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(broken(&["--path", &path, "--peer", "127.0.0.2"]).await, 0);
    assert_eq!(
        broken(&["--path", &path, "--peer", "127.0.0.3", "--svid", "2"]).await,
        1
    );
    seen(&server, "lockd/locks-broken").await;
    seen(&server, "lockd/granted").await;
    assert_eq!(lock(&one, &g, 1).await.unwrap(), Nlm4Stat::NLM4_GRANTED);
    assert_eq!(unlock(&one, &f, 1).await, Nlm4Stat::NLM4_GRANTED);
    assert_eq!(lock(&two, &f, 2).await.unwrap(), Nlm4Stat::NLM4_GRANTED);
    assert_eq!(
        ask(&["lock", "graph"]).await,
        (Some(0), "nobody waits\n".to_owned())
    );
    assert_eq!(broken(&["--peer", "test", "--svid", "2"]).await, 1);
    assert_eq!(broken(&["--all"]).await, 1);
    server.stop().await;
}

// --- the binary -------------------------------------------------------------------------------------

struct Serving {
    child: Child,
    folder: tempfile::TempDir,
}

impl Serving {
    /// A server on free ports with its control API in the file system, once it is ready.
    fn start(more: &[&str]) -> Serving {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(nfslab_binary())
            .args(["serve", "--ports", "auto", "--control"])
            .arg(format!("unix:{}", folder.path().join("control").display()))
            .arg("--ready-file")
            .arg(folder.path().join("ready"))
            .args(more)
            .spawn()
            .unwrap();
        let serving = Serving { child, folder };
        let deadline = Instant::now() + PATIENCE;
        while !serving.ready_file().exists() {
            assert!(Instant::now() < deadline, "not ready");
            std::thread::yield_now();
        }
        serving
    }

    fn ready_file(&self) -> std::path::PathBuf {
        self.folder.path().join("ready")
    }

    fn ask(&self, args: &[&str]) -> Output {
        let control = format!("unix:{}", self.folder.path().join("control").display());
        Command::new(nfslab_binary())
            .args(args)
            .env("NFSLAB_CONTROL", control)
            .output()
            .unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.ask(&[args, &["--output", "json"]].concat());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn end(mut self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{signal}");
        assert!(!self.ready_file().exists(), "the ready file is left");
        assert!(
            !self.folder.path().join("control").exists(),
            "the control socket is left"
        );
    }
}

#[test]
fn the_shell_commands_show_and_change_a_running_server() {
    let serving = Serving::start(&["--export", "/a=mem", "--export", "/b=mem"]);
    let ready: Value = serde_json::from_slice(&std::fs::read(serving.ready_file()).unwrap()).unwrap();
    assert_eq!(ready["exports"], serde_json::json!(["/a", "/b"]));
    assert!(ready["ports"]["nfs"].as_u64().unwrap() > 0);
    let condition = |services: Value| services[4]["condition"].as_str().unwrap().to_owned();
    assert_eq!(condition(serving.json(&["service", "list"])), "ok");
    assert_eq!(condition(serving.json(&["service", "statd", "absent"])), "absent");
    assert_eq!(
        condition(serving.json(&["service", "statd", "slow", "5s"])),
        "slow 5s"
    );
    assert_eq!(serving.json(&["peer", "list"]), serde_json::json!([]));
    assert_eq!(serving.json(&["peer", "forget", "--all"])["forgotten"], 0);
    assert_eq!(serving.ask(&["peer", "forget", "nobody"]).status.code(), Some(1));
    assert_eq!(serving.json(&["lock", "list"])["total"], 0);
    assert_eq!(
        serving.json(&["lock", "list", "--after", "4294967295.7.1"])["total"],
        0
    );
    assert_eq!(
        serving.ask(&["lock", "list", "--after", "1.2"]).status.code(),
        Some(2)
    );
    assert_eq!(condition(serving.json(&["reset"])), "ok");
    let text = String::from_utf8(serving.ask(&["events"]).stdout).unwrap();
    assert!(text.contains("statd is now: slow 5s"), "{text}");
    assert_eq!(serving.ask(&["service", "statd", "gone"]).status.code(), Some(2));
    assert_eq!(
        serving.ask(&["service", "nobody", "absent"]).status.code(),
        Some(2)
    );
    serving.end("-TERM");
}

#[test]
fn both_signals_end_a_server_cleanly() {
    Serving::start(&[]).end("-INT");
    Serving::start(&[]).end("-TERM");
}

#[test]
fn what_cannot_be_is_said_with_what_can() {
    let serve = |args: &[&str]| {
        let output = Command::new(nfslab_binary())
            .arg("serve")
            .args(args)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (code, text) = serve(&["--ports", &format!("portmap=0,nfs=0,mount=0,nsm=0,nlm={port}")]);
    assert!(
        code == Some(1) && text.contains("--ports nlm=0"),
        "{code:?} {text}"
    );
    let (code, text) = serve(&["--ports", "auto", "--personality", "solaris"]);
    assert!(code == Some(2) && text.contains("linux-6.1"), "{code:?} {text}");
    let (code, text) = serve(&["--export", "lab"]);
    assert!(code == Some(2) && text.contains("/lab=mem"), "{code:?} {text}");
    let (code, text) = serve(&[
        "--ports",
        "auto",
        "--control",
        &taken.local_addr().unwrap().to_string(),
    ]);
    assert!(code == Some(1) && text.contains("--control"), "{code:?} {text}");
    let (code, text) = serve(&[
        "--ports",
        "auto",
        "--pcap",
        "/nowhere/x.pcapng",
        "--control",
        "none",
    ]);
    assert!(code == Some(1) && text.contains("--pcap"), "{code:?} {text}");
    let output = Command::new(nfslab_binary())
        .args(["lock", "list", "--control", "127.0.0.1:1"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && text.contains("nfslab serve"),
        "{text}"
    );
    let output = Command::new(nfslab_binary())
        .args(["run", "/nowhere.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// From starting the process to the first answer.
#[test]
fn a_server_answers_within_fifty_milliseconds_of_its_start() {
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let mut times = Vec::new();
    // The quickest of five: the machine may be busy with something else.
    for _ in 0..5 {
        let nfs = free();
        let started = Instant::now();
        let mut child = Command::new(nfslab_binary())
            .args(["serve", "--control", "none", "--ports"])
            .arg(format!("nfs={nfs},portmap=0,mount=0,nlm=0,nsm=0"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !answers(nfs) {
            assert!(started.elapsed() < PATIENCE, "no answer");
            std::thread::yield_now();
        }
        times.push(started.elapsed());
        assert!(
            Command::new("kill")
                .arg(child.id().to_string())
                .status()
                .unwrap()
                .success()
        );
        child.wait().unwrap();
    }
    println!("from the start to the first answer: {times:?}");
    let quickest = times.iter().min().unwrap();
    assert!(*quickest < Duration::from_millis(50), "{times:?}");
}

/// Whether NFS answers a NULL call on this port.
fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut call = xdr::Writer::new();
    rpc::server::mark_record(&mut call, |w| {
        rpc::client::encode_call(
            w,
            1,
            Target::new(proto::nfs3::PROGRAM, 3, 0),
            &Identity::None,
            &(),
        );
    });
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reply = [0; 28];
    stream.write_all(&call.into_bytes()).is_ok() && stream.read_exact(&mut reply).is_ok()
}

#[test]
fn the_documents_name_only_commands_that_exist() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let help = Command::new(nfslab_binary()).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    // Every second part between fences is code.
    let code = readme.split("```").skip(1).step_by(2).flat_map(str::lines);
    let commands = code.filter_map(|line| line.trim_start().strip_prefix("nfslab "));
    let mut named = 0;
    for command in commands.filter_map(|rest| rest.split_whitespace().next()) {
        assert!(
            help.contains(&format!("  {command}")),
            "README names `nfslab {command}`"
        );
        named += 1;
    }
    assert!(named > 3);
}
