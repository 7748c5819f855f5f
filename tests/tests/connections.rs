//! Many connections, idle ones, several addresses, large datagrams and thousands of fragments.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use common::{connect_to, lock_args, make_file, make_file_in, mounted, mounted_from};
use faults::{Condition, Service};
use nfslab::server::{Config, Ports, Server};
use nfslab_tests::call::{Call, fragments, record};
use nfslab_tests::nfslab_binary;
use nfslab_tests::wire::{Connection, Datagrams, Received};
use proto::nfs3::{
    Fsinfo3Res, Nfs3Proc, NfsFh3, Read3Args, Read3Res, Res3, StableHow, Write3Args, Write3Res,
};
use proto::nlm::{Nlm4Stat, NlmProc, Res};
use proto::portmap::{IpProto, Mapping, PmapProc};
use proto::rpcbind::{Rpcb, RpcbProc, Text, V4, from_uaddr};
use rpc::client::{CallError, Client, Identity, Target, encode_call};
use rpc::msg::{Reply, RpcError, Transport};
use rpc::server::Limits;
use rpc::xdr::{self, Encode, Writer};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn start(config: Config) -> Server {
    let config = Config {
        ports: Ports::AUTO,
        ..config
    };
    Server::start(config).await.unwrap()
}

fn bind(addresses: &[&str]) -> Config {
    Config {
        bind: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..Config::default()
    }
}

async fn connect(server: &Server, ip: &str, service: Service, transport: Transport) -> Client {
    let to = SocketAddr::new(ip.parse().unwrap(), server.port(service));
    connect_to(None, to, transport).await.unwrap()
}

/// A call as root.
fn call(xid: u32, target: Target, args: &dyn Encode) -> Vec<u8> {
    let root = Identity::Sys {
        machine: "test".to_owned(),
        uid: 0,
        gid: 0,
        groups: vec![],
    };
    let mut message = Writer::new();
    encode_call(&mut message, xid, target, &root, args);
    message.into_bytes().to_vec()
}

const fn nfs(procedure: Nfs3Proc) -> Target {
    Target::new(proto::nfs3::PROGRAM, 3, procedure.0)
}

fn lock(xid: u32, fh: &[u8], offset: u64) -> Vec<u8> {
    let args = lock_args(fh, xid as i32, offset, 1);
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);
    call(xid, target, &args)
}

fn lock_status(received: Received) -> Nlm4Stat {
    let Received::Message(message) = received else {
        panic!("closed")
    };
    let result = Reply::read(&message).unwrap().result.unwrap();
    xdr::from_bytes::<Res<'_>>(&result).unwrap().stat
}

// --- idle connections -------------------------------------------------------------------------------

/// Closed are: one that never called, one that has called once, one with half a record. Not closed: one that goes on
/// calling, and one whose call is still to be answered.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_unless_a_call_is_to_be_answered() {
    let idle = Duration::from_millis(150);
    let server = start(Config {
        limits: Limits {
            idle: Some(idle),
            ..Limits::default()
        },
        ..Config::default()
    })
    .await;
    let fh = make_file(&server, "f").await;
    let node = server.node();
    node.set_condition(Service::Lockd, Condition::Hung).await.unwrap();
    let nlm = SocketAddr::new(HERE, server.port(Service::Lockd));
    let portmap = SocketAddr::new(HERE, server.port(Service::Portmap));
    let null = record(&Call::null(1, proto::portmap::PROGRAM, 2).message());

    let mut waiting = Connection::open(nlm).unwrap();
    waiting.send(&record(&lock(1, &fh, 0))).unwrap();
    let mut busy = Connection::open(portmap).unwrap();
    let started = Instant::now();
    let mut silent = Connection::open(portmap).unwrap();
    let mut once = Connection::open(portmap).unwrap();
    once.send(&null).unwrap();
    let mut half = Connection::open(portmap).unwrap();
    half.send(&null[..20]).unwrap();
    assert!(matches!(once.receive().unwrap(), Received::Message(_)));
    let doomed = std::thread::spawn(move || {
        for connection in [&mut silent, &mut once, &mut half] {
            assert_eq!(connection.receive().unwrap(), Received::Closed);
            assert!(started.elapsed() >= idle, "{:?}", started.elapsed());
        }
    });
    // Far more than twice the period for the two that must stay.
    while !doomed.is_finished() || started.elapsed() < idle * 5 {
        busy.send(&null).unwrap();
        assert!(
            matches!(busy.receive().unwrap(), Received::Message(_)),
            "it was not idle"
        );
    }
    doomed.join().unwrap();
    node.set_condition(Service::Lockd, Condition::Ok).await.unwrap();
    assert_eq!(lock_status(waiting.receive().unwrap()), Nlm4Stat::NLM4_GRANTED);
    assert_eq!(
        waiting.receive().unwrap(),
        Received::Closed,
        "answered, and then idle"
    );
    server.stop().await;
}

