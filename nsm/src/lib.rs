//! The status monitor of a host, rpc.statd and sm-notify in one, without a socket and without a clock.
//!
//! NSM (program 100024, XNFS C702, chapter 12) answers one question: has that host restarted? A lock
//! manager asks its own host's monitor to watch a peer (`SM_MON`). When a host restarts, its monitor tells
//! every host that it had been watching (`SM_NOTIFY`), and there the monitor calls its lock manager, which
//! drops or reclaims locks. Nobody ever polls: a notification that is lost is lost.
//!
//! - [`monitor`]: the procedures, and what a notification from outside does;
//! - [`notify`]: telling others after a restart, again and again until they answer or time is up;
//! - [`names`]: when are two names the same host?
//!
//! Everything is a function of calls and of `now`; what is to be done comes out as [`Effect`]s. The crate
//! knows no lock manager: whoever drives it carries [`Effect::Rebooted`] there. It knows no files either: what
//! must outlive the host comes out as [`Kept`], and goes in again as [`Saved`].
//!
//! Invariants: no clock, no randomness, no map whose iteration order is random (`clippy.toml` says so);
//! nothing grows without one of the [`limits`]; the state number is odd while the host is up, and grows
//! with every restart.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod monitor;
pub mod names;
pub mod notify;

pub use monitor::{Caller, Monitor};

use std::fmt;
use std::net::IpAddr;

/// Time since the server started.
pub type Now = std::time::Duration;

/// Every limit of the monitor, in one place.
pub mod limits {
    /// Records of watched hosts. Beyond it SM_MON fails.
    pub const RECORDS: usize = 65_536;
}

/// A host name as it came over the wire, without any promise about its encoding.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<[u8]>);

impl HostName {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for HostName {
    fn from(bytes: &[u8]) -> Self {
        HostName(bytes.into())
    }
}

impl From<&str> for HostName {
    fn from(text: &str) -> Self {
        HostName(text.as_bytes().into())
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What a monitor leaves to the one that comes after it, when the host has restarted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// The state number; `None` if this host has never had one.
    pub state: Option<i32>,
    /// Those who were watched when the host went down.
    pub watched: Vec<HostName>,
    /// Those who have not been told of an earlier restart.
    pub to_tell: Vec<HostName>,
}

/// A change of what must outlive the host ([`Saved`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Nobody has been watched before: this is the state number.
    State(i32),
    /// This host is watched.
    Watched(HostName),
    /// It no longer is.
    Unwatched(HostName),
    /// Whoever was watched is to be told of a restart, and this is the state number.
    Restarted(i32),
    /// This host has been told.
    Told(HostName),
    /// Nobody is watched, and nobody is to be told.
    Nobody,
}

/// Something that the driver should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Keep this where it outlives the host, if anything is kept, before any other effect is carried out and before
    /// the procedure is answered: rpc.statd has its record on the disk before it answers SM_MON.
    Keep(Kept),
    /// Send SM_NOTIFY, then tell [`Monitor::notified`].
    Notify(notify::Notify),
    /// Call the lock manager: a host that it has watched rebooted.
    Rebooted(Rebooted),
    /// Write this down.
    Event(Event),
}

/// The call to the lock manager (`status`, `nlm_sm_status`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebooted {
    /// The host, as the lock manager named it in SM_MON.
    pub mon_name: HostName,
    /// Its new state number.
    pub state: i32,
    /// Where the news came from.
    pub source: IpAddr,
    /// Returned as given in SM_MON.
    pub private: [u8; proto::nsm::SM_PRIV_SIZE],
    /// Whom to call.
    pub call: monitor::CallBack,
}

/// Something worth a line in the timeline. `Display` is that line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A host is watched from now on.
    Watching {
        /// The host.
        mon_name: HostName,
    },
    /// A host is no longer watched.
    Unwatched {
        /// The host.
        mon_name: HostName,
    },
    /// A request was refused.
    Refused {
        /// The procedure.
        procedure: &'static str,
        /// Why.
        why: &'static str,
    },
    /// News of a reboot that changes nothing here.
    NotifyIgnored {
        /// The host, as it calls itself.
        name: HostName,
        /// Its state number.
        state: i32,
        /// Where the news came from.
        source: IpAddr,
        /// Why it changes nothing.
        why: &'static str,
    },
    /// A watched host rebooted.
    PeerRebooted {
        /// The host, as the lock manager named it.
        mon_name: HostName,
        /// Its state number.
        state: i32,
    },
    /// This host restarted.
    Restarted {
        /// Its state number from now on.
        state: i32,
        /// How many hosts are to be told.
        to_tell: usize,
    },
    /// A host knows that this one restarted.
    Told {
        /// The host.
        host: HostName,
    },
    /// A host could not be told in all that time.
    GaveUp {
        /// The host.
        host: HostName,
        /// How often it was tried.
        attempts: u32,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Watching { mon_name } => write!(f, "statd watches {mon_name}"),
            Event::Unwatched { mon_name } => write!(f, "statd no longer watches {mon_name}"),
            Event::Refused { procedure, why } => write!(f, "statd refused {procedure}: {why}"),
            Event::NotifyIgnored {
                name,
                state,
                source,
                why,
            } => {
                write!(
                    f,
                    "statd ignores that {name} ({source}) says it rebooted (state {state}): {why}"
                )
            }
            Event::PeerRebooted { mon_name, state } => {
                write!(
                    f,
                    "statd hears that {mon_name} rebooted (state {state}) and tells the lock manager"
                )
            }
            Event::Restarted { state, to_tell } => {
                write!(
                    f,
                    "the server restarted (state {state}); {to_tell} hosts are to be told"
                )
            }
            Event::Told { host } => write!(f, "{host} knows that the server restarted"),
            Event::GaveUp { host, attempts } => {
                write!(
                    f,
                    "{host} could not be told of the restart in {attempts} attempts; it is given up"
                )
            }
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

    /// Takes out what is to be kept, in order.
    pub fn take_kept(&mut self) -> Vec<Kept> {
        let mut kept = Vec::new();
        for effect in std::mem::take(&mut self.0) {
            match effect {
                Effect::Keep(change) => kept.push(change),
                effect => self.0.push(effect),
            }
        }
        kept
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    pub(crate) fn keep(&mut self, change: Kept) {
        self.0.push(Effect::Keep(change));
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.0.push(Effect::Event(event));
    }
}
