//! Plans carried out: the one place where a fault is done to a call.
//!
//! ```text
//! received ─► duplicate request cache ─► before-execute ─► handler ─► after-execute ─► cache ─► before-reply ─► socket
//! ```
//!
//! What can be done at once is done in place, so that a connection's calls keep their order. Only what waits (`delay`,
//! `wait`, `hold`) becomes a task, and goes on from where it stood with the [`Verdict`] that it got.
//!
//! A new fault is a variant of [`Action`] and its arms here: in [`Door::on_arrival`] and [`Door::before_execution`] if
//! it is done early, in [`Planned::to_reply`] if it is done to a reply, in [`Node::before_callback`] if to a callback.

use super::dispatch::{Door, Incoming, reread};
use super::forge;
use super::gates::Verdict;
use super::repeated::Underway;
use super::{Node, Service};
use crate::events::{Event, What};
use crate::metrics::Slot;
use arc_swap::{ArcSwap, Cache};
use bytes::Bytes;
use faults::action::{Field, Set};
use faults::names::Status;
use faults::pattern::Pattern;
use faults::{Action, Decision, Facts, Faults, Look, Plan, Point};
use rpc::msg;
use rpc::server::{Message, Origin};
use rpc::xdr::{Mark, Writer};
use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, oneshot, watch};

/// A call for which something is planned, as far as its reply needs to know it.
pub struct Planned {
    plan: Plan,
    service: Service,
    /// The call's own words, header and all.
    message: Bytes,
    /// What is seen of it at a gate, and told when its rule is over.
    facts: Option<Facts>,
    /// When the call arrived.
    received: Duration,
    /// Whether the event log has it.
    pub logged: bool,
}

