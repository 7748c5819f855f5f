//! The status monitor on the wire: decodes NSM calls for the pure [`Monitor`], and carries out its effects.
//!
//! The lock service of the same server does not come over the wire; it calls [`Statd::monitor`] directly,
//! when its modelled upcall has got through. News of a reboot goes back to it from here. With `--statd system` all
//! this has nothing to do, and [`system`] calls the rpc.statd of this host.
//!
//! What must outlive the server ([`store`]) is on the disk before anything else comes of it, under the monitor's lock:
//! the few milliseconds that a disk takes are also what a caller of rpc.statd waits for.

mod store;
pub mod system;

use super::callbacks::Encoded;
use super::dispatch::{Answer, Incoming, Refusal};
use super::look;
use super::portmap::port_of;
use super::{Node, Service, StatdAt};
use crate::events::What;
use anyhow::Result;
use faults::Condition;
use faults::action::Field;
use nlm::hosts::Private;
use nlm::request::PeerSelector;
use nsm::monitor::{Caller, Tell};
use nsm::names::{NoNames, as_address};
use nsm::notify::{Notified, Notify};
use nsm::{Effect, Effects, Event, Monitor, Saved};
use parking_lot::{Mutex, MutexGuard};
use proto::nsm::{Mon, MonId, MyId, SmName, SmProc, SmRes, SmStatRes, StatChge};
use proto::portmap;
use rpc::client::{CallError, Client, Identity, Options, Tap, Target};
use rpc::msg::{RpcError, Transport};
use rpc::xdr::{self, Decode, Encode, Reader, Writer};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use system::{Upcall, Upcalls};
use tokio::sync::Notify as Wake;

/// What this host calls itself in SM_NOTIFY.
const MY_NAME: &str = "nfslab";
/// How long a peer's port mapper and monitor may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status monitor and what it wants done.
pub struct Statd {
    state: Mutex<State>,
    /// Something changed that the timer should know of.
    changed: Wake,
    /// With `--statd system`: the way to the rpc.statd of this host, which does all the watching.
    system: Option<Upcalls>,
}

struct State {
    monitor: Monitor,
    fx: Effects,
    /// Where it is kept, if it is.
    store: Option<Store>,
}

impl State {
    /// Has everything kept that the monitor wants to be kept.
    fn keep(&mut self) -> Result<()> {
        let mut changes = self.fx.take_kept().into_iter();
        match &self.store {
            Some(store) => changes.try_for_each(|change| store.keep(&change)),
            None => Ok(()),
        }
    }

    fn mon(&mut self, now: Duration, caller: Caller, mon: &Mon<'_>) -> SmStatRes {
        let res = self.monitor.mon(now, caller, mon, &NoNames, &mut self.fx);
        match self.keep() {
            Ok(()) => res,
            Err(error) => {
                not_kept(&error);
                self.monitor.not_kept(&mon.mon_id, &mut self.fx)
            }
        }
    }
}

fn not_kept(error: &anyhow::Error) {
    tracing::error!("the status monitor (--state-dir): {error:#}");
}

impl Statd {
    /// With what is kept in this folder, if there is one: whoever is to be told of the restart is told after
    /// [`begin`](Self::begin).
    ///
    /// # Errors
    /// If the folder cannot be used, or what is in it cannot be read.
    pub fn new(now: Duration, folder: Option<&Path>, whose: StatdAt) -> Result<Self> {
        let (store, saved) = match folder.map(Store::open).transpose()? {
            Some((store, saved)) => (Some(store), saved),
            None => (None, Saved::default()),
        };
        let mut fx = Effects::new();
        let monitor = Monitor::restore(now, MY_NAME, saved, &mut fx);
        let mut state = State { monitor, fx, store };
        state.keep()?;
        Ok(Statd {
            state: Mutex::new(state),
            changed: Wake::new(),
            system: (whose == StatdAt::System).then(Upcalls::new),
        })
    }

    /// The services answer: whoever is told of the restart can come back now.
    pub fn begin(&self, node: &Node) {
        self.carry_out(node, self.state.lock());
    }

    /// When there is something for [`tick`](Self::tick) to do.
    pub fn next_wakeup(&self) -> Option<Duration> {
        self.state.lock().monitor.next_wakeup()
    }

    /// Lets time pass.
    pub fn tick(&self, node: &Node) {
        let mut state = self.state.lock();
        let State { monitor, fx, .. } = &mut *state;
        monitor.tick(node.clock.now(), fx);
        self.carry_out(node, state);
    }

