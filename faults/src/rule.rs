//! A rule: which calls, when, what is done with them, and until when.
//!
//! Two forms say the same. A line, for the shell and for scenarios:
//!
//! ```text
//! nlm.lock exclusive=true nth=2 -> hold g1
//! lost: callback nlm.granted_msg peer=10.77.0.2 count=1 -> drop
//! ```
//!
//! and TOML, with the same keys in groups:
//!
//! ```toml
//! [[rule]]
//! name = "lost"
//! match = { call = "nlm.granted_msg", direction = "callback", peer = "10.77.0.2" }
//! do = "drop"
//! until = { count = 1 }
//! ```

use crate::action::{Action, Deed, Point};
use crate::exchange::{Direction, Look, Table, Transport};
use crate::names::Calls;
use crate::pattern::Pattern;
use crate::{Service, names};
use ipnet::IpNet;
use proto::nlm::NlmProc;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// Types that are written as text everywhere.
macro_rules! as_text {
    ($($type:ty: $pattern:literal),* $(,)?) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "examples": [$pattern] })
            }
        }
    )*};
}

as_text! {
    Direction: "callback",
    Transport: "tcp",
    Calls: "nlm.lock|unlock",
    Pattern: "/lab/*.lock",
    Deed: "hold g1 at before-reply",
    Point: "received",
}

/// An address, or a network: `10.77.0.2`, `10.77.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeserializeFromStr, SerializeDisplay, JsonSchema)]
#[schemars(with = "String")]
pub struct Peers(IpNet);

impl Peers {
    /// Whether the address is one of them.
    pub fn has(&self, peer: IpAddr) -> bool {
        self.0.contains(&peer.to_canonical())
    }

    /// The only address that is meant, if there is only one.
    pub fn exact(&self) -> Option<IpAddr> {
        (self.0.prefix_len() == self.0.max_prefix_len()).then(|| self.0.addr())
    }
}

impl FromStr for Peers {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Peers)
            .map_err(|_| format!("'{text}' is no address or network: expected 10.77.0.2 or 10.77.0.0/24"))
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exact() {
            Some(address) => write!(f, "{address}"),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Bytes of a file: `7`, `0..100` (100 is the first that is not meant), `4096..`. A call is meant if it concerns one of
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeserializeFromStr, SerializeDisplay, JsonSchema)]
#[schemars(with = "String")]
pub struct Bytes {
    start: u64,
    last: u64,
}

impl Bytes {
    /// As a call has them: the first, and how many; 0 is to the end.
    pub fn to_range(self) -> (u64, u64) {
        match self.last {
            u64::MAX => (self.start, 0),
            last => (self.start, last - self.start + 1),
        }
    }

    /// Whether a range of a call (length 0: to the end) has one of them.
    pub fn touch(&self, (start, len): (u64, u64)) -> bool {
        let last = match len {
            0 => u64::MAX,
            len => start.saturating_add(len - 1),
        };
        start <= self.last && last >= self.start
    }
}

impl FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("'{text}' are no bytes: expected 7, 0..100 or 4096..");
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let (start, last) = match text.split_once("..") {
            None => (number(text)?, number(text)?),
            Some((start, "")) => (number(start)?, u64::MAX),
            Some((start, end)) => (number(start)?, number(end)?.checked_sub(1).ok_or_else(wrong)?),
        };
        (start <= last).then_some(Bytes { start, last }).ok_or_else(wrong)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            last if last == self.start => write!(f, "{last}"),
            u64::MAX => write!(f, "{}..", self.start),
            last => write!(f, "{}..{}", self.start, last + 1),
        }
    }
}

/// Which transmissions of a call: `first`, `again` (every copy), `any`, or numbers such as `1-3`. A copy is a message of
/// the same peer with the same xid, program and procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeserializeFromStr, SerializeDisplay, JsonSchema)]
#[schemars(with = "String")]
pub struct Transmissions {
    from: u32,
    to: u32,
}

impl Transmissions {
    /// The first.
    pub const FIRST: Transmissions = Transmissions { from: 1, to: 1 };

    /// Whether the n-th is one of them, counted from 1.
    pub fn has(&self, n: u32) -> bool {
        (self.from..=self.to).contains(&n)
    }
}

impl Default for Transmissions {
    fn default() -> Self {
        Transmissions::FIRST
    }
}

