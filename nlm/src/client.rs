//! The client side of NLM (XNFS C702, chapter 10; version 4: RFC 1813, appendix II) as a state machine.
//!
//! A [`LockClient`] is what lockd is to a Linux client, for one server: it knows which locks the holders of this
//! host have there, which they wait for, and which calls are under way. Feed it what holders want, replies, GRANTED
//! callbacks, news of a reboot, and time; take calls, answers and events out ([`Effect`]):
//!
//! ```
//! use nfslab_nlm::client::{Answered, Api, Config, Effect, Effects, Holder, LockClient};
//! use nfslab_nlm::range::Range;
//! use nfslab_nlm::request::Reply;
//! use proto::nlm::Nlm4Stat;
//! use std::time::Duration;
//!
//! let (mut client, mut fx) = (LockClient::new(Config::new("client1")), Effects::new());
//! let holder = Holder { number: 0x5eed, api: Api::Flock };
//! let now = Duration::ZERO;
//! let request = client.lock(now, b"fh", holder, Range::WHOLE_FILE, true, true, &mut fx);
//! let Some(Effect::Call { id, call }) = fx.drain().next() else { panic!("no call") };
//! assert_eq!(call.oh.as_slice(), b"0@client1");
//! client.replied(now, id, Ok(Reply::Stat(Nlm4Stat::NLM4_GRANTED)), &mut fx);
//! assert_eq!(fx.drain().next(), Some(Effect::Answer { request, result: Ok(Answered::Done) }));
//! assert_eq!(client.held().count(), 1);
//! ```
//!
//! # Order
//!
//! RPC keeps no order, and an NLM server has no duplicate request cache, so what one owner does to one file is done
//! in a `Lane`: one call at a time, the next after the reply to the one before. A LOCK that was answered BLOCKED
//! leaves the lane, so that another thread can UNLOCK while it waits. Only CANCEL overtakes: it follows a LOCK whose
//! reply is not there yet, since that reply may be what a hung server withholds.
//!
//! # When GRANTED is believed
//!
//! GRANTED names a range and an owner, not a LOCK. It is taken at its word if it can be about one LOCK only: the
//! owner (whose svid is never used again) sent no other blocking LOCK before, nothing else for this file since, and
//! the server did not reboot. Otherwise it may be a late copy, or something may have been done to the range
//! after the server had granted it; then it is answered GRANTED and the LOCK is sent once more, and its reply decides.
//! (Linux believes every GRANTED that fits: `nlmclnt_grant`, fs/lockd/clntlock.c.)
//!
//! Invariants: every request is answered once; a lane has one call under way, or two while CANCEL overtakes; what
//! the record says is held was granted by the server since its latest reboot, or is about to be reclaimed.
//!
//! Read next: `lane` (what is under way), `locking` (LOCK, UNLOCK and TEST), `giving_up` (CANCEL and what
//! follows it), `reclaim` (after a reboot of the server).

mod call;
mod effect;
mod giving_up;
mod lane;
mod locking;
mod reclaim;

pub use call::{Call, Procedure, reply_of_test};
pub use effect::{Answered, Effect, Effects, Event, Failure, LostWhy, Refused};

use crate::Now;
use crate::arena::Arena;
use crate::limits;
use crate::range::{Kind, Range};
use crate::request::Reply;
use crate::short::ShortBytes;
use crate::table::{Fh, Handle, LockTable, OwnerId};
use lane::{Job, Key, Lane, LockJob, TestJob, UnlockJob};
use proto::nlm::Nlm4Lock;
use reclaim::Reclaim;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How the client behaves. The figures of [`Config::new`] are those of Linux.
#[derive(Debug, Clone)]
pub struct Config {
    /// What this host calls itself (`caller_name`); only the first [`limits::CALLER_NAME`] bytes count.
    pub caller_name: String,
    /// After this time without a GRANTED a LOCK that was answered BLOCKED is sent again (`NLMCLNT_POLL_TIMEOUT`).
    pub poll: Duration,
    /// After this time a call is sent again that was refused for the grace period (`NLMCLNT_GRACE_WAIT`), or an
    /// UNLOCK that failed.
    pub grace_wait: Duration,
    /// How often a CANCEL is sent again that failed or was answered DENIED_NOLOCKS (`NLMCLNT_MAX_RETRIES`).
    pub cancel_retries: u32,
    /// The time between two such.
    pub cancel_wait: Duration,
    /// The number of the first owner. A server may know owners by our address and their number alone (Linux does), so two
    /// clients of one host, of which the kernel's is one, must not use the same.
    pub first_svid: i32,
    /// How many requests may be under way, those included that are being given up. Beyond it LOCK and TEST are
    /// refused with [`Refused::NoLocks`]; UNLOCK beyond twice as many, for a lock that cannot be given back is worse.
    pub max_requests: usize,
    /// How many locks may be held. Beyond it LOCK is refused with [`Refused::NoLocks`].
    pub max_held: usize,
}

