//! What one owner does to one file: one thing at a time, in the order in which it was asked.

use super::{CallId, CallOf, Failure, LockClient, Procedure, RequestId};
use crate::Now;
use crate::client::effect::Effects;
use crate::client::giving_up::GiveUp;
use crate::range::{Kind, Range};
use crate::request::Reply;
use crate::table::{Handle, OwnerId};
use std::collections::{BTreeMap, VecDeque};

/// Which lane: whose, and of which file.
pub(super) type Key = (OwnerId, Handle);

/// What is to be done, in order. A LOCK that the server has queued stands beside the others: it holds up none.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// What is being done.
    pub(super) active: Option<Active>,
    /// What comes next.
    pub(super) queue: VecDeque<Job>,
    /// LOCKs that were answered BLOCKED, and when each is sent again.
    pub(super) waiting: BTreeMap<RequestId, (LockJob, Now)>,
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) job: Job,
    pub(super) step: Step,
}

/// What a job waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// The reply to this call, which was sent after so many reboots of the server.
    Call { id: CallId, epoch: u64 },
    /// The time to send again.
    Pause { until: Now },
    /// The reply to a LOCK that CANCEL has overtaken; the reply to the CANCEL is there.
    LockReply,
}

#[derive(Debug)]
pub(super) enum Job {
    Lock(LockJob),
    Unlock(UnlockJob),
    Test(TestJob),
    GiveUp(GiveUp),
}

#[derive(Debug)]
pub(super) struct LockJob {
    pub(super) request: RequestId,
    pub(super) range: Range,
    pub(super) kind: Kind,
    pub(super) wait: bool,
    pub(super) since: Now,
    /// Whether a LOCK was ever sent for it.
    pub(super) sent: bool,
    /// Whether a LOCK was answered that did not count, for the server rebooted meanwhile. It may have been executed
    /// after the reboot all the same.
    pub(super) redone: bool,
    /// Whether a GRANTED for it may be about something else, so that it is no more than a hint.
    pub(super) doubtful: bool,
    /// Such a GRANTED came while the LOCK was under way.
    pub(super) hinted: bool,
    /// A GRANTED was believed, and the request answered, before the reply to the LOCK came.
    pub(super) granted: bool,
}

#[derive(Debug)]
pub(super) struct UnlockJob {
    /// Who is to be answered, if nobody interrupted it.
    pub(super) request: Option<RequestId>,
    pub(super) range: Range,
    /// It came off the record before its turn, for the sake of a reclaim.
    pub(super) taken_off: bool,
}

#[derive(Debug)]
pub(super) struct TestJob {
    pub(super) request: RequestId,
    pub(super) range: Range,
    pub(super) kind: Kind,
}

impl LockJob {
    pub(super) fn new(request: RequestId, range: Range, kind: Kind, wait: bool, since: Now) -> Self {
        LockJob {
            request,
            range,
            kind,
            wait,
            since,
            sent: false,
            redone: false,
            doubtful: false,
            hinted: false,
            granted: false,
        }
    }

    fn may_be_granted(&self, range: Range, kind: Kind) -> bool {
        self.sent && self.range == range && self.kind == kind
    }
}

impl Job {
    fn is_of(&self, id: RequestId) -> bool {
        match self {
            Job::Lock(job) => job.request == id,
            Job::Unlock(job) => job.request == Some(id),
            Job::Test(job) => job.request == id,
            Job::GiveUp(_) => false,
        }
    }

    fn as_lock_mut(&mut self) -> Option<&mut LockJob> {
        match self {
            Job::Lock(job) => Some(job),
            _ => None,
        }
    }
}

impl Lane {
    /// How many jobs there are.
    pub(super) fn len(&self) -> usize {
        usize::from(self.active.is_some()) + self.queue.len() + self.waiting.len()
    }

    /// When something here has to be sent again.
    pub(super) fn next_wakeup(&self) -> Option<Now> {
        let pause = self.active.as_ref().and_then(|active| match active.step {
            Step::Pause { until } => Some(until),
            _ => None,
        });
        let polls = self.waiting.values().map(|(_, due)| *due);
        polls.chain(pause).min()
    }

