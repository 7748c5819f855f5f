//! The lock service in its server: has NLM calls read ([`wire`]) for the pure [`LockService`], keeps what is
//! needed to answer later, and carries out the effects.
//!
//! One mutex holds the service together with the calls that it has put off. Effects are carried out under
//! it, in the order in which they came; what takes time (a callback) becomes a task.

mod view;
mod wire;

use super::callbacks::{Callbacks, Encoded};
use super::dispatch::{self, Answer, Incoming, Refusal};
use super::look;
use super::plan::{Outgoing, Planned};
use super::repeated::Underway;
use super::{Node, Service};
use crate::control::api;
use crate::events::{What, ms};
use crate::metrics::Slot;
use bytes::Bytes;
use faults::{Condition, Faults};
use nlm::effect::{Effect, Effects, Event};
use nlm::hosts::{HostKey, Monitored};
use nlm::personality::Personality;
use nlm::range::{Kind, Range};
use nlm::request::{Call, CallId, Callback, PeerSelector, Reply, Request};
use nlm::service::{FileCheck, IsFile, LockSelector, LockService, Lockd, NotLeaked};
use nlm::table::{Cursor, Fh};
use nlm::upcall::Statd;
use parking_lot::Mutex;
use proto::nfs3::Nfsstat3;
use proto::nlm::{Nlm4Stat, NlmProc};
use rpc::msg::{self, RpcError, Transport};
use rpc::server::Origin;
use rpc::xdr::Writer;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use wire::Way;
pub use wire::{Decoded, decode};

/// Most locks in one answer of the control API.
const PAGE_LIMIT: usize = 10_000;
/// Most answers by call (`_RES`) under way. Beyond it they are lost, as datagrams are; the client asks again.
const ANSWERS_UNDER_WAY: usize = 1024;

/// The lock service and the way to its clients.
pub struct Locks {
    state: Mutex<State>,
    /// Something changed that the timer should know of.
    changed: Notify,
    callbacks: Callbacks,
    /// One permit for each answer by call that may be under way.
    answers: Arc<Semaphore>,
    grace: Duration,
}

struct State {
    service: LockService,
    fx: Effects,
    last_call: u64,
    /// What the timer is set to, or will be once it has been told.
    wakeup: Option<Duration>,
    /// Calls that were put off.
    pending: BTreeMap<CallId, Pending>,
    /// How many copies of a call are put off: more than none means that the client asks again.
    copies: BTreeMap<(IpAddr, u32), u32>,
}

/// What is needed to answer a call later.
struct Pending {
    origin: Arc<Origin>,
    xid: u32,
    procedure: u32,
    from: HostKey,
    way: Way,
    cookie: Vec<u8>,
    about: String,
    received: Duration,
    /// Whether the same call was put off already: the client has asked again.
    copy: bool,
    /// With a duplicate request cache: copies of the call are dropped for as long as this is kept.
    underway: Option<Arc<Underway>>,
    /// What is to be done to the reply.
    planned: Option<Arc<Planned>>,
}

impl Locks {
    /// `instance` tells this lock service from earlier ones of this host.
    pub fn new(
        personality: Personality,
        grace: Duration,
        now: Duration,
        instance: u32,
        callbacks: Callbacks,
    ) -> Locks {
        let mut fx = Effects::new();
        let mut service = LockService::new(personality);
        service.set_instance(instance);
        service.start_grace(now, grace, &mut fx);
        let state = State {
            service,
            fx,
            last_call: 0,
            wakeup: None,
            pending: BTreeMap::new(),
            copies: BTreeMap::new(),
        };
        Locks {
            state: Mutex::new(state),
            changed: Notify::new(),
            callbacks,
            answers: Arc::new(Semaphore::new(ANSWERS_UNDER_WAY)),
            grace,
        }
    }

