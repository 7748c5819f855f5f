//! The monitor: its procedures (XNFS C702, chapter 12), and what happens when a peer says that it rebooted.
//!
//! Answers are those of rpc.statd (nfs-utils, July 2026; read, not measured). Most procedures are for the
//! lock manager of the same host and refused to others; SM_NOTIFY is believed from anyone, which is how
//! a forged one can free live locks.

use crate::names::{self, Names, same_host};
use crate::notify::{Notified, Notifier};
use crate::{Effect, Effects, Event, HostName, Kept, Now, Rebooted, Saved, limits};
use proto::nsm::{Mon, MonId, MyId, SM_PRIV_SIZE, SmRes, SmStat, SmStatRes, StatChge};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The program whose callbacks rpc.statd agrees to make: NLM.
const NLM: i32 = 100_021;
/// Its procedures for that: 16 (`NLM_SM_NOTIFY`) and 24, of older kernels.
const NLM_PROCS: [i32; 2] = [16, 24];
/// The answer when SM_MON fails.
const FAILED: SmStatRes = SmStatRes {
    res_stat: SmRes::STAT_FAIL,
    state: -1,
};

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// From where.
    pub address: IpAddr,
    /// From which port: below 1024 only the system administrator can send.
    pub port: u16,
}

impl Caller {
    fn is_local(self) -> bool {
        self.address.to_canonical().is_loopback()
    }

    fn is_privileged(self) -> bool {
        self.port < 1024
    }
}

/// Whom to call when a watched host rebooted (`my_id`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallBack {
    /// The host that asked: this one.
    pub my_name: HostName,
    /// Its program.
    pub program: i32,
    /// The version.
    pub version: i32,
    /// The procedure.
    pub procedure: i32,
}

impl From<&MyId<'_>> for CallBack {
    fn from(id: &MyId<'_>) -> Self {
        CallBack {
            my_name: id.my_name.0.into(),
            program: id.my_prog,
            version: id.my_vers,
            procedure: id.my_proc,
        }
    }
}

/// A host that is watched, for someone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The host.
    pub mon_name: HostName,
    /// Whom to call.
    pub call: CallBack,
    /// What to return with the call.
    pub private: [u8; SM_PRIV_SIZE],
    /// Since when it is watched.
    pub since: Now,
    /// Its state number according to the latest SM_NOTIFY.
    pub state: Option<i32>,
}

/// Who is told of a restart of this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tell {
    /// Everyone who was watched, and those who have not been told of an earlier restart.
    #[default]
    All,
    /// Nobody, now or later: as without a monitor.
    Nobody,
    /// Everyone, under another name (`mon_name`) than the one by which they know this host.
    As(HostName),
}

/// The status monitor of a host.
#[derive(Debug)]
pub struct Monitor {
    /// Odd while the host is up, which here is always.
    state: i32,
    records: BTreeMap<(HostName, CallBack), Record>,
    notifier: Notifier,
    /// It monitors nobody any more; see [`Monitor::set_failing`].
    failing: bool,
}

impl Monitor {
    /// The monitor of a host that calls itself `my_name` and has never been down.
    pub fn new(my_name: &str) -> Self {
        Monitor::with_state(my_name, 1)
    }

    /// The monitor of a host whose state number is known. An even one, "down", becomes the next odd one.
    pub fn with_state(my_name: &str, state: i32) -> Self {
        Monitor {
            state: state | 1,
            records: BTreeMap::new(),
            notifier: Notifier::new(my_name),
            failing: false,
        }
    }

    /// The monitor of a host that is up again, or of one that has never been. If its predecessor has left anyone
    /// to be told, this is a restart: the state number goes to the next odd one and they are told. If not, nobody
    /// cares, and the number stays as it is; so does sm-notify.
    pub fn restore(now: Now, my_name: &str, saved: Saved, fx: &mut Effects) -> Self {
        let mut monitor = Monitor::with_state(my_name, saved.state.unwrap_or(1));
        if saved.watched.is_empty() && saved.to_tell.is_empty() {
            if saved.state != Some(monitor.state) {
                fx.keep(Kept::State(monitor.state));
            }
        } else {
            // "Down" has been counted already if the number is even.
            if saved.state.is_none_or(|state| state & 1 == 1) {
                monitor.state = after(monitor.state);
            }
            monitor.tell(now, None, saved.watched.into_iter().chain(saved.to_tell), fx);
        }
        monitor
    }

    /// The host's state number.
    pub fn state(&self) -> i32 {
        self.state
    }

    /// Hosts that are watched, by name.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Those who are still to be told of the latest restart.
    pub fn to_tell(&self) -> impl Iterator<Item = &HostName> {
        self.notifier.hosts()
    }

    /// From now on, or no longer, SM_MON and SM_STAT are answered STAT_FAIL, as by a rpc.statd whose folder is full or
    /// cannot be written. Whoever is watched stays so.
    pub fn set_failing(&mut self, failing: bool) {
        self.failing = failing;
    }

