//! Clients against the real lock service, over a network that delays, reorders, repeats and drops, with signals and
//! reboots of the server.
//!
//! What the network does not do, because NLM does not survive it: an old copy of a call is not executed after a
//! later call of its owner. A server has no duplicate request cache, so a copy of a LOCK that comes after the UNLOCK
//! takes the lock once more, for nobody. Hence a call has one copy in the network at a time: the driver sends it again
//! when that, or the reply, was dropped, and a copy that is executed twice is so in one go. (Linux is spared likewise
//! by TCP, in which a copy is sent again on a new connection only, after the old one is closed.) GRANTED and its
//! answer, which have no such effects, are repeated at will.

use super::*;
use crate::effect as server;
use crate::hosts::{HostKey, Transport};
use crate::personality::Personality;
use crate::range::OFFSET_MAX;
use crate::request;
use crate::service::{FileCheck, LockService};
use proptest::prelude::*;
use proto::nlm::Res;

const HOSTS: usize = 2;
const HOLDERS: u64 = 3;
const BYTES: u64 = 6;
/// Longer than any run: the grace period is ended by hand.
const GRACE_LASTS: Duration = Duration::from_secs(1 << 30);

#[derive(Debug, Clone, Copy)]
enum Step {
    Lock {
        host: usize,
        number: u64,
        range: Range,
        exclusive: bool,
        wait: bool,
    },
    Unlock {
        host: usize,
        number: u64,
        range: Range,
    },
    Release {
        host: usize,
        number: u64,
    },
    Test {
        host: usize,
        number: u64,
    },
    /// Interrupts one of the open requests.
    Interrupt {
        host: usize,
        which: usize,
    },
    /// Something arrives, in any order.
    Deliver(usize),
    Duplicate(usize),
    Drop(usize),
    Pass(u64),
    Reboot,
    /// A host hears of the latest reboot.
    Notify(usize),
    /// The grace period ends when everybody has reclaimed.
    EndGrace,
    /// It ends before that: locks are lost.
    EndGraceEarly,
}

#[derive(Debug, Clone)]
enum Message {
    Call(usize, CallId),
    Reply(usize, CallId, Reply),
    Granted(request::Callback),
    GrantedRes([u8; 4], Nlm4Stat),
}

struct Host {
    client: LockClient,
    calls: BTreeMap<CallId, Call>,
    /// What each holder has, byte by byte, according to the answers that it got.
    told: BTreeMap<Holder, [Option<Kind>; BYTES as usize]>,
    /// Holders of which that cannot be said, for an UNLOCK of theirs was interrupted and is executed some time.
    unsure: Vec<Holder>,
    requests: BTreeMap<RequestId, (Holder, Asked)>,
    /// The latest reboot of the server of which it has heard.
    heard: u64,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Lock(Range, Kind),
    Unlock(Range),
    Test,
}

struct World {
    now: Now,
    service: LockService,
    fx: server::Effects,
    hosts: Vec<Host>,
    network: Vec<Message>,
    /// Deliveries, by the number that the service knows them by.
    deliveries: BTreeMap<u64, (usize, CallId)>,
    next_delivery: u64,
    reboots: u64,
    /// What happened, to be shown if it should not have.
    log: Vec<String>,
}

fn files(_: &[u8], _: Kind) -> FileCheck {
    FileCheck::Ok
}

fn key(host: usize) -> HostKey {
    HostKey {
        peer: [10, 77, 0, host as u8].into(),
        server: [10, 77, 0, 100].into(),
        transport: Transport::Tcp,
        version: 4,
    }
}

fn bytes(range: Range) -> impl Iterator<Item = usize> {
    range.start() as usize..(range.last().min(BYTES - 1) as usize + 1)
}

impl World {
    fn new(personality: &str) -> Self {
        let host = |n| Host {
            client: LockClient::new(Config::new(format!("client{n}"))),
            calls: BTreeMap::new(),
            told: BTreeMap::new(),
            unsure: Vec::new(),
            requests: BTreeMap::new(),
            heard: 0,
        };
        World {
            now: Duration::ZERO,
            service: LockService::new(Personality::by_name(personality).unwrap()),
            fx: server::Effects::new(),
            hosts: (0..HOSTS).map(host).collect(),
            network: Vec::new(),
            deliveries: BTreeMap::new(),
            next_delivery: 0,
            reboots: 0,
            log: Vec::new(),
        }
    }

