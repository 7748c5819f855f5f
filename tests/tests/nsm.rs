//! The status monitor over restarts of the server: what `--state-dir` keeps is the reboot that clients hear of. The
//! clients are addresses of 127.0.0.0/8 with a port mapper and a status monitor of their own. Port 111 takes
//! privilege; without it the test that needs it says so and ends.
//!
//! And the lock service with a real rpcbind and a real rpc.statd (`--statd system`), in namespaces of their own: the
//! network, the processes, and what is mounted at /run and /var/lib/nfs.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;
#[path = "common/peer.rs"]
mod peer;

use common::{Place, connect_to, lock_args, make_file};
use nfslab_tests::nfslab_binary;
use peer::Peer;
use proto::nlm::{LockArgs, Nlm4Stat, NlmProc, Res};
use proto::nsm::{self, SmProc, StatChge};
use proto::portmap::{self, Mapping};
use rpc::client::Target;
use rpc::msg::Transport;
use rpc::xdr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A server with a folder for its state.
struct Serving {
    child: Child,
    folder: PathBuf,
    ports: serde_json::Value,
}

fn serve(folder: &Path) -> Command {
    let mut command = Command::new(nfslab_binary());
    command
        .args(["serve", "--control"])
        .arg(format!("unix:{}", folder.join("control").display()))
        .arg("--ready-file")
        .arg(folder.join("ready"));
    command
}

/// With what is kept in `folder/state`, in its grace period.
fn serve_again(folder: &Path) -> Command {
    let mut command = serve(folder);
    command
        .args(["--ports", "auto", "--grace", "600", "--state-dir"])
        .arg(folder.join("state"));
    command
}

impl Serving {
    fn start(folder: &Path) -> Serving {
        Self::start_as(folder, serve_again(folder))
    }

    fn start_as(folder: &Path, mut command: Command) -> Serving {
        let ready = folder.join("ready");
        let _ = std::fs::remove_file(&ready);
        let child = command.spawn().unwrap();
        until("the server is ready", || ready.exists());
        let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        Serving {
            child,
            folder: folder.to_path_buf(),
            ports: addresses["ports"].clone(),
        }
    }

    fn at(&self, service: &str) -> SocketAddr {
        let port = self.ports[service].as_u64().unwrap();
        SocketAddr::from(([127, 0, 0, 1], port.try_into().unwrap()))
    }

    fn ask(&self, args: &[&str]) -> String {
        let control = format!("unix:{}", self.folder.join("control").display());
        let output = Command::new(nfslab_binary())
            .args(args)
            .env("NFSLAB_CONTROL", control)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn events(&self) -> String {
        self.ask(&["events"])
    }

    /// As `systemctl stop` does it.
    fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    /// kill -9.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn lock(&self, peer: [u8; 4], file: &str, reclaim: bool) -> Nlm4Stat {
        let place = Place {
            mount: self.at("mount"),
            nfs: self.at("nfs"),
        };
        let fh = make_file(place, file).await;
        let from = SocketAddr::from((peer, 0));
        let client = connect_to(Some(from), self.at("lockd"), Transport::Tcp)
            .await
            .unwrap();
        let args = LockArgs {
            reclaim,
            ..lock_args(&fh, 1, 0, 0)
        };
        let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);
        let reply = client.call(target, &args, PATIENCE).await.unwrap();
        xdr::from_bytes::<Res<'_>>(&reply).unwrap().stat
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not so: {what}");
        std::thread::yield_now();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_watched_when_the_server_was_killed_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (present, late) = ([127, 0, 8, 2], [127, 0, 8, 3]);
    let Some(mut first) = Peer::start(present).await else {
        return;
    };
    let server = Serving::start(folder.path());
    for peer in [present, late] {
        // The record is there when the answer is, grace period or not.
        assert_eq!(
            server.lock(peer, "f", false).await,
            Nlm4Stat::NLM4_DENIED_GRACE_PERIOD
        );
    }
    assert_eq!(names(&state.join("sm")), ["127.0.8.2", "127.0.8.3"]);
    assert_eq!(std::fs::read_to_string(state.join("state")).unwrap(), "1\n");
    server.kill();