    /// SM_STAT: could this host be monitored? Yes if its name means something.
    pub fn stat(&self, name: &[u8], names: &dyn Names) -> SmStatRes {
        let known = !self.failing && !names::addresses(name, names).is_empty();
        SmStatRes {
            res_stat: if known { SmRes::STAT_SUCC } else { SmRes::STAT_FAIL },
            state: self.state,
        }
    }

    /// SM_MON: watch a host. Asking again succeeds, and the private data is the latest: a lock manager
    /// that was restarted knows only that.
    pub fn mon(
        &mut self,
        now: Now,
        caller: Caller,
        mon: &Mon<'_>,
        names: &dyn Names,
        fx: &mut Effects,
    ) -> SmStatRes {
        if let Err(why) = self.may_watch(caller, &mon.mon_id, names) {
            fx.event(Event::Refused {
                procedure: "SM_MON",
                why,
            });
            return FAILED;
        }
        let mon_name = HostName::from(mon.mon_id.mon_name.0);
        let call = CallBack::from(&mon.mon_id.my_id);
        let key = (mon_name.clone(), call.clone());
        if let Some(record) = self.records.get_mut(&key) {
            record.private = mon.private;
        } else {
            if !self.is_watched(&mon_name) {
                fx.keep(Kept::Watched(mon_name.clone()));
            }
            fx.event(Event::Watching {
                mon_name: mon_name.clone(),
            });
            let record = Record {
                mon_name,
                call,
                private: mon.private,
                since: now,
                state: None,
            };
            self.records.insert(key, record);
        }
        SmStatRes {
            res_stat: SmRes::STAT_SUCC,
            state: self.state,
        }
    }

    /// The driver could not keep that this host is watched: SM_MON fails, and nobody relies on what a restart would
    /// lose.
    pub fn not_kept(&mut self, id: &MonId<'_>, fx: &mut Effects) -> SmStatRes {
        self.records.remove(&(id.mon_name.0.into(), (&id.my_id).into()));
        fx.event(Event::Refused {
            procedure: "SM_MON",
            why: "that the host is watched could not be kept",
        });
        FAILED
    }

    /// For anyone.
    fn is_watched(&self, host: &HostName) -> bool {
        let least = CallBack {
            my_name: "".into(),
            program: i32::MIN,
            version: i32::MIN,
            procedure: i32::MIN,
        };
        let next = self.records.range((host.clone(), least)..).next();
        next.is_some_and(|((mon_name, _), _)| mon_name == host)
    }

    /// A record has gone.
    fn unwatched(&self, mon_name: HostName, fx: &mut Effects) {
        if !self.is_watched(&mon_name) {
            fx.keep(Kept::Unwatched(mon_name.clone()));
        }
        fx.event(Event::Unwatched { mon_name });
    }

