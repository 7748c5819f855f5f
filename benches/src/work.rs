//! The workloads: what is called, over how many connections, and which share of the floor's rate is wanted.

use crate::load::{Call, once};
use crate::target::Target;
use anyhow::{Context, Result, bail};
use proto::mount::{DirPath, MountProc, MountRes3};
use proto::nfs3::{
    Create3Args, Create3Res, CreateHow3, Diropargs3, Nfs3Proc, NfsFh3, Read3Args, Sattr3, StableHow,
    Write3Args,
};
use proto::nlm::{LockArgs, Nlm4Lock, NlmProc, UnlockArgs};
use rpc::client::{self, Identity, encode_call};
use rpc::server::mark_record;
use rpc::xdr::{Encode, Reader, Writer, from_bytes};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// What each slot calls in turn.
pub type Plan = Vec<Vec<Call>>;
type Prepared<'a> = Pin<Box<dyn Future<Output = Result<Plan>> + 'a>>;

/// A workload.
pub struct Work {
    pub name: &'static str,
    /// The service it calls, as `--ready-file` names it.
    pub service: &'static str,
    /// Calls in flight on each connection.
    pub depth: usize,
    /// What is wanted: a share of the floor's rate, or of another workload's.
    pub wanted: Wanted,
    /// The rules that are in force, as lines.
    pub rules: fn() -> Vec<String>,
    pub prepare: for<'a> fn(&'a mut Setup) -> Prepared<'a>,
}

impl Work {
    /// Whether it is to reach a share of that one's rate.
    pub fn is_compared_with(&self, other: &Work) -> bool {
        matches!(self.wanted, Wanted::Of(name, _) if name == other.name)
    }
}

/// What a workload is to reach.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// This share of the floor's rate.
    OfFloor(f64),
    /// This share of the rate of the workload with this name.
    Of(&'static str, f64),
    /// This share of the floor's rate, or so many a second.
    OfFloorOr(f64, f64),
}

/// Everything that is asked for in one place. Those that are compared with another follow it.
pub const WORKLOADS: &[Work] = &[
    Work {
        name: LOCK,
        service: "lockd",
        depth: 32,
        wanted: Wanted::OfFloor(0.4),
        rules: no_rules,
        prepare: |setup| Box::pin(locks(setup, 0)),
    },
    Work {
        name: "LOCK and UNLOCK 4x32, 10,000 held",
        service: "lockd",
        depth: 32,
        wanted: Wanted::Of(LOCK, 0.9),
        rules: no_rules,
        prepare: |setup| Box::pin(locks(setup, 10_000)),
    },
    Work {
        name: "LOCK and UNLOCK 4x32, 1,000,000 held",
        service: "lockd",
        depth: 32,
        wanted: Wanted::Of(LOCK, 0.7),
        rules: no_rules,
        prepare: |setup| Box::pin(locks(setup, 1_000_000)),
    },
    Work {
        name: "LOCK and UNLOCK 4x32, 1,000 rules",
        service: "lockd",
        depth: 32,
        wanted: Wanted::Of(LOCK, 0.9),
        rules: thousand_rules,
        prepare: |setup| Box::pin(locks(setup, 0)),
    },
    Work {
        name: "LOCK and UNLOCK 4x32, 1,000 rules by path",
        service: "lockd",
        depth: 32,
        wanted: Wanted::Of(LOCK, 0.9),
        rules: thousand_rules_by_path,
        prepare: |setup| Box::pin(locks(setup, 0)),
    },
    Work {
        name: "LOCK and UNLOCK serial",
        service: "lockd",
        depth: 1,
        wanted: Wanted::OfFloor(0.9),
        rules: no_rules,
        prepare: |setup| Box::pin(serial_locks(setup)),
    },
    Work {
        name: "GETATTR 4x32",
        service: "nfs",
        depth: 32,
        wanted: Wanted::OfFloor(0.5),
        rules: no_rules,
        prepare: |setup| Box::pin(getattr(setup)),
    },
    Work {
        name: "READ 1 MiB 2x8",
        service: "nfs",
        depth: 8,
        wanted: Wanted::OfFloor(0.9),
        rules: no_rules,
        prepare: |setup| Box::pin(read(setup)),
    },
    Work {
        name: "WRITE 1 MiB 2x8",
        service: "nfs",
        depth: 8,
        wanted: Wanted::OfFloor(0.9),
        rules: no_rules,
        prepare: |setup| Box::pin(write(setup)),
    },
    Work {
        name: "CREATE 4x8",
        service: "nfs",
        depth: 8,
        wanted: Wanted::OfFloorOr(0.2, 100_000.0),
        rules: no_rules,
        prepare: |setup| Box::pin(create(setup)),
    },
];

fn no_rules() -> Vec<String> {
    vec![]
}