    /// Handles a call.
    ///
    /// # Errors
    /// The RPC refusal that it deserves.
    pub fn call(&self, node: &Node, call: &Incoming<'_>, out: &mut Writer) -> Result<Answer, Refusal> {
        let (procedure, origin) = (call.header.procedure, call.origin);
        let Decoded { cookie, request, way } = call.asked()?;
        let (cookie, way) = (*cookie, *way);
        if matches!(request, Request::SmNotify(_)) && !from_our_monitor(origin.peer) {
            return Err(Refusal(RpcError::SystemErr));
        }
        let from = host_key(origin, call.header.version);
        let find = || {
            let caller = dispatch::caller(call);
            request.fh().map(|fh| (fh, node.exports.lockable(&caller, fh)))
        };
        // The file is looked at before the table is looked into; not for an UNLOCK, which has to know it only if there are no
        // locks on it, or if it waits for its turn.
        let is_unlock = matches!(request, Request::Unlock(_));
        let found = if is_unlock { None } else { find() };
        // A call for which nothing is planned has not waited.
        let now = match &call.planned {
            None => call.received,
            Some(_) => node.clock.now(),
        };
        let pending = |copy| Pending {
            copy,
            origin: origin.clone(),
            xid: call.header.xid,
            procedure,
            from,
            way,
            cookie: cookie.to_vec(),
            about: view::about(node, request),
            received: call.received,
            underway: call.underway.clone(),
            planned: call.planned.clone(),
        };
        let answer = self.change_state(node, |state| {
            let found = match is_unlock && !state.service.executes_at_once() {
                true => find(),
                false => found,
            };
            let permitted = found.is_none_or(|(_, lockable)| lockable.permitted);
            let known = |fh: &[u8], kind| match found.or_else(|| is_unlock.then(find).flatten()) {
                Some((its, lockable)) if its == fh => file_check(lockable.check()),
                _ => files(node)(fh, kind),
            };
            state.last_call += 1;
            let id = CallId(state.last_call);
            let call_in = Call {
                id,
                from,
                request,
                permitted,
            };
            match state.service.call(now, call_in, &known, &mut state.fx) {
                // Before its effects: a `_RES` leaves ahead of the callbacks that an UNLOCK brings about.
                Some(reply) => Answer::Now(self.answer(node, &from, way, cookie, &reply, out)),
                None => {
                    let copy = state.copies.contains_key(&(from.peer, call.header.xid));
                    state.put_off(id, pending(copy));
                    Answer::Later
                }
            }
        });
        Ok(answer)
    }

    fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.state.lock())
    }

    fn change<T>(&self, node: &Node, work: impl FnOnce(&mut LockService, &mut Effects) -> T) -> T {
        self.change_state(node, |state| work(&mut state.service, &mut state.fx))
    }

    /// Changes something and carries out what the service wants then, and whatever follows from that.
    fn change_state<T>(&self, node: &Node, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let done = work(&mut state);
        while !state.fx.is_empty() {
            let mut fx = std::mem::take(&mut state.fx);
            for effect in fx.drain() {
                self.effect(node, &mut state, effect);
            }
        }
        let wakeup = state.service.next_wakeup();
        let changed = std::mem::replace(&mut state.wakeup, wakeup) != wakeup;
        drop(state);
        if changed {
            self.changed.notify_one();
        }
        done
    }

    /// Writes the reply, or leaves it void and sends the answer as a call; the status in words.
    fn answer(
        &self,
        node: &Node,
        to: &HostKey,
        way: Way,
        cookie: &[u8],
        reply: &Reply,
        out: &mut Writer,
    ) -> Cow<'static, str> {
        let procedure = match way {
            Way::Reply => return wire::answer(out, to.version, cookie, reply),
            Way::Call(procedure) => procedure,
        };
        let mut args = Writer::new();
        let status = wire::answer(&mut args, to.version, cookie, reply);
        let permit = self.answers.clone().try_acquire_owned();
        let (Some(node), Ok(permit)) = (node.me.upgrade(), permit) else {
            return format!("{status}, lost: too many answers are under way").into();
        };
        let (to, args) = (*to, Args::Encoded(args.into_bytes()));
        let way = node.clone();
        way.spawn(async move {
            deliver(&node, &to, procedure, args).await;
            drop(permit);
        });
        format!("{status}, by {procedure}").into()
    }

    /// Whether a call with this number of this peer waits already.
    pub fn is_pending(&self, origin: &Origin, xid: u32) -> bool {
        self.look(|state| state.copies.contains_key(&(origin.peer.ip(), xid)))
    }

    /// The lock table, as far as rules may depend on it.
    pub fn table(&self, now: Duration) -> faults::Table {
        self.look(|state| faults::Table {
            held: state.service.locks_held(),
            waiting: state.service.waiting(),
            grace: state.service.in_grace(now),
        })
    }

    /// What a call asks, in words.
    pub fn about(&self, node: &Node, call: &Incoming<'_>) -> String {
        match call.asked() {
            Ok(asked) => view::about(node, &asked.request),
            Err(_) => String::new(),
        }
    }

    /// When there is something for [`tick`](Self::tick) to do.
    pub fn next_wakeup(&self) -> Option<Duration> {
        self.look(|state| state.service.next_wakeup())
    }

    /// Lets time pass.
    pub fn tick(&self, node: &Node) {
        self.change(node, |service, fx| {
            service.tick(node.clock.now(), &files(node), fx)
        });
    }

    /// Tells the service how lockd and statd are; `changed` is the service whose condition was set.
    pub fn conditions_changed(&self, node: &Node, changed: Option<Service>) {
        let faults = node.faults.load();
        let lockd = match faults.conditions.get(Service::Lockd) {
            Condition::Slow(by) => Lockd::Slow(by),
            Condition::Hung => Lockd::Hung,
            Condition::HungAfter(calls) => Lockd::HungAfter(calls),
            Condition::Ok
            | Condition::Absent
            | Condition::Refused
            | Condition::Failing
            | Condition::LyingPort(_) => Lockd::Ok,
        };
        let statd = statd_as_seen(&faults);
        // Its calls are counted from when it was set, even to what it was before.
        let counts_anew = changed == Some(Service::Lockd) && matches!(lockd, Lockd::HungAfter(_));
        self.change(node, |service, fx| {
            let now = node.clock.now();
            if service.lockd() != lockd || counts_anew {
                service.set_lockd(now, lockd, &files(node), fx);
            }
            if service.statd() != statd {
                service.set_statd(now, statd, &files(node), fx);
            }
        });
    }

    /// The peers that the service knows.
    pub fn peers(&self) -> Vec<api::PeerView> {
        let view = |peer: nlm::service::PeerView| {
            let (monitored, since) = match peer.monitored {
                Monitored::No => ("no", None),
                Monitored::ByStatd { since } => ("statd", Some(since)),
                Monitored::AsIf { since } => ("nobody", Some(since)),
            };
            api::PeerView {
                address: peer.address,
                name: peer.name.to_string(),
                monitored: monitored.to_owned(),
                since_ms: since.map(ms),
                locks: peer.locks,
                waits: peer.waiting,
                shares: peer.shares,
            }
        };
        self.look(|state| state.service.peers().map(view).collect())
    }

    /// Has a peer no longer count as monitored; `None`: every one.
    pub fn forget(&self, node: &Node, name: Option<&str>) -> usize {
        let which = name.map_or(PeerSelector::All, peer);
        self.change(node, |service, fx| service.forget_peer(&which, fx))
    }

    /// A peer has rebooted, says the status monitor.
    pub fn peer_rebooted(&self, node: &Node, which: PeerSelector, number: i32) {
        self.free_rebooted(node, which, Some(number));
    }

    /// How many peers have this name or address.
    pub fn peers_meant(&self, name: &str) -> usize {
        self.look(|state| state.service.peers_meant(&peer(name)))
    }

    /// Has a peer (a name or an address) count as rebooted, whatever it says itself.
    pub fn declare_rebooted(&self, node: &Node, name: &str) {
        self.free_rebooted(node, peer(name), None);
    }

    fn free_rebooted(&self, node: &Node, which: PeerSelector, number: Option<i32>) {
        self.change(node, |service, fx| {
            service.peer_rebooted(node.clock.now(), which, number, &files(node), fx)
        });
    }

    /// The rpc.statd of this host has answered whether it monitors a peer.
    pub fn monitored(&self, node: &Node, peer: IpAddr, done: bool) {
        self.change(node, |service, fx| {
            service.monitored(node.clock.now(), peer, done, &files(node), fx)
        });
    }

    /// The port mapper of this host knows no rpc.statd.
    pub fn statd_not_registered(&self, node: &Node, peer: IpAddr) {
        self.change(node, |service, fx| {
            service.statd_not_registered(node.clock.now(), peer, &files(node), fx)
        });
    }

    /// No locks, nobody waits, nobody is monitored, no call is under way, and a grace period begins; without a time,
    /// that of the configuration.
    pub fn restart(&self, node: &Node, grace: Option<Duration>) {
        self.callbacks.hang_up();
        self.change_state(node, |state| {
            state
                .service
                .server_rebooted(node.clock.now(), grace.unwrap_or(self.grace), &mut state.fx);
            state.pending.clear();
            state.copies.clear();
        });
    }

    /// Part of the lock table, beginning behind `after`.
    pub fn page(&self, node: &Node, after: Option<Cursor>, limit: usize) -> api::LockPage {
        let limit = limit.clamp(1, PAGE_LIMIT);
        let (held, next, waiting, shares, total) = self.look(|state| {
            let service = &state.service;
            let (held, next) = service.locks(after, limit);
            let (waiting, shares) = (service.waiters(None, limit), service.shares(limit));
            (held, next, waiting, shares, service.locks_held())
        });
        api::LockPage {
            total,
            next: next.map(|next| next.to_string()),
            held: held.iter().map(|lock| view::lock(node, lock)).collect(),
            shares: shares.iter().map(|share| view::share(node, share)).collect(),
            waiting: waiting
                .iter()
                .map(|waiter| api::WaiterView {
                    lock: view::lock(node, &waiter.wants),
                    waits_for: waiter.waiting_for.iter().map(view::holder).collect(),
                    last_callback: view::last_callback(&waiter.state),
                })
                .collect(),
        }
    }

    /// How many locks are held, and how many requests wait.
    pub fn counts(&self) -> (usize, usize) {
        self.look(|state| (state.service.locks_held(), state.service.waiting()))
    }

    /// Who waits for whom.
    pub fn graph(&self, node: &Node, limit: usize) -> api::GraphView {
        let graph = self.look(|state| state.service.wait_for(limit.clamp(1, PAGE_LIMIT)));
        api::GraphView {
            waiting: graph.waiting,
            cycles: graph.cycles,
            edges: graph.edges.iter().map(|edge| view::edge(node, edge)).collect(),
            more: graph.more,
            gave_up: graph.gave_up,
        }
    }

    /// Gives locks away as if they had been unlocked. How many there were.
    pub fn break_locks(&self, node: &Node, which: &api::BreakLocks) -> usize {
        self.take_away(node, which, |service, which, fx| {
            service.break_locks(node.clock.now(), which, fx)
        })
    }

    /// Loses locks without anyone being told. How many there were.
    pub fn forget_locks(&self, node: &Node, which: &api::BreakLocks) -> usize {
        self.take_away(node, which, LockService::forget_locks)
    }

    /// Enters a lock of nobody, for so long; its owner has this number.
    ///
    /// # Errors
    /// If somebody's lock is in the way.
    pub fn leak(
        &self,
        node: &Node,
        fh: Fh<'_>,
        (range, kind): (Range, Kind),
        lasts: Option<Duration>,
    ) -> Result<i32, NotLeaked> {
        self.change(node, |service, fx| {
            service.leak(node.clock.now(), fh, range, kind, lasts, fx)
        })
    }

    /// Has so many locks that conflict granted, within that time.
    pub fn double_grant(&self, node: &Node, fh: Fh<'_>, count: u32, lasts: Option<Duration>) {
        self.change(node, |service, fx| {
            service.double_grant(node.clock.now(), fh, count, lasts, fx)
        });
    }

    fn take_away(
        &self,
        node: &Node,
        which: &api::BreakLocks,
        take: impl FnOnce(&mut LockService, &LockSelector<'_>, &mut Effects) -> usize,
    ) -> usize {
        let peer = which.peer.as_deref().map(peer);
        let named = which.path.as_deref();
        let is_it = |fh: Fh<'_>| named.is_some_and(|named| view::is_file(node, fh.as_slice(), named));
        let selector = LockSelector {
            file: named.map(|named| (named, &is_it as &IsFile<'_>)),
            peer: peer.as_ref(),
            svid: which.svid,
        };
        self.change(node, |service, fx| take(service, &selector, fx))
    }

    fn effect(&self, node: &Node, state: &mut State, effect: Effect) {
        match effect {
            Effect::Reply { id, reply } => {
                if let Some(pending) = state.take(id) {
                    pending.answer(node, &reply);
                }
            }
            Effect::Monitor { peer, private, .. } => {
                let State { service, fx, .. } = state;
                let faults = node.faults.load();
                if let Condition::HungAfter(calls) = faults.conditions.get(Service::Statd)
                    && !faults.answered.one_more(Service::Statd, calls)
                {
                    return; // it has hung meanwhile: the upcall waits as long as it does for any silent statd
                }
                let done = node.statd.monitor(node, peer, private);
                if faults.is_hung(Service::Statd) {
                    service.set_statd(node.clock.now(), Statd::Hung, &files(node), fx);
                }
                if let Some(done) = done {
                    service.monitored(node.clock.now(), peer, done, &files(node), fx);
                }
            }
            Effect::Unmonitor { peer } => node.statd.unmonitor(node, peer),
            Effect::Callback(callback) => {
                if let Some(node) = node.me.upgrade() {
                    node.clone().spawn(call_back(node, callback));
                }
            }
            Effect::Event(event) => {
                if let Event::QueueFull { id, .. } | Event::CallDropped { id, .. } = &event {
                    state.take(*id);
                }
                if let Some(what) = view::told(node, &event) {
                    node.event(what);
                }
            }
        }
    }
}

impl State {
    fn put_off(&mut self, id: CallId, pending: Pending) {
        *self
            .copies
            .entry((pending.origin.peer.ip(), pending.xid))
            .or_default() += 1;
        self.pending.insert(id, pending);
    }

    fn take(&mut self, id: CallId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        let key = (pending.origin.peer.ip(), pending.xid);
        if let Some(copies) = self.copies.get_mut(&key) {
            *copies -= 1;
            if *copies == 0 {
                self.copies.remove(&key);
            }
        }
        Some(pending)
    }
}

impl Pending {
    fn answer(self, node: &Node, reply: &Reply) {
        let mut out = Writer::new();
        let mark = out.mark();
        msg::accepted(&mut out, self.xid);
        let status = node
            .locks
            .answer(node, &self.from, self.way, &self.cookie, reply, &mut out);
        if let Some(node) = node.me.upgrade() {
            let (planned, underway) = (self.planned.as_ref(), self.underway.as_ref());
            node.finish(&self.origin, planned, underway, &mut out, mark);
        }
        node.event(What::Reply {
            peer: self.origin.peer.ip(),
            service: Service::Lockd.name(),
            procedure: NlmProc(self.procedure).to_string(),
            xid: self.xid,
            about: self.about,
            status: status.into_owned(),
            copy: self.copy,
            took_ms: ms(node.clock.now() - self.received),
        });
        if !out.is_empty() {
            let slot = Slot::new(Service::Lockd, self.from.version, self.procedure);
            node.calls.answered_later(slot);
            self.origin.reply(out);
        }
    }
}

/// Wakes the service whenever one of its timers is due.
pub async fn drive(node: Arc<Node>) {
    loop {
        let next = node.locks.next_wakeup();
        tokio::select! {
            () = node.clock.sleep_until(next) => {
                node.locks.tick(&node);
            }
            () = node.locks.changed.notified() => {}
        }
    }
}

/// Delivers a GRANTED and tells the service whether it arrived.
async fn call_back(node: Arc<Node>, callback: Box<Callback>) {
    let (host, id) = (callback.host, callback.id);
    let delivered = deliver(&node, &host, NlmProc::NLM_GRANTED_MSG, Args::Granted(callback)).await;
    node.locks.change(&node, |service, fx| {
        service.callback_sent(node.clock.now(), id, delivered, fx);
    });
}

/// Calls a client's lock manager; whether it heard. Outgoing calls pass the hook for faults like any other.
async fn deliver(node: &Node, host: &HostKey, procedure: NlmProc, args: Args) -> bool {
    let transport = match host.transport {
        nlm::hosts::Transport::Tcp => faults::Transport::Tcp,
        nlm::hosts::Transport::Udp => faults::Transport::Udp,
    };
    let call = (proto::nlm::PROGRAM, host.version, procedure.0);
    let mut facts = look::callback(Service::Lockd, host.peer, transport, call);
    if let Args::Granted(callback) = &args {
        look::granted(node, &mut facts, callback);
    }
    let (delivered, outcome) = match node.before_callback(&facts).await {
        // To us a lost datagram looks like a delivered one.
        None => (true, "lost on the way".to_owned()),
        Some(outgoing) => {
            let args = match &args {
                Args::Granted(callback) => Encoded::granted(callback, &outgoing),
                Args::Encoded(args) => Encoded(outgoing.with_cookie(args.clone())),
            };
            send(node, host, procedure, &args, &outgoing).await
        }
    };
    node.event(What::Callback {
        peer: host.peer,
        procedure: procedure.name().unwrap_or("a procedure without a name"),
        outcome,
        delivered,
    });
    delivered
}

/// What a callback says.
enum Args {
    /// GRANTED.
    Granted(Box<Callback>),
    /// Anything else.
    Encoded(Bytes),
}

/// Sends a callback as often as is planned; the first delivery counts.
async fn send(
    node: &Node,
    host: &HostKey,
    procedure: NlmProc,
    args: &Encoded,
    outgoing: &Outgoing,
) -> (bool, String) {
    let mut first = None;
    for _ in 0..outgoing.times {
        let sent = node
            .locks
            .callbacks
            .call(host, outgoing.port(), procedure, args)
            .await;
        first.get_or_insert(match sent {
            Ok(()) => (true, "delivered".to_owned()),
            Err(error) => (false, error.to_string()),
        });
    }
    first.unwrap_or((true, "lost on the way".to_owned()))
}

/// How statd is to the lock service's upcall, which asks the port mapper first (`nsm_create` and `call_bind_status` of
/// Linux 6.1).
fn statd_as_seen(faults: &Faults) -> Statd {
    if !faults.conditions.get(Service::Portmap).listens() {
        return Statd::Refused;
    }
    match faults.conditions.get(Service::Statd) {
        _ if faults.is_hung(Service::Statd) => Statd::Hung,
        Condition::Ok | Condition::HungAfter(_) => Statd::Ok,
        Condition::Absent | Condition::LyingPort(0) => Statd::Absent,
        // Nothing is supposed to listen on the wrong port.
        Condition::Refused | Condition::LyingPort(_) => Statd::Refused,
        Condition::Hung => Statd::Hung,
        Condition::Slow(by) => Statd::Slow(by),
        Condition::Failing => Statd::Fails,
    }
}

/// A peer as a person names it.
fn peer(name: &str) -> PeerSelector {
    match name.parse() {
        Ok(address) => PeerSelector::Address(address),
        Err(_) => PeerSelector::Name(name.to_owned()),
    }
}

fn host_key(origin: &Origin, version: u32) -> HostKey {
    HostKey {
        peer: origin.peer.ip(),
        server: origin.local.ip(),
        transport: match origin.transport {
            Transport::Tcp => nlm::hosts::Transport::Tcp,
            Transport::Udp => nlm::hosts::Transport::Udp,
        },
        version,
    }
}

/// Whether SM_NOTIFY may come from there: this host, from a port that takes privilege. As Linux.
fn from_our_monitor(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback() && peer.port() < 1024
}

/// Asks the file service whether a file can be locked.
fn files(node: &Node) -> impl Fn(&[u8], nlm::range::Kind) -> FileCheck + '_ {
    |fh, _kind| file_check(node.exports.lockable(&nfsd::Caller::ROOT, fh).file)
}

fn file_check(file: nfsd::vfs::Result<()>) -> FileCheck {
    match file {
        Ok(()) => FileCheck::Ok,
        Err(Nfsstat3::NFS3ERR_STALE) => FileCheck::Refuse(Nlm4Stat::NLM4_STALE_FH),
        Err(Nfsstat3::NFS3ERR_ROFS) => FileCheck::Refuse(Nlm4Stat::NLM4_ROFS),
        Err(Nfsstat3::NFS3ERR_JUKEBOX) => FileCheck::Drop,
        Err(_) => FileCheck::Refuse(Nlm4Stat::NLM4_FAILED),
    }
}
