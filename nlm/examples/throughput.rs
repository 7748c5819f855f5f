//! How many LOCK and UNLOCK pairs a second the service does, without any socket, on a file where nothing,
//! ten thousand or a million other locks are held; and how much memory a held lock takes.
//!
//! `cargo run --release -p nfslab-nlm --example throughput`

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a measurement needs a clock"
)]

use nfslab_nlm::effect::Effects;
use nfslab_nlm::hosts::{HostKey, Transport};
use nfslab_nlm::personality::Personality;
use nfslab_nlm::range::Kind;
use nfslab_nlm::request::{Call, CallId, Reply, Request};
use nfslab_nlm::service::{FileCheck, LockService};
use proto::nlm::{LockArgs, Nlm4Lock, Nlm4Stat, UnlockArgs};
use std::time::{Duration, Instant};

struct Client {
    service: LockService,
    fx: Effects,
    from: HostKey,
}

fn files(_: &[u8], _: Kind) -> FileCheck {
    FileCheck::Ok
}

const GRANTED: Option<Reply> = Some(Reply::Stat(Nlm4Stat::NLM4_GRANTED));

impl Client {
    fn new() -> Self {
        let localhost = [127, 0, 0, 1].into();
        let from = HostKey {
            peer: localhost,
            server: localhost,
            transport: Transport::Tcp,
            version: 4,
        };
        Client {
            service: LockService::new(Personality::default()),
            fx: Effects::new(),
            from,
        }
    }

    fn call(&mut self, request: Request<'_>) -> Option<Reply> {
        let call = Call {
            id: CallId(1),
            from: self.from,
            request,
        };
        self.service.call(Duration::ZERO, call, &files, &mut self.fx)
    }

    fn lock(&mut self, alock: Nlm4Lock<'_>, exclusive: bool) -> Option<Reply> {
        let cookie = [0, 0, 0, 7][..].into();
        self.call(Request::NmLock(LockArgs {
            cookie,
            block: false,
            exclusive,
            alock,
            reclaim: false,
            state: 3,
        }))
    }

    fn pair(&mut self, alock: Nlm4Lock<'_>) {
        assert_eq!(self.lock(alock, true), GRANTED);
        assert_eq!(
            self.call(Request::Unlock(UnlockArgs {
                cookie: [0, 0, 0, 7][..].into(),
                alock
            })),
            GRANTED
        );
    }
}

fn alock<'a>(oh: &'a [u8], svid: u32, l_offset: u64, l_len: u64) -> Nlm4Lock<'a> {
    let fh: &[u8] = b"a file handle of thirty-two byte";
    Nlm4Lock {
        caller_name: "client1".into(),
        fh: fh.into(),
        oh: oh.into(),
        svid: svid as i32,
        l_offset,
        l_len,
    }
}

/// Resident memory in bytes (Linux only).
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse::<usize>()
        .ok()
        .map(|kb| kb * 1024)
}

/// Where the n-th of the locks that are there already lies: far apart and in no order.
fn place(n: u32, held: u32) -> u64 {
    u64::from(n) * 7_368_787 % u64::from(held.max(1)) * 100
}

/// Best of five runs, in pairs a second.
fn measure(client: &mut Client, mut at: impl FnMut(u32) -> (u32, u64)) -> f64 {
    const PAIRS: u32 = 300_000;
    (0..5)
        .map(|_| {
            let start = Instant::now();
            for n in 0..PAIRS {
                let (svid, offset) = at(n);
                client.pair(alock(b"17@client1", svid, offset, 10));
            }
            f64::from(PAIRS) / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// One line of the table.
fn run(held: u32, exclusive: bool, owners: u32) {
    let mut client = Client::new();
    let before = resident();
    for n in 0..held {
        let svid = 1_000_000 + n % owners;
        let oh = format!("{svid}@client1");
        assert_eq!(
            client.lock(alock(oh.as_bytes(), svid, place(n, held), 50), exclusive),
            GRANTED
        );
    }
    let per_lock = match (before, resident()) {
        (Some(before), Some(after)) if held > 100_000 => {
            format!("{:.0}", after.saturating_sub(before) as f64 / f64::from(held))
        }
        _ => "-".to_owned(),
    };
    let same = measure(&mut client, |n| (n % 64, 60 + 100 * u64::from(n % 64)));
    let spread = measure(&mut client, |n| (n % 64, 60 + place(n.wrapping_mul(31), held)));
    let kind = if exclusive { "exclusive" } else { "shared" };
    println!("{held:>9} {kind:<9} {owners:>9} {same:>14.0} {spread:>14.0} {per_lock:>14}");
}

/// Without arguments every line is measured in a process of its own, so that one does not leave its memory
/// to the next. With `HELD exclusive|shared OWNERS` it is that line alone.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [held, kind, owners] = args.as_slice() {
        run(held.parse()?, kind == "exclusive", owners.parse()?);
        return Ok(());
    }
    println!("LOCK and UNLOCK pairs a second, beside locks that others hold on the same file");
    let head = ["held", "kind", "owners", "64 places", "everywhere", "bytes/lock"];
    println!(
        "{:>9} {:<9} {:>9} {:>14} {:>14} {:>14}",
        head[0], head[1], head[2], head[3], head[4], head[5]
    );
    for line in [
        ["0", "exclusive", "1"],
        ["10000", "exclusive", "10000"],
        ["1000000", "exclusive", "1000000"],
        ["1000000", "shared", "1000000"],
        ["1000000", "exclusive", "1"],
    ] {
        std::process::Command::new(std::env::current_exe()?)
            .args(line)
            .status()?;
    }
    Ok(())
}
