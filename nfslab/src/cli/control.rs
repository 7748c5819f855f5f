//! Commands on a running server.

use super::output::{json, table};
use super::{Done, Exit, OrExit, Output, runtime};
use crate::control::api::{
    BreakLocks, DoubleGrant, GraphView, LeakLock, LockPage, LockView, RebootNode, ServiceView, WaitView,
};
use crate::control::client::{Control, Endpoint};
use crate::events::seconds;
use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use std::future::Future;

/// Which server.
#[derive(Debug, Args)]
pub(super) struct At {
    /// The server's control API: ADDR:PORT or unix:PATH.
    #[arg(long, global = true, env = "NFSLAB_CONTROL", value_name = "WHERE", default_value = Endpoint::DEFAULT)]
    control: Endpoint,
}

impl At {
    /// Runs `ask` against the server; a refusal is exit code 1.
    pub(super) fn ask<T, F: Future<Output = Result<T>>>(
        &self,
        ask: impl FnOnce(Control) -> F,
    ) -> Result<T, super::Stopped> {
        let control = Control::new(self.control.clone()).or_exit(Exit::Broken)?;
        runtime()?.block_on(ask(control)).or_exit(Exit::Failed)
    }
}

/// `nfslab service`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nfslab service list\n  nfslab service statd absent\n  \
                        nfslab service statd hung --for 30s\n  \
                        nfslab service lockd slow 2s\n  nfslab service lockd lying port 0\n  \
                        nfslab service nfs hung after 3\n  nfslab service portmap refused\n  \
                        nfslab service statd failing\n  nfslab service statd ok\n\n\
                        absent        not running: its port is closed, and the port mapper does not know it\n\
                        refused       died: its port is closed, and the port mapper still names it\n\
                        hung          accepts, never answers (also: blackhole)\n\
                        hung after N  answers N calls, then hangs\n\
                        slow TIME     answers so much later\n\
                        failing       statd only: answers STAT_FAIL at once\n\
                        lying port N  well, but the port mapper names port N for it; 0: nowhere"
)]
pub struct Service {
    /// `list`, or a service: portmap, mount, nfs, lockd, statd.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Its new condition; see below.
    #[arg(value_name = "CONDITION")]
    condition: Vec<String>,
    /// For so long (30s), by the server's clock; then it is again as it was at the start.
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<humantime::Duration>,
    #[command(flatten)]
    at: At,
}

impl Service {
    pub fn main(self, output: Output) -> Done {
        let condition = self.condition.join(" ");
        let services = match (self.service.as_str(), condition.is_empty()) {
            ("list", true) => self.at.ask(|control| async move { control.services().await })?,
            (name, true) => {
                let error = anyhow!("{name} needs a condition: {}", faults::condition::CONDITIONS);
                return Err(error).or_exit(Exit::Usage);
            }
            (name, false) => {
                faults::condition::parse(name, &condition).or_exit(Exit::Usage)?;
                self.at.ask(|control| async move {
                    let lasts = self.lasts.map(|lasts| lasts.to_string());
                    control.set_service(name, &condition, lasts.as_deref()).await
                })?
            }
        };
        print_services(&services, output);
        Ok(Exit::Passed)
    }
}

fn print_services(services: &[ServiceView], output: Output) {
    match output {
        Output::Json => json(&services),
        Output::Text => {
            let rows: Vec<_> = services
                .iter()
                .map(|s| vec![s.service.clone(), s.condition.clone(), s.port.to_string()])
                .collect();
            table(&["SERVICE", "CONDITION", "PORT"], &rows);
        }
    }
}

