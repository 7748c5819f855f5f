//! Runs a scenario: the server in this process, the clients under QEMU, one step after the other.
//!
//! Faults are set and cured through the control API, the way anybody else would. Everything that is waited
//! for is an event of the server or of a guest; only the state of a process has to be looked at again and
//! again, because no kernel announces it.

use super::digest::{Digest, TOGETHER};
use super::file::{Client as ClientSpec, Exec, Locks, Processes, Scenario, Start, Step, Verb};
use super::report::{StepResult, Verdict};
use super::timeline::{Side, Timeline, Tone};
use crate::clock::Clock;
use crate::control::client::{Control, Endpoint};
use crate::events::{Event, What, seconds};
use crate::server::{Config, ControlAt, Ports, Server};
use anyhow::{Context, Result, anyhow, bail};
use parking_lot::Mutex;
use regex::Regex;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use vm::net::{Namespace, SERVER};
use vm::{EventKind, Events, Guest, GuestConfig, Mount, Process, Status};

/// How often the state of processes is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the timeline is printed.
const PRINT_EVERY: Duration = Duration::from_millis(100);
/// How long a guest may take to boot and mount.
const BOOT: Duration = Duration::from_secs(60);
/// Where the control API listens inside the namespace.
const CONTROL: &str = "127.0.0.1:9049";

/// What a run needs beside the scenario.
pub struct Setting {
    /// The namespace in which this process is.
    pub namespace: Namespace,
    /// Where kernels and images are.
    pub cache: vm::Cache,
    /// The programs of the guests.
    pub userland: vm::userland::Userland,
    /// The kernel of each series that is used, fetched already.
    pub kernels: BTreeMap<String, vm::kernels::Kernel>,
    /// A series for every client instead of the scenario's.
    pub kernel: Option<String>,
    /// For every hashed choice.
    pub seed: u64,
    /// Where the capture goes.
    pub pcap: Option<PathBuf>,
    /// Where consoles go.
    pub out: Option<PathBuf>,
}

type Shared = Arc<Mutex<Timeline>>;

