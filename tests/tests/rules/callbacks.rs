//! What is done to the calls that the server makes: GRANTED, the answers to asynchronous calls, SM_NOTIFY. Port 111 of
//! a client takes privilege; without it these tests say so and end.

use crate::common::{connect_from, lock_args};
use crate::fake_client::FakeClient;
use crate::kit::*;
use bytes::Bytes;
use faults::{Condition, Service};
use nfslab::server::Verdict;
use proto::nlm::{self, CancelArgs, LockArgs, Nlm4Stat, NlmProc, Res, UnlockArgs, V3, V4, v3};
use proto::nsm::{self, SmProc, StatChge};
use rpc::client::{Client, Target};
use rpc::msg::Transport;
use rpc::xdr::{self, Encode};
use std::time::Duration;

const GRANTED: NlmProc = NlmProc::NLM_GRANTED_MSG;

/// A server whose only file is locked, and a client that can be called back.
struct Scene {
    lab: Lab,
    fake: FakeClient,
    client: Client,
}

impl Scene {
    async fn new(address: [u8; 4], transport: Transport, lines: &[&str]) -> Option<Scene> {
        let fake = FakeClient::start(address).await?;
        let lab = Lab::start(lines).await;
        assert_eq!(stat(lab.tcp(Service::Lockd).ask(&lock_all(1, &lab.fh, 1))), 0);
        let client = fake.connect(&lab.server, transport).await;
        Some(Scene { lab, fake, client })
    }

    async fn ask(&self, version: u32, procedure: NlmProc, args: &(dyn Encode + Sync)) -> Bytes {
        let target = Target::new(nlm::PROGRAM, version, procedure.0);
        self.client.call(target, args, PATIENCE).await.unwrap()
    }

