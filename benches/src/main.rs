//! `nfslab-bench`: how fast the server is, beside a responder that does nothing.
//!
//! ```text
//!                       ┌─ nfslab serve      (a process of its own)
//! load (this process) ──┤                       turn and turn about, several rounds
//!                       └─ nfslab-bench floor  (another)
//! ```
//!
//! Absolute rates mean nothing: they are those of the machine, the kernel's loopback and the load generator. So
//! each workload is run against both, one after the other, in many short rounds; the figure is the ratio.
//!
//! - `cpus.rs`: which processor makes the load;
//! - `load.rs`: connections with calls in flight, as fast as the replies come;
//! - `work.rs`: the workloads: what is called, and which answer is right;
//! - `floor.rs`: the responder that does nothing; `target.rs`: both of them as processes;
//! - `report.rs`: the table;
//! - `fuse.rs`: the FUSE client beside its own library.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a measurement needs a clock"
)]

mod cpus;
mod floor;
mod fuse;
mod load;
mod report;
mod target;
mod work;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use cpus::Cpus;
use load::Load;
use report::{Figure, Report, Row};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use target::Target;
use tokio::signal::unix::{SignalKind, signal};
use work::{Setup, WORKLOADS, Work};

/// Measures nfslab over loopback, beside a responder that does nothing.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  nfslab-bench\n  nfslab-bench --only GETATTR --rounds 500\n  \
                        nfslab-bench --output json > figures.json"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    /// Measure only what has this in its name. Repeatable.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// How long each run is measured. Shorter than the machine keeps a speed.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.03)]
    seconds: f64,
    /// How many runs of each against each target.
    #[arg(long, value_name = "N", default_value_t = 300)]
    rounds: usize,
    /// The server's program. [default: nfslab beside this one]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Further arguments for `nfslab serve`, separated by spaces.
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    serve: String,
    /// What is printed: a table, or JSON.
    #[arg(long, value_name = "FORM", default_value = "text")]
    output: report::Output,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// The responder that does nothing, on a free port, with the answers in FILE.
    #[command(hide = true)]
    Floor {
        /// Written by the measuring process.
        answers: PathBuf,
    },
    /// The FUSE mount beside the client's library without FUSE. Needs root and /dev/fuse; 77 if they are missing.
    Fuse(fuse::Cli),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(command) = &cli.command {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        return runtime.block_on(other(command));
    }
    // One thread makes the load: what is left of the machine is the server's.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(unless_told_to_end(measure(&cli)))?;
    report.print(cli.output);
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C and its like end what was begun: servers and mounts go with what holds them.
async fn unless_told_to_end<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let signal = tokio::select! {
        done = work => return done,
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| "SIGINT")?,
        _ = terminated.recv() => "SIGTERM",
        _ = hung_up.recv() => "SIGHUP",
    };
    bail!("ended by {signal} before everything was measured")
}

