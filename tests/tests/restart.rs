//! The server is restarted in the midst of fio with verification, on a real kernel's mount of a real directory: once
//! told to stop, once killed. The kernel recovers, and no byte is lost that the server had called stable. Then it is
//! killed while the kernel holds a lock: the kernel is told by SM_NOTIFY, and takes the lock again.
//!
//! The server is the real `nfslab serve` in a process of its own, since a kill must take everything that it has in
//! memory. Two programs run in the guest: fio, again and again until the restarts are over; and a writer that appends
//! a record, has it made stable with fsync(2), and only then says so.
//!
//! A namespace must be entered before any thread exists, so this has a main of its own.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nfslab::control::client::{Control, Endpoint};
use nfslab_tests::nfslab_binary;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;
use vm::net::{self, Namespace, SERVER};
use vm::{
    Cache, EventKind, Events, ExtraPackage, Extras, Guest, GuestConfig, Kernel, Mount, Status, Stderr,
    Userland, kernels,
};

/// How long anything may take, without KVM and beside other builds.
const DEADLINE: Duration = Duration::from_secs(120);
/// How often the server is restarted.
const RESTARTS: usize = 3;
/// Records that are made stable before each restart.
const RECORDS: usize = 8;

/// Writes, verifies, and begins again until `/tmp/enough` is there.
const FIO: &str = "
run() {
    cd /tmp && fio --directory=/mnt --rw=randwrite --size=2m --numjobs=2 --fallocate=none --verify=crc32c \
        --verify_fatal=1 --do_verify=1 --group_reporting --minimal \"$@\" > fio.out 2>&1 || { cat fio.out; exit 1; }
}
until [ -e /tmp/enough ]; do
    run --name=cached --ioengine=psync --bsrange=512-64k --bs_unaligned=0 --end_fsync=1
    run --name=direct --ioengine=libaio --iodepth=8 --direct=1 --bs=16k
done
echo 3 > /proc/sys/vm/drop_caches
run --name=direct --ioengine=psync --bs=16k --verify_only
";

/// Says `stable N` when record N is on the server's disk, or so the server said.
const WRITER: &str = "
n=0
until [ -e /tmp/enough ]; do
    n=$((n + 1))
    echo \"record $n\" | dd of=/mnt/log oflag=append conv=notrunc,fsync 2>/dev/null || exit 1
    echo \"stable $n\"
done
";

struct Lab {
    cache: Cache,
    kernel: Kernel,
    userland: Userland,
    namespace: Namespace,
}

static LAB: OnceLock<Lab> = OnceLock::new();

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if !arguments.list {
        let lab = Lab::prepare().unwrap_or_else(|e| {
            eprintln!("the kernel lab cannot be set up: {e:#}");
            std::process::exit(99);
        });
        let _ = LAB.set(lab);
    }
    let tests = vec![
        trial("told to stop in the midst of fio", How::Told),
        trial("killed in the midst of fio", How::Killed),
        Trial::test("killed while the kernel holds a lock", || run(reclaim)),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

/// How the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// SIGTERM.
    Told,
    /// SIGKILL.
    Killed,
}

fn trial(name: &str, how: How) -> Trial {
    Trial::test(name, move || run(async |lab| restarts(lab, how).await))
}

