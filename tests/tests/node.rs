//! What happens to the server as a whole, and to its lock table, because somebody wants it to: a reboot without the end
//! of the process, stale handles, locks that are lost, leaked and granted twice, peers that are declared rebooted.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;
#[path = "common/peer.rs"]
mod peer;

use common::{lock_args, make_file, mounted};
use faults::Service;
use nfslab::control::api::{BreakLocks, DoubleGrant, LeakLock, RebootNode, StaleHandles};
use nfslab::server::{Config, ControlAt, Ports, Server};
use nfslab_tests::nfslab_binary;
use peer::Peer;
use proto::nfs3::{
    Commit3Args, Commit3Res, Diropargs3, Fattr3, Getattr3Res, Nfs3Proc, NfsFh3, Nfsstat3, Remove3Res, Res3,
};
use proto::nlm::{LockArgs, Nlm4Stat, NlmProc, Res, UnlockArgs};
use proto::nsm::{SmName, SmProc, SmStatRes};
use rpc::client::{CallError, Client, Target};
use rpc::msg::Transport;
use rpc::xdr;
use serde_json::Value;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const GRANTED: Nlm4Stat = Nlm4Stat::NLM4_GRANTED;
const DENIED: Nlm4Stat = Nlm4Stat::NLM4_DENIED;

async fn start(config: Config) -> Server {
    let config = Config {
        ports: Ports::AUTO,
        ..config
    };
    Server::start(config).await.unwrap()
}

async fn connect(client: u8, server: &Server, service: Service) -> Client {
    common::connect([127, 0, 0, client].into(), server, service, Transport::Tcp).await
}

async fn ask(client: &Client, args: LockArgs<'_>) -> Nlm4Stat {
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);
    let reply = client.call(target, &args, PATIENCE).await.unwrap();
    xdr::from_bytes::<Res<'_>>(&reply).unwrap().stat
}

async fn lock(client: &Client, fh: &[u8], svid: i32) -> Nlm4Stat {
    ask(client, lock_args(fh, svid, 0, 0)).await
}

async fn lock_and_wait(client: &Client, fh: &[u8], svid: i32) -> Nlm4Stat {
    let args = LockArgs {
        block: true,
        ..lock_args(fh, svid, 0, 0)
    };
    ask(client, args).await
}

async fn unlock(client: &Client, fh: &[u8], svid: i32) -> Nlm4Stat {
    let args = UnlockArgs {
        cookie: "c".into(),
        alock: lock_args(fh, svid, 0, 0).alock,
    };
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_UNLOCK.0);
    let reply = client.call(target, &args, PATIENCE).await.unwrap();
    xdr::from_bytes::<Res<'_>>(&reply).unwrap().stat
}

/// The state number of the server's status monitor.
async fn state(server: &Server) -> i32 {
    let statd = connect(9, server, Service::Statd).await;
    let target = Target::new(proto::nsm::PROGRAM, 1, SmProc::SM_STAT.0);
    let reply = statd
        .call(target, &SmName::from("127.0.0.9"), PATIENCE)
        .await
        .unwrap();
    xdr::from_bytes::<SmStatRes>(&reply).unwrap().state
}

async fn verifier(server: &Server, fh: &[u8]) -> [u8; 8] {
    let nfs = connect(9, server, Service::Nfs).await;
    let args = Commit3Args {
        file: NfsFh3::from(fh),
        offset: 0,
        count: 0,
    };
    let target = Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_COMMIT.0);
    let reply = nfs.call(target, &args, PATIENCE).await.unwrap();
    match xdr::from_bytes::<Commit3Res>(&reply).unwrap() {
        Res3::Ok(done) => done.verf,
        Res3::Err(status, _) => panic!("{status}"),
    }
}

async fn getattr(server: &Server, fh: &[u8]) -> Result<Fattr3, Nfsstat3> {
    let nfs = connect(9, server, Service::Nfs).await;
    let target = Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_GETATTR.0);
    let reply = nfs.call(target, &NfsFh3::from(fh), PATIENCE).await.unwrap();
    match xdr::from_bytes::<Getattr3Res>(&reply).unwrap() {
        Res3::Ok(attr) => Ok(attr),
        Res3::Err(status, ()) => Err(status),
    }
}

