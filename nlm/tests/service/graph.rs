//! Who waits for whom, and where that goes round.

use crate::lab::*;
use nfslab_nlm::personality::{Personality, QueueOrder};
use nfslab_nlm::service::{WaitEdge, WaitFor};

/// A server that finds no deadlocks, so that they can be looked at.
fn blind(queue: QueueOrder) -> Personality {
    Personality {
        deadlock_hops: Some(0),
        queue,
        ..Personality::default()
    }
}

fn lab() -> Lab {
    Lab::with(blind(QueueOrder::Linux))
}

fn short(edge: &WaitEdge) -> String {
    let queued = if edge.waits_for.queued.is_some() {
        " queued"
    } else {
        ""
    };
    let cycle = edge.cycle.map_or(String::new(), |cycle| format!(" in {cycle}"));
    let who = edge.waits_for.who.svid;
    format!(
        "{} for {who} on {}{queued}{cycle}",
        edge.wants.svid, edge.wants.range
    )
}

fn shown(lab: &Lab) -> Vec<String> {
    let graph = lab.service.wait_for(100);
    assert!(!graph.more && !graph.gave_up);
    let cycles: std::collections::BTreeSet<_> = graph.edges.iter().filter_map(|edge| edge.cycle).collect();
    assert_eq!(cycles.len(), graph.cycles);
    graph.edges.iter().map(short).collect()
}

#[test]
fn nobody_waits() {
    let mut lab = lab();
    lab.lock(asker(2, 1));
    let nothing = WaitFor {
        waiting: 0,
        cycles: 0,
        edges: Vec::new(),
        more: false,
        gave_up: false,
    };
    assert_eq!(lab.service.wait_for(9), nothing);
}

#[test]
fn cycles_come_first_and_each_has_its_own_number() {
    let mut lab = lab();
    lab.lock(asker(2, 1).bytes(0, 1));
    assert_eq!(lab.lock(asker(2, 9).bytes(0, 1)), BLOCKED);
    for (a, b, file) in [(1, 2, "f"), (3, 4, "g")] {
        lab.lock(asker(2, a).bytes(1, 1).file(file));
        lab.lock(asker(2, b).bytes(2, 1).file(file));
    }
    assert_eq!(lab.lock(asker(2, 4).bytes(1, 1).file("g")), BLOCKED);
    assert_eq!(lab.lock(asker(2, 1).bytes(2, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(2, 2).bytes(1, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(2, 3).bytes(2, 1).file("g")), BLOCKED);
    let expected = [
        "4 for 3 on byte 1 in 0",
        "3 for 4 on byte 2 in 0",
        "1 for 2 on byte 2 in 1",
        "2 for 1 on byte 1 in 1",
        "9 for 1 on byte 0",
    ];
    assert_eq!(shown(&lab), expected);
    let some = lab.service.wait_for(3);
    assert!(some.more && some.edges.len() == 3 && some.cycles == 2 && some.waiting == 5);
    lab.unlock(asker(2, 1).bytes(1, 1));
    assert_eq!(lab.service.wait_for(9).cycles, 1, "one gave in");
}

/// Readers who all want to write wait for each other; one who wants to alone waits for nobody but them.
#[test]
fn an_upgrade_alone_is_no_cycle() {
    let mut lab = lab();
    for svid in [1, 2, 3] {
        lab.lock(asker(2, svid).shared());
    }
    assert_eq!(lab.lock(asker(2, 1)), BLOCKED);
    let file = "the whole file";
    assert_eq!(
        shown(&lab),
        [format!("1 for 2 on {file}"), format!("1 for 3 on {file}")]
    );
    assert_eq!(lab.lock(asker(2, 2)), BLOCKED);
    let expected = [
        format!("1 for 2 on {file} in 0"),
        format!("2 for 1 on {file} in 0"),
        format!("1 for 3 on {file}"),
        format!("2 for 3 on {file}"),
    ];
    assert_eq!(shown(&lab), expected);
}

#[test]
fn a_fair_queue_has_edges_of_its_own() {
    let mut lab = Lab::with(blind(QueueOrder::Fair));
    lab.lock(asker(2, 1).shared());
    lab.lock(asker(2, 3).file("g"));
    assert_eq!(lab.lock(asker(2, 2)), BLOCKED);
    assert_eq!(lab.lock(asker(2, 3).shared()), BLOCKED);
    let file = "the whole file";
    assert_eq!(
        shown(&lab),
        [format!("2 for 1 on {file}"), format!("3 for 2 on {file} queued")]
    );
    assert_eq!(lab.lock(asker(2, 1).file("g")), BLOCKED);
    let expected = [
        format!("2 for 1 on {file} in 0"),
        format!("3 for 2 on {file} queued in 0"),
        format!("1 for 3 on {file} in 0"),
    ];
    assert_eq!(shown(&lab), expected);
}

/// A ring of a hundred thousand would take as many steps; so do crowds that all want the same.
#[test]
fn large_graphs_take_time_in_proportion() {
    let mut ring = Bench::with(blind(QueueOrder::Linux));
    let nodes = 5000;
    for n in 0..nodes {
        ring.lock(asker(2, n).bytes(n as u64, 1));
    }
    // On files of their own requests are found quickly; here the file is one, so it is kept short.
    for n in 0..nodes {
        let wanted = (n + 1) % nodes;
        assert_eq!(ring.lock(asker(2, n).bytes(wanted as u64, 1)), BLOCKED);
    }
    let graph = ring.service.wait_for(10);
    assert!(graph.more && !graph.gave_up);
    assert_eq!((graph.cycles, graph.waiting), (1, nodes as usize));
    assert!(graph.edges.iter().all(|edge| edge.cycle == Some(0)));
    for queue in [QueueOrder::Linux, QueueOrder::Fair] {
        let mut crowd = Bench::with(blind(queue));
        for svid in 0..nodes {
            crowd.lock(asker(2, svid).shared());
        }
        for svid in 0..nodes {
            assert_eq!(crowd.lock(asker(3, svid)), BLOCKED);
        }
        let graph = crowd.service.wait_for(10);
        assert!(graph.more && !graph.gave_up && graph.cycles == 0);
    }
}
