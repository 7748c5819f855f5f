//! Gates: calls are held, told apart, and let go in any order.

use crate::kit::*;
use faults::Service;
use nfslab::control::api::HeldView;
use nfslab::server::Verdict;
use rpc::msg::Transport;
use std::time::Duration;

fn held(lab: &Lab, gate: &str) -> Vec<HeldView> {
    let gates = lab.server.node().gates();
    let gate = gates.into_iter().find(|its| its.gate == gate);
    gate.map_or(vec![], |gate| gate.held)
}

fn verdict(text: &str) -> Verdict {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_held_at_every_point_and_let_go() {
    for transport in [Transport::Tcp, Transport::Udp] {
        for (point, executed) in [
            ("received", 0),
            ("before-execute", 0),
            ("after-execute", 1),
            ("before-reply", 1),
        ] {
            let lab = Lab::start(&[&format!("nlm.lock -> hold g at {point}")]).await;
            let mut wire = lab.dial(Service::Lockd, transport);
            wire.send(&lock(7, &lab.fh, 1));
            lab.at_gate("g", 1).await;
            wire.is_silent();
            assert_eq!(lab.held(), executed, "{point}");
            assert_eq!(held(&lab, "g")[0].at, point);
            lab.server.node().release("g", None, None, Verdict::Go);
            let (xid, result) = wire.reply();
            assert_eq!((xid, stat(result), lab.held()), (7, 0, 1), "{point}");
            wire.is_silent();
            lab.server.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_is_dropped_or_answered_otherwise() {
    for (point, executed) in [
        ("received", 0),
        ("before-execute", 0),
        ("after-execute", 1),
        ("before-reply", 1),
    ] {
        let lab = Lab::start(&[&format!("nlm.lock -> hold g at {point}")]).await;
        let mut wire = lab.tcp(Service::Lockd);
        wire.send(&lock(7, &lab.fh, 1));
        wire.send(&lock(8, &lab.fh, 2));
        lab.at_gate("g", 2).await;
        let node = lab.server.node();
        assert_eq!(node.release("g", Some(1), None, Verdict::Drop), 1);
        assert_eq!(
            node.release("g", Some(2), None, verdict("answer NLM4_DENIED_NOLOCKS")),
            1
        );
        let (xid, result) = wire.reply();
        assert_eq!((xid, stat(result)), (8, 2), "{point}");
        wire.is_silent();
        assert_eq!(lab.held(), 2 * executed, "{point}");
        assert_eq!(node.release("g", Some(1), None, Verdict::Go), 0, "it is decided");
        lab.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_calls_at_one_gate_are_told_apart_and_let_go_in_any_order() {
    let lab = Lab::start(&["nlm.lock|unlock -> hold g"]).await;
    let mut wire = lab.tcp(Service::Lockd);
    for (xid, svid) in [(21, 1), (22, 2), (23, 3)] {
        wire.send(&lock(xid, &lab.fh, svid));
        lab.at_gate("g", xid as usize - 20).await;
    }
    wire.send(&unlock(24, &lab.fh, 4));
    lab.at_gate("g", 4).await;
    let calls: Vec<String> = held(&lab, "g").iter().map(|held| held.call.clone()).collect();
    for (call, (name, owner)) in calls.iter().zip([
        ("nlm.lock", 1),
        ("nlm.lock", 2),
        ("nlm.lock", 3),
        ("nlm.unlock", 4),
    ]) {
        assert!(
            call.contains(name) && call.contains(&format!("owner {owner}")),
            "{call}"
        );
        assert!(call.contains("/f"), "{call}");
    }
    let node = lab.server.node();
    let ids: Vec<u64> = held(&lab, "g").iter().map(|held| held.id).collect();
    for (n, xid) in [(2, 23), (0, 21)] {
        assert_eq!(node.release("g", Some(ids[n]), None, Verdict::Go), 1);
        assert_eq!(wire.reply().0, xid);
    }
    assert_eq!(
        node.release("g", None, Some(1), Verdict::Go),
        1,
        "the first that waits"
    );
    assert_eq!(wire.reply().0, 22);
    assert_eq!(node.release("g", None, Some(9), Verdict::Go), 1);
    assert_eq!(wire.reply().0, 24);
    assert_eq!(node.release("g", None, None, Verdict::Go), 0);
    assert_eq!(node.release("nowhere", None, None, Verdict::Go), 0);
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_gate_lets_everything_pass_until_it_is_closed_again() {
    let lab = Lab::start(&["nlm.lock -> hold g"]).await;
    let mut wire = lab.tcp(Service::Lockd);
    let node = lab.server.node();
    wire.send(&lock(1, &lab.fh, 1));
    lab.at_gate("g", 1).await;
    node.set_gate_open("g", true);
    assert_eq!(wire.reply().0, 1);
    assert_eq!(stat(wire.ask(&lock(2, &lab.fh, 2))), 0);
    node.set_gate_open("g", false);
    wire.send(&lock(3, &lab.fh, 3));
    lab.at_gate("g", 1).await;
    let gate = &node.gates()[0];
    assert_eq!((gate.arrived, gate.open, gate.held.len()), (3, false, 1));
    let verified = node.verify(&[], true);
    assert!(
        !verified.passed && verified.checks[0].found.contains("owner 3"),
        "{verified:?}"
    );
    node.release("g", None, None, Verdict::Go);
    assert_eq!(wire.reply().0, 3);
    assert!(node.verify(&[], true).passed);
    lab.server.stop().await;
}

/// At received nobody knows of it yet; at before-execute the duplicate request cache does.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_held_call_is_held_too_unless_the_cache_knows_of_the_call() {
    for (drc, point, held_too) in [
        (true, "received", true),
        (true, "before-execute", false),
        (true, "after-execute", false),
        (false, "received", true),
        (false, "before-execute", true),
        (false, "before-reply", true),
    ] {
        let line = format!("nlm.lock transmission=any -> hold g at {point}");
        let lab = match drc {
            true => Lab::caching(Service::Lockd, &[&line]).await,
            false => Lab::start(&[&line]).await,
        };
        let (mut one, mut two) = (lab.tcp(Service::Lockd), lab.tcp(Service::Lockd));
        one.send(&lock(7, &lab.fh, 1));
        lab.at_gate("g", 1).await;
        two.send(&lock(7, &lab.fh, 1));
        two.is_silent();
        let what = format!("cache {drc}, {point}");
        assert_eq!(held(&lab, "g").len(), 1 + usize::from(held_too), "{what}");
        let node = lab.server.node();
        assert_eq!(node.release("g", Some(1), None, Verdict::Go), 1);
        assert_eq!(one.reply().0, 7, "{what}");
        if held_too {
            // Executed again, or answered from the cache.
            assert_eq!(node.release("g", Some(2), None, Verdict::Go), 1);
            assert_eq!(two.reply().0, 7, "{what}");
        }
        two.is_silent();
        assert_eq!(lab.held(), 1, "{what}");
        lab.server.stop().await;
    }
}

/// Behind the cache, its answer to a copy is not held: the copy is another transmission.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_call_whose_reply_is_held_is_answered_from_the_cache() {
    let lab = Lab::caching(Service::Lockd, &["nlm.lock -> hold g at before-reply"]).await;
    let (mut one, mut two) = (lab.tcp(Service::Lockd), lab.tcp(Service::Lockd));
    one.send(&lock(7, &lab.fh, 1));
    lab.at_gate("g", 1).await;
    assert_eq!(stat(two.ask(&lock(7, &lab.fh, 1))), 0);
    one.is_silent();
    lab.server.node().release("g", None, None, Verdict::Go);
    assert_eq!(one.reply().0, 7);
    lab.server.stop().await;
}

/// A verdict at after-execute is what the cache will say; one at received is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_at_a_gate_is_the_answer_to_copies_if_the_cache_knows_of_the_call() {
    for (point, copy) in [
        ("received", "NFS3_OK"),
        ("before-execute", "NFS3ERR_IO"),
        ("after-execute", "NFS3ERR_IO"),
        ("before-reply", "NFS3_OK"),
    ] {
        let lab = Lab::start(&[&format!("nfs.remove -> hold g at {point}")]).await;
        let mut wire = lab.tcp(Service::Nfs);
        wire.send(&remove(7, &lab.root, "f"));
        lab.at_gate("g", 1).await;
        lab.server
            .node()
            .release("g", None, None, verdict("answer NFS3ERR_IO"));
        assert_eq!(removed(Ok(wire.reply().1.unwrap())), "NFS3ERR_IO", "{point}");
        assert_eq!(removed(wire.ask(&remove(7, &lab.root, "f"))), copy, "{point}");
        lab.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_a_real_directory_are_held_and_decided_about() {
    let Some(lab) = Lab::on_directory(&[
        "nfs.remove -> hold g at before-execute",
        "nfs.getattr -> hold h at after-execute",
    ])
    .await
    else {
        return;
    };
    let node = lab.server.node();
    let mut wire = lab.tcp(Service::Nfs);
    wire.send(&remove(7, &lab.root, "f"));
    lab.at_gate("g", 1).await;
    wire.send(&remove(7, &lab.root, "f"));
    wire.is_silent();
    wire.send(&getattr(8, &lab.fh));
    lab.at_gate("h", 1).await;
    node.release("g", None, None, Verdict::Go);
    // The cache has known of the call since it was held. Its copy may come to its thread only now, and is answered from
    // there.
    assert_eq!(removed(Ok(wire.reply().1.unwrap())), "NFS3_OK");
    node.release("h", None, None, verdict("answer NFS3ERR_JUKEBOX"));
    let answer = loop {
        if let (8, result) = wire.reply() {
            break first(result);
        }
    };
    assert_eq!(answer, 10008);
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_holds_goes_on_when_its_time_is_over() {
    for action in ["hold g", "wait nothing/like-it"] {
        for (point, executed) in [
            ("received", 0),
            ("before-execute", 0),
            ("after-execute", 1),
            ("before-reply", 1),
        ] {
            let config = nfslab::server::Config {
                virtual_time: true,
                ..Default::default()
            };
            let line = format!("timed: nlm.lock ttl=30s -> {action} at {point}");
            let lab = Lab::with(config, &[&line]).await;
            let node = lab.server.node();
            let mut wire = lab.tcp(Service::Lockd);
            node.advance(Duration::from_secs(10)).await;
            wire.send(&lock(7, &lab.fh, 1));
            lab.happens("rule/timed").await;
            node.advance(Duration::from_secs(19)).await;
            wire.is_silent();
            assert_eq!(lab.held(), executed, "{line}");
            // From the set's coming into force, not from the call's arrival.
            node.advance(Duration::from_secs(1)).await;
            let (xid, result) = wire.reply();
            assert_eq!((xid, stat(result), lab.held()), (7, 0, 1), "{line}");
            lab.happens("let-go").await;
            assert_eq!(held(&lab, "g").len(), 0, "{line}");
            assert!(node.verify(&[], true).passed, "{line}");
            wire.is_silent();
            assert_eq!(
                stat(wire.ask(&lock(8, &lab.fh, 2))),
                0,
                "the rule is over: {line}"
            );
            lab.server.stop().await;
        }
    }
}

/// Neither the end of another rule nor other rules let a call go that is held already.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_time_of_the_rule_that_holds_a_call_lets_it_go() {
    let config = nfslab::server::Config {
        virtual_time: true,
        ..Default::default()
    };
    let rules = [
        "short: nlm.lock owner=1 ttl=30s -> hold g",
        "long: nlm.lock owner=2 ttl=60s -> hold g",
        "for-ever: nlm.lock owner=3 -> hold g",
        "decided: nlm.lock owner=4 ttl=30s -> hold g",
    ];
    let lab = Lab::with(config, &rules).await;
    let node = lab.server.node();
    let mut wire = lab.tcp(Service::Lockd);
    for svid in 1..=4 {
        wire.send(&lock(svid as u32, &lab.fh, svid));
        lab.at_gate("g", svid as usize).await;
    }
    let deny = verdict("answer NLM4_DENIED");
    assert_eq!(node.release("g", Some(4), None, deny), 1);
    let (xid, result) = wire.reply();
    assert_eq!((xid, stat(result)), (4, 1));
    lab.set(&["nlm.lock optional=true -> pass"]);
    node.advance(Duration::from_secs(30)).await;
    assert_eq!(wire.reply().0, 1);
    wire.is_silent();
    node.advance(Duration::from_secs(30)).await;
    assert_eq!(wire.reply().0, 2);
    node.advance(Duration::from_secs(3600)).await;
    wire.is_silent();
    let left: Vec<String> = held(&lab, "g").into_iter().map(|held| held.rule).collect();
    assert_eq!(left, ["for-ever"]);
    lab.happens("let-go/long").await;
    let let_go = lab.server.node().events.since(0).0;
    let let_go = let_go.iter().filter(|event| event.kind() == "let-go");
    let told: Vec<String> = let_go.map(|event| event.sentence()).collect();
    assert_eq!(told.len(), 2, "what was decided is not let go: {told:?}");
    assert!(
        told[0].contains("\"short\"") && told[0].contains("owner 1"),
        "{told:?}"
    );
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_held_goes_out_when_the_time_of_its_rule_is_over() {
    let config = nfslab::server::Config {
        virtual_time: true,
        ..Default::default()
    };
    let lab = Lab::with(config, &["callback nlm.granted_msg ttl=30s -> hold g"]).await;
    let node = lab.server.node();
    let mut wire = lab.tcp(Service::Lockd);
    assert_eq!(stat(wire.ask(&lock(1, &lab.fh, 1))), 0);
    assert_eq!(stat(wire.ask(&lock_all(2, &lab.fh, 2))), 3, "blocked");
    assert_eq!(stat(wire.ask(&unlock(3, &lab.fh, 1))), 0);
    lab.at_gate("g", 1).await;
    assert_eq!(held(&lab, "g")[0].at, "before-callback");
    node.advance(Duration::from_secs(30)).await;
    lab.happens("let-go").await;
    // Nobody is there to take it; that it was sent is what counts.
    lab.happens("callback/NLM_GRANTED_MSG").await;
    assert_eq!(held(&lab, "g").len(), 0);
    lab.server.stop().await;
}
