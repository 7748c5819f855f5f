//! What the client wants done, and what it has to tell.

use super::{Call, CallId, Holder, RequestId};
use crate::range::{Kind, Range};
use crate::request;
use crate::table::Handle;
use proto::nlm::Nlm4Stat;
use std::fmt;

/// Something that the driver should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make this call, over again for as long as the server cannot be reached, then tell
    /// [`replied`](super::LockClient::replied).
    Call {
        /// Its name.
        id: CallId,
        /// What to send.
        call: Box<Call>,
    },
    /// Answer this request. It is over.
    Answer {
        /// Which.
        request: RequestId,
        /// What came of it.
        result: Result<Answered, Refused>,
    },
    /// Write this down.
    Event(Event),
}

/// What came of a request that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// The lock is there, or given back.
    Done,
    /// Who would be in the way, if anybody.
    Tested(Option<request::Holder>),
}

/// Why a request came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// Somebody else holds it, and the request was not to wait.
    WouldBlock,
    /// The server has no room, does not let this host lock, or says nothing better.
    NoLocks,
    /// Waiting would never end.
    Deadlock,
    /// The file system is read-only.
    ReadOnly,
    /// There is no such file.
    Stale,
    /// The server cannot lock that many bytes.
    TooBig,
    /// A signal came.
    Interrupted,
    /// The call failed, or its reply made no sense.
    Io,
    /// The server does not accept this host's credentials.
    Access,
}

impl Refused {
    /// The number that Linux has for it, as its own NFS client maps it (`nlm_stat_to_errno`, fs/lockd/clntproc.c).
    pub fn errno(self) -> i32 {
        match self {
            Refused::WouldBlock => 11, // EAGAIN
            Refused::NoLocks => 37,    // ENOLCK
            Refused::Deadlock => 35,   // EDEADLK
            Refused::ReadOnly => 30,   // EROFS
            Refused::Stale => 116,     // ESTALE
            Refused::TooBig => 75,     // EOVERFLOW
            Refused::Interrupted => 4, // EINTR
            Refused::Io => 5,          // EIO
            Refused::Access => 13,     // EACCES
        }
    }

    /// What a status means that is neither GRANTED, BLOCKED nor the grace period. DENIED to a request that was to
    /// wait is odd, and Linux makes it ENOLCK.
    pub(super) fn from_stat(stat: Nlm4Stat, wait: bool) -> Refused {
        match stat {
            Nlm4Stat::NLM4_DENIED if !wait => Refused::WouldBlock,
            Nlm4Stat::NLM4_DEADLCK => Refused::Deadlock,
            Nlm4Stat::NLM4_ROFS => Refused::ReadOnly,
            Nlm4Stat::NLM4_STALE_FH => Refused::Stale,
            Nlm4Stat::NLM4_FBIG => Refused::TooBig,
            Nlm4Stat(value) if value > Nlm4Stat::NLM4_FAILED.0 => Refused::Io,
            _ => Refused::NoLocks,
        }
    }
}

/// Why there is no reply. That the server cannot be reached is none: the driver tries for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// An RPC error (RFC 5531, section 9): the program is not there, the arguments were garbage, and so on.
    Io,
    /// AUTH_ERROR.
    Access,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Io => Refused::Io,
            Failure::Access => Refused::Access,
        }
    }
}

/// Effects in the order in which they came about. Keeps its memory when it is emptied.
#[derive(Debug, Default)]
pub struct Effects(Vec<Effect>);

impl Effects {
    /// None.
    pub fn new() -> Self {
        Effects::default()
    }

    /// Takes all effects out.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.0.drain(..)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.0.push(Effect::Event(event));
    }
}

/// How a lock was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostWhy {
    /// It was not to be had again after a reboot of the server: this was the answer, or there was none.
    NotReclaimed(Option<Nlm4Stat>),
    /// It was made shared for a request that was then interrupted, and others share it by now.
    Weakened,
}

/// Something worth a line in the log. `Display` is that line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A holder no longer has what it was told that it has.
    Lost {
        /// Who.
        holder: Holder,
        /// The file.
        fh: Handle,
        /// Which bytes.
        range: Range,
        /// What it had.
        kind: Kind,
        /// How.
        why: LostWhy,
    },
    /// The server rebooted, and what is held is reclaimed.
    Reclaiming {
        /// How many locks.
        locks: usize,
    },
    /// The reclaim is over.
    Reclaimed {
        /// How many locks there are now.
        held: usize,
        /// How many are lost.
        lost: usize,
    },
    /// UNLOCK was answered so; the server may still hold the lock.
    UnexpectedUnlockStatus {
        /// Who.
        holder: Holder,
        /// The file.
        fh: Handle,
        /// Which bytes.
        range: Range,
        /// The answer.
        stat: Nlm4Stat,
    },
    /// A LOCK that was not to wait was answered BLOCKED; it is given up.
    UnexpectedBlocked {
        /// Who.
        holder: Holder,
        /// The file.
        fh: Handle,
        /// Which bytes.
        range: Range,
    },
    /// CANCEL came to nothing as often as it may. UNLOCK follows.
    CancelGivenUp {
        /// Who.
        holder: Holder,
        /// The file.
        fh: Handle,
        /// Which bytes.
        range: Range,
    },
    /// A lock that is held could not be taken again in its kind after a request for another kind was given up. It
    /// counts as held; the server may have the other kind.
    NotRestored {
        /// Who.
        holder: Holder,
        /// The file.
        fh: Handle,
        /// Which bytes.
        range: Range,
        /// The answer.
        stat: Nlm4Stat,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let api = match self.api {
            super::Api::Posix => "fcntl",
            super::Api::Flock => "flock",
        };
        write!(f, "{api} holder {:#x}", self.number)
    }
}

impl fmt::Display for LostWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LostWhy::NotReclaimed(Some(stat)) => {
                write!(f, "the server rebooted and answers {stat} to the reclaim")
            }
            LostWhy::NotReclaimed(None) => f.write_str("the server rebooted and the reclaim failed"),
            LostWhy::Weakened => f.write_str("it was shared by a request that was interrupted"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Lost {
                holder,
                fh,
                range,
                kind,
                why,
            } => write!(f, "{holder} lost its {kind} lock on {range} of file {fh}: {why}"),
            Event::Reclaiming { locks } => write!(f, "the server rebooted: {locks} locks are reclaimed"),
            Event::Reclaimed { held, lost } => write!(f, "reclaim is over: {held} locks held, {lost} lost"),
            Event::UnexpectedUnlockStatus {
                holder,
                fh,
                range,
                stat,
            } => write!(
                f,
                "UNLOCK of {range} of file {fh} by {holder} was answered {stat}: the server may still hold it"
            ),
            Event::UnexpectedBlocked { holder, fh, range } => write!(
                f,
                "LOCK of {range} of file {fh} by {holder}, which was not to wait, was answered BLOCKED"
            ),
            Event::CancelGivenUp { holder, fh, range } => write!(
                f,
                "CANCEL of the lock on {range} of file {fh} by {holder} came to nothing; UNLOCK follows"
            ),
            Event::NotRestored {
                holder,
                fh,
                range,
                stat,
            } => write!(
                f,
                "{holder} holds {range} of file {fh}, but to have it as before was answered {stat}"
            ),
        }
    }
}
