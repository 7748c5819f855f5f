//! Calls that come twice: a copy of one that is being executed is dropped, a copy of one that was answered gets the
//! same bytes, on whatever connection and transport it comes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use bytes::Bytes;
use common::{lock_args, make_file, mounted};
use faults::{Condition, Service};
use nfslab::events::{Event, What};
use nfslab::server::{Config, Drc, Ports, Server};
use nfslab_tests::call::record;
use nfslab_tests::wire::{Connection, Datagrams, Received};
use proto::nfs3::{Diropargs3, Nfs3Proc, NfsFh3, Nfsstat3, Remove3Res};
use proto::nlm::NlmProc;
use proto::portmap::{IpProto, Mapping, PmapProc};
use rpc::client::{Identity, Target, encode_call};
use rpc::msg::{Reply, Transport};
use rpc::xdr::{self, Encode, Writer};
use std::net::SocketAddr;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

async fn start(drc: Drc) -> Server {
    let config = Config {
        ports: Ports::AUTO,
        drc,
        ..Config::default()
    };
    Server::start(config).await.unwrap()
}

fn address(server: &Server, service: Service) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port(service)))
}

fn call(xid: u32, target: Target, args: &dyn Encode) -> Bytes {
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

fn message(received: Received) -> Bytes {
    match received {
        Received::Message(message) => message,
        Received::Closed => panic!("closed"),
    }
}

/// The answer to a call on a new connection, whose port is another one each time.
fn ask(to: SocketAddr, call: &Bytes, transport: Transport) -> Bytes {
    match transport {
        Transport::Tcp => {
            let mut connection = Connection::open(to).unwrap();
            connection.send(&record(call)).unwrap();
            message(connection.receive().unwrap())
        }
        Transport::Udp => {
            let datagrams = Datagrams::open(to).unwrap();
            datagrams.send(call).unwrap();
            datagrams.receive().unwrap()
        }
    }
}

fn remove(xid: u32, dir: &[u8], name: &str) -> Bytes {
    let args = Diropargs3 {
        dir: NfsFh3::from(dir),
        name: name.into(),
    };
    call(
        xid,
        Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_REMOVE.0),
        &args,
    )
}

fn removed(reply: &Bytes) -> Nfsstat3 {
    let result = Reply::read(reply).unwrap().result.unwrap();
    xdr::from_bytes::<Remove3Res>(&result).unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_gets_the_same_bytes_on_any_connection_and_other_arguments_are_another_call() {
    let server = start(Drc::default()).await;
    let root = mounted(&server).await;
    make_file(&server, "f").await;
    make_file(&server, "g").await;
    let nfs = address(&server, Service::Nfs);
    let first = ask(nfs, &remove(7, &root, "f"), Transport::Tcp);
    assert_eq!(removed(&first), Nfsstat3::NFS3_OK);
    for transport in [Transport::Tcp, Transport::Udp, Transport::Tcp] {
        assert_eq!(ask(nfs, &remove(7, &root, "f"), transport), first);
    }
    let other = ask(nfs, &remove(7, &root, "g"), Transport::Udp);
    assert_eq!(removed(&other), Nfsstat3::NFS3_OK, "executed");
    let again = ask(nfs, &remove(8, &root, "g"), Transport::Udp);
    assert_eq!(removed(&again), Nfsstat3::NFS3ERR_NOENT, "executed too");
    server.node().reset().await.unwrap();
    let forgotten = ask(nfs, &remove(7, &root, "f"), Transport::Tcp);
    assert_eq!(removed(&forgotten), Nfsstat3::NFS3ERR_NOENT);
    server.stop().await;
}

fn lock(xid: u32, fh: &[u8], svid: i32) -> Bytes {
    let args = lock_args(fh, svid, 0, 1);
    call(
        xid,
        Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0),
        &args,
    )
}