    fn may_watch(&self, caller: Caller, id: &MonId<'_>, names: &dyn Names) -> Result<(), &'static str> {
        let name = id.mon_name.0;
        if !caller.is_local() {
            return Err("the caller is not on this host");
        }
        if self.failing {
            return Err("it is made to fail");
        }
        if id.my_id.my_prog != NLM || !NLM_PROCS.contains(&id.my_id.my_proc) {
            return Err("the callback is not the lock manager's");
        }
        // The name becomes a file name in rpc.statd.
        if name.is_empty() || name.first() == Some(&b'.') || name.contains(&b'/') {
            return Err("the name is empty, begins with a dot or has a slash");
        }
        if names::addresses(name, names).is_empty() {
            return Err("the name has no address");
        }
        if self.records.len() >= limits::RECORDS {
            return Err("too many hosts are watched");
        }
        Ok(())
    }

    /// SM_UNMON: stop watching a host. The answer is the state, known host or not.
    pub fn unmon(&mut self, caller: Caller, id: &MonId<'_>, fx: &mut Effects) -> SmStat {
        if !caller.is_local() {
            fx.event(Event::Refused {
                procedure: "SM_UNMON",
                why: "the caller is not on this host",
            });
        } else if let Some(record) = self.records.remove(&(id.mon_name.0.into(), (&id.my_id).into())) {
            self.unwatched(record.mon_name, fx);
        }
        SmStat { state: self.state }
    }

    /// SM_UNMON_ALL: stop watching every host for one caller.
    pub fn unmon_all(&mut self, caller: Caller, id: &MyId<'_>, fx: &mut Effects) -> SmStat {
        if !caller.is_local() {
            fx.event(Event::Refused {
                procedure: "SM_UNMON_ALL",
                why: "the caller is not on this host",
            });
            return SmStat { state: self.state };
        }
        let call = CallBack::from(id);
        let theirs = self.records.keys().filter(|(_, whose)| *whose == call);
        for key in theirs.cloned().collect::<Vec<_>>() {
            self.records.remove(&key);
            self.unwatched(key.0, fx);
        }
        SmStat { state: self.state }
    }

    /// SM_SIMU_CRASH: behave as after a crash. For the administrator of this host alone.
    pub fn simu_crash(&mut self, now: Now, caller: Caller, fx: &mut Effects) {
        if caller.is_local() && caller.is_privileged() {
            self.restart(now, fx);
        } else {
            let why = "the caller is not the administrator of this host";
            fx.event(Event::Refused {
                procedure: "SM_SIMU_CRASH",
                why,
            });
        }
    }

    /// SM_NOTIFY: a host says that it rebooted. Whoever says so is believed, if its name or the address
    /// it calls from is a watched host's and its state number is not the one heard last. Even numbers are
    /// taken too. The host stays watched.
    pub fn notify(&mut self, caller: Caller, change: &StatChge<'_>, names: &dyn Names, fx: &mut Effects) {
        let (name, state, source) = (change.mon_name.0, change.state, caller.address.to_canonical());
        let mut ignored = Some("it is not watched");
        for record in self.records.values_mut() {
            let watched = record.mon_name.as_bytes();
            let matches = names::addresses(watched, names)
                .iter()
                .any(|a| a.to_canonical() == source)
                || same_host(watched, name, names);
            if !matches {
                continue;
            }
            if record.state == Some(state) {
                ignored = ignored.and(Some("this state is known"));
                continue;
            }
            ignored = None;
            record.state = Some(state);
            let mon_name = record.mon_name.clone();
            fx.event(Event::PeerRebooted {
                mon_name: mon_name.clone(),
                state,
            });
            let (private, call) = (record.private, record.call.clone());
            fx.push(Effect::Rebooted(Rebooted {
                mon_name,
                state,
                source,
                private,
                call,
            }));
        }
        if let Some(why) = ignored {
            fx.event(Event::NotifyIgnored {
                name: name.into(),
                state,
                source,
                why,
            });
        }
    }

    /// This host restarts: its state number goes up by two, nobody is watched any more, and those who
    /// were, and those who could not be told of an earlier restart, are told.
    pub fn restart(&mut self, now: Now, fx: &mut Effects) {
        self.restart_as(now, None, fx);
    }

    /// [`restart`](Self::restart), with a choice of who is told.
    pub fn restart_telling(&mut self, now: Now, whom: Tell, fx: &mut Effects) {
        match whom {
            Tell::All => self.restart(now, fx),
            Tell::As(name) => self.restart_as(now, Some(name), fx),
            Tell::Nobody => {
                self.forget_all(fx);
                self.restart(now, fx);
            }
        }
    }

    fn restart_as(&mut self, now: Now, name: Option<HostName>, fx: &mut Effects) {
        self.state = after(self.state);
        let hosts = std::mem::take(&mut self.records)
            .into_keys()
            .map(|(host, _)| host);
        self.tell(now, name, hosts, fx);
    }

    fn tell(
        &mut self,
        now: Now,
        name: Option<HostName>,
        hosts: impl Iterator<Item = HostName>,
        fx: &mut Effects,
    ) {
        fx.keep(Kept::Restarted(self.state));
        self.notifier.begin(now, self.state, name, hosts);
        fx.event(Event::Restarted {
            state: self.state,
            to_tell: self.notifier.hosts().count(),
        });
        self.notifier.run(now, fx);
    }

    /// This host restarts as one whose monitor is not there: the number goes up, and nobody is told.
    pub fn restart_silently(&mut self, now: Now, fx: &mut Effects) {
        let hosts = std::mem::take(&mut self.records).into_keys();
        // In the order of the keys, the records of one host are neighbours.
        let mut hosts: Vec<_> = hosts.map(|(host, _)| host).collect();
        hosts.dedup();
        hosts.into_iter().for_each(|host| fx.keep(Kept::Unwatched(host)));
        self.restart(now, fx);
    }

    /// The driver tells what came of [`Effect::Notify`].
    pub fn notified(&mut self, now: Now, host: &HostName, result: Notified, fx: &mut Effects) {
        self.notifier.notified(now, host, result, fx);
        self.notifier.run(now, fx);
    }

    /// Lets time pass: sends notifications again, gives up.
    pub fn tick(&mut self, now: Now, fx: &mut Effects) {
        self.notifier.run(now, fx);
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub fn next_wakeup(&self) -> Option<Now> {
        self.notifier.next_wakeup()
    }

    /// Forgets everything but its name and state, and tells nobody.
    pub fn forget_all(&mut self, fx: &mut Effects) {
        self.records.clear();
        self.notifier.stop();
        fx.keep(Kept::Nobody);
    }
}

/// The state number of a host that restarts: from the largest odd number it goes on with the smallest.
fn after(state: i32) -> i32 {
    if state >= i32::MAX - 1 { 1 } else { state + 2 }
}