/// What becomes of a call on its arrival.
pub enum Arrived {
    /// It goes on.
    GoesOn,
    /// That was it; its status in words if it was answered.
    Over(Option<Cow<'static, str>>),
}

/// Until something lets a call go on, or a reset ends it.
struct Waiting {
    until: Until,
    resets: watch::Receiver<u64>,
    /// When the rule is over that has it wait, and what is told of that.
    over: Option<(Duration, What)>,
}

enum Until {
    /// The server's clock shows this.
    Time(Duration),
    /// An event has such a name.
    Event(broadcast::Receiver<Arc<Event>>, Pattern),
    /// Somebody decides at a gate.
    Gate(Held),
}

/// A call at a gate.
struct Held {
    gate: String,
    id: u64,
    verdict: oneshot::Receiver<Verdict>,
}

impl Waiting {
    /// None: what was waited for will never come.
    async fn verdict(mut self, node: &Node) -> Option<Verdict> {
        let over = self.over.as_ref().map(|(when, _)| *when);
        tokio::select! {
            biased;
            verdict = self.until.verdict(node) => return verdict,
            _ = self.resets.changed() => return None,
            () = node.clock.sleep_until(over) => {}
        }
        let verdict = match self.until {
            Until::Gate(held) => {
                let is_held = node.gates.release(&held.gate, Some(held.id), None, Verdict::Go) > 0;
                let verdict = held.verdict.await.ok();
                if !is_held {
                    return verdict; // somebody has decided in this moment
                }
                verdict
            }
            Until::Time(_) | Until::Event(..) => Some(Verdict::Go),
        };
        if let Some((_, what)) = self.over {
            node.event(what);
        }
        verdict
    }
}

impl Until {
    async fn verdict(&mut self, node: &Node) -> Option<Verdict> {
        match self {
            Until::Time(when) => {
                node.clock.sleep_until(Some(*when)).await;
                Some(Verdict::Go)
            }
            Until::Event(events, pattern) => loop {
                match events.recv().await {
                    Ok(event) if event.names().iter().any(|name| pattern.fits(name)) => {
                        return Some(Verdict::Go);
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            },
            Until::Gate(held) => (&mut held.verdict).await.ok(),
        }
    }
}

impl Planned {
    /// What is planned for a call that has come.
    pub fn new(
        plan: Plan,
        service: Service,
        message: Message<'_>,
        received: Duration,
        call: &dyn Look,
        logged: bool,
    ) -> Planned {
        let facts = (matches!(plan.action, Action::Hold(_)) || plan.until.is_some()).then(|| Facts::of(call));
        Planned {
            plan,
            service,
            message: message.keep(),
            facts,
            received,
            logged,
        }
    }

    /// What a capture says of it.
    pub fn comment(&self) -> String {
        comment(&self.plan)
    }

    /// Whether something is to be done to it there.
    pub fn is_at(&self, point: Point) -> bool {
        self.plan.at == point
    }

    /// What it waits for, if it does. From now on: what happens after this is not missed.
    fn waiting(&self, node: &Node) -> Option<Waiting> {
        // From its arrival on, of which there may be an event that somebody advances the clock for; a reply that a rule
        // delays is later by so much than it is.
        let from_arrival = self.plan.at.is_early() || self.plan.rule.is_none();
        let from = if from_arrival {
            self.received
        } else {
            node.clock.now()
        };
        waiting(node, &self.plan, from, || self.facts.clone())
    }

    /// Overwrites the reply with a result that has only a status.
    fn answer(&self, out: &mut Writer, mark: Mark, status: Status) {
        out.rewind(mark);
        let mut r = rpc::xdr::Reader::new(&self.message);
        if let Ok(header) = msg::CallHeader::read(&mut r) {
            msg::accepted(out, header.xid);
            let args = self.message.get(r.offset()..).unwrap_or_default();
            forge::answer(out, self.service, &header, args, status.value);
        }
    }

    fn xid(&self) -> u32 {
        self.message
            .first_chunk()
            .map_or(0, |xid| u32::from_be_bytes(*xid))
    }

    /// Does to the reply in `out` since `mark` what is planned. False: there is no reply any more, or it comes later.
    fn to_reply(
        self: &Arc<Self>,
        node: &Arc<Node>,
        origin: &Arc<Origin>,
        underway: Option<&Arc<Underway>>,
        out: &mut Writer,
        mark: Mark,
    ) -> bool {
        match &self.plan.action {
            Action::Answer(status) => self.answer(out, mark, *status),
            Action::Refuse(error) => {
                out.rewind(mark);
                msg::refused(out, self.xid(), error.0);
            }
            Action::Drop => {
                out.rewind(mark);
                return false;
            }
            Action::Close | Action::Reset => {
                out.rewind(mark);
                origin.close(self.plan.action == Action::Reset);
                return false;
            }
            Action::Cut(bytes) => {
                node.capture_reply(origin, out, mark, Some(&self.comment()));
                origin.cut(out.split_off(mark), *bytes as usize);
                return false;
            }
            Action::Set(sets) => {
                let reply = change_reply(out.bytes_since(mark), self.service, sets);
                out.rewind(mark);
                out.raw(&reply);
            }
            Action::Duplicate(more) => {
                let reply = out.bytes_since(mark);
                for _ in 0..*more {
                    let mut copy = Writer::new();
                    copy.raw(&reply);
                    node.capture_reply(origin, &copy, Writer::new().mark(), Some(&self.comment()));
                    origin.reply(copy);
                }
            }
            Action::Delay(_) | Action::Wait(_) | Action::Hold(_) => {
                if let Some(waiting) = self.waiting(node) {
                    let reply = out.split_off(mark);
                    let later = send_when(
                        node.clone(),
                        self.clone(),
                        origin.clone(),
                        underway.cloned(),
                        waiting,
                        reply,
                    );
                    node.spawn(later);
                    return false;
                }
            }
            Action::Pass | Action::Acknowledge | Action::Twice => {}
        }
        true
    }
}

/// What a plan waits for, if it does.
fn waiting(node: &Node, plan: &Plan, from: Duration, facts: impl Fn() -> Option<Facts>) -> Option<Waiting> {
    let resets = node.gates.resets();
    let until = match &plan.action {
        Action::Delay(by) => Until::Time(from.saturating_add(*by)),
        Action::Wait(pattern) => Until::Event(node.events.subscribe(), pattern.clone()),
        Action::Hold(gate) => {
            let rule = plan.rule.clone().unwrap_or_default();
            let (id, verdict) = node.gates.arrive(gate, rule, plan.at, node.clock.now(), facts()?);
            let gate = gate.clone();
            Until::Gate(Held { gate, id, verdict })
        }
        _ => return None,
    };
    // A delay has an end of its own.
    let ends = plan.until.filter(|_| !matches!(until, Until::Time(_)));
    let over = ends.and_then(|ends| {
        let facts = facts()?;
        let what = What::LetGo {
            peer: facts.exchange.peer.ip(),
            rule: plan.rule.clone().unwrap_or_default(),
            call: faults::history::describe(&facts),
        };
        Some((ends, what))
    });
    Some(Waiting { until, resets, over })
}

/// What a capture says of a message that something is done to.
pub(super) fn comment(plan: &Plan) -> String {
    match &plan.rule {
        Some(rule) => format!("nfslab: {} at {}, by rule {rule}", plan.action, plan.at),
        None => format!(
            "nfslab: {} at {}, by the service's condition",
            plan.action, plan.at
        ),
    }
}

/// Sends a reply when its plan says so.
async fn send_when(
    node: Arc<Node>,
    planned: Arc<Planned>,
    origin: Arc<Origin>,
    underway: Option<Arc<Underway>>,
    waiting: Waiting,
    mut reply: Writer,
) {
    // What is waited for will never come: it was executed, so it is answered.
    match waiting.verdict(&node).await.unwrap_or(Verdict::Go) {
        Verdict::Drop => return,
        Verdict::Go => {}
        Verdict::Answer(status) => {
            reply = Writer::new();
            let mark = reply.mark();
            planned.answer(&mut reply, mark, status);
        }
    }
    let mark = Writer::new().mark();
    if planned.is_at(Point::AfterExecute)
        && let Some(underway) = &underway
    {
        underway.answered(reply.bytes_since(mark));
    }
    node.capture_reply(&origin, &reply, mark, Some(&planned.comment()));
    node.answered_late(&planned);
    origin.reply(reply);
}

impl Door {
    /// What is planned for a call on its arrival, before anything knows of it.
    pub(super) fn on_arrival(&self, call: &Incoming<'_>, out: &mut Writer) -> Arrived {
        match &call.planned {
            Some(planned) if planned.is_at(Point::Received) => self.instead(call, planned, out),
            _ => Arrived::GoesOn,
        }
    }

    /// What is planned for a call that is about to be executed.
    pub(super) fn before_execution(&self, call: &Incoming<'_>, out: &mut Writer) -> Arrived {
        match &call.planned {
            Some(planned) if planned.is_at(Point::BeforeExecute) => self.instead(call, planned, out),
            _ => Arrived::GoesOn,
        }
    }

    /// What is done instead of executing a call, or before it.
    fn instead(&self, call: &Incoming<'_>, planned: &Arc<Planned>, out: &mut Writer) -> Arrived {
        let mark = out.mark();
        let (header, origin) = (&call.header, call.origin);
        match &planned.plan.action {
            Action::Answer(status) => {
                planned.answer(out, mark, *status);
                Arrived::Over(Some(status.to_string().into()))
            }
            Action::Refuse(error) => {
                msg::refused(out, header.xid, error.0);
                Arrived::Over(Some(error.0.to_string().into()))
            }
            Action::Acknowledge => {
                msg::accepted(out, header.xid);
                let verf = self.node.nfs.write_verf();
                forge::acknowledge(out, self.service, header, call.args, verf);
                Arrived::Over(Some("acknowledged, and not done".into()))
            }
            Action::Drop => Arrived::Over(None),
            Action::Close | Action::Reset => {
                origin.close(planned.plan.action == Action::Reset);
                Arrived::Over(None)
            }
            Action::Delay(_) | Action::Wait(_) | Action::Hold(_) => {
                if let Some(waiting) = planned.waiting(&self.node) {
                    let door = Door::new(self.node.clone(), self.service);
                    let (origin, underway, received) = (origin.clone(), call.underway.clone(), call.received);
                    let planned = planned.clone();
                    self.node
                        .spawn(door.go_on_when(waiting, planned, origin, underway, received));
                    return Arrived::Over(None);
                }
                Arrived::GoesOn
            }
            Action::Twice => {
                // The first answer, if there is one at once, is not sent.
                self.execute_anew(call, out);
                out.rewind(mark);
                Arrived::GoesOn
            }
            Action::Pass | Action::Duplicate(_) | Action::Set(_) | Action::Cut(_) => Arrived::GoesOn,
        }
    }

    /// Lets a call go on from where it waited.
    async fn go_on_when(
        self,
        waiting: Waiting,
        planned: Arc<Planned>,
        origin: Arc<Origin>,
        underway: Option<Arc<Underway>>,
        received: Duration,
    ) {
        // What is waited for will never come: it is as if the call had never come either.
        let verdict = waiting.verdict(&self.node).await.unwrap_or(Verdict::Drop);
        let (node, service) = (self.node.clone(), self.service);
        let go_on = move || {
            // It was read once before, so this cannot fail.
            let Some(mut call) = reread(service, &origin, &planned.message, received) else {
                return;
            };
            call.underway = underway;
            let mut out = Writer::new();
            let mark = out.mark();
            let status = match verdict {
                Verdict::Drop => None,
                Verdict::Answer(status) => {
                    planned.answer(&mut out, mark, status);
                    self.node
                        .finish(&origin, None, call.underway.as_ref(), &mut out, mark);
                    Some(Cow::from(status.to_string()))
                }
                Verdict::Go if planned.is_at(Point::Received) => self.answer(&mut call, &mut out),
                Verdict::Go => self.carry_on(&call, &mut out),
            };
            if let Some(status) = status {
                self.log_reply(&call, planned.logged, status);
            }
            if !out.is_empty() {
                self.node.answered_late(&planned);
                origin.reply(out);
            }
        };
        // A store that may wait for a disk is called on a thread that may.
        match service {
            Service::Nfs => drop(node.tasks.spawn_blocking(go_on).await),
            _ => go_on(),
        }
        drop(node);
    }
}

impl Node {
    /// What comes between a handler and the socket: plans for the reply, and the duplicate request cache. What is to be
    /// sent now is in `out` since `mark` afterwards.
    pub(super) fn finish(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        planned: Option<&Arc<Planned>>,
        underway: Option<&Arc<Underway>>,
        out: &mut Writer,
        mark: Mark,
    ) {
        let at = |point| planned.filter(|planned| planned.is_at(point));
        if let Some(planned) = at(Point::AfterExecute)
            && !planned.to_reply(self, origin, underway, out, mark)
        {
            return;
        }
        if let Some(underway) = underway {
            underway.answered(out.bytes_since(mark));
        }
        if let Some(planned) = at(Point::BeforeReply)
            && !planned.to_reply(self, origin, None, out, mark)
        {
            return;
        }
        let comment = planned.map(|planned| planned.comment());
        self.capture_reply(origin, out, mark, comment.as_deref());
    }

    fn answered_late(&self, planned: &Planned) {
        let mut r = rpc::xdr::Reader::new(&planned.message);
        if let Ok(header) = msg::CallHeader::read(&mut r) {
            self.calls.answered_later(Slot::of(planned.service, &header));
        }
    }

    /// Asks what is to be done to a call, writes the decisions down, and tells of it. None: no rule means it, and its
    /// service is well.
    pub(super) fn decide(&self, now: Duration, call: &dyn Look) -> Option<Box<Decision>> {
        let mut decision = self.with_faults(|faults| faults.decide(now, call, || self.locks.table(now)))?;
        self.journal.write(std::mem::take(&mut decision.entries));
        if let Some(differs) = decision.differs.take() {
            let (rule, text) = (differs.rule.clone(), differs.to_string());
            self.journal.differs(differs);
            self.event(What::Differs { rule, text });
        }
        if let Some(plan) = &decision.plan
            && let Some(rule) = &plan.rule
        {
            self.event(What::Rule {
                peer: call.exchange().peer.ip(),
                rule: rule.clone(),
                call: faults::history::describe(call),
                action: plan.action.to_string(),
                at: plan.at.name(),
            });
        }
        Some(decision)
    }

    /// Looks at the faults in force as each call does: this thread knows those that it saw last, and looks whether
    /// others have come without writing to memory that other threads read.
    fn with_faults<T>(&self, look: impl FnOnce(&Faults) -> T) -> T {
        type Known = Cache<Arc<ArcSwap<Faults>>, Arc<Faults>>;
        thread_local! {
            static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
        }
        KNOWN.with_borrow_mut(|known| match known {
            Some(known) if std::ptr::eq(known.arc_swap(), &*self.faults) => look(known.load()),
            _ => look(known.insert(Cache::new(self.faults.clone())).load()),
        })
    }

    /// Asks what is to be done to a callback and waits as long as that says. None: it is lost on the way.
    pub(super) async fn before_callback(&self, facts: &Facts) -> Option<Outgoing> {
        let now = self.clock.now();
        self.history.lock().add(facts.clone(), crate::events::ms(now));
        let Some(plan) = self.decide(now, facts).and_then(|decision| decision.plan) else {
            return Some(Outgoing::default());
        };
        if let Some(waiting) = waiting(self, &plan, now, || Some(facts.clone())) {
            return match waiting.verdict(self).await {
                Some(Verdict::Go) => Some(Outgoing::default()),
                Some(Verdict::Drop | Verdict::Answer(_)) | None => None,
            };
        }
        match plan.action {
            Action::Drop => None,
            Action::Duplicate(more) => Some(Outgoing {
                times: 1 + more,
                ..Outgoing::default()
            }),
            Action::Set(sets) => Some(Outgoing {
                sets,
                ..Outgoing::default()
            }),
            _ => Some(Outgoing::default()),
        }
    }
}

/// How a callback goes out.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// How often.
    pub times: u32,
    /// What is changed in it.
    pub sets: Vec<Set>,
}

impl Default for Outgoing {
    fn default() -> Self {
        Outgoing {
            times: 1,
            sets: Vec::new(),
        }
    }
}

impl Outgoing {
    /// What a field is set to.
    pub fn get(&self, field: Field) -> Option<u64> {
        self.sets
            .iter()
            .rev()
            .find(|set| set.field == field)
            .map(|set| set.value)
    }

