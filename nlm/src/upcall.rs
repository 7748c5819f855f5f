//! One call of the lock manager to its local status monitor (`SM_MON`), made for the first LOCK of a peer.
//!
//! On Linux it is made inside lockd's only thread, so as long as it lasts no lock call of any client is
//! answered. It has two parts: the port mapper is asked where statd listens, again and again while it
//! does not know; then statd is called, and has to answer. [`Upcall::poll`] looks at how statd is *now*,
//! so a change of its condition half way through is felt as on a real machine: one that was absent is found
//! by the next lookup, one that was hung answers the call that it already has.
//!
//! Source: fs/lockd/mon.c (`nsm_mon_unmon`) and net/sunrpc/clnt.c (`call_bind_status`) of Linux 6.1;
//! durations are those of [`UpcallTimings`].

use crate::Now;
use crate::hosts::PeerId;
use crate::personality::{AbsentOutcome, UpcallTimings};
use std::fmt;
use std::time::Duration;

/// How the local status monitor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Statd {
    /// It answers: the driver is asked to carry the call to it.
    #[default]
    Ok,
    /// It is not running, and the port mapper does not know it.
    Absent,
    /// It accepts calls and does not answer them, as after SIGSTOP.
    Hung,
    /// It answers after this time, for instance because it waits for the name service.
    Slow(Duration),
    /// It answers at once that it cannot monitor the peer.
    Fails,
    /// It cannot be called: the port that the port mapper names for it, or the port mapper itself, refuses the
    /// connection. Linux' upcall (`RPC_TASK_SOFTCONN`) then fails at once.
    Refused,
}

/// What came of an upcall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpcallOutcome {
    /// statd monitors the peer.
    Monitored,
    /// statd was never found; the peer counts as monitored all the same.
    AsIfMonitored,
    /// statd was never found; the lock is refused.
    NotRegistered,
    /// statd did not answer; the lock is refused.
    NoAnswer,
    /// statd cannot monitor the peer; the lock is refused.
    Refused,
    /// statd could not be called; the lock is refused.
    Unreachable,
}

impl UpcallOutcome {
    /// Whether the LOCK goes on.
    pub fn is_success(self) -> bool {
        matches!(self, UpcallOutcome::Monitored | UpcallOutcome::AsIfMonitored)
    }
}

impl fmt::Display for UpcallOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UpcallOutcome::Monitored => "statd monitors it",
            UpcallOutcome::AsIfMonitored => {
                "statd was never found, and the lock manager goes on as if it monitored the peer"
            }
            UpcallOutcome::NotRegistered => "statd was never found",
            UpcallOutcome::NoAnswer => "statd did not answer",
            UpcallOutcome::Refused => "statd cannot monitor it",
            UpcallOutcome::Unreachable => "the port of statd refuses the connection",
        })
    }
}

/// What an upcall wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// To be polled again at this time, or when statd's condition changes.
    Wait(Now),
    /// To have it written down that the port mapper did not know statd, the n-th time.
    LookedUp(u32),
    /// To have the peer monitored.
    Ask,
    /// Nothing: it is over.
    Done(UpcallOutcome),
}

/// How statd is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StatdNow {
    pub(crate) statd: Statd,
    pub(crate) since: Now,
}

/// An upcall under way.
#[derive(Debug)]
pub(crate) struct Upcall {
    pub(crate) peer: PeerId,
    pub(crate) started: Now,
    lookups: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The port mapper is asked at this time; after the last time there is no other.
    LookUp { at: Now, last: bool },
    /// statd has been called.
    Called { at: Now, last: bool },
    /// The driver carries the call to a statd that is well; this is when it took it.
    Asked { at: Now, last: bool },
}

impl Upcall {
    pub(crate) fn new(peer: PeerId, now: Now) -> Self {
        Upcall {
            peer,
            started: now,
            lookups: 0,
            phase: Phase::LookUp { at: now, last: false },
        }
    }

    /// Whether the driver's answer is what it waits for.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.phase, Phase::Asked { .. })
    }

    /// Goes on as far as it can without waiting. To be called until it says `Wait` or `Done`.
    pub(crate) fn poll(&mut self, now: Now, statd: StatdNow, t: &UpcallTimings) -> Step {
        if let Phase::LookUp { at, last } = self.phase {
            if now < at {
                return Step::Wait(at);
            }
            if statd.statd == Statd::Absent {
                return self.not_registered(at, last, t);
            }
            self.phase = Phase::Called { at: now, last };
        }
        // Deduced, not measured: the 60 s count from the start of the upcall, lookups included, and a
        // call that a live statd has received gets all of its time.
        let deadline = match self.phase {
            Phase::Asked { at, .. } => at + t.silent_after,
            _ => self.started + t.silent_after,
        };
        let (called, last) = match self.phase {
            Phase::Called { at, last } => (at, last),
            Phase::Asked { .. } if now < deadline => return Step::Wait(deadline),
            _ => return Step::Done(UpcallOutcome::NoAnswer),
        };
        match statd.statd {
            Statd::Ok => self.ask(now, last),
            Statd::Fails => Step::Done(UpcallOutcome::Refused),
            Statd::Refused => Step::Done(UpcallOutcome::Unreachable),
            // It went away with the call: the connection is reset, and its port is looked up again.
            Statd::Absent => {
                self.phase = Phase::LookUp { at: now, last: false };
                self.poll(now, statd, t)
            }
            Statd::Slow(delay) => {
                let answers = called.max(statd.since) + delay;
                match now {
                    now if now >= answers && answers <= deadline => self.ask(now, last),
                    now if now >= deadline => Step::Done(UpcallOutcome::NoAnswer),
                    _ => Step::Wait(answers.min(deadline)),
                }
            }
            Statd::Hung if now < deadline => Step::Wait(deadline),
            Statd::Hung => Step::Done(UpcallOutcome::NoAnswer),
        }
    }

    /// The driver has looked for a statd outside and the port mapper does not know it: the lookup that had seemed to
    /// find it has failed after all.
    pub(crate) fn not_found(&mut self, now: Now, t: &UpcallTimings) -> Step {
        match self.phase {
            Phase::Asked { last, .. } => self.not_registered(now, last, t),
            _ => Step::Wait(now),
        }
    }

    fn ask(&mut self, now: Now, last: bool) -> Step {
        self.phase = Phase::Asked { at: now, last };
        Step::Ask
    }

    fn not_registered(&mut self, at: Now, last: bool, t: &UpcallTimings) -> Step {
        if last {
            return Step::Done(match t.absent {
                AbsentOutcome::NoLocks => UpcallOutcome::NotRegistered,
                AbsentOutcome::AsIfMonitored => UpcallOutcome::AsIfMonitored,
            });
        }
        self.lookups += 1;
        let (next, end) = (at + t.lookup_every, self.started + t.absent_after);
        let last = self.lookups >= t.lookups || next > end;
        self.phase = Phase::LookUp {
            at: if last { end.max(at) } else { next },
            last,
        };
        Step::LookedUp(self.lookups)
    }
}
