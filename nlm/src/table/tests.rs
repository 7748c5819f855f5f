//! What POSIX locks do, case by case. The model that finds the cases nobody thought of is in
//! `tests/table_model.rs`.

use super::*;
use crate::range::OFFSET_MAX;
use Kind::{Exclusive, Shared};
use std::time::Duration;

const A: OwnerId = OwnerId(1);
const B: OwnerId = OwnerId(2);
const C: OwnerId = OwnerId(3);
const NOW: Now = Duration::ZERO;

fn fh() -> Fh<'static> {
    Fh::new(b"file").unwrap()
}

fn r(start: u64, last: u64) -> Range {
    Range::new(start, last).unwrap()
}

fn shown(table: &LockTable) -> String {
    table.check().unwrap();
    let mut out = Vec::new();
    assert!(
        table
            .page(None, 100, |_, l| {
                let mark = if l.kind.is_exclusive() { 'X' } else { 'S' };
                out.push(format!("{}{mark}{:?}", l.owner.0, l.range));
            })
            .is_none()
    );
    out.join(" ")
}

/// Plays `owner kind start last` steps; kind `-` unlocks. A conflict is shown in place of the table.
#[track_caller]
fn check(steps: &[(OwnerId, char, u64, u64)], expect: &str) {
    let mut table = LockTable::new();
    for &(owner, what, start, last) in steps {
        let range = r(start, last);
        let done = match what {
            'X' => table.lock(fh(), owner, range, Exclusive, NOW),
            'S' => table.lock(fh(), owner, range, Shared, NOW),
            _ => Ok(table.unset(fh(), owner, range)),
        };
        if let Err(holder) = done {
            assert_eq!(format!("denied by {holder:?}"), expect);
            return;
        }
    }
    assert_eq!(shown(&table), expect);
}

#[test]
fn the_six_ways_in_which_an_unlock_meets_a_lock() {
    check(&[(A, 'X', 10, 19), (A, '-', 0, 5)], "1X10..=19"); // before it
    check(&[(A, 'X', 10, 19), (A, '-', 5, 14)], "1X15..=19"); // over its head
    check(&[(A, 'X', 10, 19), (A, '-', 12, 14)], "1X10..=11 1X15..=19"); // inside
    check(&[(A, 'X', 10, 19), (A, '-', 15, 25)], "1X10..=14"); // over its tail
    check(&[(A, 'X', 10, 19), (A, '-', 5, 25)], ""); // all of it
    check(&[(A, 'X', 10, 19), (A, '-', 20, 25)], "1X10..=19"); // behind it
}

#[test]
fn touching_and_overlapping_locks_of_one_kind_become_one() {
    check(&[(A, 'X', 0, 4), (A, 'X', 5, 9)], "1X0..=9");
    check(&[(A, 'X', 5, 9), (A, 'X', 0, 4)], "1X0..=9");
    check(&[(A, 'X', 0, 2), (A, 'X', 4, 6), (A, 'X', 3, 3)], "1X0..=6");
    check(
        &[(A, 'S', 0, 4), (B, 'S', 2, 9), (A, 'S', 5, 9)],
        "1S0..=9 2S2..=9",
    );
    check(&[(A, 'X', 0, 3), (A, 'X', 5, 9)], "1X0..=3 1X5..=9");
}

#[test]
fn another_kind_splits_and_does_not_merge() {
    check(&[(A, 'X', 0, 9), (A, 'S', 3, 5)], "1X0..=2 1S3..=5 1X6..=9");
    check(&[(A, 'S', 0, 9), (A, 'X', 0, 4)], "1X0..=4 1S5..=9");
    check(&[(A, 'S', 0, 4), (A, 'X', 5, 9)], "1S0..=4 1X5..=9");
    check(&[(A, 'S', 0, 9), (A, 'X', 3, 5), (A, 'S', 3, 5)], "1S0..=9");
}

#[test]
fn shared_locks_stand_together_and_exclusive_ones_alone() {
    check(
        &[(A, 'S', 0, 9), (B, 'S', 5, 14), (C, 'X', 15, 20)],
        "1S0..=9 2S5..=14 3X15..=20",
    );
    check(
        &[(A, 'S', 0, 9), (B, 'X', 5, 14)],
        "denied by shared 0..=9 of OwnerId(1)",
    );
    check(
        &[(A, 'X', 0, 9), (B, 'S', 9, 9)],
        "denied by exclusive 0..=9 of OwnerId(1)",
    );
    check(
        &[(A, 'S', 0, 9), (B, 'S', 0, 9), (A, 'X', 0, 9)],
        "denied by shared 0..=9 of OwnerId(2)",
    );
}

