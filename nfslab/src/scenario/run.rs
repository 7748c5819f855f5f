//! Runs a scenario: the server in this process, the clients under QEMU, one step after the other.
//!
//! Faults are set and cured through the control API, the way anybody else would. Everything that is waited
//! for is an event of the server or of a guest; only the state of a process has to be looked at again and
//! again, because no kernel announces it.

use super::file::{Client as ClientSpec, Scenario, checked, parse_export};
use super::report::Verdict;
use super::stage::Stage;
use super::tell;
use super::timeline::{Side, Timeline, Tone};
use crate::clock::Clock;
use crate::control::client::{Control, Endpoint};
use crate::events::{ms, seconds};
use crate::server::{Config, ControlAt, ExportSpec, Ports, Server, StoreSpec};
use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;
use vm::net::{Namespace, SERVER};
use vm::{FuseConfig, Guest, GuestConfig, Mount};

/// How long a guest may take to boot and mount.
pub(super) const BOOT: Duration = Duration::from_secs(60);
/// Where the control API listens inside the namespace.
const CONTROL: &str = "127.0.0.1:9049";

/// What is behind the exports that a scenario keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Store {
    /// A tree in memory, as the scenario says.
    #[default]
    Mem,
    /// A real directory instead, made for the run in $TMPDIR (as root).
    Dir,
}

/// What the clients are.
pub enum Clients {
    /// Real kernels in guests.
    Kernels(Kernels),
    /// The FUSE client on this machine's kernel.
    Fuse,
}

/// What guests need.
pub struct Kernels {
    /// Where kernels and images are.
    pub cache: vm::Cache,
    /// The programs of the guests.
    pub userland: vm::userland::Userland,
    /// The kernel of each series that is used, fetched already.
    pub kernels: BTreeMap<String, vm::kernels::Kernel>,
    /// A series for every client instead of the scenario's.
    pub kernel: Option<String>,
}

/// What a run needs beside the scenario.
pub struct Setting {
    /// The namespace in which this process is.
    pub namespace: Namespace,
    /// What the clients are.
    pub clients: Clients,
    /// For every hashed choice.
    pub seed: u64,
    /// What is behind the exports that the scenario keeps in memory.
    pub store: Store,
    /// Where the decisions go.
    pub journal: Option<PathBuf>,
    /// A journal from which the decisions are taken.
    pub replay: Option<faults::journal::Journal>,
    /// Where the capture goes.
    pub pcap: Option<PathBuf>,
    /// Where consoles go.
    pub out: Option<PathBuf>,
}

/// The timeline, as everyone who adds to it has it.
pub(super) type Shared = Arc<Mutex<Timeline>>;

/// Runs one scenario to its verdict.
///
/// # Errors
/// If the harness fails: the server or a guest cannot be started. A step that fails is a verdict.
pub async fn run(scenario: &Scenario, setting: &Setting, timeline: Shared) -> Result<Verdict> {
    let started = Instant::now();
    tell::story(scenario, &timeline);
    let mut folders = Vec::new();
    let server = Server::start(config(scenario, setting, &mut folders)?).await?;
    let tellers = &mut JoinSet::new();
    tellers.spawn(tell::server(server.node().events.since(0), timeline.clone()));
    tellers.spawn(tell::print(server.node().clock.clone(), timeline.clone()));
    let control = Control::new(CONTROL.parse::<Endpoint>().map_err(anyhow::Error::msg)?)?;
    let guests = boot(scenario, setting, &timeline, &server.node().clock, tellers).await?;
    let stage = Stage {
        scenario,
        server: &server,
        control,
        timeline: timeline.clone(),
        guests: &guests,
    };
    let mut steps = stage.play().await;
    if steps.iter().all(|step| step.passed == Some(true)) {
        steps.extend(stage.all_done());
    }
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
        row: scenario.row,
        symptom: scenario.symptom.clone(),
        cause: scenario.cause.clone(),
        find: scenario.find.clone(),
        mend: scenario.mend.clone(),
        passed,
        kernels,
        steps,
        took_ms,
        mounted_ms,
    };
    tell::verdict(scenario, &verdict, &timeline);
    Ok(verdict)
}

