//! The server side of NLM (XNFS C702, chapter 10; version 4: RFC 1813, appendix II) as a state machine.
//!
//! A [`LockService`] is what lockd is to a Linux server: it has the lock table, the requests that wait,
//! the peers that are monitored, and *one worker*. While the worker is kept, by a monitor upcall or by a
//! slowness that someone configured, every other call of every client waits behind it, NULL and UNLOCK
//! included. There is no duplicate request cache: a retransmitted copy is a call like any other and is
//! executed again.
//!
//! Feed it calls, time, and the results of what it wanted done; take answers and [`Effects`] out:
//!
//! ```
//! use nfslab_nlm::effect::{Effect, Effects};
//! use nfslab_nlm::hosts::{HostKey, Transport};
//! use nfslab_nlm::personality::Personality;
//! use nfslab_nlm::request::{Call, CallId, Reply, Request};
//! use nfslab_nlm::service::{FileCheck, LockService};
//! use proto::nlm::{LockArgs, Nlm4Lock, Nlm4Stat};
//! use std::time::Duration;
//!
//! let files = |_fh: &[u8], _kind| FileCheck::Ok;
//! let (mut service, mut fx) = (LockService::new(Personality::default()), Effects::new());
//! let alock = Nlm4Lock {
//!     caller_name: "client1".into(), fh: "f".into(), oh: "1@client1".into(), svid: 1, l_offset: 0, l_len: 0,
//! };
//! let args = LockArgs { cookie: "c".into(), block: false, exclusive: true, alock, reclaim: false, state: 3 };
//! let localhost = [127, 0, 0, 1].into();
//! let from = HostKey { peer: localhost, server: localhost, transport: Transport::Tcp, version: 4 };
//! let now = Duration::ZERO;
//! // The first LOCK of a peer has it monitored; statd says that it does.
//! let call = Call { id: CallId(1), from, request: &Request::Lock(args), permitted: true };
//! assert_eq!(service.call(now, call, &files, &mut fx), None);
//! assert!(fx.drain().any(|e| matches!(e, Effect::Monitor { peer, .. } if peer == localhost)));
//! service.monitored(now, localhost, true, &files, &mut fx);
//! let granted = Effect::Reply { id: CallId(1), reply: Reply::Stat(Nlm4Stat::NLM4_GRANTED) };
//! assert!(fx.drain().any(|e| e == granted));
//! // From then on it is answered in place.
//! let call = Call { id: CallId(2), from, request: &Request::Lock(args), permitted: true };
//! let reply = service.call(now, call, &files, &mut fx);
//! assert_eq!(reply, Some(Reply::Stat(Nlm4Stat::NLM4_GRANTED)));
//! ```
//!
//! Invariants, checked by [`LockService::check`]: those of the table; a request that waits has someone
//! else's lock in its way, or is behind another in a fair queue, or its holder was forgotten on purpose; an owner is known as long as it holds or waits and no longer; the counts kept
//! with owners and peers are right.
//!
//! Read next: `worker` (what keeps a call), `procedures` and `sharing` (what a call does), `reboot` (what a client's
//! reboot does), `grants` (what happens when
//! a lock comes free), `faulty` (locks that are lost, leaked or granted twice on purpose), `queue` (who goes first), `view` (what can be seen from outside).

mod breaking;
mod faulty;
mod grants;
mod graph;
mod procedures;
mod queue;
mod reboot;
mod sharing;
mod view;
mod worker;

pub use breaking::{IsFile, LockSelector};
use faulty::DoubleGrants;
pub use faulty::{NotLeaked, ORPHAN, is_orphan};
pub use graph::{WaitEdge, WaitFor};
pub use view::{HolderView, LockView, PeerView, WaiterView};

use crate::Now;
use crate::effect::{Effect, Effects, Event};
use crate::hosts::{Hosts, Monitored, PeerId};
use crate::limits;
use crate::owners::Owners;
use crate::personality::Personality;
use crate::range::Kind;
use crate::request::{Call, OwnedRequest, PeerSelector, Queued, Reply};
use crate::shares::Shares;
use crate::short::ShortBytes;
use crate::table::{Handle, LockTable};
use crate::upcall::{Statd, StatdNow};
use crate::waiters::Waiters;
use procedures::NotDone;
use proto::nlm::Nlm4Stat;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;
use worker::Work;

