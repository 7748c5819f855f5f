//! Giving up a LOCK: CANCEL, and then the server is made to have what the record says.
//!
//! CANCEL (XNFS C702, chapter 10) takes a request out of the server's queue; a lock that was granted already stays.
//! Its status does not tell which it was: a copy of a CANCEL that was answered DENIED is answered GRANTED, and so is
//! one that overtook its LOCK. Linux 6.1 believes it and leaks the lock. So here
//!
//! - a CANCEL that overtook a LOCK is sent once more after the LOCK's reply, unless that was GRANTED;
//! - what follows is always the undoing, over the range of the LOCK: UNLOCK where the owner holds nothing, and where
//!   it holds another kind than was asked, LOCK in the kind that it holds. A plain UNLOCK of the range would take
//!   away what the owner had before, and nothing at all would leave it an exclusive lock where it held a
//!   shared one. Both do nothing if the LOCK had not been granted. The one step that can fail is from shared back
//!   to exclusive, when others share it by then: that is [`Event::Lost`].

use super::effect::{Effects, Event, Failure, LostWhy};
use super::lane::{Active, Job, Key, Lane, LockJob, Step};
use super::locking::stat_of;
use super::{CallId, LockClient, Procedure};
use crate::Now;
use crate::range::{Kind, Range};
use crate::request::Reply;
use proto::nlm::Nlm4Stat;

/// A LOCK that is being given up.
#[derive(Debug)]
pub(super) struct GiveUp {
    range: Range,
    kind: Kind,
    /// As in the LOCK.
    wait: bool,
    /// The LOCK, while its reply is not there.
    lock: Option<CallId>,
    /// Whether the LOCK's reply was there when CANCEL was sent, so that CANCEL came after it.
    ordered: bool,
    /// Whether a CANCEL that was not ordered has to be sent once more.
    again: bool,
    /// How often CANCEL came to nothing.
    failed: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Cancel,
    /// What lies before this byte is undone.
    Undo {
        from: u64,
    },
}

impl GiveUp {
    /// With CANCEL.
    pub(super) fn of(job: &LockJob) -> Self {
        GiveUp {
            wait: job.wait,
            phase: Phase::Cancel,
            ..GiveUp::undo(job.range, job.kind)
        }
    }

    /// Without CANCEL, for nothing waits.
    pub(super) fn undo(range: Range, kind: Kind) -> Self {
        GiveUp {
            range,
            kind,
            wait: false,
            lock: None,
            ordered: false,
            again: false,
            failed: 0,
            phase: Phase::Undo { from: range.start() },
        }
    }

    /// What the LOCK asked for.
    #[cfg(test)]
    pub(super) fn wanted(&self) -> (Range, Kind) {
        (self.range, self.kind)
    }

    fn undone_to(self, from: u64) -> Self {
        GiveUp {
            phase: Phase::Undo { from },
            ..self
        }
    }

    fn undo_all(self) -> Self {
        let from = self.range.start();
        self.undone_to(from)
    }
}

impl LockClient {
    /// Sends the CANCEL of a LOCK that is under way.
    pub(super) fn overtake(
        &mut self,
        key: Key,
        lane: &mut Lane,
        lock: &LockJob,
        call: CallId,
        fx: &mut Effects,
    ) -> Active {
        let job = GiveUp {
            lock: Some(call),
            ..GiveUp::of(lock)
        };
        self.send_cancel(key, lane, job, fx)
    }

    fn send_cancel(&mut self, key: Key, lane: &mut Lane, mut job: GiveUp, fx: &mut Effects) -> Active {
        job.ordered = job.lock.is_none();
        let procedure = Procedure::Cancel { block: job.wait };
        let step = self.step(key, lane, procedure, job.range, job.kind, fx);
        Active {
            job: Job::GiveUp(job),
            step,
        }
    }

    pub(super) fn start_give_up(
        &mut self,
        key: Key,
        lane: &mut Lane,
        job: GiveUp,
        fx: &mut Effects,
    ) -> Option<Active> {
        let Phase::Undo { from } = job.phase else {
            return Some(self.send_cancel(key, lane, job, fx));
        };
        let Some((piece, held)) = self.to_undo(key, &job, from) else {
            // The server forgets with an UNLOCK who waits for just this range, and with CANCEL every thread's request.
            lane.poll(|waiting, _| waiting.range.overlaps(job.range));
            return None;
        };
        let procedure = match held {
            None => Procedure::Unlock,
            Some(_) => Procedure::Lock {
                block: false,
                reclaim: false,
            },
        };
        let job = job.undone_to(piece.start());
        let step = self.step(key, lane, procedure, piece, held.unwrap_or(Kind::Exclusive), fx);
        Some(Active {
            job: Job::GiveUp(job),
            step,
        })
    }

    /// The next piece from this byte on that the server may have otherwise than the record, and what is held there.
    fn to_undo(&self, (owner, fh): Key, job: &GiveUp, mut from: u64) -> Option<(Range, Option<Kind>)> {
        loop {
            let rest = Range::new(from, job.range.last())?;
            let Some(held) = self.held.held_against(owner, fh.as_fh(), rest, Kind::Exclusive) else {
                return Some((rest, None));
            };
            if held.range.start() > from {
                return Some((Range::new(from, held.range.start() - 1)?, None));
            }
            let last = held.range.last().min(rest.last());
            if held.kind != job.kind {
                return Some((Range::new(from, last)?, Some(held.kind)));
            }
            from = last + 1;
        }
    }

