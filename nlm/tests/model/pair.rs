//! Service and model side by side.
//!
//! After every step: the answer is the model's, the locks and those who wait are the model's, and the four
//! rules hold, looked at from outside of both:
//!
//! 1. no two conflicting grants;
//! 2. every waiter has a live blocker;
//! 3. a wait ends only by grant, cancel, unlock or reboot, or with the word that it would be for ever (DEADLCK);
//! 4. a rebooted peer owns nothing.
//!
//! And one more: among those who could be granted, who came first is granted first. A grant by which its owner
//! gives up an exclusive lock for a shared one lets others in while the round is still on; from there on in a step,
//! the order is not looked at.

use super::bytes::{Locked, Model};
use super::step::{Answer, BYTES, FILES, Owner, PEERS, Span, Step, Want};
use nlm::effect::{Effect, Effects};
use nlm::hosts::{HostKey, Transport};
use nlm::personality::{DeniedGrant, Personality};
use nlm::range::{Kind, OFFSET_MAX, Range};
use nlm::request::{Call, CallId, Callback, PeerSelector, Reply, Request};
use nlm::service::{FileCheck, LockService, LockView};
use nlm::waiters::{BlockId, BlockState};
use proto::nlm::{CancelArgs, LockArgs, Netobj, Nlm4Lock, Nlm4Stat, Res, TestArgs, UnlockArgs};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

const GRANTED: Nlm4Stat = Nlm4Stat::NLM4_GRANTED;
const DENIED: Nlm4Stat = Nlm4Stat::NLM4_DENIED;
const GRACE: Nlm4Stat = Nlm4Stat::NLM4_DENIED_GRACE_PERIOD;
const NAMES: [&str; FILES as usize] = ["a", "b"];

/// Every file is there.
fn files(_: &[u8], _: Kind) -> FileCheck {
    FileCheck::Ok
}

fn address(peer: u8) -> IpAddr {
    [10, 77, 0, peer].into()
}

fn host(peer: u8) -> HostKey {
    HostKey {
        peer: address(peer),
        server: [10, 77, 0, 254].into(),
        transport: Transport::Tcp,
        version: 4,
    }
}

fn alock(span: Span) -> Nlm4Lock<'static> {
    let len = if span.last == BYTES - 1 {
        0
    } else {
        span.last - span.first + 1
    };
    Nlm4Lock {
        caller_name: "client".into(),
        fh: NAMES
            .get(usize::from(span.file))
            .copied()
            .unwrap_or_default()
            .into(),
        oh: "".into(),
        svid: span.who.svid.into(),
        l_offset: span.first.into(),
        l_len: len.into(),
    }
}

/// What came out of a step.
#[derive(Debug, Clone, Default)]
struct Outcome {
    reply: Option<Nlm4Stat>,
    granted: Vec<Want>,
}

/// A callback that the client can answer.
#[derive(Debug, Clone, Copy)]
struct Called {
    cookie: [u8; 4],
    serial: u64,
}

/// A lock service, its model, and what happened so far.
pub struct Pair {
    service: LockService,
    fx: Effects,
    model: Model,
    give_back: bool,
    reachable: bool,
    now: Duration,
    grace_until: Duration,
    calls: u64,
    callbacks: Vec<Called>,
    /// New grants that the step under way has brought.
    granted: Vec<Callback>,
    replies: BTreeMap<u64, Reply>,
    waiting: BTreeMap<BlockId, Want>,
    history: Vec<(Step, Outcome)>,
    compares: bool,
}

impl Pair {
    /// A fresh service. A client that denies a GRANTED gives the lock back, or leaves it lying about, by personality.
    pub fn new(give_back: bool) -> Pair {
        let denied_grant = if give_back {
            DeniedGrant::Unlock
        } else {
            DeniedGrant::Leak
        };
        let personality = Personality {
            denied_grant,
            ..Personality::default()
        };
        Pair {
            service: LockService::new(personality),
            fx: Effects::new(),
            model: Model::default(),
            give_back,
            reachable: true,
            now: Duration::ZERO,
            grace_until: Duration::ZERO,
            calls: 0,
            callbacks: Vec::new(),
            granted: Vec::new(),
            replies: BTreeMap::new(),
            waiting: BTreeMap::new(),
            history: Vec::new(),
            compares: true,
        }
    }