    /// Does something to a client, and what the client then wants.
    fn client<T>(&mut self, n: usize, act: impl FnOnce(&mut LockClient, Now, &mut Effects) -> T) -> T {
        let mut fx = Effects::new();
        let result = act(&mut self.hosts[n].client, self.now, &mut fx);
        for effect in fx.drain() {
            self.log.push(format!("  host {n}: {effect:?}"));
            match effect {
                Effect::Call { id, call } => {
                    self.hosts[n].calls.insert(id, *call);
                    self.network.push(Message::Call(n, id));
                }
                Effect::Answer { request, result } => self.hosts[n].answered(request, &result),
                Effect::Event(Event::Lost {
                    holder, range, why, ..
                }) => {
                    let left = (why == LostWhy::Weakened).then_some(Kind::Shared);
                    self.hosts[n].set(holder, range, left);
                }
                Effect::Event(_) => {}
            }
        }
        result
    }

    fn ask(&mut self, n: usize, number: u64, asked: Asked, wait: bool) {
        let holder = posix(number);
        // The answer may come with the call, so the request is entered under the number that it will have.
        let id = RequestId(self.hosts[n].client.next_request + 1);
        self.hosts[n].requests.insert(id, (holder, asked));
        let made = self.client(n, |c, now, fx| match asked {
            Asked::Lock(range, kind) => c.lock(now, FH, holder, range, kind.is_exclusive(), wait, fx),
            Asked::Unlock(range) if range == Range::WHOLE_FILE => c.release(FH, holder, fx),
            Asked::Unlock(range) => c.unlock(FH, holder, range, fx),
            Asked::Test => c.test(FH, holder, r(0, BYTES - 1), true, fx),
        });
        assert_eq!(made, id);
    }

    /// Does what the service wants done.
    fn settle(&mut self) {
        while !self.fx.is_empty() {
            let effects: Vec<_> = self.fx.drain().collect();
            for effect in effects {
                match effect {
                    server::Effect::Reply { id, reply } => self.reply(id.0, reply),
                    server::Effect::Monitor { peer, .. } => {
                        self.service.monitored(self.now, peer, true, &files, &mut self.fx);
                    }
                    server::Effect::Callback(callback) => {
                        let id = callback.id;
                        self.network.push(Message::Granted(*callback));
                        self.service.callback_sent(self.now, id, true, &mut self.fx);
                    }
                    server::Effect::Event(event) => self.log.push(format!("  server: {event}")),
                    server::Effect::Unmonitor { .. } => {}
                }
            }
        }
    }

    fn reply(&mut self, delivery: u64, reply: Reply) {
        if let Some((n, id)) = self.deliveries.remove(&delivery) {
            self.network.push(Message::Reply(n, id, reply));
        }
    }