// --- ten thousand -----------------------------------------------------------------------------------

struct Process {
    child: Child,
    addresses: Value,
}

impl Process {
    /// A server of its own, so that its memory can be told from ours.
    fn start(more: &[&str]) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        // With the usual limit of descriptors, which the server has to raise by itself.
        let child = Command::new("sh")
            .args(["-c", "ulimit -S -n 1024; exec \"$0\" \"$@\""])
            .arg(nfslab_binary())
            .args(["serve", "--ports", "auto", "--control", "none", "--ready-file"])
            .arg(&ready)
            .args(more)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !ready.exists() {
            assert!(Instant::now() < deadline, "not ready");
            std::thread::yield_now();
        }
        let addresses = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        Process { child, addresses }
    }

    fn at(&self, service: &str) -> SocketAddr {
        let port = self.addresses["ports"][service].as_u64().unwrap();
        SocketAddr::new(HERE, port as u16)
    }

    /// Its memory, in bytes.
    fn rss(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As many descriptors as this process may have, or can have as root.
fn allow_descriptors(wanted: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let hard = hard.max(wanted);
    let set = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    set.unwrap_or_else(|error| panic!("{wanted} descriptors are needed (ulimit -Hn): {error}"));
}

/// Each of them takes a lock; none is refused, and all of them together take less than 500 MB.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_hold_a_lock_each() {
    const CONNECTIONS: u32 = 10_000;
    allow_descriptors(u64::from(CONNECTIONS) + 500);
    let server = Process::start(&[]);
    let client = async |service| {
        connect_to(None, server.at(service), Transport::Tcp)
            .await
            .unwrap()
    };
    let root = mounted_from(&client("mount").await).await;
    let fh = make_file_in(&client("nfs").await, &root, "f").await;
    let nlm = server.at("lockd");
    let before = server.rss();
    let started = Instant::now();
    let mut open: Vec<Connection> = (0..CONNECTIONS)
        .map(|_| Connection::open(nlm).expect("a connection"))
        .collect();
    let connected = server.rss();
    for (xid, connection) in (1..).zip(&mut open) {
        let call = record(&lock(xid, &fh, u64::from(xid)));
        connection.send(&call).expect("a call is sent");
    }
    for connection in &mut open {
        let answer = connection.receive().expect("an answer");
        assert_eq!(lock_status(answer), Nlm4Stat::NLM4_GRANTED);
    }
    let locked = server.rss();
    let each = |now: usize| now.saturating_sub(before) / CONNECTIONS as usize;
    println!(
        "{CONNECTIONS} connections: {} bytes each, {} with a lock; {} MB in all; {:?}",
        each(connected),
        each(locked),
        locked >> 20,
        started.elapsed()
    );
    assert!(locked < 500 << 20, "{locked} bytes");
    assert!(each(locked) < 16 << 10, "{} bytes each", each(locked));
}

// --- several addresses ------------------------------------------------------------------------------

/// Where a program is, by GETADDR.
async fn getaddr(server: &Server, ip: &str, transport: Transport, program: u32) -> SocketAddr {
    let question = Rpcb {
        r_prog: program,
        r_vers: 3,
        r_netid: "".into(),
        r_addr: "".into(),
        r_owner: "".into(),
    };
    let target = Target::new(proto::rpcbind::PROGRAM, V4, RpcbProc::RPCBPROC_GETADDR.0);
    let rpcbind = connect(server, ip, Service::Portmap, transport).await;
    let answer = rpcbind.call(target, &question, PATIENCE).await.unwrap();
    let uaddr: Text<'_> = xdr::from_bytes(&answer).unwrap();
    from_uaddr(&uaddr).unwrap_or_else(|| panic!("{program} is at \"{uaddr}\""))
}

