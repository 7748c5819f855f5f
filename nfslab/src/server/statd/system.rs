//! `--statd system`: the lock service has its peers monitored by the rpc.statd of this host.
//!
//! Each upcall is what a Linux lockd does (fs/lockd/mon.c): ask the port mapper of loopback for program 100024, then
//! call SM_MON or SM_UNMON there, from a port below 1024, with the peer's address as `mon_name`. It goes over UDP, as
//! rpc.statd's own calls do; today's lockd has gone over to TCP. News of a reboot comes back as a call of rpc.statd to
//! procedure 16 of our lock service, which it finds through the same port mapper.
//!
//! One upcall at a time, in the order in which the lock service wanted them: an SM_UNMON must not overtake.

use super::{Node, PATIENCE, mon_id_of};
use crate::events::What;
use crate::server::portmap::port_of;
use nlm::hosts::Private;
use parking_lot::Mutex;
use proto::nsm::{Mon, SmProc, SmRes, SmStatRes};
use proto::portmap::PMAP_PORT;
use rpc::client::{CallError, Client, Identity, Options, Tap, Target};
use rpc::msg::Transport;
use rpc::xdr::{self, Encode};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long rpc.statd may take. The lock service gives up about then.
const ANSWER: Duration = Duration::from_secs(60);
/// The ports that take privilege and belong to no service (bindresvport).
const RESERVED: std::ops::RangeInclusive<u16> = 600..=1023;

/// What rpc.statd is to do.
pub enum Upcall {
    /// SM_MON.
    Monitor(IpAddr, Private),
    /// SM_UNMON.
    Unmonitor(IpAddr),
}

/// What came of SM_MON.
enum Answer {
    Watched { state: i32 },
    Refused,
    NotRegistered,
}

/// The upcalls that wait. There are at most as many as the lock service has workers and monitored peers.
pub struct Upcalls {
    waiting: UnboundedSender<Upcall>,
    /// Until [`drive`] has it.
    receiver: Mutex<Option<UnboundedReceiver<Upcall>>>,
    /// What this host calls itself.
    my_name: String,
}

impl Upcalls {
    pub fn new() -> Upcalls {
        let (waiting, receiver) = unbounded_channel();
        let name = nix::unistd::gethostname().ok();
        Upcalls {
            waiting,
            receiver: Mutex::new(Some(receiver)),
            my_name: name
                .and_then(|name| name.into_string().ok())
                .unwrap_or_else(|| "localhost".to_owned()),
        }
    }

    /// Has it done when its turn comes.
    pub fn push(&self, upcall: Upcall) {
        // Without a receiver the server is stopping.
        let _ = self.waiting.send(upcall);
    }
}

/// Makes the upcalls, one after the other, and tells the lock service what came of them.
pub async fn drive(node: Arc<Node>) {
    let Some(upcalls) = &node.statd.system else {
        return;
    };
    let Some(mut waiting) = upcalls.receiver.lock().take() else {
        return;
    };
    while let Some(upcall) = waiting.recv().await {
        match upcall {
            Upcall::Monitor(peer, private) => {
                let answer = monitor(&node, &upcalls.my_name, peer, private).await;
                let text = match &answer {
                    Ok(Answer::Watched { state }) => format!("rpc.statd watches {peer} (state {state})"),
                    Ok(Answer::Refused) => format!("rpc.statd cannot watch {peer}"),
                    Ok(Answer::NotRegistered) => "rpc.statd is not registered with rpcbind".to_owned(),
                    Err(error) => format!("rpc.statd cannot be asked to watch {peer}: {error}"),
                };
                tell(&node, "upcall", peer, text);
                match answer {
                    Ok(Answer::NotRegistered) => node.locks.statd_not_registered(&node, peer),
                    answer => {
                        let done = matches!(answer, Ok(Answer::Watched { .. }));
                        node.locks.monitored(&node, peer, done);
                    }
                }
            }
            Upcall::Unmonitor(peer) => {
                let name = peer.to_string();
                let text = match call(&node, SmProc::SM_UNMON, &mon_id_of(&upcalls.my_name, &name)).await {
                    Ok(Some(_)) => format!("rpc.statd no longer watches {peer}"),
                    Ok(None) => "rpc.statd is not registered with rpcbind".to_owned(),
                    Err(error) => format!("rpc.statd cannot be asked to watch {peer} no longer: {error}"),
                };
                tell(&node, "upcall", peer, text);
            }
        }
    }
}

fn tell(node: &Node, step: &'static str, peer: IpAddr, text: String) {
    node.event(What::Statd {
        step,
        host: peer.to_string(),
        text,
    });
}

async fn monitor(node: &Node, my_name: &str, peer: IpAddr, private: Private) -> Result<Answer, CallError> {
    let name = peer.to_string();
    let mon = Mon {
        mon_id: mon_id_of(my_name, &name),
        private,
    };
    let Some(reply) = call(node, SmProc::SM_MON, &mon).await? else {
        return Ok(Answer::NotRegistered);
    };
    let res: SmStatRes = xdr::from_bytes(&reply)?;
    Ok(match res.res_stat {
        SmRes::STAT_SUCC => Answer::Watched { state: res.state },
        _ => Answer::Refused,
    })
}

/// Calls rpc.statd; `None`: the port mapper does not know it.
async fn call(
    node: &Node,
    procedure: SmProc,
    args: &(dyn Encode + Sync),
) -> Result<Option<bytes::Bytes>, CallError> {
    let mapper = connect(node, PMAP_PORT).await?;
    let statd = (proto::nsm::PROGRAM, proto::nsm::V1);
    let Some(port) = port_of(&mapper, Transport::Udp, statd, PATIENCE).await? else {
        return Ok(None);
    };
    let target = Target::new(proto::nsm::PROGRAM, proto::nsm::V1, procedure.0);
    let reply = connect(node, port).await?.call(target, args, ANSWER).await?;
    Ok(Some(reply))
}

/// From a reserved port if there is one to be had, as a kernel calls; rpc.statd does not insist.
async fn connect(node: &Node, port: u16) -> Result<Client, CallError> {
    for from in RESERVED.rev() {
        match connect_from(node, from, port).await {
            Err(CallError::Io(error)) if error.kind() == ErrorKind::AddrInUse => {}
            Err(CallError::Io(error)) if error.kind() == ErrorKind::PermissionDenied => break,
            connected => return connected,
        }
    }
    connect_from(node, 0, port).await
}

async fn connect_from(node: &Node, from: u16, port: u16) -> Result<Client, CallError> {
    let options = Options {
        from: Some(SocketAddr::new(LOOPBACK, from)),
        identity: Identity::None,
        // Two sockets may have the same port one after the other, and rpc.statd a memory.
        first_xid: node.clock.now().subsec_nanos(),
        patience: PATIENCE,
        tap: node.capture.clone().map(|tap| tap as Arc<dyn Tap>),
    };
    Client::connect(Transport::Udp, SocketAddr::new(LOOPBACK, port), options).await
}
