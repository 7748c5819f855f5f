//! A scenario as it stands in a file: the story, the server, the clients, and the steps.
//!
//! A step has one verb. Some act (`start`, `run`, `service`, `forget`, `advance`, `reboot`, `forget_locks`, `leak`,
//! `double_grant`, `peer_reboot`, `crash`, `stale_handles`, `rules`, `release`), the others watch, and fail the scenario
//! if what they wait for does not come `within` their time. None sleeps.

use crate::control::api::{BreakLocks, DoubleGrant, LeakLock, RebootNode, StaleHandles};
use crate::server::{ExportSpec, Verdict};
use anyhow::{Context, Result, anyhow, bail};
use faults::rule::{Line, Rule, RuleFile};
use faults::verify::Expectation;
use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vm::{ExtraPackage, Extras, HostFile};

/// How long a step may take unless it says otherwise.
pub const WITHIN: Duration = Duration::from_secs(30);

/// A whole scenario.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in one line.
    pub title: String,
    /// What a person sees.
    pub symptom: String,
    /// Why it is so.
    pub cause: String,
    /// Which symptom of docs/symptoms.md it shows, by its number there.
    pub row: Option<u32>,
    /// How to find it in real life.
    #[serde(default)]
    pub find: String,
    /// How to mend it in real life.
    #[serde(default)]
    pub mend: String,
    /// Why it needs the kernel's NFS client, if it does: it does not run on the FUSE client.
    pub kernel_only: Option<String>,
    /// Shell variables for every script of it; `--set NAME=VALUE` overrides one.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// The server.
    #[serde(default)]
    pub server: Server,
    /// The clients: real kernels, or the FUSE client (`--client fuse`).
    #[serde(default, rename = "client")]
    pub clients: Vec<Client>,
    /// What is done and what must be seen, in order.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// The server of a scenario.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// As `--export`; or `NAME=TMPDIR`, a real directory that is made for the run and removed after it.
    pub exports: Vec<String>,
    /// As `--personality`.
    pub personality: String,
    /// As `--grace`, in seconds.
    pub grace: u64,
    /// The condition of each service at the start; those left out are well.
    pub services: BTreeMap<String, String>,
    /// The rules at the start, as lines.
    #[schemars(with = "Vec<String>")]
    pub rules: Vec<Line>,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            exports: vec!["/lab=mem".to_owned()],
            personality: "linux-6.1".to_owned(),
            grace: 0,
            services: BTreeMap::new(),
            rules: vec![],
        }
    }
}

/// A client of a scenario.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its host name, by which steps and the timeline call it.
    pub name: String,
    /// Its kernel's series; `--kernel` overrides it.
    #[serde(default = "Client::kernel")]
    pub kernel: String,
    /// Seconds for `/proc/sys/fs/nfs/nlm_timeout`. 3 makes lockd complain after 18 s rather than 60.
    pub nlm_timeout: Option<u32>,
    /// What it mounts.
    #[serde(default = "Client::mounts")]
    pub mounts: Vec<Mount>,
    /// Megabytes of memory.
    #[serde(default = "Client::memory")]
    pub memory_mib: u32,
    /// Debian packages for it beyond the usual tools.
    #[serde(default)]
    pub packages: Vec<Package>,
    /// Programs of this machine, copied to its `/usr/bin` with their libraries. A relative path starts at the
    /// folder of the scenario's file.
    #[serde(default)]
    pub programs: Vec<PathBuf>,
    /// Kernel modules for it beyond the usual ones, loaded at boot: `nfsd`.
    #[serde(default)]
    pub modules: Vec<String>,
}

/// A Debian package for a client.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Package {
    /// `"fio"`: the program of that name.
    Program(String),
    /// `{ name = "git", paths = ["usr/bin/git", "usr/lib/git-core"] }`: what to take of it.
    Paths(PackagePaths),
}

/// A package and what to take of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackagePaths {
    /// The package.
    pub name: String,
    /// Files and whole folders, as the package places them, without the first `/`.
    pub paths: Vec<String>,
}