/// `nfslab peer`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nfslab peer list\n  nfslab peer forget web1\n  nfslab peer forget --all\n  \
                        nfslab peer reboot web1"
)]
pub struct Peer {
    #[command(subcommand)]
    command: PeerCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum PeerCommand {
    /// List them.
    List,
    /// No longer count a peer as monitored: its next lock has it monitored anew.
    Forget {
        /// Its name or address.
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// Every one.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Declare a peer rebooted: what it holds is freed, as after its SM_NOTIFY. It is not told.
    Reboot {
        /// Its name or address.
        #[arg(value_name = "NAME|ADDRESS")]
        name: String,
    },
}

impl Peer {
    pub fn main(self, output: Output) -> Done {
        match self.command {
            PeerCommand::List => {
                let peers = self.at.ask(|control| async move { control.peers().await })?;
                if output == Output::Json {
                    json(&peers);
                    return Ok(Exit::Passed);
                }
                let rows: Vec<_> = peers
                    .iter()
                    .map(|p| {
                        let since = p
                            .since_ms
                            .map_or("-".to_owned(), |ms| format!("{:.1} s", ms / 1000.0));
                        vec![
                            p.address.to_string(),
                            p.name.clone(),
                            p.monitored.clone(),
                            since,
                            p.locks.to_string(),
                            p.waits.to_string(),
                        ]
                    })
                    .collect();
                table(
                    &["ADDRESS", "NAME", "MONITORED BY", "SINCE", "LOCKS", "WAITS"],
                    &rows,
                );
            }
            PeerCommand::Forget { name, .. } => {
                let ask = |control: Control| async move { control.forget(name.as_deref()).await };
                let forgotten = self.at.ask(ask)?;
                match output {
                    Output::Json => json(&forgotten),
                    Output::Text => println!("{} forgotten", forgotten.forgotten),
                }
            }
            PeerCommand::Reboot { name } => {
                let ask = |control: Control| async move { control.reboot_peer(&name).await };
                let rebooted = self.at.ask(ask)?;
                match output {
                    Output::Json => json(&rebooted),
                    Output::Text => println!("{} declared rebooted", rebooted.rebooted),
                }
            }
        }
        Ok(Exit::Passed)
    }
}

/// `nfslab lock`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nfslab lock list\n  nfslab lock list --output json --limit 100\n  \
                        nfslab lock graph\n  nfslab lock break --path /lab/f --peer web1\n  \
                        nfslab lock forget --all\n  nfslab lock leak --path /lab/f\n  \
                        nfslab lock double-grant --path /lab/f"
)]
pub struct Lock {
    #[command(subcommand)]
    command: LockCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum LockCommand {
    /// What is held, and who waits.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        /// Go on behind this one (`next` of the page before).
        #[arg(long)]
        after: Option<nlm::table::Cursor>,
    },
    /// Who waits for whom: the owners that wait for each other first, then the others.
    #[command(after_help = "Examples:\n  nfslab lock graph\n  nfslab lock graph --output json --limit 100")]
    Graph {
        /// At most so many lines.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Give locks away as if their owners had unlocked them: whoever waits for them gets them.
    ///
    /// The clients are not told, since NLM has no word for it: they believe that they hold their locks. Requests
    /// that wait stay.
    #[command(
        after_help = "Examples:\n  nfslab lock break --path /lab/f\n  nfslab lock break --peer web1 --svid 7\n  \
                            nfslab lock break --peer 10.0.0.3 --path /lab/f\n  nfslab lock break --all"
    )]
    Break(Break),
    /// Lose locks, as a table that is broken: who waits for them is not told either.
    ///
    /// Whoever asks gets them: another client at once, one that waits when it asks again (Linux: after up to 30 s).
    #[command(
        after_help = "Examples:\n  nfslab lock forget --path /lab/f\n  nfslab lock forget --peer web1 --svid 7\n  \
                            nfslab lock forget --all"
    )]
    Forget(Break),
    /// Enter a lock that nobody holds and nobody will give back: an orphan, until `lock break` or `reset`.
    #[command(after_help = "Examples:\n  nfslab lock leak --path /lab/f\n  \
                            nfslab lock leak --path /lab/f --start 4096 --len 1 --kind shared\n  \
                            nfslab lock break --peer orphan")]
    Leak {
        /// The file: its path as `lock list` shows it.
        #[arg(long)]
        path: String,
        /// First byte.
        #[arg(long, value_name = "BYTE", default_value_t = 0)]
        start: u64,
        /// Number of bytes; 0 means to the end.
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        len: u64,
        /// exclusive or shared.
        #[arg(long, default_value = "exclusive")]
        kind: String,
    },
    /// Grant the next locks on a file although somebody else holds them, so that two believe they do.
    ///
    /// The table keeps the first holder alone: the second lock is granted and not entered.
    #[command(after_help = "Examples:\n  nfslab lock double-grant --path /lab/f\n  \
                            nfslab lock double-grant --path /lab/f --count 3\n  \
                            nfslab lock double-grant --path /lab/f --count 0")]
    DoubleGrant {
        /// The file: its path as `lock list` shows it.
        #[arg(long)]
        path: String,
        /// How many; 0: none any more.
        #[arg(long, value_name = "N", default_value_t = 1)]
        count: u32,
    },
}

