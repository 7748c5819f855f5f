//! The whole server over loopback: each machine of a transcript is an address with a port mapper and a lock
//! manager, so that the server can call it back.

use crate::common::{connect, make_file, mounted};
use crate::fake_client::FakeClient;
use crate::messages::{self, Raw};
use bytes::Bytes;
use faults::Service;
use nfslab::server::{Config, Ports, Server};
use nfslab_tests::transcript::{Answer, Call, Command, Lock, Need, Owner, Transcript};
use proto::nfs3::{Diropargs3, Nfs3Proc, NfsFh3};
use proto::nlm::{self, Netobj, NlmProc, V4};
use rpc::client::{CallError, Client, Target};
use rpc::msg::{RpcError, Transport};
use rpc::xdr;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(5);

pub fn can(transcript: &Transcript) -> bool {
    let cannot = [Need::VirtualTime, Need::Health, Need::Restart];
    cannot.iter().all(|need| !transcript.needs().contains(need))
}

pub struct Wire {
    // Before the runtime that its tasks run on.
    world: World,
    runtime: Runtime,
}

struct World {
    server: Server,
    machines: BTreeMap<IpAddr, Machine>,
    addresses: BTreeMap<String, IpAddr>,
    /// Handles by path.
    files: BTreeMap<String, Vec<u8>>,
    cookies: BTreeMap<Owner, Vec<u8>>,
}

struct Machine {
    callee: FakeClient,
    client: Client,
}

/// An address that no other transcript of this process has.
fn fresh_address() -> IpAddr {
    static LAST: AtomicU16 = AtomicU16::new(0);
    let [high, low] = (LAST.fetch_add(1, Ordering::Relaxed) + 257).to_be_bytes();
    Ipv4Addr::new(127, 41, high, low).into()
}

impl Wire {
    pub fn new(transcript: &Transcript) -> Result<Wire, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let config = Config {
            ports: Ports::AUTO,
            personality: super::pure::personality(transcript)?,
            ..Config::default()
        };
        let server = runtime
            .block_on(Server::start(config))
            .map_err(|error| error.to_string())?;
        let mut addresses = BTreeMap::new();
        for group in &transcript.same_address {
            let address = fresh_address();
            addresses.extend(group.iter().map(|host| (host.clone(), address)));
        }
        let world = World {
            server,
            machines: BTreeMap::new(),
            addresses,
            files: BTreeMap::new(),
            cookies: BTreeMap::new(),
        };
        Ok(Wire { world, runtime })
    }
}

impl super::Player for Wire {
    fn play(&mut self, command: &Command) -> Result<(), String> {
        self.runtime.block_on(self.world.play(command))
    }
}

impl World {
    async fn play(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Call(call, answer) => {
                let got = self.call(call, matches!(answer, Answer::Denied(..))).await?;
                super::same(answer, &got)
            }
            Command::Callback(None) => {
                let mut machines = self.machines.values_mut();
                if machines.all(|machine| machine.callee.quiet()) {
                    Ok(())
                } else {
                    Err("there is one".into())
                }
            }
            Command::Callback(Some(lock)) => self.called(lock).await,
            Command::GrantedRes(who, stat) => {
                let cookie = self
                    .cookies
                    .get(who)
                    .cloned()
                    .ok_or("this owner has had no GRANTED")?;
                let (cookie, stat) = (Netobj::from(&cookie[..]), *stat);
                let res = xdr::to_bytes(&nlm::Res { cookie, stat });
                self.send(&who.host, V4, NlmProc::NLM_GRANTED_RES, res).await?;
                Ok(())
            }
            Command::Held(file, locks) => {
                let path = file.trim_start_matches('/');
                self.until(|world| {
                    let held = world.server.node().locks(None, 1000).held;
                    let of_file = held.iter().filter(|lock| lock.path.ends_with(path));
                    let shown = of_file.map(|lock| {
                        format!(
                            "{} {} {} {}",
                            world.who(lock.peer, lock.svid),
                            lock.kind,
                            lock.start,
                            lock.len
                        )
                    });
                    super::same_locks(locks, shown.collect())
                })
                .await
            }
            Command::Waiting(owners) => {
                self.until(|world| {
                    let waiting = world.server.node().locks(None, 1000).waiting;
                    let waiting = waiting.iter().filter(|waiter| !waiter.waits_for.is_empty());
                    let got: Vec<Owner> = waiting.map(|w| world.who(w.lock.peer, w.lock.svid)).collect();
                    super::same(owners, &got)
                })
                .await
            }
            Command::Reboot(host, state) => {
                let address = self.machine(host).await?.callee.address;
                let statd = connect(address, &self.server, Service::Statd, Transport::Udp).await;
                let name = address.to_string();
                let change = proto::nsm::StatChge {
                    mon_name: name.as_str().into(),
                    state: state.unwrap_or(1001),
                };
                let notify = Target::new(proto::nsm::PROGRAM, 1, proto::nsm::SmProc::SM_NOTIFY.0);
                statd
                    .call(notify, &change, PATIENCE)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(())
            }
            Command::ForgedReboot(host) => {
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
            Command::Answered(..)
            | Command::Restart(_)
            | Command::Tick(_)
            | Command::Statd(_)
            | Command::Lockd(_) => Err("not over the wire".into()),
        }
    }

