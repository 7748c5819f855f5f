//! The lock service on the wire: decodes NLM calls for the pure [`LockService`], keeps what is needed to
//! answer later, and carries out the effects.
//!
//! One mutex holds the service together with the calls that it has put off. Effects are carried out under
//! it, in the order in which they came; what takes time (a callback) becomes a task.

use super::callbacks::Callbacks;
use super::dispatch::{Answer, Incoming, Refusal};
use super::{Node, Service};
use crate::control::api;
use crate::events::What;
use faults::{Condition, Direction, Exchange, Plan};
use nlm::effect::{Effect, Effects, Event};
use nlm::hosts::{HostKey, Monitored};
use nlm::personality::Personality;
use nlm::request::{Call, CallId, Callback, PeerSelector, Reply, Request};
use nlm::service::{FileCheck, LockService, LockView, Lockd};
use nlm::upcall::Statd;
use nlm::waiters::BlockState;
use parking_lot::{Mutex, MutexGuard};
use proto::nfs3::Nfsstat3;
use proto::nlm::{LockArgs, Netobj, Nlm4Lock, Nlm4Stat, NlmProc, Res, TestArgs};
use rpc::msg::{self, RpcError, Transport};
use rpc::server::Origin;
use rpc::xdr::{Decode, Encode, Reader, Writer};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Most locks in one answer of the control API.
const PAGE_LIMIT: usize = 10_000;

/// The lock service and the way to its clients.
pub struct Locks {
    state: Mutex<State>,
    /// Something changed that the timer should know of.
    changed: Notify,
    callbacks: Callbacks,
    grace: Duration,
}

struct State {
    service: LockService,
    fx: Effects,
    last_call: u64,
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
    cookie: Vec<u8>,
    about: String,
    received: Duration,
    /// Whether the same call was put off already: the client has asked again.
    copy: bool,
}

impl Locks {
    pub fn new(personality: Personality, grace: Duration, now: Duration, callbacks: Callbacks) -> Locks {
        let mut fx = Effects::new();
        let mut service = LockService::new(personality);
        service.start_grace(now, grace, &mut fx);
        let state = State {
            service,
            fx,
            last_call: 0,
            pending: BTreeMap::new(),
            copies: BTreeMap::new(),
        };
        Locks {
            state: Mutex::new(state),
            changed: Notify::new(),
            callbacks,
            grace,
        }
    }

    /// Handles a call of version 4.
    ///
    /// # Errors
    /// The RPC refusal that it deserves.
    pub fn call(&self, node: &Node, call: &Incoming<'_>, out: &mut Writer) -> Result<Answer, Refusal> {
        let procedure = call.header.procedure;
        let Some((cookie, request)) = decode(procedure, &call.args)? else {
            return answer_callback(procedure, &call.args, out);
        };
        let origin = call.origin;
        let transport = match origin.transport {
            Transport::Tcp => nlm::hosts::Transport::Tcp,
            Transport::Udp => nlm::hosts::Transport::Udp,
        };
        let (peer, server) = (origin.peer.ip(), origin.local.ip());
        let from = HostKey {
            peer,
            server,
            transport,
            version: call.header.version,
        };
        let mut state = self.state.lock();
        let now = node.clock.now();
        state.last_call += 1;
        let id = CallId(state.last_call);
        let State { service, fx, .. } = &mut *state;
        let reply = service.call(now, Call { id, from, request }, &files(node), fx);
        let answer = match reply {
            Some(reply) => Answer::Now(write_reply(out, cookie, &reply)),
            None => {
                let copy = state.copies.contains_key(&(peer, call.header.xid));
                state.put_off(
                    id,
                    Pending {
                        copy,
                        origin: origin.clone(),
                        xid: call.header.xid,
                        procedure,
                        cookie: cookie.to_vec(),
                        about: about(node, &request),
                        received: call.received,
                    },
                );
                Answer::Later
            }
        };
        self.carry_out(node, state);
        Ok(answer)
    }