    fn execute(&mut self, n: usize, id: CallId, answered: bool) {
        let Some(call) = self.hosts[n].calls.get(&id).cloned() else {
            return;
        };
        self.next_delivery += 1;
        let delivery = self.next_delivery;
        if answered {
            self.deliveries.insert(delivery, (n, id));
        }
        let request = request::Call {
            id: request::CallId(delivery),
            from: key(n),
            request: &call.request(Netobj::default()),
            permitted: true,
        };
        if let Some(reply) = self.service.call(self.now, request, &files, &mut self.fx) {
            self.reply(delivery, reply);
        }
        self.settle();
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Call(n, id) => self.execute(n, id, true),
            Message::Reply(n, id, reply) => {
                self.hosts[n].calls.remove(&id);
                self.client(n, |c, now, fx| c.replied(now, id, Ok(reply), fx));
            }
            Message::Granted(callback) => {
                let n = (0..HOSTS).find(|n| key(*n) == callback.host).unwrap();
                let args = callback.args();
                let ours = self.client(n, |c, now, fx| c.granted(now, &args.alock, args.exclusive, fx));
                let stat = if ours { GRANTED } else { DENIED };
                self.network.push(Message::GrantedRes(callback.cookie, stat));
            }
            Message::GrantedRes(cookie, stat) => {
                let res = Res {
                    cookie: Netobj::from(&cookie[..]),
                    stat,
                };
                let request = request::Call {
                    id: request::CallId(0),
                    from: key(0),
                    request: &request::Request::GrantedRes(res),
                    permitted: true,
                };
                self.service.call(self.now, request, &files, &mut self.fx);
                self.settle();
            }
        }
    }

    fn pass(&mut self, secs: u64) {
        let end = self.now + Duration::from_secs(secs);
        loop {
            let clients = self.hosts.iter().filter_map(|h| h.client.next_wakeup());
            let next = clients.chain(self.service.next_wakeup()).min();
            let Some(at) = next.filter(|at| *at <= end) else {
                break;
            };
            self.tick(self.now.max(at));
        }
        self.tick(end);
    }

    fn tick(&mut self, now: Now) {
        self.now = now;
        self.service.tick(now, &files, &mut self.fx);
        self.settle();
        for n in 0..HOSTS {
            self.client(n, |c, now, fx| c.tick(now, fx));
        }
    }

    fn notify(&mut self, n: usize) {
        if self.hosts[n].heard < self.reboots {
            self.hosts[n].heard = self.reboots;
            self.client(n, |c, _, fx| c.server_rebooted(fx));
        }
    }

    /// Whether the host knows of every reboot, and has its locks back or knows that it has not.
    fn is_sure(&self, n: usize) -> bool {
        self.hosts[n].heard == self.reboots && !self.hosts[n].client.is_reclaiming()
    }

    fn step(&mut self, step: Step) {
        self.log.push(format!("{:?} {step:?}", self.now));
        match step {
            Step::Lock {
                host,
                number,
                range,
                exclusive,
                wait,
            } => self.ask(host, number, Asked::Lock(range, Kind::from_wire(exclusive)), wait),
            Step::Unlock { host, number, range } => self.ask(host, number, Asked::Unlock(range), false),
            Step::Release { host, number } => self.ask(host, number, Asked::Unlock(Range::WHOLE_FILE), false),
            Step::Test { host, number } => self.ask(host, number, Asked::Test, false),
            Step::Interrupt { host, which } => {
                let open: Vec<_> = self.hosts[host].requests.keys().copied().collect();
                if !open.is_empty() {
                    let id = open[which % open.len()];
                    self.client(host, |c, _, fx| c.interrupt(id, fx));
                }
            }
            Step::Deliver(which) => {
                if !self.network.is_empty() {
                    let message = self.network.swap_remove(which % self.network.len());
                    self.log.push(format!("  {message:?}"));
                    self.deliver(message);
                }
            }
            Step::Duplicate(which) => {
                if !self.network.is_empty() {
                    let message = self.network[which % self.network.len()].clone();
                    self.log.push(format!("  {message:?}"));
                    match message {
                        // See the head of this file.
                        Message::Call(n, id) => {
                            self.execute(n, id, false);
                            let copy = |m: &Message| matches!(m, Message::Call(h, c) if (*h, *c) == (n, id));
                            let place = self.network.iter().position(copy).unwrap();
                            self.network.swap_remove(place);
                            self.execute(n, id, true);
                        }
                        message => self.network.push(message),
                    }
                }
            }
            Step::Drop(which) => {
                if !self.network.is_empty() {
                    let message = self.network.swap_remove(which % self.network.len());
                    self.log.push(format!("  {message:?}"));
                    match message {
                        Message::Call(n, id) | Message::Reply(n, id, _)
                            if self.hosts[n].calls.contains_key(&id) && !self.is_under_way(n, id) =>
                        {
                            self.network.push(Message::Call(n, id));
                        }
                        _ => {}
                    }
                }
            }
            Step::Pass(secs) => self.pass(secs),
            Step::Reboot => {
                self.reboots += 1;
                let lost: Vec<_> = std::mem::take(&mut self.deliveries).into_values().collect();
                self.service.server_rebooted(self.now, GRACE_LASTS, &mut self.fx);
                self.settle();
                self.network
                    .extend(lost.into_iter().map(|(n, id)| Message::Call(n, id)));
            }
            Step::Notify(n) => self.notify(n),
            Step::EndGrace => {
                if (0..HOSTS).all(|n| self.is_sure(n)) {
                    self.service.end_grace(&mut self.fx);
                    self.settle();
                }
            }
            Step::EndGraceEarly => {
                self.service.end_grace(&mut self.fx);
                self.settle();
            }
        }
        self.check();
    }

    /// Whether the call, or its reply, is in the network.
    fn is_under_way(&self, n: usize, id: CallId) -> bool {
        self.network
            .iter()
            .any(|m| matches!(m, Message::Call(h, c) | Message::Reply(h, c, _) if (*h, *c) == (n, id)))
    }

    fn check(&mut self) {
        self.service.check().unwrap();
        let mut all = Vec::new();
        for n in (0..HOSTS).filter(|n| self.is_sure(*n)) {
            let host = &self.hosts[n];
            all.extend(
                host.effective()
                    .into_iter()
                    .map(|(holder, has)| ((n, holder), has)),
            );
        }
        for (i, (a, has)) in all.iter().enumerate() {
            for (b, other) in &all[..i] {
                for byte in 0..BYTES as usize {
                    if let (Some(one), Some(two)) = (has[byte], other[byte]) {
                        assert!(!one.conflicts(two), "{a:?} and {b:?} both have byte {byte}");
                    }
                }
            }
        }
        self.hosts.iter_mut().for_each(Host::compare);
    }

    /// Everything arrives, everybody hears of everything, and everybody gives back all.
    fn end(&mut self) {
        for _ in 0..200 {
            self.log.push(format!("{:?} healed", self.now));
            while !self.network.is_empty() {
                let message = self.network.remove(0);
                self.log.push(format!("  {message:?}"));
                self.deliver(message);
                self.check();
            }
            (0..HOSTS).for_each(|n| self.notify(n));
            if self.network.is_empty() {
                self.step(Step::EndGrace);
                for (n, number) in (0..HOSTS).flat_map(|n| (0..HOLDERS).map(move |h| (n, h))) {
                    self.step(Step::Release { host: n, number });
                }
                let done = |h: &Host| h.client.is_idle() && h.requests.is_empty();
                if self.network.is_empty() && self.hosts.iter().all(done) && self.service.waiting() == 0 {
                    break;
                }
                self.pass(7);
            }
        }
        for (n, host) in self.hosts.iter().enumerate() {
            assert!(
                host.requests.is_empty(),
                "host {n}: unanswered: {:?}",
                host.requests
            );
            assert!(host.client.is_idle(), "host {n}: {:?}", host.client.lanes);
            assert_eq!(host.client.jobs, 0);
        }
        assert_eq!(
            (self.service.locks(None, 99).0, self.service.waiting()),
            (vec![], 0)
        );
    }
}

