//! A server inside a test: [`Lab`].
//!
//! It takes free ports of 127.0.0.1, writes no file, and has a control API only if asked for one. With
//! [`virtual_time`](Builder::virtual_time) the clock stands still until the test [advances](Lab::advance) it: every timer
//! of the protocols that falls into that time runs out in order, at its own time, and a minute passes in milliseconds.
//!
//! What stays real: calls over sockets, those of the server to its clients (GRANTED, SM_NOTIFY) included, which give up
//! after seconds of real time; the time after which an idle connection is closed; the times of files. So let what is to
//! happen *before* the clock moves have happened: [`wait_for`](Lab::wait_for) its event.
//!
//! ```
//! use nfslab::lab::{Condition, Lab, Service};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().virtual_time().grace(Duration::from_secs(90)).start().await?;
//! assert!(lab.address(Service::Nfs).ip().is_loopback());
//! lab.set_service(Service::Statd, Condition::Absent).await?;
//! lab.advance(Duration::from_secs(90)).await;
//! let over = lab.wait_for(|event| event.kind() == "lockd/grace-ended").await?;
//! assert_eq!(over.at_ms, 90_000.0);
//! lab.stop().await;
//! # Ok(())
//! # }
//! ```

use crate::control::api::{HeldView, LockPage, PeerView, RuleView, VerifyView};
use crate::control::client::Endpoint;
use crate::events::Event;
pub use crate::server::Verdict;
use crate::server::{Config, ControlAt, Node, Ports, Server, personalities};
use anyhow::{Context, Result, anyhow, bail};
use faults::journal::Journal;
use faults::rule::{Line, Rule, RuleFile};
use faults::verify::Expectation;
pub use faults::{Condition, Service};
use nlm::personality::Personality;
use rpc::client::{Client, Identity, Options};
use rpc::msg::Transport;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// How long [`Lab::wait_for`] waits unless told otherwise, in real time.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How many events a message quotes.
const QUOTED: usize = 10;

/// What a [`Lab`] is to be like.
#[derive(Debug)]
#[must_use = "it does nothing before start()"]
pub struct Builder {
    config: Config,
    exports: Vec<String>,
    rules: Vec<String>,
    personality: Option<String>,
    deadline: Duration,
}

impl Builder {
    /// An export, written as for `--export`: `/lab=mem`, `/lab=mem,root_squash,max_bytes=1G`. May be repeated; without
    /// any there is `/lab`, in memory.
    pub fn export(mut self, spec: &str) -> Builder {
        self.exports.push(spec.to_owned());
        self
    }

    /// How the lock service behaves where servers differ: `linux-6.1` (the default), `linux-5.0`, …
    pub fn personality(mut self, name: &str) -> Builder {
        self.personality = Some(name.to_owned());
        self
    }

    /// For every hashed choice; 1 unless told otherwise.
    pub fn seed(mut self, seed: u64) -> Builder {
        self.config.seed = seed;
        self
    }

    /// The NLM grace period after the start and after each [`reset`](Lab::reset); none unless told otherwise.
    pub fn grace(mut self, lasts: Duration) -> Builder {
        self.config.grace = lasts;
        self
    }

    /// How a service is at the start, and after each [`reset`](Lab::reset).
    pub fn service(mut self, service: Service, condition: Condition) -> Builder {
        self.config.conditions.set(service, condition);
        self
    }

    /// A rule from the start on, as a line: `nlm.lock nth=2 -> hold g1`. May be repeated; the first that chooses a call
    /// acts on it.
    pub fn rule(mut self, line: &str) -> Builder {
        self.rules.push(line.to_owned());
        self
    }

    /// Time passes only by [`Lab::advance`].
    pub fn virtual_time(mut self) -> Builder {
        self.config.virtual_time = true;
        self
    }

    /// Serves the [control API](crate::control) on a free port: see [`Lab::control`].
    pub fn control(mut self) -> Builder {
        let anywhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        self.config.control = ControlAt::At(Endpoint::Tcp(anywhere));
        self
    }

    /// How long [`Lab::wait_for`] waits, in real time; [`DEADLINE`] unless told otherwise.
    pub fn deadline(mut self, deadline: Duration) -> Builder {
        self.deadline = deadline;
        self
    }

    /// Starts the server. Once this returns, it accepts calls.
    ///
    /// # Errors
    /// If there is no such personality or an export cannot be, with what can; if no port can be had.
    pub async fn start(mut self) -> Result<Lab> {
        if let Some(name) = &self.personality {
            self.config.personality = Personality::by_name(name).with_context(|| {
                format!("no personality is called '{name}': there are {}", personalities())
            })?;
        }
        if !self.exports.is_empty() {
            let specs = self.exports.iter().map(|spec| spec.parse());
            self.config.exports = specs
                .collect::<Result<_, String>>()
                .map_err(|error| anyhow!(error))?;
        }
        self.config.rules = parse_rules(&self.rules)?;
        Ok(Lab {
            server: Server::start(self.config).await?,
            deadline: self.deadline,
        })
    }
}

