//! The lock service alone, in virtual time.

use crate::messages::{access_of, mode_of};
use nfslab_tests::transcript::{Answer, Ask, Call, Command, Health, Lock, Owner, Transcript};
use nlm::effect::{Effect, Effects};
use nlm::hosts::{HostKey, Transport};
use nlm::personality::{DeniedGrant, HolderShown, HostBy, MonitorPolicy, Personality};
use nlm::range::Kind;
use nlm::request::{self, CallId, Callback, PeerSelector, Reply, Request};
use nlm::service::{FileCheck, LockService, LockView, Lockd};
use nlm::upcall::Statd;
use nlm::waiters::BlockState;
use proto::nlm::{
    CancelArgs, FshAccess, FshMode, LockArgs, Netobj, Nlm4Lock, Nlm4Stat, Res, Share, ShareArgs, SmStatus,
    TestArgs, UnlockArgs,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const STALE: &str = "/stale";

fn files(fh: &[u8], _: Kind) -> FileCheck {
    if fh == STALE.as_bytes() {
        FileCheck::Refuse(Nlm4Stat::NLM4_STALE_FH)
    } else {
        FileCheck::Ok
    }
}

pub struct Pure {
    service: LockService,
    fx: Effects,
    now: Duration,
    /// Addresses by machine.
    hosts: BTreeMap<String, IpAddr>,
    calls: u64,
    replies: BTreeMap<u64, Reply>,
    /// Calls that had no answer at first.
    put_off: VecDeque<(Owner, u64)>,
    callbacks: VecDeque<Callback>,
    /// Cookies of the callbacks that came, by address and process.
    cookies: BTreeMap<(IpAddr, i32), [u8; 4]>,
}

impl Pure {
    pub fn new(transcript: &Transcript) -> Result<Pure, String> {
        let mut hosts = BTreeMap::new();
        for (n, group) in transcript.same_address.iter().enumerate() {
            let address = Ipv4Addr::new(10, 77, 1, n as u8 + 1).into();
            hosts.extend(group.iter().map(|host| (host.clone(), address)));
        }
        Ok(Pure {
            service: LockService::new(personality(transcript)?),
            fx: Effects::new(),
            now: Duration::ZERO,
            hosts,
            calls: 0,
            replies: BTreeMap::new(),
            put_off: VecDeque::new(),
            callbacks: VecDeque::new(),
            cookies: BTreeMap::new(),
        })
    }

    fn address(&mut self, host: &str) -> IpAddr {
        let next = self.hosts.len() as u8 + 1;
        let fresh = || Ipv4Addr::new(10, 77, 0, next).into();
        *self.hosts.entry(host.to_owned()).or_insert_with(fresh)
    }

    fn settle(&mut self) {
        while !self.fx.is_empty() {
            let effects: Vec<Effect> = self.fx.drain().collect();
            for effect in effects {
                match effect {
                    Effect::Reply { id, reply } => {
                        self.replies.insert(id.0, reply);
                    }
                    Effect::Monitor { peer, .. } => {
                        self.service.monitored(self.now, peer, true, &files, &mut self.fx);
                    }
                    Effect::Callback(callback) => {
                        self.service
                            .callback_sent(self.now, callback.id, true, &mut self.fx);
                        self.cookies
                            .insert((callback.host.peer, callback.svid), callback.cookie);
                        self.callbacks.push_back(*callback);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sends a call; its number, under which the reply will be.
    fn send(&mut self, host: &str, version: u32, request: Request<'_>) -> u64 {
        self.calls += 1;
        let id = CallId(self.calls);
        let from = HostKey {
            peer: self.address(host),
            server: Ipv4Addr::new(10, 77, 0, 254).into(),
            transport: Transport::Tcp,
            version,
        };
        let call = request::Call {
            id,
            from,
            permitted: true,
            request: &request,
        };
        if let Some(reply) = self.service.call(self.now, call, &files, &mut self.fx) {
            self.replies.insert(id.0, reply);
        }
        self.settle();
        id.0
    }

    fn call(&mut self, call: &Call, answer: &Answer) -> Result<(), String> {
        let fh = if call.stale { STALE } else { &call.bytes.file };
        let default_oh = call.who.to_string();
        let alock = Nlm4Lock {
            caller_name: call.name.as_deref().unwrap_or(&call.who.host).into(),
            fh: fh.into(),
            oh: call.oh.as_deref().unwrap_or(&default_oh).into(),
            svid: call.who.svid,
            l_offset: call.bytes.offset,
            l_len: call.bytes.len,
        };
        let (cookie, exclusive) = (Netobj::default(), call.exclusive);
        let share = |access, mode| ShareArgs {
            cookie,
            share: Share {
                caller_name: alock.caller_name,
                fh: alock.fh,
                oh: alock.oh,
                mode,
                access,
            },
            reclaim: false,
        };
        let request = match &call.ask {
            Ask::Lock {
                block,
                reclaim,
                monitor,
            } => {
                let args = LockArgs {
                    cookie,
                    block: *block,
                    exclusive,
                    alock,
                    reclaim: *reclaim,
                    state: call.state,
                };
                if *monitor {
                    Request::Lock(args)
                } else {
                    Request::NmLock(args)
                }
            }
            Ask::Unlock => Request::Unlock(UnlockArgs { cookie, alock }),
            Ask::Cancel => Request::Cancel(CancelArgs {
                cookie,
                block: true,
                exclusive,
                alock,
            }),
            Ask::Test => Request::Test(TestArgs {
                cookie,
                exclusive,
                alock,
            }),
            Ask::Share { access, deny } => Request::Share(share(access_of(access)?, mode_of(deny)?)),
            Ask::Unshare => Request::Unshare(share(FshAccess::FSA_R, FshMode::FSM_DN)),
            Ask::FreeAll => Request::FreeAll,
        };
        let id = self.send(&call.who.host, call.version, request);
        let got = match self.replies.remove(&id) {
            None => {
                self.put_off.push_back((call.who.clone(), id));
                Answer::Nothing
            }
            Some(reply) => answer_of(&reply, matches!(answer, Answer::Denied(..))),
        };
        super::same(answer, &got)
    }

    fn who(&self, peer: IpAddr, svid: i32) -> Owner {
        let host = self.hosts.iter().find(|(_, address)| **address == peer);
        let host = host.map_or_else(|| peer.to_string(), |(host, _)| host.clone());
        Owner { host, svid }
    }

    fn shown(&self, view: &LockView) -> String {
        let (offset, len) = view.range.to_wire();
        format!(
            "{} {} {offset} {len}",
            self.who(view.host.peer, view.svid),
            view.kind
        )
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.service.next_wakeup().filter(|at| *at <= end) {
            self.now = at;
            self.service.tick(at, &files, &mut self.fx);
            self.settle();
        }
        self.now = end;
        self.service.tick(end, &files, &mut self.fx);
        self.settle();
    }
}

impl super::Player for Pure {
    fn play(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Call(call, answer) => self.call(call, answer)?,
            Command::Answered(who, stat) => {
                let place = self.put_off.iter().position(|(of, _)| of == who);
                let (_, id) = place
                    .and_then(|n| self.put_off.remove(n))
                    .ok_or("no call of this owner was put off")?;
                let reply = self.replies.remove(&id).map(|reply| answer_of(&reply, false));
                super::same(&Answer::Status(*stat), &reply.unwrap_or(Answer::Nothing))?;
            }
            Command::Callback(expected) => {
                let got = self.callbacks.pop_front().map(|c| {
                    let (offset, len) = c.range.to_wire();
                    let file = String::from_utf8_lossy(c.fh.as_fh().as_slice()).into_owned();
                    format!(
                        "{file} {} {} {offset} {len}",
                        self.who(c.host.peer, c.svid),
                        c.kind
                    )
                });
                let shown = |lock: &Lock| format!("{} {lock}", lock.bytes.file);
                super::same(&expected.as_ref().map(shown), &got)?;
            }
            Command::GrantedRes(who, stat) => {
                let peer = self.address(&who.host);
                let cookie = self.cookies.get(&(peer, who.svid)).copied();
                let cookie = cookie.ok_or("this owner has had no GRANTED")?;
                let (cookie, stat) = (Netobj::from(&cookie[..]), *stat);
                self.send(&who.host, 4, Request::GrantedRes(Res { cookie, stat }));
            }
            Command::Held(file, locks) => {
                let (held, _) = self.service.locks(None, usize::MAX);
                let of_file = held
                    .iter()
                    .filter(|lock| lock.fh.as_fh().as_slice() == file.as_bytes());
                let held: Vec<String> = of_file.map(|lock| self.shown(lock)).collect();
                super::same_locks(locks, held)?;
            }
            Command::Waiting(owners) => {
                let waiters = self.service.waiters(None, usize::MAX);
                let waiting = waiters.iter().filter(|w| w.state == BlockState::Waiting);
                let got: Vec<Owner> = waiting
                    .map(|w| self.who(w.wants.host.peer, w.wants.svid))
                    .collect();
                super::same(owners, &got)?;
            }
            Command::Reboot(host, state) => {
                let which = PeerSelector::Address(self.address(host));
                self.service
                    .peer_rebooted(self.now, which, *state, &files, &mut self.fx);
            }
            Command::ForgedReboot(host) => {
                let mon_name = host.as_str().into();
                let forged = SmStatus {
                    mon_name,
                    state: 1001,
                    private: [0xff; 16],
                };
                self.send("somebody", 4, Request::SmNotify(forged));
            }
            Command::Restart(grace) => self.service.server_rebooted(self.now, *grace, &mut self.fx),
            Command::Tick(time) => self.pass(*time),
            Command::Statd(health) => {
                let statd = match *health {
                    Health::Ok => Statd::Ok,
                    Health::Absent => Statd::Absent,
                    Health::Hung => Statd::Hung,
                    Health::Fails => Statd::Fails,
                    Health::Slow(by) => Statd::Slow(by),
                };
                self.service.set_statd(self.now, statd, &files, &mut self.fx);
            }
            Command::Lockd(health) => {
                let lockd = match *health {
                    Health::Ok => Lockd::Ok,
                    Health::Hung => Lockd::Hung,
                    Health::Slow(by) => Lockd::Slow(by),
                    Health::Absent | Health::Fails => {
                        return Err("the lock manager alone cannot be so".into());
                    }
                };
                self.service.set_lockd(self.now, lockd, &files, &mut self.fx);
            }
        }
        self.settle();
        self.service.check()
    }

    fn end(&mut self) -> Result<(), String> {
        match (self.callbacks.front(), self.put_off.front()) {
            (Some(callback), _) => Err(format!("a GRANTED to svid {} is not told of", callback.svid)),
            (None, Some((who, id))) if self.replies.contains_key(id) => {
                Err(format!("an answer to {who} is not told of"))
            }
            _ => Ok(()),
        }
    }
}

fn answer_of(reply: &Reply, with_holder: bool) -> Answer {
    match reply {
        Reply::Void => Answer::Void,
        Reply::Stat(stat) | Reply::Share(stat) => Answer::Status(*stat),
        Reply::Test(test) => match test.holder.as_ref().filter(|_| with_holder) {
            None => Answer::Status(test.stat),
            Some(holder) => {
                let (offset, len) = holder.range.to_wire();
                Answer::Denied(holder.kind.is_exclusive(), offset, len)
            }
        },
    }
}

pub fn personality(transcript: &Transcript) -> Result<Personality, String> {
    let mut p = match &transcript.personality {
        None => Personality::default(),
        Some(name) => Personality::by_name(name).ok_or_else(|| format!("no personality is called {name}"))?,
    };
    for (key, value) in &transcript.settings {
        match (key.as_str(), value.as_str()) {
            ("denied-grant", "unlock") => p.denied_grant = DeniedGrant::Unlock,
            ("denied-grant", "leak") => p.denied_grant = DeniedGrant::Leak,
            ("owner-host", "address") => p.owner_key.host = HostBy::Address,
            ("owner-host", "name") => p.owner_key.host = HostBy::CallerName,
            ("owner-oh", "yes") => p.owner_key.oh = true,
            ("holder", "owner") => p.holder_shown = HolderShown::Owner,
            ("monitor", "after") => p.monitor = MonitorPolicy::AfterIgnored,
            ("monitor", "never") => p.monitor = MonitorPolicy::Never,
            ("deadlock-hops", hops) => p.deadlock_hops = Some(hops.parse().map_err(|_| "no number of hops")?),
            ("workers", workers) => p.workers = workers.parse().map_err(|_| "no number of workers")?,
            _ => return Err(format!("set {key} {value}: there is no such policy")),
        }
    }
    Ok(p)
}