#[test]
fn the_last_byte_of_the_longest_file() {
    check(
        &[(A, 'X', OFFSET_MAX, OFFSET_MAX), (B, 'X', 0, OFFSET_MAX - 1)],
        "2X0..=9223372036854775806 1X9223372036854775807..=9223372036854775807",
    );
    check(
        &[(A, 'X', 0, OFFSET_MAX), (A, '-', OFFSET_MAX, OFFSET_MAX)],
        "1X0..=9223372036854775806",
    );
    check(
        &[(A, 'X', 0, OFFSET_MAX), (B, 'S', OFFSET_MAX, OFFSET_MAX)],
        "denied by exclusive 0..=9223372036854775807 of OwnerId(1)",
    );
}

#[test]
fn the_first_conflict_is_the_one_that_begins_first() {
    let mut table = LockTable::new();
    for (owner, start) in [(C, 20), (B, 10), (A, 0)] {
        let _ = table.set(fh(), owner, r(start, start + 5), Exclusive, NOW);
    }
    assert_eq!(
        table.conflict(fh(), A, Range::WHOLE_FILE, Shared).unwrap().owner,
        B
    );
    assert_eq!(
        table
            .conflict(fh(), OwnerId::NOBODY, Range::WHOLE_FILE, Shared)
            .unwrap()
            .owner,
        A
    );
    assert_eq!(table.conflict(fh(), A, r(6, 9), Exclusive), None);
}

#[test]
fn a_downgrade_frees_and_an_upgrade_does_not() {
    let mut table = LockTable::new();
    let all = Range::WHOLE_FILE;
    assert_eq!(
        table.lock(fh(), A, all, Shared, NOW),
        Ok(Change {
            locks: 1,
            freed: false
        })
    );
    assert_eq!(
        table.lock(fh(), A, all, Exclusive, NOW),
        Ok(Change {
            locks: 0,
            freed: false
        })
    );
    assert_eq!(
        table.lock(fh(), A, r(5, 5), Shared, NOW),
        Ok(Change {
            locks: 2,
            freed: true
        })
    );
    assert_eq!(
        table.unset(fh(), A, all),
        Change {
            locks: -3,
            freed: true
        }
    );
    assert_eq!(table.unset(fh(), A, all), Change::default());
}

#[test]
fn the_same_lock_again_changes_nothing_and_keeps_its_time() {
    let mut table = LockTable::new();
    let _ = table.set(fh(), A, r(0, 9), Exclusive, Duration::from_secs(5));
    assert_eq!(
        table.lock(fh(), A, r(2, 3), Exclusive, Duration::from_secs(9)),
        Ok(Change::default())
    );
    let _ = table.set(fh(), A, r(10, 12), Exclusive, Duration::from_secs(9));
    let lock = table.conflict(fh(), B, Range::WHOLE_FILE, Shared).unwrap();
    assert_eq!((lock.range, lock.since), (r(0, 12), Duration::from_secs(5)));
}

#[test]
fn an_owner_is_released_on_every_file_and_others_stay() {
    let mut table = LockTable::new();
    let other = Fh::new(b"other").unwrap();
    let _ = table.set(fh(), A, r(0, 1), Exclusive, NOW);
    let _ = table.set(fh(), A, r(5, 6), Shared, NOW);
    let _ = table.set(other, A, r(0, 1), Exclusive, NOW);
    let _ = table.set(fh(), B, r(10, 11), Exclusive, NOW);
    assert_eq!(table.of_owner(A).count(), 3);
    let mut gone = 0;
    assert_eq!(
        table.release_owner(A, |_, l| gone += usize::from(l.owner == A)),
        3
    );
    assert_eq!((gone, table.files()), (3, 1));
    assert_eq!(shown(&table), "2X10..=11");
}

