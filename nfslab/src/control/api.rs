//! The bodies of the control API, as both of its ends see them.

use anyhow::{Context, Result, bail};
use nlm::range::{Kind, Range};
use nsm::monitor::Tell;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// A service and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// portmap, mount, nfs, lockd or statd.
    pub service: String,
    /// ok, absent, refused, hung, hung after N, slow with a duration, failing, or lying port N.
    pub condition: String,
    /// Where it listens (or would, if it is absent).
    pub port: u16,
}

/// Sets how a service is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetService {
    /// ok, absent, refused, hung, hung after N, slow with a duration, failing, or lying port N.
    pub condition: String,
    /// For how long, by the server's clock: "30s". Then the service is again as it was at the start, unless its condition
    /// has been set anew meanwhile.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
}

/// A client host, as the lock service knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerView {
    /// Its address.
    #[schema(value_type = String)]
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForgetView {
    /// That many.
    pub forgotten: usize,
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LockView {
    /// The file's path in its export, as far as it is known.
    pub path: String,
    /// The file's handle, in hexadecimal.
    pub handle: String,
    /// The client.
    #[schema(value_type = String)]
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
    /// Whether nobody holds it who lives: it was leaked on purpose.
    #[serde(default)]
    pub orphan: bool,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShareView {
    /// The file's path.
    pub path: String,
    /// Its handle, in hexadecimal.
    pub handle: String,
    /// The client.
    #[schema(value_type = String)]
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
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

/// Which locks to give away (the query of `DELETE /v1/locks`) or to forget (the body of `POST /v1/locks/forget`). Each
/// part narrows the choice.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
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

impl BreakLocks {
    /// Whether it says which.
    ///
    /// # Errors
    /// What it would have to say.
    pub fn check(&self) -> Result<()> {
        let some = self.path.is_some() || self.peer.is_some() || self.svid.is_some();
        if some == self.all {
            bail!(
                "which locks are meant? Expected path, peer and svid in any combination, or all=true alone"
            );
        }
        Ok(())
    }
}

/// Enters a lock that nobody holds who lives.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeakLock {
    /// The file's path in its export: /lab/f.
    pub path: String,
    /// First byte.
    #[serde(default)]
    pub start: u64,
    /// Number of bytes; 0 means to the end.
    #[serde(default)]
    pub len: u64,
    /// exclusive, which is the default, or shared.
    #[serde(default = "LeakLock::kind")]
    pub kind: String,
    /// For how long, by the server's clock: "30s". Then it is given back, as by an UNLOCK.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
}

impl LeakLock {
    fn kind() -> String {
        "exclusive".to_owned()
    }

    /// Which bytes, how, and for how long.
    ///
    /// # Errors
    /// If the kind is none, if the bytes are beyond the largest file, or if the time is none.
    pub fn parse(&self) -> Result<(Range, Kind, Option<Duration>)> {
        let lasts = lasts(self.lasts.as_deref())?;
        let kind = match self.kind.as_str() {
            "exclusive" => Kind::Exclusive,
            "shared" => Kind::Shared,
            other => bail!("no kind of lock '{other}': expected exclusive or shared"),
        };
        match Range::from_wire(self.start, self.len) {
            Ok(range) => Ok((range, kind, lasts)),
            Err(_) => bail!(
                "{} bytes from {} end beyond the largest file: expected them below 2^63",
                self.len,
                self.start
            ),
        }
    }
}

/// The lock that was entered.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LeakView {
    /// The file.
    pub path: String,
    /// The name of the client that does not exist.
    pub name: String,
    /// The number of the owner.
    pub svid: i32,
}

/// Has locks that conflict granted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DoubleGrant {
    /// The file's path in its export: /lab/f.
    pub path: String,
    /// How many; 0: none any more.
    #[serde(default = "DoubleGrant::once")]
    pub count: u32,
    /// For how long, by the server's clock: "30s". Those that have not been granted by then are not.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
}

impl DoubleGrant {
    fn once() -> u32 {
        1
    }

    /// For how long.
    ///
    /// # Errors
    /// If it is no time.
    pub fn lasts(&self) -> Result<Option<Duration>> {
        lasts(self.lasts.as_deref())
    }
}

/// Has every file handle go stale.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaleHandles {
    /// For how long, by the server's clock: "30s". Then the handles of the start are good again, as after a reset, unless
    /// they have gone stale anew meanwhile.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
}

impl StaleHandles {
    /// For how long.
    ///
    /// # Errors
    /// If it is no time.
    pub fn lasts(&self) -> Result<Option<Duration>> {
        lasts(self.lasts.as_deref())
    }
}

/// How long a fault lasts, as `for` says.
fn lasts(text: Option<&str>) -> Result<Option<Duration>> {
    let parse = |text: &str| {
        humantime::parse_duration(text)
            .with_context(|| format!("for: '{text}' is not a duration such as \"30s\""))
    };
    text.map(parse).transpose()
}

/// How many locks that conflict will be granted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DoubleGrantView {
    /// The file.
    pub path: String,
    /// That many.
    pub count: u32,
}

/// Reboots the server without the end of its process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebootNode {
    /// How long the grace period is: "50s"; by default as at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
    /// Which clients are told: all of those that were monitored, which is the default, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
    /// Under which name they are told: one that they do not know is ignored by Linux.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_name: Option<String>,
}