    /// Handles a call of version 1.
    ///
    /// # Errors
    /// The RPC refusal that it deserves.
    pub fn call(&self, node: &Node, call: &Incoming<'_>, out: &mut Writer) -> Result<Answer, Refusal> {
        let r = &mut Reader::new(call.args);
        let caller = Caller {
            address: call.origin.peer.ip(),
            port: call.origin.peer.port(),
        };
        let now = node.clock.now();
        let mut state = self.state.lock();
        let State { monitor, fx, .. } = &mut *state;
        let status = match SmProc(call.header.procedure) {
            SmProc::SM_NULL => "ok".into(),
            SmProc::SM_STAT => {
                let res = monitor.stat(SmName::decode(r)?.0, &NoNames);
                res.encode(out);
                res.res_stat.shown()
            }
            SmProc::SM_MON => {
                let res = state.mon(now, caller, &Mon::decode(r)?);
                res.encode(out);
                res.res_stat.shown()
            }
            SmProc::SM_UNMON => {
                monitor.unmon(caller, &MonId::decode(r)?, fx).encode(out);
                "ok".into()
            }
            SmProc::SM_UNMON_ALL => {
                monitor.unmon_all(caller, &MyId::decode(r)?, fx).encode(out);
                "ok".into()
            }
            SmProc::SM_SIMU_CRASH => {
                monitor.simu_crash(now, caller, fx);
                "ok".into()
            }
            SmProc::SM_NOTIFY => {
                monitor.notify(caller, &StatChge::decode(r)?, &NoNames, fx);
                "ok".into()
            }
            _ => return Err(Refusal(RpcError::ProcUnavail)),
        };
        self.carry_out(node, state);
        Ok(Answer::Now(status))
    }

    /// SM_MON by the lock service of this server: as Linux does, by the peer's address, and with something by
    /// which the lock service knows the peer again. Whether it is watched now; `None`: the rpc.statd of this host is
    /// asked, and the lock service will be told.
    pub fn monitor(&self, node: &Node, peer: IpAddr, private: Private) -> Option<bool> {
        if let Some(system) = &self.system {
            system.push(Upcall::Monitor(peer, private));
            return None;
        }
        let name = peer.to_string();
        let mon = Mon {
            mon_id: mon_id(&name),
            private,
        };
        let mut state = self.state.lock();
        let res = state.mon(node.clock.now(), MYSELF, &mon);
        self.carry_out(node, state);
        Some(res.res_stat == SmRes::STAT_SUCC)
    }

    /// SM_UNMON by the lock service of this server.
    pub fn unmonitor(&self, node: &Node, peer: IpAddr) {
        if let Some(system) = &self.system {
            system.push(Upcall::Unmonitor(peer));
            return;
        }
        let name = peer.to_string();
        let mut state = self.state.lock();
        let State { monitor, fx, .. } = &mut *state;
        monitor.unmon(MYSELF, &mon_id(&name), fx);
        self.carry_out(node, state);
    }

    /// Tells the monitor whether it is to fail.
    pub fn conditions_changed(&self, node: &Node) {
        let condition = node.faults.load().conditions.get(Service::Statd);
        self.state
            .lock()
            .monitor
            .set_failing(condition == Condition::Failing);
    }

    /// This host restarts. Whoever is to be told is told after [`begin`](Self::begin). Returns the new state number;
    /// `None`: it is the rpc.statd of this host that has one.
    pub fn restart(&self, now: Duration, whom: Tell) -> Option<i32> {
        if self.system.is_some() {
            return None;
        }
        let mut state = self.state.lock();
        let State { monitor, fx, .. } = &mut *state;
        monitor.restart_telling(now, whom, fx);
        let number = monitor.state();
        if let Err(error) = state.keep() {
            not_kept(&error);
        }
        Some(number)
    }

    /// Forgets whom it watches, and tells nobody.
    pub fn reset(&self, node: &Node) {
        let mut state = self.state.lock();
        let State { monitor, fx, .. } = &mut *state;
        monitor.forget_all(fx);
        self.carry_out(node, state);
    }

    fn carry_out(&self, node: &Node, mut state: MutexGuard<'_, State>) {
        // SM_MON has seen to it before; what is left is about hosts that would be told once too often.
        if let Err(error) = state.keep() {
            not_kept(&error);
        }
        let effects: Vec<Effect> = state.fx.drain().collect();
        // The lock service comes before the monitor in the lock order, and is about to be called.
        drop(state);
        for effect in effects {
            match effect {
                Effect::Notify(notify) => {
                    if let Some(node) = node.me.upgrade() {
                        node.clone().spawn(tell(node, notify));
                    }
                }
                Effect::Rebooted(rebooted) => {
                    // Not in this call: it may have come from under the lock service's own lock.
                    if let Some(node) = node.me.upgrade() {
                        let which = PeerSelector::Private(rebooted.private);
                        node.clone()
                            .spawn(async move { node.locks.peer_rebooted(&node, which, rebooted.state) });
                    }
                }
                Effect::Event(event) => node.event(told(&event)),
                Effect::Keep(_) => {} // done
            }
        }
        self.changed.notify_one();
    }
}