#[test]
fn pages_show_every_lock_once() {
    let mut table = LockTable::new();
    let names: Vec<[u8; 2]> = (0..7_u8).map(|n| [n, n]).collect();
    for name in &names {
        for n in 0..40_u32 {
            let owner = OwnerId(n);
            let _ = table.set(Fh::new(name).unwrap(), owner, r(u64::from(n % 3), 5), Shared, NOW);
        }
    }
    for limit in [1, 2, 39, 40, 41, 1000] {
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let mut page = 0;
            cursor = table.page(cursor, limit, |fh, lock| {
                page += 1;
                seen.push((Handle::from(fh), lock.owner));
            });
            assert!(page <= limit);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), table.len());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), table.len());
    }
}

#[test]
fn a_deep_tree_grows_and_shrinks_in_any_order() {
    // Three orders of insertion and removal, a prime stride for the one that jumps.
    const N: u64 = 5_000;
    let orders: [fn(u64) -> u64; 3] = [|i| i, |i| N - 1 - i, |i| i * 2_347 % N];
    for put in orders {
        for take in orders {
            let mut table = LockTable::new();
            for i in (0..N).map(put) {
                let kind = if i % 2 == 0 { Exclusive } else { Shared };
                let _ = table
                    .lock(fh(), OwnerId(i as u32), r(i * 10, i * 10 + 4), kind, NOW)
                    .unwrap();
            }
            table.check().unwrap();
            assert_eq!(table.len(), N as usize);
            for (done, i) in (0..N).map(take).enumerate() {
                let freed = table.unset(fh(), OwnerId(i as u32), r(i * 10, i * 10 + 9));
                assert_eq!(
                    freed,
                    Change {
                        locks: -1,
                        freed: true
                    }
                );
                if done % 1_000 == 0 {
                    table.check().unwrap();
                }
            }
            table.check().unwrap();
            assert!(table.is_empty());
        }
    }
}

#[test]
fn a_conflict_is_found_behind_a_thousand_locks_of_the_asker() {
    let mut table = LockTable::new();
    for i in 0..1_000 {
        let _ = table.set(fh(), A, r(i * 10, i * 10 + 4), Exclusive, NOW);
    }
    assert_eq!(table.conflict(fh(), A, Range::WHOLE_FILE, Exclusive), None);
    let _ = table.set(fh(), B, r(9_996, 9_996), Shared, NOW);
    assert_eq!(
        table
            .conflict(fh(), A, Range::WHOLE_FILE, Exclusive)
            .unwrap()
            .owner,
        B
    );
    assert_eq!(table.conflict(fh(), A, Range::WHOLE_FILE, Shared), None);
}

#[test]
fn the_only_other_owner_below_a_branch_is_forgotten_with_its_lock() {
    let mut table = LockTable::new();
    for n in 0..200 {
        let _ = table.lock(fh(), A, r(4 * n, 4 * n), Exclusive, NOW).unwrap();
    }
    let middle = r(42, 42);
    let _ = table.lock(fh(), B, middle, Exclusive, NOW).unwrap();
    table.check().unwrap();
    assert_eq!(table.unset(fh(), B, middle).locks, -1);
    table.check().unwrap();
}

#[test]
fn many_files_come_and_go() {
    let mut table = LockTable::new();
    let name = |n: u32| n.to_be_bytes();
    for n in 0..3_000_u32 {
        let _ = table.set(Fh::new(&name(n)).unwrap(), A, r(0, 9), Exclusive, NOW);
        if n >= 100 {
            assert!(table.unset(Fh::new(&name(n - 100)).unwrap(), A, r(0, 9)).freed);
        }
    }
    assert_eq!((table.files(), table.len()), (100, 100));
    table.check().unwrap();
    table.release_owner(A, |_, _| {});
    assert!(table.is_empty());
}

#[test]
fn a_cursor_comes_back_from_its_text_and_no_other_text_is_one() {
    for text in ["0", "3.4096.17", "4294967295.9223372036854775807.4294967295"] {
        assert_eq!(text.parse::<Cursor>().map(|c| c.to_string()), Ok(text.to_owned()));
    }
    for text in [
        "",
        ".",
        "1.",
        "1.2",
        "1.2.",
        "1.2.3.",
        "1.2.3.4",
        "+1",
        "-1",
        " 1",
        "01",
        "1.02.3",
        "x",
        "1.x.3",
        "é",
        "4294967296",
        "1.9223372036854775808.3",
        "1.2.4294967296",
        "99999999999999999999999999",
    ] {
        let error = text.parse::<Cursor>().expect_err(text).to_string();
        assert!(error.contains("3.4096.17"), "{error}");
    }
}