/// Waits until the server has logged that many calls of the lock service.
async fn called(server: &Server, count: usize) {
    let (past, mut live) = server.node().events.since(0);
    let is_call = |event: &Event| matches!(&event.what, What::Call { service, .. } if *service == Service::Lockd.name());
    let mut seen = past.iter().filter(|event| is_call(event)).count();
    let wait = async {
        while seen < count {
            seen += usize::from(is_call(&live.recv().await.unwrap()));
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("called");
}

/// The lock service hangs; a LOCK comes, then its copy on another connection with another LOCK behind it. Which
/// answers the second connection gets once the service goes on, by their xids.
async fn answers_after_a_hang(drc: Drc) -> Vec<u32> {
    let cached = drc == Drc::of(&[Service::Lockd]);
    let server = start(drc).await;
    let fh = make_file(&server, "f").await;
    let node = server.node();
    node.set_condition(Service::Lockd, Condition::Hung).await.unwrap();
    let nlm = address(&server, Service::Lockd);
    let mut first = Connection::open(nlm).unwrap();
    first.send(&record(&lock(7, &fh, 1))).unwrap();
    called(&server, 1).await;
    let mut second = Connection::open(nlm).unwrap();
    for call in [lock(7, &fh, 1), lock(8, &fh, 2), lock(9, &fh, 3)] {
        second.send(&record(&call)).unwrap();
    }
    called(&server, 4).await;
    node.set_condition(Service::Lockd, Condition::Ok).await.unwrap();
    let answer = message(first.receive().unwrap());
    let mut xids = Vec::new();
    while xids.last() != Some(&9) {
        xids.push(Reply::read(&message(second.receive().unwrap())).unwrap().xid);
    }
    if cached {
        // After the answer, a copy gets it again with the same bytes; executed, it would be denied here, since to
        // Linux a client is another one over another transport.
        assert_eq!(ask(nlm, &lock(7, &fh, 1), Transport::Udp), answer);
    }
    server.stop().await;
    xids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_queued_lock_is_dropped_if_the_lock_service_has_a_cache() {
    let drc = Drc::of(&[Service::Lockd]);
    assert_eq!(answers_after_a_hang(drc).await, [8, 9]);
    assert_eq!(
        answers_after_a_hang(Drc::default()).await,
        [7, 8, 9],
        "Linux's lockd has none"
    );
}

/// A call that a reset throws out of the queue is new when it comes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_call_that_was_thrown_away_is_executed() {
    let server = start(Drc::of(&[Service::Lockd])).await;
    let fh = make_file(&server, "f").await;
    let node = server.node();
    node.set_condition(Service::Lockd, Condition::Hung).await.unwrap();
    let nlm = address(&server, Service::Lockd);
    let mut first = Connection::open(nlm).unwrap();
    first.send(&record(&lock(7, &fh, 1))).unwrap();
    called(&server, 1).await;
    node.reset().await.unwrap();
    let reply = Reply::read(&ask(nlm, &lock(7, &fh, 1), Transport::Tcp)).unwrap();
    assert_eq!(reply.result.unwrap()[8..], [0; 4], "granted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_program_can_have_a_cache() {
    let mapping = Mapping {
        prog: 400_000,
        vers: 1,
        prot: IpProto::IPPROTO_TCP,
        port: 9,
    };
    let target = |procedure: PmapProc| Target::new(proto::portmap::PROGRAM, 2, procedure.0);
    let set = call(1, target(PmapProc::PMAPPROC_SET), &mapping);
    let unset = call(2, target(PmapProc::PMAPPROC_UNSET), &mapping);
    for (drc, expected) in [
        (Drc::of(&[Service::Portmap]), [true, true, true]),
        (Drc::NONE, [true, true, false]),
    ] {
        let server = start(drc).await;
        let portmap = address(&server, Service::Portmap);
        let answers = [&set, &unset, &unset].map(|call| {
            let reply = Reply::read(&ask(portmap, call, Transport::Tcp)).unwrap();
            xdr::from_bytes::<bool>(&reply.result.unwrap()).unwrap()
        });
        assert_eq!(answers, expected);
        server.stop().await;
    }
}
