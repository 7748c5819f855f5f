//! The transcripts of locks in `tests/transcripts`, played to Linux' lock manager: an opinion on them that nobody of
//! us wrote. Ours, as personality `linux-6.1`, answers them in `tests/transcripts.rs`.
//!
//! Each machine of a transcript is an address of its own, with a port mapper and a lock manager that lockd calls back,
//! and each of its files one that no other transcript uses. Who holds what is read from the guest's `/proc/locks`. That
//! names lockd as the process of all of them, so TEST asks for whom a lock is in the way.

use crate::Any;
use crate::accepted::MADE_FOR;
use crate::common::{connect_to, make_file_in, mounted_from};
use crate::fake_client::FakeClient;
use crate::knfsd::Knfsd;
use crate::messages::{self, Raw};
use crate::player::{self, Player, same};
use crate::proc_locks::{self, Row};
use bytes::Bytes;
use nfslab_tests::transcript::{Answer, Ask, Call, Command, Lock, Need, Owner, Transcript};
use proto::nfs3::{Diropargs3, Nfs3Proc, NfsFh3};
use proto::nlm::{self, Netobj, Nlm4Stat, NlmProc, V4};
use proto::nsm::{self, SmProc, StatChge};
use proto::portmap::{self, IpProto, Mapping, PmapProc};
use rpc::client::{CallError, Client, Target};
use rpc::msg::{RpcError, Transport};
use rpc::xdr;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use vm::net;

/// How long anything that must come may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long there must be no call for there to be none. lockd decides on calls before it takes the next from us, so
/// that it is only the way that takes time.
const QUIET: Duration = Duration::from_millis(200);
/// This player in the list of differences; `knfsd-7.3` with a kernel of this series alone.
const NAME: &str = "knfsd";
/// Ours that the answers are those of.
const PERSONALITY: &str = "linux-6.1";

/// Whether the lockd of these kernels can be tried with a transcript: its policies and its clock are what they are.
fn can(transcript: &Transcript, series: &str) -> bool {
    let cannot = [Need::VirtualTime, Need::Health, Need::Restart];
    let personality = transcript.personality.as_deref();
    cannot.iter().all(|need| !transcript.needs().contains(need))
        && personality.is_none_or(|name| name == PERSONALITY && series == MADE_FOR)
        && transcript.settings.is_empty()
}

/// Plays those that `wanted` chooses by name, and says whether all came as they should, or as it is listed.
pub fn compare(knfsd: &Knfsd, series: &str, runtime: &Runtime, wanted: impl Fn(&str) -> bool) -> Any<bool> {
    let all = Transcript::read_all(&player::folder())?;
    let mut differences = player::differences()?;
    let of_series = format!("{NAME}-{series}");
    differences.retain(|(player, _), _| *player == NAME || *player == of_series);
    let linux = runtime.block_on(Linux::find(knfsd, runtime))?;
    let (mut played, mut agreed, mut listed, mut wrong) = (0, 0, 0, 0);
    for transcript in all.iter().filter(|t| can(t, series) && wanted(&t.name())) {
        played += 1;
        let outcome = player::play(transcript, &mut OneTranscript::of(&linux, transcript));
        let of_all = differences.remove(&(NAME.to_owned(), transcript.name()));
        let of_series = differences.remove(&(of_series.clone(), transcript.name()));
        match (outcome, of_series.as_ref().or(of_all.as_ref())) {
            // The list is made for one kernel; others may have mended what is listed.
            (Ok(()), Some(_)) if of_series.is_none() && series != MADE_FOR => agreed += 1,
            (Ok(()), None) => agreed += 1,
            (outcome, why) => match player::judge(outcome, why) {
                Ok(()) => listed += 1,
                Err(problem) => {
                    wrong += 1;
                    println!("locks/{}: {problem}", transcript.name());
                }
            },
        }
    }
    for ((_, name), why) in differences.iter().filter(|((_, name), _)| wanted(name)) {
        wrong += 1;
        println!("locks/{name}: a difference is listed, and it is not played: {why}");
    }
    println!(
        "locks: {played} of {} transcripts played: {agreed} answered as by {PERSONALITY}, {listed} differently for a \
         listed reason, {wrong} differently and unexplained",
        all.len()
    );
    Ok(wrong == 0)
}

/// Where its services are, and the export.
struct Linux<'a> {
    knfsd: &'a Knfsd,
    runtime: &'a Runtime,
    nfs: Client,
    root: Vec<u8>,
    lockd: SocketAddr,
    statd: SocketAddr,
    /// The last address that a machine was given.
    peer: Cell<u8>,
}