/// How the lock manager itself is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lockd {
    /// It answers.
    #[default]
    Ok,
    /// Every call keeps its worker for this time before it is executed.
    Slow(Duration),
    /// It takes calls and does nothing with them. Those that it has taken are executed when it is well again.
    Hung,
    /// Its workers execute so many more calls, and those that come then wait as if it were hung.
    HungAfter(u32),
}

/// What the file system says of a file that is to be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileCheck {
    /// It is there.
    Ok,
    /// It cannot be locked, for instance `NLM4_STALE_FH`, `NLM4_ROFS` or `NLM4_FAILED`.
    Refuse(Nlm4Stat),
    /// It cannot be had now. Linux then gives no answer at all, and the client asks again.
    Drop,
}

/// Whether a file is there is not the lock service's business; it asks.
///
/// A closure `|fh: &[u8], kind| …` will do.
pub trait Files {
    /// May this file be locked so?
    fn check(&self, fh: &[u8], kind: Kind) -> FileCheck;
}

/// The files as one caller finds them.
struct Allowed<'a> {
    files: &'a dyn Files,
    permitted: bool,
}

impl Files for Allowed<'_> {
    fn check(&self, fh: &[u8], kind: Kind) -> FileCheck {
        match self.files.check(fh, kind) {
            FileCheck::Ok if !self.permitted => FileCheck::Refuse(Nlm4Stat::NLM4_FAILED),
            check => check,
        }
    }
}

impl<F: Fn(&[u8], Kind) -> FileCheck> Files for F {
    fn check(&self, fh: &[u8], kind: Kind) -> FileCheck {
        self(fh, kind)
    }
}

/// A client host that is known by a name.
#[derive(Debug, Clone, Copy)]
struct Caller {
    /// The number that stands for it in its owners.
    space: u32,
    /// The newest state number in its LOCKs.
    state: Option<i32>,
}

/// The lock manager of a server.
pub struct LockService {
    personality: Personality,
    table: LockTable,
    owners: Owners,
    hosts: Hosts,
    waiters: Waiters,
    shares: Shares,
    /// Caller names, if those are part of an owner.
    callers: BTreeMap<ShortBytes, Caller>,
    lockd: Lockd,
    /// With [`Lockd::HungAfter`]: how many calls the workers still take.
    left: u32,
    statd: StatdNow,
    workers: Vec<Option<Work>>,
    queue: VecDeque<Queued>,
    grace_until: Option<Now>,
    /// The number of the latest owner that is nobody.
    orphans: i32,
    /// When the locks of some of them end.
    orphans_end: BTreeSet<(Now, i32)>,
    /// On which files LOCKs that conflict are granted.
    double_grants: BTreeMap<Handle, DoubleGrants>,
}