impl FromStr for Transmissions {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = u32::MAX;
        let (from, to) = match text {
            "first" => (1, 1),
            "again" => (2, all),
            "any" => (1, all),
            text => text
                .split_once('-')
                .or(Some((text, text)))
                .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)))
                .filter(|(from, to)| (1..=*to).contains(from))
                .ok_or_else(|| {
                    format!("'{text}' is no transmission: expected first, again, any, 2 or 1-3")
                })?,
        };
        Ok(Transmissions { from, to })
    }
}

impl fmt::Display for Transmissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (1, 1) => f.write_str("first"),
            (1, u32::MAX) => f.write_str("any"),
            (2, u32::MAX) => f.write_str("again"),
            (from, to) if from == to => write!(f, "{from}"),
            (from, to) => write!(f, "{from}-{to}"),
        }
    }
}

/// A duration as it is written: `30s`, `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeserializeFromStr, SerializeDisplay, JsonSchema)]
#[schemars(with = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = humantime::parse_duration(text);
        span.map(Span)
            .map_err(|error| format!("'{text}' is no duration such as 30s or 250ms: {error}"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

/// Which calls. What is left out does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Program and procedures: `nlm.lock|unlock`, `nfs.*`.
    #[serde(default = "any_call")]
    pub call: Calls,
    /// `call`: of a client's to us; `callback`: of ours to a client.
    #[serde(default)]
    pub direction: Direction,
    /// The version of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// `tcp` or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// The other side's address, or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peers>,
    /// The name that a lock call gives for its client (`caller_name`): a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Pattern>,
    /// The owner's number (`svid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<i32>,
    /// The user (AUTH_SYS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The path of what it is about: a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Pattern>,
    /// The file handle of what it is about, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Bytes of which it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
    /// An exclusive lock, or a shared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
    /// One that would wait, or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<bool>,
    /// One that is taken again after a restart of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<bool>,
    /// Which transmissions; the first, unless said otherwise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub transmission: Transmissions,
}

fn any_call() -> Calls {
    Calls::ANY
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Match {
    fn default() -> Self {
        Match {
            call: Calls::ANY,
            direction: Direction::Call,
            version: None,
            transport: None,
            peer: None,
            caller: None,
            owner: None,
            uid: None,
            path: None,
            handle: None,
            bytes: None,
            exclusive: None,
            block: None,
            reclaim: None,
            transmission: Transmissions::FIRST,
        }
    }
}

/// Why a call is not meant: which key, what is wanted, and what the call has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The key of the rule.
    pub key: &'static str,
    /// What it wants.
    pub wanted: String,
    /// What there is; none: nothing is said of it.
    pub found: Option<String>,
    /// How many of the rule's keys had fitted before.
    pub fitted: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it wants {}={}, ", self.key, self.wanted)?;
        match &self.found {
            Some(found) => write!(f, "and the call has {found}"),
            None => write!(f, "of which the call says nothing"),
        }
    }
}

/// Compares key after key, the cheap ones first.
struct Comparison {
    fitted: usize,
}

impl Comparison {
    fn key<W: fmt::Display, F: fmt::Display>(
        &mut self,
        key: &'static str,
        wanted: Option<&W>,
        found: impl FnOnce() -> Option<F>,
        fits: impl FnOnce(&W, &F) -> bool,
    ) -> Result<(), Mismatch> {
        let Some(wanted) = wanted else { return Ok(()) };
        let found = found();
        if found.as_ref().is_some_and(|found| fits(wanted, found)) {
            self.fitted += 1;
            return Ok(());
        }
        Err(Mismatch {
            key,
            wanted: wanted.to_string(),
            found: found.map(|found| found.to_string()),
            fitted: self.fitted,
        })
    }
}