impl Package {
    fn extra(&self) -> ExtraPackage {
        match self {
            Package::Program(name) => ExtraPackage::program(name),
            Package::Paths(PackagePaths { name, paths }) => ExtraPackage {
                name: name.clone(),
                paths: paths.clone(),
            },
        }
    }
}

impl Client {
    fn kernel() -> String {
        "6.1".to_owned()
    }

    fn mounts() -> Vec<Mount> {
        vec![Mount {
            export: "/lab".to_owned(),
            at: "/mnt".to_owned(),
            options: Mount::options(),
        }]
    }

    fn memory() -> u32 {
        512
    }
}

/// A mount of a client.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The export.
    pub export: String,
    /// Where.
    pub at: String,
    /// As for `mount -o`.
    #[serde(default = "Mount::options")]
    pub options: String,
}

impl Mount {
    fn options() -> String {
        "vers=3,tcp".to_owned()
    }
}

/// A step, as it is written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it does or shows, for a reader who knows nothing of NFS.
    pub say: String,
    /// What this step settles, in a sentence for docs/symptoms.md: it stands there if the step passes.
    pub shows: Option<String>,
    /// Why it is so of the kernel's NFS client only, if it is: on the FUSE client the step is passed over.
    pub kernel_only: Option<String>,
    /// How long it may take: "20s".
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    within: Option<Duration>,
    start: Option<Start>,
    run: Option<Exec>,
    service: Option<BTreeMap<String, String>>,
    forget: Option<String>,
    advance: Option<String>,
    reboot: Option<RebootNode>,
    forget_locks: Option<BreakLocks>,
    leak: Option<LeakLock>,
    double_grant: Option<DoubleGrant>,
    peer_reboot: Option<String>,
    crash: Option<String>,
    #[schemars(with = "Option<Vec<String>>")]
    rules: Option<Vec<Line>>,
    arrives: Option<Arrives>,
    release: Option<Release>,
    #[schemars(with = "Option<Vec<String>>")]
    expect: Option<Vec<Expectation>>,
    stale_handles: Option<Stale>,
    processes: Option<Processes>,
    kernel_says: Option<KernelLine>,
    kernel_silent: Option<KernelLine>,
    prints: Option<Prints>,
    exited: Option<Exited>,
    event: Option<EventCount>,
    replies: Option<Replies>,
    locks: Option<Locks>,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Starts processes in a client and lets them run.
    Start(Start),
    /// Runs a script in a client to its end.
    Run(Exec),
    /// Sets conditions of services, through the control API.
    Service(BTreeMap<String, String>),
    /// Has the lock service forget that it monitors a peer ("all": every one).
    Forget(String),
    /// Advances the server's clock.
    Advance(String),
    /// Reboots the server, as far as clients can tell: `{ grace = "50s", notify = "none" }`, or `as_name = "other"`.
    Reboot(RebootNode),
    /// Loses locks, and tells nobody: `{ path = "/lab/f", peer = "web1", svid = 7 }` in any combination, or
    /// `{ all = true }`.
    ForgetLocks(BreakLocks),
    /// Enters a lock of nobody: `{ path = "/lab/f", start = 0, len = 0, kind = "exclusive" }`.
    Leak(LeakLock),
    /// Has the next locks on a file granted although they conflict: `{ path = "/lab/f", count = 1 }`.
    DoubleGrant(DoubleGrant),
    /// Declares a client rebooted, by its name or address: its locks go.
    PeerReboot(String),
    /// Cuts the power of a client, for good; the server hears nothing of it.
    Crash(String),
    /// Has every file handle go stale: `true`, or `{ for = "30s" }`.
    StaleHandles(StaleHandles),
    /// Replaces all rules.
    Rules(Vec<Line>),
    /// Waits until calls are held at a gate.
    Arrives(Arrives),
    /// Decides about calls at a gate.
    Release(Release),
    /// Waits until the calls are as expected.
    Expect(Vec<Expectation>),
    /// Waits until processes are in a state.
    Processes(Processes),
    /// Waits until the client's kernel has printed a line.
    KernelSays(KernelLine),
    /// Checks that it has not.
    KernelSilent(KernelLine),
    /// Waits until processes have printed a line.
    Prints(Prints),
    /// Waits until processes have ended.
    Exited(Exited),
    /// Waits until the server has logged an event.
    Event(EventCount),
    /// Checks answers of the server.
    Replies(Replies),
    /// Waits until the lock table is so full.
    Locks(Locks),
}

