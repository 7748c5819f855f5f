//! What rules do, told call by call.

use super::*;
use crate::Service;
use crate::exchange::{Exchange, Facts, LockFacts, Transport};
use crate::history::History;
use crate::journal::{Header, Journal};
use crate::names::Calls;
use crate::rule::RuleFile;
use crate::verify;
use std::net::SocketAddr;

fn active(lines: &[&str]) -> Active {
    seeded(lines, 1)
}

fn rules(lines: &[&str]) -> Vec<Rule> {
    let rules = lines.iter().map(|line| line.parse().unwrap()).collect();
    RuleFile {
        rules,
        tables: vec![],
    }
    .into_rules()
    .unwrap()
}

fn seeded(lines: &[&str], seed: u64) -> Active {
    Active::new(rules(lines), seed, Duration::ZERO, None)
}

/// A call of a host, with a number of its own.
fn call(name: &str, host: u8, xid: u32) -> Facts {
    let calls: Calls = name.parse().unwrap();
    let service = calls.service.unwrap();
    let peer = SocketAddr::from(([10, 77, 0, host], 700));
    Facts {
        exchange: Exchange {
            direction: Direction::Call,
            service,
            peer,
            transport: Transport::Tcp,
            program: 100_021,
            version: 4,
            procedure: *calls.procedures.first().unwrap(),
            xid,
            uid: Some(0),
        },
        client: format!("web{host}"),
        caller: Some(format!("web{host}").into_bytes()),
        lock: (service == Service::Lockd).then_some(LockFacts {
            svid: Some(7),
            exclusive: Some(true),
            block: Some(false),
            reclaim: Some(false),
            caller: b"",
        }),
        handle: Some(vec![1, 2]),
        path: Some("/lab/f".to_owned()),
        bytes: Some((0, 0)),
    }
}

fn ask(active: &Active, call: &Facts) -> Option<String> {
    let decision = active.decide(Duration::from_secs(1), call, Table::default)?;
    Some(decision.plan?.action.to_string())
}

/// What becomes of so many calls, each with an xid of its own.
fn run(active: &Active, n: u32) -> Vec<bool> {
    (1..=n)
        .map(|xid| ask(active, &call("nlm.lock", 1, xid)).is_some())
        .collect()
}

#[test]
fn the_nth_every_nth_and_the_first() {
    assert_eq!(
        run(&active(&["nlm.lock nth=2 -> drop"]), 4),
        [false, true, false, false]
    );
    assert_eq!(
        run(&active(&["nlm.lock every=2 -> drop"]), 4),
        [false, true, false, true]
    );
    assert_eq!(
        run(&active(&["nlm.lock first=2 -> drop"]), 4),
        [true, true, false, false]
    );
    assert_eq!(
        run(&active(&["nlm.lock count=1 -> drop"]), 3),
        [true, false, false]
    );
}

#[test]
fn a_copy_is_not_counted() {
    let active = active(&["nlm.lock nth=2 -> drop"]);
    for _ in 0..5 {
        assert_eq!(ask(&active, &call("nlm.lock", 1, 1)), None);
    }
    assert_eq!(ask(&active, &call("nlm.lock", 1, 2)).as_deref(), Some("drop"));
    assert_eq!(
        ask(&active, &call("nlm.lock", 1, 2)),
        None,
        "a copy of the dropped call passes"
    );
    assert_eq!(active.view(Duration::ZERO)[0].counted, 2);
}