impl Match {
    /// Whether a call is meant, whichever transmission of it this is.
    ///
    /// # Errors
    /// The first key that does not fit.
    pub fn check(&self, call: &dyn Look) -> Result<(), Mismatch> {
        let ex = call.exchange();
        let c = &mut Comparison { fitted: 0 };
        c.key(
            "direction",
            Some(&self.direction),
            || Some(ex.direction),
            |a, b| a == b,
        )?;
        let name = || Some(names::call_name(ex.service, ex.procedure));
        let fits = self.call.has(ex.service, ex.procedure);
        if fits {
            c.fitted += 1;
        } else {
            c.key("call", Some(&self.call), name, |_, _| false)?;
        }
        c.key(
            "version",
            self.version.as_ref(),
            || Some(ex.version),
            |a, b| a == b,
        )?;
        c.key(
            "transport",
            self.transport.as_ref(),
            || Some(ex.transport),
            |a, b| a == b,
        )?;
        c.key(
            "peer",
            self.peer.as_ref(),
            || Some(ex.peer.ip()),
            |a, b| a.has(*b),
        )?;
        c.key("uid", self.uid.as_ref(), || ex.uid, |a, b| a == b)?;
        let lock = || call.lock();
        c.key("owner", self.owner.as_ref(), || lock()?.svid, |a, b| a == b)?;
        c.key(
            "exclusive",
            self.exclusive.as_ref(),
            || lock()?.exclusive,
            |a, b| a == b,
        )?;
        c.key("block", self.block.as_ref(), || lock()?.block, |a, b| a == b)?;
        c.key(
            "reclaim",
            self.reclaim.as_ref(),
            || lock()?.reclaim,
            |a, b| a == b,
        )?;
        let caller = || Some(String::from_utf8_lossy(lock()?.caller));
        c.key("caller", self.caller.as_ref(), caller, |a, b| a.fits(b))?;
        let bytes = || call.bytes().map(ShownBytes);
        c.key("bytes", self.bytes.as_ref(), bytes, |a, b| a.touch(b.0))?;
        let handle = || call.handle().map(hex);
        c.key("handle", self.handle.as_ref(), handle, |a, b| {
            a.eq_ignore_ascii_case(b)
        })?;
        c.key("path", self.path.as_ref(), || call.path(), |a, b| a.fits(b))
    }

    /// What is said that cannot be.
    fn impossible(&self) -> Option<String> {
        let Match { call, .. } = self;
        let of_locks = [
            ("caller", self.caller.is_some()),
            ("owner", self.owner.is_some()),
            ("exclusive", self.exclusive.is_some()),
            ("block", self.block.is_some()),
            ("reclaim", self.reclaim.is_some()),
        ];
        if let Some((key, _)) = of_locks.iter().find(|(_, said)| *said)
            && call.service != Some(Service::Lockd)
        {
            return Some(format!(
                "{key} is of lock calls: expected one of nlm, as nlm.lock, not {call}"
            ));
        }
        let only = |procedures: &[NlmProc]| {
            let few = !call.procedures.is_empty();
            few && call.procedures.iter().all(|p| procedures.contains(&NlmProc(*p)))
        };
        if self.exclusive.is_some() && only(&[NlmProc::NLM_UNLOCK, NlmProc::NLM_UNLOCK_MSG]) {
            return Some("UNLOCK does not say whether the lock is exclusive".to_owned());
        }
        if self.reclaim.is_some() && only(&[NlmProc::NLM_UNLOCK, NlmProc::NLM_CANCEL, NlmProc::NLM_TEST]) {
            return Some(format!("{call} does not say reclaim: LOCK does"));
        }
        let of_files = self.path.is_some() || self.handle.is_some() || self.bytes.is_some();
        if of_files && matches!(call.service, Some(Service::Portmap | Service::Statd)) {
            return Some(format!(
                "{call} is about no file: path, handle and bytes are of nfs, nlm and mount"
            ));
        }
        if let Some(handle) = &self.handle
            && (handle.is_empty() || handle.len() % 2 > 0 || !handle.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Some(format!(
                "handle '{handle}' is not hexadecimal: expected what `nfslab lock list` shows"
            ));
        }
        if self.direction == Direction::Callback {
            let ours = match call.service {
                Some(Service::Lockd) => call.procedures.iter().all(|p| (10..=14).contains(p)),
                Some(Service::Statd) => call
                    .procedures
                    .iter()
                    .all(|p| *p == proto::nsm::SmProc::SM_NOTIFY.0),
                None => true,
                Some(_) => false,
            };
            if !ours {
                return Some(format!(
                    "we never call {call}: callbacks are nlm.granted_msg, nlm.*_res and nsm.notify"
                ));
            }
        }
        None
    }
}

/// A range of a call in words.
struct ShownBytes((u64, u64));

