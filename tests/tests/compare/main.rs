//! `make compare`: the same calls to Linux' server, in a guest, and to ours, on both of its stores. Their answers
//! are compared as text. They are the same, but for what `accepted.toml` lists with a reason.
//!
//! The transcripts are `tests/compare/*.txt`; docs/compare.md says how to read and to add to them.
//!
//! `cargo test -p nfslab-tests --test compare -- NAME…` plays some transcripts, and `-- --show` prints every answer;
//! `-- --statd-absent` measures something else (see [`statd`]).
//!
//! A namespace must be entered before any thread exists, so this has a main of its own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod accepted;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/fake_client.rs"]
mod fake_client;
mod knfsd;
mod locks;
#[path = "../transcripts/messages.rs"]
mod messages;
mod peer;
mod play;
#[path = "../transcripts/player.rs"]
mod player;
#[path = "../transcripts/proc_locks.rs"]
mod proc_locks;
mod reply;
mod statd;
mod transcript;
mod words;

use accepted::List;
use knfsd::{Knfsd, Parts};
use nfslab::server::{Config, ExportSpec, Ports, Server, StoreSpec};
use peer::Listener;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use transcript::Transcript;
use vm::net::{self, Namespace};

type Any<T> = Result<T, Box<dyn std::error::Error>>;

/// Ours with a tree in memory, and with a real directory.
const STORES: [(&str, Ipv4Addr); 2] = [
    ("mem", Ipv4Addr::new(127, 0, 0, 2)),
    ("dir", Ipv4Addr::new(127, 0, 0, 3)),
];
/// What the transcripts of locks are called together; `locks/NAME` is one of them.
const LOCKS: &str = "locks";
/// This one is played in the grace period, which ends behind it.
const IN_GRACE: &str = "grace";
/// Longer than any run.
const GRACE: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(99)
        }
    }
}

fn run(arguments: &[String]) -> Any<bool> {
    let begun = Instant::now();
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare");
    let mut transcripts = read(&folder)?;
    transcripts.retain(|t| wanted.is_empty() || wanted.contains(&&t.name));
    let series = std::env::var("KERNEL").unwrap_or_else(|_| accepted::MADE_FOR.to_owned());
    let mut list = List::parse(&fs::read_to_string(folder.join("accepted.toml"))?, &series)?;
    let parts = Parts::fetch(&series)?;
    let namespace = net::enter_namespace()?;
    net::add_peers(namespace)?;
    let runtime = tokio::runtime::Runtime::new()?;
    if arguments.iter().any(|a| a == "--statd-absent") {
        statd::measure(&parts, namespace, &runtime)?;
        return Ok(true);
    }
    println!(
        "Linux {} answers, then nfslab on each of its stores",
        parts.release()
    );
    let mut lab = runtime.block_on(Lab::start(&parts, namespace))?;
    let answers = lab.play(&transcripts, &runtime)?;
    let wants_locks = wanted.is_empty() || wanted.iter().any(|w| w.starts_with(LOCKS));
    let locks = !wants_locks || lab.play_locks(&series, &runtime, &wanted)?;
    runtime.block_on(lab.stop())?;
    let mut tally = Tally::default();
    for (transcript, answers) in transcripts.iter().zip(&answers) {
        tally.compare(
            transcript,
            answers,
            &mut list,
            arguments.iter().any(|a| a == "--show"),
        );
    }
    let played: BTreeSet<String> = transcripts.iter().map(|t| t.name.clone()).collect();
    let unmet = list.unmet(&played);
    for rotten in &unmet {
        println!("accepted.toml lists a difference that is no more:\n    {rotten}");
    }
    tally.print(list.reasons(), begun.elapsed());
    Ok(tally.unexplained == 0 && unmet.is_empty() && locks)
}

/// The transcripts by name, but that of the grace period first.
fn read(folder: &Path) -> Any<Vec<Transcript>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "txt") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            all.push(Transcript::parse(&name, &fs::read_to_string(&path)?)?);
        }
    }
    all.sort_by_key(|t| (t.name != IN_GRACE, t.name.clone()));
    Ok(all)
}

/// Ends the comparison at an interrupt. The guest's machine and the namespace end with the process; the folder would
/// stay.
async fn interrupted(folder: PathBuf) {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    let _ = fs::remove_dir_all(folder);
    std::process::exit(130);
}