impl Step {
    /// How long it may take.
    pub fn within(&self) -> Duration {
        self.within.unwrap_or(WITHIN)
    }

    /// Its verb.
    ///
    /// # Errors
    /// If it has none, or more than one.
    pub fn verb(&self) -> Result<Verb> {
        let step = self.clone();
        let verbs = [
            step.start.map(Verb::Start),
            step.run.map(Verb::Run),
            step.service.map(Verb::Service),
            step.forget.map(Verb::Forget),
            step.advance.map(Verb::Advance),
            step.reboot.map(Verb::Reboot),
            step.forget_locks.map(Verb::ForgetLocks),
            step.leak.map(Verb::Leak),
            step.double_grant.map(Verb::DoubleGrant),
            step.peer_reboot.map(Verb::PeerReboot),
            step.crash.map(Verb::Crash),
            step.stale_handles
                .map(Stale::how)
                .transpose()?
                .map(Verb::StaleHandles),
            step.rules.map(Verb::Rules),
            step.arrives.map(Verb::Arrives),
            step.release.map(Verb::Release),
            step.expect.map(Verb::Expect),
            step.processes.map(Verb::Processes),
            step.kernel_says.map(Verb::KernelSays),
            step.kernel_silent.map(Verb::KernelSilent),
            step.prints.map(Verb::Prints),
            step.exited.map(Verb::Exited),
            step.event.map(Verb::Event),
            step.replies.map(Verb::Replies),
            step.locks.map(Verb::Locks),
        ];
        let mut verbs = verbs.into_iter().flatten();
        match (verbs.next(), verbs.next()) {
            (Some(verb), None) => Ok(verb),
            _ => bail!(
                "step \"{}\" must have exactly one of start, run, service, forget, advance, reboot, \
                 forget_locks, leak, double_grant, peer_reboot, crash, stale_handles, rules, arrives, release, \
                 expect, processes, kernel_says, kernel_silent, prints, exited, event, replies, locks",
                self.say
            ),
        }
    }
}

/// `stale_handles`: `true`, or for how long.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected true or { for = \"30s\" }")]
enum Stale {
    Always(bool),
    Lasting(StaleHandles),
}

impl Stale {
    fn how(self) -> Result<StaleHandles> {
        match self {
            Stale::Always(true) => Ok(StaleHandles::default()),
            Stale::Always(false) => bail!("stale_handles = false does nothing: expected true"),
            Stale::Lasting(how) => Ok(how),
        }
    }
}

/// `start`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The client.
    pub on: String,
    /// The label by which later steps call them: LABEL-1, LABEL-2 …
    pub label: String,
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
    /// The shell script of each; `$N` is its number.
    pub script: String,
}

fn one() -> u32 {
    1
}

/// `run`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The client.
    pub on: String,
    /// The shell script.
    pub script: String,
    /// The exit status that it must have.
    #[serde(default)]
    pub status: i32,
    /// What its output must match.
    #[serde(default, deserialize_with = "pattern::deserialize")]
    #[schemars(with = "Option<String>")]
    pub prints: Option<Regex>,
}

/// `arrives`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arrives {
    /// The gate.
    pub gate: String,
    /// How many calls are held there at once, at least.
    #[serde(default = "once")]
    pub held: usize,
    /// What each of them must match, in words: `nlm.lock of web1 about /lab/file for owner 1`.
    #[serde(default, deserialize_with = "pattern::deserialize")]
    #[schemars(with = "Option<String>")]
    pub call: Option<Regex>,
}