    /// Puts into the queue what has to be sent again by now.
    pub(super) fn wake(&mut self, now: Now) {
        if let Some(Active {
            step: Step::Pause { until },
            ..
        }) = self.active
            && until <= now
            && let Some(active) = self.active.take()
        {
            self.queue.push_front(active.job);
        }
        self.poll(|_, due| due <= now);
    }

    /// Has the LOCKs that wait sent again, those of them that are meant.
    pub(super) fn poll(&mut self, mut meant: impl FnMut(&LockJob, Now) -> bool) {
        let due: Vec<RequestId> = self
            .waiting
            .iter()
            .filter(|(_, (job, due))| meant(job, *due))
            .map(|(request, _)| *request)
            .collect();
        let jobs = due.iter().filter_map(|request| self.waiting.remove(request));
        self.queue.extend(jobs.map(|(job, _)| Job::Lock(job)));
    }

    /// The LOCKs that are not answered.
    pub(super) fn locks(&self) -> impl Iterator<Item = &LockJob> {
        let active = self.active.iter().map(|active| &active.job);
        let jobs = active.chain(&self.queue).filter_map(|job| match job {
            Job::Lock(job) if !job.granted => Some(job),
            _ => None,
        });
        jobs.chain(self.waiting.values().map(|(job, _)| job))
    }

    /// Something else is done to the file for this owner: a GRANTED that comes now may have been overtaken by it.
    pub(super) fn doubt_waiting(&mut self) {
        let queued = self.queue.iter_mut().filter_map(Job::as_lock_mut);
        let waiting = self.waiting.values_mut().map(|(job, _)| job);
        queued
            .chain(waiting)
            .filter(|job| job.sent)
            .for_each(|job| job.doubtful = true);
    }

    /// The server rebooted: a GRANTED that comes now may be from before.
    pub(super) fn doubt_all(&mut self) {
        self.doubt_waiting();
        let active = self.active.as_mut().and_then(|active| active.job.as_lock_mut());
        active.into_iter().for_each(|job| job.doubtful = true);
    }
}

impl LockClient {
    /// Sends a call of a lane, and waits for its reply.
    pub(super) fn step(
        &mut self,
        key: Key,
        lane: &mut Lane,
        procedure: Procedure,
        range: Range,
        kind: Kind,
        fx: &mut Effects,
    ) -> Step {
        if procedure != Procedure::Test {
            lane.doubt_waiting();
        }
        let id = self.send(key, procedure, range, kind, CallOf::Lane(key), fx);
        Step::Call {
            id,
            epoch: self.epoch,
        }
    }

    /// Does the next step of a job. None if there is none.
    pub(super) fn start(&mut self, key: Key, lane: &mut Lane, job: Job, fx: &mut Effects) -> Option<Active> {
        match job {
            Job::Lock(job) => Some(self.start_lock(key, lane, job, fx)),
            Job::Unlock(job) => self.start_unlock(key, lane, job, fx),
            Job::Test(job) => {
                let step = self.step(key, lane, Procedure::Test, job.range, job.kind, fx);
                let job = Job::Test(job);
                Some(Active { job, step })
            }
            Job::GiveUp(job) => self.start_give_up(key, lane, job, fx),
        }
    }

    pub(super) fn lane_replied(
        &mut self,
        now: Now,
        key: Key,
        lane: &mut Lane,
        call: CallId,
        reply: Result<Reply, Failure>,
        fx: &mut Effects,
    ) {
        let Some(Active { job, step }) = lane.active.take() else {
            return;
        };
        let epoch = match step {
            Step::Call { id, epoch } if id == call => Some(epoch),
            _ => None,
        };
        lane.active = match (job, epoch) {
            (Job::Lock(job), Some(epoch)) => self.lock_replied(now, key, lane, job, epoch, &reply, fx),
            (Job::Unlock(job), Some(_)) => self.unlock_replied(now, key, lane, job, &reply, fx),
            (Job::Test(job), Some(_)) => self.test_replied(now, job, reply, fx),
            (Job::GiveUp(job), Some(epoch)) => self.give_up_replied(now, key, lane, job, epoch, &reply, fx),
            (Job::GiveUp(job), None) => Self::overtaken_lock_replied(lane, job, step, call, &reply),
            (job, None) => Some(Active { job, step }),
        };
    }

