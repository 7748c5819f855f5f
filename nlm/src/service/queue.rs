//! Standing in line ([`QueueOrder::Fair`]): a request that waits is in the way of those that come later.
//!
//! A request is *behind* another if that one came earlier, waits still, belongs to another owner and
//! conflicts with it, unless that one waits for the first one's owner. The blocks of a file point only backwards in
//! time by this, so a queue alone never stands still: its oldest request waits for a holder. Together
//! with locks that are held it could, and then [`LockService::ahead_of`] lets the later one pass.
//!
//! Nothing here costs anything while nobody waits. While somebody does, a LOCK looks through the requests that wait
//! for its file until it finds one to stand behind.

use super::LockService;
use crate::Now;
use crate::deadlock;
use crate::effect::Effects;
use crate::personality::QueueOrder;
use crate::range::Range;
use crate::table::{Handle, OwnerId};
use crate::waiters::{BlockId, Want};

impl LockService {
    pub(super) fn is_fair(&self) -> bool {
        self.personality.queue == QueueOrder::Fair
    }

    /// The first request that `want` is behind; `before` is its own number, if it waits already.
    pub(super) fn is_behind(&self, want: &Want, before: Option<BlockId>) -> Option<BlockId> {
        if !self.is_fair() || self.waiters.is_empty() {
            return None;
        }
        self.waiters
            .waiting_in(want.fh, before)
            .find(|(_, other)| deadlock::is_queued_behind(&self.table, want, other))
            .map(|(id, _)| id)
    }

    /// The request that `want` has to let go first. None, if it is behind some but would wait for itself there.
    pub(super) fn ahead_of(&self, want: &Want, before: Option<BlockId>) -> Option<BlockId> {
        let ahead = self.is_behind(want, before)?;
        let nobody_waits_for_it = self.owners.owner(want.owner).locks == 0;
        let waits_for_itself = || deadlock::through_the_queue(&self.table, &self.waiters, want, before);
        (nobody_waits_for_it || !waits_for_itself()).then_some(ahead)
    }

    /// After a request has left the queue without its lock: those behind it may have theirs.
    pub(super) fn left_queue(&mut self, now: Now, fh: Handle, range: Range, fx: &mut Effects) {
        if self.is_fair() && !self.waiters.is_empty() {
            self.retry(now, fh, range, fx);
        }
    }

    /// What an owner waits for, to be tried again because it has got a lock: those before it in the queue
    /// may now wait for it, and then it need not wait for them.
    pub(super) fn own_waits(&self, owner: OwnerId) -> Vec<(Handle, Range)> {
        if !self.is_fair() || self.owners.owner(owner).waits == 0 {
            return Vec::new();
        }
        self.waiters
            .wants_of(owner)
            .map(|want| (want.fh, want.range))
            .collect()
    }
}
