//! `nfslab-bench fuse`: what FUSE costs the client, and whether reads at random places wait for one another.
//!
//! ```text
//!                    ┌─ client library (this process) ──┐
//! the same file ─────┤                                  ├─ nfslab serve (a process of its own)
//!                    └─ kernel ── nfslab mount (another) ┘      turn and turn about, several rounds
//! ```
//!
//! The library is asked as the mount asks it: 1 MiB at a time, as many READs at once as the kernel reads ahead, writes
//! taken over and made safe at the end. Both write from one buffer that is used again, and read into one, as programs
//! do: the library keeps what it is given until COMMIT, and hands out what it read where it lies, so that its caller
//! copies once, as write(2) and read(2) do.

use crate::report::{Output, Share, spread};
use crate::target::Target;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Args;
use fuse_client::client::Client;
use fuse_client::inodes::ROOT;
use fuse_client::line::Who;
use fuse_client::target::Mounted;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
/// As many as the kernel has under way when it reads ahead (`fuse_client::mount`).
const AT_ONCE: usize = 4;
const PAGE: u64 = 4096;
/// Who read at random places.
const READERS: usize = 16;
/// How long the readers may take to be all at the gate.
const AT_GATE: Duration = Duration::from_secs(5);
/// A prime larger than the number of pages: its multiples are all of them, in no order.
const PRIME: u64 = 2_147_483_647;

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub struct Cli {
    /// Size of the file.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    mib: usize,
    /// How many runs of each.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// How long reads at random places are measured, each time.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.5)]
    seconds: f64,
    /// The server's and the mount's program. [default: nfslab beside this one]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// What is printed: a table, or JSON.
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// What the machine lacks, if anything.
pub fn missing() -> Option<&'static str> {
    if !geteuid().is_root() {
        Some("mounting through FUSE needs root")
    } else if !Path::new("/dev/fuse").exists() {
        Some("there is no /dev/fuse (modprobe fuse; in a container --device /dev/fuse)")
    } else {
        None
    }
}

/// Rates of two ways, run by run.
#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    unit: &'static str,
    /// What it is compared with.
    base: Vec<f64>,
    /// What is measured.
    rates: Vec<f64>,
    reached: Share,
    wanted: f64,
}

impl Row {
    fn enough(&self) -> bool {
        self.reached.reached >= self.wanted
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    rows: Vec<Row>,
    /// READs that were at the server at the same time, by way of reading.
    in_flight: Vec<(String, usize)>,
}

impl Report {
    /// Prints it.
    pub fn print(&self, output: Output) {
        if output == Output::Json {
            println!("{}", serde_json::to_string_pretty(self).unwrap_or_default());
            return;
        }
        println!("| what | base | mount | reached | wanted |\n|---|---|---|---|---|");
        for row in &self.rows {
            let mark = if row.enough() { "" } else { "**" };
            println!(
                "| {}, {} | {} | {} | {mark}{}{mark} | {} |",
                row.name,
                row.unit,
                spread(&row.base).trim(),
                spread(&row.rates).trim(),
                row.reached,
                row.wanted
            );
        }
        for (way, count) in &self.in_flight {
            let mark = if *count > 1 { "" } else { "**" };
            println!(
                "| {READERS} readers, {way}: READs at the server at once | | {mark}{count}{mark} | | more than 1 |"
            );
        }
    }
}

/// The mount: `nfslab mount` on a directory of its own.
struct Mount {
    child: Child,
    dir: TempDir,
}

impl Mount {
    fn new(program: &Path, options: &str) -> Result<Mount> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(program);
        command
            .args(["mount", "-o", options, "127.0.0.1:/lab"])
            .arg(dir.path());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mount = Mount { child, dir };
        let mut told = String::new();
        BufReader::new(stdout).read_line(&mut told)?;
        ensure!(told.contains(" is on "), "nfslab mount says: {told:?}");
        Ok(mount)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("mount")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// The same client without a mount.
struct Library {
    client: Arc<Client>,
    who: Who,
    _mounted: Mounted,
}

impl Library {
    async fn new(options: &str) -> Result<Library> {
        let options = options.parse()?;
        let target = "127.0.0.1:/lab".parse().map_err(anyhow::Error::msg)?;
        let mounted = Mounted::new(target, &options).await?;
        Ok(Library {
            client: Arc::new(Client::new(&mounted, &options).await?),
            who: Who::default(),
            _mounted: mounted,
        })
    }