/// Runs one scenario to its verdict.
///
/// # Errors
/// If the harness fails: the server or a guest cannot be started. A step that fails is a verdict.
pub async fn run(scenario: &Scenario, setting: &Setting, timeline: Shared) -> Result<Verdict> {
    let started = Instant::now();
    tell_story(scenario, &timeline);
    let server = Server::start(config(scenario, setting)?).await?;
    let tellers = &mut JoinSet::new();
    tellers.spawn(tell_server(server.node().events.since(0), timeline.clone()));
    tellers.spawn(print(server.node().clock.clone(), timeline.clone()));
    let control = Control::new(CONTROL.parse::<Endpoint>().map_err(anyhow::Error::msg)?)?;
    let guests = boot(scenario, setting, &timeline, &server.node().clock, tellers).await?;
    let mut stage = Stage {
        scenario,
        server: &server,
        control,
        timeline: timeline.clone(),
        guests: &guests,
    };
    let steps = stage.play().await;
    let kernels = guests.values().map(|guest| guest.kernel.clone()).collect();
    let mounted_ms = guests
        .values()
        .filter_map(|g| g.guest.booted().mounted)
        .map(ms)
        .collect();
    for guest in guests.into_values() {
        guest
            .guest
            .shutdown()
            .await
            .context("a guest did not power off")?;
    }
    server.stop().await;
    tellers.shutdown().await;
    let passed = steps.iter().all(|step| step.passed == Some(true));
    let took_ms = ms(started.elapsed());
    let verdict = Verdict {
        title: scenario.title.clone(),
        passed,
        kernels,
        steps,
        took_ms,
        mounted_ms,
    };
    tell_verdict(scenario, &verdict, &timeline);
    Ok(verdict)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn config(scenario: &Scenario, setting: &Setting) -> Result<Config> {
    let personality = &scenario.server.personality;
    let mut config = Config {
        bind: SERVER.into(),
        ports: Ports::STANDARD,
        control: ControlAt::At(CONTROL.parse::<Endpoint>().map_err(anyhow::Error::msg)?),
        grace: Duration::from_secs(scenario.server.grace),
        seed: setting.seed,
        pcap: setting.pcap.clone(),
        ..Config::default()
    };
    config.personality = nlm::personality::Personality::by_name(personality).ok_or_else(|| {
        anyhow!(
            "no personality '{personality}': there are {}",
            crate::server::personalities()
        )
    })?;
    config.exports = scenario
        .server
        .exports
        .iter()
        .map(|text| text.parse().map_err(anyhow::Error::msg))
        .collect::<Result<_>>()?;
    for (service, condition) in &scenario.server.services {
        config.conditions.set(service.parse()?, condition.parse()?);
    }
    Ok(config)
}

/// A guest, and what it has said.
struct Booted {
    guest: Guest,
    /// Its kernel, as it calls itself.
    kernel: String,
}

async fn boot(
    scenario: &Scenario,
    setting: &Setting,
    timeline: &Shared,
    clock: &Arc<Clock>,
    tellers: &mut JoinSet<()>,
) -> Result<BTreeMap<String, Booted>> {
    let mut booting = JoinSet::new();
    for (spec, index) in scenario.clients.iter().zip(1u8..) {
        let config = guest_config(spec, index, setting)?;
        let (cache, name) = (setting.cache.clone(), spec.name.clone());
        booting.spawn(async move { (name, Guest::boot(config, &cache).await) });
    }
    let mut guests = BTreeMap::new();
    while let Some(booted) = booting.join_next().await {
        let (name, guest) = booted?;
        let guest = guest?;
        let uname = guest.exec("uname -r", Duration::from_secs(10)).await?;
        let kernel = uname.stdout.trim().to_owned();
        let mounted = guest.booted().mounted.unwrap_or(guest.booted().ready);
        let at = clock.at(guest.power_on() + mounted);
        let mounts = scenario
            .clients
            .iter()
            .find(|c| c.name == name)
            .map_or(&[][..], |c| &c.mounts);
        let places: Vec<_> = mounts
            .iter()
            .map(|m| format!("{} on {}", m.export, m.at))
            .collect();
        let text = format!(
            "{name}: Linux {kernel} has booted and mounted {}, {} after power-on",
            places.join(", "),
            seconds(ms(mounted))
        );
        timeline.lock().add(at, Side::Client, Tone::Plain, text);
        tellers.spawn(tell_client(
            name.clone(),
            guest.events(),
            timeline.clone(),
            clock.clone(),
        ));
        guests.insert(name, Booted { guest, kernel });
    }
    Ok(guests)
}

fn guest_config(spec: &ClientSpec, index: u8, setting: &Setting) -> Result<GuestConfig> {
    let series = setting.kernel.as_ref().unwrap_or(&spec.kernel);
    let kernel = setting.kernels.get(series).cloned();
    let kernel = kernel.ok_or_else(|| anyhow!("kernel {series} is not fetched"))?;
    let mut config = GuestConfig::new(&spec.name, index, kernel, setting.userland.clone());
    config.network = Some(setting.namespace);
    config.memory_mib = spec.memory_mib;
    config.nlm_timeout = spec.nlm_timeout;
    config.boot_deadline = BOOT;
    config.console_log = setting
        .out
        .as_ref()
        .map(|out| out.join(format!("{}.console.log", spec.name)));
    config.mounts = spec
        .mounts
        .iter()
        .map(|mount| Mount {
            options: mount.options.clone(),
            ..Mount::v3(format!("{SERVER}:{}", mount.export), &mount.at)
        })
        .collect();
    Ok(config)
}

/// Everything that the steps act on.
struct Stage<'a> {
    scenario: &'a Scenario,
    server: &'a Server,
    control: Control,
    timeline: Shared,
    guests: &'a BTreeMap<String, Booted>,
}

