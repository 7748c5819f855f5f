//! Telling others that this host restarted: what sm-notify does.
//!
//! Each host is told by SM_NOTIFY over UDP until it answers: after 2 seconds, 4, 8 and so on up to every
//! two minutes, and given up a quarter of an hour after the restart (and told of the next one, if anything is
//! kept). A host without a monitor is asked again after two minutes. The full name is sent first; when that was
//! answered, the name up to its first dot is sent as well, since the other side may know only that one.
//!
//! Source: utils/statd/sm-notify.c of nfs-utils (July 2026), read, not measured.

use crate::{Effect, Effects, Event, HostName, Kept, Now, names};
use std::collections::BTreeMap;
use std::time::Duration;

/// The first wait for an answer.
pub const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest wait for an answer, and the wait for a host without a monitor.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(120);
/// When a host is given up, counted from the restart.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(15 * 60);
/// As many are sent at once; the rest follows [`BURST_PAUSE`] later.
pub const BURST: usize = 10;
/// The pause between two bursts (deduced).
pub const BURST_PAUSE: Duration = Duration::from_secs(1);
/// The port of the other monitor is looked up again with every fourth sending.
pub const LOOK_UP_EVERY: u32 = 4;

/// A notification to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// The host to tell, by the name under which it was watched.
    pub host: HostName,
    /// The argument `mon_name`: how this host calls itself.
    pub mon_name: HostName,
    /// The argument `state`.
    pub state: i32,
    /// 1 for the first, then one more for each repetition.
    pub attempt: u32,
    /// Whether to ask its port mapper where its monitor is, rather than use what it said before.
    pub look_up: bool,
}

/// What came of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notified {
    /// It was answered.
    Answered,
    /// It could not be sent, or was not answered.
    Failed,
    /// The host has no monitor.
    NoMonitor,
}

#[derive(Debug)]
struct Telling {
    /// Whether the short name's turn has come.
    short: bool,
    attempts: u32,
    timeout: Duration,
    next: Now,
    /// Since when it is tried to tell this host.
    since: Now,
}

/// Those who are to be told.
#[derive(Debug)]
pub(crate) struct Notifier {
    my_name: HostName,
    /// How this host calls itself in the news of the latest restart, if not so.
    other_name: Option<HostName>,
    state: i32,
    hosts: BTreeMap<HostName, Telling>,
}

impl Notifier {
    pub(crate) fn new(my_name: &str) -> Self {
        Notifier {
            my_name: my_name.into(),
            other_name: None,
            state: 0,
            hosts: BTreeMap::new(),
        }
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.keys()
    }

    /// Begins to tell these hosts, and anew those who have not been told of an earlier restart; under another name, if
    /// there is one.
    pub(crate) fn begin(
        &mut self,
        now: Now,
        state: i32,
        other_name: Option<HostName>,
        hosts: impl Iterator<Item = HostName>,
    ) {
        self.state = state;
        self.other_name = other_name;
        let untold = std::mem::take(&mut self.hosts).into_keys();
        self.hosts = untold
            .chain(hosts)
            .map(|host| (host, Telling::new(now)))
            .collect();
    }

    pub(crate) fn stop(&mut self) {
        self.hosts.clear();
    }

    pub(crate) fn notified(&mut self, now: Now, host: &HostName, result: Notified, fx: &mut Effects) {
        let short_differs = self.name(false) != self.name(true);
        let Some(telling) = self.hosts.get_mut(host) else {
            return;
        };
        match result {
            // Its turn comes when the time for an answer is over.
            Notified::Failed => {}
            Notified::NoMonitor => telling.next = now + MAX_TIMEOUT,
            Notified::Answered if !telling.short && short_differs => {
                *telling = Telling {
                    short: true,
                    since: telling.since,
                    ..Telling::new(now)
                };
            }
            Notified::Answered => {
                self.hosts.remove(host);
                fx.keep(Kept::Told(host.clone()));
                fx.event(Event::Told { host: host.clone() });
            }
        }
    }

    /// How this host calls itself.
    fn name(&self, short: bool) -> HostName {
        let my_name = self.other_name.as_ref().unwrap_or(&self.my_name);
        let full = my_name.as_bytes();
        let is_address = names::as_address(full).is_some();
        match full.split(|b| *b == b'.').next() {
            Some(first) if short && !is_address && !first.is_empty() => first.into(),
            _ => my_name.clone(),
        }
    }

    /// Sends whatever is due, and gives up whom it must.
    pub(crate) fn run(&mut self, now: Now, fx: &mut Effects) {
        self.hosts.retain(|host, telling| {
            let stays = now < telling.since + GIVE_UP_AFTER;
            if !stays {
                fx.event(Event::GaveUp {
                    host: host.clone(),
                    attempts: telling.attempts,
                });
            }
            stays
        });
        let (full, short) = (self.name(false), self.name(true));
        let mut due: Vec<_> = self
            .hosts
            .iter_mut()
            .filter(|(_, telling)| telling.next <= now)
            .collect();
        // Who has been told least often comes first: a crowd that does not answer keeps nobody waiting.
        due.sort_by_key(|(_, telling)| telling.attempts);
        for (n, (host, telling)) in due.into_iter().enumerate() {
            if n >= BURST {
                telling.next = now + BURST_PAUSE;
                continue;
            }
            telling.attempts += 1;
            telling.next = now + telling.timeout;
            telling.timeout = (telling.timeout * 2).min(MAX_TIMEOUT);
            fx.push(Effect::Notify(Notify {
                host: host.clone(),
                mon_name: if telling.short {
                    short.clone()
                } else {
                    full.clone()
                },
                state: self.state,
                attempt: telling.attempts,
                look_up: telling.attempts % LOOK_UP_EVERY == 1,
            }));
        }
    }

    pub(crate) fn next_wakeup(&self) -> Option<Now> {
        self.hosts
            .values()
            .map(|telling| telling.next.min(telling.since + GIVE_UP_AFTER))
            .min()
    }
}

impl Telling {
    fn new(now: Now) -> Self {
        Telling {
            short: false,
            attempts: 0,
            timeout: FIRST_TIMEOUT,
            next: now,
            since: now,
        }
    }
}