    /// Whether a call with this number of this peer waits already.
    pub fn is_pending(&self, origin: &Origin, xid: u32) -> bool {
        self.state.lock().copies.contains_key(&(origin.peer.ip(), xid))
    }

    /// What a call asks, in words.
    pub fn about(&self, node: &Node, procedure: u32, args: &[u8]) -> String {
        match decode(procedure, args) {
            Ok(Some((_, request))) => about(node, &request),
            _ => String::new(),
        }
    }

    /// Tells the service how lockd and statd are.
    pub fn conditions_changed(&self, node: &Node) {
        let conditions = node.faults.read().conditions;
        let lockd = match conditions.get(Service::Lockd) {
            Condition::Ok | Condition::Absent => Lockd::Ok,
            Condition::Slow(by) => Lockd::Slow(by),
            Condition::Hung => Lockd::Hung,
        };
        let statd = match conditions.get(Service::Statd) {
            Condition::Ok => Statd::Ok,
            Condition::Absent => Statd::Absent,
            Condition::Slow(by) => Statd::Slow(by),
            Condition::Hung => Statd::Hung,
        };
        let mut state = self.state.lock();
        let now = node.clock.now();
        let State { service, fx, .. } = &mut *state;
        if service.lockd() != lockd {
            service.set_lockd(now, lockd, &files(node), fx);
        }
        if service.statd() != statd {
            service.set_statd(now, statd, &files(node), fx);
        }
        self.carry_out(node, state);
    }