    fn wanted(&self) -> LockArgs<'_> {
        LockArgs {
            block: true,
            ..lock_args(&self.lab.fh, 9, 10, 20)
        }
    }

    /// The client waits for the lock.
    async fn blocked(&self) {
        let reply = self.ask(V4, NlmProc::NLM_LOCK, &self.wanted()).await;
        let stat = xdr::from_bytes::<Res<'_>>(&reply).unwrap().stat;
        assert_eq!(stat, Nlm4Stat::NLM4_BLOCKED);
    }

    /// The holder gives it away.
    fn unlocked(&self) {
        let args = UnlockArgs {
            cookie: "c".into(),
            alock: lock_args(&self.lab.fh, 1, 0, 0).alock,
        };
        let unlock = nlm(2, NlmProc::NLM_UNLOCK, &args);
        assert_eq!(stat(self.lab.tcp(Service::Lockd).ask(&unlock)), 0);
    }

    async fn granted(&mut self, transport: Transport) -> Bytes {
        self.fake.called(V4, transport, GRANTED).await
    }

    async fn end(mut self) {
        self.fake.tasks.shutdown().await;
        self.lab.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_is_lost_and_comes_again_when_the_server_tries_again() {
    for (transport, address) in [(Transport::Tcp, [127, 0, 8, 1]), (Transport::Udp, [127, 0, 8, 2])] {
        let lines = ["callback nlm.granted_msg count=1 -> drop"];
        let Some(mut scene) = Scene::new(address, transport, &lines).await else {
            return;
        };
        scene.blocked().await;
        scene.unlocked();
        scene.lab.happens("callback/NLM_GRANTED_MSG").await;
        assert!(scene.fake.quiet());
        assert_eq!(scene.lab.done(0), 1);
        let calls = &scene.fake.calls;
        scene
            .lab
            .advance_until(Duration::from_secs(10), || !calls.is_empty())
            .await;
        scene.granted(transport).await;
        let node = scene.lab.server.node();
        let expected = "at least 2 of callback nlm.granted_msg owner=9 bytes=15 peer=127.0.8.0/24".parse();
        let verified = node.verify(&[expected.unwrap()], true);
        assert!(verified.passed, "{verified:?}");
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_comes_several_times() {
    let lines = ["callback nlm.granted_msg -> duplicate 2"];
    let Some(mut scene) = Scene::new([127, 0, 8, 3], Transport::Tcp, &lines).await else {
        return;
    };
    scene.blocked().await;
    scene.unlocked();
    let first = scene.granted(Transport::Tcp).await;
    for _ in 0..2 {
        assert_eq!(scene.granted(Transport::Tcp).await, first);
    }
    scene.lab.happens("callback/NLM_GRANTED_MSG").await;
    assert!(scene.fake.quiet());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_is_held_and_let_go_or_dropped() {
    let lines = ["callback nlm.granted_msg caller=test exclusive=true -> hold g"];
    let Some(mut scene) = Scene::new([127, 0, 8, 4], Transport::Udp, &lines).await else {
        return;
    };
    scene.blocked().await;
    scene.unlocked();
    scene.lab.at_gate("g", 1).await;
    assert!(scene.fake.quiet());
    let node = scene.lab.server.node();
    assert!(
        node.gates()[0].held[0].call.contains("owner 9"),
        "{:?}",
        node.gates()
    );
    node.release("g", None, None, Verdict::Drop);
    scene.lab.happens("callback/NLM_GRANTED_MSG").await;
    assert!(scene.fake.quiet());
    let held = || !node.gates()[0].held.is_empty();
    scene.lab.advance_until(Duration::from_secs(10), held).await;
    node.release("g", None, None, Verdict::Go);
    let node = scene.lab.server.node().clone();
    scene.granted(Transport::Udp).await;
    assert!(node.gates()[0].arrived >= 2);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_is_late_by_the_clock_of_the_server() {
    let lines = ["callback nlm.granted_msg count=1 -> delay 5s"];
    let Some(mut scene) = Scene::new([127, 0, 8, 5], Transport::Tcp, &lines).await else {
        return;
    };
    scene.blocked().await;
    scene.unlocked();
    scene.lab.happens(&format!("rule/{}", lines[0])).await;
    assert!(scene.fake.quiet());
    let calls = &scene.fake.calls;
    scene
        .lab
        .advance_until(Duration::from_secs(5), || !calls.is_empty())
        .await;
    let called = scene.fake.next().await;
    assert_eq!(called.procedure, GRANTED);
    scene.end().await;
}

/// The race of RFC-less NLM that every client must survive: the lock is granted before its BLOCKED has arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_granted_overtakes_the_reply_that_says_blocked() {
    let lines = ["nlm.lock owner=9 -> wait callback/NLM_GRANTED_MSG at before-reply"];
    let Some(mut scene) = Scene::new([127, 0, 8, 6], Transport::Tcp, &lines).await else {
        return;
    };
    let wanted = xdr::to_bytes(&scene.wanted());
    let client = scene.fake.connect(&scene.lab.server, Transport::Tcp).await;
    let target = Target::new(nlm::PROGRAM, V4, NlmProc::NLM_LOCK.0);
    let blocked = tokio::spawn(async move { client.call(target, &Raw(wanted), PATIENCE).await.unwrap() });
    let waits = async {
        while scene.lab.server.node().locks(None, 9).waiting.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("it waits");
    scene.ask(V4, NlmProc::NLM_NULL, &()).await;
    assert!(!blocked.is_finished());
    scene.unlocked();
    scene.granted(Transport::Tcp).await;
    let reply = blocked.await.unwrap();
    assert_eq!(
        xdr::from_bytes::<Res<'_>>(&reply).unwrap().stat,
        Nlm4Stat::NLM4_BLOCKED
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_waits_until_its_client_has_cancelled() {
    let lines = ["callback nlm.granted_msg -> wait call/NLM_CANCEL"];
    let Some(mut scene) = Scene::new([127, 0, 8, 7], Transport::Tcp, &lines).await else {
        return;
    };
    scene.blocked().await;
    scene.unlocked();
    scene.lab.happens(&format!("rule/{}", lines[0])).await;
    assert!(scene.fake.quiet());
    let cancel = CancelArgs {
        cookie: "c".into(),
        block: true,
        exclusive: true,
        alock: scene.wanted().alock,
    };
    // The callback's task may not listen yet.
    let crossed = async {
        while scene.fake.calls.is_empty() {
            scene.ask(V4, NlmProc::NLM_CANCEL, &cancel).await;
        }
    };
    tokio::time::timeout(PATIENCE, crossed).await.expect("it comes");
    scene.granted(Transport::Tcp).await;
    scene.end().await;
}

struct Raw(Bytes);

impl Encode for Raw {
    fn encode(&self, w: &mut xdr::Writer) {
        w.raw(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_granted_are_set_in_every_version() {
    for (address, version) in [([127, 0, 8, 8], V3), ([127, 0, 8, 9], V4)] {
        let lines =
            ["callback nlm.granted_msg -> set svid=-7 offset=77 len=88 exclusive=0 cookie=0x61626364"];
        let Some(mut scene) = Scene::new(address, Transport::Udp, &lines).await else {
            return;
        };
        let wanted = scene.wanted();
        let args = match version {
            V4 => xdr::to_bytes(&wanted),
            _ => xdr::to_bytes(&v3::LockArgs {
                cookie: "c".into(),
                block: true,
                exclusive: true,
                alock: wanted.alock.into(),
                reclaim: false,
                state: 1,
            }),
        };
        scene.ask(version, NlmProc::NLM_LOCK, &Raw(args)).await;
        scene.unlocked();
        let called = scene.fake.called(version, Transport::Udp, GRANTED).await;
        let granted: nlm::TestArgs<'_> = match version {
            V4 => xdr::from_bytes(&called).unwrap(),
            _ => xdr::from_bytes::<v3::TestArgs<'_>>(&called).unwrap().into(),
        };
        let lock = granted.alock;
        assert_eq!((lock.svid, lock.l_offset, lock.l_len), (-7, 77, 88));
        assert_eq!((granted.cookie, granted.exclusive), ("abcd".into(), false));
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_goes_to_another_port_and_any_word_of_it_is_set() {
    let Some(mut scene) = Scene::new([127, 0, 8, 10], Transport::Udp, &[]).await else {
        return;
    };
    let elsewhere = tokio::net::UdpSocket::bind((scene.fake.address, 0))
        .await
        .unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    scene
        .lab
        .set(&[&format!("callback nlm.granted_msg -> set port={port} word:2=5")]);
    scene.blocked().await;
    scene.unlocked();
    let mut message = [0; 1024];
    let came = tokio::time::timeout(PATIENCE, elsewhere.recv(&mut message)).await;
    let len = came.expect("nothing comes").unwrap();
    let header = rpc::msg::CallHeader::read(&mut xdr::Reader::new(&message[..len])).unwrap();
    assert_eq!((header.program, header.procedure), (nlm::PROGRAM, GRANTED.0));
    // Words 0 and 1 are the cookie, 2 is `exclusive`, which is neither true nor false now.
    let exclusive = len - 4 * granted_words(&scene) + 8;
    assert_eq!(message[exclusive..exclusive + 4], [0, 0, 0, 5]);
    assert!(scene.fake.quiet());
    scene.fake.tasks.shutdown().await;
    scene.lab.server.stop().await;
}

/// How many words the arguments of GRANTED have for what [`Scene::wanted`] asks.
fn granted_words(scene: &Scene) -> usize {
    let wanted = scene.wanted();
    let args = nlm::TestArgs {
        cookie: "1234".into(),
        exclusive: true,
        alock: wanted.alock,
    };
    xdr::to_bytes(&args).len() / 4
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_an_asynchronous_call_is_lost_or_changed() {
    let lines = [
        "callback nlm.lock_res nth=1 -> drop",
        "callback nlm.lock_res -> set cookie=0x41424344 word:2=77",
    ];
    let Some(mut scene) = Scene::new([127, 0, 8, 11], Transport::Tcp, &lines).await else {
        return;
    };
    let wanted = LockArgs {
        cookie: "1234".into(),
        block: false,
        ..scene.wanted()
    };
    let wanted = xdr::to_bytes(&wanted);
    for _ in 0..2 {
        let reply = scene.ask(V4, NlmProc::NLM_LOCK_MSG, &Raw(wanted.clone())).await;
        assert!(reply.is_empty(), "void");
        scene.lab.happens("callback/NLM_LOCK_RES").await;
    }
    let res = scene.fake.called(V4, Transport::Tcp, NlmProc::NLM_LOCK_RES).await;
    assert_eq!(res[..], *b"\0\0\0\x04ABCD\0\0\0\x4d");
    assert_eq!((scene.lab.done(0), scene.lab.done(1)), (1, 1));
    scene.end().await;
}

/// The void reply to a `_MSG` call is a reply like any other.
#[tokio::test(flavor = "multi_thread")]
async fn the_void_reply_to_an_asynchronous_call_is_lost_and_its_answer_comes() {
    let lines = [
        "nlm.lock_msg -> drop-reply",
        "callback nlm.granted_msg optional=true -> drop",
    ];
    let Some(mut scene) = Scene::new([127, 0, 8, 12], Transport::Tcp, &lines).await else {
        return;
    };
    let wanted = xdr::to_bytes(&scene.wanted());
    let client = scene.fake.connect(&scene.lab.server, Transport::Tcp).await;
    let target = Target::new(nlm::PROGRAM, V4, NlmProc::NLM_LOCK_MSG.0);
    let silent = tokio::spawn(async move { client.call(target, &Raw(wanted), PATIENCE).await });
    let res = scene.fake.called(V4, Transport::Tcp, NlmProc::NLM_LOCK_RES).await;
    assert_eq!(res[8..], [0, 0, 0, 3], "BLOCKED");
    assert!(!silent.is_finished());
    silent.abort();
    scene.end().await;
}

/// Late, since statd is slow, and without the duplicate request cache's knowing: once for each copy.
#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_call_that_was_put_off_is_held_at_before_reply() {
    let Some(mut scene) = Scene::new(
        [127, 0, 8, 13],
        Transport::Tcp,
        &["nlm.lock_msg -> hold g at before-reply"],
    )
    .await
    else {
        return;
    };
    scene
        .lab
        .condition(Service::Statd, Condition::Slow(Duration::from_secs(30)))
        .await;
    let wanted = xdr::to_bytes(&scene.wanted());
    let client = scene.fake.connect(&scene.lab.server, Transport::Tcp).await;
    let target = Target::new(nlm::PROGRAM, V4, NlmProc::NLM_LOCK_MSG.0);
    let call = tokio::spawn(async move { client.call(target, &Raw(wanted), PATIENCE).await });
    scene.lab.happens_often("lockd/upcall-started", 2).await;
    assert!(scene.fake.quiet());
    scene.lab.advance(Duration::from_secs(31));
    scene.lab.at_gate("g", 1).await;
    scene.fake.called(V4, Transport::Tcp, NlmProc::NLM_LOCK_RES).await;
    assert!(!call.is_finished());
    scene.lab.server.node().release("g", None, None, Verdict::Go);
    assert!(call.await.unwrap().unwrap().is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sm_notify_is_lost_once_and_tells_another_state_then() {
    let lines = [
        "callback nsm.notify nth=1 -> drop",
        "callback nsm.notify -> set state=-77",
        "nlm.* optional=true -> pass",
    ];
    let Some(mut scene) = Scene::new([127, 0, 8, 14], Transport::Udp, &lines).await else {
        return;
    };
    scene.blocked().await;
    let from = std::net::SocketAddr::from(([127, 0, 0, 1], 1007));
    let here = connect_from(from, &scene.lab.server, Service::Statd, Transport::Udp)
        .await
        .unwrap();
    let crash = Target::new(nsm::PROGRAM, nsm::V1, SmProc::SM_SIMU_CRASH.0);
    here.call(crash, &(), PATIENCE).await.unwrap();
    let calls = &scene.fake.calls;
    scene
        .lab
        .advance_until(Duration::from_secs(1), || !calls.is_empty())
        .await;
    let called = scene.fake.next().await;
    assert_eq!(
        (called.program, called.procedure.0),
        (nsm::PROGRAM, SmProc::SM_NOTIFY.0)
    );
    let change: StatChge<'_> = xdr::from_bytes(&called.args).unwrap();
    assert_eq!(change.state, -77);
    scene.end().await;
}
