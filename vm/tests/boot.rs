//! Boots real kernels. Fetches what it needs into the cache on its first run.
//!
//! A namespace must be entered before any thread exists, so this has a main of
//! its own: fetch, enter, then hand the tests to a harness.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use vm::net::{self, Namespace};
use vm::{
    Cache, Error, EventKind, Extras, Fixture, Guest, GuestConfig, Kernel, Mount, Status, Stderr, Stream,
    Userland, kernels,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// What every test starts from.
struct Lab {
    cache: Cache,
    kernel: Kernel,
    userland: Userland,
    namespace: Namespace,
}

static LAB: OnceLock<Lab> = OnceLock::new();

fn main() {
    let mut arguments = Arguments::from_args();
    // An emulated machine wants a processor of its own.
    arguments.test_threads.get_or_insert(1);
    if !arguments.list {
        let lab = Lab::prepare().unwrap_or_else(|e| {
            eprintln!("the kernel lab cannot be set up: {e}");
            std::process::exit(99);
        });
        let _ = LAB.set(lab);
    }
    let tests = vec![
        trial("a guest runs scripts and powers off", scripts),
        trial("a guest shows its processes", processes),
        trial("files go both ways", files),
        trial("the kernel's log comes whole and promptly", kernel_log),
        trial("a panic ends the wait with the console's last lines", panic),
        trial("two guests at once, each under its own address", two_guests),
        trial(
            "a mount without a server fails in time and says why",
            mount_without_server,
        ),
        trial("daemons can be left out", without_daemons),
        trial("the console is a terminal", terminal),
        trial(
            "a machine that is killed is gone, and a dropped one too",
            killed_and_dropped,
        ),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn trial<F>(name: &str, test: fn(&'static Lab) -> F) -> Trial
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    Trial::test(name, move || {
        let lab = LAB.get().ok_or("no lab")?;
        let runtime = tokio::runtime::Runtime::new()?;
        runtime
            .block_on(test(lab))
            .map_err(|e| Failed::from(format!("{e:#}")))?;
        nothing_is_left().map_err(Failed::from)
    })
}

impl Lab {
    fn prepare() -> vm::Result<Self> {
        let cache = Cache::open()?;
        let kernel = kernels::fetch(&cache, "6.1".parse()?, &Stderr)?;
        let userland = Userland::fetch(&cache, &Extras::default(), &Stderr)?;
        let namespace = net::enter_namespace()?;
        Ok(Self {
            cache,
            kernel,
            userland,
            namespace,
        })
    }

    fn config(&self, name: &str, index: u8) -> GuestConfig {
        let mut config = GuestConfig::new(name, index, self.kernel.clone(), self.userland.clone());
        config.agent = Some(env!("CARGO_BIN_EXE_nfslab-guest").into());
        config.network = Some(self.namespace);
        config.boot_deadline = DEADLINE;
        config
    }

    async fn boot(&self, name: &str, index: u8) -> vm::Result<Guest> {
        Guest::boot(self.config(name, index), &self.cache).await
    }
}

/// No QEMU of ours, no TAP device.
fn nothing_is_left() -> Result<(), String> {
    let children = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children: String = children
        .map(|t| fs::read_to_string(t.path().join("children")).unwrap_or_default())
        .collect();
    if !children.trim().is_empty() {
        return Err(format!("child processes are left: {children}"));
    }
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    if devices.contains("nfslab") {
        return Err(format!("a TAP device is left:\n{devices}"));
    }
    Ok(())
}

async fn scripts(lab: &'static Lab) -> anyhow::Result<()> {
    let guest = lab.boot("client1", 1).await?;
    assert_eq!(guest.booted().mounted, None);
    assert!(guest.booted().agent < guest.booted().ready);

    let output = guest
        .exec("uname -r; hostname; echo oops >&2; exit 7", DEADLINE)
        .await?;
    assert_eq!(output.stdout, format!("{}\nclient1\n", lab.kernel.release));
    assert_eq!(
        (output.stderr.as_str(), output.status),
        ("oops\n", Status::Exited(7))
    );

    let output = guest.exec("kill -9 $$", DEADLINE).await?;
    assert_eq!(output.status, Status::Signaled(9));

    // A script that hangs, with a child that holds its output open.
    let output = guest
        .exec("echo begun; sleep 1000", Duration::from_secs(1))
        .await?;
    assert_eq!(
        (output.stdout.as_str(), output.status),
        ("begun\n", Status::TimedOut)
    );

    let output = guest
        .exec("head -c 3000000 /dev/zero | tr '\\0' x", DEADLINE)
        .await?;
    assert!(
        output.truncated && output.stdout.len() == 1 << 20,
        "{}",
        output.stdout.len()
    );

    // The usual tools are the real ones, and the portmapper knows statd.
    for tool in ["mount", "flock", "ps", "strace", "dmesg", "rpcinfo"] {
        let output = guest.exec(&format!("command -v {tool}"), DEADLINE).await?;
        assert!(output.stdout.starts_with("/usr/"), "{tool}: {output:?}");
    }
    let output = guest
        .exec("rpcinfo -p; ping -c 1 -W 5 10.77.0.1", DEADLINE)
        .await?;
    assert!(
        output.status.success() && output.stdout.contains("100024"),
        "{output:?}"
    );
    guest.shutdown().await?;
    Ok(())
}

async fn processes(lab: &'static Lab) -> anyhow::Result<()> {
    let guest = lab.boot("client1", 1).await?;
    let mut events = guest.events();
    let pid = guest
        .spawn("sleeper", "echo up; echo err >&2; sleep 1000; true")
        .await?;
    let is_up = |kind: &EventKind| matches!(kind, EventKind::Output { line, stream: Stream::Stdout, .. } if line == "up");
    assert!(events.wait_for(DEADLINE, is_up).await.is_some());

    // Others are served while it sleeps.
    assert!(guest.exec("true", DEADLINE).await?.status.success());
    let sleep = loop {
        let all = guest.processes().await?;
        assert!(all.iter().all(|p| p.label == "sleeper"), "{all:?}");
        if let Some(sleep) = all.into_iter().find(|p| p.comm == "sleep" && p.state == 'S') {
            break sleep;
        }
    };
    assert_eq!(sleep.ppid, pid);
    assert_eq!(sleep.cmdline, ["sleep", "1000"]);
    assert!(
        sleep.is_in("do_nanosleep") || sleep.is_in("hrtimer_nanosleep"),
        "{sleep:?}"
    );
    assert!(sleep.stack.iter().any(|f| f.contains("nanosleep")), "{sleep:?}");

    assert!(
        guest
            .spawn("sleeper", "true")
            .await
            .unwrap_err()
            .to_string()
            .contains("sleeper runs already")
    );
    guest.signal("sleeper", 15).await?;
    assert_eq!(guest.wait("sleeper", DEADLINE).await?, Status::Signaled(15));
    assert!(
        guest
            .signal("nobody", 15)
            .await
            .unwrap_err()
            .to_string()
            .contains("nobody")
    );
    guest.shutdown().await?;
    Ok(())
}

async fn files(lab: &'static Lab) -> anyhow::Result<()> {
    let guest = lab.boot("client1", 1).await?;
    let content: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
    guest.put_file("/tmp/new/folder/file", 0o755, &content).await?;
    assert_eq!(guest.get_file("/tmp/new/folder/file").await?, content);
    guest.put_file("/tmp/new/folder/file", 0o600, b"").await?;
    assert_eq!(guest.get_file("/tmp/new/folder/file").await?, b"");
    assert!(
        guest
            .get_file("/tmp/absent")
            .await
            .unwrap_err()
            .to_string()
            .contains("/tmp/absent")
    );
    guest.shutdown().await?;
    Ok(())
}

async fn kernel_log(lab: &'static Lab) -> anyhow::Result<()> {
    let guest = lab.boot("client1", 1).await?;
    let mut events = guest.events();
    guest
        .exec(
            "echo '<5>lockd: server 10.77.0.1 not responding, still trying' > /dev/kmsg",
            DEADLINE,
        )
        .await?;
    let mut first = None;
    let mut count = 0;
    let said = events.wait_for(DEADLINE, |kind| match kind {
        EventKind::Kernel { line, .. } => {
            first.get_or_insert_with(|| line.clone());
            count += 1;
            line.contains("still trying")
        }
        _ => false,
    });
    let said = said.await.unwrap();
    assert!(
        matches!(said.kind, EventKind::Kernel { level: 5, .. }),
        "{said:?}"
    );
    assert!(said.at.elapsed() < Duration::from_secs(5));
    assert!(first.unwrap().contains("Linux version"));
    assert!(count > 100, "{count} lines");
    guest.shutdown().await?;
    Ok(())
}

async fn panic(lab: &'static Lab) -> anyhow::Result<()> {
    let mut config = lab.config("client1", 1);
    let log = lab
        .cache
        .root()
        .join("tmp")
        .join(format!("console-{}", std::process::id()));
    config.console_log = Some(log.clone());
    let guest = Guest::boot(config, &lab.cache).await?;
    // This sleeps for ever; the panic must end the wait, not the deadline.
    guest
        .spawn("crash", "sleep 1; echo c > /proc/sysrq-trigger")
        .await?;
    let error = guest
        .exec("sleep 1000", Duration::from_secs(900))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Gone { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("sysrq triggered crash") && text.contains("Kernel panic"),
        "{text}"
    );
    let is_panic = |kind: &EventKind| matches!(kind, EventKind::Panic(_));
    assert!(guest.events().wait_for(DEADLINE, is_panic).await.is_some());
    assert!(fs::read_to_string(&log)?.contains("Kernel panic"));
    fs::remove_file(log)?;
    guest.shutdown().await?;
    Ok(())
}

async fn two_guests(lab: &'static Lab) -> anyhow::Result<()> {
    let (one, two) = tokio::try_join!(lab.boot("client1", 1), lab.boot("client2", 2))?;
    let mut addresses = BTreeSet::new();
    for guest in [&one, &two] {
        let output = guest
            .exec("ping -c 1 -W 10 server >&2 && hostname -i", DEADLINE)
            .await?;
        assert_eq!(output.stdout.trim(), guest.address().to_string(), "{output:?}");
        addresses.insert(output.stdout);
        // And the way back, as a callback would go.
        tokio::net::TcpStream::connect((guest.address(), 111)).await?;
    }
    assert_eq!(addresses.len(), 2);
    one.kill().await?;
    assert!(two.exec("true", DEADLINE).await?.status.success());
    two.shutdown().await?;
    Ok(())
}

async fn mount_without_server(lab: &'static Lab) -> anyhow::Result<()> {
    for direct in [false, true] {
        let mut config = lab.config("client1", 1);
        config.mounts = vec![Mount {
            direct,
            ..Mount::v3("10.77.0.1:/lab", "/mnt")
        }];
        config.boot_deadline = Duration::from_secs(30);
        let begun = std::time::Instant::now();
        let error = Guest::boot(config, &lab.cache).await.err().unwrap().to_string();
        assert!(error.contains("mounting 10.77.0.1:/lab on /mnt"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(32), "{:?}", begun.elapsed());
    }
    let mut config = lab.config("client1", 1);
    config.mounts = vec![Mount::v3("10.77.0.1:/lab", "/mnt")];
    config.network = None;
    let error = Guest::boot(config, &lab.cache).await.err().unwrap().to_string();
    assert!(error.contains("enter_namespace"), "{error}");
    Ok(())
}

async fn without_daemons(lab: &'static Lab) -> anyhow::Result<()> {
    let mut config = lab.config("client1", 1);
    config.fixture = Fixture {
        rpcbind: false,
        statd: false,
    };
    config.nlm_timeout = Some(3);
    let guest = Guest::boot(config, &lab.cache).await?;
    let output = guest
        .exec("ps -eo comm; cat /proc/sys/fs/nfs/nlm_timeout", DEADLINE)
        .await?;
    assert!(
        !output.stdout.contains("rpcbind") && !output.stdout.contains("rpc.statd"),
        "{output:?}"
    );
    assert!(output.stdout.ends_with("\n3\n"), "{output:?}");
    guest.shutdown().await?;
    Ok(())
}

async fn terminal(lab: &'static Lab) -> anyhow::Result<()> {
    let guest = lab.boot("client1", 1).await?;
    let mut terminal = guest.shell(24, 80).await?;
    terminal
        .input
        .send(b"stty size; echo $((6 * 7))-is-it; exit 3\n".to_vec())
        .await?;
    let mut shown = String::new();
    while !shown.contains("42-is-it") {
        let bytes = tokio::time::timeout(DEADLINE, terminal.output.recv()).await??;
        shown.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(shown.contains("24 80"), "{shown}");
    assert_eq!(guest.wait("shell", DEADLINE).await?, Status::Exited(3));
    guest.shutdown().await?;
    Ok(())
}

async fn killed_and_dropped(lab: &'static Lab) -> anyhow::Result<()> {
    let guest = lab.boot("client1", 1).await?;
    let mut events = guest.events();
    guest.kill().await?;
    let is_gone = |kind: &EventKind| matches!(kind, EventKind::Gone(how) if how.contains("signal: 9"));
    assert!(events.wait_for(DEADLINE, is_gone).await.is_some());

    let guest = lab.boot("client1", 1).await?;
    let mut events = guest.events();
    // Its place is taken, and the error says by whom.
    let error = lab.boot("client2", 1).await.err().unwrap().to_string();
    assert!(error.contains("guest 1 still runs"), "{error}");
    drop(guest);
    // Gone at once: its place is free.
    lab.boot("client2", 1).await?.shutdown().await?;
    assert!(events.wait_for(DEADLINE, is_gone).await.is_some());
    Ok(())
}
