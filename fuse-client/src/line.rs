//! Calls to one program of one host, over connections that come and go.
//!
//! Any number of calls are under way at once. Each keeps its xid for as long as somebody waits for it: it is sent again
//! when its time is over, and again on the next connection, so that a server with a duplicate request cache executes it
//! once. Who no longer waits drops the future, and the call is forgotten.
//!
//! One task per line does all input and output. What was put into the queue while it was busy goes out in one write.

use crate::options::{Proto, Retry};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use proto::portmap::{IpProto, Mapping, PMAP_PORT, PmapProc};
use rpc::client::{Client, Identity, Options, Target, encode_call};
use rpc::msg::{Reply, RpcError, Transport};
use rpc::record::{MAX_RECORD, RecordReader};
use rpc::server::{mark_record, write_out};
use rpc::xdr::{self, DecodeError, Encode, Writer};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long one attempt to connect may take.
const CONNECTING: Duration = Duration::from_secs(10);
/// Between two attempts to connect: this at first,
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// then twice as long each time, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// The longest time between two transmissions of a call.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Most bytes that are gathered for one write.
const BATCH: usize = 4 << 20;
/// Ports that only root may have, which some exports insist on (`secure` in exports(5)).
const RESERVED: std::ops::Range<u16> = 665..1023;

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Not answered within `timeo` and `retrans`, on a soft mount.
    #[error("no answer from {0}")]
    TimedOut(String),
    /// No connection can be made, on a line that does not try again.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, io::Error),
    /// The RPC layer of the server refused it.
    #[error("refused: {0}")]
    Refused(#[from] RpcError),
    /// The answer is not what the program's definition says.
    #[error("the answer cannot be read: {0}")]
    Garbage(#[from] DecodeError),
    /// The line was closed.
    #[error("closed")]
    Closed,
}

/// Where a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Known beforehand.
    At(SocketAddr),
    /// Whatever the port mapper of the host says when a connection is made.
    Asked(IpAddr),
}

/// What a line needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server as the user named it, for messages.
    pub name: String,
    /// What the program is called in messages.
    pub service: &'static str,
    /// Where.
    pub place: Place,
    /// Which program, and which version.
    pub program: (u32, u32),
    /// TCP or UDP.
    pub proto: Proto,
    /// When a call is repeated or given up.
    pub retry: Retry,
    /// A connection that cannot be made is an error at once, because a person waits for it.
    pub once: bool,
    /// Our address, where it matters.
    pub from: Option<IpAddr>,
    /// Our name, for AUTH_SYS.
    pub machine: String,
}

/// Who makes a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups; the first sixteen count (RFC 5531, appendix A).
    pub groups: Arc<[u32]>,
}

/// Calls to one program of one host. Clones share the line; it ends with the last of them.
#[derive(Clone)]
pub struct Line {
    shared: Arc<Shared>,
    _end: Arc<DropGuard>,
}

struct Shared {
    settings: Settings,
    next_xid: AtomicU32,
    calls: Mutex<Calls>,
    /// Something is to be sent.
    wake: Notify,
    end: CancellationToken,
}

#[derive(Default)]
struct Calls {
    /// By xid.
    waiting: BTreeMap<u32, Waiting>,
    /// What is to be sent next. May name calls that are no longer waiting.
    unsent: VecDeque<u32>,
    closed: bool,
    /// Whether it was told that the server does not answer.
    complained: bool,
    /// The address of our end, once there was a connection.
    local: Option<SocketAddr>,
}

struct Waiting {
    /// The message, with its record mark on TCP.
    message: Writer,
    reply: oneshot::Sender<Result<Bytes, LineError>>,
    /// When it is sent again.
    deadline: Instant,
    /// How often it was sent since the last major timeout.
    tries: u32,
}

/// Forgets a call whose caller no longer waits.
struct Forget<'a>(&'a Shared, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.calls.lock().waiting.remove(&self.1);
    }
}

impl Line {
    /// A line; it connects when the first call is made. Must be called within a tokio runtime.
    pub fn new(settings: Settings) -> Line {
        let end = CancellationToken::new();
        let shared = Arc::new(Shared {
            settings,
            next_xid: AtomicU32::new(first_xid()),
            calls: Mutex::default(),
            wake: Notify::new(),
            end: end.clone(),
        });
        tokio::spawn(drive(shared.clone()));
        Line {
            shared,
            _end: Arc::new(end.drop_guard()),
        }
    }

