//! Services as a whole, in every condition that they can have, as clients find them over loopback.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use common::{Place, connect_to, lock_args, make_file};
use faults::Service;
use nfslab::server::{Config, Ports, Server};
use proto::nlm::{Nlm4Stat, NlmProc, Res};
use proto::nsm::{Mon, MonId, MyId, SmProc, SmRes, SmStatRes};
use proto::portmap::{IpProto, Mapping, PmapList, PmapProc};
use proto::rpcbind::{RpcbProc, Rpcblist, Text};
use rpc::client::{CallError, Client, Target};
use rpc::msg::Transport;
use rpc::xdr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is waited for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(200);
/// An address of its own, so that a port that is closed for a while is not taken by another test meanwhile.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));

/// A server whose services are as told: `lockd=absent,statd=slow 5s`.
async fn start(conditions: &str) -> Server {
    let mut config = Config {
        bind: vec![HERE],
        ports: Ports::AUTO,
        ..Config::default()
    };
    for part in conditions.split(',').filter(|part| !part.is_empty()) {
        let (service, condition) = part.split_once('=').unwrap();
        let (service, condition) = faults::condition::parse(service, condition).unwrap();
        config.conditions.set(service, condition);
    }
    Server::start(config).await.unwrap()
}

async fn set(server: &Server, service: &str, condition: &str) {
    let (service, condition) = faults::condition::parse(service, condition).unwrap();
    server.node().set_condition(service, condition).await.unwrap();
}

async fn dial(server: &Server, service: Service, transport: Transport) -> Result<Client, CallError> {
    connect_to(None, SocketAddr::new(HERE, server.port(service)), transport).await
}

/// A connection of 127.0.0.`last` to the lock service.
async fn client(last: u8, server: &Server) -> Client {
    let from = SocketAddr::from(([127, 0, 0, last], 0));
    let to = SocketAddr::new(HERE, server.port(Service::Lockd));
    connect_to(Some(from), to, Transport::Tcp).await.unwrap()
}

fn place(server: &Server) -> Place {
    Place {
        mount: SocketAddr::new(HERE, server.port(Service::Mount)),
        nfs: SocketAddr::new(HERE, server.port(Service::Nfs)),
    }
}

/// NULL of the newest version.
fn null(service: Service) -> Target {
    match service {
        Service::Portmap => Target::new(proto::portmap::PROGRAM, 2, 0),
        Service::Mount => Target::new(proto::mount::PROGRAM, 3, 0),
        Service::Nfs => Target::new(proto::nfs3::PROGRAM, 3, 0),
        Service::Lockd => Target::new(proto::nlm::PROGRAM, 4, 0),
        Service::Statd => Target::new(proto::nsm::PROGRAM, 1, 0),
    }
}

/// What a NULL call meets: "answer", "silence" or "refused".
async fn meets(server: &Server, service: Service, transport: Transport) -> &'static str {
    let client = match dial(server, service, transport).await {
        Ok(client) => client,
        Err(CallError::Io(_)) => return "refused",
        Err(error) => panic!("{service}: {error}"),
    };
    match client.call(null(service), &(), SILENCE).await {
        Ok(_) => "answer",
        Err(CallError::TimedOut(_)) => "silence",
        Err(CallError::Io(_) | CallError::Closed) => "refused",
        Err(error) => panic!("{service}: {error}"),
    }
}