    /// The reply to a LOCK that CANCEL has overtaken.
    pub(super) fn overtaken_lock_replied(
        lane: &mut Lane,
        mut job: GiveUp,
        step: Step,
        call: CallId,
        reply: &Result<Reply, Failure>,
    ) -> Option<Active> {
        if job.lock != Some(call) {
            return Some(Active {
                job: Job::GiveUp(job),
                step,
            });
        }
        job.lock = None;
        let waits = job.wait || stat_of(reply) == Ok(Nlm4Stat::NLM4_BLOCKED);
        job.again = waits && stat_of(reply) != Ok(Nlm4Stat::NLM4_GRANTED);
        if matches!(step, Step::Call { .. }) {
            return Some(Active {
                job: Job::GiveUp(job),
                step,
            });
        }
        let next = if std::mem::take(&mut job.again) {
            job
        } else {
            job.undo_all()
        };
        lane.queue.push_front(Job::GiveUp(next));
        None
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "where the reply belongs, and when it was asked for"
    )]
    pub(super) fn give_up_replied(
        &mut self,
        now: Now,
        key: Key,
        lane: &mut Lane,
        job: GiveUp,
        epoch: u64,
        reply: &Result<Reply, Failure>,
        fx: &mut Effects,
    ) -> Option<Active> {
        match job.phase {
            Phase::Cancel => self.cancel_replied(now, key, lane, job, stat_of(reply), fx),
            Phase::Undo { from } if epoch == self.epoch => {
                self.undo_replied(now, key, lane, job, from, stat_of(reply), fx)
            }
            // The server forgot what was undone so far, and may have executed what was under way after that.
            Phase::Undo { .. } => {
                lane.queue.push_front(Job::GiveUp(job.undo_all()));
                None
            }
        }
    }

    fn cancel_replied(
        &mut self,
        now: Now,
        key: Key,
        lane: &mut Lane,
        mut job: GiveUp,
        stat: Result<Nlm4Stat, Failure>,
        fx: &mut Effects,
    ) -> Option<Active> {
        if job.lock.is_some() {
            return Some(Active {
                job: Job::GiveUp(job),
                step: Step::LockReply,
            });
        }
        if std::mem::take(&mut job.again) {
            lane.queue.push_front(Job::GiveUp(job));
            return None;
        }
        match stat {
            // The LOCK was granted before CANCEL could matter.
            _ if !job.ordered => {}
            Ok(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD) => return Some(self.after_grace(now, Job::GiveUp(job))),
            Ok(Nlm4Stat::NLM4_DENIED_NOLOCKS) | Err(_) if job.failed < self.config.cancel_retries => {
                job.failed += 1;
                return Some(Active {
                    job: Job::GiveUp(job),
                    step: Step::Pause {
                        until: now + self.config.cancel_wait,
                    },
                });
            }
            Ok(Nlm4Stat::NLM4_DENIED_NOLOCKS) | Err(_) => fx.event(Event::CancelGivenUp {
                holder: self.holder(key.0),
                fh: key.1,
                range: job.range,
            }),
            Ok(_) => {}
        }
        lane.queue.push_front(Job::GiveUp(job.undo_all()));
        None
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "where the reply belongs, and which piece it is about"
    )]
    fn undo_replied(
        &mut self,
        now: Now,
        key: Key,
        lane: &mut Lane,
        job: GiveUp,
        from: u64,
        stat: Result<Nlm4Stat, Failure>,
        fx: &mut Effects,
    ) -> Option<Active> {
        match stat {
            Ok(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD) | Err(_) => {
                return Some(self.after_grace(now, Job::GiveUp(job)));
            }
            _ => {}
        }
        // The record is as it was when the call was sent: only a reboot changes it behind a lane's back.
        if let Some((piece, held)) = self.to_undo(key, &job, from) {
            if let Ok(stat) = stat
                && stat != Nlm4Stat::NLM4_GRANTED
            {
                self.not_undone(key, piece, held, stat, fx);
            }
            lane.queue
                .push_front(Job::GiveUp(job.undone_to(piece.last() + 1)));
            return None;
        }
        lane.queue.push_front(Job::GiveUp(job));
        None
    }

    fn not_undone(
        &mut self,
        (owner, fh): Key,
        range: Range,
        held: Option<Kind>,
        stat: Nlm4Stat,
        fx: &mut Effects,
    ) {
        let holder = self.holder(owner);
        match held {
            None => fx.event(Event::UnexpectedUnlockStatus {
                holder,
                fh,
                range,
                stat,
            }),
            Some(kind @ Kind::Exclusive) if stat == Nlm4Stat::NLM4_DENIED => {
                let since = self
                    .held
                    .held_against(owner, fh.as_fh(), range, kind)
                    .map_or(Now::ZERO, |lock| lock.since);
                let _ = self.held.set(fh.as_fh(), owner, range, Kind::Shared, since);
                fx.event(Event::Lost {
                    holder,
                    fh,
                    range,
                    kind,
                    why: LostWhy::Weakened,
                });
            }
            Some(_) => fx.event(Event::NotRestored {
                holder,
                fh,
                range,
                stat,
            }),
        }
    }
}