impl fmt::Display for ShownBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            (start, 0) => write!(f, "{start}.."),
            (start, len) => write!(f, "{start}..{}", start.saturating_add(len)),
        }
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// All that the rule means.
    #[default]
    Rule,
    /// Those of each client apart.
    Client,
    /// Those of each owner of each client apart.
    Owner,
    /// Those about each file apart.
    File,
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Per::Rule => "rule",
            Per::Client => "client",
            Per::Owner => "owner",
            Per::File => "file",
        })
    }
}

/// When, of the calls that are meant. `after` and the lock table come first: what does not satisfy them is not counted.
/// At most one of `nth`, `every` and `first`. `p` comes last.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Only this one, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Every so many: 3 is the third, the sixth …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// The first so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// What is counted together.
    #[serde(skip_serializing_if = "is_default")]
    pub per: Per,
    /// Not before an event with such a name has happened: `lockd/granted`, `rule/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Pattern>,
    /// While at least so many locks are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<usize>,
    /// While at least so many requests wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<usize>,
    /// While the grace period lasts, or does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<bool>,
    /// With this probability, which is hashed from the seed, the rule's name and what the call is: it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
}

impl When {
    /// Whether it depends on the lock table.
    pub fn needs_table(&self) -> bool {
        self.held.is_some() || self.waiting.is_some() || self.grace.is_some()
    }

    /// Whether the lock table is as it must be.
    pub fn table_fits(&self, table: &Table) -> bool {
        self.held.is_none_or(|held| table.held >= held)
            && self.waiting.is_none_or(|waiting| table.waiting >= waiting)
            && self.grace.is_none_or(|grace| table.grace == grace)
    }

    /// Whether the n-th is one of those that are wanted, but for `p`.
    pub fn counts(&self, n: u64) -> bool {
        self.nth.is_none_or(|nth| n == nth)
            && self.every.is_none_or(|every| n.is_multiple_of(every))
            && self.first.is_none_or(|first| n <= first)
    }

    fn impossible(&self) -> Option<String> {
        if [self.nth, self.every, self.first].iter().flatten().count() > 1 {
            return Some("nth, every and first: at most one of them".to_owned());
        }
        let zero = [("nth", self.nth), ("every", self.every), ("first", self.first)]
            .into_iter()
            .find(|(_, n)| *n == Some(0));
        if let Some((key, _)) = zero {
            return Some(format!("{key} = 0 is never: it is counted from 1"));
        }
        match self.p {
            Some(p) if !(0.0..=1.0).contains(&p) => Some(format!("p = {p}: expected from 0 to 1")),
            _ => None,
        }
    }
}

/// Until when. What comes first ends it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Until {
    /// It has been done so often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// So much time has passed since the rule was set, by the server's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// An event with such a name has happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Pattern>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name: of its own, or the whole rule as a line. Random choices and the journal go by it.
    #[serde(default)]
    pub name: String,
    /// Which calls.
    #[serde(rename = "match", default)]
    pub calls: Match,
    /// When, of those.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when: When,
    /// What is done, and where: `hold g1 at before-reply`.
    #[serde(rename = "do")]
    pub deed: Deed,
    /// Until when.
    #[serde(default, skip_serializing_if = "is_default")]
    pub until: Until,
    /// It may never be done, and the run passes all the same.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optional: bool,
}

impl Rule {
    /// Where it is done.
    pub fn at(&self) -> Point {
        let callback = self.calls.direction == Direction::Callback;
        match self.deed.at {
            Some(point) => point,
            None if callback => Point::BeforeCallback,
            None => self
                .deed
                .action
                .points()
                .first()
                .copied()
                .unwrap_or(Point::Received),
        }
    }

    /// Gives it a name if it has none, and checks what is said against each other.
    ///
    /// # Errors
    /// What cannot be, and what would be right.
    pub fn checked(mut self) -> Result<Rule, String> {
        let wrong = self
            .calls
            .impossible()
            .or_else(|| self.when.impossible())
            .or_else(|| self.misplaced())
            .or_else(|| {
                let callback = self.calls.direction == Direction::Callback;
                self.deed.action.impossible(&self.calls.call, callback)
            });
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if self.until.count == Some(0) {
            return Err("count = 0 is never: leave the rule out".to_owned());
        }
        if self.name.is_empty() {
            self.name = self.to_string();
        }
        Ok(self)
    }

