//! What several tests of a server over loopback need.

#![allow(dead_code, reason = "each test uses a part of it")]

use faults::Service;
use nfslab::server::Server;
use proto::mount::{DirPath, MountProc, MountRes3};
use proto::nfs3::{Create3Args, Create3Res, CreateHow3, Diropargs3, Nfs3Proc, NfsFh3, Res3, Sattr3};
use proto::nlm::{LockArgs, Nlm4Lock};
use rpc::client::{CallError, Client, Identity, Options, Target};
use rpc::msg::Transport;
use rpc::xdr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A connection from `client` to a service.
pub async fn connect(client: IpAddr, server: &Server, service: Service, transport: Transport) -> Client {
    let from = SocketAddr::new(client, 0);
    connect_from(from, server, service, transport).await.unwrap()
}

/// [`connect`], from this very port.
pub async fn connect_from(
    from: SocketAddr,
    server: &Server,
    service: Service,
    transport: Transport,
) -> Result<Client, CallError> {
    let to = SocketAddr::new(HERE, server.port(service));
    connect_to(Some(from), to, transport).await
}

/// A connection to any address.
pub async fn connect_to(
    from: Option<SocketAddr>,
    to: SocketAddr,
    transport: Transport,
) -> Result<Client, CallError> {
    let options = Options {
        from,
        identity: Identity::Sys {
            machine: "test".into(),
            uid: 0,
            gid: 0,
            groups: vec![],
        },
        first_xid: 1,
        patience: PATIENCE,
        tap: None,
    };
    Client::connect(transport, to, options).await
}

/// Where a server listens.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub mount: SocketAddr,
    pub nfs: SocketAddr,
}

impl From<&Server> for Place {
    fn from(server: &Server) -> Place {
        let at = |service| SocketAddr::new(HERE, server.port(service));
        Place {
            mount: at(Service::Mount),
            nfs: at(Service::Nfs),
        }
    }
}

async fn dial(to: SocketAddr) -> Client {
    connect_to(None, to, Transport::Tcp).await.unwrap()
}

/// The root of the export, by its handle.
pub async fn mounted(server: impl Into<Place>) -> Vec<u8> {
    mounted_from(&dial(server.into().mount).await).await
}

/// [`mounted`], from a server that this is a connection to.
pub async fn mounted_from(mount: &Client) -> Vec<u8> {
    let target = Target::new(proto::mount::PROGRAM, 3, MountProc::MOUNTPROC3_MNT.0);
    let reply = mount
        .call(target, &DirPath::from("/lab"), PATIENCE)
        .await
        .unwrap();
    match xdr::from_bytes(&reply).unwrap() {
        MountRes3::Ok { fhandle, .. } => fhandle.0.to_vec(),
        MountRes3::Err(status) => panic!("not mounted: {status}"),
    }
}

/// A file on the server, by its handle.
pub async fn make_file(server: impl Into<Place>, name: &str) -> Vec<u8> {
    let server = server.into();
    let root = mounted(server).await;
    make_file_in(&dial(server.nfs).await, &root, name).await
}

/// [`make_file`], in this folder of a server that this is a connection to.
pub async fn make_file_in(nfs: &Client, dir: &[u8], name: &str) -> Vec<u8> {
    let target = Target::new(proto::nfs3::PROGRAM, 3, Nfs3Proc::NFSPROC3_CREATE.0);
    let args = Create3Args {
        where_: Diropargs3 {
            dir: NfsFh3::from(dir),
            name: name.into(),
        },
        how: CreateHow3::Unchecked(Sattr3::default()),
    };
    let reply = nfs.call(target, &args, PATIENCE).await.unwrap();
    match xdr::from_bytes::<Create3Res<'_>>(&reply).unwrap() {
        Res3::Ok(made) => made.obj.unwrap().0.to_vec(),
        Res3::Err(status, _) => panic!("not made: {status}"),
    }
}

/// A lock of some bytes, exclusive and without waiting.
pub fn lock_args(fh: &[u8], svid: i32, offset: u64, len: u64) -> LockArgs<'_> {
    LockArgs {
        cookie: "c".into(),
        block: false,
        exclusive: true,
        alock: Nlm4Lock {
            caller_name: "test".into(),
            fh: fh.into(),
            oh: "o".into(),
            svid,
            l_offset: offset,
            l_len: len,
        },
        reclaim: false,
        state: 1,
    }
}
