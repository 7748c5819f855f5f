//! LOCK, UNLOCK and TEST, and what their replies mean.

use super::effect::{Answered, Effects, Event, Failure, Refused};
use super::giving_up::GiveUp;
use super::lane::{Active, Job, Key, Lane, LockJob, Step, TestJob, UnlockJob};
use super::{LockClient, Procedure};
use crate::Now;
use crate::range::Kind;
use crate::request::Reply;
use proto::nlm::Nlm4Stat;

/// The status of a reply to anything but TEST. Of another procedure's reply nothing can be said but that it fails.
pub(super) fn stat_of(reply: &Result<Reply, Failure>) -> Result<Nlm4Stat, Failure> {
    match reply {
        Ok(Reply::Stat(stat)) => Ok(*stat),
        Ok(_) => Err(Failure::Io),
        Err(failure) => Err(*failure),
    }
}

impl LockClient {
    pub(super) fn start_lock(
        &mut self,
        key: Key,
        lane: &mut Lane,
        mut job: LockJob,
        fx: &mut Effects,
    ) -> Active {
        let owner = self.owners.at_mut(key.0);
        if !job.sent {
            job.sent = true;
            job.doubtful = owner.blocking_sent;
            owner.blocking_sent |= job.wait;
        }
        let procedure = Procedure::Lock {
            block: job.wait,
            reclaim: false,
        };
        let step = self.step(key, lane, procedure, job.range, job.kind, fx);
        Active {
            job: Job::Lock(job),
            step,
        }
    }

