//! The state of a whole service, as an administrator would describe it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
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

    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
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
    /// Its process has died without a word: nothing listens, and the port mapper still names its port.
    Refused,
    /// Its process is stopped: its port accepts, and never answers.
    Hung,
    /// It answers so many calls, counted from when this was set, and is then as [`Hung`](Self::Hung).
    HungAfter(u32),
    /// It answers, this much later.
    Slow(Duration),
    /// It answers at once that it cannot do what it is for. statd only: SM_MON and SM_STAT are answered STAT_FAIL.
    Failing,
    /// It is well, but the port mapper names this port for it; 0 means "nowhere". Not for the port mapper itself.
    LyingPort(u16),
}

impl Condition {
    /// Whether a service in this condition has sockets.
    pub const fn listens(self) -> bool {
        !matches!(self, Condition::Absent | Condition::Refused)
    }

    /// The port that the port mapper names for a service that listens on `port`; `None`: it does not know the service.
    pub const fn registered(self, port: u16) -> Option<u16> {
        match self {
            Condition::Absent => None,
            Condition::LyingPort(lie) => Some(lie),
            _ => Some(port),
        }
    }

    /// Whether `service` can be so.
    ///
    /// # Errors
    /// Which services can.
    pub const fn check(self, service: Service) -> Result<(), NotForService> {
        match (self, service) {
            (Condition::Failing, Service::Statd) => Ok(()),
            (Condition::Failing, _) => Err(NotForService::Failing(service)),
            (Condition::LyingPort(_), Service::Portmap) => Err(NotForService::LyingPort),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Ok => f.write_str("ok"),
            Condition::Absent => f.write_str("absent"),
            Condition::Refused => f.write_str("refused"),
            Condition::Hung => f.write_str("hung"),
            Condition::HungAfter(calls) => write!(f, "hung after {calls}"),
            Condition::Slow(by) => write!(f, "slow {}", humantime::format_duration(*by)),
            Condition::Failing => f.write_str("failing"),
            Condition::LyingPort(port) => write!(f, "lying port {port}"),
        }
    }
}

/// A condition that a service cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotForService {
    /// Only statd has an answer that says "I cannot".
    #[error("{0} cannot be failing: only statd can, whose answer is then STAT_FAIL; expected {CONDITIONS}")]
    Failing(Service),
    /// The port mapper is on port 111 by definition.
    #[error(
        "portmap cannot have a lying port: nobody asks it where it is itself; expected it of another service"
    )]
    LyingPort,
}

/// Every condition, for texts.
pub const CONDITIONS: &str = "ok, absent, refused, hung (or blackhole), 'hung after N' calls, 'slow' with a duration, \
                              failing (statd), or 'lying port N'";

/// Words that are not a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no condition '{0}': expected {CONDITIONS}; for example 'slow 5s', 'slow 250ms', 'hung after 3', 'lying port 0'"
)]
pub struct UnknownCondition(pub String);

impl FromStr for Condition {
    type Err = UnknownCondition;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownCondition(text.to_owned());
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match words.as_slice() {
            ["ok"] => Condition::Ok,
            ["absent"] => Condition::Absent,
            ["refused"] => Condition::Refused,
            ["hung" | "blackhole"] => Condition::Hung,
            ["hung", "after", calls] => Condition::HungAfter(calls.parse().map_err(|_| unknown())?),
            ["slow", by] => Condition::Slow(humantime::parse_duration(by).map_err(|_| unknown())?),
            ["failing"] => Condition::Failing,
            ["lying", "port", port] => Condition::LyingPort(port.parse().map_err(|_| unknown())?),
            _ => return Err(unknown()),
        })
    }
}

/// Why a service's condition cannot be set as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSet {
    /// There is no such service.
    #[error(transparent)]
    Service(#[from] UnknownService),
    /// There is no such condition.
    #[error(transparent)]
    Condition(#[from] UnknownCondition),
    /// It is not one that this service can have.
    #[error(transparent)]
    NotForService(#[from] NotForService),
}

/// A service and the condition that it is to have, as a command line, a scenario or the control API writes them.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn parse(service: &str, condition: &str) -> Result<(Service, Condition), NotSet> {
    let (service, condition) = (service.parse::<Service>()?, condition.parse::<Condition>()?);
    condition.check(service)?;
    Ok((service, condition))
}

/// How many calls each service has answered since its condition was set, up to where
/// [`HungAfter`](Condition::HungAfter) hangs.
#[derive(Debug, Default)]
pub struct Answered([AtomicU32; 5]);

impl Answered {
    /// Counts one more call of `service`, if it has answered fewer than `limit`; whether it had.
    pub fn one_more(&self, service: Service, limit: u32) -> bool {
        let below = |count: u32| (count < limit).then(|| count + 1);
        let counted = |count: &AtomicU32| count.fetch_update(Relaxed, Relaxed, below).is_ok();
        self.0.get(service.index()).is_some_and(counted)
    }

    /// How many it has answered.
    pub fn get(&self, service: Service) -> u32 {
        self.0.get(service.index()).map_or(0, |count| count.load(Relaxed))
    }

    /// Begins to count anew.
    pub fn restart(&self, service: Service) {
        if let Some(count) = self.0.get(service.index()) {
            count.store(0, Relaxed);
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
        for text in [
            "ok",
            "absent",
            "refused",
            "hung",
            "hung after 3",
            "slow 5s",
            "slow 250ms",
            "failing",
            "lying port 0",
            "lying port 65535",
        ] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
        }
        assert_eq!("blackhole".parse(), Ok(Condition::Hung));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let error = "slow".parse::<Condition>().unwrap_err().to_string();
        assert!(error.contains("slow 5s"), "{error}");
        let error = "nlm".parse::<Service>().unwrap_err().to_string();
        assert!(error.contains("lockd"), "{error}");
        for text in [
            "",
            "slow 5s please",
            "hung after",
            "hung after -1",
            "hung 3",
            "lying",
            "lying port 65536",
        ] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_service_has_only_conditions_that_make_sense_for_it() {
        let error = |service, condition| parse(service, condition).unwrap_err().to_string();
        assert!(error("lockd", "failing").contains("only statd"));
        assert!(error("portmap", "lying port 0").contains("portmap cannot"));
        assert!(error("rpcbind", "ok").contains("portmap"));
        assert_eq!(
            parse("statd", "failing"),
            Ok((Service::Statd, Condition::Failing))
        );
        for service in Service::ALL {
            for condition in ["ok", "absent", "refused", "blackhole", "hung after 0", "slow 1s"] {
                parse(service.name(), condition).unwrap();
            }
        }
    }

    #[test]
    fn the_port_mapper_names_what_the_condition_says() {
        assert_eq!(Condition::Ok.registered(5), Some(5));
        assert_eq!(Condition::Refused.registered(5), Some(5));
        assert_eq!(Condition::Absent.registered(5), None);
        assert_eq!(Condition::LyingPort(0).registered(5), Some(0));
        assert!(Condition::LyingPort(0).listens() && !Condition::Refused.listens());
    }
}
