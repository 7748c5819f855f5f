//! Everything that can be said about a server before it starts.

use super::exports::ExportSpec;
use super::listeners::Ports;
use super::repeated::Drc;
use crate::control::client::Endpoint;
use anyhow::{Result, bail};
use faults::rule::Rule;
use faults::{Condition, Conditions, Service};
use rpc::server::Limits;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where the control API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlAt {
    /// There.
    At(Endpoint),
    /// Nowhere.
    None,
}

impl FromStr for ControlAt {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(ControlAt::None),
            text => text
                .parse()
                .map(ControlAt::At)
                .map_err(|error| format!("{error}, nor none")),
        }
    }
}

/// Which status monitor watches the lock service's peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum StatdAt {
    /// The one in this server.
    #[default]
    Builtin,
    /// The rpc.statd of this host.
    System,
}

/// Everything that can be said about a server before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses on which every service listens.
    pub bind: Vec<IpAddr>,
    /// What can be mounted.
    pub exports: Vec<ExportSpec>,
    /// Where the services listen.
    pub ports: Ports,
    /// Where the control API listens.
    pub control: ControlAt,
    /// How the lock service behaves where servers differ.
    pub personality: nlm::personality::Personality,
    /// For every hashed choice.
    pub seed: u64,
    /// The NLM grace period after the start.
    pub grace: Duration,
    /// What every TCP listener puts up with.
    pub limits: Limits,
    /// How the services are at the start.
    pub conditions: Conditions,
    /// Which programs answer a repeated call as before rather than execute it again.
    pub drc: Drc,
    /// The rules at the start.
    pub rules: Vec<Rule>,
    /// Where the decisions are written.
    pub journal: Option<PathBuf>,
    /// A journal from which the decisions are taken.
    pub replay: Option<faults::journal::Journal>,
    /// Where every message is recorded.
    pub pcap: Option<PathBuf>,
    /// Written once every listener accepts.
    pub ready_file: Option<PathBuf>,
    /// Where the key of real directories' file handles is kept; by default in the user's state folder.
    pub handle_key: Option<PathBuf>,
    /// Which status monitor there is.
    pub statd: StatdAt,
    /// Where the status monitor keeps what must outlive the server; without it, nowhere.
    pub state_dir: Option<PathBuf>,
    /// What every export has in it at the start.
    pub populate: Option<PathBuf>,
    /// Whether the server's clock moves only when it is advanced.
    pub virtual_time: bool,
}

impl Config {
    /// The services that are part of this server, and not those of this host.
    pub(super) fn services(&self) -> impl Iterator<Item = Service> {
        Service::ALL.into_iter().filter(|service| match service {
            Service::Portmap => !self.ports.system_portmap(),
            Service::Statd => self.statd == StatdAt::Builtin,
            _ => true,
        })
    }

    /// Whether each service can be as it is to be at the start.
    pub(super) fn check_conditions(&self) -> Result<()> {
        for (service, condition) in self.conditions.iter() {
            condition.check(service)?;
        }
        Ok(())
    }

    /// What the rpc.statd of this host needs to find our lock service.
    pub(super) fn check_statd(&self) -> Result<()> {
        if self.statd == StatdAt::Builtin {
            return Ok(());
        }
        if !self.ports.system_portmap() {
            bail!(
                "--statd system needs --ports …,portmap=system: rpc.statd asks this host's rpcbind where the lock \
                 service is, to tell it of a reboot"
            );
        }
        let reached = |at: &IpAddr| at.is_unspecified() || *at == Ipv4Addr::LOCALHOST;
        if !self.bind.iter().any(reached) {
            bail!(
                "--statd system needs --bind 0.0.0.0 or 127.0.0.1 among the addresses, not only {:?}: rpc.statd tells \
                 the lock service of a reboot on loopback",
                self.bind
            );
        }
        if self.state_dir.is_some() {
            bail!("--state-dir is for --statd builtin: rpc.statd has a folder of its own, /var/lib/nfs");
        }
        if self.conditions.get(Service::Statd) != Condition::Ok {
            bail!("statd is the system's (--statd system), and is as it is");
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            bind: vec![Ipv4Addr::LOCALHOST.into()],
            exports: vec![ExportSpec::mem("/lab")],
            ports: Ports::STANDARD,
            control: ControlAt::None,
            personality: nlm::personality::Personality::default(),
            seed: 1,
            grace: Duration::ZERO,
            limits: Limits::default(),
            conditions: Conditions::default(),
            drc: Drc::default(),
            rules: vec![],
            journal: None,
            replay: None,
            pcap: None,
            ready_file: None,
            handle_key: None,
            statd: StatdAt::default(),
            state_dir: None,
            populate: None,
            virtual_time: false,
        }
    }
}

/// The names of the personalities, for messages.
pub fn personalities() -> String {
    nlm::personality::Personality::names()
        .collect::<Vec<_>>()
        .join(", ")
}