/// REMOVE on a connection of its own, and so always with the same xid.
async fn remove(server: &Server, name: &str) -> Nfsstat3 {
    let root = mounted(server).await;
    let nfs = connect(9, server, Service::Nfs).await;
    let args = Diropargs3 {
        dir: NfsFh3::from(&root[..]),
        name: name.into(),
    };
    let target = Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_REMOVE.0);
    let reply = nfs.call(target, &args, PATIENCE).await.unwrap();
    xdr::from_bytes::<Remove3Res>(&reply).unwrap().status()
}

async fn reboot(server: &Server, how: RebootNode) -> i32 {
    server
        .node()
        .reboot(how.parse().unwrap())
        .await
        .unwrap()
        .state
        .unwrap()
}

fn all() -> BreakLocks {
    BreakLocks {
        all: true,
        ..BreakLocks::default()
    }
}

fn has(server: &Server, kind: &str) -> bool {
    server
        .node()
        .events
        .since(0)
        .0
        .iter()
        .any(|event| event.kind() == kind)
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
async fn a_reboot_is_one_to_clients() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let gone = make_file(&server, "gone").await;
    let (one, two) = (
        connect(2, &server, Service::Lockd).await,
        connect(3, &server, Service::Lockd).await,
    );
    assert_eq!(lock(&one, &fh, 1).await, GRANTED);
    assert_eq!(lock_and_wait(&two, &fh, 2).await, Nlm4Stat::NLM4_BLOCKED);
    let node = server.node();
    node.set_condition(Service::Lockd, faults::Condition::Hung)
        .await
        .unwrap();
    let null = Target::new(proto::nlm::PROGRAM, 4, 0);
    let unanswered = two.call(null, &(), Duration::from_millis(50)).await;
    assert!(
        matches!(unanswered, Err(CallError::TimedOut(_))),
        "{unanswered:?}"
    );
    node.set_condition(Service::Nfs, faults::Condition::LyingPort(7))
        .await
        .unwrap();
    assert_eq!([remove(&server, "gone").await; 1], [Nfsstat3::NFS3_OK]);
    assert_eq!(
        remove(&server, "gone").await,
        Nfsstat3::NFS3_OK,
        "answered as before"
    );
    let (old_state, old_verifier) = (state(&server).await, verifier(&server, &fh).await);
    let idle = connect(2, &server, Service::Nfs).await;

    let how = RebootNode {
        grace: Some("50s".to_owned()),
        ..RebootNode::default()
    };
    assert_eq!(reboot(&server, how).await, old_state + 2);

    let nfs_null = Target::new(proto::nfs3::PROGRAM, 3, 0);
    for (client, target) in [(&one, null), (&two, null), (&idle, nfs_null)] {
        let cut = client.call(target, &(), PATIENCE).await;
        assert!(
            matches!(cut, Err(CallError::Closed | CallError::Io(_))),
            "{cut:?}"
        );
    }
    assert_eq!(state(&server).await, old_state + 2);
    assert_eq!(state(&server).await % 2, 1);
    assert_ne!(verifier(&server, &fh).await, old_verifier);
    assert_eq!(
        remove(&server, "gone").await,
        Nfsstat3::NFS3ERR_NOENT,
        "what was answered is forgotten"
    );
    assert_eq!(getattr(&server, &gone).await, Err(Nfsstat3::NFS3ERR_STALE));
    assert!(getattr(&server, &fh).await.is_ok(), "handles outlive it");
    let page = node.locks(None, 10);
    assert_eq!((page.total, page.waiting.len(), node.peers().len()), (0, 0, 0));
    let conditions: Vec<String> = node.services().into_iter().map(|s| s.condition).collect();
    assert_eq!(
        conditions,
        ["ok", "ok", "lying port 7", "hung", "ok"],
        "it cures nothing"
    );

    node.set_condition(Service::Lockd, faults::Condition::Ok)
        .await
        .unwrap();
    let (one, two) = (
        connect(2, &server, Service::Lockd).await,
        connect(3, &server, Service::Lockd).await,
    );
    assert_eq!(lock(&two, &fh, 2).await, Nlm4Stat::NLM4_DENIED_GRACE_PERIOD);
    let reclaim = LockArgs {
        reclaim: true,
        ..lock_args(&fh, 1, 0, 0)
    };
    assert_eq!(ask(&one, reclaim).await, GRANTED);
    node.clock.advance(Duration::from_secs(50));
    seen(&server, "lockd/grace-ended").await;
    assert_eq!(lock(&two, &fh, 2).await, DENIED);
    assert!(has(&server, "node/rebooted") && has(&server, "lockd/server-rebooted"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_without_a_grace_period_begins_that_of_the_start() {
    for (grace, expected) in [(0, GRANTED), (50, Nlm4Stat::NLM4_DENIED_GRACE_PERIOD)] {
        let server = start(Config {
            grace: Duration::from_secs(grace),
            ..Config::default()
        })
        .await;
        let fh = make_file(&server, "f").await;
        server.node().clock.advance(Duration::from_secs(50));
        reboot(&server, RebootNode::default()).await;
        let client = connect(2, &server, Service::Lockd).await;
        assert_eq!(lock(&client, &fh, 1).await, expected, "{grace}");
        server.stop().await;
    }
}

/// A service that had no sockets has none after it either.
#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_listen_does_not_listen_after_a_reboot() {
    let server = start(Config::default()).await;
    let node = server.node();
    for (service, condition) in [
        (Service::Mount, faults::Condition::Absent),
        (Service::Statd, faults::Condition::Refused),
    ] {
        node.set_condition(service, condition).await.unwrap();
        reboot(&server, RebootNode::default()).await;
        let refused = std::net::TcpStream::connect(("127.0.0.1", server.port(service))).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{service}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_were_monitored_are_told_of_a_reboot_or_not() {
    let Some(mut peer) = Peer::start([127, 0, 0, 31]).await else {
        return;
    };
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let monitored = async || {
        let client = connect(31, &server, Service::Lockd).await;
        assert_eq!(lock(&client, &fh, 1).await, GRANTED);
        assert_eq!(server.node().peers()[0].monitored, "statd");
    };
    monitored().await;
    assert_eq!(reboot(&server, RebootNode::default()).await, 3);
    peer.hears("nfslab 3").await;
    monitored().await;
    let nobody = RebootNode {
        notify: Some("none".to_owned()),
        ..RebootNode::default()
    };
    assert_eq!(reboot(&server, nobody).await, 5);
    monitored().await;
    let other = RebootNode {
        as_name: Some("other.lab".to_owned()),
        ..RebootNode::default()
    };
    assert_eq!(reboot(&server, other).await, 7);
    // What had come before it would have been heard before it.
    peer.hears("other.lab 7").await;
    peer.hears("other 7").await;
    seen(&server, "statd/told").await;
    assert!(peer.quiet());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_locks_are_free_and_nobody_is_told() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let (one, two, three) = (
        connect(2, &server, Service::Lockd).await,
        connect(3, &server, Service::Lockd).await,
        connect(4, &server, Service::Lockd).await,
    );
    assert_eq!(lock(&one, &fh, 1).await, GRANTED);
    assert_eq!(lock_and_wait(&two, &fh, 2).await, Nlm4Stat::NLM4_BLOCKED);
    let of = |peer: &str| BreakLocks {
        peer: Some(peer.to_owned()),
        ..BreakLocks::default()
    };
    assert_eq!(server.node().forget_locks(&of("127.0.0.3")), 0);
    assert_eq!(server.node().forget_locks(&of("127.0.0.2")), 1);
    let page = server.node().locks(None, 10);
    assert_eq!((page.total, page.waiting.len()), (0, 1));
    assert_eq!(
        lock(&three, &fh, 3).await,
        GRANTED,
        "both one and three believe they have it"
    );
    assert!(has(&server, "lockd/locks-forgotten") && !has(&server, "lockd/granted"));
    assert_eq!(unlock(&one, &fh, 1).await, GRANTED);
    assert_eq!(server.node().locks(None, 10).total, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_lock_is_an_orphan_until_the_reset() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let leak = |path: &str, start, len, kind: &str| {
        let which = LeakLock {
            path: path.to_owned(),
            start,
            len,
            kind: kind.to_owned(),
            lasts: None,
        };
        server.node().leak_lock(&which).map_err(|error| error.to_string())
    };
    let leaked = leak("/lab/f", 0, 10, "shared").unwrap();
    assert_eq!((leaked.name.as_str(), leaked.svid), ("orphan", 1));
    assert_eq!(leak("/lab/f", 5, 10, "shared").unwrap().svid, 2);
    let error = leak("/lab/f", 0, 0, "exclusive").unwrap_err();
    assert!(error.contains("orphan (0.0.0.0) owner"), "{error}");
    let error = leak("/lab/g", 0, 0, "exclusive").unwrap_err();
    assert!(error.contains("/lab/g") && error.contains("NOENT"), "{error}");
    assert!(
        leak("/else/f", 0, 0, "exclusive")
            .unwrap_err()
            .contains("in /lab")
    );
    let held = server.node().locks(None, 10).held;
    assert!(
        held.iter().all(|lock| lock.orphan && lock.name == "orphan"),
        "{held:?}"
    );
    let client = connect(2, &server, Service::Lockd).await;
    assert_eq!(lock(&client, &fh, 1).await, DENIED);
    assert_eq!(ask(&client, lock_args(&fh, 1, 15, 0)).await, GRANTED);
    assert!(!server.node().locks(None, 10).held[2].orphan);
    assert!(has(&server, "lockd/orphaned"));
    server.node().reset().await.unwrap();
    assert_eq!(server.node().locks(None, 10).total, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_are_granted_the_same_lock() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let (one, two) = (
        connect(2, &server, Service::Lockd).await,
        connect(3, &server, Service::Lockd).await,
    );
    let due = |count| {
        let which = DoubleGrant {
            path: "/lab/f".to_owned(),
            count,
            lasts: None,
        };
        assert_eq!(server.node().double_grant(&which).unwrap().count, count);
    };
    due(1);
    assert_eq!(lock(&one, &fh, 1).await, GRANTED);
    assert_eq!(lock(&two, &fh, 2).await, GRANTED);
    assert_eq!(lock(&two, &fh, 2).await, DENIED, "once");
    assert_eq!(server.node().locks(None, 10).total, 1);
    assert_eq!(unlock(&two, &fh, 2).await, GRANTED);
    assert_eq!(server.node().locks(None, 10).total, 1, "it was never entered");
    due(5);
    server.node().reset().await.unwrap();
    assert_eq!(lock(&one, &fh, 1).await, GRANTED);
    assert_eq!(lock(&two, &fh, 2).await, DENIED, "a reset forgets it");
    let events = server.node().events.since(0).0;
    let told = events
        .iter()
        .find(|e| e.kind() == "lockd/doubly-granted")
        .unwrap();
    assert!(
        told.sentence().contains("test (127.0.0.3) owner 2 is granted"),
        "{}",
        told.sentence()
    );
    assert!(told.sentence().contains("/lab/f"), "{}", told.sentence());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_declared_rebooted_loses_its_locks() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let (one, two) = (
        connect(2, &server, Service::Lockd).await,
        connect(3, &server, Service::Lockd).await,
    );
    assert_eq!(lock(&one, &fh, 1).await, GRANTED);
    assert_eq!(lock(&two, &fh, 2).await, DENIED);
    assert_eq!(server.node().reboot_peer("127.0.0.9"), 0);
    assert!(!has(&server, "node/peer-rebooted"));
    assert_eq!(server.node().reboot_peer("127.0.0.2"), 1);
    assert_eq!(lock(&two, &fh, 2).await, GRANTED);
    assert_eq!(server.node().reboot_peer("test"), 2, "both call themselves so");
    assert_eq!(server.node().locks(None, 10).total, 0);
    assert!(has(&server, "node/peer-rebooted") && has(&server, "lockd/peer-rebooted"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_handle_goes_stale_and_the_reset_brings_the_old_ones_back() {
    let server = start(Config::default()).await;
    let (old_root, old) = (mounted(&server).await, make_file(&server, "f").await);
    let fileid = getattr(&server, &old).await.unwrap().fileid;
    let held = make_file(&server, "held").await;
    let client = connect(2, &server, Service::Lockd).await;
    assert_eq!(lock(&client, &held, 1).await, GRANTED);
    server.node().stale_handles(&StaleHandles::default()).unwrap();
    for fh in [&old_root, &old] {
        assert_eq!(getattr(&server, fh).await, Err(Nfsstat3::NFS3ERR_STALE));
    }
    assert_eq!(lock(&client, &old, 1).await, Nlm4Stat::NLM4_STALE_FH);
    assert_eq!(unlock(&client, &old, 1).await, Nlm4Stat::NLM4_STALE_FH);
    assert_eq!(
        server.node().locks(None, 10).held[0].path,
        "/lab/held",
        "it has its name still"
    );
    assert_eq!(
        unlock(&client, &held, 1).await,
        GRANTED,
        "lockd has a locked file open, as on Linux"
    );
    assert_ne!(mounted(&server).await, old_root);
    let new = make_file(&server, "f").await;
    assert_ne!(new, old);
    assert_eq!(getattr(&server, &new).await.unwrap().fileid, fileid);
    assert_eq!(lock(&client, &new, 1).await, GRANTED);
    assert!(has(&server, "node/handles-stale"));
    server.node().reset().await.unwrap();
    assert_eq!(getattr(&server, &old).await.unwrap().fileid, fileid);
    assert_eq!(getattr(&server, &new).await, Err(Nfsstat3::NFS3ERR_STALE));
    server.stop().await;
}

/// By virtual time: nothing but `advance` moves it.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_the_server_for_a_time_is_undone_after_it() {
    let server = start(Config {
        virtual_time: true,
        ..Config::default()
    })
    .await;
    let node = server.node();
    let lasts = |time: &str| Some(time.to_owned());
    let seconds = Duration::from_secs;
    let fh = make_file(&server, "f").await;
    let client = connect(2, &server, Service::Lockd).await;
    let leak = LeakLock {
        path: "/lab/f".to_owned(),
        start: 0,
        len: 0,
        kind: "exclusive".to_owned(),
        lasts: lasts("30s"),
    };
    node.leak_lock(&leak).unwrap();
    node.advance(seconds(29)).await;
    assert_eq!(lock(&client, &fh, 1).await, DENIED);
    node.advance(seconds(1)).await;
    assert!(has(&server, "lockd/orphan-gone"));
    assert_eq!(lock(&client, &fh, 1).await, GRANTED);

    let other = connect(3, &server, Service::Lockd).await;
    let due = DoubleGrant {
        path: "/lab/f".to_owned(),
        count: 1,
        lasts: lasts("30s"),
    };
    node.double_grant(&due).unwrap();
    node.advance(seconds(30)).await;
    assert_eq!(lock(&other, &fh, 1).await, DENIED);
    node.double_grant(&due).unwrap();
    node.advance(seconds(29)).await;
    assert_eq!(lock(&other, &fh, 1).await, GRANTED);

    // A reset ends the times too: that of the older fault does not end the newer one.
    node.leak_lock(&LeakLock {
        path: "/lab/g".to_owned(),
        ..leak.clone()
    })
    .unwrap_err();
    let g = make_file(&server, "g").await;
    let leak = LeakLock {
        path: "/lab/g".to_owned(),
        ..leak
    };
    node.leak_lock(&leak).unwrap();
    node.reset().await.unwrap();
    node.advance(seconds(10)).await;
    node.leak_lock(&leak).unwrap();
    node.advance(seconds(29)).await;
    assert_eq!(lock(&client, &g, 1).await, DENIED);
    node.advance(seconds(1)).await;
    assert_eq!(lock(&client, &g, 1).await, GRANTED);
    for wrong in [
        node.leak_lock(&LeakLock {
            lasts: lasts("30"),
            ..leak
        })
        .unwrap_err(),
        node.double_grant(&DoubleGrant {
            lasts: lasts("30"),
            ..due
        })
        .unwrap_err(),
        node.stale_handles(&StaleHandles { lasts: lasts("30") })
            .unwrap_err(),
    ] {
        assert!(format!("{wrong:#}").contains("for: '30'"), "{wrong:#}");
    }
    assert!(!has(&server, "node/handles-stale"), "nothing was changed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_that_are_stale_for_a_time_are_good_again_after_it() {
    let server = start(Config {
        virtual_time: true,
        ..Config::default()
    })
    .await;
    let node = server.node();
    let old = make_file(&server, "f").await;
    let stale = |lasts: Option<&str>| {
        let lasts = lasts.map(str::to_owned);
        node.stale_handles(&StaleHandles { lasts }).unwrap();
    };
    let stale_now = async || getattr(&server, &old).await.map(drop) == Err(Nfsstat3::NFS3ERR_STALE);
    let advance = async |seconds| node.advance(Duration::from_secs(seconds)).await;
    stale(Some("30s"));
    advance(29).await;
    assert!(stale_now().await && !has(&server, "node/handles-good"));
    let meanwhile = make_file(&server, "f").await;
    reboot(&server, RebootNode::default()).await;
    advance(1).await;
    seen(&server, "node/handles-good").await;
    assert!(!stale_now().await);
    assert_eq!(getattr(&server, &meanwhile).await, Err(Nfsstat3::NFS3ERR_STALE));

    // Set anew, with a time, without one, and after a reset: the older time does not end it.
    stale(Some("30s"));
    advance(10).await;
    stale(Some("50s"));
    advance(20).await;
    assert!(stale_now().await);
    stale(None);
    advance(30).await;
    assert!(stale_now().await);
    stale(Some("30s"));
    node.reset().await.unwrap();
    assert!(!stale_now().await);
    stale(None);
    advance(30).await;
    assert!(stale_now().await);
    server.stop().await;
}

/// As a user types it.
#[tokio::test(flavor = "multi_thread")]
async fn the_shell_commands_do_it_and_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let control = format!("unix:{}", folder.path().join("control").display());
    let server = start(Config {
        control: ControlAt::At(control.parse().unwrap()),
        ..Config::default()
    })
    .await;
    let fh = make_file(&server, "f").await;
    let client = connect(2, &server, Service::Lockd).await;
    assert_eq!(lock(&client, &fh, 1).await, GRANTED);
    let run = async |line: &str| {
        let mut command = tokio::process::Command::new(nfslab_binary());
        command.args(line.split(' ')).env("NFSLAB_CONTROL", &control);
        let output = command.output().await.unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let json = async |line: &str| {
        let (code, text) = run(&format!("{line} --output json")).await;
        assert_eq!(code, 0, "{line}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(json("lock forget --path /lab/f").await["forgotten"], 1);
    assert_eq!(json("lock leak --path /lab/f --start 4 --len 2").await["svid"], 1);
    let (_, text) = run("lock list").await;
    assert!(
        text.contains("orphan 1 (nobody)") && text.contains("4+2"),
        "{text}"
    );
    assert_eq!(
        json("lock double-grant --path /lab/f --count 2").await["count"],
        2
    );
    assert_eq!(json("peer reboot test").await["rebooted"], 1);
    assert_eq!(json("node reboot --grace 5s --notify none").await["state"], 3);
    assert_eq!(json("node reboot --as other").await["state"], 5);
    assert!(json("node stale-handles").await["state"].is_null());
    let lasting = [
        "lock leak --path /lab/f --for 5m",
        "lock double-grant --path /lab/f --for 5m",
        "node stale-handles --for 5m",
    ];
    for line in lasting {
        json(line).await;
    }
    server.node().clock.advance(Duration::from_secs(300));
    seen(&server, "node/handles-good").await;
    seen(&server, "lockd/orphan-gone").await;
    let wrong = [
        (2, "node reboot --notify some", "all or none"),
        (2, "node reboot --grace 50", "50s"),
        (2, "node reboot --notify none --as other", "'other'"),
        (
            2,
            "lock leak --path /lab/f --kind mandatory",
            "exclusive or shared",
        ),
        (2, "lock leak --path /lab/f --for 30", "30"),
        (2, "lock double-grant --path /lab/f --for 30", "30"),
        (2, "node stale-handles --for 30", "30"),
        (1, "lock leak --path /lab/none", "no file /lab/none"),
        (1, "lock double-grant --path /lab/none", "no file /lab/none"),
        (1, "peer reboot nobody", "no peer 'nobody'"),
        (2, "lock forget", "--all"),
        (2, "service nfs failing", "only statd"),
        (2, "service portmap lying port 0", "portmap cannot"),
        (2, "service lockd", "hung after N"),
    ];
    for (expected, line, says) in wrong {
        let (code, text) = run(line).await;
        assert!(code == expected && text.contains(says), "{line}: {code} {text}");
    }
    assert_eq!(
        json("service lockd lying port 0").await[3]["condition"],
        "lying port 0"
    );
    assert_eq!(json("service nfs blackhole").await[2]["condition"], "hung");
    assert_eq!(json("reset").await[3]["condition"], "ok");
    assert_eq!(getattr(&server, &fh).await.map(drop), Ok(()));
    assert_eq!(server.node().forget_locks(&all()), 0);
    server.stop().await;
}
