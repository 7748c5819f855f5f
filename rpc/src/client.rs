//! Outgoing calls. A [`Client`] has one socket to one program and any number of calls under way on it,
//! told apart by their xids.
//!
//! TCP calls are sent once; UDP calls are repeated with the same xid until the deadline. Neither connects
//! again by itself: the caller decides what a lost connection means.

use crate::msg::{self, AuthFlavor, CallHeader, OpaqueAuth, Reply, RpcError, Transport};
use crate::record::{MAX_RECORD, RecordReader};
use crate::server::mark_record;
use crate::xdr::{DecodeError, Encode, Opaque, Writer};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The socket failed: refused, reset, unreachable.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection closed with the call under way.
    #[error("the connection closed before the answer came")]
    Closed,
    /// The RPC layer of the other side refused it.
    #[error("refused: {0}")]
    Refused(#[from] RpcError),
    /// The answer is not what the program's definition says.
    #[error("the answer cannot be read: {0}")]
    Garbage(#[from] DecodeError),
}

/// The identity that goes with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// AUTH_NONE.
    None,
    /// AUTH_SYS.
    Sys {
        /// The host's name.
        machine: String,
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Further groups, sixteen at most.
        groups: Vec<u32>,
    },
}

/// Which procedure of which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Program number.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Its procedure.
    pub procedure: u32,
}

impl Target {
    /// A target.
    pub const fn new(program: u32, version: u32, procedure: u32) -> Self {
        Target {
            program,
            version,
            procedure,
        }
    }
}

/// Encodes a whole call message.
pub fn encode_call(w: &mut Writer, xid: u32, target: Target, identity: &Identity, args: &dyn Encode) {
    let body;
    let cred = match identity {
        Identity::None => OpaqueAuth::default(),
        Identity::Sys {
            machine,
            uid,
            gid,
            groups,
        } => {
            body = msg::auth_sys(machine, *uid, *gid, groups);
            OpaqueAuth {
                flavor: AuthFlavor::AUTH_SYS,
                body: Opaque(&body),
            }
        }
    };
    let Target {
        program,
        version,
        procedure,
    } = target;
    CallHeader {
        xid,
        program,
        version,
        procedure,
        cred,
        verf: OpaqueAuth::default(),
    }
    .encode(w);
    args.encode(w);
}

/// Sees every message that a [`Client`] sends or receives, for a capture.
pub trait Tap: Send + Sync {
    /// `message` went `from` one socket `to` another.
    fn message(&self, transport: Transport, from: SocketAddr, to: SocketAddr, message: &Bytes);
}

/// How a [`Client`] presents itself and what it puts up with.
#[derive(Clone)]
pub struct Options {
    /// Our address (port 0: any free one); matters to a peer that compares it with the one it mounted.
    pub from: Option<SocketAddr>,
    /// Who we say we are.
    pub identity: Identity,
    /// The first call's xid; the next one is one more, and so on.
    pub first_xid: u32,
    /// How long connecting may take.
    pub patience: Duration,
    /// Sees every message.
    pub tap: Option<Arc<dyn Tap>>,
}

/// Calls to one address over one socket.
pub struct Client {
    way: Way,
    options: Options,
    link: Arc<Link>,
    next_xid: AtomicU32,
    reader: JoinHandle<()>,
}

/// What the calling side and the reading task share.
struct Link {
    transport: Transport,
    local: SocketAddr,
    peer: SocketAddr,
    tap: Option<Arc<dyn Tap>>,
    /// Calls under way, by xid; `None` once the connection is gone.
    waiting: Mutex<Option<BTreeMap<u32, oneshot::Sender<Reply>>>>,
}