    /// Plays the steps one after the other.
    ///
    /// # Errors
    /// What is wrong, below the steps so far with what they brought, one a line.
    pub fn play(&mut self, steps: impl IntoIterator<Item = Step>) -> Result<(), String> {
        for step in steps {
            if let Err(wrong) = self.step(step) {
                return Err(format!("\n{}  WRONG: {wrong}\n", self.story()));
            }
        }
        Ok(())
    }

    /// Plays steps whose every outcome has been looked at before: only answers and grants are compared.
    ///
    /// # Errors
    /// As [`play`](Self::play).
    pub fn replay(&mut self, steps: impl IntoIterator<Item = Step>) -> Result<(), String> {
        self.compares = false;
        let played = self.play(steps);
        self.compares = true;
        self.waiting = self.still_waiting()?;
        played
    }

    fn still_waiting(&self) -> Result<BTreeMap<BlockId, Want>, String> {
        let waiters = self.service.waiters(None, usize::MAX).into_iter();
        let waiting = waiters.filter(|waiter| waiter.state == BlockState::Waiting);
        waiting
            .map(|waiter| Ok((waiter.id, want_of_view(&waiter.wants)?)))
            .collect()
    }

    /// Steps so far.
    pub fn steps(&self) -> usize {
        self.history.len()
    }

    /// The steps so far, with what they brought.
    pub fn story(&self) -> String {
        let mut story = String::new();
        for (step, outcome) in &self.history {
            let _ = write!(story, "  {step}");
            if let Some(reply) = outcome.reply {
                let name = reply.to_string();
                let _ = write!(story, " → {}", name.trim_start_matches("NLM4_"));
            }
            for want in &outcome.granted {
                let _ = write!(story, "; {} is granted {want}", want.span.who);
            }
            story.push('\n');
        }
        story
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        self.history.push((step, Outcome::default()));
        let (reply, expected) = match step {
            Step::Lock { want, block, reclaim } => {
                let args = LockArgs {
                    cookie: Netobj::default(),
                    block,
                    exclusive: want.exclusive,
                    alock: alock(want.span),
                    reclaim,
                    state: 3,
                };
                let reply = self.call(want.span.who.peer, Request::Lock(args))?;
                let expected = match reclaim == self.in_grace() {
                    false => GRACE,
                    true => match self.model.lock(want, block) {
                        Locked::Granted => GRANTED,
                        Locked::Denied => DENIED,
                        Locked::Blocked => Nlm4Stat::NLM4_BLOCKED,
                        Locked::Deadlock => Nlm4Stat::NLM4_DEADLCK,
                    },
                };
                (reply, Some(expected))
            }
            Step::Unlock(span) => {
                let args = UnlockArgs {
                    cookie: Netobj::default(),
                    alock: alock(span),
                };
                let reply = self.call(span.who.peer, Request::Unlock(args))?;
                if !self.in_grace() {
                    self.model.unlock(span);
                }
                (reply, Some(if self.in_grace() { GRACE } else { GRANTED }))
            }
            Step::Cancel(want) => {
                let args = CancelArgs {
                    cookie: Netobj::default(),
                    block: true,
                    exclusive: want.exclusive,
                    alock: alock(want.span),
                };
                let reply = self.call(want.span.who.peer, Request::Cancel(args))?;
                let expected = match self.in_grace() {
                    true => GRACE,
                    false if self.model.cancel(want) => GRANTED,
                    false => DENIED,
                };
                (reply, Some(expected))
            }
            Step::Test(want) => {
                let args = TestArgs {
                    cookie: Netobj::default(),
                    exclusive: want.exclusive,
                    alock: alock(want.span),
                };
                let reply = self.call(want.span.who.peer, Request::Test(args))?;
                let expected = match self.in_grace() {
                    true => GRACE,
                    false if self.model.in_the_way(want).is_empty() => GRANTED,
                    false => DENIED,
                };
                (reply, Some(expected))
            }
            Step::Answer(back, answer) => {
                let count = self.callbacks.len();
                let which = count
                    .checked_sub(1 + usize::from(back))
                    .and_then(|n| self.callbacks.get(n));
                if let Some(called) = which.copied() {
                    let res = Res {
                        cookie: Netobj::from(&called.cookie[..]),
                        stat: match answer {
                            Answer::Granted => GRANTED,
                            Answer::Denied => DENIED,
                            Answer::Grace => GRACE,
                        },
                    };
                    self.call(1, Request::GrantedRes(res))?;
                    if answer != Answer::Grace {
                        let give_back = answer == Answer::Denied && self.give_back;
                        self.model.answered(called.serial, give_back);
                    }
                }
                (None, None)
            }
            Step::Reach(reachable) => {
                self.reachable = reachable;
                (None, None)
            }
            Step::Reboot(peer) => {
                let which = PeerSelector::Address(address(peer));
                self.service
                    .peer_rebooted(self.now, which, None, &files, &mut self.fx);
                self.settle()?;
                self.model.forget(peer);
                (None, None)
            }
            Step::FreeAll(peer) => {
                self.call(peer, Request::FreeAll)?;
                self.model.forget(peer);
                (None, None)
            }
            Step::Restart(grace) => {
                let grace = Duration::from_secs(grace.into());
                self.service.server_rebooted(self.now, grace, &mut self.fx);
                self.grace_until = self.now + grace;
                self.settle()?;
                (1..=PEERS).for_each(|peer| self.model.forget(peer));
                (None, None)
            }
            Step::Pass(seconds) => {
                self.pass(Duration::from_secs(seconds.into()))?;
                (None, None)
            }
        };
        if let Some((_, outcome)) = self.history.last_mut() {
            outcome.reply = reply;
        }
        if reply != expected {
            let expected = expected.map(|stat| stat.to_string());
            return Err(format!(
                "the model says {}",
                expected.as_deref().unwrap_or("nothing")
            ));
        }
        let granted = self.grants()?;
        if let Some((_, outcome)) = self.history.last_mut() {
            outcome.granted.clone_from(&granted);
        }
        if self.compares {
            self.compare(step, reply, &granted)
        } else {
            Ok(())
        }
    }