    fn misplaced(&self) -> Option<String> {
        let callback = self.calls.direction == Direction::Callback;
        let Deed { action, at } = &self.deed;
        if callback && !action.points().contains(&Point::BeforeCallback) {
            return Some(format!(
                "'{action}' cannot be done to a callback: expected drop, delay, wait, hold, duplicate, set or pass"
            ));
        }
        match at {
            Some(point) if callback != (*point == Point::BeforeCallback) => Some(format!(
                "at {point}, and the rule is about {}s",
                self.calls.direction
            )),
            _ => None,
        }
    }

    /// The keys of a line and the groups in which TOML has them.
    const KEYS: [(&'static str, &'static [&'static str]); 3] = [
        (
            "match",
            &[
                "version",
                "transport",
                "peer",
                "caller",
                "owner",
                "uid",
                "path",
                "handle",
                "bytes",
                "exclusive",
                "block",
                "reclaim",
                "transmission",
            ],
        ),
        (
            "when",
            &[
                "nth", "every", "first", "per", "after", "held", "waiting", "grace", "p",
            ],
        ),
        ("until", &["count", "ttl", "until"]),
    ];
}

/// A value in a line: a number, a truth value, or else text.
fn value(text: &str) -> toml::Value {
    match text {
        "true" => toml::Value::Boolean(true),
        "false" => toml::Value::Boolean(false),
        text => match (text.parse(), text.parse()) {
            (Ok(n), _) => toml::Value::Integer(n),
            (_, Ok(p)) => toml::Value::Float(p),
            _ => toml::Value::String(text.to_owned()),
        },
    }
}

/// Keys whose values are text, whatever they look like.
const TEXTS: [&str; 7] = ["transmission", "bytes", "handle", "caller", "path", "peer", "ttl"];

/// The words of a line before the arrow: the call, and KEY=VALUE.
pub(crate) fn parse_match(words: &[String]) -> Result<(toml::Table, Vec<String>), String> {
    let (direction, words) = match words.split_first() {
        Some((first, rest)) if first == "callback" => ("callback", rest),
        _ => ("call", words),
    };
    let Some((call, pairs)) = words.split_first() else {
        return Err("which calls? Expected a program and a procedure, as nlm.lock".to_owned());
    };
    if call.contains('=') {
        return Err(format!(
            "'{call}' comes before the call: expected nlm.lock, nfs.* or * first"
        ));
    }
    let mut table = toml::Table::new();
    table.insert("call".to_owned(), call.clone().into());
    table.insert("direction".to_owned(), direction.into());
    Ok((table, pairs.to_vec()))
}

impl FromStr for Rule {
    type Err = String;

    /// Reads a line: `[NAME: ][callback ]CALL [KEY=VALUE]… -> ACTION [at POINT]`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (which, deed) = text.split_once("->").ok_or_else(|| {
            format!("'{text}' is no rule: expected CALL [KEY=VALUE]… -> ACTION, as nlm.lock nth=2 -> hold g1")
        })?;
        let (name, which) = match which.split_once(": ") {
            Some((name, which)) => (name.trim(), which),
            None => ("", which),
        };
        let words = shell_words::split(which).map_err(|error| format!("'{which}': {error}"))?;
        let (calls, pairs) = parse_match(&words)?;
        let mut rule = toml::Table::new();
        rule.insert("name".to_owned(), name.into());
        rule.insert("match".to_owned(), calls.into());
        rule.insert("do".to_owned(), deed.trim().into());
        for pair in &pairs {
            insert(&mut rule, pair)?;
        }
        Rule::deserialize(rule)
            .map_err(|error| error.message().to_owned())?
            .checked()
    }
}

/// Puts KEY=VALUE into the group to which it belongs.
pub(crate) fn insert(rule: &mut toml::Table, pair: &str) -> Result<(), String> {
    let known = || {
        let all: Vec<&str> = Rule::KEYS
            .iter()
            .flat_map(|(_, keys)| keys.iter().copied())
            .collect();
        format!("expected {} or optional, each as KEY=VALUE", all.join(", "))
    };
    let (key, text) = pair
        .split_once('=')
        .ok_or_else(|| format!("'{pair}' has no value: {}", known()))?;
    let parsed = match TEXTS.contains(&key) {
        true => toml::Value::String(text.to_owned()),
        false => value(text),
    };
    let group = Rule::KEYS
        .iter()
        .find(|(_, keys)| keys.contains(&key))
        .map(|(group, _)| *group);
    let table = match group {
        None if key == "optional" => rule,
        None => return Err(format!("no key '{key}': {}", known())),
        Some(group) => {
            let table = rule.entry(group).or_insert_with(|| toml::Table::new().into());
            table.as_table_mut().ok_or("not a table")?
        }
    };
    let key = if key == "until" { "event" } else { key };
    match table.insert(key.to_owned(), parsed) {
        None => Ok(()),
        Some(_) => Err(format!("{key} is said twice")),
    }
}