    /// The lock is there.
    pub(super) fn is_granted(&mut self, now: Now, (owner, fh): Key, job: &LockJob, fx: &mut Effects) {
        let _ = self.held.set(fh.as_fh(), owner, job.range, job.kind, now);
        self.answer(job.request, Ok(Answered::Done), fx);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "where the reply belongs, and when it was asked for"
    )]
    pub(super) fn lock_replied(
        &mut self,
        now: Now,
        key: Key,
        lane: &mut Lane,
        mut job: LockJob,
        epoch: u64,
        reply: &Result<Reply, Failure>,
        fx: &mut Effects,
    ) -> Option<Active> {
        let rebooted = epoch != self.epoch;
        if job.granted {
            // GRANTED came before this reply, so it says nothing new; unless it is the answer of a server that has
            // rebooted: what was lost at the reclaim must not come back unknown.
            if rebooted {
                lane.queue
                    .push_front(Job::GiveUp(GiveUp::undo(job.range, job.kind)));
            }
            return None;
        }
        match stat_of(reply) {
            // What it was granted, or queued for, is forgotten: ask again.
            Ok(Nlm4Stat::NLM4_GRANTED) | Ok(Nlm4Stat::NLM4_BLOCKED) if rebooted => {
                job.redone = true;
                lane.queue.push_front(Job::Lock(job));
                None
            }
            Ok(Nlm4Stat::NLM4_GRANTED) => {
                self.is_granted(now, key, &job, fx);
                None
            }
            Ok(Nlm4Stat::NLM4_BLOCKED) if job.wait => {
                if std::mem::take(&mut job.hinted) {
                    lane.queue.push_front(Job::Lock(job));
                } else {
                    let due = now + self.config.poll;
                    lane.waiting.insert(job.request, (job, due));
                }
                None
            }
            Ok(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD) => Some(self.after_grace(now, Job::Lock(job))),
            other => {
                self.lock_refused(key, lane, &job, other, fx);
                None
            }
        }
    }

    fn lock_refused(
        &mut self,
        (owner, fh): Key,
        lane: &mut Lane,
        job: &LockJob,
        why: Result<Nlm4Stat, Failure>,
        fx: &mut Effects,
    ) {
        let refused = match why {
            Ok(Nlm4Stat::NLM4_BLOCKED) => {
                // Linux waits for it all the same, 30 s at a time. This answers as if it had been DENIED.
                fx.event(Event::UnexpectedBlocked {
                    holder: self.holder(owner),
                    fh,
                    range: job.range,
                });
                Refused::WouldBlock
            }
            Ok(stat) => Refused::from_stat(stat, job.wait),
            Err(failure) => failure.into(),
        };
        self.answer(job.request, Err(refused), fx);
        // An earlier LOCK, or an earlier copy of this one, may wait on the server still: of a LOCK that was not to
        // wait, was sent once and was refused in plain words, there is nothing.
        let plain = |stat: Nlm4Stat| stat != Nlm4Stat::NLM4_BLOCKED && stat.name().is_some();
        if job.wait || job.redone || !why.is_ok_and(plain) {
            lane.queue.push_front(Job::GiveUp(GiveUp::of(job)));
        }
    }

    /// Waits until the grace period may be over.
    pub(super) fn after_grace(&self, now: Now, job: Job) -> Active {
        let until = now + self.config.grace_wait;
        Active {
            job,
            step: Step::Pause { until },
        }
    }

    pub(super) fn start_unlock(
        &mut self,
        key: Key,
        lane: &mut Lane,
        mut job: UnlockJob,
        fx: &mut Effects,
    ) -> Option<Active> {
        self.take_off(key, &mut job);
        if !job.taken_off {
            self.unlock_answered(&job, Ok(Answered::Done), fx);
            return None;
        }
        let step = self.step(key, lane, Procedure::Unlock, job.range, Kind::Exclusive, fx);
        Some(Active {
            job: Job::Unlock(job),
            step,
        })
    }

    /// Takes off the record what is to be unlocked.
    pub(super) fn take_off(&mut self, (owner, fh): Key, job: &mut UnlockJob) {
        job.taken_off |= self.held.unset(fh.as_fh(), owner, job.range).freed;
    }

    fn unlock_answered(&mut self, job: &UnlockJob, result: Result<Answered, Refused>, fx: &mut Effects) {
        if let Some(request) = job.request {
            self.answer(request, result, fx);
        }
    }

    pub(super) fn unlock_replied(
        &mut self,
        now: Now,
        key: Key,
        lane: &mut Lane,
        job: UnlockJob,
        reply: &Result<Reply, Failure>,
        fx: &mut Effects,
    ) -> Option<Active> {
        let result = match stat_of(reply) {
            Ok(Nlm4Stat::NLM4_GRANTED) => Ok(Answered::Done),
            // Of a server that has rebooted since, too. That it forgot the lock is not certain: the call that reclaimed it
            // after an earlier reboot may have been executed after the latest. Linux sends an UNLOCK that failed again at once, which storms if the error stays.
            Ok(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD) | Err(_) => {
                return Some(self.after_grace(now, Job::Unlock(job)));
            }
            Ok(stat) => {
                fx.event(Event::UnexpectedUnlockStatus {
                    holder: self.holder(key.0),
                    fh: key.1,
                    range: job.range,
                    stat,
                });
                Err(Refused::NoLocks)
            }
        };
        self.unlock_answered(&job, result, fx);
        // The server forgets with an UNLOCK who waits for just this range, and may have granted and taken back
        // what another thread of the owner waits for.
        lane.poll(|waiting, _| waiting.range.overlaps(job.range));
        None
    }

    pub(super) fn test_replied(
        &mut self,
        now: Now,
        job: TestJob,
        reply: Result<Reply, Failure>,
        fx: &mut Effects,
    ) -> Option<Active> {
        let result = match reply {
            Ok(Reply::Test(test)) => match test.stat {
                Nlm4Stat::NLM4_GRANTED => Ok(Answered::Tested(None)),
                Nlm4Stat::NLM4_DENIED if test.holder.is_some() => Ok(Answered::Tested(test.holder)),
                Nlm4Stat::NLM4_DENIED_GRACE_PERIOD => return Some(self.after_grace(now, Job::Test(job))),
                stat => Err(Refused::from_stat(stat, true)),
            },
            Ok(_) => Err(Refused::Io),
            Err(failure) => Err(failure.into()),
        };
        self.answer(job.request, result, fx);
        None
    }
}