/// Whichever comes first.
fn sooner(one: Option<Now>, other: Option<Now>) -> Option<Now> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl LockService {
    /// A service without locks, outside any grace period, with lockd and statd well.
    pub fn new(personality: Personality) -> Self {
        let workers = (0..personality.workers.max(1)).map(|_| None).collect();
        LockService {
            table: LockTable::new(),
            owners: Owners::new(personality.owner_key.oh),
            hosts: Hosts::new(),
            waiters: Waiters::default(),
            shares: Shares::default(),
            callers: BTreeMap::new(),
            lockd: Lockd::Ok,
            left: 0,
            statd: StatdNow::default(),
            workers,
            queue: VecDeque::new(),
            grace_until: None,
            orphans: 0,
            orphans_end: BTreeSet::new(),
            double_grants: BTreeMap::new(),
            personality,
        }
    }

    /// How it behaves where servers differ.
    pub fn personality(&self) -> &Personality {
        &self.personality
    }

    /// How lockd is.
    pub fn lockd(&self) -> Lockd {
        self.lockd
    }

    /// How statd is, as lockd sees it.
    pub fn statd(&self) -> Statd {
        self.statd.statd
    }

    /// Takes a call. `Some` is the answer. `None` means that it comes later as [`Effect::Reply`], or
    /// never: the call was dropped, or the service is restarted before its turn comes.
    pub fn call(&mut self, now: Now, call: Call<'_>, files: &dyn Files, fx: &mut Effects) -> Option<Reply> {
        let Some(worker) = self.worker_at_once() else {
            self.enqueue_call(now, &call, files, fx);
            return None;
        };
        self.took_call();
        let allowed = Allowed {
            files,
            permitted: call.permitted,
        };
        match self.execute(now, &call.from, call.request, false, &allowed, fx) {
            Ok(reply) => Some(reply),
            Err(NotDone::Dropped) => {
                fx.event(Event::CallDropped {
                    id: call.id,
                    procedure: call.request.name(),
                });
                None
            }
            Err(NotDone::Upcall(peer)) => {
                let request = OwnedRequest::from(call.request);
                let queued = Queued::Call {
                    id: call.id,
                    from: call.from,
                    request,
                    permitted: call.permitted,
                };
                self.start_upcall(worker, now, queued, peer, fx);
                self.pump(now, files, fx);
                None
            }
            // `execute` turns a refusal into a reply.
            Err(NotDone::Refused(stat)) => Some(Reply::Stat(stat)),
        }
    }

    /// Whether a call would be executed when it comes, and not queued.
    pub fn executes_at_once(&self) -> bool {
        self.worker_at_once().is_some()
    }

    fn worker_at_once(&self) -> Option<usize> {
        let at_once = !matches!(self.lockd, Lockd::Slow(_)) && self.takes_calls() && self.queue.is_empty();
        self.free_worker().filter(|_| at_once)
    }

    fn enqueue_call(&mut self, now: Now, call: &Call<'_>, files: &dyn Files, fx: &mut Effects) {
        if self.queue.len() >= limits::QUEUED_CALLS {
            fx.event(Event::QueueFull {
                id: call.id,
                limit: limits::QUEUED_CALLS,
            });
            return;
        }
        if !self.takes_calls() || self.free_worker().is_none() {
            fx.event(Event::CallQueued {
                id: call.id,
                procedure: call.request.name(),
                from: call.from,
                behind: self.queue.len(),
                stuck_on: self.stuck_on(),
            });
        }
        let request = OwnedRequest::from(call.request);
        self.queue.push_back(Queued::Call {
            id: call.id,
            from: call.from,
            request,
            permitted: call.permitted,
        });
        self.pump(now, files, fx);
    }

    /// Lets time pass: finishes upcalls, takes calls from the queue, repeats callbacks, ends the grace period.
    /// To be called at [`next_wakeup`](Self::next_wakeup), or at any time.
    pub fn tick(&mut self, now: Now, files: &dyn Files, fx: &mut Effects) {
        if self.grace_until.is_some_and(|end| now >= end) {
            self.end_grace(fx);
        }
        self.end_faults(now, fx);
        self.pump(now, files, fx);
    }

    /// When [`tick`](Self::tick) has something to do next, if nothing else happens.
    pub fn next_wakeup(&self) -> Option<Now> {
        let nothing_ends = self.grace_until.is_none() && self.has_no_faults();
        if nothing_ends && self.waiters.is_empty() && self.workers.iter().all(Option::is_none) {
            return None;
        }
        let ends = sooner(self.grace_until, self.next_fault_ends());
        if self.lockd == Lockd::Hung {
            return ends;
        }
        let workers = self
            .workers
            .iter()
            .flatten()
            .filter_map(|work| self.wakes(work))
            .min();
        let due = self
            .waiters
            .next_due()
            .map(|(at, _)| at)
            .filter(|_| self.free_worker().is_some() && self.takes_calls());
        sooner(sooner(ends, workers), due)
    }

    /// Makes lockd well, slow or hung. Calls until it hangs are counted from now on.
    pub fn set_lockd(&mut self, now: Now, lockd: Lockd, files: &dyn Files, fx: &mut Effects) {
        self.lockd = lockd;
        self.left = if let Lockd::HungAfter(calls) = lockd {
            calls
        } else {
            0
        };
        self.pump(now, files, fx);
    }

    /// Makes statd well, absent, hung, slow or failing. An upcall that is under way feels it: if statd
    /// was absent, with the next lookup; otherwise at once.
    pub fn set_statd(&mut self, now: Now, statd: Statd, files: &dyn Files, fx: &mut Effects) {
        self.statd = StatdNow { statd, since: now };
        self.pump(now, files, fx);
    }

    /// The driver tells whether statd now monitors the peer, as [`Effect::Monitor`] had asked.
    pub fn monitored(&mut self, now: Now, peer: IpAddr, done: bool, files: &dyn Files, fx: &mut Effects) {
        if !self.statd_answered(now, peer, done, files, fx)
            && done
            && let Some(id) = self.hosts.peer_at(peer)
            && !self.hosts.peer(id).monitored.is_believed()
        {
            self.hosts.peer_mut(id).monitored = Monitored::ByStatd { since: now };
            fx.event(Event::HostMonitored { peer, really: true });
        }
        self.pump(now, files, fx);
    }

    /// The driver tells that there is no statd which it could ask, as [`Effect::Monitor`] had wanted: the port mapper
    /// does not know one. It is looked for again, as long and as often as the personality does it, each time with
    /// another [`Effect::Monitor`].
    pub fn statd_not_registered(&mut self, now: Now, peer: IpAddr, files: &dyn Files, fx: &mut Effects) {
        self.statd_not_found(now, peer, files, fx);
        self.pump(now, files, fx);
    }

    /// A number that no lock service of this host has had before. It is part of what the status monitor is given: a
    /// real rpc.statd, which outlives this service, may bring back what was given to an earlier one.
    pub fn set_instance(&mut self, instance: u32) {
        self.hosts.set_instance(instance);
    }

    /// The lock service no longer counts these peers as monitored: their next LOCK has them monitored
    /// again. Locks stay. Returns how many had been monitored.
    pub fn forget_peer(&mut self, which: &PeerSelector, fx: &mut Effects) -> usize {
        let mut forgotten = 0;
        for id in self.select(which) {
            let peer = self.hosts.peer_mut(id);
            match std::mem::take(&mut peer.monitored) {
                Monitored::No => continue,
                Monitored::ByStatd { .. } => fx.push(Effect::Unmonitor { peer: peer.address }),
                Monitored::AsIf { .. } => {}
            }
            forgotten += 1;
        }
        forgotten
    }

    /// How many of the peers that it knows are meant.
    pub fn peers_meant(&self, which: &PeerSelector) -> usize {
        self.select(which).len()
    }

    /// A peer rebooted, says the status monitor: what it held is free, and what it waited for is
    /// forgotten. With a `state` that was already told, nothing happens.
    ///
    /// This is work for the worker like any call, so it waits while that is kept.
    pub fn peer_rebooted(
        &mut self,
        now: Now,
        which: PeerSelector,
        state: Option<i32>,
        files: &dyn Files,
        fx: &mut Effects,
    ) {
        if self.queue.len() < limits::QUEUED_CALLS {
            self.queue.push_back(Queued::PeerRebooted { which, state });
        }
        self.pump(now, files, fx);
    }

    /// The server itself restarts: every lock, waiting request, unanswered call and known peer is gone.
    /// Then only locks that were held before may be taken for the time of `grace`.
    pub fn server_rebooted(&mut self, now: Now, grace: Duration, fx: &mut Effects) {
        let calls = self
            .queue
            .iter()
            .chain(self.workers.iter().flatten().map(Work::call));
        let unanswered = calls.filter(|q| matches!(q, Queued::Call { .. })).count();
        fx.event(Event::ServerRebooted {
            lost: self.table.len() + self.shares.len(),
            unanswered,
        });
        let fresh = LockService::new(self.personality.clone());
        let waiters = std::mem::take(&mut self.waiters).emptied();
        *self = LockService {
            hosts: self.hosts.emptied(),
            lockd: self.lockd,
            left: self.left,
            statd: self.statd,
            waiters,
            ..fresh
        };
        self.start_grace(now, grace, fx);
    }

    /// From now on, for this time, only locks that were held before may be taken. Zero does nothing.
    pub fn start_grace(&mut self, now: Now, lasts: Duration, fx: &mut Effects) {
        if !lasts.is_zero() {
            self.grace_until = Some(now + lasts);
            fx.event(Event::GraceStarted { lasts });
        }
    }

    /// Ends the grace period now.
    pub fn end_grace(&mut self, fx: &mut Effects) {
        if self.grace_until.take().is_some() {
            fx.event(Event::GraceEnded);
        }
    }

    /// Whether only locks that were held before may be taken.
    pub fn in_grace(&self, now: Now) -> bool {
        self.grace_until.is_some_and(|end| now < end)
    }

    fn select(&self, which: &PeerSelector) -> Vec<PeerId> {
        match which {
            PeerSelector::Address(address) => self.hosts.peer_at(*address).into_iter().collect(),
            PeerSelector::Private(private) => self.hosts.peer_by_private(private).into_iter().collect(),
            PeerSelector::All => self.hosts.peers().map(|(id, _)| id).collect(),
            PeerSelector::Name(name) => self
                .hosts
                .peers()
                .filter(|(_, peer)| peer.name.as_slice() == name.as_bytes())
                .map(|(id, _)| id)
                .collect(),
        }
    }
}