/// The servers.
struct Lab {
    knfsd: Knfsd,
    ours: Vec<Server>,
    listener: Listener,
    in_grace: bool,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn start(parts: &Parts, namespace: Namespace) -> Any<Lab> {
        let folder = tempfile::tempdir()?;
        tokio::spawn(interrupted(folder.path().to_owned()));
        let dir = folder.path().join("export");
        fs::create_dir(&dir)?;
        // As the export of the other two: everybody's, as /tmp.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777))?;
        let mut ours = Vec::new();
        for (store, bind) in STORES {
            let mut export = ExportSpec::mem("/lab");
            if store == "dir" {
                export.store = StoreSpec::Dir(dir.clone());
            }
            let config = Config {
                bind: vec![bind.into()],
                exports: vec![export],
                ports: Ports::STANDARD,
                grace: GRACE,
                handle_key: Some(folder.path().join("handle-key")),
                ..Config::default()
            };
            ours.push(Server::start(config).await?);
        }
        let knfsd = parts.start(namespace, true).await?;
        Ok(Lab {
            knfsd,
            ours,
            listener: Listener::start(net::SERVER.into())?,
            in_grace: true,
            _folder: folder,
        })
    }

    /// For each transcript: the answers of Linux, then of ours on each store.
    fn play(
        &mut self,
        transcripts: &[Transcript],
        runtime: &tokio::runtime::Runtime,
    ) -> Any<Vec<Vec<Vec<String>>>> {
        let from: IpAddr = net::SERVER.into();
        let mut all = Vec::new();
        for transcript in transcripts {
            if transcript.name != IN_GRACE {
                self.end_grace(runtime)?;
            }
            println!("{}: {} cases", transcript.name, transcript.cases.len());
            let servers = self.servers();
            let play = |server| play::play(transcript, server, &mut self.listener, from, runtime.handle());
            all.push(servers.into_iter().map(play).collect::<Result<_, _>>()?);
        }
        Ok(all)
    }

    /// The transcripts of locks, with Linux alone.
    fn play_locks(
        &mut self,
        series: &str,
        runtime: &tokio::runtime::Runtime,
        wanted: &[&String],
    ) -> Any<bool> {
        self.end_grace(runtime)?;
        let all = wanted.iter().all(|w| !w.starts_with("locks/"));
        locks::compare(&self.knfsd, series, runtime, |name| {
            all || wanted.iter().any(|w| **w == format!("{LOCKS}/{name}"))
        })
    }

    fn servers(&self) -> Vec<IpAddr> {
        let ours = STORES.map(|(_, address)| IpAddr::from(address));
        std::iter::once(self.knfsd.address()).chain(ours).collect()
    }

    /// Ends the grace periods, if they have not ended.
    fn end_grace(&mut self, runtime: &tokio::runtime::Runtime) -> Any<()> {
        if !std::mem::take(&mut self.in_grace) {
            return Ok(());
        }
        for server in &self.ours {
            server.node().clock.advance(GRACE);
        }
        runtime.block_on(self.knfsd.end_grace())?;
        for server in self.servers() {
            let from = net::SERVER.into();
            play::await_end_of_grace(server, &mut self.listener, from, runtime.handle())?;
        }
        Ok(())
    }

    async fn stop(self) -> Any<()> {
        self.knfsd.stop().await?;
        for server in self.ours {
            server.stop().await;
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Default)]
struct Tally {
    cases: usize,
    same: usize,
    explained: usize,
    unexplained: usize,
}

impl Tally {
    fn compare(&mut self, transcript: &Transcript, answers: &[Vec<String>], list: &mut List, show: bool) {
        let [linux, ours @ ..] = answers else { return };
        for (n, case) in transcript.cases.iter().enumerate() {
            self.cases += 1;
            let name = format!("{}/{}", transcript.name, case.name);
            let mut lines = vec![format!("    linux  {}", linux[n])];
            let mut unexplained = false;
            for ((store, _), ours) in STORES.iter().zip(ours).filter(|(_, ours)| ours[n] != linux[n]) {
                lines.push(format!("    {store}    {}", ours[n]));
                for (theirs, here) in accepted::differences(&linux[n], &ours[n]) {
                    if !list.accepts(store, &name, &theirs, &here) {
                        unexplained = true;
                        lines.push(format!("           not listed: '{theirs}' => '{here}'"));
                    }
                }
            }
            match (lines.len() > 1, unexplained) {
                (false, _) => self.same += 1,
                (true, false) => self.explained += 1,
                (true, true) => self.unexplained += 1,
            }
            if unexplained || show {
                println!("{name}\n{}", lines.join("\n"));
            }
        }
    }

    fn print(&self, reasons: usize, took: Duration) {
        println!(
            "{} cases: {} answered alike, {} differently for one of {reasons} listed reasons, {} differently and \
             unexplained; {:.0} s",
            self.cases,
            self.same,
            self.explained,
            self.unexplained,
            took.as_secs_f64()
        );
    }
}
