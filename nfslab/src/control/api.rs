//! The bodies of the control API, as both of its ends see them.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A service and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// portmap, mount, nfs, lockd or statd.
    pub service: String,
    /// ok, absent, refused, hung, hung after N, slow with a duration, failing, or lying port N.
    pub condition: String,
    /// Where it listens (or would, if it is absent).
    pub port: u16,
}

/// Sets how a service is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetService {
    /// ok, absent, refused, hung, hung after N, slow with a duration, failing, or lying port N.
    pub condition: String,
}

/// A client host, as the lock service knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its address.
    pub address: IpAddr,
    /// The name it gave.
    pub name: String,
    /// no, statd, or nobody: the lock service believes that it is monitored, and is wrong.
    pub monitored: String,
    /// Since when, in milliseconds on the server's clock.
    pub since_ms: Option<f64>,
    /// Locks that it holds.
    pub locks: usize,
    /// Requests of its that wait.
    pub waits: usize,
    /// Share reservations that it has.
    #[serde(default)]
    pub shares: usize,
}

/// How many peers were forgotten.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForgetView {
    /// That many.
    pub forgotten: usize,
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockView {
    /// The file's path in its export, as far as it is known.
    pub path: String,
    /// The file's handle, in hexadecimal.
    pub handle: String,
    /// The client.
    pub peer: IpAddr,
    /// The name it gave.
    pub name: String,
    /// The owner's number at the client.
    pub svid: i32,
    /// The owner's handle, printable.
    pub owner: String,
    /// exclusive or shared.
    pub kind: String,
    /// First byte.
    pub start: u64,
    /// Number of bytes; 0 means to the end.
    pub len: u64,
    /// Since when, in milliseconds on the server's clock.
    pub since_ms: f64,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaiterView {
    /// What is asked for; `since_ms` is when.
    #[serde(flatten)]
    pub lock: LockView,
    /// Who is in the way.
    pub waits_for: Vec<String>,
    /// What came of the latest GRANTED, if there was one.
    pub last_callback: Option<String>,
}

/// A share reservation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareView {
    /// The file's path.
    pub path: String,
    /// Its handle, in hexadecimal.
    pub handle: String,
    /// The client.
    pub peer: IpAddr,
    /// The name it gave.
    pub name: String,
    /// The owner's handle, printable.
    pub owner: String,
    /// What the owner does: FSA_NONE, FSA_R, FSA_W or FSA_RW.
    pub access: String,
    /// What others may not do: FSM_DN, FSM_DR, FSM_DW or FSM_DRW.
    pub mode: String,
    /// Since when, in milliseconds on the server's clock.
    pub since_ms: f64,
}

/// A page of the lock table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LockPage {
    /// How many are held in all.
    pub total: usize,
    /// Those of this page.
    pub held: Vec<LockView>,
    /// Everyone who waits.
    pub waiting: Vec<WaiterView>,
    /// Share reservations (DOS share modes), as many as a page takes.
    #[serde(default)]
    pub shares: Vec<ShareView>,
    /// What to give as `after` for the next page; absent on the last.
    pub next: Option<String>,
}

/// Which locks to give away: the query of `DELETE /v1/locks`. Each part narrows the choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakLocks {
    /// Every lock; must be said if nothing else is, and only then.
    #[serde(default)]
    pub all: bool,
    /// Those on this file: its path as `lock list` shows it, or its handle in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Those of this client: its name or address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Those of owners with this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svid: Option<i32>,
}

/// How many locks were given away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BreakView {
    /// That many.
    pub broken: usize,
}

/// An owner that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockerView {
    /// The client.
    pub peer: IpAddr,
    /// The name it gave.
    pub name: String,
    /// The owner's number at the client.
    pub svid: i32,
    /// exclusive or shared.
    pub kind: String,
    /// First byte of what it holds.
    pub start: u64,
    /// Number of bytes; 0 means to the end.
    pub len: u64,
    /// Whether it does not hold the lock but waits for it itself, and longer.
    pub queued: bool,
}

/// That one owner waits for another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitView {
    /// What is wanted, and by whom; `since_ms` is when.
    #[serde(flatten)]
    pub lock: LockView,
    /// Who is in the way.
    pub waits_for: BlockerView,
    /// Of which cycle this is a part, counted from 0.
    pub cycle: Option<usize>,
}

/// Who waits for whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphView {
    /// How many requests wait.
    pub waiting: usize,
    /// How many cycles there are: owners that all wait for each other, for ever.
    pub cycles: usize,
    /// Cycle by cycle, then those who merely wait.
    pub edges: Vec<WaitView>,
    /// Whether there are more edges than fit into this answer.
    pub more: bool,
    /// Whether the graph is so large that the search for cycles was given up.
    pub gave_up: bool,
}

/// The server's clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClockView {
    /// Milliseconds since it started, plus what it was advanced by.
    pub now_ms: f64,
}

/// Advances the clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetClock {
    /// By how much: "60s".
    pub advance: String,
}

/// What answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionView {
    /// nfslab.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Default for VersionView {
    fn default() -> Self {
        VersionView {
            name: "nfslab".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// An error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, where, and what would be right.
    pub error: String,
}
