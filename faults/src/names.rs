//! Programs, procedures and statuses by the names of their specifications.

use crate::Service;
use proto::mount::{MountProc, Mountstat3};
use proto::nfs3::{Nfs3Proc, Nfsstat3};
use proto::nlm::{Nlm4Stat, NlmProc};
use proto::nsm::{SmProc, SmRes};
use proto::portmap::PmapProc;
use proto::rpcbind::RpcbProc;
use rpc::msg::{AuthStat, RpcError};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The program of a service, by the name that rules use: nfs, mount, portmap, nlm, nsm.
pub const fn program_name(service: Service) -> &'static str {
    match service {
        Service::Portmap => "portmap",
        Service::Mount => "mount",
        Service::Nfs => "nfs",
        Service::Lockd => "nlm",
        Service::Statd => "nsm",
    }
}

/// What comes before a procedure's own name in its specification.
const PREFIXES: [&str; 6] = [
    "NFSPROC3_",
    "MOUNTPROC3_",
    "PMAPPROC_",
    "RPCBPROC_",
    "NLM_",
    "SM_",
];

/// Every procedure of a program: its number and its name. The port mapper has two names for some numbers.
pub fn procedures(service: Service) -> Vec<(u32, &'static str)> {
    fn of<T: Copy>(
        all: &[T],
        number: impl Fn(T) -> u32,
        name: impl Fn(T) -> Option<&'static str>,
    ) -> Vec<(u32, &'static str)> {
        all.iter().filter_map(|p| Some((number(*p), name(*p)?))).collect()
    }
    match service {
        Service::Nfs => of(Nfs3Proc::ALL, |p| p.0, Nfs3Proc::name),
        Service::Mount => of(MountProc::ALL, |p| p.0, MountProc::name),
        Service::Lockd => of(NlmProc::ALL, |p| p.0, NlmProc::name),
        Service::Statd => of(SmProc::ALL, |p| p.0, SmProc::name),
        Service::Portmap => {
            let mut all = of(PmapProc::ALL, |p| p.0, PmapProc::name);
            all.extend(of(RpcbProc::ALL, |p| p.0, RpcbProc::name));
            all
        }
    }
}

fn short(name: &str) -> &str {
    PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

/// A call by its short name: `nlm.lock`; one without a name by its number.
pub fn call_name(service: Service, procedure: u32) -> String {
    let known = procedures(service)
        .into_iter()
        .find(|(number, _)| *number == procedure);
    match known {
        Some((_, name)) => format!("{}.{}", program_name(service), short(name).to_ascii_lowercase()),
        None => format!("{}.{procedure}", program_name(service)),
    }
}

/// Some procedures of one program, or of all: `nlm.lock|unlock`, `nfs.*`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// The program; none is every one.
    pub service: Option<Service>,
    /// Its procedures; empty is every one.
    pub procedures: BTreeSet<u32>,
}

impl Calls {
    /// Every call.
    pub const ANY: Calls = Calls {
        service: None,
        procedures: BTreeSet::new(),
    };

    /// Whether this procedure is one of them.
    pub fn has(&self, service: Service, procedure: u32) -> bool {
        self.service.is_none_or(|its| its == service)
            && (self.procedures.is_empty() || self.procedures.contains(&procedure))
    }
}

