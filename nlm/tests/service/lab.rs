//! A lock service on a bench: short names for calls, and a clock that jumps from one event to the next.

use nfslab_nlm::effect::{Effect, Effects, Event};
use nfslab_nlm::hosts::{HostKey, Private, Transport};
use nfslab_nlm::personality::Personality;
use nfslab_nlm::range::Kind;
use nfslab_nlm::request::{Call, CallId, Callback, Reply, Request};
use nfslab_nlm::service::{FileCheck, LockService, Lockd};
use nfslab_nlm::upcall::Statd;
use proto::nlm::{CancelArgs, LockArgs, Netobj, Nlm4Lock, Nlm4Stat, Res, TestArgs, UnlockArgs};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub const GRANTED: Nlm4Stat = Nlm4Stat::NLM4_GRANTED;
pub const DENIED: Nlm4Stat = Nlm4Stat::NLM4_DENIED;
pub const NOLOCKS: Nlm4Stat = Nlm4Stat::NLM4_DENIED_NOLOCKS;
pub const BLOCKED: Nlm4Stat = Nlm4Stat::NLM4_BLOCKED;
pub const GRACE: Nlm4Stat = Nlm4Stat::NLM4_DENIED_GRACE_PERIOD;
pub const DEADLCK: Nlm4Stat = Nlm4Stat::NLM4_DEADLCK;

/// Someone on some client machine who asks for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    pub client: u8,
    pub svid: i32,
    pub fh: &'static str,
    pub offset: u64,
    pub len: u64,
    pub exclusive: bool,
    pub block: bool,
    pub reclaim: bool,
    pub oh: &'static str,
    pub name: &'static str,
    pub state: i32,
}

/// The whole of file "f", exclusively, waiting if need be, for owner `svid` on machine `client`.
pub fn asker(client: u8, svid: i32) -> Asker {
    Asker {
        client,
        svid,
        fh: "f",
        offset: 0,
        len: 0,
        exclusive: true,
        block: true,
        reclaim: false,
        oh: "",
        name: "client",
        state: 3,
    }
}

impl Asker {
    pub fn bytes(self, offset: u64, len: u64) -> Self {
        Asker { offset, len, ..self }
    }
    pub fn shared(self) -> Self {
        Asker {
            exclusive: false,
            ..self
        }
    }
    pub fn file(self, fh: &'static str) -> Self {
        Asker { fh, ..self }
    }
    pub fn nb(self) -> Self {
        Asker { block: false, ..self }
    }
    pub fn state(self, state: i32) -> Self {
        Asker { state, ..self }
    }
    pub fn name(self, name: &'static str) -> Self {
        Asker { name, ..self }
    }
    pub fn reclaim(self) -> Self {
        Asker {
            block: false,
            reclaim: true,
            ..self
        }
    }

    pub fn host(self) -> HostKey {
        HostKey {
            peer: address(self.client),
            server: [10, 77, 0, 1].into(),
            transport: Transport::Tcp,
            version: 4,
        }
    }

    pub fn alock(&self) -> Nlm4Lock<'_> {
        Nlm4Lock {
            caller_name: self.name.into(),
            fh: self.fh.into(),
            oh: self.oh.into(),
            svid: self.svid,
            l_offset: self.offset,
            l_len: self.len,
        }
    }
}

pub fn address(client: u8) -> IpAddr {
    [10, 77, 0, client].into()
}

/// A service with all that came out of it.
pub struct Lab {
    pub service: LockService,
    fx: Effects,
    pub now: Duration,
    next_call: u64,
    /// Answers by call, with their time.
    pub replies: BTreeMap<u64, (Duration, Reply)>,
    pub callbacks: Vec<(Duration, Callback)>,
    pub events: Vec<(Duration, Event)>,
    /// Whether `Effect::Monitor` is answered, and how.
    pub statd_answers: Option<bool>,
    /// There is none outside that could be asked.
    pub statd_missing: bool,
    /// Whether a callback can be sent.
    pub callbacks_sent: Option<bool>,
    pub monitor_requests: Vec<IpAddr>,
    /// What statd was given with each of them.
    pub privates: Vec<Private>,
    pub file: FileCheck,
    /// Whether the callers may read the file.
    pub permitted: bool,
    /// Whether every step is followed by a check of all invariants, which takes time in proportion to the table.
    pub checked: bool,
}

