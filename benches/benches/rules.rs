//! What deciding about one call costs (`faults::active`): no rules, a thousand for other calls of the same procedure, and
//! one that means the call and never chooses it.

use criterion::{Criterion, criterion_group, criterion_main};
use faults::{Active, Direction, Exchange, Facts, LockFacts, Service, Table, Transport};
use std::hint::black_box;
use std::time::Duration;

fn call() -> Facts {
    Facts {
        exchange: Exchange {
            direction: Direction::Call,
            service: Service::Lockd,
            peer: ([127, 0, 0, 1], 700).into(),
            transport: Transport::Tcp,
            program: proto::nlm::PROGRAM,
            version: proto::nlm::V4,
            procedure: proto::nlm::NlmProc::NLM_LOCK.0,
            xid: 1,
            uid: Some(0),
        },
        client: "web1".to_owned(),
        caller: Some(b"web1".to_vec()),
        lock: Some(LockFacts {
            svid: Some(7),
            exclusive: Some(true),
            ..LockFacts::default()
        }),
        handle: Some(vec![7; 28]),
        path: Some("/lab/file".to_owned()),
        bytes: Some((0, 1)),
    }
}

fn active(lines: impl Iterator<Item = String>) -> Active {
    let rules = lines.map(|line| line.parse().expect("a rule")).collect();
    Active::new(rules, 1, Duration::ZERO, None)
}

fn decide(c: &mut Criterion) {
    let other = |n: u32| match n % 5 {
        0 => format!("nlm.lock|unlock peer=10.9.{}.{} -> drop", n / 256, n % 256),
        1 => format!("nlm.lock|unlock owner={} -> drop", 1_000_000 + n),
        2 => format!("nlm.lock|unlock caller=nobody{n} -> drop"),
        3 => format!("nlm.lock|unlock uid={} -> drop", 70_000 + n),
        _ => format!("nlm.lock|unlock path=/lab/none{n} -> drop"),
    };
    let sets = [
        ("no rules", active(std::iter::empty())),
        ("1,000 rules that mean other calls", active((0..1000).map(other))),
        (
            "1 rule that means it",
            active(["nlm.lock nth=1 -> drop".to_owned()].into_iter()),
        ),
    ];
    let mut call = call();
    let mut group = c.benchmark_group("decide");
    group.sample_size(30).measurement_time(Duration::from_secs(2));
    for (name, active) in sets {
        group.bench_function(name, |b| {
            b.iter(|| {
                call.exchange.xid = call.exchange.xid.wrapping_add(1);
                black_box(active.decide(Duration::ZERO, black_box(&call), Table::default))
            })
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
