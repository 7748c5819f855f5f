//! After a reboot of the server: what is held is locked again (LOCK with `reclaim`), then what is waited for.
//!
//! Until the last reply, those to the reclaims of an earlier reboot included, nothing else is sent but CANCEL: an
//! UNLOCK that overtook the reclaim of its lock would leave it to nobody.

use super::effect::{Effects, Event, Failure, LostWhy};
use super::giving_up::GiveUp;
use super::lane::{Job, Key};
use super::locking::stat_of;
use super::{CallId, CallOf, LockClient, Procedure};
use crate::limits;
use crate::range::{Kind, Range};
use crate::request::Reply;
use crate::table::Handle;
use proto::nlm::Nlm4Stat;
use std::collections::{BTreeMap, VecDeque};

/// A lock that is to be reclaimed.
#[derive(Debug, Clone, Copy)]
struct Piece {
    key: Key,
    range: Range,
    kind: Kind,
}

/// What there is to reclaim.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    pending: VecDeque<Piece>,
    /// What each call is for; nothing, if the server has rebooted since.
    under_way: BTreeMap<CallId, Option<Piece>>,
    lost: usize,
}

impl Reclaim {
    pub(super) fn is_under_way(&self) -> bool {
        !self.pending.is_empty() || !self.under_way.is_empty()
    }
}

impl LockClient {
    /// The server has rebooted (SM_NOTIFY with a new state): all that is held is reclaimed, then what is waited for
    /// is asked for again. New requests wait for that. A second reboot meanwhile begins it anew.
    ///
    /// What is being unlocked is not reclaimed. What the server refuses to give back is [`Event::Lost`].
    pub fn server_rebooted(&mut self, fx: &mut Effects) {
        self.epoch += 1;
        let owners: Vec<_> = self.owners.iter_from(0).map(|(id, _)| id).collect();
        for id in owners {
            self.owners.at_mut(id).blocking_sent = true;
        }
        let keys: Vec<Key> = self.lanes.keys().copied().collect();
        for key in keys {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.doubt_all();
            }
            self.take_off_early(key);
        }
        let mut pending = VecDeque::with_capacity(self.held.len());
        self.held.page(None, usize::MAX, |fh, lock| {
            pending.push_back(Piece {
                key: (lock.owner, Handle::from(fh)),
                range: lock.range,
                kind: lock.kind,
            });
        });
        fx.event(Event::Reclaiming { locks: pending.len() });
        self.reclaim.pending = pending;
        self.reclaim.lost = 0;
        self.reclaim
            .under_way
            .values_mut()
            .for_each(|piece| *piece = None);
        self.reclaim_more(fx);
    }

    /// Takes off the record what UNLOCKs that wait for their turn are about: it need not be reclaimed.
    pub(super) fn take_off_early(&mut self, key: Key) {
        let Some(mut lane) = self.lanes.remove(&key) else {
            return;
        };
        for job in &mut lane.queue {
            if let Job::Unlock(job) = job {
                self.take_off(key, job);
            }
        }
        self.lanes.insert(key, lane);
    }

    fn reclaim_more(&mut self, fx: &mut Effects) {
        while self.reclaim.under_way.len() < limits::CLIENT_RECLAIMS
            && let Some(piece) = self.reclaim.pending.pop_front()
        {
            let (owner, fh) = piece.key;
            // Something of it may have been unlocked meanwhile.
            let held = self
                .held
                .held_against(owner, fh.as_fh(), piece.range, Kind::Exclusive);
            let Some(range) = held.and_then(|lock| lock.range.common(piece.range)) else {
                continue;
            };
            let [_, rest] = piece.range.without(range);
            if let Some(range) = rest {
                self.reclaim.pending.push_front(Piece { range, ..piece });
            }
            let procedure = Procedure::Lock {
                block: false,
                reclaim: true,
            };
            let call = self.send(piece.key, procedure, range, piece.kind, CallOf::Reclaim, fx);
            self.reclaim
                .under_way
                .insert(call, Some(Piece { range, ..piece }));
        }
        if !self.reclaim.is_under_way() {
            self.reclaim_over(fx);
        }
    }

    pub(super) fn reclaim_replied(&mut self, call: CallId, reply: &Result<Reply, Failure>, fx: &mut Effects) {
        let stat = stat_of(reply).ok();
        if let Some(Some(piece)) = self.reclaim.under_way.remove(&call)
            && stat != Some(Nlm4Stat::NLM4_GRANTED)
        {
            self.lose(piece, stat, fx);
        }
        self.reclaim_more(fx);
    }

    /// Takes off the record what could not be reclaimed.
    fn lose(&mut self, piece: Piece, stat: Option<Nlm4Stat>, fx: &mut Effects) {
        let (owner, fh) = piece.key;
        while let Some(lock) = self
            .held
            .held_against(owner, fh.as_fh(), piece.range, Kind::Exclusive)
            && let Some(range) = lock.range.common(piece.range)
        {
            let _ = self.held.unset(fh.as_fh(), owner, range);
            self.reclaim.lost += 1;
            fx.event(Event::Lost {
                holder: self.holder(owner),
                fh,
                range,
                kind: lock.kind,
                why: LostWhy::NotReclaimed(stat),
            });
        }
        // An earlier copy of the call may have been granted.
        self.in_lane(piece.key, fx, |_, lane, _| {
            let undo = GiveUp::undo(piece.range, piece.kind);
            lane.queue.push_front(Job::GiveUp(undo));
        });
    }

    fn reclaim_over(&mut self, fx: &mut Effects) {
        fx.event(Event::Reclaimed {
            held: self.held.len(),
            lost: self.reclaim.lost,
        });
        let keys: Vec<Key> = self.lanes.keys().copied().collect();
        for key in keys {
            self.in_lane(key, fx, |_, lane, _| lane.poll(|_, _| true));
        }
    }
}