/// A lab with so many locks that they are checked at the end only.
pub struct Bench;

impl Bench {
    pub fn with(personality: Personality) -> Lab {
        Lab {
            checked: false,
            ..Lab::with(personality)
        }
    }
}

pub fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

impl Lab {
    pub fn new(personality: &str) -> Self {
        Lab::with(Personality::by_name(personality).unwrap())
    }

    pub fn with(personality: Personality) -> Self {
        Lab {
            service: LockService::new(personality),
            fx: Effects::new(),
            now: Duration::ZERO,
            next_call: 0,
            replies: BTreeMap::new(),
            callbacks: Vec::new(),
            events: Vec::new(),
            statd_answers: Some(true),
            statd_missing: false,
            callbacks_sent: Some(true),
            monitor_requests: Vec::new(),
            privates: Vec::new(),
            file: FileCheck::Ok,
            permitted: true,
            checked: true,
        }
    }

    /// Does what the service wants done, until it wants nothing more.
    fn settle(&mut self) {
        let check = self.file;
        let files = move |_: &[u8], _: Kind| check;
        while !self.fx.is_empty() {
            let effects: Vec<Effect> = self.fx.drain().collect();
            for effect in effects {
                match effect {
                    Effect::Reply { id, reply } => {
                        let again = self.replies.insert(id.0, (self.now, reply));
                        assert!(again.is_none(), "call {id:?} was answered twice");
                    }
                    Effect::Monitor { peer, private, .. } => {
                        self.privates.push(private);
                        self.monitor_requests.push(peer);
                        if self.statd_missing {
                            self.service
                                .statd_not_registered(self.now, peer, &files, &mut self.fx);
                        } else if let Some(done) = self.statd_answers {
                            self.service.monitored(self.now, peer, done, &files, &mut self.fx);
                        }
                    }
                    Effect::Callback(callback) => {
                        let id = callback.id;
                        self.callbacks.push((self.now, *callback));
                        if let Some(sent) = self.callbacks_sent {
                            self.service.callback_sent(self.now, id, sent, &mut self.fx);
                        }
                    }
                    Effect::Unmonitor { .. } => {}
                    Effect::Event(event) => {
                        assert!(!event.to_string().is_empty());
                        self.events.push((self.now, event));
                    }
                }
            }
        }
        if self.checked {
            self.service.check().unwrap();
        }
    }

    /// Sends a call of version 4 and returns its number; the answer is in `replies`.
    pub fn send(&mut self, client: u8, request: Request<'_>) -> u64 {
        self.send_from(asker(client, 0).host(), request)
    }

    pub fn send_from(&mut self, from: HostKey, request: Request<'_>) -> u64 {
        self.next_call += 1;
        let id = CallId(self.next_call);
        let check = self.file;
        let files = move |_: &[u8], _: Kind| check;
        let call = Call {
            id,
            from,
            request: &request,
            permitted: self.permitted,
        };
        let reply = self.service.call(self.now, call, &files, &mut self.fx);
        if let Some(reply) = reply {
            self.replies.insert(id.0, (self.now, reply));
        }
        self.settle();
        id.0
    }

    pub fn send_lock(&mut self, a: Asker) -> u64 {
        let args = LockArgs {
            cookie: Netobj::default(),
            block: a.block,
            exclusive: a.exclusive,
            alock: a.alock(),
            reclaim: a.reclaim,
            state: a.state,
        };
        self.send(a.client, Request::Lock(args))
    }

    pub fn send_unlock(&mut self, a: Asker) -> u64 {
        self.send(
            a.client,
            Request::Unlock(UnlockArgs {
                cookie: Netobj::default(),
                alock: a.alock(),
            }),
        )
    }