    let server = Serving::start(folder.path());
    first.hears("nfslab 3").await;
    assert_eq!(
        server.lock(present, "f", true).await,
        Nlm4Stat::NLM4_GRANTED,
        "reclaimed"
    );
    until("who has answered is no longer on the list", || {
        names(&state.join("sm.bak")) == ["127.0.8.3"]
    });
    assert_eq!(names(&state.join("sm")), ["127.0.8.2"], "watched anew");
    server.ask(&["peer", "forget", "--all"]);
    until("nobody is watched", || names(&state.join("sm")).is_empty());
    server.kill();

    let mut second = Peer::start(late).await.unwrap();
    let server = Serving::start(folder.path());
    second.hears("nfslab 5").await;
    let events = server.events();
    assert!(
        events.contains("restarted (state 5); 1 hosts are to be told"),
        "{events}"
    );
    until("everybody knows", || names(&state.join("sm.bak")).is_empty());
    assert!(first.quiet(), "told once");
    server.kill();

    let server = Serving::start(folder.path());
    assert!(
        !server.events().contains("restarted (state"),
        "nobody was watched"
    );
    assert_eq!(std::fs::read_to_string(state.join("state")).unwrap(), "5\n");
    server.kill();
}

#[test]
fn a_folder_that_is_in_use_or_damaged_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state/state");
    let fails = |expected: &[&str]| {
        let output = serve_again(folder.path()).stdout(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in expected {
            assert!(text.contains(part), "{text}");
        }
    };
    let server = Serving::start(folder.path());
    fails(&["--state-dir", "another server uses it"]);
    server.kill();
    std::fs::write(&state, "five").unwrap();
    fails(&[&state.display().to_string(), "'five'", "such as 5"]);
    assert_eq!(std::fs::read_to_string(&state).unwrap(), "five");
}

/// rpc.statd must find the lock service and reach it.
#[test]
fn what_the_rpc_statd_of_the_host_needs_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let auto = ["--ports", "auto"];
    let system = ["--ports", "nfs=0,mount=0,nlm=0,portmap=system"];
    let cases: [(&[&str], [&str; 2], &str); 3] = [
        (&[], auto, "portmap=system"),
        (&["--bind", "10.0.0.5"], system, "--bind 0.0.0.0"),
        (&["--state-dir", "kept"], system, "/var/lib/nfs"),
    ];
    for (more, ports, expected) in cases {
        let mut command = serve(folder.path());
        let output = command
            .args(["--statd", "system"])
            .args(ports)
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && text.contains(expected),
            "{text}"
        );
    }
}

// --- the rpc.statd of the host ----------------------------------------------------------------------

/// Set where the namespaces are our own.
const INSIDE: &str = "NFSLAB_TEST_INSIDE";
const SYSTEM_TEST: &str = "the_rpc_statd_of_the_host_watches_the_clients_and_tells_of_their_reboots";

/// A private /run and /var/lib/nfs, as Debian's packages make them.
const FOLDERS: &str = "
    mount -t tmpfs tmpfs /run && mkdir /run/rpcbind && chown _rpc /run/rpcbind &&
    mount -t tmpfs tmpfs /var/lib/nfs && mkdir /var/lib/nfs/sm /var/lib/nfs/sm.bak &&
    chown statd:nogroup /var/lib/nfs /var/lib/nfs/sm /var/lib/nfs/sm.bak &&
    ip link set lo up";

/// A process that ends with the test.
struct Daemon(Child);