/// The caller that the lock service of this server is: on this host, with a reserved port.
const MYSELF: Caller = Caller {
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    port: 1023,
};

fn mon_id(peer: &str) -> MonId<'_> {
    mon_id_of(MY_NAME, peer)
}

/// Who is to be watched, and that the lock service of the host `my_name` is to be called.
fn mon_id_of<'a>(my_name: &'a str, peer: &'a str) -> MonId<'a> {
    let my_id = MyId {
        my_name: my_name.into(),
        my_prog: proto::nlm::PROGRAM as i32,
        my_vers: 3,
        my_proc: proto::nlm::NlmProc::NLM_SM_NOTIFY.0 as i32,
    };
    MonId {
        mon_name: peer.into(),
        my_id,
    }
}

/// Wakes the monitor whenever one of its timers is due.
pub async fn drive(node: Arc<Node>) {
    loop {
        let next = node.statd.next_wakeup();
        tokio::select! {
            () = node.clock.sleep_until(next) => {
                node.statd.tick(&node);
            }
            () = node.statd.changed.notified() => {}
        }
    }
}

/// Sends one SM_NOTIFY, over UDP as sm-notify does, and tells the monitor what came of it.
async fn tell(node: Arc<Node>, notify: Notify) {
    let result = match as_address(notify.host.as_bytes()) {
        Some(address) => send(&node, address, &notify).await,
        None => Notified::Failed,
    };
    let mut state = node.statd.state.lock();
    let State { monitor, fx, .. } = &mut *state;
    monitor.notified(node.clock.now(), &notify.host, result, fx);
    node.statd.carry_out(&node, state);
}

async fn send(node: &Node, address: IpAddr, notify: &Notify) -> Notified {
    let call_of = (proto::nsm::PROGRAM, proto::nsm::V1, SmProc::SM_NOTIFY.0);
    let facts = look::callback(Service::Statd, address, faults::Transport::Udp, call_of);
    let Some(outgoing) = node.before_callback(&facts).await else {
        return Notified::Failed;
    };
    let state = outgoing
        .get(Field::State)
        .map_or(notify.state, |state| state as i32);
    let delivered = async {
        let ask = call(node, address, portmap::PMAP_PORT).await?;
        let statd = (proto::nsm::PROGRAM, proto::nsm::V1);
        let port = match outgoing.port() {
            Some(port) => Some(port),
            None => port_of(&ask, Transport::Udp, statd, PATIENCE).await?,
        };
        let Some(port) = port else {
            return Ok(Notified::NoMonitor);
        };
        let target = Target::new(proto::nsm::PROGRAM, proto::nsm::V1, SmProc::SM_NOTIFY.0);
        let change = StatChge {
            mon_name: notify.mon_name.as_bytes().into(),
            state,
        };
        let change = Encoded(outgoing.words(xdr::to_bytes(&change)));
        for _ in 0..outgoing.times {
            call(node, address, port)
                .await?
                .call(target, &change, PATIENCE)
                .await?;
        }
        Ok::<_, CallError>(Notified::Answered)
    };
    let (result, outcome) = match delivered.await {
        Ok(Notified::NoMonitor) => (Notified::NoMonitor, "its port mapper knows no statd".to_owned()),
        Ok(result) => (result, format!("delivered, state {state}")),
        Err(error) => (Notified::Failed, error.to_string()),
    };
    let delivered = result == Notified::Answered;
    node.event(What::Callback {
        peer: address,
        procedure: "SM_NOTIFY",
        outcome,
        delivered,
    });
    result
}

async fn call(node: &Node, address: IpAddr, port: u16) -> Result<Client, CallError> {
    let listeners = node.listeners.get();
    let from = listeners.and_then(|listeners| listeners.source_towards(address));
    let from = from.map(|ip| SocketAddr::new(ip, 0));
    let options = Options {
        from,
        identity: Identity::None,
        first_xid: 1,
        patience: PATIENCE,
        tap: node.capture.clone().map(|tap| tap as Arc<dyn Tap>),
    };
    Client::connect(Transport::Udp, SocketAddr::new(address, port), options).await
}

fn told(event: &Event) -> What {
    let (step, host) = match event {
        Event::Watching { mon_name } => ("watching", mon_name.to_string()),
        Event::Unwatched { mon_name } => ("unwatched", mon_name.to_string()),
        Event::Refused { procedure, .. } => ("refused", (*procedure).to_owned()),
        Event::NotifyIgnored { name, .. } => ("notify-ignored", name.to_string()),
        Event::PeerRebooted { mon_name, .. } => ("peer-rebooted", mon_name.to_string()),
        Event::Restarted { .. } => ("restarted", MY_NAME.to_owned()),
        Event::Told { host } => ("told", host.to_string()),
        Event::GaveUp { host, .. } => ("gave-up", host.to_string()),
    };
    What::Statd {
        step,
        host,
        text: event.to_string(),
    }
}