/// The server's configuration. `folders` keeps the directories that were made for this run; they go with it.
fn config(scenario: &Scenario, setting: &Setting, folders: &mut Vec<TempDir>) -> Result<Config> {
    let personality = &scenario.server.personality;
    let mut config = Config {
        bind: vec![SERVER.into()],
        ports: Ports::STANDARD,
        control: ControlAt::At(CONTROL.parse::<Endpoint>().map_err(anyhow::Error::msg)?),
        grace: Duration::from_secs(scenario.server.grace),
        seed: setting.seed,
        pcap: setting.pcap.clone(),
        rules: checked(&scenario.server.rules)?,
        journal: setting.journal.clone(),
        replay: setting.replay.clone(),
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
        .map(|text| export(text, setting.store, folders))
        .collect::<Result<_>>()?;
    // What is made for a run needs no key that outlives it.
    config.handle_key = folders.first().map(|folder| folder.path().join("handle-key"));
    for (service, condition) in &scenario.server.services {
        let (service, condition) = faults::condition::parse(service, condition)?;
        config.conditions.set(service, condition);
    }
    Ok(config)
}

/// An export, with the directory behind it if that is to be made for the run.
fn export(text: &str, store: Store, folders: &mut Vec<TempDir>) -> Result<ExportSpec> {
    let (mut spec, made) = parse_export(text)?;
    if made || (spec.store == StoreSpec::Mem && store == Store::Dir) {
        let folder = tempfile::tempdir().context("cannot make a directory for TMPDIR")?;
        let dir = folder.path().join("export");
        std::fs::create_dir(&dir)?;
        // As the root of a tree in memory: everybody's, as /tmp.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o1777))?;
        folders.push(folder);
        spec.store = StoreSpec::Dir(dir);
    }
    Ok(spec)
}

/// A guest, and what it has said.
pub(super) struct Booted {
    pub(super) guest: Guest,
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
        let name = spec.name.clone();
        match &setting.clients {
            Clients::Kernels(kernels) => {
                let config = guest_config(spec, index, setting, kernels)?;
                let cache = kernels.cache.clone();
                booting.spawn(async move { (name, Guest::boot(config, &cache).await) });
            }
            Clients::Fuse => {
                let config = FuseConfig {
                    name: spec.name.clone(),
                    index,
                    network: setting.namespace,
                    mounts: mounts(spec),
                    nlm_timeout: spec.nlm_timeout,
                    deadline: BOOT,
                };
                booting.spawn(async move { (name, Guest::on_fuse(config).await) });
            }
        }
    }
    let mut guests = BTreeMap::new();
    while let Some(booted) = booting.join_next().await {
        let (name, guest) = booted?;
        let guest = guest?;
        let uname = guest.exec("uname -r", Duration::from_secs(10)).await?;
        let kernel = match guest.is_on_fuse() {
            false => uname.stdout.trim().to_owned(),
            true => format!("{} (FUSE client)", uname.stdout.trim()),
        };
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
        let begun = match guest.is_on_fuse() {
            false => format!("Linux {kernel} has booted"),
            true => "the FUSE client has started".to_owned(),
        };
        let text = format!(
            "{name}: {begun} and mounted {}, {} after power-on",
            places.join(", "),
            seconds(ms(mounted))
        );
        timeline.lock().add(at, Side::Client, Tone::Plain, text);
        tellers.spawn(tell::client(
            name.clone(),
            guest.events(),
            timeline.clone(),
            clock.clone(),
        ));
        guests.insert(name, Booted { guest, kernel });
    }
    Ok(guests)
}

fn guest_config(spec: &ClientSpec, index: u8, setting: &Setting, kernels: &Kernels) -> Result<GuestConfig> {
    let series = kernels.kernel.as_ref().unwrap_or(&spec.kernel);
    let kernel = kernels.kernels.get(series).cloned();
    let kernel = kernel.ok_or_else(|| anyhow!("kernel {series} is not fetched"))?;
    let mut config = GuestConfig::new(&spec.name, index, kernel, kernels.userland.clone());
    config.network = Some(setting.namespace);
    config.memory_mib = spec.memory_mib;
    config.nlm_timeout = spec.nlm_timeout;
    config.boot_deadline = BOOT;
    config.console_log = setting
        .out
        .as_ref()
        .map(|out| out.join(format!("{}.console.log", spec.name)));
    config.mounts = mounts(spec);
    Ok(config)
}

fn mounts(spec: &ClientSpec) -> Vec<Mount> {
    let mount = |mount: &super::file::Mount| Mount {
        options: mount.options.clone(),
        ..Mount::v3(format!("{SERVER}:{}", mount.export), &mount.at)
    };
    spec.mounts.iter().map(mount).collect()
}
