//! What the service wants done, and what it has to tell.
//!
//! The service never does anything outside itself. What it wants is pushed onto an [`Effects`], which the
//! driver empties and uses again. An [`Event`] is not a wish but a sentence for the timeline: something
//! that is not simply an answer to a request.

use crate::Now;
use crate::hosts::{HostKey, Private};
use crate::range::{Kind, Range};
use crate::request::{CallId, Callback, Reply};
use crate::short::ShortBytes;
use crate::table::Handle;
use crate::upcall::UpcallOutcome;
use crate::waiters::BlockId;
use std::fmt;
use std::net::IpAddr;

/// Something that the driver should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answer this call, which had been put off.
    Reply {
        /// Which call.
        id: CallId,
        /// The answer.
        reply: Reply,
    },
    /// Send GRANTED_MSG, then tell [`callback_sent`](crate::service::LockService::callback_sent).
    Callback(Box<Callback>),
    /// Have statd monitor the peer (`SM_MON`), then tell
    /// [`monitored`](crate::service::LockService::monitored).
    Monitor {
        /// The peer; Linux passes its address as `mon_name`.
        peer: IpAddr,
        /// What it calls itself.
        name: ShortBytes,
        /// What the monitor is to bring back with the news of a reboot.
        private: Private,
    },
    /// Have statd stop monitoring the peer (`SM_UNMON`). There is nothing to tell afterwards.
    Unmonitor {
        /// The peer.
        peer: IpAddr,
    },
    /// Write this down.
    Event(Event),
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

    pub(crate) fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.0.push(Effect::Event(event));
    }
}

/// An owner in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Where it is.
    pub peer: IpAddr,
    /// What its host calls itself.
    pub name: ShortBytes,
    /// Its number there.
    pub svid: i32,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) owner {}", self.name, self.peer, self.svid)
    }
}

/// What a request was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct What {
    /// The file.
    pub fh: Handle,
    /// The bytes.
    pub range: Range,
    /// Alone or with others.
    pub kind: Kind,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let article = if self.kind.is_exclusive() { "an" } else { "a" };
        write!(
            f,
            "{article} {} lock on {} of file {}",
            self.kind, self.range, self.fh
        )
    }
}

