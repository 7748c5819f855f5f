//! Rings of waiting owners: long ones, wide ones, over files and over whole files.

use crate::lab::*;
use nfslab_nlm::personality::{Personality, QueueOrder};
const HOPS: i32 = 1000;

fn personalities() -> impl Iterator<Item = (Option<u32>, Personality)> {
    let of = |deadlock_hops, queue| Personality {
        deadlock_hops,
        queue,
        ..Personality::default()
    };
    [None, Some(10)]
        .into_iter()
        .flat_map(move |hops| [QueueOrder::Linux, QueueOrder::Fair].map(|queue| (hops, of(hops, queue))))
}

/// Owner n holds its own and waits for that of n + 1; the last one asks for the first one's.
fn ring(owned_by: impl Fn(i32) -> Asker) {
    for (limit, personality) in personalities() {
        let mut lab = Bench::with(personality);
        for n in 0..=HOPS {
            assert_eq!(lab.lock(owned_by(n)), GRANTED);
        }
        for n in 0..HOPS {
            let wanted = Asker {
                svid: n,
                ..owned_by(n + 1)
            };
            assert_eq!(lab.lock(wanted), BLOCKED);
        }
        let closing = Asker {
            svid: HOPS,
            ..owned_by(0)
        };
        // Linux looks at ten owners and then lets it wait for ever.
        let expected = if limit.is_none() { DEADLCK } else { BLOCKED };
        assert_eq!(lab.lock(closing), expected, "at most {limit:?} hops");
        lab.service.check().unwrap();
    }
}

#[test]
fn a_ring_of_a_thousand_byte_ranges() {
    ring(|n| asker(2, n).bytes(n as u64 * 7, 3));
}

#[test]
fn a_ring_of_a_thousand_whole_files() {
    let names: Vec<&'static str> = (0..=HOPS).map(|n| &*format!("file {n}").leak()).collect();
    ring(|n| asker(2, n).file(names[n as usize]));
}

#[test]
fn a_ring_over_files_and_ranges_in_turn() {
    let file = |n: i32| if n % 2 == 0 { "even" } else { "odd" };
    ring(|n| asker(2, n).bytes(n as u64, 1).file(file(n)));
}

/// Each file is read by a crowd, of which only the last one waits.
#[test]
fn a_ring_through_one_of_many_readers_each() {
    for queue in [QueueOrder::Linux, QueueOrder::Fair] {
        let mut lab = Bench::with(Personality {
            queue,
            ..Personality::default()
        });
        let (files, crowd) = (50, 20);
        let names: Vec<&'static str> = (0..files).map(|n| &*format!("file {n}").leak()).collect();
        for file in 0..files {
            for reader in 0..crowd {
                let svid = file * crowd + reader;
                let a = asker(2, svid).shared().file(names[file as usize]);
                assert_eq!(lab.lock(a), GRANTED);
            }
        }
        let last_of = |file: i32| asker(2, file * crowd + crowd - 1);
        for file in 0..files - 1 {
            let wanted = last_of(file).file(names[file as usize + 1]);
            assert_eq!(lab.lock(wanted), BLOCKED);
        }
        assert_eq!(lab.lock(last_of(files - 1).file(names[0])), DEADLCK);
        let outsider = asker(3, 1).file("another");
        assert_eq!(lab.lock(outsider), GRANTED);
        assert_eq!(lab.lock(outsider.file(names[0])), BLOCKED, "nobody waits for it");
        lab.service.check().unwrap();
    }
}

/// A chain is no ring: its last one may wait.
#[test]
fn a_long_chain_without_an_end_in_itself_is_no_deadlock() {
    let mut lab = Bench::with(Personality::default());
    // Each one looks through all that wait before it.
    let owners = 300;
    for n in 0..owners {
        assert_eq!(lab.lock(asker(2, n).bytes(n as u64, 1)), GRANTED);
    }
    for n in (0..owners - 1).rev() {
        assert_eq!(lab.lock(asker(2, n).bytes(n as u64 + 1, 1)), BLOCKED);
    }
}