fn once() -> usize {
    1
}

/// `release`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The gate.
    pub gate: String,
    /// go, drop, or answer STATUS.
    #[serde(default = "Release::go", rename = "as")]
    #[schemars(with = "String")]
    pub verdict: Verdict,
    /// Only the first so many.
    pub count: Option<usize>,
    /// What comes later passes too.
    #[serde(default)]
    pub open: bool,
}

impl Release {
    fn go() -> Verdict {
        Verdict::Go
    }
}

/// `processes`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Processes {
    /// The client.
    pub on: String,
    /// Which ones: the whole label must match.
    #[serde(deserialize_with = "whole::deserialize")]
    #[schemars(with = "String")]
    pub labels: Regex,
    /// For how many labels it must be true.
    pub count: usize,
    /// The state letter: R, S, D, Z, T.
    pub state: char,
    /// A function that must be on the kernel stack; several with `|` between them: one of them, since kernels rename
    /// theirs. On the FUSE client whoever waits does so in `request_wait_answer`, in S or D, for a lock in `fuse_setlk`.
    pub stack: Option<String>,
}

/// `kernel_says` and `kernel_silent`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelLine {
    /// The client.
    pub on: String,
    /// What the line must match.
    #[serde(deserialize_with = "some_pattern::deserialize")]
    #[schemars(with = "String")]
    pub line: Regex,
}

/// `prints`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prints {
    /// The client.
    pub on: String,
    /// Which ones: the whole label must match.
    #[serde(deserialize_with = "whole::deserialize")]
    #[schemars(with = "String")]
    pub labels: Regex,
    /// How many of them.
    pub count: usize,
    /// What the line must match.
    #[serde(deserialize_with = "some_pattern::deserialize")]
    #[schemars(with = "String")]
    pub line: Regex,
}

/// `exited`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exited {
    /// The client.
    pub on: String,
    /// Which ones: the whole label must match.
    #[serde(deserialize_with = "whole::deserialize")]
    #[schemars(with = "String")]
    pub labels: Regex,
    /// How many of them.
    pub count: usize,
    /// The exit status that each must have.
    #[serde(default)]
    pub status: i32,
}

/// `event`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventCount {
    /// Its kind, as `nfslab events` prints it, or any name by which rules know it: `reply/NLM_LOCK/NLM4_BLOCKED`.
    pub kind: String,
    /// How often at least.
    #[serde(default = "one")]
    pub count: u32,
}

/// `replies`: every answer so far to a procedure, and those that come until there are enough.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replies {
    /// The procedure: NLM_LOCK.
    pub procedure: String,
    /// How many at least.
    #[serde(default = "one")]
    pub count: u32,
    /// What each one's status must match.
    #[serde(default, deserialize_with = "pattern::deserialize")]
    #[schemars(with = "Option<String>")]
    pub status: Option<Regex>,
    /// How long each may have taken at most: "100ms".
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub under: Option<Duration>,
}

/// `locks`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Locks {
    /// How many are held.
    pub held: usize,
    /// How many requests wait.
    pub waiting: usize,
}

mod duration {
    use serde::{Deserialize, Deserializer, de::Error};
    use std::time::Duration;

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(d)?;
        let wrong = |e| {
            D::Error::custom(format!(
                "'{text}' is not a duration such as \"20s\" or \"100ms\": {e}"
            ))
        };
        humantime::parse_duration(&text).map(Some).map_err(wrong)
    }
}

