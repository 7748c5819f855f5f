//! What other fault injectors learned the hard way: one lesson, one test.

use crate::kit::*;
use faults::Service;
use nfslab::server::{Config, Verdict};
use rpc::msg::Transport;
use std::collections::BTreeSet;
use std::time::Duration;

/// Which of these calls of one owner each are answered DENIED.
fn denied(lab: &Lab, xids: std::ops::Range<u32>) -> Vec<bool> {
    let mut wire = lab.tcp(Service::Lockd);
    xids.map(|xid| stat(wire.ask(&lock(xid, &lab.fh, xid as i32))) == 1)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retransmission_does_not_eat_a_count() {
    let lab = Lab::start(&["nlm.lock nth=2 -> answer NLM4_DENIED", "nlm.lock first=2 -> pass"]).await;
    let mut wire = lab.tcp(Service::Lockd);
    for _ in 0..3 {
        assert_eq!(stat(wire.ask(&lock(1, &lab.fh, 1))), 0);
    }
    assert_eq!(stat(wire.ask(&lock(2, &lab.fh, 2))), 1);
    assert_eq!(
        stat(wire.ask(&lock(2, &lab.fh, 2))),
        0,
        "nor is a copy the second call again"
    );
    let rules = lab.server.node().rules();
    assert_eq!((rules[0].counted, rules[0].fired), (2, 1));
    let verified = lab.server.node().verify(
        &[
            "2 of nlm.lock".parse().unwrap(),
            "5 of nlm.lock transmission=any".parse().unwrap(),
        ],
        false,
    );
    assert!(verified.passed, "{verified:?}");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_rule_changes_when_it_matches_and_not_when_the_reply_goes_out() {
    let lines = [
        "once: nlm.lock count=1 -> hold g at before-reply",
        "nlm.lock after=rule/once -> answer NLM4_DENIED",
    ];
    let lab = Lab::start(&lines).await;
    let (mut one, mut two) = (lab.tcp(Service::Lockd), lab.tcp(Service::Lockd));
    one.send(&lock(1, &lab.fh, 1));
    lab.at_gate("g", 1).await;
    let rules = lab.server.node().rules();
    assert_eq!(
        (rules[0].fired, rules[0].ended),
        (1, true),
        "the reply is still held"
    );
    assert_eq!(stat(two.ask(&lock(2, &lab.fh, 2))), 1);
    lab.server.node().release("g", None, None, Verdict::Go);
    let (xid, result) = one.reply();
    assert_eq!((xid, stat(result)), (1, 0));
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_set_with_one_mistake_changes_nothing() {
    let lab = Lab::start(&["nlm.lock nth=2 -> answer NLM4_DENIED"]).await;
    assert_eq!(denied(&lab, 1..2), [false]);
    for (file, complaint) in [
        (
            "rules = ['nlm.lock -> drop', 'nlm.lock -> drop']",
            "a name of its own",
        ),
        (
            "rules = ['nlm.lock -> drop']\n[[rule]]\ndo = 'twice'\nwhen = { p = 7.0 }",
            "from 0 to 1",
        ),
    ] {
        let file = toml::from_str(file).unwrap();
        let error = lab.server.node().set_rule_file(file).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
    assert_eq!(lab.server.node().rules().len(), 1);
    assert_eq!(denied(&lab, 2..4), [true, false], "it goes on counting");
    lab.server.stop().await;
}

/// If rules of both sets were in force at once, or none, there would be a third answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_swap_under_load_never_shows_a_mixture() {
    const CALLS: u32 = 10_000;
    let sets = [
        [
            "nfs.getattr uid=1 -> pass",
            "nfs.getattr -> answer 70",
            "nfs.* -> answer 71",
        ],
        [
            "nfs.* uid=1 -> answer 72",
            "nfs.access -> answer 73",
            "nfs.getattr -> answer 10008",
        ],
    ];
    let lab = Lab::start(&sets[0]).await;
    let done = std::sync::atomic::AtomicBool::new(false);
    let (answers, swaps) = std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let mut swaps = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                swaps += 1;
                lab.set(&sets[swaps % 2]);
            }
            swaps
        });
        let mut wire = lab.tcp(Service::Nfs);
        let answers: BTreeSet<u32> = (0..CALLS)
            .map(|xid| first(wire.ask(&getattr(xid, &lab.fh))))
            .collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (answers, swapping.join().unwrap())
    });
    assert_eq!(answers, BTreeSet::from([70, 10008]), "over {swaps} swaps");
    assert!(swaps > 10, "{swaps}");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_rule_fails_the_verification_and_says_what_came_instead() {
    let lines = [
        "done: nlm.lock -> pass",
        "never: nlm.lock owner=99 -> drop",
        "allowed: nlm.cancel optional=true -> drop",
        "late: nlm.lock nth=5 -> drop",
        "other: mount.mnt -> drop",
    ];
    let lab = Lab::start(&lines).await;
    denied(&lab, 1..3);
    let verified = lab.server.node().verify(&[], true);
    assert!(!verified.passed);
    let told: Vec<(&str, &str)> = verified.checks.iter().map(|c| (&*c.expect, &*c.found)).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0].0, "rule never");
    assert!(
        told[0].1.contains("owner=99") && told[0].1.contains("has 2"),
        "{}",
        told[0].1
    );
    assert!(told[1].1.contains("counted 2 calls"), "{}", told[1].1);
    assert!(told[2].1.contains("optional=true"), "{}", told[2].1);
    assert!(lab.server.node().verify(&[], false).passed);
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_of_calls_that_are_not_kept() {
    let lab = Lab::start(&[]).await;
    let check = |text: &str| lab.server.node().verify(&[text.parse().unwrap()], false);
    for text in [
        "never nfs.remove",
        "never *",
        "0 of nfs.getattr",
        "nfs.read before nlm.lock",
    ] {
        let verified = check(text);
        assert!(
            !verified.passed && verified.checks[0].found.contains("optional=true"),
            "{verified:?}"
        );
    }
    lab.set(&["nfs.* path=/x optional=true -> drop"]);
    assert!(!check("never nfs.remove").passed, "only those about /x");
    assert!(check("never nfs.remove path=/x").passed);
    lab.set(&["nfs.* optional=true -> pass"]);
    assert!(check("never nfs.remove").passed && check("never nfs.read uid=7").passed);
    removed(lab.tcp(Service::Nfs).ask(&remove(1, &lab.root, "f")));
    assert!(check("1 of nfs.remove").passed && !check("never nfs.remove").passed);
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_puts_everything_back() {
    let config = Config {
        rules: rules(&["start: nlm.lock nth=1 -> answer NLM4_DENIED"]),
        ..Config::default()
    };
    let lab = Lab::with(config, &["* -> drop"]).await;
    let mut lost = lab.tcp(Service::Lockd);
    lost.send(&lock(1, &lab.fh, 1));
    lab.happens("rule/* -> drop").await;
    let node = lab.server.node();
    node.set_gate_open("g", true);
    node.reset().await.unwrap();
    let names: Vec<String> = node.rules().into_iter().map(|rule| rule.name).collect();
    assert_eq!(names, ["start"], "as at the start");
    assert_eq!((node.gates(), node.journal().entries), (vec![], vec![]));
    assert_eq!(denied(&lab, 2..4), [true, false], "it counts anew");
    assert!(node.verify(&["2 of nlm.lock".parse().unwrap()], true).passed);
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_ends_a_rule_by_the_clock_of_the_server() {
    let lab = Lab::start(&["nlm.lock ttl=30s -> answer NLM4_DENIED"]).await;
    assert_eq!(denied(&lab, 1..3), [true, true]);
    lab.advance(Duration::from_secs(31));
    assert_eq!(denied(&lab, 3..5), [false, false]);
    assert!(lab.server.node().rules()[0].ended);
    lab.set(&["nlm.lock ttl=30s -> answer NLM4_DENIED"]);
    assert_eq!(denied(&lab, 5..6), [true], "since it was set");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn editing_one_rule_leaves_the_choices_of_the_others_as_they_were() {
    let chance = "chance: nlm.lock p=0.5 -> answer NLM4_DENIED";
    let mut runs = Vec::new();
    for others in [
        &[][..],
        &["nlm.lock p=0.3 -> pass"],
        &["nlm.lock p=0.4 every=7 -> pass"],
        &["mount.* p=0.9 -> drop", "nlm.unlock -> twice"],
    ] {
        let lab = Lab::start(&[others, &[chance]].concat()).await;
        denied(&lab, 1..101);
        let journal = lab.server.node().journal();
        let chosen: Vec<bool> = journal
            .entries
            .iter()
            .filter(|entry| entry.rule == "chance")
            .map(|entry| entry.chosen)
            .collect();
        assert_eq!(chosen.len(), 100);
        runs.push(chosen);
        lab.server.stop().await;
    }
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    let chosen = runs[0].iter().filter(|chosen| **chosen).count();
    assert!((30..70).contains(&chosen), "{chosen} of 100 with p=0.5");
}

/// Nobody sleeps: whoever waits at a gate is woken by the arrival, and its time is over only if there is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_waits_for_an_arrival_and_not_for_a_while() {
    let lab = Lab::start(&["nlm.lock -> hold g"]).await;
    let node = lab.server.node().clone();
    let waiting = tokio::spawn(async move { node.wait_at_gate("g", 2, PATIENCE).await });
    let mut wire = lab.dial(Service::Lockd, Transport::Udp);
    wire.send(&lock(1, &lab.fh, 1));
    lab.at_gate("g", 1).await;
    assert!(!waiting.is_finished());
    wire.send(&lock(2, &lab.fh, 2));
    assert!(waiting.await.unwrap());
    let node = lab.server.node();
    assert!(!node.wait_at_gate("g", 3, Duration::from_millis(1)).await);
    assert!(!node.wait_at_gate("elsewhere", 1, Duration::from_millis(1)).await);
    lab.server.stop().await;
}

/// A thousand rules, each for a file, an owner or a peer that never comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_rules_that_match_nothing_change_nothing() {
    let lab = Lab::start(&[]).await;
    let lines: Vec<String> = (0..1000)
        .map(|n| match n % 5 {
            0 => format!("nlm.* owner={} -> drop", 1_000_000 + n),
            1 => format!("nfs.* path=/nowhere/{n} -> answer NFS3ERR_IO"),
            2 => format!("* peer=10.9.{}.{} -> reset", n / 250, n % 250),
            3 => format!("nfs.remove handle={n:08x} -> drop"),
            _ => format!("nlm.lock caller=nobody{n} -> hold g{n}"),
        })
        .collect();
    lab.set(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let threads: Vec<_> = (0..4)
        .map(|client: u32| {
            let (mut nlm, mut nfs) = (lab.tcp(Service::Lockd), lab.dial(Service::Nfs, Transport::Udp));
            let fh = lab.fh.clone();
            std::thread::spawn(move || {
                for n in 1..501 {
                    let xid = client * 10_000 + 2 * n;
                    let svid = (client * 1000 + n) as i32;
                    assert_eq!(stat(nlm.ask(&lock(xid, &fh, svid))), 0);
                    assert_eq!(first(nfs.ask(&getattr(xid, &fh))), 0);
                    assert_eq!(stat(nlm.ask(&unlock(xid + 1, &fh, svid))), 0);
                }
            })
        })
        .collect();
    let panicked = threads
        .into_iter()
        .filter_map(|thread| thread.join().err())
        .count();
    assert_eq!((panicked, lab.held()), (0, 0));
    assert!(lab.server.node().rules().iter().all(|rule| rule.counted == 0));
    lab.server.stop().await;
}