    /// Calls a procedure and waits for the result, which the caller decodes. On a hard line that can take for ever;
    /// dropping the future ends the wait and the repetitions.
    ///
    /// # Errors
    /// See [`LineError`].
    pub async fn call(
        &self,
        who: &Who,
        procedure: u32,
        args: &(dyn Encode + Sync),
    ) -> Result<Bytes, LineError> {
        let shared = &*self.shared;
        let settings = &shared.settings;
        let xid = shared.next_xid.fetch_add(1, Relaxed);
        let (program, version) = settings.program;
        let target = Target::new(program, version, procedure);
        let identity = Identity::Sys {
            machine: settings.machine.clone(),
            uid: who.uid,
            gid: who.gid,
            groups: who.groups.to_vec(),
        };
        let mut message = Writer::new();
        let encode = |w: &mut Writer| encode_call(w, xid, target, &identity, args);
        match settings.proto {
            Proto::Tcp => mark_record(&mut message, encode),
            Proto::Udp => encode(&mut message),
        }
        let (reply, answered) = oneshot::channel();
        {
            let mut calls = shared.calls.lock();
            if calls.closed {
                return Err(LineError::Closed);
            }
            let deadline = Instant::now() + settings.retry.wait(settings.proto, 0);
            let waiting = Waiting {
                message,
                reply,
                deadline,
                tries: 0,
            };
            calls.waiting.insert(xid, waiting);
            calls.unsent.push_back(xid);
        }
        let _forget = Forget(shared, xid);
        shared.wake.notify_one();
        answered.await.unwrap_or(Err(LineError::Closed))
    }

    /// Our end of the last connection.
    pub fn local(&self) -> Option<SocketAddr> {
        self.shared.calls.lock().local
    }

    /// Ends every call under way and every later one with [`LineError::Closed`].
    pub fn close(&self) {
        self.shared.end.cancel();
        self.shared.close();
    }
}

impl Retry {
    /// How long a call waits for its answer after it was sent for the `tries`-th time again. TCP waits longer by `timeo`
    /// each time, UDP twice as long (nfs(5), `timeo`).
    fn wait(&self, proto: Proto, tries: u32) -> Duration {
        let wait = match proto {
            Proto::Tcp => self.timeo.saturating_mul(tries.saturating_add(1)),
            Proto::Udp => self.timeo.saturating_mul(1 << tries.min(16)),
        };
        wait.min(LONGEST_WAIT.max(self.timeo))
    }
}

/// What the end of a time means.
enum Expired {
    /// Calls are to be sent again.
    Again,
    /// So long without an answer that the connection is not trusted any more.
    Reconnect,
}

impl Shared {
    fn close(&self) {
        let mut calls = self.calls.lock();
        calls.closed = true;
        calls.waiting.clear();
        calls.unsent.clear();
    }

    /// Ends every call under way: there is no connection.
    fn unreachable(&self, error: &io::Error) {
        let mut calls = self.calls.lock();
        for (_, waiting) in std::mem::take(&mut calls.waiting) {
            let error = io::Error::new(error.kind(), error.to_string());
            let _ = waiting
                .reply
                .send(Err(LineError::Unreachable(self.settings.name.clone(), error)));
        }
    }

    /// Gives a message to the call that it answers; anything else is nobody's and is dropped.
    fn received(&self, message: &Bytes) {
        let Ok(reply) = Reply::read(message) else { return };
        let mut calls = self.calls.lock();
        if std::mem::take(&mut calls.complained) {
            tracing::info!("{}: server {} OK", self.settings.service, self.settings.name);
        }
        if let Some(waiting) = calls.waiting.remove(&reply.xid) {
            let _ = waiting.reply.send(reply.result.map_err(LineError::from));
        }
    }

    /// Every call is to be sent (again): there is a new connection.
    fn all_again(&self, local: Option<SocketAddr>) {
        let calls = &mut *self.calls.lock();
        calls.local = local;
        calls.unsent = calls.waiting.keys().copied().collect();
    }

    /// The next messages, up to [`BATCH`] bytes; on UDP one.
    fn next(&self, out: &mut Writer) {
        let calls = &mut *self.calls.lock();
        while out.len() < BATCH
            && let Some(xid) = calls.unsent.pop_front()
        {
            if let Some(waiting) = calls.waiting.get(&xid) {
                out.append(waiting.message.clone());
                if self.settings.proto == Proto::Udp {
                    return;
                }
            }
        }
    }