    #[track_caller]
    pub fn stat(&self, call: u64) -> Nlm4Stat {
        match &self.replies.get(&call).expect("no answer yet").1 {
            Reply::Stat(stat) | Reply::Share(stat) => *stat,
            Reply::Test(test) => test.stat,
            Reply::Void => panic!("a void answer"),
        }
    }

    /// When the call was answered.
    #[track_caller]
    pub fn answered(&self, call: u64) -> Duration {
        self.replies.get(&call).expect("no answer yet").0
    }

    pub fn is_answered(&self, call: u64) -> bool {
        self.replies.contains_key(&call)
    }

    #[track_caller]
    pub fn lock(&mut self, a: Asker) -> Nlm4Stat {
        let call = self.send_lock(a);
        self.stat(call)
    }

    #[track_caller]
    pub fn unlock(&mut self, a: Asker) -> Nlm4Stat {
        let call = self.send_unlock(a);
        self.stat(call)
    }

    #[track_caller]
    pub fn cancel(&mut self, a: Asker) -> Nlm4Stat {
        let args = CancelArgs {
            cookie: Netobj::default(),
            block: a.block,
            exclusive: a.exclusive,
            alock: a.alock(),
        };
        let call = self.send(a.client, Request::Cancel(args));
        self.stat(call)
    }

    #[track_caller]
    pub fn test(&mut self, a: Asker) -> nfslab_nlm::request::TestReply {
        let args = TestArgs {
            cookie: Netobj::default(),
            exclusive: a.exclusive,
            alock: a.alock(),
        };
        let call = self.send(a.client, Request::Test(args));
        match &self.replies[&call].1 {
            Reply::Test(test) => test.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The client's answer to the n-th callback.
    pub fn granted_res(&mut self, callback: usize, stat: Nlm4Stat) {
        let cookie = self.callbacks[callback].1.cookie;
        self.send(
            2,
            Request::GrantedRes(Res {
                cookie: Netobj::from(&cookie[..]),
                stat,
            }),
        );
    }

    /// Lets time pass up to `end` seconds after the start, stopping wherever the service wants to wake.
    pub fn run_until(&mut self, end: f64) {
        let check = self.file;
        let files = move |_: &[u8], _: Kind| check;
        let end = secs(end);
        while let Some(at) = self.service.next_wakeup().filter(|at| *at <= end) {
            assert!(at >= self.now, "wanted to wake in the past");
            self.now = at;
            self.service.tick(at, &files, &mut self.fx);
            self.settle();
            assert!(
                self.service.next_wakeup() != Some(at),
                "wants to wake at {at:?} for ever"
            );
        }
        self.now = end;
        self.service.tick(end, &files, &mut self.fx);
        self.settle();
    }

    pub fn statd(&mut self, statd: Statd) {
        let check = self.file;
        let files = move |_: &[u8], _: Kind| check;
        self.service.set_statd(self.now, statd, &files, &mut self.fx);
        self.settle();
    }

    pub fn lockd(&mut self, lockd: Lockd) {
        let check = self.file;
        let files = move |_: &[u8], _: Kind| check;
        self.service.set_lockd(self.now, lockd, &files, &mut self.fx);
        self.settle();
    }

    /// Anything else that the service can be told.
    pub fn with_service<T>(&mut self, tell: impl FnOnce(&mut LockService, Duration, &mut Effects) -> T) -> T {
        let told = tell(&mut self.service, self.now, &mut self.fx);
        self.settle();
        told
    }

    /// Who holds what, in short: `client/svid X range`.
    pub fn held(&self) -> Vec<String> {
        let (locks, next) = self.service.locks(None, usize::MAX);
        assert!(next.is_none());
        locks
            .iter()
            .map(|l| {
                let IpAddr::V4(peer) = l.host.peer else {
                    panic!("{l:?}")
                };
                let kind = if l.kind.is_exclusive() { 'X' } else { 'S' };
                format!("{}/{} {kind} {}", peer.octets()[3], l.svid, l.range)
            })
            .collect()
    }

    pub fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, e)| is(e)).count()
    }
}
