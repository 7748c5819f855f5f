//! The status monitor of a client, on an address of 127.0.0.0/8 with a port mapper.

#![allow(dead_code, reason = "each test uses a part of it")]

use proto::nsm::{self, SmProc, StatChge};
use proto::portmap::{self, Mapping};
use rpc::msg::{self, CallHeader};
use rpc::server::{Flow, Message, Origin};
use rpc::xdr::{self, Encode, Reader, Writer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(10);

/// The status monitor of a client: what it hears, as `name state`.
pub struct Peer {
    heard: mpsc::UnboundedReceiver<String>,
    _tasks: tokio::task::JoinSet<()>,
}

struct Ear {
    statd: u16,
    heard: mpsc::UnboundedSender<String>,
}

impl rpc::server::Service for Ear {
    fn message(&self, _: &Arc<Origin>, message: Message<'_>, _: Instant, out: &mut Writer) -> Flow {
        let mut r = Reader::new(message.bytes());
        let header = CallHeader::read(&mut r).unwrap();
        let args = r.rest();
        msg::accepted(out, header.xid);
        if header.program == portmap::PROGRAM {
            let mapping: Mapping = xdr::from_bytes(args).unwrap();
            assert_eq!((mapping.prog, mapping.vers), (nsm::PROGRAM, nsm::V1));
            u32::from(self.statd).encode(out);
            return Flow::Continue;
        }
        assert_eq!(
            (header.program, header.procedure),
            (nsm::PROGRAM, SmProc::SM_NOTIFY.0)
        );
        let change: StatChge<'_> = xdr::from_bytes(args).unwrap();
        let name = String::from_utf8_lossy(change.mon_name.0).into_owned();
        let _ = self.heard.send(format!("{name} {}", change.state));
        Flow::Continue
    }
}

impl Peer {
    /// `None` without the privilege to be a port mapper.
    pub async fn start(address: [u8; 4]) -> Option<Peer> {
        let udp = |port| tokio::net::UdpSocket::bind(SocketAddr::from((address, port)));
        let mapper = match udp(portmap::PMAP_PORT).await {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                println!("skipped: port 111 of a client cannot be had: {error}");
                return None;
            }
            mapper => mapper.unwrap(),
        };
        let statd = udp(0).await.unwrap();
        let (sender, heard) = mpsc::unbounded_channel();
        let ear = Arc::new(Ear {
            statd: statd.local_addr().unwrap().port(),
            heard: sender,
        });
        let mut tasks = tokio::task::JoinSet::new();
        for socket in [mapper, statd] {
            let ear = ear.clone();
            tasks.spawn(async move { rpc::server::serve_udp(socket, ear).await.unwrap() });
        }
        Some(Peer { heard, _tasks: tasks })
    }

    pub async fn hears(&mut self, expected: &str) {
        let heard = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
        assert_eq!(heard.expect("nothing is heard").unwrap(), expected);
    }

    /// Whether nothing more has been heard.
    pub fn quiet(&mut self) -> bool {
        self.heard.try_recv().is_err()
    }
}