impl Host {
    fn set(&mut self, holder: Holder, range: Range, kind: Option<Kind>) {
        let has = self.told.entry(holder).or_default();
        bytes(range).for_each(|byte| has[byte] = kind);
    }

    fn answered(&mut self, request: RequestId, result: &Result<Answered, Refused>) {
        let (holder, asked) = self.requests.remove(&request).expect("answered once");
        match (asked, result) {
            (Asked::Lock(range, kind), Ok(_)) => self.set(holder, range, Some(kind)),
            (Asked::Unlock(range), Ok(_)) => self.set(holder, range, None),
            (Asked::Unlock(_), Err(_)) => self.unsure.push(holder),
            _ => {}
        }
    }

    fn record(&self, holder: Holder) -> [Option<Kind>; BYTES as usize] {
        let mut has = [None; BYTES as usize];
        for lock in self.client.held().filter(|lock| lock.holder == holder) {
            bytes(lock.range).for_each(|byte| has[byte] = Some(lock.kind));
        }
        has
    }

    /// The record is what the holders were told, once nothing of a holder is under way.
    fn compare(&mut self) {
        for holder in (0..HOLDERS).map(posix) {
            let id = self.client.by_holder.get(&holder);
            if self.client.lanes.keys().any(|(owner, _)| Some(owner) == id) {
                continue;
            }
            let has = self.record(holder);
            let told = self.told.entry(holder).or_default();
            if self.unsure.contains(&holder) {
                *told = has;
                self.unsure.retain(|other| *other != holder);
            }
            assert_eq!(*told, has, "{holder}");
        }
    }

