//! How the lock service behaves where servers differ: a named set of policies, each with its source.
//!
//! What a policy means is told at its type; what the servers do is told in the table of
//! [`Personality::by_name`]. A personality is plain data: take one and change a field to get a server
//! that nobody has built.

use std::time::Duration;

/// A named set of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Personality {
    /// The name on the command line.
    pub name: &'static str,
    /// Where its figures come from, in one sentence for a report.
    pub source: &'static str,
    /// How many calls are worked on at once. Linux's lockd is one thread.
    pub workers: usize,
    /// Whether and when a peer is monitored.
    pub monitor: MonitorPolicy,
    /// What a call to the local status monitor does when that is not well.
    pub upcall: UpcallTimings,
    /// What makes two requests the same owner's.
    pub owner_key: OwnerKey,
    /// Who comes first when several want the same bytes.
    pub queue: QueueOrder,
    /// What TEST says about the holder.
    pub holder_shown: HolderShown,
    /// What becomes of a lock when the client denies the GRANTED.
    pub denied_grant: DeniedGrant,
    /// Whether a LOCK that carries a newer state number of its client's status monitor than any before it frees
    /// what the client held. That is a reboot of which no news came. FreeBSD and illumos; Linux believes
    /// SM_NOTIFY only. Without it the number in a LOCK means nothing; 0 always means nothing.
    pub reboot_by_state: bool,
    /// GRANTED is sent again after this time without an answer.
    pub regrant_unanswered: Duration,
    /// GRANTED is sent again after this time when it could not be sent, or was answered "grace period".
    pub regrant_failed: Duration,
    /// How far a chain of waiters is followed in search of a deadlock; `None` is to its end. Linux stops
    /// after ten owners (`MAX_DEADLK_ITERATIONS`, fs/locks.c).
    pub deadlock_hops: Option<u32>,
}

/// Whether and when a peer is monitored (`SM_MON`) because of its LOCK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonitorPolicy {
    /// Inside the worker and before the lock is taken; a failure refuses the lock. Linux.
    BeforeFatal,
    /// After the lock was granted, without waiting; a failure changes nothing. FreeBSD and illumos.
    AfterIgnored,
    /// Never.
    Never,
}

/// How long a call to the local status monitor takes, and what comes of it, when that is not well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpcallTimings {
    /// The port mapper is asked for statd again after this time.
    pub lookup_every: Duration,
    /// How often it is asked.
    pub lookups: u32,
    /// How long an upcall lasts while statd is not registered.
    pub absent_after: Duration,
    /// What comes of that.
    pub absent: AbsentOutcome,
    /// How long an upcall lasts while statd does not answer. It always ends in a refusal.
    pub silent_after: Duration,
}

/// What comes of an upcall that never found statd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentOutcome {
    /// NLM4_DENIED_NOLOCKS; the next LOCK tries again.
    NoLocks,
    /// The lock is granted, and the peer counts as monitored from then on although nobody monitors it.
    AsIfMonitored,
}

/// What makes two requests the same owner's. The `svid` always counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerKey {
    /// What stands for the client host.
    pub host: HostBy,
    /// Whether the owner handle counts too.
    pub oh: bool,
}

/// What stands for the client host in an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostBy {
    /// Its address, with the transport, the NLM version and the server's address. The name is ignored, so
    /// two clients behind one address translation with equal svids are one owner. Linux.
    Address,
    /// The `caller_name`, wherever the call comes from. FreeBSD.
    CallerName,
    /// Both: the address with all that goes with it there, and the `caller_name`. Ganesha.
    AddressAndCallerName,
}

/// Who comes first when several want the same bytes. Those that wait are always tried in the order in which
/// they came; the question is what a LOCK may do that comes while others wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueOrder {
    /// Whatever no *holder* stands in the way of, it takes: it overtakes those that wait. Readers who come one
    /// after the other can starve a writer. Linux.
    Linux,
    /// It stands in line: a request that waits is in the way of every later one that conflicts with it, as if
    /// it held the lock already. Ganesha counts blocked entries as conflicts so.
    ///
    /// Three things pass the queue. A reclaim, for what is reclaimed was held before anybody waited. An owner
    /// for whose own lock the waiting one waits (an upgrade, for instance): they would wait for each
    /// other. And one that would wait for itself through any number of others only because of the queue.
    /// TEST speaks of holders only.
    Fair,
}

/// What TEST says about the holder of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderShown {
    /// The lock manager's own process id and an empty owner handle. Linux.
    Lockd {
        /// That process id.
        svid: i32,
    },
    /// The real owner.
    Owner,
}

/// What becomes of a lock when the client denies the GRANTED, for instance because the process that had
/// waited is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedGrant {
    /// The request is dropped and the lock stays: nobody will ever unlock it. Linux up to 6.1.
    Leak,
    /// The lock is given back. Linux 6.6, FreeBSD, Ganesha. If the client denies because it had learned of
    /// the lock from the answer to a repeated LOCK, it loses a lock that it believes to hold.
    Unlock,
}