fn run(test: impl AsyncFnOnce(&'static Lab) -> Result<()>) -> Result<(), Failed> {
    let lab = LAB.get().ok_or("no lab")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let ran = runtime.block_on(test(lab));
    ran.map_err(|e| Failed::from(format!("{e:#}")))
}

impl Lab {
    fn prepare() -> Result<Lab> {
        let cache = Cache::open()?;
        let kernel = kernels::fetch(&cache, "6.1".parse()?, &Stderr)?;
        let extras = Extras {
            packages: vec![ExtraPackage::program("fio")],
            ..Extras::default()
        };
        let userland = Userland::fetch(&cache, &extras, &Stderr)?;
        let namespace = net::enter_namespace()?;
        Ok(Lab {
            cache,
            kernel,
            userland,
            namespace,
        })
    }

    async fn boot(&self) -> Result<Guest> {
        let mut config = GuestConfig::new("disk1", 1, self.kernel.clone(), self.userland.clone());
        config.agent = Some(nfslab_binary().with_file_name("nfslab-guest"));
        config.network = Some(self.namespace);
        config.mounts = vec![Mount::v3(format!("{SERVER}:/lab"), "/mnt")];
        Ok(Guest::boot(config, &self.cache).await?)
    }
}

/// The directory that is served, and everything that outlives the server.
struct Disk(TempDir);

impl Disk {
    fn new() -> Result<Disk> {
        let folder = tempfile::tempdir()?;
        let disk = Disk(folder);
        std::fs::create_dir(disk.export())?;
        std::fs::set_permissions(disk.export(), std::fs::Permissions::from_mode(0o1777))?;
        Ok(disk)
    }

    fn export(&self) -> PathBuf {
        self.0.path().join("export")
    }

    /// A server on it, that answers already.
    fn serve(&self) -> Result<Serving> {
        self.serve_with(&["--control=none"])
    }

    fn serve_with(&self, flags: &[&str]) -> Result<Serving> {
        let mut child = Command::new(nfslab_binary())
            .args(["serve", &format!("--bind={SERVER}")])
            .args(flags)
            .arg(format!("--export=/lab={}", self.export().display()))
            .arg(format!("--handle-key={}", self.0.path().join("key").display()))
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("no standard error")?);
        let serving = Serving(child);
        let mut greeting = String::new();
        lines.read_line(&mut greeting)?;
        ensure!(
            greeting.starts_with("nfslab serves"),
            "the server says: {greeting}"
        );
        Ok(serving)
    }

    /// How many records are on the disk. They are there in order, each once.
    fn records(&self) -> Result<usize> {
        let log = std::fs::read_to_string(self.export().join("log"))?;
        for (line, n) in log.lines().zip(1..) {
            ensure!(line == format!("record {n}"), "line {n} of the log is {line:?}");
        }
        Ok(log.lines().count())
    }
}

/// A server's process, which does not outlive the test.
struct Serving(Child);