    /// The peers that the service knows.
    pub fn peers(&self) -> Vec<api::PeerView> {
        let state = self.state.lock();
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
            }
        };
        state.service.peers().map(view).collect()
    }

    /// Has a peer no longer count as monitored; `None`: every one.
    pub fn forget(&self, node: &Node, name: Option<&str>) -> usize {
        let which = match name.map(|name| (name, name.parse())) {
            None => PeerSelector::All,
            Some((_, Ok(address))) => PeerSelector::Address(address),
            Some((name, Err(_))) => PeerSelector::Name(name.to_owned()),
        };
        let mut state = self.state.lock();
        let State { service, fx, .. } = &mut *state;
        let forgotten = service.forget_peer(&which, fx);
        self.carry_out(node, state);
        forgotten
    }

    /// A peer has rebooted, says the status monitor.
    pub fn peer_rebooted(&self, node: &Node, which: PeerSelector, number: i32) {
        let mut state = self.state.lock();
        let State { service, fx, .. } = &mut *state;
        service.peer_rebooted(node.clock.now(), which, Some(number), &files(node), fx);
        self.carry_out(node, state);
    }

    /// No locks, nobody waits, nobody is monitored, no call is under way.
    pub fn reset(&self, node: &Node) {
        let mut state = self.state.lock();
        let State { service, fx, .. } = &mut *state;
        service.server_rebooted(node.clock.now(), self.grace, fx);
        state.pending.clear();
        state.copies.clear();
        self.carry_out(node, state);
    }

    /// Part of the lock table: `after` locks are passed over.
    pub fn page(&self, node: &Node, after: u64, limit: usize) -> api::LockPage {
        let limit = limit.clamp(1, PAGE_LIMIT);
        let state = self.state.lock();
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        let (mut held, more) = state.service.locks(None, skip.saturating_add(limit));
        let held = held.split_off(skip.min(held.len()));
        let waiting = state.service.waiters(None, limit);
        api::LockPage {
            total: state.service.locks_held(),
            next: more.map(|_| after + held.len() as u64),
            held: held.iter().map(|lock| lock_view(node, lock)).collect(),
            waiting: waiting
                .iter()
                .map(|waiter| api::WaiterView {
                    lock: lock_view(node, &waiter.wants),
                    waits_for: waiter
                        .waiting_for
                        .iter()
                        .map(|h| format!("{} ({})", h.who, h.kind))
                        .collect(),
                    last_callback: last_callback(&waiter.state),
                })
                .collect(),
        }
    }

    /// Carries out what the service wants, and whatever follows from that.
    fn carry_out(&self, node: &Node, mut state: MutexGuard<'_, State>) {
        while !state.fx.is_empty() {
            let mut fx = std::mem::take(&mut state.fx);
            for effect in fx.drain() {
                self.effect(node, &mut state, effect);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    fn effect(&self, node: &Node, state: &mut State, effect: Effect) {
        match effect {
            Effect::Reply { id, reply } => {
                if let Some(pending) = state.take(id) {
                    pending.answer(node, &reply);
                }
            }
            Effect::Monitor { peer, .. } => {
                let done = node.statd.monitor(node, peer);
                let State { service, fx, .. } = state;
                service.monitored(node.clock.now(), peer, done, &files(node), fx);
            }
            Effect::Unmonitor { peer } => node.statd.unmonitor(node, peer),
            Effect::Callback(callback) => {
                if let Some(node) = node.me.upgrade() {
                    tokio::spawn(call_back(node, callback));
                }
            }
            Effect::Event(event) => {
                if let Event::QueueFull { id, .. } | Event::CallDropped { id, .. } = &event {
                    state.take(*id);
                }
                if let Some(what) = told(node, &event) {
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
        let status = write_reply(&mut out, &self.cookie, reply);
        node.capture_reply(&self.origin, &out, mark, None);
        node.event(What::Reply {
            peer: self.origin.peer.ip(),
            service: Service::Lockd.name(),
            procedure: NlmProc(self.procedure).to_string(),
            xid: self.xid,
            about: self.about,
            status,
            copy: self.copy,
            took_ms: ms(node.clock.now() - self.received),
        });
        self.origin.reply(out);
    }
}

/// Wakes the service whenever one of its timers is due.
pub async fn drive(node: Arc<Node>) {
    loop {
        let next = node.locks.state.lock().service.next_wakeup();
        tokio::select! {
            () = node.clock.sleep_until(next) => {
                let mut state = node.locks.state.lock();
                let State { service, fx, .. } = &mut *state;
                service.tick(node.clock.now(), &files(&node), fx);
                node.locks.carry_out(&node, state);
            }
            () = node.locks.changed.notified() => {}
        }
    }
}

/// Delivers a GRANTED and tells the service whether it arrived. Outgoing calls pass the hook for faults
/// like any other.
async fn call_back(node: Arc<Node>, callback: Box<Callback>) {
    let host = callback.host;
    let plan = node.faults.read().plan(&Exchange {
        direction: Direction::Callback,
        service: Service::Lockd,
        peer: SocketAddr::new(host.peer, 0),
        program: proto::nlm::PROGRAM,
        version: host.version,
        procedure: NlmProc::NLM_GRANTED_MSG.0,
        xid: 0,
    });
    if let Plan::Delay(by) = plan {
        node.clock.sleep_until(Some(node.clock.now() + by)).await;
    }
    let (delivered, outcome) = match plan {
        // To us a lost datagram looks like a delivered one.
        Plan::Drop => (true, "lost on the way".to_owned()),
        Plan::Proceed | Plan::Delay(_) => match node.locks.callbacks.granted(&callback).await {
            Ok(()) => (true, "delivered".to_owned()),
            Err(error) => (false, error.to_string()),
        },
    };
    let procedure = "NLM_GRANTED_MSG";
    node.event(What::Callback {
        peer: host.peer,
        procedure,
        outcome,
        delivered,
    });
    let mut state = node.locks.state.lock();
    let State { service, fx, .. } = &mut *state;
    service.callback_sent(node.clock.now(), callback.id, delivered, fx);
    node.locks.carry_out(&node, state);
}

/// The cookie and the request of a call that the service handles; `None` for the others.
fn decode(procedure: u32, args: &[u8]) -> Result<Option<(&[u8], Request<'_>)>, Refusal> {
    let r = &mut Reader::new(args);
    Ok(Some(match NlmProc(procedure) {
        NlmProc::NLM_NULL => (&[], Request::Null),
        NlmProc::NLM_TEST => {
            let args = TestArgs::decode(r)?;
            (args.cookie.0, Request::Test(args))
        }
        NlmProc::NLM_LOCK | NlmProc::NLM_NM_LOCK => {
            let args = LockArgs::decode(r)?;
            let monitored = procedure == NlmProc::NLM_LOCK.0;
            (
                args.cookie.0,
                if monitored {
                    Request::Lock(args)
                } else {
                    Request::NmLock(args)
                },
            )
        }
        NlmProc::NLM_CANCEL => {
            let args = proto::nlm::CancelArgs::decode(r)?;
            (args.cookie.0, Request::Cancel(args))
        }
        NlmProc::NLM_UNLOCK => {
            let args = proto::nlm::UnlockArgs::decode(r)?;
            (args.cookie.0, Request::Unlock(args))
        }
        NlmProc::NLM_GRANTED_RES => {
            let args = Res::decode(r)?;
            (&[], Request::GrantedRes(args))
        }
        NlmProc::NLM_FREE_ALL => {
            proto::nlm::Notify::decode(r)?;
            (&[], Request::FreeAll)
        }
        _ => return Ok(None),
    }))
}

/// GRANTED as a call to us: we are a server and wait for no lock, so it is denied.
fn answer_callback(procedure: u32, args: &[u8], out: &mut Writer) -> Result<Answer, Refusal> {
    match NlmProc(procedure) {
        NlmProc::NLM_GRANTED => {
            let args = TestArgs::decode(&mut Reader::new(args))?;
            let denied = Reply::Stat(Nlm4Stat::NLM4_DENIED);
            Ok(Answer::Now(write_reply(out, args.cookie.0, &denied)))
        }
        _ => Err(Refusal(RpcError::ProcUnavail)),
    }
}

/// Writes a reply; its status in words.
fn write_reply(out: &mut Writer, cookie: &[u8], reply: &Reply) -> String {
    let cookie = Netobj::from(cookie);
    match reply {
        Reply::Void => "ok".to_owned(),
        Reply::Stat(stat) => {
            Res { cookie, stat: *stat }.encode(out);
            stat.to_string()
        }
        Reply::Test(test) => {
            test.to_wire(cookie).encode(out);
            test.stat.to_string()
        }
    }
}

/// Asks the file service whether a file can be locked.
fn files(node: &Node) -> impl Fn(&[u8], nlm::range::Kind) -> FileCheck + '_ {
    |fh, _kind| match node.exports.check_lockable(fh) {
        Ok(()) => FileCheck::Ok,
        Err(Nfsstat3::NFS3ERR_STALE | Nfsstat3::NFS3ERR_BADHANDLE) => {
            FileCheck::Refuse(Nlm4Stat::NLM4_STALE_FH)
        }
        Err(Nfsstat3::NFS3ERR_ROFS) => FileCheck::Refuse(Nlm4Stat::NLM4_ROFS),
        Err(Nfsstat3::NFS3ERR_JUKEBOX) => FileCheck::Drop,
        Err(_) => FileCheck::Refuse(Nlm4Stat::NLM4_FAILED),
    }
}

fn about(node: &Node, request: &Request<'_>) -> String {
    let lock = |kind: &str, lock: &Nlm4Lock<'_>| {
        let range = match nlm::range::Range::from_wire(lock.l_offset, lock.l_len) {
            Ok(range) => range.to_string(),
            Err(_) => "bytes beyond the largest file".to_owned(),
        };
        format!(
            "{kind}{}, {range}, for {} owner {}",
            path(node, &lock.fh),
            lock.caller_name,
            lock.svid
        )
    };
    let kind = |exclusive| if exclusive { "exclusive " } else { "shared " };
    match request {
        Request::Null | Request::FreeAll => String::new(),
        Request::Test(args) => lock(kind(args.exclusive), &args.alock),
        Request::Lock(args) | Request::NmLock(args) => {
            let again = if args.reclaim { "once more (reclaim): " } else { "" };
            lock(&format!("{again}{}", kind(args.exclusive)), &args.alock)
        }
        Request::Cancel(args) => lock(kind(args.exclusive), &args.alock),
        Request::Unlock(args) => lock("", &args.alock),
        Request::GrantedRes(args) => format!("the client answers: {}", args.stat),
    }
}

fn path(node: &Node, fh: &[u8]) -> String {
    node.exports
        .path_of(fh)
        .unwrap_or_else(|| format!("an unknown file ({})", hex(fh)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn lock_view(node: &Node, lock: &LockView) -> api::LockView {
    let handle = lock.fh.as_fh().as_slice();
    let (start, len) = lock.range.to_wire();
    api::LockView {
        path: path(node, handle),
        handle: hex(handle),
        peer: lock.host.peer,
        name: lock.caller_name.to_string(),
        svid: lock.svid,
        owner: lock.oh.to_string(),
        kind: lock.kind.to_string(),
        start,
        len,
        since_ms: ms(lock.since),
    }
}

fn last_callback(state: &BlockState) -> Option<String> {
    match state {
        BlockState::Waiting => None,
        BlockState::Granting { attempts, last, .. } => Some(match last {
            None => format!("being sent, attempt {attempts}"),
            Some((_, true)) => format!("delivered, attempt {attempts}, not acknowledged"),
            Some((_, false)) => format!("could not be delivered, attempt {attempts}"),
        }),
    }
}

/// An event of the service as an event of the server, with paths instead of handles. `None` for what the
/// server has told already.
fn told(node: &Node, event: &Event) -> Option<What> {
    let (step, peer) = match event {
        // The callback's own event says the same, and why.
        Event::CallbackResult { .. } => return None,
        Event::CallQueued { from, .. } => ("call-queued", Some(from.peer)),
        Event::QueueFull { .. } => ("queue-full", None),
        Event::CallDropped { .. } => ("call-dropped", None),
        Event::UpcallStarted { peer, .. } => ("upcall-started", Some(*peer)),
        Event::StatdNotRegistered { peer, .. } => ("statd-not-registered", Some(*peer)),
        Event::UpcallEnded { peer, .. } => ("upcall-ended", Some(*peer)),
        Event::HostMonitored { peer, .. } => ("host-monitored", Some(*peer)),
        Event::Blocked { who, .. } => ("blocked", Some(who.peer)),
        Event::Deadlock { who, .. } => ("deadlock", Some(who.peer)),
        Event::Granted { who, .. } => ("granted", Some(who.peer)),
        Event::GrantedToPoll { who, .. } => ("granted-to-poll", Some(who.peer)),
        Event::GrantRepeated { who, .. } => ("grant-repeated", Some(who.peer)),
        Event::GrantAccepted { who, .. } => ("grant-accepted", Some(who.peer)),
        Event::GrantDenied { who, .. } => ("grant-denied", Some(who.peer)),
        Event::Leaked { who, .. } => ("leaked", Some(who.peer)),
        Event::PeerRebooted { peer, .. } => ("peer-rebooted", Some(*peer)),
        Event::FreedAll { peer, .. } => ("freed-all", Some(*peer)),
        Event::ServerRebooted { .. } => ("server-rebooted", None),
        Event::GraceStarted { .. } => ("grace-started", None),
        Event::GraceEnded => ("grace-ended", None),
    };
    let mut text = event.to_string();
    if let Event::Blocked { what, .. }
    | Event::Deadlock { what, .. }
    | Event::Granted { what, .. }
    | Event::Leaked { what, .. } = event
    {
        let fh = what.fh.as_fh().as_slice();
        text = text.replace(&format!("file {}", what.fh), &path(node, fh));
    }
    Some(What::Lockd { step, peer, text })
}
