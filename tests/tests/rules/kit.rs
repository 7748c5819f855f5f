//! A server with rules, and a client that sees every byte.

use crate::common::{lock_args, make_file, mounted};
use bytes::Bytes;
use faults::rule::{Rule, RuleFile};
use faults::{Condition, Service};
use nfslab::server::{Config, Drc, Ports, Server};
use nfslab_tests::call::record;
use nfslab_tests::wire::{Connection, Datagrams, Received};
use proto::nfs3::{Diropargs3, Nfs3Proc, NfsFh3, Remove3Res, StableHow, Write3Args};
use proto::nlm::{LockArgs, NlmProc, UnlockArgs};
use rpc::client::{Identity, Target, encode_call};
use rpc::msg::{Reply, RpcError, Transport};
use rpc::xdr::{self, Encode, Writer};
use std::net::SocketAddr;
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(10);
/// The number of a call that is sent only to see that nothing came before its answer.
const AFTER: u32 = 0x00af_7e50;

/// Rules from lines.
pub fn rules(lines: &[&str]) -> Vec<Rule> {
    let rules = lines.iter().map(|line| line.parse().unwrap()).collect();
    let tables = vec![];
    RuleFile { rules, tables }.into_rules().unwrap()
}

pub struct Lab {
    pub server: Server,
    /// The root of the export.
    pub root: Vec<u8>,
    /// A file in it, `f`.
    pub fh: Vec<u8>,
    _folder: Option<tempfile::TempDir>,
}

impl Lab {
    pub async fn start(lines: &[&str]) -> Lab {
        Lab::with(Config::default(), lines).await
    }

    /// A server on which a cache of that service knows repeated calls.
    pub async fn caching(service: Service, lines: &[&str]) -> Lab {
        let drc = Drc::of(&[service]);
        Lab::with(
            Config {
                drc,
                ..Config::default()
            },
            lines,
        )
        .await
    }

    /// One on a real directory, whose calls go through threads. None without root, whom that takes.
    pub async fn on_directory(lines: &[&str]) -> Option<Lab> {
        let folder = tempfile::tempdir().unwrap();
        let export = format!("/lab={}", folder.path().display());
        let config = Config {
            exports: vec![export.parse().unwrap()],
            handle_key: Some(folder.path().with_extension("key")),
            ports: Ports::AUTO,
            ..Config::default()
        };
        if !is_root() {
            println!("skipped: a real directory is exported by root only");
            return None;
        }
        let mut lab = Lab::with(config, lines).await;
        lab._folder = Some(folder);
        Some(lab)
    }

    /// The rules come into force once the file is there.
    pub async fn with(config: Config, lines: &[&str]) -> Lab {
        let lab = Lab::keeping(config).await;
        lab.set(lines);
        lab
    }

    /// A server with the rules that it has at its start.
    pub async fn keeping(config: Config) -> Lab {
        let config = Config {
            ports: Ports::AUTO,
            ..config
        };
        let server = Server::start(config).await.unwrap();
        let root = mounted(&server).await;
        let fh = make_file(&server, "f").await;
        Lab {
            server,
            root,
            fh,
            _folder: None,
        }
    }

    pub fn set(&self, lines: &[&str]) {
        self.server.node().set_rules(rules(lines));
    }

    pub async fn condition(&self, service: Service, condition: Condition) {
        let node = self.server.node();
        node.set_condition(service, condition).await.unwrap();
    }

    pub fn advance(&self, by: Duration) {
        self.server.node().clock.advance(by);
    }