mod some_pattern {
    use regex::Regex;
    use serde::{Deserialize, Deserializer, de::Error};

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Regex, D::Error> {
        Regex::new(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

mod pattern {
    use regex::Regex;
    use serde::Deserializer;

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Regex>, D::Error> {
        super::some_pattern::deserialize(d).map(Some)
    }
}

mod whole {
    use regex::Regex;
    use serde::{Deserialize, Deserializer, de::Error};

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Regex, D::Error> {
        Regex::new(&format!("^(?:{})$", String::deserialize(d)?)).map_err(D::Error::custom)
    }
}

impl Scenario {
    /// Reads a scenario and checks everything that can be checked without running it.
    ///
    /// # Errors
    /// The file, the line, what is wrong and what would be right.
    pub fn read(path: &Path) -> Result<Scenario> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut scenario = Scenario::parse(&text).with_context(|| format!("in {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for program in scenario.clients.iter_mut().flat_map(|c| &mut c.programs) {
            *program = folder.join(&program);
        }
        Ok(scenario)
    }

    /// As [`read`](Self::read), from text.
    ///
    /// # Errors
    /// The line, what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Scenario> {
        let scenario: Scenario = toml::from_str(text)?;
        for step in &scenario.steps {
            step.verb()
                .and_then(|verb| scenario.check(&verb))
                .with_context(|| format!("step \"{}\"", step.say))?;
        }
        for export in &scenario.server.exports {
            parse_export(export)?;
        }
        checked(&scenario.server.rules)?;
        for (service, condition) in &scenario.server.services {
            check_condition(service, condition)?;
        }
        scenario
            .variables
            .keys()
            .try_for_each(|name| check_variable(name))?;
        Ok(scenario)
    }

    /// Gives a variable another value: `NAME=VALUE`.
    ///
    /// # Errors
    /// If the scenario has no variable of that name.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (name, value) = assignment
            .split_once('=')
            .with_context(|| format!("'{assignment}' is not NAME=VALUE"))?;
        let names = self.variables.keys().cloned().collect::<Vec<_>>().join(", ");
        let variable = self
            .variables
            .get_mut(name)
            .with_context(|| format!("\"{}\" has no variable '{name}': there are [{names}]", self.title))?;
        value.clone_into(variable);
        Ok(())
    }

    /// Its variables, as a shell assigns them.
    pub fn assignments(&self) -> String {
        let assign =
            |(name, value): (&String, &String)| format!("{name}='{}'\n", value.replace('\'', r"'\''"));
        self.variables.iter().map(assign).collect()
    }

    /// Why it cannot run on the FUSE client, if so.
    pub fn needs_kernel(&self) -> Option<&str> {
        let modules = self.clients.iter().any(|client| !client.modules.is_empty());
        match &self.kernel_only {
            Some(why) => Some(why),
            None => modules.then_some("its clients load kernel modules"),
        }
    }

    /// What its clients need beyond the usual tools. Every client gets what any of them asks for: they boot
    /// one image.
    ///
    /// # Errors
    /// If a program is not there, or is not a file.
    pub fn extras(&self) -> Result<Extras> {
        let mut extras = Extras::default();
        for client in &self.clients {
            for package in client.packages.iter().map(Package::extra) {
                if !extras.packages.contains(&package) {
                    extras.packages.push(package);
                }
            }
            for module in &client.modules {
                if !extras.modules.contains(module) {
                    extras.modules.push(module.clone());
                }
            }
            for source in &client.programs {
                let name = source.file_name().filter(|_| source.is_file());
                let name = name.with_context(|| {
                    format!("client {}: there is no program {}", client.name, source.display())
                })?;
                let program = HostFile {
                    source: source.clone(),
                    target: format!("/usr/bin/{}", name.to_string_lossy()),
                };
                if !extras.host_files.contains(&program) {
                    extras.host_files.push(program);
                }
            }
        }
        Ok(extras)
    }

    fn check(&self, verb: &Verb) -> Result<()> {
        let on = match verb {
            Verb::Start(v) => &v.on,
            Verb::Run(v) => &v.on,
            Verb::Processes(v) => &v.on,
            Verb::KernelSays(v) | Verb::KernelSilent(v) => &v.on,
            Verb::Prints(v) => &v.on,
            Verb::Exited(v) => &v.on,
            Verb::Crash(name) => name,
            Verb::Service(services) => {
                return services
                    .iter()
                    .try_for_each(|(service, condition)| check_condition(service, condition));
            }
            Verb::Advance(by) => {
                humantime::parse_duration(by).with_context(|| format!("'{by}' is not a duration"))?;
                return Ok(());
            }
            Verb::Reboot(how) => return how.parse().map(drop),
            Verb::ForgetLocks(which) => return which.check(),
            Verb::Leak(which) => return which.parse().map(drop),
            Verb::DoubleGrant(which) => return which.lasts().map(drop),
            Verb::StaleHandles(how) => return how.lasts().map(drop),
            Verb::PeerReboot(_) => return Ok(()),
            Verb::Rules(rules) => return checked(rules).map(drop),
            Verb::Arrives(_) | Verb::Release(_) | Verb::Expect(_) => return Ok(()),
            Verb::Forget(_) | Verb::Event(_) | Verb::Replies(_) | Verb::Locks(_) => return Ok(()),
        };
        if self.clients.iter().any(|client| client.name == *on) {
            return Ok(());
        }
        let names: Vec<_> = self.clients.iter().map(|client| client.name.as_str()).collect();
        bail!("no client is called '{on}': there are {}", names.join(", "))
    }
}

/// An export as a scenario writes it: as `--export`, or with `TMPDIR` as its store for a real directory that is
/// made for the run (then `true`).
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_export(text: &str) -> Result<(ExportSpec, bool)> {
    let marked = text.replacen("=TMPDIR", "=./TMPDIR", 1);
    let spec = marked
        .parse::<ExportSpec>()
        .map_err(|error| anyhow!("exports: {error}"))?;
    let made = marked != text;
    Ok((spec, made))
}

/// Rules as a set.
///
/// # Errors
/// If two of them have one name.
pub fn checked(rules: &[Line]) -> Result<Vec<Rule>> {
    let file = RuleFile {
        rules: rules.to_vec(),
        tables: vec![],
    };
    file.into_rules().map_err(|error| anyhow!("rules: {error}"))
}

fn check_condition(service: &str, condition: &str) -> Result<()> {
    faults::condition::parse(service, condition)?;
    Ok(())
}

fn check_variable(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() || !name.chars().all(fits) {
        bail!("'{name}' is no name for a shell variable");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "title = 't'\nsymptom = 's'\ncause = 'c'\n[[client]]\nname = 'web1'\n";

    fn error(rest: &str) -> String {
        format!("{:#}", Scenario::parse(&format!("{HEAD}{rest}")).unwrap_err())
    }

    #[test]
    fn every_scenario_of_the_project_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        for folder in [folder.join("suites"), folder] {
            let mut seen = 0;
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|e| e == "toml") {
                    let scenario = Scenario::read(&path).unwrap();
                    let told = [&scenario.find, &scenario.mend].map(|text| !text.trim().is_empty());
                    let shows = scenario.steps.iter().any(|step| step.shows.is_some());
                    let complete = told == [true, true] && shows;
                    assert!(scenario.row.is_none() || complete, "{}", path.display());
                    seen += 1;
                }
            }
            assert!(seen > 0);
        }
    }

    #[test]
    fn clients_ask_for_programs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        let ask = "packages = ['fio', { name = 'git', paths = ['usr/lib/git-core'] }]\nprograms = ['tool']\n\
                   [[client]]\nname = 'web2'\npackages = ['fio']\n";
        std::fs::write(&file, format!("step = []\n{HEAD}{ask}")).unwrap();
        let scenario = Scenario::read(&file).unwrap();
        let e = format!("{:#}", scenario.extras().unwrap_err());
        assert!(e.contains("web1") && e.contains("tool"), "{e}");
        std::fs::write(folder.path().join("tool"), "").unwrap();
        let extras = scenario.extras().unwrap();
        assert_eq!(extras.packages.len(), 2, "both ask for fio, which comes once");
        assert_eq!(extras.packages[1].paths, ["usr/lib/git-core"]);
        assert_eq!(extras.host_files[0].source, folder.path().join("tool"));
        assert_eq!(extras.host_files[0].target, "/usr/bin/tool");
    }

    #[test]
    fn variables_are_quoted_and_only_known_ones_are_set() {
        let mut scenario =
            Scenario::parse(&format!("step = []\nvariables = {{ seconds = '3' }}\n{HEAD}")).unwrap();
        scenario.set("seconds=it's 5").unwrap();
        assert_eq!(scenario.assignments(), "seconds='it'\\''s 5'\n");
        let e = format!("{:#}", scenario.set("minutes=1").unwrap_err());
        assert!(e.contains("minutes") && e.contains("seconds"), "{e}");
        assert!(Scenario::parse(&format!("step = []\nvariables = {{ 'a b' = '3' }}\n{HEAD}")).is_err());
    }

    #[test]
    fn what_happens_to_the_server_is_a_step() {
        let steps = [
            "reboot = {}",
            "reboot = { grace = '50s', notify = 'none' }",
            "reboot = { as_name = 'other' }",
            "forget_locks = { path = '/lab/f', peer = 'web1' }",
            "leak = { path = '/lab/f', start = 7, kind = 'shared' }",
            "double_grant = { path = '/lab/f', count = 2 }",
            "peer_reboot = 'web1'",
            "crash = 'web1'",
            "stale_handles = true",
            "leak = { path = '/lab/f', for = '30s' }",
            "double_grant = { path = '/lab/f', for = '30s' }",
            "stale_handles = { for = '30s' }",
            "service = { lockd = 'lying port 0', nfs = 'hung after 3', mount = 'blackhole' }",
        ];
        let steps = steps.map(|step| format!("[[step]]\nsay = 'x'\n{step}\n"));
        Scenario::parse(&format!("{HEAD}{}", steps.concat())).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let e = error("[[step]]\nsay = 'x'\nslep = 1\n");
        assert!(e.contains("slep") && e.contains("line 8"), "{e}");
        let e = error("[[step]]\nsay = 'x'\n");
        assert!(e.contains("exactly one of start"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nrun = { on = 'web2', script = 'true' }\n");
        assert!(e.contains("'web2'") && e.contains("web1"), "{e}");
        let e = error("[[step]]\nsay = 'x'\ncrash = 'web2'\n");
        assert!(e.contains("'web2'") && e.contains("web1"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nservice = { statd = 'gone' }\n");
        assert!(e.contains("'gone'") && e.contains("absent"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nservice = { nfs = 'failing' }\n");
        assert!(e.contains("only statd"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nreboot = { notify = 'some' }\n");
        assert!(e.contains("'some'") && e.contains("all or none"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nreboot = { grace = '50' }\n");
        assert!(e.contains("'50'") && e.contains("50s"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nreboot = { notify = 'none', as_name = 'other' }\n");
        assert!(e.contains("'other'"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nforget_locks = {}\n");
        assert!(e.contains("all=true"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nleak = { path = '/lab/f', kind = 'mandatory' }\n");
        assert!(e.contains("'mandatory'") && e.contains("shared"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nstale_handles = false\n");
        assert!(e.contains("expected true"), "{e}");
        for step in [
            "leak = { path = '/lab/f', for = '30' }",
            "double_grant = { path = '/lab/f', for = '30' }",
            "stale_handles = { for = '30' }",
        ] {
            let e = error(&format!("[[step]]\nsay = 'x'\n{step}\n"));
            assert!(e.contains("for: '30'") && e.contains("30s"), "{e}");
        }
        let e = error("[[step]]\nsay = 'x'\nstale_handles = { till = '30s' }\n");
        assert!(e.contains("{ for = \"30s\" }") && e.contains("line 8"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nforget = 'all'\n[server]\nexports = ['/lab=mem,rw,sync']\n");
        assert!(e.contains("'sync'") && e.contains("root_squash"), "{e}");
        let e = error("[[step]]\nsay = 'x'\nwithin = 'soon'\nlocks = { held = 0, waiting = 0 }\n");
        assert!(e.contains("20s"), "{e}");
    }
}