impl fmt::Display for Rule {
    /// The rule as a line, without a name that is that line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Match { call, direction, .. } = &self.calls;
        let mut line = String::new();
        if *direction == Direction::Callback {
            line.push_str("callback ");
        }
        line.push_str(&call.to_string());
        // What serde would write, group after group, in the order of the keys.
        let groups = [
            ("match", toml::Value::try_from(&self.calls)),
            ("when", toml::Value::try_from(&self.when)),
            ("until", toml::Value::try_from(&self.until)),
        ];
        for (group, table) in groups {
            let Ok(toml::Value::Table(table)) = table else {
                continue;
            };
            let keys = Rule::KEYS
                .iter()
                .find(|(name, _)| *name == group)
                .map_or(&[][..], |(_, keys)| *keys);
            for key in keys {
                let stored = if *key == "until" { "event" } else { key };
                let Some(value) = table.get(stored) else { continue };
                let text = match value {
                    toml::Value::String(text) if text.contains([' ', '\'', '"', '\\']) => {
                        shell_words::quote(text).into_owned()
                    }
                    toml::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                line.push_str(&format!(" {key}={text}"));
            }
        }
        if self.optional {
            line.push_str(" optional=true");
        }
        line.push_str(&format!(" -> {}", self.deed));
        match self.name.as_str() {
            "" => f.write_str(&line),
            name if name == line => f.write_str(&line),
            name => write!(f, "{name}: {line}"),
        }
    }
}

/// Rules as a file or a request has them: lines first, then tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleFile {
    /// As lines.
    #[schemars(with = "Vec<String>")]
    pub rules: Vec<Line>,
    /// As tables.
    #[serde(rename = "rule")]
    pub tables: Vec<Rule>,
}

/// A rule as a line.
#[derive(Debug, Clone, PartialEq, DeserializeFromStr, SerializeDisplay)]
pub struct Line(pub Rule);

impl FromStr for Line {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Line)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl RuleFile {
    /// Reads TOML.
    ///
    /// # Errors
    /// The line, the field, what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<RuleFile, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// All rules in their order, checked, each with a name of its own.
    ///
    /// # Errors
    /// Which rule, what is wrong with it and what would be right.
    pub fn into_rules(self) -> Result<Vec<Rule>, String> {
        let lines = self.rules.into_iter().map(|Line(rule)| Ok(rule));
        let tables = self.tables.into_iter().enumerate().map(|(n, rule)| {
            let name = match rule.name.as_str() {
                "" => format!("rule {}", n + 1),
                name => format!("rule {name:?}"),
            };
            rule.checked().map_err(|error| format!("[[{name}]]: {error}"))
        });
        let rules = lines.chain(tables).collect::<Result<Vec<_>, String>>()?;
        let mut names = std::collections::BTreeSet::new();
        match rules.iter().find(|rule| !names.insert(&rule.name)) {
            Some(twice) => Err(format!(
                "two rules are called \"{}\": give each a name of its own, as in first: nlm.lock -> drop",
                twice.name
            )),
            None => Ok(rules),
        }
    }
}