/// Which locks.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Break {
    /// Every lock.
    #[arg(long, conflicts_with_all = ["path", "peer", "svid"])]
    all: bool,
    /// Those on this file: its path as `lock list` shows it, or its handle in hexadecimal.
    #[arg(long)]
    path: Option<String>,
    /// Those of this client: its name or address.
    #[arg(long, value_name = "NAME|ADDRESS")]
    peer: Option<String>,
    /// Those of owners with this number.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    svid: Option<i32>,
}

impl From<Break> for BreakLocks {
    fn from(which: Break) -> BreakLocks {
        let Break {
            all,
            path,
            peer,
            svid,
        } = which;
        BreakLocks {
            all,
            path,
            peer,
            svid,
        }
    }
}

impl Lock {
    pub fn main(self, output: Output) -> Done {
        match self.command {
            LockCommand::List { limit, after } => {
                let ask = |control: Control| async move { control.locks(after.as_ref(), limit).await };
                print_locks(&self.at.ask(ask)?, output);
            }
            LockCommand::Graph { limit } => {
                let ask = |control: Control| async move { control.graph(limit).await };
                print_graph(&self.at.ask(ask)?, output);
            }
            LockCommand::Break(which) => {
                let which = BreakLocks::from(which);
                let ask = |control: Control| async move { control.break_locks(&which).await };
                let broken = self.at.ask(ask)?;
                match output {
                    Output::Json => json(&broken),
                    Output::Text => println!("{} broken", broken.broken),
                }
            }
            LockCommand::Forget(which) => {
                let which = BreakLocks::from(which);
                let ask = |control: Control| async move { control.forget_locks(&which).await };
                let forgotten = self.at.ask(ask)?;
                match output {
                    Output::Json => json(&forgotten),
                    Output::Text => println!("{} forgotten", forgotten.forgotten),
                }
            }
            LockCommand::Leak {
                path,
                start,
                len,
                kind,
            } => {
                let which = LeakLock {
                    path,
                    start,
                    len,
                    kind,
                };
                which.parse().or_exit(Exit::Usage)?;
                let ask = |control: Control| async move { control.leak(&which).await };
                let leaked = self.at.ask(ask)?;
                match output {
                    Output::Json => json(&leaked),
                    Output::Text => println!("{}: locked by {} {}", leaked.path, leaked.name, leaked.svid),
                }
            }
            LockCommand::DoubleGrant { path, count } => {
                let which = DoubleGrant { path, count };
                let ask = |control: Control| async move { control.double_grant(&which).await };
                let due = self.at.ask(ask)?;
                match output {
                    Output::Json => json(&due),
                    Output::Text => println!("{}: {} to be granted twice", due.path, due.count),
                }
            }
        }
        Ok(Exit::Passed)
    }
}