/// A server that runs inside this process, for as long as this value lives.
///
/// Dropping it closes every socket and ends every task as soon as the runtime gets to it; when [`stop`](Lab::stop)
/// returns, the ports are free.
pub struct Lab {
    server: Server,
    deadline: Duration,
}

impl Lab {
    /// A lab with one export, `/lab` in memory, and everything well.
    pub fn builder() -> Builder {
        Builder {
            config: Config {
                ports: Ports::AUTO,
                ..Config::default()
            },
            exports: Vec::new(),
            rules: Vec::new(),
            personality: None,
            deadline: DEADLINE,
        }
    }

    /// Where a service listens, on TCP and UDP; or would, if it is absent.
    pub fn address(&self, service: Service) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.server.port(service))
    }

    /// Where the [control API](crate::control) listens, if there is one.
    pub fn control(&self) -> Option<SocketAddr> {
        self.server.control()
    }

    /// A TCP connection to a service, as root of the host at `from`. To the server each address of 127.0.0.0/8 is a
    /// client of its own.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn connect(&self, service: Service, from: impl Into<IpAddr>) -> Result<Client> {
        let from = from.into();
        let options = Options {
            from: Some(SocketAddr::new(from, 0)),
            identity: Identity::Sys {
                machine: from.to_string(),
                uid: 0,
                gid: 0,
                groups: vec![],
            },
            first_xid: 1,
            patience: self.deadline,
            tap: None,
        };
        let address = self.address(service);
        let connected = Client::connect(Transport::Tcp, address, options).await;
        connected.with_context(|| format!("connecting to {service} on {address} from {from}"))
    }

    /// The handle of a file, which is made if there is none: `/lab/a` is `a` in the export `/lab`. No call is made for
    /// it, so that it works whatever the condition of the services.
    ///
    /// # Errors
    /// If no export has that path, or a directory on the way is missing.
    pub fn make_file(&self, path: &str) -> Result<Vec<u8>> {
        self.node().make_file(path)
    }

    /// The server's clock: time since the start.
    pub fn now(&self) -> Duration {
        self.node().clock.now()
    }

    /// Has so much time pass. With [`virtual_time`](Builder::virtual_time) each timer of the protocols in it runs out at
    /// its own time; without, all of those run out at once.
    pub async fn advance(&self, by: Duration) {
        self.node().advance(by).await;
    }

    /// Sets how a service is; what follows from it has happened when this returns.
    ///
    /// # Errors
    /// If a service that was absent cannot listen again.
    pub async fn set_service(&self, service: Service, condition: Condition) -> Result<()> {
        self.node().set_condition(service, condition).await
    }

    /// The same for so long, by the server's clock: then it is again as it was at the start.
    ///
    /// # Errors
    /// As [`set_service`](Lab::set_service).
    pub async fn set_service_for(
        &self,
        service: Service,
        condition: Condition,
        lasts: Duration,
    ) -> Result<()> {
        self.node().set_condition_for(service, condition, lasts).await
    }

    /// The lock table: what is held and who waits, ten thousand locks at most.
    pub fn locks(&self) -> LockPage {
        self.node().locks(None, usize::MAX)
    }

    /// The hosts that the lock service knows.
    pub fn peers(&self) -> Vec<PeerView> {
        self.node().peers()
    }

    /// What has happened so far, as far as it is [kept](crate::events::KEPT).
    pub fn events(&self) -> Vec<Arc<Event>> {
        self.node().events.since(0).0
    }

    /// The first event of this kind, of those that have happened or of those to come. For one that happens *again*, ask
    /// for a greater [`n`](Event::n).
    ///
    /// # Errors
    /// If there is none within the [deadline](Builder::deadline), in real time; the message quotes the latest events.
    pub async fn wait_for(&self, is_it: impl Fn(&Event) -> bool) -> Result<Arc<Event>> {
        let (past, mut live) = self.node().events.since(0);
        if let Some(event) = past.into_iter().find(|event| is_it(event)) {
            return Ok(event);
        }
        let coming = async {
            loop {
                match live.recv().await {
                    Ok(event) if is_it(&event) => return Ok(event),
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => bail!("{missed} events came too fast to be looked at"),
                    Err(RecvError::Closed) => bail!("the server has stopped"),
                }
            }
        };
        match tokio::time::timeout(self.deadline, coming).await {
            Ok(found) => found,
            Err(_) => bail!(
                "no such event within {:?}; the latest were {}",
                self.deadline,
                self.latest()
            ),
        }
    }

    fn latest(&self) -> String {
        let events = self.events();
        let quoted = events.iter().skip(events.len().saturating_sub(QUOTED));
        let lines = quoted.map(|event| {
            format!(
                "\n  {:>10.1} ms {}: {}",
                event.at_ms,
                event.kind(),
                event.sentence()
            )
        });
        lines.collect()
    }

    /// Replaces all rules by these, as one: no call meets some of the old and some of the new. None takes them away.
    ///
    /// # Errors
    /// Which line, what is wrong with it and what would be right; nothing is changed then.
    pub fn set_rules(&self, lines: &[&str]) -> Result<()> {
        self.node().set_rules(parse_rules(lines)?);
        Ok(())
    }

    /// The rules in force, and what became of each.
    pub fn rules(&self) -> Vec<RuleView> {
        self.node().rules()
    }

    /// The gate of that name: where `-> hold NAME` holds calls.
    pub fn gate<'a>(&'a self, name: &'a str) -> Gate<'a> {
        Gate { lab: self, name }
    }

    /// Waits until the calls are as expected: `at least 2 of nlm.lock`, `never nlm.cancel`, `rule lost 2 times`.
    ///
    /// # Errors
    /// If they are not within the [deadline](Builder::deadline): what there is instead, and what comes nearest. If a
    /// line is no expectation.
    pub async fn expect(&self, lines: &[&str]) -> Result<()> {
        let lines = lines
            .iter()
            .map(|line| line.parse::<Expectation>().map_err(|error| anyhow!(error)));
        let expectations = lines.collect::<Result<Vec<_>>>()?;
        told(
            &self
                .node()
                .verify_within(&expectations, false, self.deadline)
                .await,
        )
    }

    /// Every decision of the rules so far.
    pub fn journal(&self) -> Journal {
        self.node().journal()
    }

    /// Ends a test: stops the server, and passes if every rule was done that does not say `optional=true`, and no call
    /// was left at a gate.
    ///
    /// # Errors
    /// Which rule was never done, with the call that came nearest; which calls still wait.
    pub async fn finish(self) -> Result<()> {
        let verified = self.node().verify(&[], true);
        self.server.stop().await;
        told(&verified)
    }

    /// Puts everything back: the conditions and rules of the start, no locks, nobody monitored, no call at a gate. Files
    /// and events stay.
    ///
    /// # Errors
    /// If a service that was absent cannot listen again.
    pub async fn reset(&self) -> Result<()> {
        self.node().reset().await
    }

    /// What the services share: everything that there is no method for here.
    pub fn node(&self) -> &Arc<Node> {
        self.server.node()
    }

    /// Stops the server. When this returns, the ports are free; connections have been told to close.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