impl FromStr for Calls {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Calls::ANY);
        }
        let (program, names) = text.split_once('.').unwrap_or((text, "*"));
        let service = Service::ALL.into_iter().find(|s| program_name(*s) == program);
        let service = service.ok_or_else(|| {
            format!(
                "no program '{program}': expected nfs, mount, portmap, nlm or nsm, as in nlm.lock or nfs.*"
            )
        })?;
        let mut calls = Calls {
            service: Some(service),
            procedures: BTreeSet::new(),
        };
        if names == "*" {
            return Ok(calls);
        }
        let known = procedures(service);
        for name in names.split('|') {
            let named = |(_, its): &&(u32, &str)| {
                its.eq_ignore_ascii_case(name) || short(its).eq_ignore_ascii_case(name)
            };
            let number = known.iter().find(named).map(|(number, _)| *number);
            let number = number.or_else(|| name.parse().ok()).ok_or_else(|| {
                let all: Vec<String> = known
                    .iter()
                    .map(|(_, its)| short(its).to_ascii_lowercase())
                    .collect();
                format!(
                    "{program} has no procedure '{name}': expected {}, or a number",
                    all.join(", ")
                )
            })?;
            calls.procedures.insert(number);
        }
        Ok(calls)
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(service) = self.service else {
            return f.write_str("*");
        };
        write!(f, "{}.", program_name(service))?;
        if self.procedures.is_empty() {
            return f.write_str("*");
        }
        for (n, procedure) in self.procedures.iter().enumerate() {
            let name = call_name(service, *procedure);
            let name = name.split_once('.').map_or(&*name, |(_, name)| name);
            write!(f, "{}{name}", if n > 0 { "|" } else { "" })?;
        }
        Ok(())
    }
}

/// The names of a program's statuses; none if it has no status.
pub fn statuses(service: Service) -> Vec<&'static str> {
    match service {
        Service::Nfs => Nfsstat3::ALL.iter().filter_map(|s| s.name()).collect(),
        Service::Lockd => Nlm4Stat::ALL.iter().filter_map(|s| s.name()).collect(),
        Service::Mount => Mountstat3::ALL.iter().filter_map(|s| s.name()).collect(),
        Service::Statd => SmRes::ALL.iter().filter_map(|s| s.name()).collect(),
        Service::Portmap => vec![],
    }
}

/// A status of one of the programs; its number may be one that no specification has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The program whose status it is by its name; none for a bare number.
    pub service: Option<Service>,
    /// On the wire.
    pub value: u32,
}