    pub fn address(&self, service: Service) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.server.port(service)))
    }

    pub fn dial(&self, service: Service, transport: Transport) -> Wire {
        let to = self.address(service);
        match transport {
            Transport::Tcp => Wire::Tcp(service, Connection::open(to).unwrap()),
            Transport::Udp => Wire::Udp(service, Datagrams::open(to).unwrap()),
        }
    }

    pub fn tcp(&self, service: Service) -> Wire {
        self.dial(service, Transport::Tcp)
    }

    /// Advances the clock, step by step, until something is so: whatever is to be late may not have begun to wait.
    pub async fn advance_until(&self, by: Duration, mut holds: impl FnMut() -> bool) {
        let advance = async {
            while !holds() {
                self.advance(by);
                // Not as fast as can be: what waits for a socket as well would be given up meanwhile.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let advanced = tokio::time::timeout(PATIENCE, advance).await;
        advanced.expect("it does not come, however late it is");
    }

    /// How many locks are held.
    pub fn held(&self) -> usize {
        self.server.node().locks(None, 9).total
    }

    /// How often the rule was done that stands at this place.
    pub fn done(&self, n: usize) -> u64 {
        self.server.node().rules()[n].fired
    }

    /// Waits until so many calls are held at the gate.
    pub async fn at_gate(&self, gate: &str, count: usize) {
        let node = self.server.node();
        assert!(
            node.wait_at_gate(gate, count, PATIENCE).await,
            "{count} at {gate}: {:?}",
            node.gates()
        );
    }

    /// Waits for an event that has or gets such a name.
    pub async fn happens(&self, name: &str) {
        self.happens_often(name, 1).await;
    }

    /// Waits until there have been so many events with such a name.
    pub async fn happens_often(&self, name: &str, times: usize) {
        let (past, mut live) = self.server.node().events.since(0);
        let is_it = |event: &nfslab::events::Event| event.names().iter().any(|its| its == name);
        let mut seen = past.iter().filter(|event| is_it(event)).count();
        let wait = async {
            while seen < times {
                seen += usize::from(is_it(&live.recv().await.unwrap()));
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("not {times} events {name}"));
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A client's end.
pub enum Wire {
    Tcp(Service, Connection),
    Udp(Service, Datagrams),
}

impl Wire {
    pub fn send(&mut self, message: &Bytes) {
        match self {
            Wire::Tcp(_, connection) => connection.send(&record(message)).unwrap(),
            Wire::Udp(_, datagrams) => datagrams.send(message).unwrap(),
        }
    }

    /// The next message; none if the connection ends.
    pub fn next(&mut self) -> Option<Bytes> {
        match self {
            Wire::Tcp(_, connection) => match connection.receive().unwrap() {
                Received::Message(message) => Some(message),
                Received::Closed => None,
            },
            Wire::Udp(_, datagrams) => Some(datagrams.receive().unwrap()),
        }
    }

    /// The next reply: its number and its result.
    pub fn reply(&mut self) -> (u32, Result<Bytes, RpcError>) {
        let reply = Reply::read(&self.next().expect("not closed")).unwrap();
        (reply.xid, reply.result)
    }

    /// The result of a call.
    pub fn ask(&mut self, call: &Bytes) -> Result<Bytes, RpcError> {
        self.send(call);
        let (xid, result) = self.reply();
        assert_eq!(xid.to_be_bytes()[..], call[..4], "another call's reply");
        result
    }

    /// That nothing else has come: what is sent now is answered next.
    pub fn is_silent(&mut self) {
        let (Wire::Tcp(service, _) | Wire::Udp(service, _)) = self;
        let null = null(AFTER, *service);
        self.send(&null);
        let (xid, result) = self.reply();
        assert_eq!(xid, AFTER, "there was an answer: {result:?}");
    }
}

/// The newest version of a program.
pub fn program(service: Service) -> (u32, u32) {
    match service {
        Service::Portmap => (proto::portmap::PROGRAM, 2),
        Service::Mount => (proto::mount::PROGRAM, 3),
        Service::Nfs => (proto::nfs3::PROGRAM, 3),
        Service::Lockd => (proto::nlm::PROGRAM, 4),
        Service::Statd => (proto::nsm::PROGRAM, 1),
    }
}

/// A call of root's.
pub fn call(xid: u32, target: Target, args: &dyn Encode) -> Bytes {
    let mut message = Writer::new();
    let root = Identity::Sys {
        machine: "test".to_owned(),
        uid: 0,
        gid: 0,
        groups: vec![],
    };
    encode_call(&mut message, xid, target, &root, args);
    message.into_bytes()
}

pub fn null(xid: u32, service: Service) -> Bytes {
    let (program, version) = program(service);
    call(xid, Target::new(program, version, 0), &())
}

pub fn nfs(xid: u32, procedure: Nfs3Proc, args: &dyn Encode) -> Bytes {
    call(xid, Target::new(proto::nfs3::PROGRAM, 3, procedure.0), args)
}

pub fn nlm(xid: u32, procedure: NlmProc, args: &dyn Encode) -> Bytes {
    call(xid, Target::new(proto::nlm::PROGRAM, 4, procedure.0), args)
}

pub fn getattr(xid: u32, fh: &[u8]) -> Bytes {
    nfs(xid, Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from(fh))
}

pub fn remove(xid: u32, dir: &[u8], name: &str) -> Bytes {
    let args = Diropargs3 {
        dir: NfsFh3::from(dir),
        name: name.into(),
    };
    nfs(xid, Nfs3Proc::NFSPROC3_REMOVE, &args)
}

pub fn removed(result: Result<Bytes, RpcError>) -> String {
    let result = result.unwrap();
    xdr::from_bytes::<Remove3Res>(&result)
        .unwrap()
        .status()
        .to_string()
}

pub fn write(xid: u32, fh: &[u8], data: &str) -> Bytes {
    let args = Write3Args {
        file: fh.into(),
        offset: 0,
        count: data.len() as u32,
        stable: StableHow::FILE_SYNC,
        data: data.into(),
    };
    nfs(xid, Nfs3Proc::NFSPROC3_WRITE, &args)
}

/// A LOCK of one byte, whose number is the owner's.
pub fn lock(xid: u32, fh: &[u8], svid: i32) -> Bytes {
    nlm(xid, NlmProc::NLM_LOCK, &lock_args(fh, svid, svid as u64, 1))
}

/// A LOCK of everything that waits if it must.
pub fn lock_all(xid: u32, fh: &[u8], svid: i32) -> Bytes {
    let args = LockArgs {
        block: true,
        ..lock_args(fh, svid, 0, 0)
    };
    nlm(xid, NlmProc::NLM_LOCK, &args)
}

pub fn unlock(xid: u32, fh: &[u8], svid: i32) -> Bytes {
    let args = UnlockArgs {
        cookie: "c".into(),
        alock: lock_args(fh, svid, svid as u64, 1).alock,
    };
    nlm(xid, NlmProc::NLM_UNLOCK, &args)
}

/// The status of an NLM result whose cookie is the test's own.
pub fn stat(result: Result<Bytes, RpcError>) -> u32 {
    let result = result.unwrap();
    assert_eq!(result[..8], *b"\0\0\0\x01c\0\0\0", "the cookie");
    u32::from_be_bytes(result[8..12].try_into().unwrap())
}

/// The first word of a result.
pub fn first(result: Result<Bytes, RpcError>) -> u32 {
    u32::from_be_bytes(result.unwrap()[..4].try_into().unwrap())
}