/// How the server reboots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reboot {
    /// The grace period, if it is not that of the configuration.
    pub grace: Option<Duration>,
    /// Who is told; all that were monitored, if it is not said.
    pub tell: Option<Tell>,
}

/// The longest name of a host (`SM_MAXSTRLEN`).
const NAME_MAX: usize = 1024;

impl RebootNode {
    /// What it says.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(&self) -> Result<Reboot> {
        let grace = self.grace.as_deref().map(|text| {
            humantime::parse_duration(text)
                .with_context(|| format!("grace: '{text}' is not a duration such as \"50s\""))
        });
        let tell = match (self.notify.as_deref(), self.as_name.as_deref()) {
            (Some("none"), Some(name)) => bail!("notify none and a name, '{name}': whom is it to be told?"),
            (None | Some("all"), Some(name)) if name.is_empty() || name.len() > NAME_MAX => {
                bail!("as_name: expected the name of a host, of 1 to {NAME_MAX} bytes")
            }
            (None | Some("all"), Some(name)) => Some(Tell::As(name.into())),
            (None, None) => None,
            (Some("all"), None) => Some(Tell::All),
            (Some("none"), None) => Some(Tell::Nobody),
            (Some(other), _) => bail!("notify: no choice '{other}': expected all or none"),
        };
        Ok(Reboot {
            grace: grace.transpose()?,
            tell,
        })
    }
}

/// The server, after something has happened to it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// The state number that its status monitor has now, if that is news.
    pub state: Option<i32>,
    /// Milliseconds on its clock.
    pub now_ms: f64,
}

/// How many peers were declared rebooted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RebootedView {
    /// That many.
    pub rebooted: usize,
}

/// How many locks were given away.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BreakView {
    /// That many.
    pub broken: usize,
}

/// An owner that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockerView {
    /// The client.
    #[schema(value_type = String)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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

/// A rule in force, and what became of it.
pub type RuleView = faults::active::RuleView;
/// What one rule would do about a call.
pub type ExplainView = faults::explain::Explained;
/// Something that is expected, and whether it is so.
pub type CheckView = faults::verify::Checked;

/// A call for which the rules are explained.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// As a rule has it before its arrow: `nlm.lock path=/lab/f owner=3`.
    pub call: String,
}

/// A call that waits at a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldView {
    /// Its number at this gate.
    pub id: u64,
    /// It, in words.
    pub call: String,
    /// The rule that holds it.
    pub rule: String,
    /// Where on its way.
    pub at: String,
    /// From where, or to where.
    #[schema(value_type = String)]
    pub peer: IpAddr,
    /// The client by its name.
    pub client: String,
    /// Its number at the client.
    pub xid: u32,
    /// The program's version.
    pub version: u32,
    /// The user.
    pub uid: Option<u32>,
    /// The path that it is about.
    pub path: Option<String>,
    /// The owner's number (`svid`).
    pub owner: Option<i32>,
    /// An exclusive lock?
    pub exclusive: Option<bool>,
    /// One that would wait?
    pub block: Option<bool>,
    /// One that is taken again after a restart?
    pub reclaim: Option<bool>,
    /// The first byte that it is about.
    pub start: Option<u64>,
    /// How many bytes; 0 is to the end.
    pub len: Option<u64>,
    /// Since when, in milliseconds on the server's clock.
    pub since_ms: f64,
}

impl HeldView {
    /// A call in full.
    pub fn new(id: u64, rule: &str, at: faults::Point, since_ms: f64, facts: &faults::Facts) -> HeldView {
        let lock = facts.lock.unwrap_or_default();
        HeldView {
            id,
            call: faults::history::describe(facts),
            rule: rule.to_owned(),
            at: at.to_string(),
            peer: facts.exchange.peer.ip(),
            client: facts.client.clone(),
            xid: facts.exchange.xid,
            version: facts.exchange.version,
            uid: facts.exchange.uid,
            path: facts.path.clone(),
            owner: lock.svid,
            exclusive: lock.exclusive,
            block: lock.block,
            reclaim: lock.reclaim,
            start: facts.bytes.map(|(start, _)| start),
            len: facts.bytes.map(|(_, len)| len),
            since_ms,
        }
    }
}

/// A gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateView {
    /// Its name.
    pub gate: String,
    /// Whether what comes passes.
    pub open: bool,
    /// How many calls have come in all.
    pub arrived: u64,
    /// Those that wait.
    pub held: Vec<HeldView>,
}

/// What is to become of calls at a gate.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SetGate {
    /// `go`, `drop`, or `answer STATUS`; without it, nothing is decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// About this one only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// About the first so many; all of them, unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// From now on what comes passes (true, and what waits goes), or waits (false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
}

/// About how many calls it was decided.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// That many.
    pub released: usize,
}

/// What is expected.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// One a line: `at least 2 of nlm.lock`, `never nlm.cancel`, `CALL before CALL`, `rule NAME 2 times`.
    pub expect: Vec<String>,
    /// How long it may take to become so: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// Only what is said in `expect`: not that every rule was done, no gate holds a call and the replay is complete.
    pub only: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyView {
    /// Whether everything is as expected.
    pub passed: bool,
    /// One by one.
    pub checks: Vec<CheckView>,
}

/// The server's clock.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClockView {
    /// Milliseconds since it started, plus what it was advanced by.
    pub now_ms: f64,
}

/// Advances the clock.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetClock {
    /// By how much: "60s".
    pub advance: String,
}

/// What answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong, where, and what would be right.
    pub error: String,
}
