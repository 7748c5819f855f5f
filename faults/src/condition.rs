//! The state of a whole service, as an administrator would describe it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The five services, by the name of the daemon that is one on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// rpcbind: where is which program?
    Portmap,
    /// rpc.mountd: the root of an export.
    Mount,
    /// nfsd: files.
    Nfs,
    /// lockd: locks.
    Lockd,
    /// rpc.statd: who has restarted?
    Statd,
}

impl Service {
    /// All of them, in the order in which a client meets them.
    pub const ALL: [Service; 5] = [
        Service::Portmap,
        Service::Mount,
        Service::Nfs,
        Service::Lockd,
        Service::Statd,
    ];

    /// Its name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Portmap => "portmap",
            Service::Mount => "mount",
            Service::Nfs => "nfs",
            Service::Lockd => "lockd",
            Service::Statd => "statd",
        }
    }

    const fn index(self) -> usize {
        match self {
            Service::Portmap => 0,
            Service::Mount => 1,
            Service::Nfs => 2,
            Service::Lockd => 3,
            Service::Statd => 4,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not a service's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no service '{0}': expected portmap, mount, nfs, lockd or statd")]
pub struct UnknownService(pub String);

impl FromStr for Service {
    type Err = UnknownService;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Service::ALL
            .into_iter()
            .find(|s| s.name() == text)
            .ok_or_else(|| UnknownService(text.to_owned()))
    }
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// As it should be.
    #[default]
    Ok,
    /// Its process does not run: nothing listens, and the port mapper does not know it.
    Absent,
    /// Its process is stopped: its port accepts, and never answers.
    Hung,
    /// It answers, this much later.
    Slow(Duration),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Ok => f.write_str("ok"),
            Condition::Absent => f.write_str("absent"),
            Condition::Hung => f.write_str("hung"),
            Condition::Slow(by) => write!(f, "slow {}", humantime::format_duration(*by)),
        }
    }
}

/// Words that are not a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no condition '{0}': expected ok, absent, hung, or slow with a duration such as 'slow 5s' or 'slow 250ms'"
)]
pub struct UnknownCondition(pub String);

impl FromStr for Condition {
    type Err = UnknownCondition;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownCondition(text.to_owned());
        let mut words = text.split_whitespace();
        let condition = match (words.next(), words.next()) {
            (Some("ok"), None) => Condition::Ok,
            (Some("absent"), None) => Condition::Absent,
            (Some("hung"), None) => Condition::Hung,
            (Some("slow"), Some(by)) => {
                Condition::Slow(humantime::parse_duration(by).map_err(|_| unknown())?)
            }
            _ => return Err(unknown()),
        };
        if words.next().is_some() {
            Err(unknown())
        } else {
            Ok(condition)
        }
    }
}

/// The condition of each service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions([Condition; 5]);

impl Conditions {
    /// How `service` is.
    pub fn get(&self, service: Service) -> Condition {
        self.0.get(service.index()).copied().unwrap_or_default()
    }

    /// Sets how `service` is.
    pub fn set(&mut self, service: Service, condition: Condition) {
        if let Some(slot) = self.0.get_mut(service.index()) {
            *slot = condition;
        }
    }

    /// Every service with its condition.
    pub fn iter(&self) -> impl Iterator<Item = (Service, Condition)> + '_ {
        Service::ALL
            .into_iter()
            .map(|service| (service, self.get(service)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_written_as_they_are_read() {
        for text in ["ok", "absent", "hung", "slow 5s", "slow 250ms"] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let error = "slow".parse::<Condition>().unwrap_err().to_string();
        assert!(error.contains("slow 5s"), "{error}");
        let error = "nlm".parse::<Service>().unwrap_err().to_string();
        assert!(error.contains("lockd"), "{error}");
        assert!("slow 5s please".parse::<Condition>().is_err());
    }
}