    /// GRANTED came for a range. Whether anything here waits for it.
    pub(super) fn lane_granted(
        &mut self,
        now: Now,
        key: Key,
        lane: &mut Lane,
        range: Range,
        kind: Kind,
        fx: &mut Effects,
    ) -> bool {
        let mut awaited = false;
        if let Some(Active {
            job: Job::Lock(job),
            step,
        }) = &mut lane.active
            && job.range.overlaps(range)
        {
            // Even if it is about another LOCK: what this one has got, if anything, must not be given away by a
            // denial of that.
            awaited = true;
            match step {
                _ if !job.may_be_granted(range, kind) => {}
                Step::Call { .. } if !job.doubtful && !job.granted => {
                    job.granted = true;
                    self.is_granted(now, key, job, fx);
                }
                _ => job.hinted = true,
            }
        }
        let queued = |job: &Job| matches!(job, Job::Lock(job) if job.may_be_granted(range, kind));
        awaited |= lane.queue.iter().any(queued);
        let fits = |job: &LockJob| job.may_be_granted(range, kind);
        let believed = lane.waiting.values().map(|(job, _)| job);
        let believed = believed
            .filter(|job| fits(job) && !job.doubtful)
            .map(|job| job.request)
            .next();
        if let Some((job, _)) = believed.and_then(|request| lane.waiting.remove(&request)) {
            self.is_granted(now, key, &job, fx);
            return true;
        }
        let before = lane.waiting.len();
        lane.poll(|job, _| fits(job));
        awaited || lane.waiting.len() < before
    }

    /// A request of this lane, which has been answered, was interrupted.
    pub(super) fn lane_interrupted(
        &mut self,
        key: Key,
        lane: &mut Lane,
        request: RequestId,
        fx: &mut Effects,
    ) {
        if let Some((job, _)) = lane.waiting.remove(&request) {
            lane.queue.push_front(Job::GiveUp(GiveUp::of(&job)));
        } else if lane
            .active
            .as_ref()
            .is_some_and(|active| active.job.is_of(request))
        {
            if let Some(active) = lane.active.take() {
                lane.active = self.active_interrupted(key, lane, active, fx);
            }
        } else if let Some(place) = lane.queue.iter().position(|job| job.is_of(request))
            && let Some(job) = lane.queue.remove(place)
        {
            match job {
                Job::Lock(job) if job.sent => lane.queue.insert(place, Job::GiveUp(GiveUp::of(&job))),
                Job::Unlock(job) => lane
                    .queue
                    .insert(place, Job::Unlock(UnlockJob { request: None, ..job })),
                _ => {}
            }
        }
    }

    fn active_interrupted(
        &mut self,
        key: Key,
        lane: &mut Lane,
        Active { job, step }: Active,
        fx: &mut Effects,
    ) -> Option<Active> {
        match (job, step) {
            (Job::Lock(job), Step::Call { id, .. }) => Some(self.overtake(key, lane, &job, id, fx)),
            (Job::Lock(job), _) => {
                lane.queue.push_front(Job::GiveUp(GiveUp::of(&job)));
                None
            }
            (Job::Test(_), Step::Call { id, .. }) => {
                // Its reply changes nothing, so nobody waits for it.
                self.calls.remove(&id);
                None
            }
            (Job::Test(_), _) => None,
            (Job::Unlock(job), step) => Some(Active {
                job: Job::Unlock(UnlockJob { request: None, ..job }),
                step,
            }),
            (job, step) => Some(Active { job, step }),
        }
    }
}
