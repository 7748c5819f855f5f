//! The lock table against a model that is plainly right: for every byte of a small file, who has it
//! and how. Slow and obvious, which is the point.
//!
//! proptest prints the shrunk steps of a failure. `PROPTEST_CASES` (256 unless set) makes it longer: with
//! 20000 it is a million transitions.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use nfslab_nlm::range::{Kind, OFFSET_MAX, Range};
use nfslab_nlm::table::{Fh, LockTable, OwnerId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// The file of the model: 24 bytes at the start, and the last 4 that can be locked. Between the two
/// lies a gap that no byte of the model stands for; ranges across it are told by their ends.
const LOW: u64 = 24;
const HIGH: u64 = 4;
const BYTES: u64 = LOW + HIGH;

/// Byte number of the model to byte of the file.
fn real(byte: u64) -> u64 {
    if byte < LOW {
        byte
    } else {
        OFFSET_MAX - (BYTES - 1 - byte)
    }
}

fn range(first: u64, last: u64) -> Range {
    Range::new(real(first), real(last)).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Lock {
        file: u8,
        owner: u8,
        first: u64,
        last: u64,
        kind: Kind,
    },
    Unlock {
        file: u8,
        owner: u8,
        first: u64,
        last: u64,
    },
    Test {
        file: u8,
        owner: u8,
        first: u64,
        last: u64,
        kind: Kind,
    },
    Release {
        owner: u8,
    },
}

/// Owner to kind, for every byte. The gap is byte `LOW` of 29: locked by whoever locks across it.
#[derive(Default, Clone)]
struct Model {
    bytes: BTreeMap<(u8, u64), BTreeMap<u8, Kind>>,
}

/// Model bytes with the gap as a byte of its own.
fn with_gap(first: u64, last: u64) -> impl Iterator<Item = u64> {
    let place = |byte: u64| if byte < LOW { byte } else { byte + 1 };
    place(first)..=place(last)
}

impl Model {
    fn conflict(&self, file: u8, owner: u8, first: u64, last: u64, kind: Kind) -> bool {
        with_gap(first, last).any(|byte| {
            let holders = self.bytes.get(&(file, byte));
            holders.is_some_and(|h| h.iter().any(|(who, held)| *who != owner && held.conflicts(kind)))
        })
    }

    fn set(&mut self, file: u8, owner: u8, first: u64, last: u64, kind: Option<Kind>) {
        for byte in with_gap(first, last) {
            let holders = self.bytes.entry((file, byte)).or_default();
            match kind {
                Some(kind) => holders.insert(owner, kind),
                None => holders.remove(&owner),
            };
        }
    }

    fn release(&mut self, owner: u8) {
        self.bytes.values_mut().for_each(|holders| {
            holders.remove(&owner);
        });
    }

    /// Maximal runs of bytes of one owner and kind, in the order of the table's listing within a file.
    fn locks(&self) -> Vec<(u8, u64, u64, u8, Kind)> {
        let mut runs = Vec::new();
        for file in 0..2 {
            for owner in 0..4 {
                let mut run: Option<(u64, u64, Kind)> = None;
                for byte in 0..=BYTES + 1 {
                    let here = self.bytes.get(&(file, byte)).and_then(|h| h.get(&owner)).copied();
                    run = match (run, here) {
                        (Some((from, _, kind)), Some(now)) if kind == now => Some((from, byte, kind)),
                        (ended, now) => {
                            if let Some((from, to, kind)) = ended {
                                runs.push((file, from, to, owner, kind));
                            }
                            now.map(|kind| (byte, byte, kind))
                        }
                    };
                }
            }
        }
        runs.sort_unstable();
        runs
    }
}

/// A run of the model as a range: the gap's two sides are `LOW` and the byte before the high ones.
fn run_range(from: u64, to: u64) -> Range {
    let start = match from {
        LOW => LOW,
        byte if byte < LOW => byte,
        byte => real(byte - 1),
    };
    let last = match to {
        LOW => OFFSET_MAX - HIGH,
        byte if byte < LOW => byte,
        byte => real(byte - 1),
    };
    Range::new(start, last).unwrap()
}

fn fh(file: u8) -> [u8; 3] {
    [b'f', b'h', file]
}

struct Pair {
    model: Model,
    table: LockTable,
}

impl Pair {
    fn new() -> Self {
        Pair {
            model: Model::default(),
            table: LockTable::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        let now = Duration::ZERO;
        match *step {
            Step::Lock {
                file,
                owner,
                first,
                last,
                kind,
            } => {
                let denied = self.model.conflict(file, owner, first, last, kind);
                let (bytes, id) = (fh(file), OwnerId::from(u32::from(owner)));
                let done = self
                    .table
                    .lock(Fh::new(&bytes).unwrap(), id, range(first, last), kind, now);
                assert_eq!(done.is_err(), denied, "{step:?}");
                if !denied {
                    self.model.set(file, owner, first, last, Some(kind));
                }
            }
            Step::Unlock {
                file,
                owner,
                first,
                last,
            } => {
                let (bytes, id) = (fh(file), OwnerId::from(u32::from(owner)));
                let before = self.table.len() as isize;
                let change = self.table.unset(Fh::new(&bytes).unwrap(), id, range(first, last));
                assert_eq!(self.table.len() as isize - before, change.locks);
                self.model.set(file, owner, first, last, None);
            }
            Step::Test {
                file,
                owner,
                first,
                last,
                kind,
            } => {
                let (bytes, id) = (fh(file), OwnerId::from(u32::from(owner)));
                let found = self
                    .table
                    .conflict(Fh::new(&bytes).unwrap(), id, range(first, last), kind);
                assert_eq!(
                    found.is_some(),
                    self.model.conflict(file, owner, first, last, kind),
                    "{step:?}"
                );
                if let Some(lock) = found {
                    assert!(lock.range.overlaps(range(first, last)) && lock.owner != id);
                    let holder = lock.owner;
                    let asked = (range(first, last), kind);
                    assert!(
                        self.table
                            .holds_against(holder, Fh::new(&bytes).unwrap(), asked.0, asked.1)
                    );
                }
            }
            Step::Release { owner } => {
                self.table
                    .release_owner(OwnerId::from(u32::from(owner)), |_, _| {});
                self.model.release(owner);
            }
        }
        self.compare();
    }

    fn compare(&self) {
        self.table.check().unwrap();
        let mut locks = Vec::new();
        let end = self.table.page(None, usize::MAX, |handle, lock| {
            locks.push((handle.as_slice()[2], lock.range, lock.owner, lock.kind));
        });
        assert!(end.is_none());
        locks.sort_unstable();
        let expected: Vec<_> = self
            .model
            .locks()
            .into_iter()
            .map(|(file, from, to, owner, kind)| {
                (file, run_range(from, to), OwnerId::from(u32::from(owner)), kind)
            })
            .collect();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(locks, expected);
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Shared), Just(Kind::Exclusive)]
}

fn steps() -> impl Strategy<Value = Step> {
    let ends = (0..BYTES, 0..BYTES).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let who = (0..2_u8, 0..4_u8);
    prop_oneof![
        6 => (who.clone(), ends.clone(), kinds()).prop_map(|((file, owner), (first, last), kind)| {
            Step::Lock { file, owner, first, last, kind }
        }),
        4 => (who.clone(), ends.clone()).prop_map(|((file, owner), (first, last))| {
            Step::Unlock { file, owner, first, last }
        }),
        2 => (who, ends, kinds()).prop_map(|((file, owner), (first, last), kind)| {
            Step::Test { file, owner, first, last, kind }
        }),
        1 => (0..4_u8).prop_map(|owner| Step::Release { owner }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// 64 runs of 200 steps: 12,800 transitions, the invariants and the whole listing after each.
    #[test]
    fn the_table_agrees_with_an_owner_per_byte(steps in prop::collection::vec(steps(), 200)) {
        let mut pair = Pair::new();
        steps.iter().for_each(|step| pair.step(step));
    }
}

/// Every sequence of three operations of two owners on four bytes: 26^3 for each start, nothing left to chance.
#[test]
fn every_short_sequence_agrees_with_the_model() {
    let mut all = Vec::new();
    for owner in 0..2 {
        for first in 0..4_u64 {
            for last in first..4 {
                all.push(Step::Unlock {
                    file: 0,
                    owner,
                    first,
                    last,
                });
                for kind in [Kind::Shared, Kind::Exclusive] {
                    all.push(Step::Lock {
                        file: 0,
                        owner,
                        first,
                        last,
                        kind,
                    });
                }
            }
        }
    }
    // By symmetry the first step can be the first owner's, and a lock.
    let first_steps = all.iter().filter(|s| matches!(s, Step::Lock { owner: 0, .. }));
    for one in first_steps {
        for two in &all {
            for three in &all {
                let mut pair = Pair::new();
                [one, two, three].into_iter().for_each(|step| pair.step(step));
            }
        }
    }
}

/// One lock of the list model: owner, first byte, last byte, kind.
type Held = (u32, u64, u64, Kind);

/// Takes `first..=last` away from an owner in the list.
fn cut(list: &mut Vec<Held>, owner: u32, first: u64, last: u64) {
    let mut rest = Vec::new();
    list.retain(|&(who, from, to, kind)| {
        let hit = who == owner && from <= last && first <= to;
        if hit && from < first {
            rest.push((who, from, first - 1, kind));
        }
        if hit && to > last {
            rest.push((who, last + 1, to, kind));
        }
        !hit
    });
    list.append(&mut rest);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// The small file above fits into a node or two. Here some two thousand locks make a tree of three
    /// levels, most of them shared and overlapping, some reaching far; the model is a plain list.
    #[test]
    fn a_deep_tree_agrees_with_a_list(
        steps in prop::collection::vec((0..300_u32, 0..100_000_u64, 0..600_u64, 0..40_u8), 4_000),
    ) {
        let handle = Fh::new(b"deep").unwrap();
        let (mut table, mut list) = (LockTable::new(), Vec::<Held>::new());
        for (n, &(owner, first, len, what)) in steps.iter().enumerate() {
            let len = if what == 0 { len * 100 } else { len / 8 };
            let (last, id) = (first + len, OwnerId::from(owner));
            let asked = Range::new(first, last).unwrap();
            if what % 4 == 3 {
                let _ = table.unset(handle, id, asked);
                cut(&mut list, owner, first, last);
                continue;
            }
            let kind = if what % 16 == 2 { Kind::Exclusive } else { Kind::Shared };
            let in_the_way: Vec<u32> = list
                .iter()
                .filter(|(who, from, to, held)| {
                    *who != owner && *from <= last && first <= *to && held.conflicts(kind)
                })
                .map(|(who, ..)| *who)
                .collect();
            match table.conflict(handle, id, asked, kind) {
                None => prop_assert!(in_the_way.is_empty(), "step {}", n),
                Some(lock) => {
                    let known = in_the_way.iter().any(|who| lock.owner == OwnerId::from(*who));
                    prop_assert!(known && lock.range.overlaps(asked), "step {}", n);
                }
            }
            if table.lock(handle, id, asked, kind, Duration::ZERO).is_ok() {
                cut(&mut list, owner, first, last);
                list.push((owner, first, last, kind));
            }
            if n % 500 == 0 {
                table.check().unwrap();
            }
        }
        table.check().unwrap();
        prop_assert!(table.len() > 1_000, "{} locks make no deep tree", table.len());
        // The list does not merge, so the two are compared by how many bytes are locked.
        let mut seen = 0;
        table.page(None, usize::MAX, |_, lock| {
            seen += lock.range.last() - lock.range.start() + 1;
        });
        prop_assert_eq!(seen, list.iter().map(|(_, from, to, _)| to - from + 1).sum::<u64>());
        for owner in 0..300 {
            table.release_owner(OwnerId::from(owner), |_, _| {});
        }
        prop_assert!(table.is_empty());
        table.check().unwrap();
    }
}