    /// When the next call is to be sent again.
    fn next_deadline(&self) -> Option<Instant> {
        self.calls
            .lock()
            .waiting
            .values()
            .map(|waiting| waiting.deadline)
            .min()
    }

    fn has_calls(&self) -> bool {
        !self.calls.lock().waiting.is_empty()
    }

    /// Looks for calls whose time is over: repeats them, or gives them up.
    fn expire(&self) -> Expired {
        let (settings, now) = (&self.settings, Instant::now());
        let (retry, proto) = (settings.retry, settings.proto);
        let calls = &mut *self.calls.lock();
        let mut over = Vec::new();
        let mut major = false;
        for (&xid, waiting) in calls.waiting.iter_mut().filter(|(_, w)| w.deadline <= now) {
            waiting.tries += 1;
            if waiting.tries > retry.retrans {
                major = true;
                if !retry.hard {
                    over.push(xid);
                    continue;
                }
                waiting.tries = 0;
            }
            waiting.deadline = now + retry.wait(proto, waiting.tries);
            calls.unsent.push_back(xid);
        }
        for waiting in over.iter().filter_map(|xid| calls.waiting.remove(xid)) {
            let _ = waiting
                .reply
                .send(Err(LineError::TimedOut(settings.name.clone())));
        }
        if major && !std::mem::replace(&mut calls.complained, true) {
            let then = if retry.hard { "still trying" } else { "timed out" };
            tracing::warn!(
                "{}: server {} not responding, {then}",
                settings.service,
                settings.name
            );
        }
        match major {
            true => Expired::Reconnect,
            false => Expired::Again,
        }
    }

    /// Waits until there is a call to be answered.
    async fn wanted(&self) {
        while !self.has_calls() {
            self.wake.notified().await;
        }
    }

    /// Lets `pause` pass; soft calls go on timing out meanwhile.
    async fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            let next = self.next_deadline().unwrap_or(until).min(until);
            tokio::time::sleep_until(next).await;
            self.expire();
        }
    }

    async fn find(&self) -> io::Result<SocketAddr> {
        let settings = &self.settings;
        match settings.place {
            Place::At(address) => Ok(address),
            Place::Asked(host) => {
                let port = ask_port(host, settings.from, settings.program, settings.proto).await?;
                Ok(SocketAddr::new(host, port))
            }
        }
    }

    async fn connect(&self) -> io::Result<Socket> {
        let peer = self.find().await?;
        match self.settings.proto {
            Proto::Tcp => connect_tcp(peer, self.settings.from).await.map(Socket::Tcp),
            Proto::Udp => {
                let from = self.settings.from.unwrap_or_else(|| unspecified(peer));
                let socket = UdpSocket::bind((from, 0)).await?;
                socket.connect(peer).await?;
                Ok(Socket::Udp(socket))
            }
        }
    }
}

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

fn unspecified(peer: SocketAddr) -> IpAddr {
    match peer {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0u16; 8].into(),
    }
}