    /// The port to which it goes instead of the client's own.
    pub fn port(&self) -> Option<u16> {
        self.get(Field::Port).map(|port| port as u16)
    }

    /// Its arguments with the words changed that are set by their number.
    pub fn words(&self, args: Bytes) -> Bytes {
        let mut args = args.to_vec();
        for set in &self.sets {
            if let Field::Word(n) = set.field {
                patch(&mut args, 4 * n as usize, set.value as u32);
            }
        }
        args.into()
    }

    /// The arguments of an NLM call that are encoded already, with the cookie changed too: they begin with it.
    pub fn with_cookie(&self, args: Bytes) -> Bytes {
        let mut args = args.to_vec();
        let has_cookie = args.get(..4).is_some_and(|len| len != [0; 4]);
        if let Some(cookie) = self.get(Field::Cookie).filter(|_| has_cookie) {
            patch(&mut args, 4, cookie as u32);
        }
        self.words(args.into())
    }
}

/// Bytes from the start of an accepted reply to its result: xid, type, accepted, verifier (flavour, length 0), status.
const RESULT: usize = 24;

/// A reply with some of its fields changed. One that the RPC layer refused has no result, so only its xid can be.
fn change_reply(reply: Bytes, service: Service, sets: &[Set]) -> Bytes {
    let mut reply = reply.to_vec();
    let word = |at: usize| reply.get(at..at + 4).and_then(|word| word.first_chunk());
    let word = |at| word(at).map_or(u32::MAX, |word| u32::from_be_bytes(*word));
    // Accepted, and with success.
    let has_result = word(8) == 0 && word(RESULT - 4) == 0;
    let cookie_len = word(RESULT) as usize;
    for set in sets {
        let at = match set.field {
            Field::Xid => 0,
            _ if !has_result => continue,
            Field::Cookie if cookie_len == 0 => continue,
            // NLM's results begin with the cookie, all others with the status.
            Field::Status if service == Service::Lockd => {
                let cookie = cookie_len.checked_next_multiple_of(4);
                cookie.map_or(usize::MAX, |cookie| cookie.saturating_add(RESULT + 4))
            }
            Field::Status => RESULT,
            Field::Cookie => RESULT + 4,
            Field::Word(n) => RESULT + 4 * n as usize,
            _ => continue,
        };
        patch(&mut reply, at, set.value as u32);
    }
    reply.into()
}

/// Overwrites the word at a place, if there is one.
fn patch(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(word) = bytes.get_mut(at..at.saturating_add(4)) {
        word.copy_from_slice(&value.to_be_bytes());
    }
}