impl Config {
    /// As Linux does it.
    pub fn new(caller_name: impl Into<String>) -> Self {
        Config {
            caller_name: caller_name.into(),
            poll: Duration::from_secs(30),
            grace_wait: Duration::from_secs(5),
            cancel_retries: 3,
            cancel_wait: Duration::from_secs(30),
            first_svid: 0,
            max_requests: limits::CLIENT_REQUESTS,
            max_held: limits::CLIENT_HELD,
        }
    }
}

/// By which system call a lock is held. The same number is another owner under the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    /// `fcntl` (F_SETLK and the like).
    Posix,
    /// `flock`: a lock on the whole file.
    Flock,
}

/// A holder on this host, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The kernel's number for it (`lk_owner` in FUSE).
    pub number: u64,
    /// How it came.
    pub api: Api,
}

/// A request that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A call under way. It keeps this name however often the driver sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A lock, to be shown: held, or waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose.
    pub holder: Holder,
    /// Its number on the wire.
    pub svid: i32,
    /// On which file.
    pub fh: Handle,
    /// Which bytes.
    pub range: Range,
    /// Alone or with others.
    pub kind: Kind,
    /// Since when it is held or waited for.
    pub since: Now,
}

/// A holder while it holds something, or something of it is under way.
#[derive(Debug)]
struct Owner {
    holder: Holder,
    svid: i32,
    /// Whether there was a LOCK to which a GRANTED may still come, however late.
    blocking_sent: bool,
    /// How many lanes it has.
    lanes: usize,
}

/// What became of a call that somebody waits for.
#[derive(Debug, Clone, Copy)]
enum CallOf {
    Lane(Key),
    Reclaim,
}

/// The locks of this host on one server.
pub struct LockClient {
    config: Config,
    caller_name: ShortBytes,
    /// This host's NSM state number, as told in LOCK.
    state: i32,
    /// How many reboots of the server are known. What was answered in an earlier one does not count.
    epoch: u64,
    next_svid: Option<i32>,
    next_request: u64,
    next_call: u64,
    owners: Arena<OwnerId, Owner>,
    by_holder: BTreeMap<Holder, OwnerId>,
    by_svid: BTreeMap<i32, OwnerId>,
    /// What is held, as far as this host knows.
    held: LockTable,
    lanes: BTreeMap<Key, Lane>,
    /// How many jobs all lanes have.
    jobs: usize,
    /// The requests that are not answered yet.
    requests: BTreeMap<RequestId, Key>,
    calls: BTreeMap<CallId, CallOf>,
    reclaim: Reclaim,
    /// When to look at which lane. A lane may be in it for nothing.
    timers: BTreeSet<(Now, Key)>,
}

impl LockClient {
    /// A client that holds nothing, of a server that is up.
    pub fn new(config: Config) -> Self {
        let name = config.caller_name.as_bytes();
        let caller_name = ShortBytes::from(name.get(..limits::CALLER_NAME).unwrap_or(name));
        LockClient {
            next_svid: Some(config.first_svid),
            config,
            caller_name,
            state: 1,
            epoch: 0,
            next_request: 0,
            next_call: 0,
            owners: Arena::new(),
            by_holder: BTreeMap::new(),
            by_svid: BTreeMap::new(),
            held: LockTable::new(),
            lanes: BTreeMap::new(),
            jobs: 0,
            requests: BTreeMap::new(),
            calls: BTreeMap::new(),
            reclaim: Reclaim::default(),
            timers: BTreeSet::new(),
        }
    }