/// Rules for these calls that mean none of them.
fn thousand_rules() -> Vec<String> {
    let rule = |n: u32| match n % 4 {
        0 => format!(
            "nlm.lock|unlock peer=10.9.{}.{} optional=true -> drop",
            n / 256,
            n % 256
        ),
        1 => format!("nlm.lock|unlock owner={} optional=true -> drop", 1_000_000 + n),
        2 => format!("nlm.lock|unlock caller=nobody{n} optional=true -> drop"),
        _ => format!("nlm.lock|unlock uid={} optional=true -> drop", 70_000 + n),
    };
    (0..1000).map(rule).collect()
}

/// The same by the path, which has to be found out for each call.
fn thousand_rules_by_path() -> Vec<String> {
    let rule = |n: u32| format!("nlm.lock|unlock path=/lab/none{n} optional=true -> drop");
    (0..1000).map(rule).collect()
}

const LOCK: &str = "LOCK and UNLOCK 4x32";
const MIB: u32 = 1 << 20;
/// Where the held locks begin.
const HELD_FROM: u64 = 1 << 40;
/// How many owners hold them.
const OWNERS: u64 = 100;

/// The beginning of every accepted reply: xid, REPLY, MSG_ACCEPTED, verifier, SUCCESS.
const BODY_AT: usize = 24;
/// Behind a cookie of four bytes.
const NLM_STATUS_AT: usize = BODY_AT + 8;

/// A server with an export mounted.
pub struct Setup {
    nfs: TcpStream,
    nlm: SocketAddr,
    root: Vec<u8>,
}

impl Setup {
    pub async fn of(server: &Target) -> Result<Setup> {
        let mut mount = TcpStream::connect(server.address("mount")?).await?;
        let target = client::Target::new(
            proto::mount::PROGRAM,
            proto::mount::V3,
            MountProc::MOUNTPROC3_MNT.0,
        );
        let reply = ask(&mut mount, &record(target, &DirPath::from("/lab"))).await?;
        let MountRes3::Ok { fhandle, .. } = from_bytes(&reply)? else {
            bail!("MNT is refused")
        };
        let root = fhandle.0.to_vec();
        let nfs = TcpStream::connect(server.address("nfs")?).await?;
        Ok(Setup {
            nfs,
            nlm: server.address("lockd")?,
            root,
        })
    }

    async fn file(&mut self, name: &str) -> Result<Vec<u8>> {
        let call = nfs(Nfs3Proc::NFSPROC3_CREATE, &create_args(&self.root, name));
        let reply = ask(&mut self.nfs, &call.record).await?;
        let mut reader = Reader::new(&reply);
        let Create3Res::Ok(ok) = rpc::xdr::Decode::decode(&mut reader)? else {
            bail!("CREATE is refused")
        };
        Ok(ok.obj.context("CREATE gave no handle")?.0.to_vec())
    }
}

/// One call, and what is behind the header of its reply.
async fn ask(stream: &mut TcpStream, record: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(record).await?;
    let len = stream.read_u32().await? & 0x7fff_ffff;
    let mut reply = vec![0; len as usize];
    stream.read_exact(&mut reply).await?;
    Ok(reply.split_off(BODY_AT))
}

fn record(target: client::Target, args: &dyn Encode) -> Vec<u8> {
    let identity = Identity::Sys {
        machine: "bench".into(),
        uid: 0,
        gid: 0,
        groups: vec![],
    };
    let mut w = Writer::new();
    mark_record(&mut w, |w| encode_call(w, 0, target, &identity, args));
    w.into_bytes().to_vec()
}

fn nfs(procedure: Nfs3Proc, args: &dyn Encode) -> Call {
    let target = client::Target::new(proto::nfs3::PROGRAM, proto::nfs3::V3, procedure.0);
    Call {
        record: record(target, args),
        status_at: BODY_AT,
        counter_at: None,
    }
}

fn nlm(procedure: NlmProc, args: &dyn Encode) -> Call {
    let target = client::Target::new(proto::nlm::PROGRAM, proto::nlm::V4, procedure.0);
    Call {
        record: record(target, args),
        status_at: NLM_STATUS_AT,
        counter_at: None,
    }
}

fn alock(fh: &[u8], svid: i32, offset: u64) -> Nlm4Lock<'_> {
    Nlm4Lock {
        caller_name: "bench".into(),
        fh: fh.into(),
        oh: "1234@bench".into(),
        svid,
        l_offset: offset,
        l_len: 1,
    }
}

fn lock(fh: &[u8], svid: i32, offset: u64) -> Call {
    let args = LockArgs {
        cookie: [0, 0, 0, 1][..].into(),
        block: false,
        exclusive: true,
        alock: alock(fh, svid, offset),
        reclaim: false,
        state: 1,
    };
    nlm(NlmProc::NLM_LOCK, &args)
}