/// What the port mapper says where a program is: GETPORT, and GETADDR of version 3 and 4 alike.
async fn registered(server: &Server, service: Service) -> (u32, String) {
    let target = null(service);
    let mapper = dial(server, Service::Portmap, Transport::Tcp).await.unwrap();
    let question = Mapping {
        prog: target.program,
        vers: target.version,
        prot: IpProto::IPPROTO_TCP,
        port: 0,
    };
    let getport = Target::new(proto::portmap::PROGRAM, 2, PmapProc::PMAPPROC_GETPORT.0);
    let port = mapper.call(getport, &question, PATIENCE).await.unwrap();
    let mut addresses = Vec::new();
    for version in [3, 4] {
        let question = proto::rpcbind::Rpcb {
            r_prog: target.program,
            r_vers: target.version,
            r_netid: "tcp".into(),
            r_addr: "".into(),
            r_owner: "".into(),
        };
        let getaddr = Target::new(proto::rpcbind::PROGRAM, version, RpcbProc::RPCBPROC_GETADDR.0);
        let answer = mapper.call(getaddr, &question, PATIENCE).await.unwrap();
        addresses.push(xdr::from_bytes::<Text<'_>>(&answer).unwrap().to_string());
    }
    assert_eq!(addresses[0], addresses[1]);
    (xdr::from_bytes(&port).unwrap(), addresses.remove(0))
}

/// The ports under which a program is listed, by version 2 and by version 4.
async fn listed(server: &Server, program: u32) -> (Vec<u32>, Vec<String>) {
    let mapper = dial(server, Service::Portmap, Transport::Tcp).await.unwrap();
    let dump = Target::new(proto::portmap::PROGRAM, 2, PmapProc::PMAPPROC_DUMP.0);
    let list = mapper.call(dump, &(), PATIENCE).await.unwrap();
    let ports = xdr::from_bytes::<PmapList>(&list).unwrap().0.into_iter();
    let mut ports: Vec<u32> = ports.filter(|m| m.prog == program).map(|m| m.port).collect();
    ports.dedup();
    let dump = Target::new(proto::rpcbind::PROGRAM, 4, RpcbProc::RPCBPROC_DUMP.0);
    let list = mapper.call(dump, &(), PATIENCE).await.unwrap();
    let list = xdr::from_bytes::<Rpcblist<'_>>(&list).unwrap().0;
    let ours = list.iter().filter(|entry| entry.r_prog == program);
    let mut addresses: Vec<String> = ours.map(|entry| entry.r_addr.to_string()).collect();
    addresses.dedup();
    (ports, addresses)
}

/// An address as rpcbind writes it.
fn uaddr(port: u16) -> String {
    format!("127.0.0.77.{}.{}", port >> 8, port & 0xff)
}

async fn lock(client: &Client, fh: &[u8], svid: i32, patience: Duration) -> Result<Nlm4Stat, CallError> {
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);
    let reply = client.call(target, &lock_args(fh, svid, 0, 0), patience).await?;
    Ok(xdr::from_bytes::<Res<'_>>(&reply)?.stat)
}

/// The first LOCK of a client that no other test uses, and how long its answer took.
async fn first_lock(server: &Server, last: u8) -> (Nlm4Stat, Duration) {
    let fh = make_file(place(server), "f").await;
    let client = client(last, server).await;
    let started = Instant::now();
    let stat = lock(&client, &fh, 1, PATIENCE).await.unwrap();
    (stat, started.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_service_is_registered_and_its_port_refuses() {
    for service in Service::ALL {
        let server = start(&format!("{service}=refused")).await;
        let port = server.port(service);
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(
                meets(&server, service, transport).await,
                "refused",
                "{service} {transport:?}"
            );
        }
        if service != Service::Portmap {
            assert_eq!(
                registered(&server, service).await,
                (port.into(), uaddr(port)),
                "{service}"
            );
        }
        set(&server, service.name(), "ok").await;
        let connected = dial(&server, service, Transport::Tcp).await.unwrap();
        connected.call(null(service), &(), PATIENCE).await.unwrap();
        set(&server, service.name(), "refused").await;
        let cut = connected.call(null(service), &(), PATIENCE).await;
        assert!(
            matches!(cut, Err(CallError::Io(_) | CallError::Closed)),
            "{cut:?}"
        );
        set(&server, service.name(), "absent").await;
        if service != Service::Portmap {
            assert_eq!(
                registered(&server, service).await,
                (0, String::new()),
                "{service}"
            );
        }
        server.node().reset().await.unwrap();
        assert_eq!(
            meets(&server, service, Transport::Udp).await,
            "refused",
            "as at the start"
        );
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_answers_some_calls_and_hangs_then() {
    for service in Service::ALL {
        let server = start(&format!("{service}=hung after 2")).await;
        for expected in ["answer", "answer", "silence", "silence"] {
            assert_eq!(
                meets(&server, service, Transport::Tcp).await,
                expected,
                "{service}"
            );
        }
        // Set once more, it counts anew, over UDP too.
        set(&server, service.name(), "hung after 1").await;
        if service == Service::Lockd {
            // What waited there is taken first.
            assert_eq!(meets(&server, service, Transport::Udp).await, "silence");
        } else {
            assert_eq!(meets(&server, service, Transport::Udp).await, "answer");
            assert_eq!(meets(&server, service, Transport::Udp).await, "silence");
        }
        set(&server, service.name(), "ok").await;
        assert_eq!(
            meets(&server, service, Transport::Tcp).await,
            "answer",
            "{service}"
        );
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_hung() {
    let server = start("nfs=blackhole").await;
    assert_eq!(server.node().services()[2].condition, "hung");
    assert_eq!(meets(&server, Service::Nfs, Transport::Tcp).await, "silence");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_mapper_lies_about_a_service() {
    for service in Service::ALL.into_iter().filter(|s| *s != Service::Portmap) {
        let server = start(&format!("{service}=lying port 0")).await;
        let program = null(service).program;
        let port = server.port(service);
        assert_eq!(
            meets(&server, service, Transport::Tcp).await,
            "answer",
            "{service} is well"
        );
        assert_eq!(
            registered(&server, service).await,
            (0, String::new()),
            "{service}"
        );
        assert_eq!(
            listed(&server, program).await,
            (vec![0], vec!["127.0.0.77.0.0".to_owned()])
        );
        set(&server, service.name(), "lying port 7").await;
        assert_eq!(registered(&server, service).await, (7, uaddr(7)), "{service}");
        assert_eq!(listed(&server, program).await, (vec![7], vec![uaddr(7)]));
        set(&server, service.name(), "ok").await;
        assert_eq!(
            registered(&server, service).await,
            (port.into(), uaddr(port)),
            "{service}"
        );
        assert_eq!(
            listed(&server, program).await,
            (vec![port.into()], vec![uaddr(port)])
        );
        server.stop().await;
    }
}

/// What Linux' lockd makes of each: nfs-utils and fs/lockd/mon.c.
#[tokio::test(flavor = "multi_thread")]
async fn the_lock_service_is_refused_at_once_by_a_statd_that_is_refused_or_fails() {
    for conditions in [
        "statd=refused",
        "statd=failing",
        "statd=lying port 7",
        "portmap=refused",
        "portmap=absent",
    ] {
        let server = start(conditions).await;
        let (stat, took) = first_lock(&server, 2).await;
        assert_eq!(stat, Nlm4Stat::NLM4_DENIED_NOLOCKS, "{conditions}");
        assert!(took < Duration::from_secs(2), "{conditions}: {took:?}");
        assert_eq!(server.node().peers()[0].monitored, "no", "{conditions}");
        set(&server, conditions.split('=').next().unwrap(), "ok").await;
        assert_eq!(
            first_lock(&server, 2).await.0,
            Nlm4Stat::NLM4_GRANTED,
            "{conditions}"
        );
        server.stop().await;
    }
}

/// As when it is not registered: the lookups go on for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn the_lock_service_looks_for_a_statd_that_is_nowhere() {
    let server = start("statd=lying port 0").await;
    let fh = make_file(place(&server), "f").await;
    let client = client(2, &server).await;
    let silence = lock(&client, &fh, 1, SILENCE).await;
    assert!(matches!(silence, Err(CallError::TimedOut(_))), "{silence:?}");
    let events = server.node().events.since(0).0;
    assert!(events.iter().any(|e| e.kind() == "lockd/statd-not-registered"));
    server.stop().await;
}

/// The upcalls of the lock service are calls of statd like any others.
#[tokio::test(flavor = "multi_thread")]
async fn the_upcalls_of_the_lock_service_count_until_statd_hangs() {
    let server = start("statd=hung after 2").await;
    assert_eq!(meets(&server, Service::Statd, Transport::Tcp).await, "answer");
    assert_eq!(first_lock(&server, 2).await.0, Nlm4Stat::NLM4_GRANTED);
    assert_eq!(meets(&server, Service::Statd, Transport::Tcp).await, "silence");
    let fh = make_file(place(&server), "g").await;
    let known = client(2, &server).await;
    let stat = lock(&known, &fh, 1, PATIENCE).await.unwrap();
    assert_eq!(stat, Nlm4Stat::NLM4_GRANTED, "who is monitored feels nothing");
    let other = client(3, &server).await;
    let stalled = tokio::spawn(async move { lock(&other, &fh, 1, PATIENCE).await });
    let started = async {
        let (past, mut live) = server.node().events.since(0);
        let started = |e: &nfslab::events::Event| {
            e.kind() == "lockd/upcall-started" && e.peer() == Some([127, 0, 0, 3].into())
        };
        if !past.iter().any(|event| started(event)) {
            while !started(&live.recv().await.unwrap()) {}
        }
    };
    tokio::time::timeout(PATIENCE, started).await.unwrap();
    server.node().clock.advance(Duration::from_millis(60_500));
    let stat = stalled.await.unwrap().unwrap();
    assert_eq!(stat, Nlm4Stat::NLM4_DENIED_NOLOCKS);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_statd_says_so_on_the_wire() {
    let server = start("statd=failing").await;
    let statd = dial(&server, Service::Statd, Transport::Tcp).await.unwrap();
    let mon = Mon {
        mon_id: MonId {
            mon_name: "127.0.0.2".into(),
            my_id: MyId {
                my_name: "here".into(),
                my_prog: proto::nlm::PROGRAM as i32,
                my_vers: 3,
                my_proc: 16,
            },
        },
        private: [0; 16],
    };
    let target = Target::new(proto::nsm::PROGRAM, 1, SmProc::SM_MON.0);
    let ask = async || {
        let reply = statd.call(target, &mon, PATIENCE).await.unwrap();
        xdr::from_bytes::<SmStatRes>(&reply).unwrap()
    };
    let failed = ask().await;
    assert_eq!((failed.res_stat, failed.state), (SmRes::STAT_FAIL, -1));
    set(&server, "statd", "ok").await;
    assert_eq!(ask().await.res_stat, SmRes::STAT_SUCC);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_makes_no_sense_is_refused_before_the_start_and_after() {
    let mut config = Config {
        ports: Ports::AUTO,
        ..Config::default()
    };
    config.conditions.set(Service::Nfs, faults::Condition::Failing);
    let error = Server::start(config).await.err().unwrap().to_string();
    assert!(error.contains("only statd"), "{error}");
    let server = start("").await;
    let lying = faults::Condition::LyingPort(0);
    let error = server.node().set_condition(Service::Portmap, lying).await;
    assert!(error.unwrap_err().to_string().contains("portmap cannot"));
    server.stop().await;
}