impl Daemon {
    fn start(program: &str, args: &[&str]) -> Daemon {
        Daemon(Command::new(program).args(args).spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The UDP port of rpc.statd, once there is one.
async fn statd_port() -> u16 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let target = Target::new(
            portmap::PROGRAM,
            portmap::V2,
            portmap::PmapProc::PMAPPROC_GETPORT.0,
        );
        let statd = Mapping {
            prog: nsm::PROGRAM,
            vers: nsm::V1,
            prot: portmap::IpProto::IPPROTO_UDP,
            port: 0,
        };
        let mapper = connect_to(
            Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            SocketAddr::from(([127, 0, 0, 1], portmap::PMAP_PORT)),
            Transport::Udp,
        );
        let mapper = mapper.await.unwrap();
        let port = match mapper.call(target, &statd, PATIENCE).await {
            Ok(reply) => xdr::from_bytes::<u32>(&reply).unwrap(),
            Err(_) => 0,
        };
        if port != 0 {
            return port.try_into().unwrap();
        }
        assert!(Instant::now() < deadline, "rpc.statd is not registered");
        tokio::task::yield_now().await;
    }
}

/// What the status monitor of a client sends after a reboot.
async fn reboots(peer: [u8; 4], state: i32) {
    let statd = SocketAddr::from(([127, 0, 0, 1], statd_port().await));
    let client = connect_to(Some(SocketAddr::from((peer, 0))), statd, Transport::Udp).await;
    let target = Target::new(nsm::PROGRAM, nsm::V1, SmProc::SM_NOTIFY.0);
    let change = StatChge {
        mon_name: "client1".into(),
        state,
    };
    client.unwrap().call(target, &change, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rpc_statd_of_the_host_watches_the_clients_and_tells_of_their_reboots() {
    if std::env::var_os(INSIDE).is_some() {
        return with_a_real_statd().await;
    }
    let installed = |program: &str| {
        ["/sbin", "/usr/sbin"]
            .iter()
            .any(|at| Path::new(at).join(program).exists())
    };
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child"];
    let may = Command::new("unshare").args(namespaces).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) || !installed("rpcbind") || !installed("rpc.statd") {
        println!(
            "skipped: it takes root, rpcbind and rpc.statd (Debian: rpcbind, nfs-common; see scripts/deps)"
        );
        return;
    }
    let inside = Command::new("unshare")
        .args(namespaces)
        .arg("--mount-proc")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", SYSTEM_TEST, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = [inside.stdout, inside.stderr].concat();
    println!("{}", String::from_utf8_lossy(&text));
    assert!(inside.status.success());
}

async fn with_a_real_statd() {
    let made = Command::new("sh").args(["-c", FOLDERS]).status().unwrap();
    assert!(made.success());
    let _rpcbind = Daemon::start("rpcbind", &["-f"]);
    until("rpcbind answers", || {
        std::net::TcpStream::connect(("127.0.0.1", portmap::PMAP_PORT)).is_ok()
    });
    let folder = tempfile::tempdir().unwrap();
    let serve = || {
        let mut command = serve(folder.path());
        command.args([
            "--ports",
            "nfs=0,mount=0,nlm=0,portmap=system",
            "--statd",
            "system",
        ]);
        Serving::start_as(folder.path(), command)
    };
    let (one, other) = ([127, 0, 8, 2], [127, 0, 8, 3]);

    // No statd: the lock service looks for one every three seconds.
    let server = serve();
    let (first, _statd) = tokio::join!(server.lock(one, "f", false), async {
        let looked = "(asked for 127.0.8.2, attempt 1)";
        let deadline = Instant::now() + PATIENCE;
        while !server.events().contains(looked) {
            assert!(Instant::now() < deadline, "{}", server.events());
            tokio::task::yield_now().await;
        }
        Daemon::start("rpc.statd", &["-F", "--no-notify"])
    });
    assert_eq!(first, Nlm4Stat::NLM4_GRANTED);
    let sm = Path::new("/var/lib/nfs/sm");
    assert_eq!(names(sm), ["127.0.8.2"], "made by rpc.statd");
    let record = std::fs::read_to_string(sm.join("127.0.8.2")).unwrap();
    assert!(record.contains("127.0.8.2"), "{record}");

    // A client's reboot, and again after the server has been restarted: rpc.statd has its record still.
    assert_eq!(server.lock(other, "f", false).await, Nlm4Stat::NLM4_DENIED);
    reboots(one, 5).await;
    until("its locks are gone", || {
        server
            .ask(&["lock", "list", "--output", "json"])
            .contains("\"total\": 0")
    });
    server.end();
    let server = serve();
    assert_eq!(server.lock(other, "g", false).await, Nlm4Stat::NLM4_GRANTED);
    assert_eq!(server.lock(one, "f", false).await, Nlm4Stat::NLM4_GRANTED);
    reboots(one, 7).await;
    let deadline = Instant::now() + PATIENCE;
    while server.lock(other, "f", false).await != Nlm4Stat::NLM4_GRANTED {
        assert!(Instant::now() < deadline, "{}", server.events());
    }
    assert_eq!(names(sm), ["127.0.8.2", "127.0.8.3"]);
    server.ask(&["peer", "forget", "--all"]);
    until("SM_UNMON has come", || names(sm).is_empty());
    server.end();
}