fn unlock(fh: &[u8], svid: i32, offset: u64) -> Call {
    let args = UnlockArgs {
        cookie: [0, 0, 0, 2][..].into(),
        alock: alock(fh, svid, offset),
    };
    nlm(NlmProc::NLM_UNLOCK, &args)
}

/// Held locks are of one byte each, with a byte free between them, so that no two can become one.
async fn hold_on(setup: &Setup, fh: &[u8], which: Range<u64>) -> Result<()> {
    let mut stream = TcpStream::connect(setup.nlm).await?;
    let calls = which.map(|n| lock(fh, 10_000 + (n % OWNERS) as i32, HELD_FROM + 2 * n));
    once(&mut stream, calls, 256).await
}

/// Takes these locks on a file, and keeps them.
pub async fn hold(setup: &mut Setup, which: Range<u64>) -> Result<()> {
    let fh = setup.file("held").await?;
    hold_on(setup, &fh, which).await
}

async fn locks(setup: &mut Setup, held: u64) -> Result<Plan> {
    let fh = setup.file("locked").await?;
    hold_on(setup, &fh, 0..held).await?;
    // Each slot has an owner and a byte of its own, between the held ones.
    let slots = 4 * 32;
    let place = |slot: u64| HELD_FROM + 2 * (slot * held.max(slots) / slots) + 1;
    let pair = |slot: u64| {
        vec![
            lock(&fh, slot as i32, place(slot)),
            unlock(&fh, slot as i32, place(slot)),
        ]
    };
    Ok((0..slots).map(pair).collect())
}

async fn serial_locks(setup: &mut Setup) -> Result<Plan> {
    let fh = setup.file("locked").await?;
    Ok(vec![vec![lock(&fh, 1, 0), unlock(&fh, 1, 0)]])
}

async fn getattr(setup: &mut Setup) -> Result<Plan> {
    let fh = setup.file("file").await?;
    let call = nfs(Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from(&fh[..]));
    Ok(vec![vec![call]; 4 * 32])
}

async fn read(setup: &mut Setup) -> Result<Plan> {
    let fh = setup.file("large").await?;
    let writes = write_calls(&fh);
    for call in &writes {
        ask(&mut setup.nfs, &call.record).await?;
    }
    let read = |n: u64| {
        let args = Read3Args {
            file: NfsFh3::from(&fh[..]),
            offset: n * u64::from(MIB),
            count: MIB,
        };
        vec![nfs(Nfs3Proc::NFSPROC3_READ, &args)]
    };
    Ok((0..2 * 8).map(read).collect())
}

/// A MiB for each slot.
fn write_calls(fh: &[u8]) -> Vec<Call> {
    let data = vec![0x5a; MIB as usize];
    let write = |n: u64| {
        let args = Write3Args {
            file: NfsFh3::from(fh),
            offset: n * u64::from(MIB),
            count: MIB,
            stable: StableHow::UNSTABLE,
            data: data[..].into(),
        };
        nfs(Nfs3Proc::NFSPROC3_WRITE, &args)
    };
    (0..2 * 8).map(write).collect()
}

async fn write(setup: &mut Setup) -> Result<Plan> {
    let fh = setup.file("large").await?;
    Ok(write_calls(&fh).into_iter().map(|call| vec![call]).collect())
}

fn create_args<'a>(dir: &'a [u8], name: &'a str) -> Create3Args<'a> {
    Create3Args {
        where_: Diropargs3 {
            dir: NfsFh3::from(dir),
            name: name.into(),
        },
        how: CreateHow3::Unchecked(Sattr3::default()),
    }
}

async fn create(setup: &mut Setup) -> Result<Plan> {
    const DIGITS: &str = "00000000";
    let mut call = nfs(Nfs3Proc::NFSPROC3_CREATE, &create_args(&setup.root, DIGITS));
    let found = call
        .record
        .windows(DIGITS.len())
        .rposition(|w| w == DIGITS.as_bytes());
    call.counter_at = Some(found.context("no name in CREATE")?);
    Ok(vec![vec![call]; 4 * 8])
}

/// So many connections from several addresses, with one lock each, all on one file.
pub async fn connect_and_lock(setup: &mut Setup, connections: u64) -> Result<Vec<TcpStream>> {
    /// From one address; there are some 28,000 ports.
    const EACH: u64 = 5_000;
    let fh = setup.file("held").await?;
    let mut held = Vec::new();
    for n in 0..connections {
        let socket = TcpSocket::new_v4()?;
        let from = Ipv4Addr::new(127, 0, 1, 1 + (n / EACH) as u8);
        socket.bind((IpAddr::V4(from), 0).into())?;
        let mut stream = socket
            .connect(setup.nlm)
            .await
            .with_context(|| format!("connection {n}"))?;
        once(&mut stream, [lock(&fh, n as i32, 2 * n)], 1)
            .await
            .with_context(|| format!("lock {n}"))?;
        held.push(stream);
    }
    Ok(held)
}