    fn in_grace(&self) -> bool {
        self.now < self.grace_until
    }

    /// Sends a call; the status that answers it, unless that is void.
    fn call(&mut self, peer: u8, request: Request<'_>) -> Result<Option<Nlm4Stat>, String> {
        self.calls += 1;
        let id = CallId(self.calls);
        let call = Call {
            id,
            from: host(peer),
            permitted: true,
            request: &request,
        };
        if let Some(reply) = self.service.call(self.now, call, &files, &mut self.fx) {
            self.replies.insert(id.0, reply);
        }
        self.settle()?;
        match self.replies.remove(&id.0) {
            None => Err(format!("{} is not answered", request.name())),
            Some(Reply::Stat(stat) | Reply::Share(stat)) => Ok(Some(stat)),
            Some(Reply::Test(test)) => Ok(Some(test.stat)),
            Some(Reply::Void) => Ok(None),
        }
    }

    /// Does what the service wants done, until it wants nothing more.
    fn settle(&mut self) -> Result<(), String> {
        while !self.fx.is_empty() {
            let effects: Vec<Effect> = self.fx.drain().collect();
            for effect in effects {
                match effect {
                    Effect::Reply { id, .. } if self.replies.contains_key(&id.0) => {
                        return Err(format!("{id:?} is answered twice"));
                    }
                    Effect::Reply { id, reply } => {
                        self.replies.insert(id.0, reply);
                    }
                    Effect::Monitor { peer, .. } => {
                        let (now, fx) = (self.now, &mut self.fx);
                        self.service.monitored(now, peer, true, &files, fx);
                    }
                    Effect::Callback(callback) => {
                        let (now, fx) = (self.now, &mut self.fx);
                        self.service.callback_sent(now, callback.id, self.reachable, fx);
                        self.called(*callback)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn called(&mut self, callback: Callback) -> Result<(), String> {
        if callback.attempt == 1 {
            self.granted.push(callback);
            return Ok(());
        }
        let want = want_of(
            callback.host,
            callback.svid,
            callback.fh.as_fh().as_slice(),
            callback.range,
            callback.kind,
        )?;
        if self
            .model
            .waits()
            .iter()
            .any(|wait| wait.want == want && wait.granted)
        {
            return Ok(());
        }
        Err(format!(
            "{} is told again of {want}, which was not granted or is acknowledged",
            want.span.who
        ))
    }

    /// Lets time pass, stopping wherever the service wants to wake.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        while let Some(at) = self.service.next_wakeup().filter(|at| *at <= end) {
            if at < self.now {
                return Err("the service wants to wake in the past".into());
            }
            self.now = at;
            self.service.tick(at, &files, &mut self.fx);
            self.settle()?;
            if self.service.next_wakeup() == Some(at) {
                return Err(format!("the service wants to wake at {at:?} for ever"));
            }
        }
        self.now = end;
        self.service.tick(end, &files, &mut self.fx);
        self.settle()
    }

    /// Tells the model of the grants of this step.
    fn grants(&mut self) -> Result<Vec<Want>, String> {
        let mut granted = Vec::new();
        let mut in_order = true;
        for callback in std::mem::take(&mut self.granted) {
            let fh = callback.fh;
            let want = want_of(
                callback.host,
                callback.svid,
                fh.as_fh().as_slice(),
                callback.range,
                callback.kind,
            )?;
            let grant = self
                .model
                .grant(want)
                .map_err(|wrong| format!("no two conflicting grants: {wrong}"))?;
            if let Some(earlier) = grant.passed_over.filter(|_| in_order) {
                return Err(format!(
                    "who came first is granted first: {} is granted {want} before {}, who waits for {earlier}",
                    want.span.who, earlier.span.who
                ));
            }
            in_order &= !grant.downgrade;
            self.callbacks.push(Called {
                cookie: callback.cookie,
                serial: grant.serial,
            });
            granted.push(want);
        }
        Ok(granted)
    }

    fn compare(&mut self, step: Step, reply: Option<Nlm4Stat>, granted: &[Want]) -> Result<(), String> {
        let mut held: BTreeMap<(u8, u8), BTreeMap<Owner, bool>> = BTreeMap::new();
        let (locks, _) = self.service.locks(None, usize::MAX);
        for lock in &locks {
            let want = want_of_view(lock)?;
            for byte in want.span.first..=want.span.last {
                let holders = held.entry((want.span.file, byte)).or_default();
                if holders.insert(want.span.who, want.exclusive).is_some() {
                    return Err(format!("{} holds byte {byte} twice", want.span.who));
                }
            }
        }
        for ((_, byte), holders) in &held {
            if holders.len() > 1 && holders.values().any(|exclusive| *exclusive) {
                return Err(format!("no two conflicting grants: byte {byte} has {holders:?}"));
            }
        }
        let mut waiting = BTreeMap::new();
        let waiters = self.service.waiters(None, usize::MAX);
        for waiter in &waiters {
            let want = want_of_view(&waiter.wants)?;
            if waiter.state != BlockState::Waiting {
                continue;
            }
            waiting.insert(waiter.id, want);
            let Span {
                who,
                file,
                first,
                last,
            } = want.span;
            let bytes = (first..=last).filter_map(|byte| held.get(&(file, byte)));
            let mut holders = bytes.flatten();
            if !holders.any(|(owner, exclusive)| *owner != who && (want.exclusive || *exclusive)) {
                return Err(format!("every waiter has a live blocker: {who} waits for {want}"));
            }
            if waiter.waiting_for.is_empty() {
                return Err(format!("{who} waits for {want} and is not shown for whom"));
            }
        }
        for (id, want) in &self.waiting {
            if !waiting.contains_key(id) && !may_end(*want, step, reply, granted) {
                return Err(format!(
                    "a wait ends only by grant, cancel, unlock or reboot: {} no longer waits for {want}",
                    want.span.who
                ));
            }
        }
        self.waiting = waiting;
        let gone = |peer: u8| match step {
            Step::Reboot(rebooted) | Step::FreeAll(rebooted) => rebooted == peer,
            Step::Restart(_) => true,
            _ => false,
        };
        let owners = held.values().flat_map(BTreeMap::keys).copied();
        let asking = waiters
            .iter()
            .filter_map(|w| Some(want_of_view(&w.wants).ok()?.span.who));
        if let Some(owner) = owners.chain(asking).find(|owner| gone(owner.peer)) {
            return Err(format!("a rebooted peer owns nothing: {owner} holds or waits"));
        }
        let shown: Vec<_> = waiters
            .iter()
            .map(|w| (w.state == BlockState::Waiting, &w.wants))
            .collect();
        self.compare_with_model(&held, &shown)?;
        self.service.check()
    }

    fn compare_with_model(
        &self,
        held: &BTreeMap<(u8, u8), BTreeMap<Owner, bool>>,
        waiters: &[(bool, &LockView)],
    ) -> Result<(), String> {
        let flat = held
            .iter()
            .flat_map(|(byte, h)| h.iter().map(|(owner, x)| (*byte, *owner, *x)));
        let (has, should): (BTreeSet<_>, BTreeSet<_>) = (flat.collect(), self.model.bytes().collect());
        if let Some(((_, byte), owner, _)) = has.symmetric_difference(&should).next() {
            let by = if has.len() > should.len() {
                "service"
            } else {
                "model"
            };
            return Err(format!(
                "service and model differ in byte {byte} of {owner}; more is locked in the {by}"
            ));
        }
        if let Some(want) = self.model.idle_waiter() {
            return Err(format!(
                "every waiter has a live blocker: {} waits for {want}",
                want.span.who
            ));
        }
        let mut listed = Vec::new();
        for (waits, view) in waiters {
            listed.push((want_of_view(view)?, !waits));
        }
        let expected: Vec<_> = self
            .model
            .waits()
            .iter()
            .map(|wait| (wait.want, wait.granted))
            .collect();
        if listed != expected {
            let show = |list: &[(Want, bool)]| {
                let words = |(want, granted): &(Want, bool)| {
                    let how = if *granted { "has been granted" } else { "waits for" };
                    format!("{} {how} {want}", want.span.who)
                };
                list.iter().map(words).collect::<Vec<_>>().join(", ")
            };
            return Err(format!(
                "the queue is [{}], in the model [{}]",
                show(&listed),
                show(&expected)
            ));
        }
        Ok(())
    }
}

/// Whether what this step brought is a reason for the wait to be over.
fn may_end(wait: Want, step: Step, reply: Option<Nlm4Stat>, granted: &[Want]) -> bool {
    let by_step = match step {
        // A repeated LOCK that is answered with the lock is a grant, too.
        Step::Lock { want, .. } => want == wait && matches!(reply, Some(GRANTED | Nlm4Stat::NLM4_DEADLCK)),
        Step::Cancel(want) => want == wait && reply == Some(GRANTED),
        Step::Unlock(span) => span == wait.span && reply == Some(GRANTED),
        Step::Reboot(peer) | Step::FreeAll(peer) => peer == wait.span.who.peer,
        Step::Restart(_) => true,
        _ => false,
    };
    by_step || granted.contains(&wait)
}

fn want_of_view(lock: &LockView) -> Result<Want, String> {
    want_of(
        lock.host,
        lock.svid,
        lock.fh.as_fh().as_slice(),
        lock.range,
        lock.kind,
    )
}

/// What the service shows, in the model's terms. An error if no step can have asked for it.
fn want_of(host: HostKey, svid: i32, fh: &[u8], range: Range, kind: Kind) -> Result<Want, String> {
    let strange = || format!("there is a lock that nobody asked for: {host:?} {svid} {fh:?} {range:?}");
    let IpAddr::V4(peer) = host.peer else {
        return Err(strange());
    };
    let [_, _, _, peer] = peer.octets();
    let file = NAMES
        .iter()
        .position(|name| name.as_bytes() == fh)
        .ok_or_else(strange)?;
    let last = if range.last() == OFFSET_MAX {
        u64::from(BYTES) - 1
    } else {
        range.last()
    };
    if range.start() >= BYTES.into()
        || last >= BYTES.into()
        || (last == u64::from(BYTES) - 1 && range.last() != OFFSET_MAX)
    {
        return Err(strange());
    }
    let span = Span {
        who: Owner {
            peer,
            svid: u8::try_from(svid).map_err(|_| strange())?,
        },
        file: file as u8,
        first: range.start() as u8,
        last: last as u8,
    };
    Ok(Want {
        span,
        exclusive: kind.is_exclusive(),
    })
}