fn parse_rules(lines: &[impl AsRef<str>]) -> Result<Vec<Rule>> {
    let rules = lines.iter().map(|line| line.as_ref().parse::<Line>());
    let file = RuleFile {
        rules: rules.collect::<Result<_, _>>().map_err(|error| anyhow!(error))?,
        tables: vec![],
    };
    file.into_rules().map_err(|error| anyhow!(error))
}

fn told(verified: &VerifyView) -> Result<()> {
    let failed = verified.checks.iter().filter(|check| !check.passed);
    let lines: Vec<String> = failed
        .map(|check| format!("{}: {}", check.expect, check.found))
        .collect();
    match lines.is_empty() {
        true => Ok(()),
        false => bail!("{}", lines.join("\n")),
    }
}

/// A place where calls wait until the test lets them go.
#[derive(Clone, Copy)]
pub struct Gate<'a> {
    lab: &'a Lab,
    name: &'a str,
}

impl Gate<'_> {
    /// Waits until so many calls are held here at once, and shows them.
    ///
    /// # Errors
    /// If they have not come within the [deadline](Builder::deadline), in real time.
    pub async fn arrived(&self, count: usize) -> Result<Vec<HeldView>> {
        let Gate { lab, name } = self;
        let came = lab.node().wait_at_gate(name, count, lab.deadline).await;
        let held = self.held();
        if !came {
            bail!(
                "{} of {count} calls wait at gate {name} after {:?}{}",
                held.len(),
                lab.deadline,
                lab.latest()
            );
        }
        Ok(held)
    }

    /// The calls that are held here now.
    pub fn held(&self) -> Vec<HeldView> {
        let gates = self.lab.node().gates();
        let gate = gates.into_iter().find(|gate| gate.gate == self.name);
        gate.map(|gate| gate.held).unwrap_or_default()
    }

    /// Decides about everything that is held here. How much there was.
    pub fn release(&self, verdict: Verdict) -> usize {
        self.lab.node().release(self.name, None, None, verdict)
    }

    /// Decides about one call, by its number ([`HeldView::id`]). Whether it was there.
    pub fn release_one(&self, id: u64, verdict: Verdict) -> bool {
        self.lab.node().release(self.name, Some(id), None, verdict) > 0
    }

    /// Lets everything pass, now and from now on.
    pub fn open(&self) {
        self.lab.node().set_gate_open(self.name, true);
    }
}