/// Something worth a line in the timeline. `Display` is that line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A call waits because every worker is busy.
    CallQueued {
        /// Which call.
        id: CallId,
        /// Its procedure.
        procedure: &'static str,
        /// Where it came from.
        from: HostKey,
        /// How many calls wait before it.
        behind: usize,
        /// For whose monitoring the worker waits, if that is what keeps it.
        stuck_on: Option<IpAddr>,
    },
    /// A call was dropped unanswered because too many wait.
    QueueFull {
        /// Which call.
        id: CallId,
        /// How many may wait.
        limit: usize,
    },
    /// A call was dropped unanswered because its file cannot be had now (Linux does so for `JUKEBOX`).
    CallDropped {
        /// Which call.
        id: CallId,
        /// Its procedure.
        procedure: &'static str,
    },
    /// A worker stops to have a peer monitored.
    UpcallStarted {
        /// The peer.
        peer: IpAddr,
        /// What it calls itself.
        name: ShortBytes,
    },
    /// The port mapper does not know statd.
    StatdNotRegistered {
        /// For whom it was wanted.
        peer: IpAddr,
        /// How often it was asked in this upcall.
        attempt: u32,
    },
    /// The worker goes on.
    UpcallEnded {
        /// The peer.
        peer: IpAddr,
        /// What came of it.
        outcome: UpcallOutcome,
        /// How long the worker had stopped.
        took: Now,
    },
    /// A peer is monitored, or counts as monitored, from now on.
    HostMonitored {
        /// The peer.
        peer: IpAddr,
        /// Whether statd really monitors it.
        really: bool,
    },
    /// A request waits for a lock.
    Blocked {
        /// The waiting request.
        id: BlockId,
        /// Who waits.
        who: Who,
        /// For what.
        what: What,
        /// Who is in the way.
        by: Who,
    },
    /// Waiting would never end.
    Deadlock {
        /// Who wanted to wait.
        who: Who,
        /// For what.
        what: What,
        /// Through whom the owner would wait for itself.
        through: Vec<Who>,
    },
    /// A waiting request has its lock; the client does not know yet.
    Granted {
        /// The request.
        id: BlockId,
        /// Who.
        who: Who,
        /// What.
        what: What,
        /// How long it had waited.
        waited: Now,
    },
    /// A waiting request got its lock because the client asked again.
    GrantedToPoll {
        /// The request.
        id: BlockId,
        /// Who.
        who: Who,
        /// How long it had waited.
        waited: Now,
    },
    /// The GRANTED call was made, or could not be made.
    CallbackResult {
        /// The request.
        id: BlockId,
        /// Who was called.
        who: Who,
        /// Whether it could be sent.
        sent: bool,
        /// When it is sent again unless the client answers.
        again_after: Now,
    },
    /// GRANTED is sent once more.
    GrantRepeated {
        /// The request.
        id: BlockId,
        /// Who is called.
        who: Who,
        /// The how-manieth time it is.
        attempt: u32,
    },
    /// The client answered GRANTED: it has the lock.
    GrantAccepted {
        /// The request.
        id: BlockId,
        /// Who.
        who: Who,
    },
    /// The client denied the GRANTED, and the lock was given back.
    GrantDenied {
        /// The request.
        id: BlockId,
        /// Who.
        who: Who,
    },
    /// The client denied the GRANTED, and the lock stays although nobody wants it.
    Leaked {
        /// The request.
        id: BlockId,
        /// Who holds it without knowing.
        who: Who,
        /// What.
        what: What,
    },
    /// A peer rebooted: what it held is free.
    PeerRebooted {
        /// The peer.
        peer: IpAddr,
        /// What it calls itself.
        name: ShortBytes,
        /// Locks and share reservations that were freed.
        freed: usize,
        /// Waiting requests that were dropped.
        dropped: usize,
    },
    /// A LOCK carried a newer state number than those before, so its client must have rebooted.
    RebootInferred {
        /// The peer.
        peer: IpAddr,
        /// What it calls itself.
        name: ShortBytes,
        /// Its new state number.
        state: i32,
        /// Locks and share reservations that were freed.
        freed: usize,
        /// Waiting requests that were dropped.
        dropped: usize,
    },
    /// A peer's locks were freed at its own request (FREE_ALL).
    FreedAll {
        /// The peer.
        peer: IpAddr,
        /// Locks and share reservations that were freed.
        freed: usize,
        /// Waiting requests that were dropped.
        dropped: usize,
    },
    /// Somebody gave locks away by hand.
    LocksBroken {
        /// How many.
        broken: usize,
        /// Which were to be.
        which: String,
    },
    /// The lock table lost locks on purpose; nobody knows.
    LocksForgotten {
        /// How many.
        forgotten: usize,
        /// Which were to be.
        which: String,
    },
    /// A lock was entered that nobody holds.
    Orphaned {
        /// What.
        what: What,
    },
    /// The time of a lock that nobody holds is over: it is free.
    OrphanGone {
        /// The number of its owner.
        svid: i32,
    },
    /// So many locks that conflict are to be granted.
    DoubleGrantsDue {
        /// On which file.
        fh: Handle,
        /// How many; 0: none any more.
        count: u32,
    },
    /// A lock was granted although somebody else holds it.
    DoublyGranted {
        /// To whom.
        who: Who,
        /// What.
        what: What,
    },
    /// The lock service forgot everything, as after a reboot.
    ServerRebooted {
        /// Locks and share reservations that were lost.
        lost: usize,
        /// Calls that will never be answered.
        unanswered: usize,
    },
    /// From now on only what was held before may be locked.
    GraceStarted {
        /// For how long.
        lasts: Now,
    },
    /// The grace period is over.
    GraceEnded,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::CallQueued {
                procedure,
                from,
                behind,
                stuck_on,
                ..
            } => {
                write!(
                    f,
                    "{procedure} from {} waits: the lock service is busy",
                    from.peer
                )?;
                if let Some(peer) = stuck_on {
                    write!(f, " having {peer} monitored")?;
                }
                if *behind > 0 {
                    write!(f, ", {behind} calls are before it")
                } else {
                    Ok(())
                }
            }
            Event::QueueFull { limit, .. } => write!(f, "call dropped: {limit} calls wait already"),
            Event::CallDropped { procedure, .. } => {
                write!(
                    f,
                    "{procedure} dropped without an answer: its file cannot be had now"
                )
            }
            Event::UpcallStarted { peer, name } => write!(
                f,
                "first lock of {name} ({peer}): the lock service stops to have it monitored by statd"
            ),
            Event::StatdNotRegistered { peer, attempt } => write!(
                f,
                "statd is not registered with the port mapper (asked for {peer}, attempt {attempt})"
            ),
            Event::UpcallEnded { peer, outcome, took } => write!(
                f,
                "the lock service goes on after {:.1} s: {peer}: {outcome}{}",
                took.as_secs_f64(),
                if outcome.is_success() {
                    ""
                } else {
                    "; the lock is refused"
                }
            ),
            Event::HostMonitored { peer, really: true } => write!(f, "{peer} is monitored"),
            Event::HostMonitored { peer, really: false } => {
                write!(f, "{peer} counts as monitored, but nobody monitors it")
            }
            Event::Blocked { who, what, by, .. } => write!(f, "{who} waits for {what}, held by {by}"),
            Event::Deadlock { who, what, through } => {
                write!(f, "{who} may not wait for {what}: it would wait for itself")?;
                through.iter().try_for_each(|by| write!(f, ", through {by}"))
            }
            Event::Granted {
                who, what, waited, ..
            } => {
                write!(f, "{who} is granted {what} after {:.3} s", waited.as_secs_f64())
            }
            Event::GrantedToPoll { who, waited, .. } => {
                write!(
                    f,
                    "{who} asked again and has its lock after {:.3} s",
                    waited.as_secs_f64()
                )
            }
            Event::CallbackResult { who, sent: true, .. } => write!(f, "GRANTED sent to {who}"),
            Event::CallbackResult {
                who,
                sent: false,
                again_after,
                ..
            } => {
                write!(
                    f,
                    "GRANTED could not be sent to {who}; again in {} s",
                    again_after.as_secs()
                )
            }
            Event::GrantRepeated { who, attempt, .. } => {
                write!(f, "GRANTED goes to {who} again, attempt {attempt}")
            }
            Event::GrantAccepted { who, .. } => write!(f, "{who} knows that it has the lock"),
            Event::GrantDenied { who, .. } => write!(f, "{who} denied the grant; its lock was given back"),
            Event::Leaked { who, what, .. } => {
                write!(
                    f,
                    "{who} denied the grant of {what}, which stays locked for nobody"
                )
            }
            Event::PeerRebooted {
                peer,
                name,
                freed,
                dropped,
            } => write!(
                f,
                "{name} ({peer}) rebooted: {freed} locks freed, {dropped} waiting requests dropped"
            ),
            Event::RebootInferred {
                peer,
                name,
                state,
                freed,
                dropped,
            } => write!(
                f,
                "{name} ({peer}) must have rebooted, for its state is {state} now: {freed} locks freed, \
                 {dropped} waiting requests dropped"
            ),
            Event::FreedAll { peer, freed, dropped } => {
                write!(
                    f,
                    "{peer} gave up all: {freed} locks freed, {dropped} waiting requests dropped"
                )
            }
            Event::LocksBroken { broken, which } => {
                write!(f, "{broken} {which} broken by hand; their clients are not told")
            }
            Event::LocksForgotten { forgotten, which } => {
                write!(
                    f,
                    "the lock table has lost {forgotten} {which}: their clients believe that they hold them, and who \
                     waits is not told"
                )
            }
            Event::Orphaned { what } => write!(f, "{what} is held by nobody who lives, from now on"),
            Event::OrphanGone { svid } => write!(f, "the lock of orphan owner {svid} is over: it is free"),
            Event::DoubleGrantsDue { fh, count: 0 } => {
                write!(f, "no more than one is granted a lock on file {fh} at a time")
            }
            Event::DoubleGrantsDue { fh, count } => write!(
                f,
                "the next {count} locks on file {fh} that somebody else holds will be granted all the same"
            ),
            Event::DoublyGranted { who, what } => {
                write!(
                    f,
                    "{who} is granted {what} although somebody else holds it: both believe that it is theirs"
                )
            }
            Event::ServerRebooted { lost, unanswered } => {
                write!(
                    f,
                    "the lock service restarted: {lost} locks lost, {unanswered} calls unanswered"
                )
            }
            Event::GraceStarted { lasts } => {
                write!(
                    f,
                    "grace period of {} s: only locks held before are granted",
                    lasts.as_secs()
                )
            }
            Event::GraceEnded => f.write_str("the grace period is over"),
        }
    }
}