#[test]
fn transmissions_are_told_apart() {
    let first_two = active(&["nlm.lock transmission=1-2 nth=1 -> drop"]);
    let lost = |active: &Active| {
        (0..4)
            .map(|_| ask(active, &call("nlm.lock", 1, 9)).is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(lost(&first_two), [true, true, false, false]);
    assert_eq!(ask(&first_two, &call("nlm.lock", 1, 10)), None, "the second call");
    assert_eq!(
        lost(&active(&["nlm.lock transmission=again -> drop"])),
        [false, true, true, true]
    );
    // The same number of another client, or for another procedure, is another call.
    let any = active(&["nlm.lock|unlock -> drop"]);
    for call in [
        call("nlm.lock", 1, 5),
        call("nlm.lock", 2, 5),
        call("nlm.unlock", 1, 5),
    ] {
        assert!(ask(&any, &call).is_some());
    }
}

#[test]
fn what_a_rule_remembers_changes_when_it_decides() {
    // Both calls are under way when the first is decided; no reply has gone out.
    let active = active(&[
        "one: nlm.lock count=1 -> hold g",
        "two: nlm.lock after=rule/one -> drop",
    ]);
    assert_eq!(ask(&active, &call("nlm.lock", 1, 1)).as_deref(), Some("hold g"));
    assert_eq!(ask(&active, &call("nlm.lock", 1, 2)).as_deref(), Some("drop"));
}

#[test]
fn the_first_rule_that_chooses_acts_and_the_others_count() {
    let active = active(&[
        "a: nlm.lock nth=1 -> drop",
        "b: nlm.lock nth=2 -> close",
        "c: nlm.lock -> reset",
    ]);
    let got: Vec<_> = (1..=3)
        .map(|xid| ask(&active, &call("nlm.lock", 1, xid)).unwrap())
        .collect();
    assert_eq!(got, ["drop", "close", "reset"]);
    let counts: Vec<_> = active
        .view(Duration::ZERO)
        .iter()
        .map(|rule| (rule.counted, rule.fired))
        .collect();
    assert_eq!(counts, [(3, 1), (3, 1), (3, 1)]);
}

#[test]
fn counted_apart_for_each_client() {
    let active = active(&["nlm.lock nth=2 per=client -> drop"]);
    let got: Vec<_> = [(1, 1), (2, 1), (1, 2), (2, 2)]
        .map(|(host, xid)| ask(&active, &call("nlm.lock", host, xid)).is_some())
        .to_vec();
    assert_eq!(got, [false, false, true, true]);
}

#[test]
fn events_begin_and_end_a_rule() {
    let active = active(&["nlm.lock after=lockd/granted until=reset -> drop"]);
    assert!(ask(&active, &call("nlm.lock", 1, 1)).is_none());
    active.observe(&["lockd/granted"]);
    assert!(ask(&active, &call("nlm.lock", 1, 2)).is_some());
    active.observe(&["reset"]);
    assert!(ask(&active, &call("nlm.lock", 1, 3)).is_none());
    assert_eq!(
        active.view(Duration::ZERO)[0].counted,
        1,
        "only what came between"
    );
}

#[test]
fn a_time_to_live_ends_a_rule() {
    let active = Active::new(
        rules(&["nlm.lock ttl=30s -> drop"]),
        1,
        Duration::from_secs(100),
        None,
    );
    let at = |secs| {
        active.decide(
            Duration::from_secs(secs),
            &call("nlm.lock", 1, secs as u32),
            Table::default,
        )
    };
    assert!(at(129).unwrap().plan.is_some());
    assert!(at(130).is_none_or(|decision| decision.plan.is_none()));
    assert!(active.view(Duration::from_secs(130))[0].ended);
}

#[test]
fn the_lock_table_decides() {
    let active = active(&["nlm.lock held=2 -> drop"]);
    let held = |held, xid| {
        let table = Table {
            held,
            ..Table::default()
        };
        active
            .decide(Duration::ZERO, &call("nlm.lock", 1, xid), || table)
            .unwrap()
            .plan
            .is_some()
    };
    assert_eq!([held(1, 1), held(2, 2), held(0, 3)], [false, true, false]);
}

#[test]
fn chance_repeats_and_rules_do_not_disturb_each_other() {
    let lines = [
        "a: nlm.lock p=0.3 -> pass",
        "b: nlm.lock p=0.5 optional=true -> drop",
    ];
    let chosen = |active: &Active| -> Vec<bool> {
        let entry = |xid| {
            let decision = active
                .decide(Duration::ZERO, &call("nlm.lock", 1, xid), Table::default)
                .unwrap();
            decision
                .entries
                .iter()
                .find(|entry| entry.rule == "b")
                .unwrap()
                .chosen
        };
        (1..=1000).map(entry).collect()
    };
    let one = chosen(&active(&lines));
    assert_eq!(one, chosen(&active(&lines)), "the same seed");
    assert_eq!(
        one,
        chosen(&active(&["a: nlm.lock p=0.9 -> close", lines[1]])),
        "another rule is edited"
    );
    assert_eq!(one, chosen(&active(&[lines[1]])), "or goes");
    assert_ne!(one, chosen(&seeded(&lines, 2)), "another seed");
    let hits = one.iter().filter(|hit| **hit).count();
    assert!((450..550).contains(&hits), "{hits} of 1000 with p=0.5");
    // Another client's calls in between change nothing.
    let busy = active(&lines);
    let mixed: Vec<bool> = (1..=1000)
        .map(|xid| {
            ask(&busy, &call("nlm.lock", 2, xid));
            let decision = busy
                .decide(Duration::ZERO, &call("nlm.lock", 1, xid), Table::default)
                .unwrap();
            decision
                .entries
                .iter()
                .find(|entry| entry.rule == "b")
                .unwrap()
                .chosen
        })
        .collect();
    assert_eq!(one, mixed);
}

#[test]
fn a_rule_that_was_never_done_is_told_with_the_nearest_call() {
    let set = rules(&[
        "nlm.lock owner=8 exclusive=true -> drop",
        "nlm.cancel -> drop",
        "nfs.read optional=true -> drop",
    ]);
    let active = Active::new(set.clone(), 1, Duration::ZERO, None);
    let mut history = History::default();
    let came = call("nlm.lock", 1, 1);
    ask(&active, &came);
    history.add(came, 1.0);
    let told = verify::unused(&active.view(Duration::ZERO), &set, &history);
    assert_eq!(told.len(), 2);
    assert!(
        told[0].found.contains("owner=8") && told[0].found.contains("has 7"),
        "{}",
        told[0].found
    );
    assert!(told[1].found.contains("1 of nlm.lock"), "{}", told[1].found);
}

#[test]
fn a_journal_is_replayed_and_the_first_difference_is_told() {
    let lines = ["nlm.lock p=0.5 -> drop"];
    let recorded = active(&lines);
    let mut entries = Vec::new();
    let mut original = Vec::new();
    for xid in 1..=20 {
        let decision = recorded
            .decide(Duration::ZERO, &call("nlm.lock", 1, xid), Table::default)
            .unwrap();
        original.push(decision.plan.is_some());
        entries.extend(decision.entries);
    }
    let text: Vec<String> = std::iter::once(serde_json::to_string(&Header::new(1)).unwrap())
        .chain(entries.iter().map(|entry| serde_json::to_string(entry).unwrap()))
        .collect();
    let journal = Journal::parse(&text.join("\n")).unwrap();
    assert_eq!(journal.entries, entries);
    // Another seed, and other xids: the choices are the journal's.
    let again = Active::new(
        rules(&lines),
        99,
        Duration::ZERO,
        Some(Replay::new(journal.clone())),
    );
    let replayed: Vec<bool> = (101..=120)
        .map(|xid| ask(&again, &call("nlm.lock", 1, xid)).is_some())
        .collect();
    assert_eq!(replayed, original);
    assert_eq!(again.not_replayed(), Some(0));
    let more = again
        .decide(Duration::ZERO, &call("nlm.lock", 1, 200), Table::default)
        .unwrap();
    assert!(more.differs.unwrap().to_string().contains("only 20"));
    let other = Active::new(rules(&lines), 1, Duration::ZERO, Some(Replay::new(journal)));
    let differs = other
        .decide(Duration::ZERO, &call("nlm.lock", 2, 1), Table::default)
        .unwrap()
        .differs
        .unwrap();
    assert!(
        differs.how.contains("web1") && differs.how.contains("web2"),
        "{differs}"
    );
    assert!(Journal::parse("{}").unwrap_err().contains("--journal"));
}

#[test]
fn every_key_narrows() {
    let came = call("nlm.lock", 1, 1);
    for fits in [
        "version=4",
        "transport=tcp",
        "peer=10.77.0.0/24",
        "peer=10.77.0.1",
        "caller=web?",
        "owner=7",
        "uid=0",
        "path=/lab/*",
        "path=/lab/f",
        "handle=0102",
        "bytes=100..",
        "exclusive=true",
        "block=false",
        "reclaim=false",
    ] {
        assert!(
            ask(&active(&[&format!("nlm.lock {fits} -> drop")]), &came).is_some(),
            "{fits}"
        );
    }
    for other in [
        "version=3",
        "transport=udp",
        "peer=10.78.0.0/16",
        "peer=10.77.0.2",
        "caller=db*",
        "owner=8",
        "uid=1",
        "path=/other/*",
        "path=/lab/g",
        "handle=0103",
        "exclusive=false",
        "block=true",
        "reclaim=true",
    ] {
        assert!(
            ask(&active(&[&format!("nlm.lock {other} -> drop")]), &came).is_none(),
            "{other}"
        );
    }
}