impl Serving {
    fn end(mut self, how: How) -> Result<ExitStatus> {
        match how {
            How::Killed => self.0.kill()?,
            How::Told => {
                let told = Command::new("kill").arg(self.0.id().to_string()).status()?;
                ensure!(told.success(), "kill: {told}");
            }
        }
        Ok(self.0.wait()?)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn restarts(lab: &Lab, how: How) -> Result<()> {
    let disk = Disk::new()?;
    let mut serving = disk.serve()?;
    let guest = lab.boot().await?;
    let mut events = guest.events();
    guest.spawn("fio", FIO).await?;
    guest.spawn("writer", WRITER).await?;
    let mut stable = 0;
    for _ in 0..RESTARTS {
        stable = records_stable(&mut events, stable + RECORDS).await?;
        let status = serving.end(how)?;
        ensure!(
            (how == How::Told) == status.success(),
            "{how:?}, the server ended with {status}"
        );
        // What the client was told before the end must be there now.
        let on_disk = disk.records()?;
        ensure!(
            on_disk >= stable,
            "{stable} records were stable, {on_disk} are on the disk"
        );
        serving = disk.serve()?;
    }
    // All of it once more, so that both programs have gone on after the last restart.
    stable = records_stable(&mut events, stable + RECORDS).await?;
    guest.put_file("/tmp/enough", 0o644, b"").await?;
    for label in ["writer", "fio"] {
        let status = guest.wait(label, DEADLINE).await?;
        if status != Status::Exited(0) {
            bail!("{label} ended with {status}: {}", said(&guest, label));
        }
    }
    let on_disk = disk.records()?;
    ensure!(
        on_disk >= stable,
        "{stable} records were stable, {on_disk} are on the disk"
    );
    eprintln!("{RESTARTS} restarts ({how:?}), {on_disk} records, none lost");
    guest.shutdown().await?;
    ensure!(serving.end(How::Told)?.success(), "the server did not end well");
    Ok(())
}

/// Holds a lock for ever.
const HOLDER: &str = "
exec 9>>/mnt/locked
flock -x 9 && echo holds
sleep infinity
";

/// A kernel that held a lock when the server was killed is told of the restart and takes the lock again, in the
/// grace period.
async fn reclaim(lab: &'static Lab) -> Result<()> {
    let disk = Disk::new()?;
    let state = format!("--state-dir={}", disk.0.path().join("state").display());
    let flags = [&state, "--grace=60", "--control=127.0.0.1:9049"];
    // Nobody has anything to take again the first time.
    let serving = disk.serve_with(&[&state, "--control=127.0.0.1:9049"])?;
    let control = Control::new("127.0.0.1:9049".parse::<Endpoint>().map_err(anyhow::Error::msg)?)?;
    let guest = lab.boot().await?;
    let mut events = guest.events();
    guest.spawn("holder", HOLDER).await?;
    let holds = |kind: &EventKind| matches!(kind, EventKind::Output { line, .. } if line == "holds");
    events
        .wait_for(DEADLINE, holds)
        .await
        .context("the lock is not granted")?;
    ensure!(control.locks(None, 10).await?.total == 1, "no lock is held");
    serving.end(How::Killed)?;

    let serving = disk.serve_with(&flags)?;
    let reclaimed = control.follow(0, |event| {
        let is = |name: &str, text: &str| {
            event
                .get(name)
                .and_then(|v| v.as_str())
                .is_some_and(|v| v.contains(text))
        };
        // Until the answer to the LOCK that takes it again.
        !(is("kind", "reply") && is("about", "(reclaim)"))
    });
    let reclaimed = tokio::time::timeout(DEADLINE, reclaimed).await;
    reclaimed.context("the kernel has not taken its lock again")??;
    let held = control.locks(None, 10).await?.held;
    let names: Vec<_> = held
        .iter()
        .map(|lock| (lock.path.as_str(), lock.name.as_str()))
        .collect();
    ensure!(
        names == [("/lab/locked", "disk1")],
        "held after the restart: {names:?}"
    );
    // An UNLOCK would have to wait for the end of the grace period.
    guest.kill().await?;
    ensure!(serving.end(How::Told)?.success(), "the server did not end well");
    Ok(())
}

/// Waits for the guest's word that so many records are stable. Neither program may end meanwhile.
async fn records_stable(events: &mut Events, wanted: usize) -> Result<usize> {
    let wait = async {
        while let Some(event) = events.recv().await {
            match event.kind {
                EventKind::Output { label, line, .. } if label == "writer" => {
                    let n = line.strip_prefix("stable ").and_then(|n| n.parse().ok());
                    if let Some(n) = n.filter(|n: &usize| *n >= wanted) {
                        return Ok(n);
                    }
                }
                EventKind::Output { label, line, .. } => bail!("{label}: {line}"),
                EventKind::Exit { label, status } => bail!("{label} ended early with {status}"),
                EventKind::Gone(how) => bail!("the guest is gone: {how}"),
                _ => {}
            }
        }
        bail!("the guest's events have ended")
    };
    let waited = tokio::time::timeout(DEADLINE, wait).await;
    waited.with_context(|| format!("record {wanted} is not stable within {DEADLINE:?}"))?
}

/// What a process of the guest printed.
fn said(guest: &Guest, wanted: &str) -> String {
    let mut events = guest.events();
    let mut lines = Vec::new();
    while let Some(event) = events.try_recv() {
        if let EventKind::Output { label, line, .. } = event.kind
            && label == wanted
        {
            lines.push(line);
        }
    }
    lines.join("\n")
}
