//! `nfslab run`.
//!
//! What needs the network (fetching kernels) is done first, outside. Then the process puts itself into a
//! network namespace of its own, in which ports 111 and 2049 are free and nothing of the host can be
//! touched; the namespace, the TAPs and the guests end with it. Several scenarios are several processes.

use super::output::json;
use super::serve::read_journal;
use super::{Done, Exit, OrExit, Output, Stop, Stopped, runtime};
use crate::scenario::file::Scenario;
use crate::scenario::report::{self, Full, Verdict, Wanted};
use crate::scenario::run::{Clients, Kernels, Setting, Store, run};
use crate::scenario::timeline::Timeline;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use vm::kernels::{self, Kernel, Series};
use vm::{Cache, Extras, Progress, Userland};

/// Flags of `nfslab run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nfslab run scenarios/frozen-processes.toml\n  \
                        nfslab run --kernel 6.12 --pcap frozen.pcapng scenarios/frozen-processes.toml\n  \
                        nfslab run --client fuse scenarios/two-clients.toml   (without QEMU, on `nfslab mount`)\n  \
                        nfslab run --store dir scenarios/suites/git.toml   (the same on a real directory, as root)\n  \
                        nfslab run --report junit=report.xml scenarios/*.toml")]
pub struct Run {
    /// Scenario files.
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<PathBuf>,
    /// What the clients are: real kernels in guests, or the FUSE client on this machine's kernel (as root; needs no QEMU).
    #[arg(long, value_enum, default_value_t)]
    client: ClientKind,
    /// Boot this series in every guest, whatever the scenario says.
    #[arg(long, value_name = "SERIES")]
    kernel: Option<Series>,
    /// Give a variable of the scenarios another value. Repeatable.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    variables: Vec<String>,
    /// For every hashed choice.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// What is behind the exports that the scenarios keep in memory.
    #[arg(long, value_enum, default_value_t)]
    store: Store,
    /// Write every decision of the rules to FILE, as JSON lines.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Take the decisions from a journal instead; the run fails at the first call that is not as in it.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Record every RPC as pcapng.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Write a report: tap=FILE, junit=FILE, json=FILE, or symptoms=FILE (Markdown). Repeatable.
    #[arg(long, value_name = "FORM=FILE")]
    report: Vec<Wanted>,
    /// Keep consoles and timelines in this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What mounts the exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum ClientKind {
    /// Real kernels, as the scenario says.
    #[default]
    Kernel,
    /// `nfslab mount`.
    Fuse,
}

/// Shows long work: a moving line on a terminal, one line for each step elsewhere.
pub struct Steps(Option<ProgressBar>);

impl Steps {
    pub fn new() -> Steps {
        let bar = console::user_attended_stderr().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Steps(bar)
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Steps {
    fn step(&self, what: &str) {
        match &self.0 {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{what}"),
        }
    }
}

/// Brings what guests need into the cache.
pub fn prepare(
    cache: &Cache,
    series: impl IntoIterator<Item = Series>,
    extras: &Extras,
) -> Result<(Userland, BTreeMap<String, Kernel>)> {
    let steps = Steps::new();
    let userland = Userland::fetch(cache, extras, &steps)?;
    let mut fetched = BTreeMap::new();
    for series in series {
        fetched.insert(series.to_string(), kernels::fetch(cache, series, &steps)?);
    }
    Ok((userland, fetched))
}

impl Run {
    pub fn main(self, output: Output) -> Done {
        if self.client == ClientKind::Fuse && self.kernel.is_some() {
            return Err(anyhow!(
                "--kernel is for --client kernel: the FUSE client runs on this machine's"
            ))
            .or_exit(Exit::Usage);
        }
        let read = |path: &PathBuf| {
            let mut scenario = Scenario::read(path)?;
            self.variables.iter().try_for_each(|text| scenario.set(text))?;
            Ok(scenario)
        };
        let scenarios: Vec<Scenario> = self
            .scenarios
            .iter()
            .map(read)
            .collect::<Result<_>>()
            .or_exit(Exit::Usage)?;
        if let Some(out) = &self.out {
            let made = std::fs::create_dir_all(out);
            made.with_context(|| format!("cannot make --out {}", out.display()))
                .or_exit(Exit::Usage)?;
        }
        let verdicts = match scenarios.as_slice() {
            [scenario] => vec![self.one(scenario, output)?],
            several => self.several(several, output)?,
        };
        for report in &self.report {
            report.write(&verdicts).or_exit(Exit::Broken)?;
        }
        match output {
            Output::Json => json(&verdicts),
            Output::Text if verdicts.len() > 1 => {
                println!();
                for verdict in &verdicts {
                    println!(
                        "{}  {}",
                        if verdict.passed { "PASSED" } else { "FAILED" },
                        verdict.title
                    );
                }
            }
            Output::Text => {}
        }
        Ok(if verdicts.iter().all(|v| v.passed) {
            Exit::Passed
        } else {
            Exit::Failed
        })
    }

    /// Runs one scenario in this process.
    fn one(&self, scenario: &Scenario, output: Output) -> Result<Verdict, Stopped> {
        let clients = match self.client {
            ClientKind::Kernel => Clients::Kernels(self.kernels(scenario)?),
            ClientKind::Fuse => {
                if let Some(why) = scenario.needs_kernel() {
                    return Err(anyhow!(
                        "\"{}\" needs the kernel's NFS client: {why}",
                        scenario.title
                    ))
                    .or_exit(Exit::Skipped);
                }
                Clients::Fuse
            }
        };
        let namespace = vm::net::enter_namespace().or_exit(Exit::Skipped)?;
        let setting = Setting {
            namespace,
            clients,
            seed: self.seed,
            store: self.store,
            journal: self.journal.clone(),
            replay: self
                .replay
                .as_deref()
                .map(read_journal)
                .transpose()
                .or_exit(Exit::Usage)?,
            pcap: self.pcap.clone(),
            out: self.out.clone(),
        };
        let timeline = Arc::new(Mutex::new(match output {
            Output::Text => Timeline::to_stdout(),
            Output::Json => Timeline::to_stderr(),
        }));
        let runtime = runtime()?;
        let mut stop = runtime.block_on(async { Stop::listen() })?;
        let verdict = runtime.block_on(async {
            tokio::select! {
                verdict = run(scenario, &setting, timeline.clone()) => verdict,
                () = stop.told() => Err(anyhow!("interrupted: no verdict")),
            }
        });
        // Whatever the interrupted run still held (guests, sockets) is dropped with the runtime.
        runtime.shutdown_timeout(Duration::from_secs(5));
        let verdict = verdict.or_exit(Exit::Broken)?;
        if let Some(out) = &self.out {
            let timeline = timeline.lock();
            let full = Full {
                verdict: &verdict,
                timeline: timeline.lines(),
            };
            let text = serde_json::to_vec_pretty(&full).or_exit(Exit::Broken)?;
            std::fs::write(out.join("timeline.json"), text).or_exit(Exit::Broken)?;
        }
        Ok(verdict)
    }

    /// Brings what the guests of a scenario need into the cache.
    fn kernels(&self, scenario: &Scenario) -> Result<Kernels, Stopped> {
        let cache = Cache::open().or_exit(Exit::Broken)?;
        let series = match self.kernel {
            Some(series) => vec![series],
            None => {
                let parse = |c: &crate::scenario::file::Client| c.kernel.parse::<Series>();
                scenario
                    .clients
                    .iter()
                    .map(parse)
                    .collect::<Result<_, _>>()
                    .or_exit(Exit::Usage)?
            }
        };
        let extras = scenario.extras().or_exit(Exit::Skipped)?;
        let (userland, kernels) = prepare(&cache, series, &extras).or_exit(Exit::Skipped)?;
        Ok(Kernels {
            cache,
            userland,
            kernels,
            kernel: self.kernel.map(|series| series.to_string()),
        })
    }

    /// Runs each scenario in a process of its own: a namespace holds one server.
    fn several(&self, scenarios: &[Scenario], output: Output) -> Result<Vec<Verdict>, Stopped> {
        // On this thread: the children end with the thread that starts them.
        let runtime = runtime()?;
        runtime.block_on(async {
            let mut stop = Stop::listen()?;
            let folder = tempfile::tempdir().or_exit(Exit::Broken)?;
            let mut verdicts = Vec::new();
            for (n, (path, scenario)) in self.scenarios.iter().zip(scenarios).enumerate() {
                if let Some(why) = scenario
                    .needs_kernel()
                    .filter(|_| self.client == ClientKind::Fuse)
                {
                    let title = &scenario.title;
                    eprintln!("left out, since it needs the kernel's NFS client: {title} ({why})");
                    continue;
                }
                let report = folder.path().join(format!("{n}.json"));
                verdicts.push(self.child(path, &report, output, &mut stop).await?);
            }
            Ok(verdicts)
        })
    }

    async fn child(
        &self,
        scenario: &Path,
        report: &Path,
        output: Output,
        stop: &mut Stop,
    ) -> Result<Verdict, Stopped> {
        let name = scenario.file_stem().unwrap_or_default();
        let mut command = Command::new(std::env::current_exe().or_exit(Exit::Broken)?);
        command
            .arg("run")
            .arg(scenario)
            .arg(format!("--seed={}", self.seed));
        command.arg("--report").arg(format!("json={}", report.display()));
        if let Some(kernel) = &self.kernel {
            command.arg(format!("--kernel={kernel}"));
        }
        if self.client == ClientKind::Fuse {
            command.args(["--client", "fuse"]);
        }
        if self.store == Store::Dir {
            command.args(["--store", "dir"]);
        }
        command.args(self.variables.iter().map(|text| format!("--set={text}")));
        let files = [
            ("--pcap", &self.pcap),
            ("--journal", &self.journal),
            ("--replay", &self.replay),
        ];
        for (flag, file) in files {
            if let Some(file) = file {
                command.arg(flag).arg(beside(file, &name.to_string_lossy()));
            }
        }
        if let Some(out) = &self.out {
            command.arg("--out").arg(out.join(name));
        }
        if output == Output::Json {
            // Its own verdict is in the report; only ours goes to standard output.
            command
                .args(["--output", "json"])
                .stdout(std::process::Stdio::null());
        }
        let status = until_told(command, stop).await.or_exit(Exit::Broken)?;
        match status.code() {
            Some(0 | 1) => {}
            Some(77) => return Err(anyhow!("{} was skipped", scenario.display())).or_exit(Exit::Skipped),
            _ => return Err(anyhow!("{} ended with {status}", scenario.display())).or_exit(Exit::Broken),
        }
        let mut verdicts = report::read(report).or_exit(Exit::Broken)?;
        Ok(verdicts.remove(0))
    }
}

/// Runs a command to its end. If we are told to stop, it is told as well, and gets the time to clean up.
async fn until_told(mut command: Command, stop: &mut Stop) -> Result<ExitStatus> {
    vm::dies_with_us(&mut command, Signal::SIGTERM);
    let mut child = tokio::process::Command::from(command).spawn()?;
    tokio::select! {
        status = child.wait() => return Ok(status?),
        () = stop.told() => {}
    }
    if let Some(pid) = child.id() {
        // It may have ended by itself meanwhile.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
    }
    child.wait().await?;
    Err(anyhow!("interrupted: no verdict"))
}

/// `frozen.pcapng` becomes `frozen-NAME.pcapng`: one capture for each scenario.
fn beside(file: &Path, name: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let extension = file
        .extension()
        .map_or(String::new(), |e| format!(".{}", e.to_string_lossy()));
    file.with_file_name(format!("{stem}-{name}{extension}"))
}