    /// This host's own NSM state number, for the `state` of LOCK (XNFS C702, chapter 11): odd while it is up.
    pub fn set_state(&mut self, nsm_state: i32) {
        self.state = nsm_state;
    }

    /// Takes a lock (F_SETLK, F_SETLKW, `flock`); with `wait`, for however long others hold it.
    ///
    /// Answered [`Answered::Done`], or refused with anything of [`Refused`]. A handle of more than 64 bytes is
    /// [`Refused::Stale`]; [`Refused::NoLocks`] also beyond the limits of [`Config`], and when the 2^31 numbers for
    /// owners are used up.
    #[expect(clippy::too_many_arguments, reason = "what fcntl is asked, and the time")]
    pub fn lock(
        &mut self,
        now: Now,
        fh: &[u8],
        holder: Holder,
        range: Range,
        exclusive: bool,
        wait: bool,
        fx: &mut Effects,
    ) -> RequestId {
        let full = self.jobs >= self.config.max_requests || self.held.len() >= self.config.max_held;
        let kind = Kind::from_wire(exclusive);
        self.take_in(fh, holder, full, fx, |request| {
            Job::Lock(LockJob::new(request, range, kind, wait, now))
        })
    }

    /// Gives back what the holder has of the range (F_UNLCK). Done, without a call, also if it has nothing there.
    ///
    /// Refused with [`Refused::NoLocks`] if the server answers anything but GRANTED and the grace period; the lock
    /// is off the record all the same.
    pub fn unlock(&mut self, fh: &[u8], holder: Holder, range: Range, fx: &mut Effects) -> RequestId {
        let full = self.jobs >= self.config.max_requests.saturating_mul(2);
        if !self.by_holder.contains_key(&holder) {
            // Nothing is held and nothing under way: no number is used up for it.
            let request = self.new_request();
            fx.push(Effect::Answer {
                request,
                result: Ok(Answered::Done),
            });
            return request;
        }
        let early = self.reclaim.is_under_way();
        let request = self.take_in(fh, holder, full, fx, |request| {
            Job::Unlock(UnlockJob {
                request: Some(request),
                range,
                taken_off: false,
            })
        });
        if early && let Some(key) = self.requests.get(&request).copied() {
            self.take_off_early(key);
        }
        request
    }

    /// Gives back everything that the holder has on the file (its last close, its exit). What it still waits for
    /// there is not given up: interrupt that first.
    pub fn release(&mut self, fh: &[u8], holder: Holder, fx: &mut Effects) -> RequestId {
        self.unlock(fh, holder, Range::WHOLE_FILE, fx)
    }

    /// Asks who would be in the way (F_GETLK). Answered [`Answered::Tested`].
    pub fn test(
        &mut self,
        fh: &[u8],
        holder: Holder,
        range: Range,
        exclusive: bool,
        fx: &mut Effects,
    ) -> RequestId {
        let full = self.jobs >= self.config.max_requests;
        let kind = Kind::from_wire(exclusive);
        self.take_in(fh, holder, full, fx, |request| {
            Job::Test(TestJob { request, range, kind })
        })
    }

    /// The reply to a call, or that none can be had. The reply to a call that is not under way is ignored.
    pub fn replied(&mut self, now: Now, call: CallId, reply: Result<Reply, Failure>, fx: &mut Effects) {
        match self.calls.remove(&call) {
            Some(CallOf::Lane(key)) if self.lanes.contains_key(&key) => {
                self.in_lane(key, fx, |client, lane, fx| {
                    client.lane_replied(now, key, lane, call, reply, fx);
                })
            }
            Some(CallOf::Reclaim) => self.reclaim_replied(call, &reply, fx),
            _ => {}
        }
    }

