//! Would waiting never end?
//!
//! An owner that waits for a lock waits for every owner that holds a part of it against it and, if the queue
//! is fair, for every owner whose request it is behind. If one of
//! those, however many owners further on, waits for the first, none of them will ever go on, and the
//! last one to ask is told so (NLM4_DEADLCK; `posix_locks_deadlock` in Linux, which looks at one holder
//! each and at ten owners at most). The files may differ. A lock by `flock` is a whole-file lock here
//! like any other, so its callers can see EDEADLK too.

use crate::table::{Handle, LockTable, OwnerId};
use crate::waiters::{BlockId, Waiters, Want};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Looks for a chain of waiting owners from whoever holds `want` back to the owner that wants it.
/// Returns them in order, beginning with a holder; `None` if waiting is safe.
///
/// With `fair`, a chain may go through the queue, but does not begin there: an owner that waits for itself by
/// its place in the queue alone passes instead ([`through_the_queue`]).
///
/// `max_hops` bounds the length of the chain.
pub(crate) fn chain(
    table: &LockTable,
    waiters: &Waiters,
    want: &Want,
    fair: bool,
    max_hops: Option<u32>,
) -> Option<Vec<OwnerId>> {
    let mut search = Search::new(table, waiters, want.owner, fair);
    search.reach_holders(want);
    search.run(max_hops)
}

/// Whether an owner that stood behind all whom it has to let go first, and nobody else, would wait for itself.
/// `before` is the number of its request, if that waits already.
pub(crate) fn through_the_queue(
    table: &LockTable,
    waiters: &Waiters,
    want: &Want,
    before: Option<BlockId>,
) -> bool {
    let mut search = Search::new(table, waiters, want.owner, true);
    search.reach_queue(want, before);
    search.run(None).is_some()
}

/// Whether `want` stands in line behind `other`, given that `other` is the earlier one. It does not if
/// `other` waits for it: then they would wait for each other.
pub(crate) fn is_queued_behind(table: &LockTable, want: &Want, other: &Want) -> bool {
    want.conflicts(other) && !table.holds_against(want.owner, other.fh.as_fh(), other.range, other.kind)
}

struct Search<'a> {
    table: &'a LockTable,
    waiters: &'a Waiters,
    start: OwnerId,
    fair: bool,
    /// By whom each owner was reached.
    reached: BTreeMap<OwnerId, OwnerId>,
    frontier: Vec<OwnerId>,
    /// Of each file that was come across, the waiting requests that nobody was found to stand behind so far,
    /// so that a long queue is gone through once and not once for each of its members.
    queues: BTreeMap<Handle, Vec<(BlockId, Want)>>,
}

impl<'a> Search<'a> {
    fn new(table: &'a LockTable, waiters: &'a Waiters, start: OwnerId, fair: bool) -> Self {
        Search {
            table,
            waiters,
            start,
            fair,
            reached: BTreeMap::new(),
            frontier: Vec::new(),
            queues: BTreeMap::new(),
        }
    }

    /// Goes on from those reached, one hop at a time.
    fn run(mut self, max_hops: Option<u32>) -> Option<Vec<OwnerId>> {
        let waiters = self.waiters;
        let mut hops = 0;
        while !self.frontier.is_empty() && max_hops.is_none_or(|max| hops < max) {
            hops += 1;
            for owner in std::mem::take(&mut self.frontier) {
                for next in waiters.wants_of(owner) {
                    if self
                        .table
                        .holds_against(self.start, next.fh.as_fh(), next.range, next.kind)
                    {
                        return Some(self.way_back(owner));
                    }
                    self.reach_holders(next);
                    if self.fair {
                        self.reach_queue(next, waiters.find(next));
                    }
                }
            }
        }
        None
    }

    fn reach(&mut self, owner: OwnerId, by: OwnerId) {
        if owner != by
            && owner != self.start
            && self.waiters.wants_of(owner).next().is_some()
            && !self.reached.contains_key(&owner)
        {
            self.reached.insert(owner, by);
            self.frontier.push(owner);
        }
    }

    /// Adds the *waiting* owners that hold against `want`. There may be a million holders and few that
    /// wait, or one holder and many that wait: the shorter list is gone through.
    fn reach_holders(&mut self, want: &Want) {
        let Want {
            owner,
            fh,
            range,
            kind,
        } = *want;
        let mut left = self.waiters.len();
        let mut holders = Vec::new();
        let flow = self.table.conflicts(fh.as_fh(), owner, range, kind, |lock| {
            left = match left.checked_sub(1) {
                Some(left) => left,
                None => return ControlFlow::Break(()),
            };
            holders.push(lock.owner);
            ControlFlow::Continue(())
        });
        if flow.is_break() {
            let holds = |holder: &OwnerId| self.table.holds_against(*holder, fh.as_fh(), range, kind);
            holders = self.waiters.owners().filter(holds).collect();
        }
        for holder in holders {
            self.reach(holder, owner);
        }
    }

    /// Adds the owners of the requests that `want` is behind.
    fn reach_queue(&mut self, want: &Want, before: Option<BlockId>) {
        let (table, waiters) = (self.table, self.waiters);
        let queue = self.queues.entry(want.fh).or_insert_with(|| {
            waiters
                .waiting_in(want.fh, None)
                .map(|(id, want)| (id, *want))
                .collect()
        });
        let mut ahead = Vec::new();
        queue.retain(|(id, other)| {
            let behind = before.is_none_or(|before| *id < before) && is_queued_behind(table, want, other);
            if behind {
                ahead.push(other.owner);
            }
            !behind
        });
        for owner in ahead {
            self.reach(owner, want.owner);
        }
    }

    fn way_back(&self, end: OwnerId) -> Vec<OwnerId> {
        let mut way = vec![end];
        let mut at = end;
        while let Some(&before) = self.reached.get(&at)
            && before != self.start
        {
            way.push(before);
            at = before;
        }
        way.reverse();
        way
    }
}
