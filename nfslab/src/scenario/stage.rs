//! The steps of a scenario, each with its verb: acting, or watching until what must be seen is seen.

use super::file::{
    Arrives, Exec, KernelLine, Locks, Prints, Processes, Replies, Scenario, Start, Step, Verb,
};
use super::report::StepResult;
use super::run::{Booted, Shared};
use super::timeline::{Side, Tone};
use crate::control::client::Control;
use crate::events::{Event, What, ms, seconds};
use crate::server::Server;
use anyhow::{Result, anyhow, bail};
use regex::Regex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vm::{EventKind, Events, Guest, Process, Status};

/// How often the state of processes is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Everything that the steps act on.
pub(super) struct Stage<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) server: &'a Server,
    pub(super) control: Control,
    pub(super) timeline: Shared,
    pub(super) guests: &'a BTreeMap<String, Booted>,
}

impl Stage<'_> {
    /// Plays every step up to the first that fails.
    pub(super) async fn play(&self) -> Vec<StepResult> {
        let mut results = Vec::new();
        let mut failed = false;
        for step in &self.scenario.steps {
            let mut result = StepResult {
                say: step.say.clone(),
                passed: None,
                detail: String::new(),
                took_ms: 0.0,
                shows: step.shows.clone(),
            };
            if let Some(why) = step.kernel_only.as_ref().filter(|_| self.on_fuse()) {
                result.detail = format!("passed over, since the clients are no kernels: {why}");
                self.say(Side::Story, Tone::Heading, &step.say);
                self.say(Side::Story, Tone::Plain, &format!("– {}", result.detail));
                result.passed = Some(true);
            } else if !failed {
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

    /// Whether the clients are those of FUSE.
    fn on_fuse(&self) -> bool {
        self.guests.values().any(|booted| booted.guest.is_on_fuse())
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
                    self.control.set_service(service, condition, None).await?;
                }
                Ok(String::new())
            }
            Verb::Forget(peer) => {
                let name = Some(peer.as_str()).filter(|name| *name != "all");
                let forgotten = self.control.forget(name).await?.forgotten;
                Ok(format!("{forgotten} forgotten"))
            }
            Verb::Advance(by) => self.control.advance(&by).await.map(|_| String::new()),
            Verb::Reboot(how) => {
                let state = self.control.reboot(&how).await?.state;
                Ok(state.map_or(String::new(), |state| {
                    format!("the server's state number is {state}")
                }))
            }
            Verb::ForgetLocks(which) => {
                let forgotten = self.control.forget_locks(&which).await?.forgotten;
                Ok(format!("{forgotten} forgotten"))
            }
            Verb::Leak(which) => {
                let leaked = self.control.leak(&which).await?;
                Ok(format!(
                    "{}: locked by {} {}",
                    leaked.path, leaked.name, leaked.svid
                ))
            }
            Verb::DoubleGrant(which) => self.control.double_grant(&which).await.map(|_| String::new()),
            Verb::PeerReboot(peer) => self.control.reboot_peer(&peer).await.map(|_| String::new()),
            Verb::Crash(name) => {
                self.guest(&name)?.kill().await?;
                self.say(Side::Client, Tone::Bad, &format!("{name}: the power is off"));
                Ok(String::new())
            }
            Verb::StaleHandles(how) => self.control.stale_handles(&how).await.map(|_| String::new()),
            Verb::Rules(rules) => {
                let rules = super::file::checked(&rules)?;
                self.server.node().set_rules(rules);
                Ok(String::new())
            }
            Verb::Arrives(wanted) => self.arrives(&wanted, within).await,
            Verb::Release(release) => {
                let node = self.server.node();
                let released = node.release(&release.gate, None, release.count, release.verdict);
                if release.open {
                    node.set_gate_open(&release.gate, true);
                }
                if released == 0 && !release.open {
                    bail!("nothing waits at gate {}", release.gate);
                }
                Ok(format!("{}: {}", count(released, "call"), release.verdict))
            }
            Verb::Expect(expectations) => {
                let verified = self
                    .server
                    .node()
                    .verify_within(&expectations, false, within)
                    .await;
                let told: Vec<String> = verified
                    .checks
                    .iter()
                    .map(|check| format!("{}: {}", check.expect, check.found))
                    .collect();
                match verified.passed {
                    true => Ok(told.join("; ")),
                    false => bail!("{}", told.join("; ")),
                }
            }
            Verb::Processes(wanted) => self.processes(&wanted, within).await,
            Verb::KernelSays(wanted) => self.kernel_says(&wanted, within).await,
            Verb::KernelSilent(wanted) => self.kernel_silent(&wanted),
            Verb::Prints(wanted) => self.prints(&wanted, within).await,
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
                    .count_events(within, wanted.count, move |event| event.names().contains(&kind))
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
            Verb::Replies(wanted) => self.replies(&wanted, within).await,
            Verb::Locks(wanted) => self.locks(&wanted, within).await,
        }
    }

    async fn kernel_says(&self, wanted: &KernelLine, within: Duration) -> Result<String> {
        let mut events = self.guest(&wanted.on)?.events();
        let found = find(&mut events, within, |kind| match kind {
            EventKind::Kernel { line, .. } if wanted.line.is_match(line) => Some(line.clone()),
            _ => None,
        });
        match found.await {
            Some(line) => Ok(format!("{}'s kernel log: \"{line}\"", wanted.on)),
            None => bail!(
                "{}'s kernel has not printed /{}/ within {within:?}",
                wanted.on,
                wanted.line
            ),
        }
    }

    fn kernel_silent(&self, wanted: &KernelLine) -> Result<String> {
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

    async fn prints(&self, wanted: &Prints, within: Duration) -> Result<String> {
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
        let seen: Vec<_> = matched
            .iter()
            .map(|(label, line)| format!("{label}: {line}"))
            .collect();
        let (n, seen) = (seen.len(), seen.join("; "));
        if !complete {
            bail!(
                "only {n} of {} have printed /{}/: {seen}",
                wanted.count,
                wanted.line
            );
        }
        Ok(seen)
    }

    /// Waits until calls are held at a gate.
    async fn arrives(&self, wanted: &Arrives, within: Duration) -> Result<String> {
        let node = self.server.node();
        let came = node.wait_at_gate(&wanted.gate, wanted.held, within).await;
        let gate = node.gates().into_iter().find(|gate| gate.gate == wanted.gate);
        let held = gate.map(|gate| gate.held).unwrap_or_default();
        let calls: Vec<&str> = held.iter().map(|held| held.call.as_str()).collect();
        if !came {
            bail!(
                "{} of {} held at gate {} within {within:?}: {}",
                held.len(),
                count(wanted.held, "call"),
                wanted.gate,
                calls.join("; ")
            );
        }
        if let Some(pattern) = &wanted.call
            && let Some(other) = calls.iter().find(|call| !pattern.is_match(call))
        {
            bail!("gate {} holds \"{other}\", expected /{pattern}/", wanted.gate);
        }
        Ok(format!("held at gate {}: {}", wanted.gate, calls.join("; ")))
    }

    /// Whether every rule of the scenario was done, and no call is held at a gate; nothing if there is nothing to say.
    pub(super) fn all_done(&self) -> Option<StepResult> {
        let verified = self.server.node().verify(&[], true);
        let left: Vec<String> = verified
            .checks
            .iter()
            .map(|check| format!("{}: {}", check.expect, check.found))
            .collect();
        if verified.passed {
            return None;
        }
        let detail = left.join("; ");
        self.say(Side::Story, Tone::Bad, &format!("✗ {detail}"));
        Some(StepResult {
            say: "Every rule was done, and no call is held at a gate".to_owned(),
            passed: Some(false),
            detail,
            took_ms: 0.0,
            shows: None,
        })
    }

    async fn start(&self, start: &Start) -> Result<String> {
        let guest = self.guest(&start.on)?;
        for n in 1..=start.count {
            let label = format!("{}-{n}", start.label);
            let script = format!("N={n}\n{}{}", self.scenario.assignments(), start.script);
            guest.spawn(&label, &script).await?;
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
        let script = self.scenario.assignments() + &exec.script;
        let output = self.guest(&exec.on)?.exec(&script, within).await?;
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
        let deadline = Instant::now() + within;
        // However little time there is, it is looked once; on a busy machine a look takes a while.
        let matching = loop {
            let all = guest.processes().await?;
            let matching = wanted.select(&all, guest.is_on_fuse());
            if matching.len() >= wanted.count {
                break matching;
            }
            if Instant::now() > deadline {
                let seen: Vec<_> = all.iter().map(describe).collect();
                bail!(
                    "not {} in state {} within {within:?}: {}",
                    count(wanted.count, "process"),
                    wanted.state,
                    seen.join("; ")
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
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
            .filter(|_| !guest.is_on_fuse())
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

    /// Looks at every answer so far, and waits for more until there are enough.
    async fn replies(&self, wanted: &Replies, within: Duration) -> Result<String> {
        let (past, mut live) = self.server.node().events.since(0);
        let mut took = Vec::new();
        for event in &past {
            took.extend(reply_took(wanted, event)?);
        }
        let wait = async {
            while took.len() < wanted.count as usize {
                took.extend(reply_took(wanted, &*live.recv().await?)?);
            }
            Ok::<_, anyhow::Error>(())
        };
        match tokio::time::timeout(within, wait).await {
            Ok(waited) => waited?,
            Err(_) => bail!(
                "{} answers to {} within {within:?}, expected at least {}",
                took.len(),
                wanted.procedure,
                wanted.count
            ),
        }
        let answers = count(took.len(), "answer");
        Ok(format!(
            "{answers} to {}, the slowest after {}",
            wanted.procedure,
            seconds(took.into_iter().fold(0.0, f64::max))
        ))
    }

    async fn locks(&self, wanted: &Locks, within: Duration) -> Result<String> {
        let (_, mut live) = self.server.node().events.since(u64::MAX);
        let full = async {
            loop {
                let page = self.control.locks(None, 100).await?;
                if (page.total, page.waiting.len()) == (wanted.held, wanted.waiting) {
                    return Ok::<_, anyhow::Error>(());
                }
                // The table changes only with an event; but not every call is one, if there are many.
                if let Ok(event) = tokio::time::timeout(LOOK_EVERY, live.recv()).await {
                    event?;
                }
            }
        };
        match tokio::time::timeout(within, full).await {
            Ok(found) => found?,
            Err(_) => {
                let page = self.control.locks(None, 100).await?;
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

impl Processes {
    /// Those that are as wanted, one for each label.
    ///
    /// To the kernel, whoever waits for the FUSE client waits for an answer: interruptible until there is a signal, and
    /// from then on killable. So there S and D say nothing, and of the functions of lockd only that it is about a lock.
    fn select(&self, all: &[Process], on_fuse: bool) -> BTreeMap<String, Process> {
        let waits = matches!(self.state, 'S' | 'D');
        let as_wanted = |p: &&Process| {
            let there = match &self.stack {
                Some(any) if on_fuse && waits => {
                    p.is_in("request_wait_answer") && (!any.contains("nlmclnt") || p.is_in("fuse_setlk"))
                }
                Some(any) => any.split('|').any(|function| p.is_in(function)),
                None => true,
            };
            let state = p.state == self.state || on_fuse && waits && matches!(p.state, 'S' | 'D');
            self.labels.is_match(&p.label) && state && there
        };
        all.iter()
            .filter(as_wanted)
            .map(|p| (p.label.clone(), p.clone()))
            .collect()
    }
}

/// So many things, in words.
/// How many milliseconds it took, if this is an answer that is looked at.
///
/// # Errors
/// If it is not as wanted.
fn reply_took(wanted: &Replies, event: &Event) -> Result<Option<f64>> {
    let What::Reply {
        procedure,
        about,
        status,
        took_ms,
        ..
    } = &event.what
    else {
        return Ok(None);
    };
    if *procedure != wanted.procedure {
        return Ok(None);
    }
    if let Some(pattern) = wanted.status.as_ref().filter(|pattern| !pattern.is_match(status)) {
        bail!("{procedure} {about} was answered {status}, expected /{pattern}/");
    }
    if wanted.under.is_some_and(|limit| *took_ms > ms(limit)) {
        bail!("{procedure} {about} was answered after {}", seconds(*took_ms));
    }
    Ok(Some(*took_ms))
}

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
