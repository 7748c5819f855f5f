//! Every program over IPv6, found as an IPv6 client finds it: by universal address, from rpcbind 4.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use faults::Service;
use nfslab::server::{Config, Ports, Server};
use proto::mount::{DirPath, Exports, MountList, MountProc, MountRes3};
use proto::nlm::{LockArgs, Nlm4Lock, Nlm4Stat, NlmProc, Res};
use proto::rpcbind::{Netid, Rpcb, RpcbProc, Rpcblist, Text, V4, from_uaddr};
use rpc::client::{Client, Identity, Options, Target};
use rpc::msg::Transport;
use rpc::xdr;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const PROGRAMS: [(u32, u32); 11] = [
    (100_000, 2),
    (100_000, 3),
    (100_000, 4),
    (100_003, 3),
    (100_005, 1),
    (100_005, 2),
    (100_005, 3),
    (100_021, 1),
    (100_021, 3),
    (100_021, 4),
    (100_024, 1),
];

async fn start(bind: &str) -> Server {
    let config = Config {
        bind: vec![bind.parse().unwrap()],
        ports: Ports::AUTO,
        ..Config::default()
    };
    Server::start(config).await.unwrap()
}

async fn connect(transport: Transport, to: SocketAddr) -> Client {
    let options = Options {
        from: None,
        identity: Identity::Sys {
            machine: "test".to_owned(),
            uid: 0,
            gid: 0,
            groups: vec![],
        },
        first_xid: 1,
        patience: PATIENCE,
        tap: None,
    };
    Client::connect(transport, to, options).await.unwrap()
}

/// Where a program is, by GETVERSADDR over `transport` to `host`.
async fn find(
    server: &Server,
    transport: Transport,
    host: IpAddr,
    (program, version): (u32, u32),
) -> SocketAddr {
    let rpcbind = connect(transport, SocketAddr::new(host, server.port(Service::Portmap))).await;
    let question = Rpcb {
        r_prog: program,
        r_vers: version,
        r_netid: "".into(),
        r_addr: "".into(),
        r_owner: "".into(),
    };
    let target = Target::new(proto::rpcbind::PROGRAM, V4, RpcbProc::RPCBPROC_GETVERSADDR.0);
    let answer = rpcbind.call(target, &question, PATIENCE).await.unwrap();
    let uaddr: Text<'_> = xdr::from_bytes(&answer).unwrap();
    from_uaddr(&uaddr).unwrap_or_else(|| panic!("{program} version {version} is at \"{uaddr}\""))
}

/// Each program answers, on both transports, at the address that rpcbind names for a caller of `host`.
async fn check_programs(server: &Server, host: IpAddr) {
    for program in PROGRAMS {
        for transport in [Transport::Tcp, Transport::Udp] {
            let address = find(server, transport, host, program).await;
            assert_eq!(address.ip(), host, "as the caller reaches it");
            let null = Target::new(program.0, program.1, 0);
            let answer = connect(transport, address).await.call(null, &(), PATIENCE).await;
            assert_eq!(
                answer.unwrap().len(),
                0,
                "{program:?} by {transport:?} at {address}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_program_is_found_and_answers_on_ipv6() {
    let server = start("::1").await;
    check_programs(&server, "::1".parse().unwrap()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_all_addresses_is_found_on_both_families() {
    let server = start("::").await;
    check_programs(&server, "::1".parse().unwrap()).await;
    check_programs(&server, "127.0.0.1".parse().unwrap()).await;
    let rpcbind = SocketAddr::new("::1".parse().unwrap(), server.port(Service::Portmap));
    let client = connect(Transport::Tcp, rpcbind).await;
    let dump = Target::new(proto::rpcbind::PROGRAM, V4, RpcbProc::RPCBPROC_DUMP.0);
    let answer = client.call(dump, &(), PATIENCE).await.unwrap();
    let list: Rpcblist<'_> = xdr::from_bytes(&answer).unwrap();
    for netid in Netid::ALL {
        let lines = list
            .0
            .iter()
            .filter(|line| *line.r_netid == *netid.name().as_bytes());
        assert_eq!(lines.count(), PROGRAMS.len(), "{}", netid.name());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_mounted_made_and_locked_over_ipv6() {
    let server = start("::1").await;
    let host = "::1".parse().unwrap();
    let mount = find(&server, Transport::Tcp, host, (100_005, 3)).await;
    let mount = connect(Transport::Tcp, mount).await;
    let call = |procedure: MountProc| Target::new(proto::mount::PROGRAM, proto::mount::V3, procedure.0);
    let path = DirPath::from("/lab");
    let answer = mount
        .call(call(MountProc::MOUNTPROC3_MNT), &path, PATIENCE)
        .await
        .unwrap();
    let MountRes3::Ok { fhandle, .. } = xdr::from_bytes(&answer).unwrap() else {
        panic!("not mounted");
    };
    let answer = mount.call(call(MountProc::MOUNTPROC3_DUMP), &(), PATIENCE).await;
    let answer = answer.unwrap();
    let list: MountList<'_> = xdr::from_bytes(&answer).unwrap();
    assert_eq!(list.0[0].ml_hostname, "::1".into());
    let answer = mount
        .call(call(MountProc::MOUNTPROC3_EXPORT), &(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(xdr::from_bytes::<Exports<'_>>(&answer).unwrap().0.len(), 1);

    let nfs = find(&server, Transport::Tcp, host, (100_003, 3)).await;
    let file = make_file(&connect(Transport::Tcp, nfs).await, fhandle.0).await;
    let nlm = find(&server, Transport::Udp, host, (100_021, 4)).await;
    let args = LockArgs {
        cookie: "c".into(),
        block: false,
        exclusive: true,
        alock: Nlm4Lock {
            caller_name: "test".into(),
            fh: file.as_slice().into(),
            oh: "o".into(),
            svid: 1,
            l_offset: 0,
            l_len: 0,
        },
        reclaim: false,
        state: 1,
    };
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);
    let nlm = connect(Transport::Udp, nlm).await;
    let answer = nlm.call(target, &args, PATIENCE).await.unwrap();
    let res: Res<'_> = xdr::from_bytes(&answer).unwrap();
    assert_eq!(res.stat, Nlm4Stat::NLM4_GRANTED);
    server.stop().await;
}

async fn make_file(nfs: &Client, dir: &[u8]) -> Vec<u8> {
    use proto::nfs3::{Create3Args, Create3Res, CreateHow3, Diropargs3, Nfs3Proc, Res3, Sattr3};
    let args = Create3Args {
        where_: Diropargs3 {
            dir: dir.into(),
            name: "f".into(),
        },
        how: CreateHow3::Unchecked(Sattr3::default()),
    };
    let target = Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_CREATE.0);
    let answer = nfs.call(target, &args, PATIENCE).await.unwrap();
    match xdr::from_bytes::<Create3Res<'_>>(&answer).unwrap() {
        Res3::Ok(made) => made.obj.unwrap().0.to_vec(),
        Res3::Err(status, _) => panic!("not made: {status}"),
    }
}