    /// The server says (GRANTED, GRANTED_MSG) that a lock is there. Whether to answer NLM4_GRANTED; otherwise it is
    /// NLM4_DENIED.
    ///
    /// Like Linux this looks at file, range, kind and svid; whether the sender is the server is the driver's to know.
    /// True also if it is held already, and if any part of the range is held, or may be by a LOCK under way: a server
    /// that gives a denied lock away would give away that part too. (A denial that such a server gets late can still
    /// take away a LOCK that overtook it: no answer to GRANTED says which LOCK it is about.) What the owner does not want beside it is given back by
    /// the UNLOCK that follows each CANCEL.
    pub fn granted(&mut self, now: Now, alock: &Nlm4Lock<'_>, exclusive: bool, fx: &mut Effects) -> bool {
        let range = Range::from_wire(alock.l_offset, alock.l_len).ok();
        let (Some(owner), Some(fh), Some(range)) =
            (self.by_svid.get(&alock.svid), Fh::new(alock.fh.0), range)
        else {
            return false;
        };
        let key = (*owner, Handle::from(fh));
        let mut awaited = false;
        if self.lanes.contains_key(&key) {
            self.in_lane(key, fx, |client, lane, fx| {
                awaited = client.lane_granted(now, key, lane, range, Kind::from_wire(exclusive), fx);
            });
        }
        awaited || self.held.holds_against(key.0, fh, range, Kind::Exclusive)
    }

    /// A signal for whoever waits for the request: it is answered [`Refused::Interrupted`] at once. What it may have
    /// changed on the server is undone behind it; an UNLOCK goes on. A request that is answered already is ignored.
    pub fn interrupt(&mut self, request: RequestId, fx: &mut Effects) {
        let Some(key) = self.requests.get(&request).copied() else {
            return;
        };
        self.answer(request, Err(Refused::Interrupted), fx);
        self.in_lane(key, fx, |client, lane, fx| {
            client.lane_interrupted(key, lane, request, fx);
        });
    }

    /// Lets time pass. To be called at [`next_wakeup`](Self::next_wakeup), or at any time.
    pub fn tick(&mut self, now: Now, fx: &mut Effects) {
        while let Some((at, key)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            if self.lanes.contains_key(&key) {
                self.in_lane(key, fx, |_, lane, _| lane.wake(now));
            }
        }
    }

    /// When [`tick`](Self::tick) may have something to do next, if nothing else happens.
    pub fn next_wakeup(&self) -> Option<Now> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether locks are being reclaimed, so that new requests wait.
    pub fn is_reclaiming(&self) -> bool {
        self.reclaim.is_under_way()
    }

    /// Whether nothing is held, under way or waited for.
    pub fn is_idle(&self) -> bool {
        self.owners.len() == 0 && self.calls.is_empty()
    }

    /// Whether the holder holds something, or something of it is under way.
    pub fn knows(&self, holder: &Holder) -> bool {
        self.by_holder.contains_key(holder)
    }

    /// How many holders it knows.
    pub fn holders(&self) -> usize {
        self.by_holder.len()
    }

    /// What is held, in the order of owners.
    pub fn held(&self) -> impl Iterator<Item = Shown> {
        self.owners.iter_from(0).flat_map(move |(id, owner)| {
            self.held.of_owner(id).map(move |(fh, lock)| Shown {
                holder: owner.holder,
                svid: owner.svid,
                fh,
                range: lock.range,
                kind: lock.kind,
                since: lock.since,
            })
        })
    }

    /// The locks that somebody waits for, in the order of owners and files: those that the server has queued, and
    /// those of which nothing is known yet.
    pub fn waiting(&self) -> impl Iterator<Item = (RequestId, Shown)> {
        self.lanes.iter().flat_map(move |((id, fh), lane)| {
            let owner = self.owners.at(*id);
            lane.locks().map(move |job| {
                let shown = Shown {
                    holder: owner.holder,
                    svid: owner.svid,
                    fh: *fh,
                    range: job.range,
                    kind: job.kind,
                    since: job.since,
                };
                (job.request, shown)
            })
        })
    }