/// Whether an action waits for something.
pub fn waits(action: &Action) -> bool {
    matches!(action, Action::Delay(_) | Action::Wait(_) | Action::Hold(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Rule>().unwrap_err()
    }

    #[test]
    fn rules_are_written_as_they_are_read() {
        for text in [
            "nlm.lock exclusive=true nth=2 -> hold g1",
            "lost: callback nlm.granted_msg peer=10.77.0.2 count=1 -> drop",
            "* -> delay 5s",
            "nfs.write path='/lab/a b*' every=3 per=client ttl=30s -> answer NFS3ERR_JUKEBOX",
            "nlm.lock caller=web? owner=7 bytes=0..100 block=false reclaim=true transmission=1-3 -> drop",
            "nlm.unlock after=rule/lost held=2 p=0.25 until=lockd/* optional=true -> drop at before-reply",
        ] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
            let toml = toml::to_string(&rule).unwrap();
            let again: Rule = toml::from_str(&toml).unwrap();
            assert_eq!(again.checked().unwrap(), rule, "{toml}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_line_is_named() {
        assert!(error("nlm.lock").contains("->"));
        assert!(
            error("nlm.lok -> drop").contains("unlock"),
            "{}",
            error("nlm.lok -> drop")
        );
        assert!(error("nlm.lock color=red -> drop").contains("exclusive"));
        assert!(
            error("nlm.lock nth=two -> drop").contains("invalid type"),
            "{}",
            error("nlm.lock nth=two -> drop")
        );
        assert!(error("nlm.lock nth=2 nth=3 -> drop").contains("twice"));
        assert!(error("nlm.lock nth -> drop").contains("no value"));
        assert!(error("nth=2 nlm.lock -> drop").contains("nlm.lock"));
    }

    #[test]
    fn impossible_combinations_are_refused() {
        assert!(error("nfs.write exclusive=true -> drop").contains("nlm"));
        assert!(error("nlm.unlock exclusive=true -> drop").contains("UNLOCK"));
        assert!(error("nlm.lock nth=1 every=2 -> drop").contains("at most one"));
        assert!(error("nlm.lock p=2 -> drop").contains("from 0 to 1"));
        assert!(error("nlm.lock every=0 -> drop").contains("counted from 1"));
        assert!(error("nlm.lock -> answer NFS3ERR_IO").contains("no status of nlm.lock"));
        assert!(error("* -> answer 7").contains("program"));
        assert!(error("nfs.read -> acknowledge").contains("remove"));
        assert!(error("callback nlm.granted_msg -> twice").contains("callback"));
        assert!(error("callback nlm.lock -> drop").contains("granted_msg"));
        assert!(error("nlm.lock -> drop at before-callback").contains("calls"));
        assert!(error("nlm.lock -> set svid=3").contains("svid"));
        assert!(error("nfs.read -> set cookie=3").contains("cookie"));
        assert!(error("callback nlm.granted_msg -> set state=3").contains("nsm.notify"));
        assert!(error("callback nsm.notify -> set svid=3").contains("nlm.granted_msg"));
        assert!(error("callback nlm.lock_res -> set len=3").contains("nlm.granted_msg"));
        assert!(error("nlm.lock|lock_msg -> answer NLM4_DENIED").contains("nlm.lock_msg has no status"));
        assert!(error("mount.umnt -> answer MNT3ERR_IO").contains("no status"));
        assert!(error("nsm.mon path=/x -> drop").contains("no file"));
        assert!(error("nlm.lock handle=xyz -> drop").contains("hexadecimal"));
    }

    #[test]
    fn a_file_says_where_it_is_wrong() {
        let wrong =
            RuleFile::parse("rules = [\n 'nlm.lock -> drop',\n 'nlm.lock -> dorp',\n]\n").unwrap_err();
        assert!(
            wrong.contains("line 3") && wrong.contains("dorp") && wrong.contains("drop-reply"),
            "{wrong}"
        );
        let wrong =
            RuleFile::parse("[[rule]]\ndo = 'drop'\nmatch = { call = 'nlm.lock', exclusiv = true }\n")
                .unwrap_err();
        assert!(
            wrong.contains("line 3") && wrong.contains("exclusiv") && wrong.contains("reclaim"),
            "{wrong}"
        );
        let file = RuleFile::parse("[[rule]]\nname = 'a'\ndo = 'hold g'\nwhen = { p = 7.0 }\n").unwrap();
        let wrong = file.into_rules().unwrap_err();
        assert!(
            wrong.contains("\"a\"") && wrong.contains("from 0 to 1"),
            "{wrong}"
        );
        let file = RuleFile::parse("rules = ['nlm.lock -> drop', 'nlm.lock -> drop']").unwrap();
        assert!(file.into_rules().unwrap_err().contains("name of its own"));
    }

    #[test]
    fn ranges_touch() {
        let bytes: Bytes = "100..200".parse().unwrap();
        assert!(bytes.touch((0, 0)) && bytes.touch((199, 1)) && bytes.touch((0, 101)));
        assert!(!bytes.touch((0, 100)) && !bytes.touch((200, 0)));
        assert!("9..9".parse::<Bytes>().is_err() && "..".parse::<Bytes>().is_err());
    }
}
