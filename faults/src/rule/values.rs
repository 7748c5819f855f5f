//! The values of a rule's keys, each with its text: addresses, bytes, transmissions, durations.

use crate::action::{Deed, Point};
use crate::exchange::{Direction, Transport};
use crate::names::Calls;
use crate::pattern::Pattern;
use ipnet::IpNet;
use schemars::JsonSchema;
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
                // A key that must be there and is not comes as no option: what the empty text lacks is said then.
                let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.unwrap_or_default().parse().map_err(serde::de::Error::custom)
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
