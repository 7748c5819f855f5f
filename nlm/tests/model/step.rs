//! What can happen to a lock service, as data.

use std::fmt;

/// Bytes of a model's file. The last of them stands for itself and all that follow: who locks it
/// locks to the end.
pub const BYTES: u8 = 8;
/// Files of the model.
pub const FILES: u8 = 2;
/// Peers, numbered from 1.
pub const PEERS: u8 = 3;
/// Owners at each of them, numbered from 1.
pub const SVIDS: u8 = 2;

/// A process on a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its machine.
    pub peer: u8,
    /// Its number there.
    pub svid: u8,
}

/// Some bytes of a file, for an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Whose.
    pub who: Owner,
    /// Of which file.
    pub file: u8,
    /// The first byte.
    pub first: u8,
    /// The last byte, included.
    pub last: u8,
}

/// A lock that somebody has or wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// Who, and which bytes.
    pub span: Span,
    /// Alone, or with others.
    pub exclusive: bool,
}

/// What a client says to GRANTED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has the lock.
    Granted,
    /// It wants no such lock.
    Denied,
    /// It cannot tell now.
    Grace,
}

/// One transition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// LOCK.
    Lock {
        /// The lock.
        want: Want,
        /// Whether to wait for it.
        block: bool,
        /// Whether it was held before the server restarted.
        reclaim: bool,
    },
    /// UNLOCK.
    Unlock(Span),
    /// CANCEL.
    Cancel(Want),
    /// TEST.
    Test(Want),
    /// GRANTED_RES to one of the callbacks so far, counted from the latest.
    Answer(u8, Answer),
    /// Whether clients can be called from now on.
    Reach(bool),
    /// A peer rebooted.
    Reboot(u8),
    /// FREE_ALL of a peer.
    FreeAll(u8),
    /// The server restarts, with a grace period of so many seconds.
    Restart(u8),
    /// So many seconds pass.
    Pass(u8),
}

impl Step {
    /// How many bytes make a step.
    pub const ENCODED: usize = 4;

    /// Any four bytes are a step. Smaller bytes are simpler steps.
    pub fn decode([what, who, range, more]: [u8; 4]) -> Step {
        let who = Owner {
            peer: who % PEERS + 1,
            svid: who / PEERS % SVIDS + 1,
        };
        let (a, b) = (range % BYTES, range / BYTES % BYTES);
        let span = Span {
            who,
            file: u8::from(more & 0x18 == 0x18) % FILES,
            first: a.min(b),
            last: a.max(b),
        };
        let want = Want {
            span,
            exclusive: more & 1 == 1,
        };
        match what % 32 {
            0..=11 => Step::Lock {
                want,
                block: more & 2 == 2,
                reclaim: false,
            },
            12..=17 => Step::Unlock(span),
            18..=19 => Step::Cancel(want),
            20 => Step::Test(want),
            21..=24 => Step::Answer(
                more / 4 % 4,
                match more % 4 {
                    2 => Answer::Denied,
                    3 => Answer::Grace,
                    _ => Answer::Granted,
                },
            ),
            25 => Step::Reach(more & 1 == 0),
            26 => Step::Reboot(who.peer),
            27 => Step::FreeAll(who.peer),
            28 if more < 64 => Step::Restart(more % 16),
            28 | 29 => Step::Lock {
                want,
                block: more & 2 == 2,
                reclaim: true,
            },
            _ => Step::Pass(range % 64),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "web{}/{}", self.peer, self.svid)
    }
}

/// The bytes and the file, without the owner.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.file == 0 { "" } else { " of the other file" };
        if self.last == BYTES - 1 {
            write!(f, "{}-end{file}", self.first)
        } else {
            write!(f, "{}-{}{file}", self.first, self.last)
        }
    }
}

/// Kind and bytes, without the owner.
impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.exclusive { "exclusive" } else { "shared" };
        write!(f, "{kind} {}", self.span)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Lock { want, block, reclaim } => {
                write!(f, "{} LOCK {want}", want.span.who)?;
                f.write_str(if *block { " block" } else { "" })?;
                f.write_str(if *reclaim { " reclaim" } else { "" })
            }
            Step::Unlock(span) => write!(f, "{} UNLOCK {span}", span.who),
            Step::Cancel(want) => write!(f, "{} CANCEL {want}", want.span.who),
            Step::Test(want) => write!(f, "{} TEST {want}", want.span.who),
            Step::Answer(back, answer) => {
                write!(f, "GRANTED_RES {answer:?} to the callback {back} before the last")
            }
            Step::Reach(true) => f.write_str("clients can be called"),
            Step::Reach(false) => f.write_str("clients cannot be called"),
            Step::Reboot(peer) => write!(f, "web{peer} reboots"),
            Step::FreeAll(peer) => write!(f, "web{peer} FREE_ALL"),
            Step::Restart(grace) => write!(f, "the server restarts, grace {grace} s"),
            Step::Pass(seconds) => write!(f, "{seconds} s pass"),
        }
    }
}

/// As it is displayed: a test shows a failing sequence in this form.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