    async fn machine(&mut self, host: &str) -> Result<&mut Machine, String> {
        let address = *self
            .addresses
            .entry(host.to_owned())
            .or_insert_with(fresh_address);
        if !self.machines.contains_key(&address) {
            let IpAddr::V4(v4) = address else {
                return Err("no address".into());
            };
            let callee = FakeClient::start(v4.octets()).await;
            let callee = callee.ok_or("port 111 of a client takes privilege: run as root")?;
            let client = callee.connect(&self.server, Transport::Tcp).await;
            self.machines.insert(address, Machine { callee, client });
        }
        self.machines.get_mut(&address).ok_or_else(|| "no machine".into())
    }

    async fn file(&mut self, path: &str) -> Vec<u8> {
        if !self.files.contains_key(path) {
            let handle = make_file(&self.server, path.trim_start_matches('/')).await;
            self.files.insert(path.to_owned(), handle);
        }
        self.files.get(path).cloned().unwrap_or_default()
    }

    /// The handle of a file that was there.
    async fn removed_file(&self) -> Result<Vec<u8>, String> {
        let handle = make_file(&self.server, "gone").await;
        let root = mounted(&self.server).await;
        let localhost = Ipv4Addr::LOCALHOST.into();
        let nfs = connect(localhost, &self.server, Service::Nfs, Transport::Tcp).await;
        let target = Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_REMOVE.0);
        let file = Diropargs3 {
            dir: NfsFh3::from(&root[..]),
            name: "gone".into(),
        };
        let reply = nfs.call(target, &file, PATIENCE).await;
        let reply = reply.map_err(|error| error.to_string())?;
        super::same(&&[0; 4][..], &reply.get(..4).unwrap_or_default())?;
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
        client
            .call(target, &Raw(args), PATIENCE)
            .await
            .map_err(|error| error.to_string())
    }

    async fn call(&mut self, call: &Call, with_holder: bool) -> Result<Answer, String> {
        let fh = match &*call.bytes.file {
            "" => Vec::new(),
            _ if call.stale => self.removed_file().await?,
            file => self.file(file).await,
        };
        let (procedure, args) = messages::ask(call, &fh)?;
        let result = self.send(&call.who.host, call.version, procedure, args).await?;
        messages::answer(call, with_holder, &result)
    }

    /// The next call of the server to this machine, which must be a GRANTED for this lock.
    async fn called(&mut self, lock: &Lock) -> Result<(), String> {
        let fh = self.file(&lock.bytes.file).await;
        let calls = &mut self.machine(&lock.who.host).await?.callee.calls;
        let called = tokio::time::timeout(PATIENCE, calls.recv()).await.ok().flatten();
        let called = called.ok_or("no GRANTED comes")?;
        super::same(&NlmProc::NLM_GRANTED_MSG, &called.procedure)?;
        super::same(&Transport::Tcp, &called.transport)?;
        super::same(&IpAddr::V4(Ipv4Addr::LOCALHOST), &called.from)?;
        let asked = called.asked.map(|mapping| (mapping.prog, mapping.vers));
        super::same(&Some((nlm::PROGRAM, called.version)), &asked)?;
        let cookie = messages::granted(called.version, &called.args, lock, &fh)?;
        self.cookies.insert(lock.who.clone(), cookie);
        Ok(())
    }

    fn who(&self, peer: IpAddr, svid: i32) -> Owner {
        let host = self.addresses.iter().find(|(_, address)| **address == peer);
        let host = host.map_or_else(|| peer.to_string(), |(host, _)| host.clone());
        Owner { host, svid }
    }

    /// Looks until what is seen is right: a reboot takes effect by way of the status monitor.
    async fn until(&self, look: impl Fn(&World) -> Result<(), String>) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            match look(self) {
                Err(_) if Instant::now() < end => tokio::task::yield_now().await,
                looked => return looked,
            }
        }
    }
}
