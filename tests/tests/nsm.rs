//! The status monitor over restarts of the server: what `--state-dir` keeps is the reboot that clients hear of. The
//! clients are addresses of 127.0.0.0/8 with a port mapper and a status monitor of their own. Port 111 takes
//! privilege; without it the test that needs it says so and ends.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

#[expect(dead_code, reason = "servers are processes here")]
mod common;

use bytes::Bytes;
use common::{Place, connect_to, make_file};
use nfslab_tests::nfslab_binary;
use proto::nlm::{LockArgs, Nlm4Lock, Nlm4Stat, NlmProc, Res};
use proto::nsm::{self, SmProc, StatChge};
use proto::portmap::{self, Mapping};
use rpc::client::Target;
use rpc::msg::{self, CallHeader, Transport};
use rpc::server::{Flow, Origin};
use rpc::xdr::{self, Encode, Reader, Writer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(10);

/// The status monitor of a client: what it hears, as `name state`.
struct Peer {
    heard: mpsc::UnboundedReceiver<String>,
    _tasks: tokio::task::JoinSet<()>,
}

struct Ear {
    statd: u16,
    heard: mpsc::UnboundedSender<String>,
}

impl rpc::server::Service for Ear {
    fn message(&self, _: &Arc<Origin>, message: Bytes, out: &mut Writer) -> Flow {
        let mut r = Reader::new(&message);
        let header = CallHeader::read(&mut r).unwrap();
        let args = message.slice(r.offset()..);
        msg::accepted(out, header.xid);
        if header.program == portmap::PROGRAM {
            let mapping: Mapping = xdr::from_bytes(&args).unwrap();
            assert_eq!((mapping.prog, mapping.vers), (nsm::PROGRAM, nsm::V1));
            u32::from(self.statd).encode(out);
            return Flow::Continue;
        }
        assert_eq!(
            (header.program, header.procedure),
            (nsm::PROGRAM, SmProc::SM_NOTIFY.0)
        );
        let change: StatChge<'_> = xdr::from_bytes(&args).unwrap();
        let name = String::from_utf8_lossy(change.mon_name.0).into_owned();
        let _ = self.heard.send(format!("{name} {}", change.state));
        Flow::Continue
    }
}

impl Peer {
    /// `None` without the privilege to be a port mapper.
    async fn start(address: [u8; 4]) -> Option<Peer> {
        let udp = |port| tokio::net::UdpSocket::bind(SocketAddr::from((address, port)));
        let mapper = match udp(portmap::PMAP_PORT).await {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                println!("skipped: port 111 of a client cannot be had: {error}");
                return None;
            }
            mapper => mapper.unwrap(),
        };
        let statd = udp(0).await.unwrap();
        let (sender, heard) = mpsc::unbounded_channel();
        let ear = Arc::new(Ear {
            statd: statd.local_addr().unwrap().port(),
            heard: sender,
        });
        let mut tasks = tokio::task::JoinSet::new();
        for socket in [mapper, statd] {
            let ear = ear.clone();
            tasks.spawn(async move { rpc::server::serve_udp(socket, ear).await.unwrap() });
        }
        Some(Peer { heard, _tasks: tasks })
    }

    async fn hears(&mut self, expected: &str) {
        let heard = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
        assert_eq!(heard.expect("nothing is heard").unwrap(), expected);
    }
}

/// A server with a folder for its state.
struct Serving {
    child: Child,
    folder: PathBuf,
    ports: serde_json::Value,
}

fn serve(folder: &Path) -> Command {
    let mut command = Command::new(nfslab_binary());
    command
        .args(["serve", "--ports", "auto", "--grace", "600", "--control"])
        .arg(format!("unix:{}", folder.join("control").display()))
        .arg("--ready-file")
        .arg(folder.join("ready"))
        .arg("--state-dir")
        .arg(folder.join("state"));
    command
}

impl Serving {
    fn start(folder: &Path) -> Serving {
        let ready = folder.join("ready");
        let _ = std::fs::remove_file(&ready);
        let child = serve(folder).spawn().unwrap();
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

    fn events(&self) -> String {
        let control = format!("unix:{}", self.folder.join("control").display());
        let output = Command::new(nfslab_binary())
            .arg("events")
            .env("NFSLAB_CONTROL", control)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
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
            cookie: "c".into(),
            block: false,
            exclusive: true,
            alock: Nlm4Lock {
                caller_name: "test".into(),
                fh: fh[..].into(),
                oh: "o".into(),
                svid: 1,
                l_offset: 0,
                l_len: 0,
            },
            reclaim,
            state: 1,
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
    let forget = Command::new(nfslab_binary())
        .args(["peer", "forget", "--all"])
        .env(
            "NFSLAB_CONTROL",
            format!("unix:{}", folder.path().join("control").display()),
        )
        .output()
        .unwrap();
    assert!(forget.status.success());
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
    assert!(first.heard.try_recv().is_err(), "told once");
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
        let output = serve(folder.path()).stdout(Stdio::null()).output().unwrap();
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
