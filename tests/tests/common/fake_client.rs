//! A client of the lock service that can be called back: a port mapper, a lock manager and a status monitor on an address
//! of 127.0.0.0/8, which write down what they are called with. The latter two share their ports.

#![allow(
    dead_code,
    reason = "one test reads the calls itself, another has them checked"
)]

use crate::common::connect;
use bytes::Bytes;
use faults::Service;
use nfslab::server::Server;
use proto::nlm::{self, NlmProc};
use proto::portmap::{self, Mapping};
use rpc::client::Client;
use rpc::msg::{self, CallHeader, Transport};
use rpc::server::{Flow, Message, Origin};
use rpc::xdr::{self, Encode, Reader, Writer};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(10);

/// A call to the fake client.
#[derive(Debug)]
pub struct Called {
    pub from: IpAddr,
    pub transport: Transport,
    pub program: u32,
    pub version: u32,
    pub procedure: NlmProc,
    pub args: Bytes,
    /// What its port mapper had been asked for.
    pub asked: Option<Mapping>,
}

/// A machine with a port mapper and a lock manager.
pub struct FakeClient {
    pub address: IpAddr,
    pub calls: mpsc::UnboundedReceiver<Called>,
    pub tasks: tokio::task::JoinSet<()>,
}

struct Ear {
    /// Where the lock manager listens, TCP and UDP; the port mapper's answers.
    ports: [u16; 2],
    asked: Arc<std::sync::Mutex<Option<Mapping>>>,
    calls: mpsc::UnboundedSender<Called>,
}

impl rpc::server::Service for Ear {
    fn message(&self, origin: &Arc<Origin>, message: Message<'_>, _: Instant, out: &mut Writer) -> Flow {
        let mut r = Reader::new(message.bytes());
        let header = CallHeader::read(&mut r).unwrap();
        let args = message.buffer().slice_ref(r.rest());
        msg::accepted(out, header.xid);
        if header.program == portmap::PROGRAM {
            let mapping: Mapping = xdr::from_bytes(&args).unwrap();
            let udp = mapping.prot == portmap::IpProto::IPPROTO_UDP;
            u32::from(self.ports[usize::from(udp)]).encode(out);
            *self.asked.lock().unwrap() = Some(mapping);
            return Flow::Continue;
        }
        assert!([nlm::PROGRAM, proto::nsm::PROGRAM].contains(&header.program));
        let _ = self.calls.send(Called {
            from: origin.peer.ip(),
            transport: origin.transport,
            program: header.program,
            version: header.version,
            procedure: NlmProc(header.procedure),
            args,
            asked: *self.asked.lock().unwrap(),
        });
        Flow::Continue
    }
}

impl FakeClient {
    /// `None` without the privilege to be a port mapper.
    pub async fn start(address: [u8; 4]) -> Option<FakeClient> {
        let tcp = |port| tokio::net::TcpListener::bind(SocketAddr::from((address, port)));
        let udp = |port| tokio::net::UdpSocket::bind(SocketAddr::from((address, port)));
        let mapper = match tcp(portmap::PMAP_PORT).await {
            Ok(mapper) => mapper,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                println!("skipped: port 111 of a client cannot be had: {error}");
                return None;
            }
            Err(error) => panic!("port 111 of {address:?}: {error}"),
        };
        let (mapper_udp, nlm, nlm_udp) = (
            udp(111).await.unwrap(),
            tcp(0).await.unwrap(),
            udp(0).await.unwrap(),
        );
        let (calls, receiver) = mpsc::unbounded_channel();
        let ear = Arc::new(Ear {
            ports: [
                nlm.local_addr().unwrap().port(),
                nlm_udp.local_addr().unwrap().port(),
            ],
            asked: Arc::default(),
            calls,
        });
        let mut tasks = tokio::task::JoinSet::new();
        for listener in [mapper, nlm] {
            tasks.spawn(rpc::server::serve_tcp(
                listener,
                ear.clone(),
                rpc::server::Limits::default(),
            ));
        }
        for socket in [mapper_udp, nlm_udp] {
            let ear = ear.clone();
            tasks.spawn(async move { rpc::server::serve_udp(socket, ear).await.unwrap() });
        }
        Some(FakeClient {
            address: address.into(),
            calls: receiver,
            tasks,
        })
    }

    pub async fn connect(&self, server: &Server, transport: Transport) -> Client {
        connect(self.address, server, Service::Lockd, transport).await
    }

    /// The next call, which must be this one.
    pub async fn called(&mut self, version: u32, transport: Transport, procedure: NlmProc) -> Bytes {
        let called = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
        let called = called
            .unwrap_or_else(|_| panic!("no {procedure} of version {version} over {transport:?}"))
            .unwrap();
        assert_eq!(
            (called.program, called.version, called.transport, called.procedure),
            (nlm::PROGRAM, version, transport, procedure),
            "{called:?}"
        );
        assert_eq!(
            called.from,
            IpAddr::from([127, 0, 0, 1]),
            "where the client had called"
        );
        let asked = called.asked.expect("the port mapper is asked first");
        assert_eq!((asked.prog, asked.vers), (nlm::PROGRAM, version));
        called.args
    }

    /// The next call, whichever it is.
    pub async fn next(&mut self) -> Called {
        let called = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
        called.expect("nobody calls").unwrap()
    }

    pub fn quiet(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}
