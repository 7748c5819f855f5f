//! NLM as clients other than Linux speak it: versions 1 and 3, the asynchronous procedures, shares. A Linux
//! kernel shows none of these (it speaks version 4 and waits for its replies), and there is no second
//! implementation to compare with, so the client is a small one of our own: addresses of 127.0.0.0/8, each
//! with a port mapper and a lock manager that write down what they are called with. Port 111 takes
//! privilege; without it the tests that need it say so and end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;
#[path = "common/fake_client.rs"]
mod fake_client;

use bytes::Bytes;
use common::{connect, connect_from, make_file};
use fake_client::FakeClient;
use faults::{Condition, Service};
use nfslab::server::{Config, Ports, Server};
use proto::nlm::{self, FshAccess, FshMode, Nlm4Stat, NlmProc, V1, V3, V4, v3};
use proto::portmap;
use rpc::client::{CallError, Client, Target};
use rpc::msg::{RpcError, Transport};
use rpc::xdr::{self, Encode, Reader, Writer};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

async fn start(config: Config) -> Server {
    let config = Config {
        ports: Ports::AUTO,
        ..config
    };
    Server::start(config).await.unwrap()
}

fn lock_of(fh: &[u8], svid: i32, l_offset: u64, l_len: u64) -> nlm::Nlm4Lock<'_> {
    nlm::Nlm4Lock {
        caller_name: "fake".into(),
        fh: fh.into(),
        oh: "owner".into(),
        svid,
        l_offset,
        l_len,
    }
}

/// Arguments of one of the five procedures, in either width.
fn args(version: u32, procedure: NlmProc, cookie: &[u8], lock: nlm::Nlm4Lock<'_>, block: bool) -> Bytes {
    let mut w = Writer::new();
    let (exclusive, reclaim, state) = (true, false, 3);
    nlm::Netobj::from(cookie).encode(&mut w);
    match procedure {
        NlmProc::NLM_LOCK | NlmProc::NLM_CANCEL => {
            block.encode(&mut w);
            exclusive.encode(&mut w);
        }
        NlmProc::NLM_TEST | NlmProc::NLM_GRANTED => exclusive.encode(&mut w),
        _ => {}
    }
    if version == V4 {
        lock.encode(&mut w);
    } else {
        v3::Lock::from(lock).encode(&mut w);
    }
    if procedure == NlmProc::NLM_LOCK {
        reclaim.encode(&mut w);
        i32::encode(&state, &mut w);
    }
    w.into_bytes()
}

struct Raw(Bytes);

impl Encode for Raw {
    fn encode(&self, w: &mut Writer) {
        w.raw(&self.0);
    }
}

async fn call(client: &Client, version: u32, procedure: NlmProc, args: Bytes) -> Result<Bytes, CallError> {
    let target = Target::new(nlm::PROGRAM, version, procedure.0);
    client.call(target, &Raw(args), PATIENCE).await
}

