//! The journal and its replay.

use crate::kit::*;
use faults::Service;
use faults::journal::Journal;
use nfslab::server::Config;
use rpc::msg::Transport;

/// What one client does: twenty LOCKs and what became of them, while another does something else.
fn work(lab: &Lab, noise: u32) -> Vec<u32> {
    let mut wire = lab.tcp(Service::Lockd);
    let mut other = lab.dial(Service::Mount, Transport::Udp);
    let mut answers = Vec::new();
    for n in 0..20 {
        for more in 0..noise {
            other.send(&null(1000 * noise + 100 * n + more, Service::Mount));
            other.next();
        }
        answers.push(stat(wire.ask(&lock(500 * noise + n, &lab.fh, 1))));
    }
    answers
}

const LINES: [&str; 3] = [
    "chance: nlm.lock p=0.5 -> answer NLM4_DENIED",
    "third: nlm.lock every=3 -> answer NLM4_DENIED_NOLOCKS",
    "mount.null p=0.5 optional=true -> refuse SYSTEM_ERR",
];

async fn start(seed: u64, replay: Option<Journal>) -> Lab {
    let config = Config {
        seed,
        rules: rules(&LINES),
        replay,
        ..Config::default()
    };
    Lab::keeping(config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_decisions_whatever_another_client_does_in_between() {
    let mut runs = Vec::new();
    for (seed, noise) in [(1, 0), (1, 3), (2, 3)] {
        let lab = start(seed, None).await;
        let answers = work(&lab, noise);
        let journal = lab.server.node().journal();
        assert_eq!(journal.header.seed, seed);
        runs.push((answers, journal));
        lab.server.stop().await;
    }
    let of = |n: usize, rule: &str| runs[n].1.comparable().get(rule).cloned();
    for rule in ["chance", "third"] {
        assert_eq!(of(0, rule).unwrap(), of(1, rule).unwrap());
    }
    assert_eq!(of(0, "third"), of(2, "third"), "no chance");
    assert_ne!(of(0, "chance"), of(2, "chance"), "another seed");
    assert_eq!(runs[0].0, runs[1].0);
    assert_ne!(runs[1].0, runs[2].0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_takes_the_decisions_from_the_journal_with_another_seed() {
    let lab = start(1, None).await;
    let (answers, journal) = (work(&lab, 0), lab.server.node().journal());
    lab.server.stop().await;
    let journal = Journal::parse(&journal.to_lines()).unwrap();
    let again = start(99, Some(journal.clone())).await;
    assert_eq!(work(&again, 0), answers);
    let node = again.server.node();
    assert_eq!(node.journal().comparable(), journal.comparable());
    let verified = node.verify(&[], true);
    assert!(verified.passed, "{verified:?}");
    again.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_has_not_come_to_its_end_or_goes_beyond_it_is_a_failure() {
    let lab = start(1, None).await;
    work(&lab, 0);
    let mut journal = lab.server.node().journal();
    lab.server.stop().await;
    let again = start(1, Some(journal.clone())).await;
    let left = again.server.node().verify(&[], true);
    assert!(
        left.checks
            .iter()
            .any(|check| check.found.contains("40 decisions")),
        "{left:?}"
    );
    again.server.stop().await;
    journal.entries.retain(|entry| entry.count < 20);
    let beyond = start(1, Some(journal)).await;
    work(&beyond, 0);
    let differs = beyond.server.node().differs().await.to_string();
    assert!(
        differs.contains("call 20") && differs.contains("only 19"),
        "{differs}"
    );
    let told = beyond.server.node().verify(&[], true);
    assert!(!told.passed, "{told:?}");
    beyond.server.stop().await;
}

/// Many connections decide at once; the journal has each decision once, in order, also over a change of the rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn decisions_of_many_connections_are_in_the_order_in_which_they_were_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let config = Config {
        journal: Some(path.clone()),
        rules: rules(&["all: nlm.null -> pass"]),
        ..Config::default()
    };
    let lab = Lab::keeping(config).await;
    for round in 0..2 {
        std::thread::scope(|scope| {
            for client in 0..4 {
                let mut wire = lab.tcp(Service::Lockd);
                scope.spawn(move || {
                    for n in 0..250 {
                        wire.ask(&null(10_000 * round + 1000 * client + n, Service::Lockd))
                            .unwrap();
                    }
                });
            }
        });
        lab.set(&["all: nlm.null -> pass"]);
    }
    let written = Journal::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(written.comparable(), lab.server.node().journal().comparable());
    let numbers: Vec<u64> = written.entries.iter().map(|entry| entry.n).collect();
    assert_eq!(numbers, (1..=2000).collect::<Vec<_>>());
    let counts: Vec<u64> = written.entries.iter().map(|entry| entry.count).collect();
    assert_eq!(counts, (1..=1000).chain(1..=1000).collect::<Vec<_>>());
    lab.server.stop().await;
}