async fn other(command: &Sub) -> Result<ExitCode> {
    match command {
        Sub::Floor { answers } => floor::serve(answers).await?,
        Sub::Fuse(cli) => {
            if let Some(missing) = fuse::missing() {
                eprintln!("nfslab-bench fuse: {missing}");
                return Ok(ExitCode::from(77));
            }
            unless_told_to_end(fuse::measure(cli)).await?.print(cli.output);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(cli: &Cli) -> Result<Report> {
    let program = match &cli.server {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("nfslab"),
    };
    let wanted = |name: &str| cli.only.is_empty() || cli.only.iter().any(|text| name.contains(text.as_str()));
    let seconds = Duration::from_secs_f64(cli.seconds);
    let mut report = Report::default();
    let mut works = WORKLOADS.iter().filter(|work| wanted(work.name)).peekable();
    while let Some(first) = works.next() {
        let mut group = vec![first];
        while let Some(further) = works.next_if(|work| work.is_compared_with(first)) {
            group.push(further);
        }
        for row in compare(&group, &program, cli, seconds).await? {
            eprintln!("{row}");
            report.rows.push(row);
        }
    }
    if wanted(MEMORY) || wanted(PAGES) {
        for figure in memory(&program, cli).await? {
            eprintln!("{figure}");
            report.figures.push(figure);
        }
    }
    if wanted(CONNECTIONS) {
        let figure = connections(&program, cli).await?;
        eprintln!("{figure}");
        report.figures.push(figure);
    }
    if report.rows.is_empty() && report.figures.is_empty() {
        let names: Vec<_> = WORKLOADS
            .iter()
            .map(|work| work.name)
            .chain([MEMORY, PAGES, CONNECTIONS])
            .collect();
        bail!(
            "--only {:?} names nothing: there are {}",
            cli.only,
            names.join(", ")
        );
    }
    report.compare_with_others();
    Ok(report)
}

/// A workload with its two targets.
struct Measured {
    row: Row,
    load: Load,
    server: (Target, SocketAddr),
    floor: (Target, SocketAddr),
}

impl Measured {
    async fn start(work: &Work, program: &Path, cli: &Cli) -> Result<Measured> {
        let server = Target::server(program, &cli.serve, &(work.rules)()).await?;
        let mut setup = Setup::of(&server).await?;
        let plan = (work.prepare)(&mut setup).await?;
        let load = Load::new(work, plan);
        let at = server.address(work.service)?;
        let floor = Target::floor(&load.answers(at).await?).await?;
        let floor_at = floor.address(work.service)?;
        Ok(Measured {
            row: Row::new(work),
            load,
            server: (server, at),
            floor: (floor, floor_at),
        })
    }

    /// Both targets, one after the other.
    async fn round(&mut self, seconds: Duration, floor_first: bool) -> Result<()> {
        for is_floor in [floor_first, !floor_first] {
            let ((_, at), rates) = if is_floor {
                (&self.floor, &mut self.row.floor)
            } else {
                (&self.server, &mut self.row.server)
            };
            rates.push(self.load.run(*at, seconds).await?);
        }
        Ok(())
    }
}

/// These workloads, turn and turn about: what the machine does beside in one minute and not in the next falls on all
/// of them, so that it is the rates of one round that are compared. Targets that are not called take no time.
async fn compare(group: &[&Work], program: &Path, cli: &Cli, seconds: Duration) -> Result<Vec<Row>> {
    let mut all = Vec::new();
    for work in group {
        let measured = Measured::start(work, program, cli).await;
        all.push(measured.with_context(|| work.name.to_owned())?);
    }
    let cpus = Cpus::of_this_thread()?;
    for round in 0..cli.rounds {
        // The order changes with each round, and the processor with every other: each has each.
        cpus.stay_on(round / 2)?;
        for measured in &mut all {
            let name = measured.row.name;
            // The one that was last is first the next time.
            let done = measured.round(seconds, round % 2 == 0).await;
            done.context(name)?;
        }
        all.rotate_left(1);
    }
    all.rotate_right(cli.rounds % group.len());
    Ok(all.into_iter().map(|measured| measured.row).collect())
}

const MEMORY: &str = "memory for a held lock";
/// Locks that are held for [`MEMORY`].
const HELD: u64 = 1_000_000;

const PAGES: &str = "a million locks listed in pages of 10,000";

async fn memory(program: &Path, cli: &Cli) -> Result<[Figure; 2]> {
    let server = Target::server(program, &cli.serve, &[]).await?;
    let mut setup = Setup::of(&server).await?;
    // What the first locks bring with them is not theirs alone.
    work::hold(&mut setup, 0..1000).await?;
    let before = server.resident()?;
    work::hold(&mut setup, 1000..1000 + HELD).await?;
    let per_lock = server.resident()?.saturating_sub(before) as f64 / HELD as f64;
    let begun = Instant::now();
    let listed = list(&server, program)?;
    ensure!(listed as u64 == 1000 + HELD, "{listed} locks are listed");
    Ok([
        Figure {
            name: MEMORY,
            value: per_lock,
            unit: "bytes",
            at_most: Some(200.0),
        },
        Figure {
            name: PAGES,
            value: begun.elapsed().as_secs_f64(),
            unit: "s",
            at_most: None,
        },
    ])
}

/// Lists the lock table as a person would, page by page; how many locks there are.
fn list(server: &Target, program: &Path) -> Result<usize> {
    let mut listed = 0;
    let mut after: Option<String> = None;
    loop {
        let mut arguments = vec!["lock", "list", "--limit", "10000"];
        if let Some(after) = &after {
            arguments.extend(["--after", after.as_str()]);
        }
        let page = server.command(program, &arguments)?;
        listed += page.get("held").and_then(Value::as_array).map_or(0, Vec::len);
        match page.get("next").and_then(Value::as_str) {
            Some(next) => after = Some(next.to_owned()),
            None => return Ok(listed),
        }
    }
}

const CONNECTIONS: &str = "10,000 connections, one lock each";

async fn connections(program: &Path, cli: &Cli) -> Result<Figure> {
    let server = Target::server(program, &cli.serve, &[]).await?;
    let mut setup = Setup::of(&server).await?;
    let held = work::connect_and_lock(&mut setup, 10_000).await?;
    let resident = server.resident()?;
    drop(held);
    Ok(Figure {
        name: CONNECTIONS,
        value: resident as f64 / 1e6,
        unit: "MB",
        at_most: Some(500.0),
    })
}