impl FromStr for Status {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(value) = text.parse() {
            return Ok(Status { service: None, value });
        }
        let found = [
            (Service::Nfs, Nfsstat3::from_name(text).map(|s| s.0)),
            (Service::Lockd, Nlm4Stat::from_name(text).map(|s| s.0)),
            (Service::Mount, Mountstat3::from_name(text).map(|s| s.0)),
            (Service::Statd, SmRes::from_name(text).map(|s| s.0)),
        ];
        let found = found
            .into_iter()
            .find_map(|(service, value)| Some((service, value?)));
        let (service, value) = found.ok_or_else(|| {
            format!(
                "no status '{text}': expected a name of RFC 1813 or XNFS, as NFS3ERR_JUKEBOX, NLM4_DENIED_NOLOCKS, \
                 MNT3ERR_ACCES or STAT_FAIL, or a number"
            )
        })?;
        Ok(Status {
            service: Some(service),
            value,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service {
            Some(Service::Nfs) => write!(f, "{}", Nfsstat3(self.value)),
            Some(Service::Lockd) => write!(f, "{}", Nlm4Stat(self.value)),
            Some(Service::Mount) => write!(f, "{}", Mountstat3(self.value)),
            Some(Service::Statd) => write!(f, "{}", SmRes(self.value)),
            Some(Service::Portmap) | None => write!(f, "{}", self.value),
        }
    }
}

/// A refusal by the RPC layer, by its name in RFC 5531: PROG_UNAVAIL, `PROG_MISMATCH 1-3`, AUTH_TOOWEAK, or an
/// `accept_stat` that nobody has, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub RpcError);

impl FromStr for Refused {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, versions) = text
            .split_once(' ')
            .map_or((text, None), |(name, rest)| (name, Some(rest)));
        let range = |default: (u32, u32)| match versions {
            None => Ok(default),
            Some(text) => {
                let range = text
                    .split_once('-')
                    .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
                range.ok_or_else(|| {
                    format!("'{text}' are no versions: expected the lowest and the highest, as 1-3")
                })
            }
        };
        let error = match name {
            "PROG_UNAVAIL" => RpcError::ProgUnavail,
            "PROC_UNAVAIL" => RpcError::ProcUnavail,
            "GARBAGE_ARGS" => RpcError::GarbageArgs,
            "SYSTEM_ERR" => RpcError::SystemErr,
            "PROG_MISMATCH" => {
                let (low, high) = range((1, 1))?;
                return Ok(Refused(RpcError::ProgMismatch { low, high }));
            }
            "RPC_MISMATCH" => {
                let (low, high) = range((3, 3))?;
                return Ok(Refused(RpcError::RpcMismatch { low, high }));
            }
            name => match (AuthStat::from_name(name), name.parse()) {
                (Some(stat), _) => RpcError::Auth(stat),
                (None, Ok(value)) => RpcError::Unknown(value),
                (None, Err(_)) => {
                    return Err(format!(
                        "no RPC error '{name}': expected PROG_UNAVAIL, PROG_MISMATCH (1-3), PROC_UNAVAIL, \
                         GARBAGE_ARGS, SYSTEM_ERR, RPC_MISMATCH (2-2), an auth_stat such as AUTH_TOOWEAK, or a number"
                    ));
                }
            },
        };
        match versions {
            None => Ok(Refused(error)),
            Some(rest) => Err(format!("'{rest}' after {name}: nothing is expected there")),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RpcError::ProgUnavail => f.write_str("PROG_UNAVAIL"),
            RpcError::ProgMismatch { low, high } => write!(f, "PROG_MISMATCH {low}-{high}"),
            RpcError::ProcUnavail => f.write_str("PROC_UNAVAIL"),
            RpcError::GarbageArgs => f.write_str("GARBAGE_ARGS"),
            RpcError::SystemErr => f.write_str("SYSTEM_ERR"),
            RpcError::RpcMismatch { low, high } => write!(f, "RPC_MISMATCH {low}-{high}"),
            RpcError::Auth(stat) => write!(f, "{stat}"),
            RpcError::Unknown(value) => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_written_as_they_are_read() {
        for text in [
            "*",
            "nlm.*",
            "nlm.lock",
            "nlm.lock|unlock",
            "nfs.getattr",
            "portmap.getport",
            "nlm.99",
        ] {
            assert_eq!(text.parse::<Calls>().unwrap().to_string(), text);
        }
        let long: Calls = "nlm.NLM_GRANTED_MSG".parse().unwrap();
        assert_eq!(long.to_string(), "nlm.granted_msg");
        assert!(long.has(Service::Lockd, 10) && !long.has(Service::Lockd, 2) && !long.has(Service::Nfs, 10));
        let getaddr: Calls = "portmap.getaddr".parse().unwrap();
        assert!(getaddr.has(Service::Portmap, 3), "as GETPORT");
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        let error = |text: &str| text.parse::<Calls>().unwrap_err();
        assert!(error("lockd.lock").contains("nlm"));
        assert!(
            error("nlm.grant").contains("granted_msg"),
            "{}",
            error("nlm.grant")
        );
        assert!(
            "NLM_DENIED"
                .parse::<Status>()
                .unwrap_err()
                .contains("NLM4_DENIED_NOLOCKS")
        );
        assert!(
            "PROG_GONE"
                .parse::<Refused>()
                .unwrap_err()
                .contains("PROG_UNAVAIL")
        );
        assert!("PROG_MISMATCH x".parse::<Refused>().unwrap_err().contains("1-3"));
        assert!("SYSTEM_ERR 3".parse::<Refused>().is_err());
    }

    #[test]
    fn statuses_and_refusals_are_written_as_they_are_read() {
        for text in [
            "NFS3ERR_JUKEBOX",
            "NLM4_DENIED_NOLOCKS",
            "MNT3ERR_ACCES",
            "STAT_FAIL",
            "4711",
        ] {
            assert_eq!(text.parse::<Status>().unwrap().to_string(), text);
        }
        for text in [
            "PROG_UNAVAIL",
            "PROG_MISMATCH 1-3",
            "AUTH_TOOWEAK",
            "RPC_MISMATCH 3-3",
            "77",
        ] {
            assert_eq!(text.parse::<Refused>().unwrap().to_string(), text);
        }
    }
}