proptest::proptest! {
    /// Whatever the text, a listing from there ends, and shows only what is there.
    #[test]
    fn a_forged_cursor_shows_some_of_the_locks(file in 0..6_u32, start: u64, owner: u32, limit in 0..9_usize) {
        let mut table = LockTable::new();
        for byte in 0..40_u64 {
            let name = [byte as u8 % 4];
            let _ = table.set(Fh::new(&name).unwrap(), A, r(byte * 2, byte * 2), Exclusive, NOW);
        }
        for text in [format!("{file}"), format!("{file}.{}.{owner}", start & OFFSET_MAX), format!("{owner}")] {
            let (mut cursor, mut shown) = (Some(text.parse::<Cursor>().unwrap()), 0);
            while let Some(from) = cursor.filter(|_| limit > 0) {
                cursor = table.page(Some(from), limit, |_, _| shown += 1);
            }
            proptest::prop_assert!(shown <= 40);
        }
    }

    /// Long locks over short ones, in trees of more than one node, whose leaves come and go: what is in the way is found,
    /// and nothing else; what is given back is gone, wherever it lies by now.
    #[test]
    fn trees_of_short_and_long_locks_answer_as_lists_do(
        steps in proptest::collection::vec(step(), 1..900),
    ) {
        let mut table = LockTable::new();
        let mut held = std::collections::BTreeMap::<OwnerId, (u8, Range, Kind)>::new();
        let handle = [[0], [1], [2]];
        let name = |file: u8| Fh::new(&handle[usize::from(file)]).unwrap();
        for (n, (file, owner, start, length, exclusive, what)) in steps.into_iter().enumerate() {
            let (owner, range, kind) = (OwnerId(owner), r(start, start + length), Kind::from_wire(exclusive));
            if what == 0 {
                let on_it = held.iter().filter(|(_, (of, ..))| *of == file);
                for (gone, (_, its, _)) in on_it {
                    proptest::prop_assert_eq!(table.unset(name(file), *gone, *its).locks, -1);
                }
                held.retain(|_, (of, ..)| *of != file);
                continue;
            }
            if what < 50 {
                let its = held.get(&owner).map_or(file, |(its, ..)| *its);
                let lost = held.remove(&owner).is_some();
                proptest::prop_assert_eq!(table.unset(name(its), owner, Range::WHOLE_FILE).freed, lost);
                continue;
            }
            let in_the_way = |(other, (of, its, its_kind)): &(&OwnerId, &(u8, Range, Kind))| {
                *of == file && **other != owner && its.overlaps(range) && its_kind.conflicts(kind)
            };
            let first = held.iter().filter(in_the_way).map(|(other, (_, its, _))| (its.start(), *other)).min();
            let found = |lock: Lock| (lock.range.start(), lock.owner);
            proptest::prop_assert_eq!(table.conflict(name(file), owner, range, kind).map(found), first);
            if let std::collections::btree_map::Entry::Vacant(its) = held.entry(owner) {
                proptest::prop_assert_eq!(table.lock(name(file), owner, range, kind, NOW).err().map(found), first);
                if first.is_none() {
                    its.insert((file, range, kind));
                }
            }
            if n % 50 == 0 {
                table.check().unwrap();
            }
        }
        table.check().unwrap();
        proptest::prop_assert_eq!(table.len(), held.len());
    }
}

/// File, owner, first byte, length but one, whether exclusive, and what is done.
fn step() -> impl proptest::strategy::Strategy<Value = (u8, u32, u64, u64, bool, u32)> {
    use proptest::prelude::*;
    let file = prop_oneof![6 => Just(0), 1 => Just(1), 1 => Just(2)];
    (
        file,
        0..400_u32,
        0..3000_u64,
        length(),
        proptest::bool::weighted(0.7),
        0..200_u32,
    )
}

fn length() -> impl proptest::strategy::Strategy<Value = u64> {
    use proptest::prelude::*;
    prop_oneof![20 => Just(0), 3 => 0..40_u64, 1 => 0..4000_u64]
}
