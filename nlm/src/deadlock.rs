//! Would waiting never end?
//!
//! An owner that waits for a lock waits for every owner that holds a part of it against it. If one of
//! those, however many owners further on, waits for the first, none of them will ever go on, and the
//! last one to ask is told so (NLM4_DEADLCK; `posix_locks_deadlock` in Linux, which looks at one holder
//! each and at ten owners at most). The files may differ. A lock by `flock` is a whole-file lock here
//! like any other, so its callers can see EDEADLK too.

use crate::table::{LockTable, OwnerId};
use crate::waiters::{Waiters, Want};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Looks for a chain of waiting owners from whoever holds `want` back to the owner that wants it.
/// Returns them in order, beginning with a holder; `None` if waiting is safe.
///
/// `max_hops` bounds the length of the chain.
pub(crate) fn chain(
    table: &LockTable,
    waiters: &Waiters,
    want: &Want,
    max_hops: Option<u32>,
) -> Option<Vec<OwnerId>> {
    // By whom each owner was reached.
    let mut reached: BTreeMap<OwnerId, OwnerId> = BTreeMap::new();
    let mut frontier = Vec::new();
    let mut hops = 0;
    expand(table, waiters, want, &mut reached, &mut frontier);
    while !frontier.is_empty() && max_hops.is_none_or(|max| hops < max) {
        hops += 1;
        for owner in std::mem::take(&mut frontier) {
            for next in waiters.wants_of(owner) {
                if table.holds_against(want.owner, next.fh.as_fh(), next.range, next.kind) {
                    return Some(way_back(&reached, want.owner, owner));
                }
                expand(table, waiters, next, &mut reached, &mut frontier);
            }
        }
    }
    None
}

/// Adds the *waiting* owners that stand in the way of `want`. There may be a million holders and few that
/// wait, or one holder and many that wait: the shorter list is gone through.
fn expand(
    table: &LockTable,
    waiters: &Waiters,
    want: &Want,
    reached: &mut BTreeMap<OwnerId, OwnerId>,
    frontier: &mut Vec<OwnerId>,
) {
    let Want {
        owner,
        fh,
        range,
        kind,
    } = *want;
    let mut reach = |holder: OwnerId| {
        if holder != owner && waiters.wants_of(holder).next().is_some() && !reached.contains_key(&holder) {
            reached.insert(holder, owner);
            frontier.push(holder);
        }
    };
    let mut left = waiters.len();
    let mut holders = Vec::new();
    let flow = table.conflicts(fh.as_fh(), owner, range, kind, |lock| {
        left = match left.checked_sub(1) {
            Some(left) => left,
            None => return ControlFlow::Break(()),
        };
        holders.push(lock.owner);
        ControlFlow::Continue(())
    });
    if flow.is_continue() {
        holders.into_iter().for_each(&mut reach);
    } else {
        waiters
            .owners()
            .filter(|holder| table.holds_against(*holder, fh.as_fh(), range, kind))
            .for_each(&mut reach);
    }
}

fn way_back(reached: &BTreeMap<OwnerId, OwnerId>, start: OwnerId, end: OwnerId) -> Vec<OwnerId> {
    let mut way = vec![end];
    let mut at = end;
    while let Some(&before) = reached.get(&at)
        && before != start
    {
        way.push(before);
        at = before;
    }
    way.reverse();
    way
}
