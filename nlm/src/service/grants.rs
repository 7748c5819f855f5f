//! What happens when a lock comes free: the requests that wait for it are tried in order, the lock is
//! taken for the first that can have it, and only then is its client told, and told again until it answers.

use super::LockService;
use super::procedures::what;
use crate::Now;
use crate::effect::{Effect, Effects, Event, Who};
use crate::range::Range;
use crate::request::Callback;
use crate::table::{Handle, OwnerId};
use crate::waiters::{BlockId, BlockState, Want};

impl LockService {
    /// Tries every request that waits for some of these bytes, in the order in which they came.
    pub(super) fn retry(&mut self, now: Now, fh: Handle, range: Range, fx: &mut Effects) {
        self.retry_all(now, vec![(fh, range)], fx);
    }

    /// The same for several places. All that came free at once is one round: were it tried range by range, a
    /// request for the second range would be passed over by a later one that wants both.
    pub(super) fn retry_all(&mut self, now: Now, mut free: Vec<(Handle, Range)>, fx: &mut Effects) {
        while !free.is_empty() {
            free.sort_unstable();
            let round: Vec<_> = free
                .chunk_by(|a, b| a.0 == b.0)
                .flat_map(|of_file| {
                    let fh = of_file.first().map(|(fh, _)| *fh);
                    let ranges: Vec<Range> = of_file.iter().map(|(_, range)| *range).collect();
                    fh.map(|fh| (fh, self.waiters.waiting_for(fh, &ranges)))
                })
                .flat_map(|(fh, ids)| ids.into_iter().map(move |id| (fh, id)))
                .collect();
            free.clear();
            for (fh, id) in round {
                let Some(want) = self.waiters.get(id).map(|block| block.want) else {
                    continue;
                };
                if self.is_fair() && !self.may_go(id, &want) {
                    continue;
                }
                let taken = self
                    .table
                    .lock(fh.as_fh(), want.owner, want.range, want.kind, now);
                let Ok(change) = taken else { continue };
                self.account(want.owner, change);
                if change.freed {
                    // Its owner held the range exclusively and now shares it.
                    free.push((want.fh, want.range));
                }
                self.grant(now, id, fx);
                free.extend(self.own_waits(want.owner));
            }
        }
    }

    /// Whether nobody holds and nobody is before it. The holders are asked first: that is quicker.
    fn may_go(&self, id: BlockId, want: &Want) -> bool {
        let held = self
            .table
            .conflict(want.fh.as_fh(), want.owner, want.range, want.kind);
        held.is_none() && self.ahead_of(want, Some(id)).is_none()
    }

    fn grant(&mut self, now: Now, id: BlockId, fx: &mut Effects) {
        self.waiters.set_state(
            id,
            BlockState::Granting {
                attempts: 1,
                last: None,
                again: None,
            },
        );
        let Some(block) = self.waiters.get(id) else { return };
        fx.event(Event::Granted {
            id,
            who: self.who(block.want.owner),
            what: what(&block.want),
            waited: now.saturating_sub(block.since),
        });
        self.call_back(id, 1, fx);
    }

    fn call_back(&self, id: BlockId, attempt: u32, fx: &mut Effects) {
        let Some(block) = self.waiters.get(id) else { return };
        fx.push(Effect::Callback(Box::new(Callback {
            id,
            host: self.hosts.host(block.host).key,
            cookie: block.cookie.to_be_bytes(),
            kind: block.want.kind,
            caller_name: block.caller_name.clone(),
            fh: block.want.fh,
            oh: block.oh.clone(),
            svid: self.owners.owner(block.want.owner).svid,
            range: block.want.range,
            attempt,
        })));
    }

    /// The driver tells whether GRANTED_MSG could be sent. Either way it is sent again if the client does
    /// not answer; sooner if it could not be sent.
    pub fn callback_sent(&mut self, now: Now, id: BlockId, sent: bool, fx: &mut Effects) {
        let Some(block) = self.waiters.get(id) else { return };
        let BlockState::Granting { attempts, .. } = block.state else {
            return;
        };
        let p = &self.personality;
        let again_after = if sent {
            p.regrant_unanswered
        } else {
            p.regrant_failed
        };
        fx.event(Event::CallbackResult {
            id,
            who: self.who(block.want.owner),
            sent,
            again_after,
        });
        let state = BlockState::Granting {
            attempts,
            last: Some((now, sent)),
            again: Some(now + again_after),
        };
        self.waiters.set_state(id, state);
    }

    /// Sends GRANTED again where its time has come. On Linux that is lockd's own thread's work, so it
    /// is not done while the worker is kept.
    pub(super) fn repeat_due_grants(&mut self, now: Now, fx: &mut Effects) {
        while let Some((_, id)) = self.waiters.next_due().filter(|(at, _)| *at <= now) {
            let Some(block) = self.waiters.get(id) else { return };
            let (owner, BlockState::Granting { attempts, last, .. }) = (block.want.owner, block.state) else {
                return;
            };
            let attempts = attempts.saturating_add(1);
            self.waiters.set_state(
                id,
                BlockState::Granting {
                    attempts,
                    last,
                    again: None,
                },
            );
            fx.event(Event::GrantRepeated {
                id,
                who: self.who(owner),
                attempt: attempts,
            });
            self.call_back(id, attempts, fx);
        }
    }

    /// An owner in words.
    pub(super) fn who(&self, owner: OwnerId) -> Who {
        let owner = self.owners.owner(owner);
        let peer = self.hosts.peer(self.hosts.peer_of(owner.host));
        Who {
            peer: peer.address,
            name: peer.name.clone(),
            svid: owner.svid,
        }
    }
}