    /// What the holders have that nobody else may have. What a holder has asked to make shared, by a call or by
    /// waiting for a shared lock on it, counts as shared: the server may have done it.
    fn effective(&self) -> Vec<(Holder, [Option<Kind>; BYTES as usize])> {
        let mut all = Vec::new();
        for holder in (0..HOLDERS).map(posix) {
            let mut has = self.record(holder);
            let id = self.client.by_holder.get(&holder);
            let lanes = self
                .client
                .lanes
                .iter()
                .filter(|((owner, _), _)| Some(owner) == id);
            for (_, lane) in lanes {
                let active = lane.active.iter().map(|active| &active.job);
                let jobs = active.chain(&lane.queue).filter_map(|job| match job {
                    Job::Lock(job) => Some((job.range, job.kind)),
                    Job::GiveUp(job) => Some(job.wanted()),
                    _ => None,
                });
                let waiting = lane.waiting.values().map(|(job, _)| (job.range, job.kind));
                for (range, _) in jobs.chain(waiting).filter(|(_, kind)| *kind == Kind::Shared) {
                    bytes(range).for_each(|byte| has[byte] = has[byte].and(Some(Kind::Shared)));
                }
            }
            all.push((holder, has));
        }
        all
    }
}

fn range() -> impl Strategy<Value = Range> {
    (0..BYTES, 0..BYTES).prop_map(|(a, b)| {
        let last = if a.max(b) == BYTES - 1 {
            OFFSET_MAX
        } else {
            a.max(b)
        };
        r(a.min(b), last)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 0..HOSTS;
    let number = || 0..HOLDERS;
    let which = || 0..64_usize;
    prop_oneof![
        12 => (host(), number(), range(), any::<bool>(), any::<bool>()).prop_map(
            |(host, number, range, exclusive, wait)| Step::Lock { host, number, range, exclusive, wait }
        ),
        5 => (host(), number(), range()).prop_map(|(host, number, range)| Step::Unlock { host, number, range }),
        2 => (host(), number()).prop_map(|(host, number)| Step::Release { host, number }),
        1 => (host(), number()).prop_map(|(host, number)| Step::Test { host, number }),
        5 => (host(), which()).prop_map(|(host, which)| Step::Interrupt { host, which }),
        40 => which().prop_map(Step::Deliver),
        4 => which().prop_map(Step::Duplicate),
        4 => which().prop_map(Step::Drop),
        4 => prop_oneof![Just(1), Just(5), Just(31), Just(61)].prop_map(Step::Pass),
        1 => Just(Step::Reboot),
        2 => host().prop_map(Step::Notify),
        2 => Just(Step::EndGrace),
        1 => Just(Step::EndGraceEarly),
    ]
}

/// Plays the steps, and shows what happened if that fails.
fn play(personality: &str, steps: &[Step]) {
    struct Told(World);
    impl Drop for Told {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{}", self.0.log.join("\n"));
            }
        }
    }
    let mut world = Told(World::new(personality));
    steps.iter().for_each(|step| world.0.step(*step));
    world.0.end();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_lock_is_held_twice_and_none_is_left(steps in proptest::collection::vec(step(), 1..200)) {
        play("linux-6.1", &steps);
    }
}

/// A LOCK that reclaims is sent after one reboot and executed after the next, of which the client hears when it is giving
/// the lock back.
#[test]
fn what_was_reclaimed_late_is_given_back_too() {
    let lock = |host, number| Step::Lock {
        host,
        number,
        range: r(0, 0),
        exclusive: false,
        wait: false,
    };
    let steps = [
        lock(1, 1),
        Step::Deliver(0),
        Step::Deliver(0),
        Step::Reboot,
        Step::Notify(1),
        Step::Reboot,
        Step::Release { host: 1, number: 1 },
        Step::Deliver(0),
        Step::Deliver(0),
        Step::Notify(1),
    ];
    play("linux-6.1", &steps);
}