    /// MiB a second until everything is safe.
    async fn write(&self, data: &[u8], mib: usize) -> Result<f64> {
        let (client, who) = (&self.client, &self.who);
        let begun = Instant::now();
        let file = client.create(who, ROOT, b"library", 0o644, false).await?;
        let number = file.inode.number;
        for n in 0..mib {
            let offset = (n * MIB) as u64;
            let data = Bytes::copy_from_slice(data);
            client.write(who, number, offset, data, false).await?;
        }
        client.safe(who, number).await?;
        client.close(who, number).await?;
        Ok(mib as f64 / begun.elapsed().as_secs_f64())
    }

    async fn read(&self, mib: usize) -> Result<f64> {
        let begun = Instant::now();
        let file = self.client.lookup(&self.who, ROOT, b"library").await?;
        let number = file.inode.number;
        self.client.open(&self.who, number, true, false).await?;
        let start = |n: usize| {
            let (client, who) = (self.client.clone(), self.who.clone());
            tokio::spawn(async move { client.read(&who, number, (n * MIB) as u64, MIB as u32).await })
        };
        let mut under_way: VecDeque<_> = (0..AT_ONCE.min(mib)).map(start).collect();
        let mut next = under_way.len();
        let (mut got, mut buffer) = (0, Vec::with_capacity(MIB));
        while let Some(read) = under_way.pop_front() {
            buffer.clear();
            read.await??
                .iter()
                .for_each(|part| buffer.extend_from_slice(part));
            got += std::hint::black_box(&buffer).len();
            if next < mib {
                under_way.push_back(start(next));
                next += 1;
            }
        }
        ensure!(got == mib * MIB, "{got} bytes were read");
        self.client.close(&self.who, number).await?;
        Ok(mib as f64 / begun.elapsed().as_secs_f64())
    }
}

fn write_through(path: &Path, data: &[u8], mib: usize) -> Result<f64> {
    let begun = Instant::now();
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    for _ in 0..mib {
        file.write_all(data)?;
    }
    file.sync_all()?;
    drop(file);
    Ok(mib as f64 / begun.elapsed().as_secs_f64())
}

/// The kernel forgets what it has of the file.
fn cold(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

fn read_through(path: &Path, mib: usize) -> Result<f64> {
    cold(path)?;
    let mut buffer = vec![0; MIB];
    let begun = Instant::now();
    let mut file = File::open(path)?;
    for _ in 0..mib {
        file.read_exact(&mut buffer)?;
    }
    drop(file);
    Ok(mib as f64 / begun.elapsed().as_secs_f64())
}

/// How reads at random places are made.
#[derive(Clone, Copy)]
enum Way {
    Direct,
    Advised,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Direct => "O_DIRECT",
            Way::Advised => "POSIX_FADV_RANDOM",
        }
    }

    fn open(self, path: &Path) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true);
        match self {
            Way::Direct => Ok(options.custom_flags(nix::libc::O_DIRECT).open(path)?),
            Way::Advised => {
                let file = options.open(path)?;
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
                Ok(file)
            }
        }
    }
}

/// Pages in no order, each once, shared by all who read.
struct Pages {
    next: AtomicU64,
    count: u64,
    end: AtomicBool,
}

impl Pages {
    fn of(mib: usize) -> Pages {
        Pages {
            next: AtomicU64::new(0),
            count: (mib * MIB) as u64 / PAGE,
            end: AtomicBool::new(false),
        }
    }

    /// Reads one page after another until it is the end, or there are no more.
    fn read(&self, file: &File) -> Result<()> {
        let mut room = vec![0u8; 2 * PAGE as usize];
        let at = room.as_ptr().align_offset(PAGE as usize);
        let buffer = room.get_mut(at..at + PAGE as usize).context("no aligned page")?;
        while !self.end.load(Relaxed) {
            let n = self.next.fetch_add(1, Relaxed);
            if n >= self.count {
                break;
            }
            file.read_exact_at(buffer, n * PRIME % self.count * PAGE)?;
        }
        Ok(())
    }
}

/// Reads a second by so many readers.
fn read_at_random(path: &Path, mib: usize, way: Way, readers: usize, seconds: Duration) -> Result<f64> {
    cold(path)?;
    let files = (0..readers).map(|_| way.open(path)).collect::<Result<Vec<_>>>()?;
    let pages = Pages::of(mib);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .map(|file| scope.spawn(|| pages.read(file)))
            .collect();
        while begun.elapsed() < seconds && pages.next.load(Relaxed) < pages.count {
            std::thread::sleep(Duration::from_millis(5));
        }
        pages.end.store(true, Relaxed);
        threads.into_iter().try_for_each(joined)
    })?;
    Ok(pages.next.load(Relaxed).min(pages.count) as f64 / begun.elapsed().as_secs_f64())
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow::anyhow!("a reader panicked")))
}