/// Every program answers at this address, on the ports of all; rpcbind names the address that was asked. A client's
/// datagram socket is connected, so an answer from elsewhere would not reach it.
async fn check_address(server: &Server, ip: &str) {
    for service in Service::ALL {
        let (program, version) = match service {
            Service::Portmap => (100_000, 2),
            Service::Mount => (100_005, 3),
            Service::Nfs => (100_003, 3),
            Service::Lockd => (100_021, 4),
            Service::Statd => (100_024, 1),
        };
        for transport in [Transport::Tcp, Transport::Udp] {
            let client = connect(server, ip, service, transport).await;
            let answer = client.call(Target::new(program, version, 0), &(), PATIENCE).await;
            answer.unwrap_or_else(|error| panic!("{service} at {ip} by {transport:?}: {error}"));
            let found = getaddr(server, ip, transport, program).await;
            let expected = SocketAddr::new(ip.parse().unwrap(), server.port(service));
            assert_eq!(found, expected, "{transport:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_is_served_on_the_same_ports() {
    let server = start(bind(&["127.0.0.1", "::1", "127.0.0.3"])).await;
    for ip in ["127.0.0.1", "::1", "127.0.0.3"] {
        check_address(&server, ip).await;
    }
    let other = SocketAddr::from(([127, 0, 0, 2], server.port(Service::Nfs)));
    let refused = std::net::TcpStream::connect(other).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // A service that comes back does so on all of them.
    let node = server.node();
    for condition in [Condition::Absent, Condition::Ok] {
        node.set_condition(Service::Nfs, condition).await.unwrap();
    }
    check_address(&server, "127.0.0.3").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_comes_from_the_address_that_was_asked() {
    for (any, asked) in [
        (&["0.0.0.0"][..], &["127.0.0.1", "127.0.0.2"][..]),
        (&["::"], &["127.0.0.2", "::1"]),
        (&["0.0.0.0", "::"], &["127.0.0.2", "::1"]),
    ] {
        let server = start(bind(any)).await;
        for ip in asked {
            check_address(&server, ip).await;
        }
        server.stop().await;
    }
}

#[test]
fn the_ready_file_names_every_address() {
    let server = Process::start(&["--bind", "127.0.0.2", "--bind", "::1", "--drc", "nfs,lockd"]);
    assert_eq!(server.addresses["address"], "127.0.0.2");
    assert_eq!(
        server.addresses["addresses"],
        serde_json::json!(["127.0.0.2", "::1"])
    );
}

// --- datagrams --------------------------------------------------------------------------------------

/// READ and WRITE beyond what UDP carries are cut to FSINFO's sizes, as knfsd does it; both are answered.
#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_nearly_64_kib_are_answered() {
    let server = start(Config::default()).await;
    let root = mounted(&server).await;
    let fh = make_file(&server, "f").await;
    let client = connect(&server, "127.0.0.1", Service::Nfs, Transport::Udp).await;
    let fsroot = NfsFh3::from(&root[..]);
    let answer = client
        .call(nfs(Nfs3Proc::NFSPROC3_FSINFO), &fsroot, PATIENCE)
        .await;
    let answer = answer.unwrap();
    let Res3::Ok(fsinfo) = xdr::from_bytes::<Fsinfo3Res>(&answer).unwrap() else {
        panic!("no FSINFO")
    };
    assert_eq!((fsinfo.rtmax, fsinfo.wtmax), (32 << 10, 32 << 10));
    let data: Vec<u8> = (0..65_300u32).map(|i| i as u8).collect();
    let args = Write3Args {
        file: NfsFh3::from(&fh[..]),
        offset: 0,
        count: data.len() as u32,
        stable: StableHow::FILE_SYNC,
        data: data.as_slice().into(),
    };
    let answer = client.call(nfs(Nfs3Proc::NFSPROC3_WRITE), &args, PATIENCE).await;
    let answer = answer.unwrap();
    let Res3::Ok(written) = xdr::from_bytes::<Write3Res>(&answer).unwrap() else {
        panic!("not written")
    };
    assert_eq!(written.count, fsinfo.wtmax);
    let args = Read3Args {
        file: NfsFh3::from(&fh[..]),
        offset: 0,
        count: 65_000,
    };
    let answer = client.call(nfs(Nfs3Proc::NFSPROC3_READ), &args, PATIENCE).await;
    let answer = answer.unwrap();
    let Res3::Ok(read) = xdr::from_bytes::<Read3Res<'_>>(&answer).unwrap() else {
        panic!("not read")
    };
    assert_eq!(read.data.0, &data[..32 << 10]);
    server.stop().await;
}

/// A list of registrations beyond 64 KiB: who asks by UDP is told so, who asks by TCP gets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_no_datagram_holds_is_refused_rather_than_lost() {
    let server = start(Config::default()).await;
    let tcp = connect(&server, "127.0.0.1", Service::Portmap, Transport::Tcp).await;
    let rpcb = |procedure: RpcbProc| Target::new(proto::rpcbind::PROGRAM, V4, procedure.0);
    for program in 0..900 {
        let question = Rpcb {
            r_prog: 400_000 + program,
            r_vers: 1,
            r_netid: "tcp6".into(),
            r_addr: "2001:db8:1111:2222:3333:4444:5555:6666.200.200".into(),
            r_owner: "".into(),
        };
        let set = tcp.call(rpcb(RpcbProc::RPCBPROC_SET), &question, PATIENCE).await;
        assert!(xdr::from_bytes::<bool>(&set.unwrap()).unwrap());
    }
    let dump = rpcb(RpcbProc::RPCBPROC_DUMP);
    assert!(tcp.call(dump, &(), PATIENCE).await.unwrap().len() > 65_507);
    let udp = connect(&server, "127.0.0.1", Service::Portmap, Transport::Udp).await;
    let refused = udp.call(dump, &(), PATIENCE).await.unwrap_err();
    assert!(
        matches!(refused, CallError::Refused(RpcError::SystemErr)),
        "{refused}"
    );
    server.stop().await;
}

/// GETPORT has no address to answer, only a port: the same on all of them.
#[tokio::test(flavor = "multi_thread")]
async fn getport_answers_on_every_address() {
    let server = start(bind(&["0.0.0.0", "::1"])).await;
    let question = Mapping {
        prog: proto::nfs3::PROGRAM,
        vers: 3,
        prot: IpProto::IPPROTO_TCP,
        port: 0,
    };
    let target = Target::new(proto::portmap::PROGRAM, 2, PmapProc::PMAPPROC_GETPORT.0);
    let call = call(5, target, &question);
    let to = SocketAddr::from(([127, 0, 0, 2], server.port(Service::Portmap)));
    let datagrams = Datagrams::open(to).unwrap();
    datagrams.send(&call).unwrap();
    let result = Reply::read(&datagrams.receive().unwrap())
        .unwrap()
        .result
        .unwrap();
    let port: u32 = xdr::from_bytes(&result).unwrap();
    assert_eq!(port, u32::from(server.port(Service::Nfs)));
    server.stop().await;
}

// --- fragments --------------------------------------------------------------------------------------

/// The longest WRITE in fragments of 64 bytes, sixteen thousand of them, and then of other sizes.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_one_mebibyte_may_come_in_thousands_of_fragments() {
    let server = start(Config::default()).await;
    let fh = make_file(&server, "f").await;
    let mut connection = Connection::open(SocketAddr::new(HERE, server.port(Service::Nfs))).unwrap();
    for (xid, size) in (1..).zip([64, 1000, 65_536]) {
        let data: Vec<u8> = (0..1u32 << 20).map(|i| ((i * xid) >> 8) as u8).collect();
        let args = Write3Args {
            file: NfsFh3::from(&fh[..]),
            offset: 0,
            count: data.len() as u32,
            stable: StableHow::FILE_SYNC,
            data: data.as_slice().into(),
        };
        let write = call(xid, nfs(Nfs3Proc::NFSPROC3_WRITE), &args);
        connection.send(&fragments(&write, size)).unwrap();
        let Received::Message(answer) = connection.receive().unwrap() else {
            panic!("closed")
        };
        let result = Reply::read(&answer).unwrap().result.unwrap();
        let Res3::Ok(written) = xdr::from_bytes::<Write3Res>(&result).unwrap() else {
            panic!("not written")
        };
        assert_eq!(written.count, 1 << 20, "by {size}");
        let args = Read3Args {
            file: NfsFh3::from(&fh[..]),
            offset: 0,
            count: 1 << 20,
        };
        let read = call(xid, nfs(Nfs3Proc::NFSPROC3_READ), &args);
        connection.send(&fragments(&read, 1)).unwrap();
        let Received::Message(answer) = connection.receive().unwrap() else {
            panic!("closed")
        };
        let result = Reply::read(&answer).unwrap().result.unwrap();
        let Res3::Ok(read) = xdr::from_bytes::<Read3Res<'_>>(&result).unwrap() else {
            panic!("not read")
        };
        assert!(read.data.0 == data, "by {size}");
    }
    server.stop().await;
}