impl Stage<'_> {
    async fn play(&mut self) -> Vec<StepResult> {
        let mut results = Vec::new();
        let mut failed = false;
        for step in &self.scenario.steps {
            let mut result = StepResult {
                say: step.say.clone(),
                passed: None,
                detail: String::new(),
                took_ms: 0.0,
            };
            if !failed {
                self.say(Side::Story, Tone::Heading, &step.say);
                let started = Instant::now();
                let outcome = self.step(step).await;
                result.took_ms = ms(started.elapsed());
                failed = outcome.is_err();
                result.passed = Some(!failed);
                result.detail = outcome.unwrap_or_else(|error| format!("{error:#}"));
                let (mark, tone) = if failed {
                    ("✗", Tone::Bad)
                } else {
                    ("✓", Tone::Good)
                };
                if !result.detail.is_empty() {
                    self.say(Side::Story, tone, &format!("{mark} {}", result.detail));
                }
            }
            results.push(result);
        }
        results
    }

    fn say(&self, side: Side, tone: Tone, text: &str) {
        self.timeline
            .lock()
            .add(self.server.node().clock.now(), side, tone, text);
    }

    fn guest(&self, name: &str) -> Result<&Guest> {
        self.guests
            .get(name)
            .map(|booted| &booted.guest)
            .ok_or_else(|| anyhow!("no client '{name}'"))
    }

    /// Does one step; what was seen, in words.
    async fn step(&self, step: &Step) -> Result<String> {
        let within = step.within();
        match step.verb()? {
            Verb::Start(start) => self.start(&start).await,
            Verb::Run(exec) => self.exec(&exec, within).await,
            Verb::Service(services) => {
                for (service, condition) in &services {
                    self.control.set_service(service, condition).await?;
                }
                Ok(String::new())
            }
            Verb::Forget(peer) => {
                let name = Some(peer.as_str()).filter(|name| *name != "all");
                let forgotten = self.control.forget(name).await?.forgotten;
                Ok(format!("{forgotten} forgotten"))
            }
            Verb::Advance(by) => self.control.advance(&by).await.map(|_| String::new()),
            Verb::Processes(wanted) => self.processes(&wanted, within).await,
            Verb::KernelSays(wanted) => {
                let mut events = self.guest(&wanted.on)?.events();
                let found = find(&mut events, within, |kind| match kind {
                    EventKind::Kernel { line, .. } if wanted.line.is_match(line) => Some(line.clone()),
                    _ => None,
                });
                let line = found.await.ok_or_else(|| {
                    anyhow!(
                        "{}'s kernel has not printed /{}/ within {within:?}",
                        wanted.on,
                        wanted.line
                    )
                })?;
                Ok(format!("{}'s kernel log: \"{line}\"", wanted.on))
            }
            Verb::KernelSilent(wanted) => {
                let mut events = self.guest(&wanted.on)?.events();
                while let Some(event) = events.try_recv() {
                    if let EventKind::Kernel { line, .. } = event.kind
                        && wanted.line.is_match(&line)
                    {
                        bail!("{}'s kernel has printed \"{line}\"", wanted.on);
                    }
                }
                Ok(format!(
                    "{}'s kernel has printed nothing that matches /{}/",
                    wanted.on, wanted.line
                ))
            }
            Verb::Prints(wanted) => {
                let mut matched = BTreeMap::new();
                let mut events = self.guest(&wanted.on)?.events();
                let all = find(&mut events, within, |kind| {
                    if let EventKind::Output { label, line, .. } = kind
                        && wanted.labels.is_match(label)
                        && wanted.line.is_match(line)
                    {
                        matched.insert(label.clone(), line.clone());
                    }
                    (matched.len() >= wanted.count).then_some(())
                });
                let complete = all.await.is_some();
                let seen = matched
                    .iter()
                    .map(|(label, line)| format!("{label}: {line}"))
                    .collect::<Vec<_>>();
                if complete {
                    Ok(seen.join("; "))
                } else {
                    bail!(
                        "only {} of {} have printed /{}/: {}",
                        seen.len(),
                        wanted.count,
                        wanted.line,
                        seen.join("; ")
                    )
                }
            }
            Verb::Exited(wanted) => {
                let exited = self
                    .exited(&wanted.on, &wanted.labels, wanted.count, within)
                    .await?;
                match exited
                    .iter()
                    .find(|(_, status)| **status != Status::Exited(wanted.status))
                {
                    Some((label, status)) => bail!("{label} ended with {status}, expected {}", wanted.status),
                    None => Ok(format!(
                        "{} ended with exit status {}",
                        count(exited.len(), "process"),
                        wanted.status
                    )),
                }
            }
            Verb::Event(wanted) => {
                let kind = wanted.kind.clone();
                let count = self
                    .count_events(within, wanted.count, move |event| event.kind() == kind)
                    .await?;
                Ok(format!(
                    "seen {}",
                    if count == 1 {
                        "once".to_owned()
                    } else {
                        format!("{count} times")
                    }
                ))
            }
            Verb::Replies(wanted) => self.replies(&wanted),
            Verb::Locks(wanted) => self.locks(&wanted, within).await,
        }
    }

    async fn start(&self, start: &Start) -> Result<String> {
        let guest = self.guest(&start.on)?;
        for n in 1..=start.count {
            let label = format!("{}-{n}", start.label);
            guest.spawn(&label, &format!("N={n}\n{}", start.script)).await?;
        }
        let processes = count(start.count as usize, "process");
        self.say(
            Side::Client,
            Tone::Plain,
            &format!("{}: {processes} started ({})", start.on, start.label),
        );
        Ok(String::new())
    }

    async fn exec(&self, exec: &Exec, within: Duration) -> Result<String> {
        let started = Instant::now();
        let output = self.guest(&exec.on)?.exec(&exec.script, within).await?;
        let text = [output.stdout.trim(), output.stderr.trim()]
            .join("\n")
            .trim()
            .to_owned();
        if output.status != Status::Exited(exec.status) {
            bail!(
                "{} after {:?}, expected exit status {}: {text}",
                output.status,
                started.elapsed(),
                exec.status
            );
        }
        if let Some(pattern) = exec.prints.as_ref().filter(|pattern| !pattern.is_match(&text)) {
            bail!("it does not print /{pattern}/ but: {text}");
        }
        Ok(format!(
            "done in {}{}{text}",
            seconds(ms(started.elapsed())),
            if text.is_empty() { "" } else { ": " }
        ))
    }

    async fn processes(&self, wanted: &Processes, within: Duration) -> Result<String> {
        let guest = self.guest(&wanted.on)?;
        let mut seen = String::new();
        let wait = async {
            loop {
                let all = guest.processes().await?;
                let mut matching = BTreeMap::new();
                for process in all.iter().filter(|p| wanted.labels.is_match(&p.label)) {
                    let there = wanted
                        .stack
                        .as_ref()
                        .is_none_or(|function| process.is_in(function));
                    if process.state == wanted.state && there {
                        matching.insert(process.label.clone(), process.clone());
                    }
                }
                if matching.len() >= wanted.count {
                    return Ok::<_, anyhow::Error>(matching);
                }
                seen = all
                    .iter()
                    .map(|p| format!("{} {} in {}", p.label, p.state, p.wchan))
                    .collect::<Vec<_>>()
                    .join("; ");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let matching = match tokio::time::timeout(within, wait).await {
            Ok(matching) => matching?,
            Err(_) => bail!(
                "not {} processes in state {} within {within:?}: {seen}",
                wanted.count,
                wanted.state
            ),
        };
        self.say(Side::Client, Tone::Bad, &describe_all(&matching));
        if let Some(process) = matching.values().next() {
            let stack = process.stack.join(" ← ");
            self.say(
                Side::Client,
                Tone::Plain,
                &format!("{}: kernel stack of pid {}: {stack}", wanted.on, process.pid),
            );
        }
        let place = wanted
            .stack
            .as_ref()
            .map_or(String::new(), |function| format!(" inside {function}"));
        let are = if matching.len() == 1 { "is" } else { "are" };
        Ok(format!(
            "{} {are} in state {}{place}",
            count(matching.len(), "process"),
            wanted.state
        ))
    }

    async fn exited(
        &self,
        on: &str,
        labels: &Regex,
        count: usize,
        within: Duration,
    ) -> Result<BTreeMap<String, Status>> {
        let mut ended = BTreeMap::new();
        let mut events = self.guest(on)?.events();
        let all = find(&mut events, within, |kind| {
            if let EventKind::Exit { label, status } = kind
                && labels.is_match(label)
            {
                ended.insert(label.clone(), *status);
            }
            (ended.len() >= count).then_some(())
        });
        match all.await {
            Some(()) => Ok(ended),
            None => {
                let left = self.guest(on)?.processes().await?;
                let left: Vec<_> = left
                    .iter()
                    .filter(|p| labels.is_match(&p.label))
                    .map(describe)
                    .collect();
                bail!(
                    "only {} of {count} ended within {within:?}; still there: {}",
                    ended.len(),
                    left.join("; ")
                )
            }
        }
    }

    async fn count_events(&self, within: Duration, count: u32, fits: impl Fn(&Event) -> bool) -> Result<u32> {
        let (past, mut live) = self.server.node().events.since(0);
        let mut seen = past.iter().filter(|event| fits(event)).count() as u32;
        let wait = async {
            while seen < count {
                if fits(&*live.recv().await?) {
                    seen += 1;
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        match tokio::time::timeout(within, wait).await {
            Ok(waited) => waited?,
            Err(_) => bail!("seen {seen} times within {within:?}, expected {count}"),
        }
        Ok(seen)
    }

    fn replies(&self, wanted: &super::file::Replies) -> Result<String> {
        let (events, _) = self.server.node().events.since(0);
        let (mut seen, mut slowest) = (0usize, 0.0f64);
        for event in &events {
            let What::Reply {
                procedure,
                about,
                status,
                took_ms,
                ..
            } = &event.what
            else {
                continue;
            };
            if *procedure != wanted.procedure {
                continue;
            }
            if let Some(pattern) = wanted.status.as_ref().filter(|pattern| !pattern.is_match(status)) {
                bail!("{procedure} {about} was answered {status}, expected /{pattern}/");
            }
            if wanted.under.is_some_and(|limit| *took_ms > ms(limit)) {
                bail!("{procedure} {about} was answered after {}", seconds(*took_ms));
            }
            (seen, slowest) = (seen + 1, slowest.max(*took_ms));
        }
        if seen < wanted.count as usize {
            bail!(
                "{seen} answers to {}, expected at least {}",
                wanted.procedure,
                wanted.count
            );
        }
        let answers = count(seen, "answer");
        Ok(format!(
            "{answers} to {}, the slowest after {}",
            wanted.procedure,
            seconds(slowest)
        ))
    }

    async fn locks(&self, wanted: &Locks, within: Duration) -> Result<String> {
        let (_, mut live) = self.server.node().events.since(u64::MAX);
        let full = async {
            loop {
                let page = self.control.locks(0, 100).await?;
                if (page.total, page.waiting.len()) == (wanted.held, wanted.waiting) {
                    return Ok::<_, anyhow::Error>(());
                }
                // The table changes only with an event.
                live.recv().await?;
            }
        };
        match tokio::time::timeout(within, full).await {
            Ok(found) => found?,
            Err(_) => {
                let page = self.control.locks(0, 100).await?;
                let held: Vec<_> = page
                    .held
                    .iter()
                    .map(|l| format!("{} by {}", l.path, l.owner))
                    .collect();
                bail!(
                    "{} locks are held and {} wait, expected {} and {}: {}",
                    page.total,
                    page.waiting.len(),
                    wanted.held,
                    wanted.waiting,
                    held.join("; ")
                );
            }
        }
        Ok(match (wanted.held, wanted.waiting) {
            (0, 0) => "the server's lock table is empty".to_owned(),
            (held, waiting) => format!(
                "held: {}; waiting: {}",
                count(held, "lock"),
                count(waiting, "request")
            ),
        })
    }
}

/// So many things, in words.
fn count(n: usize, thing: &str) -> String {
    let plural = match thing {
        _ if n == 1 => "",
        "process" => "es",
        _ => "s",
    };
    format!("{n} {thing}{plural}")
}

/// What a state letter means.
fn meaning(state: char) -> &'static str {
    match state {
        'D' => "D (uninterruptible: strace hangs on it, and no signal but SIGKILL gets through)",
        'S' => "S (waits, can be interrupted)",
        'R' => "R (runs)",
        'Z' => "Z (ended)",
        'T' => "T (stopped)",
        _ => "unknown",
    }
}

/// A process as `ps` would show it.
fn describe(process: &Process) -> String {
    let Process {
        label,
        pid,
        state,
        wchan,
        ..
    } = process;
    format!(
        "{label} (pid {pid}, {}) is in state {state} in {wchan}",
        process.cmdline.join(" ")
    )
}

/// Processes that are in the same state.
fn describe_all(processes: &BTreeMap<String, Process>) -> String {
    let names: Vec<_> = processes
        .values()
        .map(|p| format!("{} (pid {})", p.label, p.pid))
        .collect();
    let who = match names.as_slice() {
        [first, .., last] if names.len() > 3 => format!("{first} to {last}"),
        all => all.join(", "),
    };
    let state = processes
        .values()
        .next()
        .map_or("unknown", |process| meaning(process.state));
    format!("{who}: state {state}")
}

/// The first event, past or future, of which `choose` makes something.
async fn find<T>(
    events: &mut Events,
    within: Duration,
    mut choose: impl FnMut(&EventKind) -> Option<T>,
) -> Option<T> {
    let search = async {
        loop {
            let event = events.recv().await?;
            if let Some(chosen) = choose(&event.kind) {
                return Some(chosen);
            }
        }
    };
    tokio::time::timeout(within, search).await.ok().flatten()
}

type Log = (Vec<Arc<Event>>, tokio::sync::broadcast::Receiver<Arc<Event>>);

/// Puts the server's events into the timeline, those of a kind together.
fn tell_server((past, mut live): Log, timeline: Shared) -> impl Future<Output = ()> {
    let mut past = past.into_iter();
    async move {
        let mut digest = Digest::default();
        loop {
            let event = match past.next() {
                Some(event) => event,
                None => match tokio::time::timeout(TOGETHER, live.recv()).await {
                    Ok(Ok(event)) => event,
                    Ok(Err(_)) => return,
                    Err(_) => {
                        digest.tell(&timeline);
                        continue;
                    }
                },
            };
            digest.take(&event, &timeline);
        }
    }
}

/// Prints the timeline as it grows.
async fn print(clock: Arc<Clock>, timeline: Shared) {
    loop {
        tokio::time::sleep(PRINT_EVERY).await;
        timeline.lock().settle(clock.now());
    }
}

/// Puts what a client's kernel prints, and what its processes print and how they end, into the timeline.
async fn tell_client(name: String, mut events: Events, timeline: Shared, clock: Arc<Clock>) {
    // What the kernel says while it boots is in the console log.
    events
        .wait_for(BOOT, |kind| matches!(kind, EventKind::Ready))
        .await;
    let mut said = Repeated::default();
    loop {
        let event = match tokio::time::timeout(TOGETHER, events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => return said.tell(&name, &timeline),
            Err(_) => {
                said.tell(&name, &timeline);
                continue;
            }
        };
        let (tone, text) = match event.kind {
            EventKind::Kernel { line, .. } if about_locks(&line) => {
                let tone = if line.ends_with("OK") {
                    Tone::Good
                } else {
                    Tone::Bad
                };
                (tone, format!("{name}: kernel log: {line}"))
            }
            EventKind::Output { label, line, .. } => (Tone::Plain, format!("{name}: {label} prints: {line}")),
            EventKind::Exit { label, status } if !status.success() => {
                (Tone::Bad, format!("{name}: {label} ended with {status}"))
            }
            EventKind::Panic(line) => (Tone::Bad, format!("{name}: KERNEL PANIC: {line}")),
            _ => continue,
        };
        let at = clock.at(event.at);
        if said.text == text {
            said.times += 1;
        } else {
            said.tell(&name, &timeline);
            timeline.lock().add(at, Side::Client, tone, text.clone());
            said = Repeated { text, at, times: 0 };
        }
    }
}

/// A line that a client may say once more: a kernel says the same for each process that waits.
#[derive(Default)]
struct Repeated {
    text: String,
    at: Duration,
    times: u32,
}

impl Repeated {
    fn tell(&mut self, name: &str, timeline: &Shared) {
        let Repeated { at, times, .. } = std::mem::take(self);
        if times > 0 {
            let text = format!("{name}: … and the same line {times} times more");
            timeline.lock().add(at, Side::Client, Tone::Plain, text);
        }
    }
}

/// Whether a line of the kernel's log concerns NFS or its locks.
fn about_locks(line: &str) -> bool {
    ["lockd", "nfs", "NFS", "statd", "RPC"]
        .iter()
        .any(|word| line.contains(word))
}

fn tell_story(scenario: &Scenario, timeline: &Shared) {
    let mut timeline = timeline.lock();
    timeline.text(&scenario.title, Tone::Heading);
    timeline.text(
        &format!("\nWhat one sees   {}", one_line(&scenario.symptom)),
        Tone::Plain,
    );
    timeline.text(
        &format!("The cause       {}\n", one_line(&scenario.cause)),
        Tone::Plain,
    );
    timeline.text(
        "Who is who      lockd keeps the locks, on the server and in each client's kernel. statd tells a client \
         when the server has restarted, so that it can take its locks again. NLM is the protocol between lockds: \
         LOCK asks for a lock, UNLOCK gives it back, GRANTED tells one who waited that it has it.\n ",
        Tone::Plain,
    );
    timeline.head();
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn tell_verdict(scenario: &Scenario, verdict: &Verdict, timeline: &Shared) {
    let mut timeline = timeline.lock();
    let passed = verdict.steps.iter().filter(|s| s.passed == Some(true)).count();
    let (tone, word) = if verdict.passed {
        (Tone::Good, "PASSED")
    } else {
        (Tone::Bad, "FAILED")
    };
    timeline.text(
        &format!(
            "\n{word}  {}: {passed} of {} steps, in {}, on Linux {}",
            scenario.title,
            verdict.steps.len(),
            seconds(verdict.took_ms),
            verdict.kernels.join(", ")
        ),
        tone,
    );
    if let Some(step) = verdict.steps.iter().find(|step| step.passed == Some(false)) {
        timeline.text(
            &format!("Failed step: {}\n  {}", step.say, step.detail),
            Tone::Bad,
        );
    } else {
        for (head, text) in [
            ("How to find it ", &scenario.find),
            ("How to mend it ", &scenario.mend),
        ] {
            if !text.is_empty() {
                timeline.text(&format!("{head} {}", one_line(text)), Tone::Plain);
            }
        }
    }
}