impl<'a> Linux<'a> {
    async fn find(knfsd: &'a Knfsd, runtime: &'a Runtime) -> Any<Linux<'a>> {
        let udp = IpProto::IPPROTO_UDP;
        let tcp = IpProto::IPPROTO_TCP;
        let mount = ask_port(knfsd.address(), proto::mount::PROGRAM, 3, tcp).await?;
        let nfs = ask_port(knfsd.address(), proto::nfs3::PROGRAM, 3, tcp).await?;
        let mount = connect_to(None, mount, Transport::Tcp).await?;
        Ok(Linux {
            knfsd,
            runtime,
            nfs: connect_to(None, nfs, Transport::Tcp).await?,
            root: mounted_from(&mount).await,
            lockd: ask_port(knfsd.address(), nlm::PROGRAM, V4, tcp).await?,
            statd: ask_port(knfsd.address(), nsm::PROGRAM, 1, udp).await?,
            peer: Cell::new(0),
        })
    }

    /// An address that no other machine has had. There are more than the transcripts have machines.
    fn fresh_address(&self) -> Result<IpAddr, String> {
        let next = self.peer.get() + 1;
        if next == u8::MAX {
            return Err("there are no more addresses for machines".into());
        }
        self.peer.set(next);
        Ok(net::peer(next).into())
    }
}

async fn ask_port(host: IpAddr, prog: u32, vers: u32, prot: IpProto) -> Any<SocketAddr> {
    let mapper = SocketAddr::new(host, portmap::PMAP_PORT);
    let mapper = connect_to(None, mapper, Transport::Tcp).await?;
    let getport = Target::new(portmap::PROGRAM, 2, PmapProc::PMAPPROC_GETPORT.0);
    let mapping = Mapping {
        prog,
        vers,
        prot,
        port: 0,
    };
    let reply = mapper.call(getport, &mapping, PATIENCE).await?;
    let port: u32 = xdr::from_bytes(&reply)?;
    Ok(SocketAddr::new(host, port.try_into()?))
}

/// A transcript under way.
struct OneTranscript<'a> {
    linux: &'a Linux<'a>,
    name: String,
    machines: BTreeMap<IpAddr, Machine>,
    addresses: BTreeMap<String, IpAddr>,
    /// Handles by path.
    files: BTreeMap<String, Vec<u8>>,
    cookies: BTreeMap<Owner, Vec<u8>>,
    same_address: Vec<Vec<String>>,
}

struct Machine {
    callee: FakeClient,
    client: Client,
}

impl Player for OneTranscript<'_> {
    fn play(&mut self, command: &Command) -> Result<(), String> {
        self.linux.runtime.block_on(self.command(command))
    }
}