const LINUX: Personality = Personality {
    name: "linux-6.1",
    source: "measured on kernel servers 6.1.192 (absent: also 5.10.262, 6.12.117, 7.3.4; hung: also 7.3.4); \
             the rest read from 6.1.166",
    workers: 1,
    monitor: MonitorPolicy::BeforeFatal,
    upcall: UpcallTimings {
        lookup_every: Duration::from_secs(3),
        lookups: 20,
        absent_after: Duration::from_millis(61_500),
        absent: AbsentOutcome::AsIfMonitored,
        silent_after: Duration::from_millis(60_500),
    },
    owner_key: OwnerKey {
        host: HostBy::Address,
        oh: false,
    },
    queue: QueueOrder::Linux,
    holder_shown: HolderShown::Lockd { svid: 1 },
    denied_grant: DeniedGrant::Leak,
    reboot_by_state: false,
    regrant_unanswered: Duration::from_secs(60),
    regrant_failed: Duration::from_secs(10),
    deadlock_hops: None,
};

const ALL: &[Personality] = &[
    Personality {
        name: "linux-5.0",
        source: "read from the sources before \"remove the maximum number of retries in call_bind_status\" \
                 (mainline 2023); not measured",
        upcall: UpcallTimings {
            lookups: 3,
            absent_after: Duration::from_secs(6),
            absent: AbsentOutcome::NoLocks,
            ..LINUX.upcall
        },
        ..LINUX
    },
    LINUX,
    Personality {
        name: "linux-6.6",
        source: "linux-6.1, with what becomes of a denied GRANTED read from the sources of 6.6.150; not measured",
        denied_grant: DeniedGrant::Unlock,
        ..LINUX
    },
    Personality {
        name: "freebsd",
        source: "read from the sources of FreeBSD 9.3 (sys/nlm): monitor, owner, denied grant, reboot by state; the \
                 rest is as linux-6.1; not measured",
        monitor: MonitorPolicy::AfterIgnored,
        owner_key: OwnerKey {
            host: HostBy::CallerName,
            oh: false,
        },
        denied_grant: DeniedGrant::Unlock,
        reboot_by_state: true,
        ..LINUX
    },
    Personality {
        name: "illumos",
        source: "read from the sources of illumos 2020-05 (klm): monitor, denied grant, reboot by state; the rest is \
                 as linux-6.1; not measured",
        monitor: MonitorPolicy::AfterIgnored,
        denied_grant: DeniedGrant::Unlock,
        reboot_by_state: true,
        ..LINUX
    },
    Personality {
        name: "ganesha",
        source: "read from the sources of Ganesha 6.2: monitor (two tries of 3 s), owner, queue, denied grant, 5 s for \
                 an answer to GRANTED; eight workers are our choice, the rest is as linux-6.1; not measured",
        workers: 8,
        upcall: UpcallTimings {
            lookups: 2,
            absent_after: Duration::from_secs(6),
            absent: AbsentOutcome::NoLocks,
            silent_after: Duration::from_secs(6),
            ..LINUX.upcall
        },
        owner_key: OwnerKey {
            host: HostBy::AddressAndCallerName,
            oh: true,
        },
        queue: QueueOrder::Fair,
        denied_grant: DeniedGrant::Unlock,
        regrant_unanswered: Duration::from_secs(5),
        ..LINUX
    },
];

impl Personality {
    /// The personality with this name.
    ///
    /// | | statd absent | statd hung | an owner is | queue | GRANTED denied | newer `state` in LOCK |
    /// |---|---|---|---|---|---|---|
    /// | `linux-5.0` | 6 s, then DENIED_NOLOCKS | 60.5 s, then DENIED_NOLOCKS | address, svid | Linux | leaks | nothing |
    /// | `linux-6.1` | 61.5 s, then GRANTED | 60.5 s, then DENIED_NOLOCKS | address, svid | Linux | leaks | nothing |
    /// | `linux-6.6` | as `linux-6.1` | as `linux-6.1` | address, svid | Linux | unlocks | nothing |
    /// | `freebsd` | GRANTED at once | GRANTED at once | name, svid | Linux | unlocks | frees |
    /// | `illumos` | GRANTED at once | GRANTED at once | address, svid | Linux | unlocks | frees |
    /// | `ganesha` | 6 s, then DENIED_NOLOCKS | 6 s, then DENIED_NOLOCKS | address, name, svid, oh | fair | unlocks | nothing |
    ///
    /// Only `linux-6.1` is measured; each `source` says what it rests on.
    pub fn by_name(name: &str) -> Option<Personality> {
        ALL.iter().find(|p| p.name == name).cloned()
    }

    /// The names there are.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().map(|p| p.name)
    }

    /// Every personality.
    pub fn all() -> &'static [Personality] {
        ALL
    }
}

impl Default for Personality {
    /// `linux-6.1`.
    fn default() -> Self {
        LINUX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_personality_is_found_by_its_name_and_says_where_it_comes_from() {
        assert_eq!(
            Personality::names().collect::<Vec<_>>(),
            [
                "linux-5.0",
                "linux-6.1",
                "linux-6.6",
                "freebsd",
                "illumos",
                "ganesha"
            ]
        );
        for name in Personality::names() {
            let p = Personality::by_name(name).unwrap();
            assert!(p.name == name && !p.source.is_empty() && p.workers > 0);
            // The lookups fit into the time that an upcall without statd lasts.
            assert!(p.upcall.lookup_every * (p.upcall.lookups - 1) <= p.upcall.absent_after);
        }
        assert_eq!(Personality::by_name("linux-0.1"), None);
        let measured = |p: &&Personality| !p.source.contains("not measured");
        let measured: Vec<_> = Personality::all()
            .iter()
            .filter(measured)
            .map(|p| p.name)
            .collect();
        assert_eq!(measured, ["linux-6.1"]);
    }
}