    fn new_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Puts a new job into the lane that it belongs to, unless there is no room or no such file can be.
    fn take_in(
        &mut self,
        fh: &[u8],
        holder: Holder,
        full: bool,
        fx: &mut Effects,
        job: impl FnOnce(RequestId) -> Job,
    ) -> RequestId {
        let request = self.new_request();
        let place = match Fh::new(fh) {
            None => Err(Refused::Stale),
            Some(_) if full => Err(Refused::NoLocks),
            Some(fh) => self
                .owner_for(holder)
                .map(|owner| (owner, Handle::from(fh)))
                .ok_or(Refused::NoLocks),
        };
        match place {
            Err(refused) => fx.push(Effect::Answer {
                request,
                result: Err(refused),
            }),
            Ok(key) => {
                self.requests.insert(request, key);
                self.in_lane(key, fx, |_, lane, _| lane.queue.push_back(job(request)));
            }
        }
        request
    }

    /// The holder's record, made if need be. None when there is no number left for it.
    fn owner_for(&mut self, holder: Holder) -> Option<OwnerId> {
        if let Some(owner) = self.by_holder.get(&holder) {
            return Some(*owner);
        }
        let svid = self.next_svid?;
        self.next_svid = svid.checked_add(1);
        let owner = self.owners.insert(Owner {
            holder,
            svid,
            blocking_sent: false,
            lanes: 0,
        });
        self.by_holder.insert(holder, owner);
        self.by_svid.insert(svid, owner);
        Some(owner)
    }

    /// Forgets an owner that holds nothing and of which nothing is under way. Its number is not used again.
    fn forget_if_idle(&mut self, id: OwnerId) {
        let idle = |owner: &Owner| owner.lanes == 0 && self.held.of_owner(id).next().is_none();
        if self.owners.get(id).is_some_and(idle)
            && let Some(owner) = self.owners.remove(id)
        {
            self.by_holder.remove(&owner.holder);
            self.by_svid.remove(&owner.svid);
        }
    }

    /// Does something to a lane, which is made if need be, then sends what can be sent, and forgets the lane if
    /// nothing is left in it.
    fn in_lane(&mut self, key: Key, fx: &mut Effects, act: impl FnOnce(&mut Self, &mut Lane, &mut Effects)) {
        let known = self.lanes.remove(&key);
        if known.is_none() {
            self.owners.at_mut(key.0).lanes += 1;
        }
        let mut lane = known.unwrap_or_default();
        self.jobs -= lane.len();
        act(self, &mut lane, fx);
        self.go_on(key, &mut lane, fx);
        self.jobs += lane.len();
        if lane.len() > 0 {
            if let Some(at) = lane.next_wakeup() {
                self.timers.insert((at, key));
            }
            self.lanes.insert(key, lane);
            return;
        }
        self.owners.at_mut(key.0).lanes -= 1;
        self.forget_if_idle(key.0);
    }

    /// Starts jobs until one has to wait for something.
    fn go_on(&mut self, key: Key, lane: &mut Lane, fx: &mut Effects) {
        while lane.active.is_none()
            && !self.reclaim.is_under_way()
            && let Some(job) = lane.queue.pop_front()
        {
            lane.active = self.start(key, lane, job, fx);
        }
    }

    /// Answers a request, unless it is answered.
    fn answer(&mut self, request: RequestId, result: Result<Answered, Refused>, fx: &mut Effects) {
        if self.requests.remove(&request).is_some() {
            fx.push(Effect::Answer { request, result });
        }
    }

    /// Sends a call of an owner about a file.
    fn send(
        &mut self,
        (owner, fh): Key,
        procedure: Procedure,
        range: Range,
        kind: Kind,
        of: CallOf,
        fx: &mut Effects,
    ) -> CallId {
        self.next_call += 1;
        let id = CallId(self.next_call);
        let svid = self.owners.at(owner).svid;
        let oh = [format!("{svid}@").as_bytes(), self.caller_name.as_slice()].concat();
        let call = Call {
            procedure,
            caller_name: self.caller_name.clone(),
            fh,
            oh: oh.as_slice().into(),
            holder: self.owners.at(owner).holder,
            svid,
            range,
            kind,
            state: self.state,
        };
        self.calls.insert(id, of);
        fx.push(Effect::Call {
            id,
            call: Box::new(call),
        });
        id
    }

    fn holder(&self, owner: OwnerId) -> Holder {
        self.owners.at(owner).holder
    }
}

#[cfg(test)]
mod tests;