/// From a reserved port if we may have one, as every kernel does.
async fn connect_tcp(peer: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let new = || match peer {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let own = from.unwrap_or_else(|| unspecified(peer));
    // Not the same for every line and process, lest they all try the same ports in turn.
    let start = std::process::id().wrapping_mul(31) as u16 % RESERVED.len() as u16;
    for step in 0..RESERVED.len() as u16 {
        let socket = new()?;
        let port = RESERVED.start + (start + step) % RESERVED.len() as u16;
        match socket.bind((own, port).into()) {
            Ok(()) => match tokio::time::timeout(CONNECTING, socket.connect(peer)).await? {
                // The same two ends had a connection a moment ago.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(error) => return Err(error),
                Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
            },
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(_) => break,
        }
    }
    let socket = new()?;
    if let Some(from) = from {
        socket.bind((from, 0).into())?;
    }
    let stream = tokio::time::timeout(CONNECTING, socket.connect(peer)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Where the numbers of calls begin: anew for each line and each question, since a server that remembers calls would
/// take the same number from the same host for a copy.
pub(crate) fn first_xid() -> u32 {
    let seed = std::collections::hash_map::RandomState::new();
    std::hash::BuildHasher::hash_one(&seed, ()) as u32
}

/// Asks a host's port mapper where a program is (`PMAPPROC_GETPORT`, RFC 1833, section 3).
///
/// # Errors
/// Those of the call, and `NotFound` if the program is not registered.
pub async fn ask_port(
    host: IpAddr,
    from: Option<IpAddr>,
    program: (u32, u32),
    proto: Proto,
) -> io::Result<u16> {
    let options = Options {
        from: from.map(|from| (from, 0).into()),
        identity: Identity::None,
        first_xid: first_xid(),
        patience: CONNECTING,
        tap: None,
    };
    let about = |error: rpc::client::CallError| {
        let kind = match &error {
            rpc::client::CallError::Io(error) => error.kind(),
            rpc::client::CallError::TimedOut(_) => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, format!("the port mapper at {host}:{PMAP_PORT}: {error}"))
    };
    let client = Client::connect(Transport::Tcp, (host, PMAP_PORT).into(), options);
    let client = client.await.map_err(about)?;
    let target = Target::new(
        proto::portmap::PROGRAM,
        proto::portmap::V2,
        PmapProc::PMAPPROC_GETPORT.0,
    );
    let wanted = Mapping {
        prog: program.0,
        vers: program.1,
        prot: match proto {
            Proto::Tcp => IpProto::IPPROTO_TCP,
            Proto::Udp => IpProto::IPPROTO_UDP,
        },
        port: 0,
    };
    let answer = client.call(target, &wanted, CONNECTING).await.map_err(about)?;
    let port: u32 = xdr::from_bytes(&answer).map_err(io::Error::other)?;
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "program {} version {} is not registered with the port mapper of {host} (see `rpcinfo -p {host}`)",
                program.0, program.1
            ),
        )),
    }
}

/// Connects, converses, connects again, until the line is closed.
async fn drive(shared: Arc<Shared>) {
    let work = async {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            shared.wanted().await;
            let began = Instant::now();
            match shared.connect().await {
                Ok(socket) => {
                    told = false;
                    let ended = match socket {
                        Socket::Tcp(stream) => over_tcp(&shared, stream).await,
                        Socket::Udp(socket) => over_udp(&shared, &socket).await,
                    };
                    if let Err(error) = ended {
                        tracing::debug!(server = shared.settings.name, %error, "the connection ended");
                    }
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(error) if shared.settings.once => shared.unreachable(&error),
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        let Settings { service, name, .. } = &shared.settings;
                        tracing::warn!("{service}: server {name} cannot be reached: {error}");
                    }
                }
            }
            if shared.has_calls() {
                shared.pause(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shared.end.cancelled() => {}
    }
    shared.close();
}

async fn over_tcp(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    shared.all_again(stream.local_addr().ok());
    let (mut read, mut write) = stream.into_split();
    let reading = async {
        let mut records = RecordReader::new(MAX_RECORD);
        let mut buffer = BytesMut::new();
        loop {
            records.reserve(&mut buffer);
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            while let Some(record) = records.next(&mut buffer).map_err(io::Error::other)? {
                shared.received(&record);
            }
        }
    };
    let writing = async {
        let mut out = Writer::new();
        loop {
            shared.next(&mut out);
            if !out.is_empty() {
                write_out(&mut write, &mut out).await?;
                continue;
            }
            if let Expired::Reconnect = until_wanted(shared).await {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

/// Until there may be something to send, or a call's time was over.
async fn until_wanted(shared: &Shared) -> Expired {
    let timer = async {
        match shared.next_deadline() {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shared.wake.notified() => Expired::Again,
        () = timer => shared.expire(),
    }
}

async fn over_udp(shared: &Shared, socket: &UdpSocket) -> io::Result<()> {
    shared.all_again(socket.local_addr().ok());
    let reading = async {
        let mut buffer = vec![0; 65_536];
        loop {
            let len = socket.recv(&mut buffer).await?;
            shared.received(&Bytes::copy_from_slice(buffer.get(..len).unwrap_or_default()));
        }
    };
    let writing = async {
        let mut out = Writer::new();
        loop {
            shared.next(&mut out);
            if !out.is_empty() {
                socket.send(&std::mem::take(&mut out).into_bytes()).await?;
                continue;
            }
            until_wanted(shared).await;
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}