/// Status and cookie of a result; of a TEST, without the holder.
fn outcome(result: &Bytes) -> (Bytes, u32) {
    let mut r = Reader::new(result);
    let cookie = Bytes::copy_from_slice(r.opaque("cookie", 1024).unwrap());
    (cookie, r.u32("status").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_asynchronous_call_is_answered_by_a_call_to_where_it_came_from() {
    let Some(mut fake) = FakeClient::start([127, 0, 7, 1]).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let pcap = folder.path().join("async.pcapng");
    let server = start(Config {
        pcap: Some(pcap.clone()),
        ..Config::default()
    })
    .await;
    let fh = make_file(&server, "f").await;
    let asynchronous = [
        (NlmProc::NLM_LOCK, 0),
        (NlmProc::NLM_TEST, 0),
        (NlmProc::NLM_CANCEL, 0),
        (NlmProc::NLM_UNLOCK, 0),
        (NlmProc::NLM_GRANTED, 1),
    ];
    let cookies: [&[u8]; 5] = [b"cook", b"", &[1; 5], &[2; 32], &[3; 1024]];
    for version in [V1, V3, V4] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let client = fake.connect(&server, transport).await;
            for ((procedure, stat), cookie) in asynchronous.into_iter().zip(cookies) {
                let arguments = args(version, procedure, cookie, lock_of(&fh, 1, 0, 0), false);
                let message = NlmProc(procedure.0 + 5);
                let reply = call(&client, version, message, arguments).await.unwrap();
                assert!(reply.is_empty(), "{message}: the reply is void");
                let answer = NlmProc(procedure.0 + 10);
                let result = fake.called(version, transport, answer).await;
                let cookie = if cookie.is_empty() { &[0; 4] } else { cookie };
                assert_eq!(
                    outcome(&result),
                    (Bytes::copy_from_slice(cookie), stat),
                    "{answer}"
                );
            }
            // Answers to us are taken, and change nothing.
            for procedure in 11..=15 {
                let res = xdr::to_bytes(&nlm::Res {
                    cookie: "none".into(),
                    stat: Nlm4Stat::NLM4_GRANTED,
                });
                let reply = call(&client, version, NlmProc(procedure), res).await.unwrap();
                assert!(reply.is_empty() && fake.quiet());
            }
        }
    }
    let peers = server.node().peers();
    assert_eq!(peers[0].monitored, "statd", "LOCK_MSG monitors as LOCK does");
    assert_eq!(server.node().locks(None, 9).total, 0);
    fake.tasks.shutdown().await;
    server.stop().await;
    let tshark = |filter: &str| {
        let run = Command::new("tshark")
            .arg("-r")
            .arg(&pcap)
            .args(["-Y", filter])
            .output();
        String::from_utf8(run.expect("tshark is missing: `make deps` installs it").stdout).unwrap()
    };
    assert_eq!(tshark("_ws.malformed"), "");
    // LOCK_RES of version 1, by both transports: our answer, and the one that the client sent us.
    assert_eq!(
        tshark("rpc.msgtyp == 0 && nlm.procedure_v1 == 12")
            .lines()
            .count(),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_waits_is_granted_by_a_call_of_the_same_version() {
    let Some(mut fake) = FakeClient::start([127, 0, 7, 2]).await else {
        return;
    };
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let holder = connect([127, 0, 7, 3].into(), &server, Service::Lockd, Transport::Tcp).await;
    for (version, transport) in [(V1, Transport::Udp), (V3, Transport::Tcp), (V4, Transport::Udp)] {
        let lock = lock_of(&fh, 5, 10, 20);
        let held = args(V4, NlmProc::NLM_LOCK, b"h", lock_of(&fh, 1, 0, 0), false);
        assert_eq!(
            outcome(&call(&holder, V4, NlmProc::NLM_LOCK, held).await.unwrap()).1,
            0
        );
        let client = fake.connect(&server, transport).await;
        let wanted = args(version, NlmProc::NLM_LOCK, b"wait", lock, true);
        call(&client, version, NlmProc::NLM_LOCK_MSG, wanted)
            .await
            .unwrap();
        let result = fake.called(version, transport, NlmProc::NLM_LOCK_RES).await;
        assert_eq!(outcome(&result), (Bytes::from_static(b"wait"), 3), "BLOCKED");
        let unlock = args(V4, NlmProc::NLM_UNLOCK, b"h", lock_of(&fh, 1, 0, 0), false);
        call(&holder, V4, NlmProc::NLM_UNLOCK, unlock).await.unwrap();
        let granted = fake.called(version, transport, NlmProc::NLM_GRANTED_MSG).await;
        let granted: nlm::TestArgs<'_> = match version {
            V4 => xdr::from_bytes(&granted).unwrap(),
            _ => xdr::from_bytes::<v3::TestArgs<'_>>(&granted).unwrap().into(),
        };
        assert_eq!(granted.alock, lock);
        let res = xdr::to_bytes(&nlm::Res {
            cookie: granted.cookie,
            stat: Nlm4Stat::NLM4_GRANTED,
        });
        call(&client, version, NlmProc::NLM_GRANTED_RES, res)
            .await
            .unwrap();
        assert_eq!(server.node().locks(None, 9).waiting, []);
        let unlock = args(version, NlmProc::NLM_UNLOCK, b"u", lock, false);
        let result = call(&client, version, NlmProc::NLM_UNLOCK, unlock).await.unwrap();
        assert_eq!(outcome(&result).1, 0);
    }
    server.stop().await;
}

/// The asynchronous form waits in the same queue, and is not replied to while it does.
#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_lock_waits_for_statd_like_any_other() {
    let Some(mut fake) = FakeClient::start([127, 0, 7, 4]).await else {
        return;
    };
    let mut config = Config::default();
    config.conditions.set(Service::Statd, Condition::Absent);
    let server = start(config).await;
    let fh = make_file(&server, "f").await;
    let client = fake.connect(&server, Transport::Tcp).await;
    let lock = args(V3, NlmProc::NLM_LOCK, b"late", lock_of(&fh, 1, 0, 0), false);
    let target = Target::new(nlm::PROGRAM, V3, NlmProc::NLM_LOCK_MSG.0);
    let silence = client.call(target, &Raw(lock), Duration::from_millis(300)).await;
    assert!(matches!(silence, Err(CallError::TimedOut(_))), "{silence:?}");
    assert!(fake.quiet());
    server.node().clock.advance(Duration::from_secs(62));
    let result = fake.called(V3, Transport::Tcp, NlmProc::NLM_LOCK_RES).await;
    assert_eq!(outcome(&result), (Bytes::from_static(b"late"), 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_statuses_of_old_versions_are_those_of_32_bits() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let old = connect([127, 0, 7, 5].into(), &server, Service::Lockd, Transport::Tcp).await;
    let new = connect([127, 0, 7, 6].into(), &server, Service::Lockd, Transport::Tcp).await;
    let ask = async |client: &Client, version, procedure, svid, offset, len| {
        let arguments = args(version, procedure, b"c", lock_of(&fh, svid, offset, len), false);
        call(client, version, procedure, arguments).await.unwrap()
    };
    // A last byte of 2^31 is the end of the file to version 3, and nothing special to version 4.
    let result = ask(&old, V3, NlmProc::NLM_LOCK, 1, 1, 1 << 31).await;
    assert_eq!(outcome(&result).1, 0);
    let result = ask(&new, V4, NlmProc::NLM_TEST, 1, 1 << 40, 1).await;
    let test: nlm::TestRes<'_> = xdr::from_bytes(&result).unwrap();
    let holder = test.holder.unwrap();
    assert_eq!(
        (test.stat, holder.l_offset, holder.l_len),
        (Nlm4Stat::NLM4_DENIED, 1, 0)
    );
    // A lock that 32 bits cannot tell.
    ask(&old, V3, NlmProc::NLM_UNLOCK, 1, 0, 0).await;
    ask(&new, V4, NlmProc::NLM_LOCK, 1, 1 << 40, 5).await;
    let result = ask(&old, V1, NlmProc::NLM_TEST, 1, 0, 0).await;
    let test: v3::TestRes<'_> = xdr::from_bytes(&result).unwrap();
    let holder = test.holder.unwrap();
    assert_eq!((test.stat.0, holder.l_offset, holder.l_len), (1, u32::MAX, 5));
    // A handle that is none: FAILED, which is none of the five statuses.
    for (version, stat) in [(V1, 2), (V3, 2), (V4, 9)] {
        let arguments = args(
            version,
            NlmProc::NLM_TEST,
            b"c",
            lock_of(b"nothing", 1, 0, 0),
            false,
        );
        let result = call(&old, version, NlmProc::NLM_TEST, arguments).await.unwrap();
        assert_eq!(outcome(&result).1, stat, "version {version}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_is_registered_and_there_is_no_second() {
    let server = start(Config::default()).await;
    let mapper = connect([127, 0, 7, 7].into(), &server, Service::Portmap, Transport::Udp).await;
    let dump = mapper
        .call(Target::new(portmap::PROGRAM, 2, 4), &(), PATIENCE)
        .await
        .unwrap();
    let list: portmap::PmapList = xdr::from_bytes(&dump).unwrap();
    let versions = list
        .0
        .iter()
        .filter(|m| m.prog == nlm::PROGRAM)
        .map(|m| (m.vers, m.prot.0));
    // In whatever order.
    let expected = [(1, 6), (1, 17), (3, 6), (3, 17), (4, 6), (4, 17)];
    assert_eq!(versions.collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    let client = connect([127, 0, 7, 7].into(), &server, Service::Lockd, Transport::Tcp).await;
    let refused =
        async |version, procedure| match call(&client, version, NlmProc(procedure), Bytes::new()).await {
            Err(CallError::Refused(error)) => error,
            other => panic!("version {version} procedure {procedure}: {other:?}"),
        };
    assert_eq!(refused(2, 0).await, RpcError::ProgMismatch { low: 1, high: 4 });
    for (version, procedure) in [
        (V1, 17),
        (V1, 20),
        (V1, 23),
        (V3, 17),
        (V3, 24),
        (V4, 19),
        (V4, 24),
    ] {
        assert_eq!(refused(version, procedure).await, RpcError::ProcUnavail);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_taken_shown_and_freed() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let one = connect([127, 0, 7, 8].into(), &server, Service::Lockd, Transport::Tcp).await;
    let two = connect([127, 0, 7, 9].into(), &server, Service::Lockd, Transport::Tcp).await;
    let share = async |client: &Client, version, access, mode| {
        let arguments = xdr::to_bytes(&nlm::ShareArgs {
            cookie: "c".into(),
            share: nlm::Share {
                caller_name: "dos".into(),
                fh: fh[..].into(),
                oh: "com".into(),
                mode,
                access,
            },
            reclaim: false,
        });
        let result = call(client, version, NlmProc::NLM_SHARE, arguments)
            .await
            .unwrap();
        let res: nlm::ShareRes<'_> = xdr::from_bytes(&result).unwrap();
        assert_eq!((res.cookie.0, res.sequence), (&b"c"[..], 0));
        res.stat.0
    };
    assert_eq!(share(&one, V3, FshAccess::FSA_RW, FshMode::FSM_DW).await, 0);
    assert_eq!(share(&two, V4, FshAccess::FSA_W, FshMode::FSM_DN).await, 1);
    let shares = server.node().locks(None, 9).shares;
    assert_eq!(shares.len(), 1);
    assert_eq!(
        (&*shares[0].access, &*shares[0].mode, &*shares[0].name),
        ("FSA_RW", "FSM_DW", "dos")
    );
    assert_eq!(server.node().peers()[0].shares, 1);
    let all = xdr::to_bytes(&nlm::Notify {
        name: "dos".into(),
        state: 5,
    });
    assert!(
        call(&one, V3, NlmProc::NLM_FREE_ALL, all)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(share(&two, V4, FshAccess::FSA_W, FshMode::FSM_DN).await, 0);
    server.stop().await;
}

/// From the network nobody can say it, whatever the private value; by way of the status monitor a peer can.
#[tokio::test(flavor = "multi_thread")]
async fn news_of_a_reboot_come_by_way_of_the_status_monitor_only() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let client = connect([127, 0, 7, 10].into(), &server, Service::Lockd, Transport::Udp).await;
    let lock = args(V4, NlmProc::NLM_LOCK, b"c", lock_of(&fh, 1, 0, 0), false);
    call(&client, V4, NlmProc::NLM_LOCK, lock).await.unwrap();
    let status = xdr::to_bytes(&nlm::SmStatus {
        mon_name: "127.0.7.10".into(),
        state: 5,
        private: [0; 16],
    });
    for version in [V1, V3, V4] {
        let refused = call(&client, version, NlmProc::NLM_SM_NOTIFY, status.clone()).await;
        assert!(
            matches!(refused, Err(CallError::Refused(RpcError::SystemErr))),
            "{refused:?}"
        );
    }
    // Our own monitor may, but must bring what it was given.
    let from = SocketAddr::from(([127, 0, 7, 10], 1009));
    match connect_from(from, &server, Service::Lockd, Transport::Tcp).await {
        Ok(monitor) => {
            let reply = call(&monitor, V3, NlmProc::NLM_SM_NOTIFY, status.clone()).await;
            assert!(reply.unwrap().is_empty());
        }
        Err(error) => println!("not tried from a reserved port: {error}"),
    }
    assert_eq!(server.node().locks(None, 9).total, 1);
    let statd = connect([127, 0, 7, 10].into(), &server, Service::Statd, Transport::Udp).await;
    let change = proto::nsm::StatChge {
        mon_name: "127.0.7.10".into(),
        state: 5,
    };
    let notify = Target::new(proto::nsm::PROGRAM, 1, proto::nsm::SmProc::SM_NOTIFY.0);
    statd.call(notify, &change, PATIENCE).await.unwrap();
    let freed = async {
        while server.node().locks(None, 9).total > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed)
        .await
        .expect("the lock is freed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_table_is_shown_page_by_page() {
    let server = start(Config::default()).await;
    let client = connect([127, 0, 7, 11].into(), &server, Service::Lockd, Transport::Tcp).await;
    for name in ["a", "b", "c"] {
        let fh = make_file(&server, name).await;
        for n in 0..7 {
            let lock = args(
                V4,
                NlmProc::NLM_LOCK,
                b"c",
                lock_of(&fh, n, n as u64 * 10, 5),
                false,
            );
            call(&client, V4, NlmProc::NLM_LOCK, lock).await.unwrap();
        }
    }
    for limit in [1, 4, 7, 20, 21] {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = server.node().locks(after, limit);
            assert!(page.held.len() <= limit && page.total == 21);
            seen.extend(page.held.into_iter().map(|lock| (lock.path, lock.start)));
            match page.next {
                Some(next) => after = Some(next.parse().unwrap()),
                None => break,
            }
        }
        assert_eq!(seen.len(), 21);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 21, "each once");
    }
    server.stop().await;
}