impl<'a> OneTranscript<'a> {
    fn of(linux: &'a Linux<'a>, transcript: &Transcript) -> OneTranscript<'a> {
        OneTranscript {
            linux,
            name: transcript.name(),
            machines: BTreeMap::new(),
            addresses: BTreeMap::new(),
            files: BTreeMap::new(),
            cookies: BTreeMap::new(),
            same_address: transcript.same_address.clone(),
        }
    }

    async fn command(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Call(call, answer) => {
                let got = self.call(call, matches!(answer, Answer::Denied(..))).await?;
                same(answer, &got)
            }
            Command::Callback(None) => self.quiet().await,
            Command::Callback(Some(lock)) => self.called(lock).await,
            Command::GrantedRes(who, stat) => {
                let cookie = self.cookies.get(who).ok_or("this owner has had no GRANTED")?;
                let (cookie, stat) = (Netobj::from(&cookie[..]), *stat);
                let res = xdr::to_bytes(&nlm::Res { cookie, stat });
                self.send(&who.host, V4, NlmProc::NLM_GRANTED_RES, res).await?;
                Ok(())
            }
            Command::Held(file, locks) => self.held(file, locks).await,
            Command::Waiting(owners) => self.waiting(owners.len()).await,
            Command::Reboot(host, state) => self.reboot(host, state.unwrap_or(1001)).await,
            Command::ForgedReboot(host) => self.forged_reboot(host).await,
            Command::Answered(..)
            | Command::Restart(_)
            | Command::Tick(_)
            | Command::Statd(_)
            | Command::Lockd(_) => Err("not with Linux".into()),
        }
    }

    async fn machine(&mut self, host: &str) -> Result<&mut Machine, String> {
        if !self.addresses.contains_key(host) {
            let address = self.linux.fresh_address()?;
            let group = self
                .same_address
                .iter()
                .find(|group| group.iter().any(|h| h == host));
            let group = group.cloned().unwrap_or_else(|| vec![host.to_owned()]);
            self.addresses
                .extend(group.into_iter().map(|host| (host, address)));
        }
        let address = self.addresses[host];
        if !self.machines.contains_key(&address) {
            let IpAddr::V4(v4) = address else {
                return Err("no address".into());
            };
            let callee = FakeClient::start(v4.octets()).await;
            let callee = callee.ok_or("port 111 of a machine cannot be had")?;
            let from = SocketAddr::new(address, 0);
            let client = connect_to(Some(from), self.linux.lockd, Transport::Tcp).await;
            let client = client.map_err(|error| error.to_string())?;
            self.machines.insert(address, Machine { callee, client });
        }
        self.machines.get_mut(&address).ok_or_else(|| "no machine".into())
    }

    /// What a file of the transcript is called in the export.
    fn file_name(&self, path: &str) -> String {
        format!("{}.{}", self.name, path.trim_start_matches('/'))
    }

    async fn file(&mut self, path: &str) -> Vec<u8> {
        if let Some(handle) = self.files.get(path) {
            return handle.clone();
        }
        let handle = make_file_in(&self.linux.nfs, &self.linux.root, &self.file_name(path)).await;
        self.files.insert(path.to_owned(), handle.clone());
        handle
    }

    /// The handle of a file that was there.
    async fn removed_file(&self) -> Result<Vec<u8>, String> {
        let name = self.file_name("gone");
        let handle = make_file_in(&self.linux.nfs, &self.linux.root, &name).await;
        let target = Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_REMOVE.0);
        let file = Diropargs3 {
            dir: NfsFh3::from(&self.linux.root[..]),
            name: name.as_str().into(),
        };
        let reply = self.linux.nfs.call(target, &file, PATIENCE).await;
        let reply = reply.map_err(|error| error.to_string())?;
        same(&&[0; 4][..], &reply.get(..4).unwrap_or_default())?;
        Ok(handle)
    }

    async fn send(
        &mut self,
        host: &str,
        version: u32,
        procedure: NlmProc,
        args: Bytes,
    ) -> Result<Bytes, String> {
        let target = Target::new(nlm::PROGRAM, version, procedure.0);
        let client = &self.machine(host).await?.client;
        let result = client.call(target, &Raw(args), PATIENCE).await;
        result.map_err(|error| error.to_string())
    }

    async fn call(&mut self, call: &Call, with_holder: bool) -> Result<Answer, String> {
        let fh = match &*call.bytes.file {
            "" => Vec::new(),
            _ if call.stale => self.removed_file().await?,
            file => self.file(file).await,
        };
        let (procedure, args) = messages::ask(call, &padded(fh, call.version))?;
        let result = self.send(&call.who.host, call.version, procedure, args).await?;
        messages::answer(call, with_holder, &result)
    }

    /// The next call of the server to this machine, which must be a GRANTED for this lock.
    async fn called(&mut self, lock: &Lock) -> Result<(), String> {
        let fh = self.file(&lock.bytes.file).await;
        let calls = &mut self.machine(&lock.who.host).await?.callee.calls;
        let called = tokio::time::timeout(PATIENCE, calls.recv()).await.ok().flatten();
        let called = called.ok_or("no GRANTED comes")?;
        same(&NlmProc::NLM_GRANTED_MSG, &called.procedure)?;
        same(&Transport::Tcp, &called.transport)?;
        same(&self.linux.knfsd.address(), &called.from)?;
        let asked = called.asked.map(|mapping| (mapping.prog, mapping.vers));
        same(&Some((nlm::PROGRAM, called.version)), &asked)?;
        let cookie = messages::granted(called.version, &called.args, lock, &padded(fh, called.version))?;
        self.cookies.insert(lock.who.clone(), cookie);
        Ok(())
    }

    /// No machine is called.
    async fn quiet(&mut self) -> Result<(), String> {
        let hosts: Vec<String> = self.addresses.keys().cloned().collect();
        if let Some(host) = hosts.first() {
            self.send(host, V4, NlmProc::NLM_NULL, Bytes::new()).await?;
        }
        let end = tokio::time::Instant::now() + QUIET;
        for machine in self.machines.values_mut() {
            if let Ok(call) = tokio::time::timeout_at(end, machine.callee.calls.recv()).await {
                return Err(format!("there is one: {call:?}"));
            }
        }
        Ok(())
    }

    async fn reboot(&mut self, host: &str, state: i32) -> Result<(), String> {
        let address = self.machine(host).await?.callee.address;
        let from = SocketAddr::new(address, 0);
        let statd = connect_to(Some(from), self.linux.statd, Transport::Udp).await;
        let statd = statd.map_err(|error| error.to_string())?;
        let name = address.to_string();
        let mon_name = name.as_str().into();
        let notify = Target::new(nsm::PROGRAM, 1, SmProc::SM_NOTIFY.0);
        let told = statd.call(notify, &StatChge { mon_name, state }, PATIENCE).await;
        told.map(drop).map_err(|error| error.to_string())
    }

    async fn forged_reboot(&mut self, host: &str) -> Result<(), String> {
        let name = self.machine(host).await?.callee.address.to_string();
        let forged = xdr::to_bytes(&nlm::SmStatus {
            mon_name: name.as_str().into(),
            state: 1001,
            private: [0xff; 16],
        });
        let client = &self.machine("somebody").await?.client;
        let target = Target::new(nlm::PROGRAM, V4, NlmProc::NLM_SM_NOTIFY.0);
        match client.call(target, &Raw(forged), PATIENCE).await {
            Err(CallError::Refused(RpcError::SystemErr)) => Ok(()),
            other => Err(format!("expected SYSTEM_ERR, got {other:?}")),
        }
    }

    /// The kernel's list, as far as it is of this file, or of all those of the transcript.
    async fn table(&self, file: &str) -> Result<Vec<Row>, String> {
        let script = format!("ls -i /lab/{} && cat /proc/locks", self.file_name(file));
        let text = self.linux.knfsd.run("listing locks", &script).await;
        let text = text.map_err(|error| error.to_string())?;
        let listed = text.lines().filter_map(|line| line.trim().split_once(" /lab/"));
        let inodes: Vec<u64> = listed.filter_map(|(inode, _)| inode.parse().ok()).collect();
        let mut rows = proc_locks::parse(&text);
        rows.retain(|row| inodes.contains(&row.inode));
        Ok(rows)
    }

    /// How many wait: who they are, the kernel does not show.
    async fn waiting(&self, expected: usize) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let table = self.table("*").await?;
            let got = table.iter().filter(|row| row.waits).count();
            if got == expected || Instant::now() > end {
                return same(&expected, &got);
            }
        }
    }

    async fn held(&mut self, file: &str, locks: &[Lock]) -> Result<(), String> {
        self.file(file).await;
        let mut expected: Vec<String> = locks.iter().map(kind_and_range).collect();
        expected.sort();
        let end = Instant::now() + PATIENCE;
        loop {
            let table = self.table(file).await?;
            let held = table.iter().filter(|row| !row.waits);
            let mut got: Vec<String> = held.map(Row::to_string).collect();
            got.sort();
            if got == expected || Instant::now() > end {
                same(&expected, &got)?;
                break;
            }
        }
        for lock in locks.iter().filter(|lock| lock.exclusive) {
            self.is_its_own(lock).await?;
        }
        Ok(())
    }

    /// An exclusive lock is in nobody's way but the others'. Of shared ones the owner cannot be found out: Linux
    /// tests for a shared lock, whatever it is asked.
    async fn is_its_own(&mut self, lock: &Lock) -> Result<(), String> {
        let test = Call {
            who: lock.who.clone(),
            ask: Ask::Test,
            exclusive: false,
            bytes: lock.bytes.clone(),
            version: V4,
            oh: None,
            name: None,
            state: 3,
            stale: false,
            cookie: None,
        };
        match self.call(&test, false).await? {
            Answer::Status(Nlm4Stat::NLM4_GRANTED) => Ok(()),
            other => Err(format!("{lock}: this owner's TEST there is {other:?}")),
        }
    }
}

/// As the kernel's list has it, which is without the owner.
fn kind_and_range(lock: &Lock) -> String {
    let kind = if lock.exclusive { "exclusive" } else { "shared" };
    format!("{kind} {} {}", lock.bytes.offset, lock.bytes.len)
}

/// Versions before 4 have handles of NFS version 2, which are 32 bytes long; lockd looks at what is in them.
fn padded(mut fh: Vec<u8>, version: u32) -> Vec<u8> {
    if version != V4 && !fh.is_empty() {
        fh.resize(fh.len().max(32), 0);
    }
    fh
}