fn print_locks(page: &LockPage, output: Output) {
    if output == Output::Json {
        json(page);
        return;
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for lock in &page.held {
        rows.push([vec!["held".to_owned()], row(lock), vec![String::new()]].concat());
    }
    for waiter in &page.waiting {
        let called = waiter
            .last_callback
            .as_ref()
            .map_or(String::new(), |c| format!("; GRANTED: {c}"));
        let detail = format!("waits for {}{called}", waiter.waits_for.join(", "));
        rows.push([vec!["waits".to_owned()], row(&waiter.lock), vec![detail]].concat());
    }
    for share in &page.shares {
        rows.push(vec![
            "shares".to_owned(),
            share.path.clone(),
            format!("{} ({})", share.name, share.peer),
            share.owner.clone(),
            format!("{} {}", share.access, share.mode),
            "whole file".to_owned(),
            format!("{:.1} s", share.since_ms / 1000.0),
            String::new(),
        ]);
    }
    table(
        &["", "FILE", "CLIENT", "OWNER", "KIND", "RANGE", "SINCE", ""],
        &rows,
    );
    if let Some(next) = &page.next {
        println!("… {} held in all; go on with --after {next}", page.total);
    }
}

fn print_graph(graph: &GraphView, output: Output) {
    if output == Output::Json {
        json(graph);
        return;
    }
    let mut before = None;
    for (n, edge) in graph.edges.iter().enumerate() {
        if n == 0 || edge.cycle != before {
            match edge.cycle {
                Some(cycle) => println!("cycle {}, in which all wait for each other:", cycle + 1),
                None if n > 0 => println!("the others:"),
                None => {}
            }
        }
        before = edge.cycle;
        println!("{}", sentence(edge));
    }
    if graph.edges.is_empty() {
        println!("nobody waits");
    }
    if graph.more {
        println!("… and more: {} requests wait; see --limit", graph.waiting);
    }
    if graph.gave_up {
        println!("… too many to look for cycles among all of them");
    }
}

fn sentence(edge: &WaitView) -> String {
    let (lock, by) = (&edge.lock, &edge.waits_for);
    let range = match nlm::range::Range::from_wire(lock.start, lock.len) {
        Ok(range) => range.to_string(),
        Err(_) => format!("{}+{}", lock.start, lock.len),
    };
    let queued = if by.queued { ", who waits longer" } else { "" };
    format!(
        "{} ({}) owner {} waits for {} ({}) owner {}{queued} on {}, {range} ({})",
        lock.name, lock.peer, lock.svid, by.name, by.peer, by.svid, lock.path, lock.kind
    )
}

fn row(lock: &LockView) -> Vec<String> {
    let range = match (lock.start, lock.len) {
        (0, 0) => "whole file".to_owned(),
        (start, 0) => format!("{start} to the end"),
        (start, len) => format!("{start}+{len}"),
    };
    vec![
        lock.path.clone(),
        match lock.orphan {
            true => format!("{} {} (nobody)", lock.name, lock.svid),
            false => format!("{} ({})", lock.name, lock.peer),
        },
        lock.owner.clone(),
        lock.kind.clone(),
        range,
        format!("{:.1} s", lock.since_ms / 1000.0),
    ]
}

/// `nfslab events`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nfslab events\n  nfslab events --follow --output json")]
pub struct EventsCommand {
    /// Go on until interrupted.
    #[arg(long)]
    follow: bool,
    /// Only those with a higher number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    at: At,
}

impl EventsCommand {
    pub fn main(self, output: Output) -> Done {
        let (after, follow) = (self.after, self.follow);
        self.at.ask(|control| async move {
            if follow {
                return control
                    .follow(after, |event| {
                        print_event(&event, output);
                        true
                    })
                    .await;
            }
            control
                .events(after)
                .await?
                .iter()
                .for_each(|event| print_event(event, output));
            Ok(())
        })?;
        Ok(Exit::Passed)
    }
}

fn print_event(event: &serde_json::Value, output: Output) {
    if output == Output::Json {
        println!("{event}");
        return;
    }
    let at = event
        .get("at_ms")
        .and_then(serde_json::Value::as_f64)
        .unwrap_or_default();
    let sentence = event
        .get("sentence")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    let kind = event
        .get("kind")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    println!("{:>10.3}  {kind:<24}  {sentence}", at / 1000.0);
}

/// `nfslab clock`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nfslab clock show\n  nfslab clock advance 60s")]
pub struct Clock {
    #[command(subcommand)]
    command: ClockCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum ClockCommand {
    /// What it shows.
    Show,
    /// Move it forward: every timer that falls due does.
    Advance {
        /// By how much: 60s.
        by: String,
    },
}

impl Clock {
    pub fn main(self, output: Output) -> Done {
        let view = match self.command {
            ClockCommand::Show => self.at.ask(|control| async move { control.clock().await })?,
            ClockCommand::Advance { by } => {
                humantime::parse_duration(&by).or_exit(Exit::Usage)?;
                self.at.ask(|control| async move { control.advance(&by).await })?
            }
        };
        match output {
            Output::Json => json(&view),
            Output::Text => println!("{}", seconds(view.now_ms)),
        }
        Ok(Exit::Passed)
    }
}

/// `nfslab node`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nfslab node reboot --grace 50s\n  nfslab node reboot --notify none\n  \
                        nfslab node reboot --as other-name\n  nfslab node stale-handles"
)]
pub struct NodeEvents {
    #[command(subcommand)]
    command: NodeCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Reboot it, as far as clients can tell; the process goes on.
    ///
    /// Connections are closed. Locks, share reservations, waiting requests, calls under way and remembered answers are
    /// gone; the write verifier and the state number of statd are new. Conditions of services stay.
    #[command(
        after_help = "Examples:\n  nfslab node reboot                     clients are told, and take their locks again\n  \
                            nfslab node reboot --grace 50s         … for which they have 50 s\n  \
                            nfslab node reboot --notify none       nobody is told: their locks are lost\n  \
                            nfslab node reboot --as other-name     they are told of a host that they do not know"
    )]
    Reboot {
        /// How long only locks that were held before are granted; by default as at the start.
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
        /// Who is told (SM_NOTIFY): all that were monitored, which is the default, or none.
        #[arg(long, value_name = "all|none")]
        notify: Option<String>,
        /// Under which name; Linux ignores the news of a name that it does not know.
        #[arg(long = "as", value_name = "NAME")]
        as_name: Option<String>,
    },
    /// Have every file handle that was given out go stale (ESTALE); files keep their fileid.
    #[command(
        after_help = "Examples:\n  nfslab node stale-handles\n  nfslab reset        the old handles are good again"
    )]
    StaleHandles,
}

impl NodeEvents {
    pub fn main(self, output: Output) -> Done {
        let view = match self.command {
            NodeCommand::Reboot {
                grace,
                notify,
                as_name,
            } => {
                let how = RebootNode {
                    grace,
                    notify,
                    as_name,
                };
                how.parse().or_exit(Exit::Usage)?;
                self.at.ask(|control| async move { control.reboot(&how).await })?
            }
            NodeCommand::StaleHandles => self
                .at
                .ask(|control| async move { control.stale_handles().await })?,
        };
        match (output, view.state) {
            (Output::Json, _) => json(&view),
            (Output::Text, Some(state)) => println!("rebooted; its state number is {state}"),
            (Output::Text, None) => println!("done"),
        }
        Ok(Exit::Passed)
    }
}

/// `nfslab reset`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nfslab reset\n  nfslab reset --control unix:/run/nfslab.sock")]
pub struct Reset {
    #[command(flatten)]
    at: At,
}

impl Reset {
    pub fn main(self, output: Output) -> Done {
        let services = self.at.ask(|control| async move { control.reset().await })?;
        print_services(&services, output);
        Ok(Exit::Passed)
    }
}