/// How many READs of so many readers are at the server together, where none is answered until all are counted.
fn at_once(server: &Target, program: &Path, path: &Path, way: Way) -> Result<usize> {
    let command = |arguments: &[&str]| server.command(program, arguments);
    cold(path)?;
    let files = (0..READERS).map(|_| way.open(path)).collect::<Result<Vec<_>>>()?;
    // A gate of its own: one that was opened stays open.
    let gate = way.name();
    command(&["rule", "set", &format!("nfs.read -> hold {gate}")])?;
    // One page for each.
    let pages = Pages {
        count: READERS as u64,
        ..Pages::of(1)
    };
    let held = std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .map(|file| scope.spawn(|| pages.read(file)))
            .collect();
        let begun = Instant::now();
        let counted = loop {
            let gates = command(&["gate", "list"])?;
            let its = |one: &&Value| one.get("gate").and_then(Value::as_str) == Some(gate);
            let held = gates
                .as_array()
                .and_then(|gates| gates.iter().find(its)?.get("held")?.as_array())
                .map_or(0, Vec::len);
            if held >= READERS || begun.elapsed() > AT_GATE {
                break held;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        command(&["gate", "open", gate])?;
        threads.into_iter().try_for_each(joined)?;
        anyhow::Ok(counted)
    })?;
    command(&["rule", "clear"])?;
    Ok(held)
}

/// Measures all of it.
pub async fn measure(cli: &Cli) -> Result<Report> {
    let program = match &cli.server {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("nfslab"),
    };
    let server = Target::server(&program, "", &[]).await?;
    let options = format!(
        "nolock,port={},mountport={}",
        server.address("nfs")?.port(),
        server.address("mount")?.port()
    );
    let library = Library::new(&options).await?;
    let mount = Mount::new(&program, &options)?;
    let (path, mib) = (mount.file(), cli.mib);
    let data = vec![0x5a; MIB];
    // The first time the server has to make room for it.
    library.write(&data, mib).await?;
    write_through(&path, &data, mib)?;

    let mut rows = Vec::new();
    for reads in [false, true] {
        let (mut base, mut rates) = (Vec::new(), Vec::new());
        for round in 0..cli.rounds {
            for turn in 0..2 {
                // The one that was last is first the next time.
                match (reads, (round + turn) % 2 == 0) {
                    (false, true) => base.push(library.write(&data, mib).await?),
                    (true, true) => base.push(library.read(mib).await?),
                    (false, false) => rates.push(write_through(&path, &data, mib)?),
                    (true, false) => rates.push(read_through(&path, mib)?),
                }
            }
        }
        let name = if reads {
            "sequential read"
        } else {
            "sequential write"
        };
        rows.push(row(
            format!("{name}, beside the library"),
            "MiB/s",
            base,
            rates,
            0.6,
        ));
    }
    let mut in_flight = Vec::new();
    for way in [Way::Advised, Way::Direct] {
        // As near as the other end of a cable.
        server.command(&program, &["rule", "set", "nfs.read -> delay 2ms"])?;
        let seconds = Duration::from_secs_f64(cli.seconds);
        let (mut base, mut rates) = (Vec::new(), Vec::new());
        for round in 0..cli.rounds {
            for turn in 0..2 {
                match (round + turn) % 2 == 0 {
                    true => base.push(read_at_random(&path, mib, way, 1, seconds)?),
                    false => rates.push(read_at_random(&path, mib, way, READERS, seconds)?),
                }
            }
        }
        let name = format!("4 KiB at random, {}, {READERS} readers beside one", way.name());
        rows.push(row(name, "reads/s", base, rates, READERS as f64 / 2.0));
        in_flight.push((way.name().to_owned(), at_once(&server, &program, &path, way)?));
    }
    Ok(Report { rows, in_flight })
}

fn row(name: String, unit: &'static str, base: Vec<f64>, rates: Vec<f64>, wanted: f64) -> Row {
    let reached = Share::of(&rates, &base);
    eprintln!(
        "{name:<60} {:<26} {:<26} {unit}: {reached}",
        spread(&base),
        spread(&rates)
    );
    Row {
        name,
        unit,
        base,
        rates,
        reached,
        wanted,
    }
}