enum Way {
    Tcp(tokio::sync::Mutex<OwnedWriteHalf>),
    Udp(Arc<UdpSocket>),
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    /// Connects to `peer`.
    ///
    /// # Errors
    /// Those of the socket, and [`CallError::TimedOut`] if no connection comes about in time.
    pub async fn connect(
        transport: Transport,
        peer: SocketAddr,
        options: Options,
    ) -> Result<Client, CallError> {
        match transport {
            Transport::Tcp => {
                let socket = if peer.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    TcpSocket::new_v6()?
                };
                if let Some(from) = options.from {
                    socket.bind(from)?;
                }
                let connected = tokio::time::timeout(options.patience, socket.connect(peer)).await;
                let stream = connected.map_err(|_| CallError::TimedOut(options.patience))??;
                stream.set_nodelay(true)?;
                let link = Link::new(transport, stream.local_addr()?, peer, &options);
                let (read, write) = stream.into_split();
                let reader = tokio::spawn(read_stream(read, link.clone()));
                Ok(Self::new(
                    Way::Tcp(tokio::sync::Mutex::new(write)),
                    link,
                    reader,
                    options,
                ))
            }
            Transport::Udp => {
                let any: IpAddr = if peer.is_ipv4() {
                    [0; 4].into()
                } else {
                    [0u16; 8].into()
                };
                let socket = UdpSocket::bind(options.from.unwrap_or(SocketAddr::new(any, 0))).await?;
                socket.connect(peer).await?;
                let socket = Arc::new(socket);
                let link = Link::new(transport, socket.local_addr()?, peer, &options);
                let reader = tokio::spawn(read_datagrams(socket.clone(), link.clone()));
                Ok(Self::new(Way::Udp(socket), link, reader, options))
            }
        }
    }

    fn new(way: Way, link: Arc<Link>, reader: JoinHandle<()>, options: Options) -> Client {
        Client {
            way,
            link,
            reader,
            next_xid: AtomicU32::new(options.first_xid),
            options,
        }
    }

    /// Our end of the socket.
    pub fn local(&self) -> SocketAddr {
        self.link.local
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.link.peer
    }

    /// Whether the connection is there still, as far as is known.
    pub fn is_open(&self) -> bool {
        self.link.waiting().is_some()
    }

    /// Calls and waits for the result, which the caller decodes.
    ///
    /// # Errors
    /// See [`CallError`]. After a timeout a late answer is dropped.
    pub async fn call(
        &self,
        target: Target,
        args: &(dyn Encode + Sync),
        patience: Duration,
    ) -> Result<Bytes, CallError> {
        let xid = self.next_xid.fetch_add(1, Ordering::Relaxed);
        let mut message = Writer::new();
        encode_call(&mut message, xid, target, &self.options.identity, args);
        let receiver = self.link.expect(xid)?;
        let answered = tokio::time::timeout(patience, self.exchange(message, receiver)).await;
        self.link.forget(xid);
        let reply = answered.map_err(|_| CallError::TimedOut(patience))??;
        Ok(reply.result?)
    }

    async fn exchange(
        &self,
        message: Writer,
        receiver: oneshot::Receiver<Reply>,
    ) -> Result<Reply, CallError> {
        let message = message.into_bytes();
        match &self.way {
            Way::Tcp(write) => {
                let mut record = Writer::new();
                mark_record(&mut record, |w| w.raw(&message));
                self.link.sent(&message);
                write.lock().await.write_all(&record.into_bytes()).await?;
                receiver.await.map_err(|_| CallError::Closed)
            }
            Way::Udp(socket) => {
                let mut wait = FIRST_RETRANSMISSION;
                tokio::pin!(receiver);
                loop {
                    self.link.sent(&message);
                    socket.send(&message).await?;
                    match tokio::time::timeout(wait, &mut receiver).await {
                        Ok(reply) => return reply.map_err(|_| CallError::Closed),
                        Err(_) => wait = (wait * 2).min(LAST_RETRANSMISSION),
                    }
                }
            }
        }
    }
}

/// A UDP call is repeated after this, then after twice as long, and so on,
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(500);
/// up to this.
const LAST_RETRANSMISSION: Duration = Duration::from_secs(8);

impl Link {
    fn new(transport: Transport, local: SocketAddr, peer: SocketAddr, options: &Options) -> Arc<Link> {
        let (tap, waiting) = (options.tap.clone(), Mutex::new(Some(BTreeMap::new())));
        Arc::new(Link {
            transport,
            local,
            peer,
            tap,
            waiting,
        })
    }

    /// Announces a call; its reply will come through the receiver.
    fn expect(&self, xid: u32) -> Result<oneshot::Receiver<Reply>, CallError> {
        let (sender, receiver) = oneshot::channel();
        self.waiting()
            .as_mut()
            .ok_or(CallError::Closed)?
            .insert(xid, sender);
        Ok(receiver)
    }

    fn forget(&self, xid: u32) {
        if let Some(waiting) = self.waiting().as_mut() {
            waiting.remove(&xid);
        }
    }

    fn sent(&self, message: &Bytes) {
        if let Some(tap) = &self.tap {
            tap.message(self.transport, self.local, self.peer, message);
        }
    }

    /// Gives a message to the call that it answers; anything else is nobody's and is dropped.
    fn received(&self, message: &Bytes) {
        if let Some(tap) = &self.tap {
            tap.message(self.transport, self.peer, self.local, message);
        }
        let Ok(reply) = Reply::read(message) else { return };
        let waiter = self
            .waiting()
            .as_mut()
            .and_then(|waiting| waiting.remove(&reply.xid));
        if let Some(waiter) = waiter {
            let _ = waiter.send(reply);
        }
    }

    /// Ends every call under way with [`CallError::Closed`], and every later one.
    fn gone(&self) {
        self.waiting().take();
    }

    fn waiting(&self) -> MutexGuard<'_, Option<BTreeMap<u32, oneshot::Sender<Reply>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_stream(mut stream: OwnedReadHalf, link: Arc<Link>) {
    let mut records = RecordReader::new(MAX_RECORD);
    let mut buffer = BytesMut::new();
    'connected: loop {
        records.reserve(&mut buffer);
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        loop {
            match records.next(&mut buffer) {
                Ok(Some(record)) => link.received(&record),
                Ok(None) => break,
                Err(_) => break 'connected,
            }
        }
    }
    link.gone();
}

async fn read_datagrams(socket: Arc<UdpSocket>, link: Arc<Link>) {
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(len) => link.received(&Bytes::copy_from_slice(buffer.get(..len).unwrap_or_default())),
            // ICMP "port unreachable": nobody listens, so nobody will answer.
            Err(_) => return link.gone(),
        }
    }
}
