//! The async server: sockets on one side, a [`Service`] that sees whole messages on the other.
//!
//! ```text
//! TCP:  read → RecordReader → Service::message for each record → one vectored write for all replies
//! UDP:  recv → Service::message → send
//! ```
//!
//! - A connection is one task. Whatever can be answered at once is answered in it, in place; a service that
//!   must wait keeps the [`Origin`] and sends its reply through it later.
//! - **Invariant**: a service writes replies into the [`Writer`] it is given or hands them to an
//!   [`Origin`]; it never sees a socket. What can be done to a connection is a [`Command`].
//! - A peer that does not read its replies is not read from either.
//! - A connection that waits for its next call holds no buffer: ten thousand of them must be cheap.

use crate::datagrams::{Datagrams, MAX_RECEIVED, MAX_SENT};
use crate::msg::{self, RpcError, Transport};
use crate::record::{LAST_FRAGMENT, MAX_RECORD, RecordReader};
use crate::xdr::Writer;
use bytes::{Bytes, BytesMut};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::io::poll_read_buf;

/// Replies are written out when this many bytes have gathered, even if more calls wait in the buffer.
const FLUSH_AT: usize = 512 << 10;
/// Most pieces in one vectored write.
const MAX_PIECES: usize = 64;
/// A connection keeps this much memory for its replies, in bytes; what a large one took beyond is given back.
const KEPT_FOR_REPLIES: usize = 4 << 10;
/// Datagrams answered before other tasks get their turn.
const DATAGRAMS_PER_TURN: usize = 64;

/// Where a message came from, and the way back.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// Ours, as the peer has reached it.
    pub local: SocketAddr,
    /// How it came.
    pub transport: Transport,
    /// Distinguishes connections within this process; 0 for UDP.
    pub connection: u64,
    back: mpsc::UnboundedSender<Command>,
}

/// What a service may have done to the place a message came from.
#[derive(Debug)]
pub enum Command {
    /// Send this reply.
    Reply(Box<Late>),
    /// Send so many bytes of this reply, with the record mark of the whole, and close (UDP: a shorter datagram).
    Cut(Box<Late>, usize),
    /// Close the connection in the usual way (UDP: nothing).
    Close,
    /// Close it with a reset (UDP: nothing).
    Reset,
}

/// A reply that could not be given in place.
// In a box, since every connection has room for a few dozen commands.
#[derive(Debug)]
pub struct Late {
    from: SocketAddr,
    to: SocketAddr,
    reply: Writer,
}

impl Origin {
    /// Sends a reply that could not be given in place. A connection that has gone meanwhile takes its
    /// replies with it, as on a real network.
    pub fn reply(&self, reply: Writer) {
        let _ = self.back.send(Command::Reply(self.late(reply)));
    }

    /// Sends the first `bytes` of a reply, and nothing after them: the connection is closed.
    pub fn cut(&self, reply: Writer, bytes: usize) {
        let _ = self.back.send(Command::Cut(self.late(reply), bytes));
    }

    fn late(&self, reply: Writer) -> Box<Late> {
        Box::new(Late {
            from: self.local,
            to: self.peer,
            reply,
        })
    }

    /// Has the connection closed, with a reset or without.
    pub fn close(&self, reset: bool) {
        let _ = self
            .back
            .send(if reset { Command::Reset } else { Command::Close });
    }
}

/// What becomes of the connection after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It is closed once the replies so far are written.
    Close,
}

/// A message, and the buffer in which it lies, perhaps among others.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    buffer: &'a Bytes,
}

impl<'a> Message<'a> {
    /// A message that is part of `buffer`.
    ///
    /// # Panics
    /// [`keep`](Self::keep) does if it is not.
    pub fn within(buffer: &'a Bytes, bytes: &'a [u8]) -> Self {
        Message { bytes, buffer }
    }

    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The buffer of which it is part: a slice of it can be kept without copying it.
    pub fn buffer(self) -> &'a Bytes {
        self.buffer
    }

    /// The message on its own, to be kept. Nothing is copied.
    pub fn keep(self) -> Bytes {
        self.buffer.slice_ref(self.bytes)
    }
}

impl<'a> From<&'a Bytes> for Message<'a> {
    fn from(whole: &'a Bytes) -> Self {
        Message::within(whole, whole)
    }
}

/// Something that answers messages.
pub trait Service: Send + Sync + 'static {
    /// Handles one message, which was there at `arrived`. A reply that is ready goes into `out`; anything else is up to
    /// the service.
    fn message(&self, origin: &Arc<Origin>, message: Message<'_>, arrived: Instant, out: &mut Writer)
    -> Flow;

    /// A TCP connection was accepted.
    fn connected(&self) {}

    /// It is no more.
    fn disconnected(&self) {}
}

/// A connection that its service knows of until this is dropped, however its task ends.
struct Connected(Arc<dyn Service>);

impl Connected {
    fn new(service: Arc<dyn Service>) -> Self {
        service.connected();
        Connected(service)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

/// What a listener puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A connection on which no call has come for this long, and for twice this long at most, is closed, unless one
    /// is still to be answered; `None`: never.
    pub idle: Option<Duration>,
    /// Most connections; the next is closed at once.
    pub connections: usize,
}

impl Limits {
    /// As Linux has it: `svc_conn_age_period` in `net/sunrpc/svc_xprt.c`.
    pub const IDLE: Duration = Duration::from_secs(6 * 60);
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            idle: Some(Limits::IDLE),
            connections: 16_384,
        }
    }
}

/// Accepts connections until the task is dropped, and with it every connection it accepted.
pub async fn serve_tcp(listener: TcpListener, service: Arc<dyn Service>, limits: Limits) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < limits.connections => {
                    let id = NEXT.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(connection(stream, peer, id, service.clone(), limits.idle));
                }
                Ok((_, peer)) => tracing::warn!(%peer, limit = limits.connections, "connection refused: too many"),
                Err(error) => {
                    // Out of descriptors, most likely: let others close theirs before trying again.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    id: u64,
    service: Arc<dyn Service>,
    idle: Option<Duration>,
) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    let _connected = Connected::new(service.clone());
    let (back, commands) = mpsc::unbounded_channel();
    let origin = Arc::new(Origin {
        peer,
        local,
        transport: Transport::Tcp,
        connection: id,
        back,
    });
    match converse(stream, &origin, commands, service, Age::new(idle)).await {
        Ok(()) => tracing::debug!(%peer, "connection closed"),
        Err(error) => tracing::debug!(%peer, %error, "connection ended"),
    }
}

async fn converse(
    mut stream: TcpStream,
    origin: &Arc<Origin>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    service: Arc<dyn Service>,
    mut age: Age,
) -> io::Result<()> {
    let mut records = RecordReader::new(MAX_RECORD);
    let mut buffer = BytesMut::new();
    let mut out = Writer::new();
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Reply(late)) => {
                    age.used();
                    mark_record(&mut out, |out| out.append(late.reply));
                }
                Some(Command::Cut(late, bytes)) => {
                    cut_short(&mut out, late.reply, bytes);
                    write_out(&mut stream, &mut out).await?;
                    return stream.shutdown().await;
                }
                Some(Command::Close) | None => return stream.shutdown().await,
                Some(Command::Reset) => return reset(&stream),
            },
            read = read(&mut stream, &records, &mut buffer) => {
                if read? == 0 {
                    return Ok(());
                }
                let arrived = Instant::now();
                while let Some(several) = records.several(&mut buffer).map_err(io::Error::other)? {
                    age.used();
                    for record in several.iter() {
                        let message = Message::within(several.buffer(), record);
                        let mut flow = Flow::Continue;
                        mark_record(&mut out, |out| flow = service.message(origin, message, arrived, out));
                        if flow == Flow::Close {
                            write_out(&mut stream, &mut out).await?;
                            return stream.shutdown().await;
                        }
                        if out.len() > FLUSH_AT {
                            write_out(&mut stream, &mut out).await?;
                        }
                    }
                }
            }
            // A call that is still to be answered keeps the origin.
            () = age.over() => if Arc::strong_count(origin) == 1 {
                tracing::debug!(peer = %origin.peer, "idle: closing");
                return stream.shutdown().await;
            },
        }
        if !out.is_empty() {
            write_out(&mut stream, &mut out).await?;
            if out.room() > KEPT_FOR_REPLIES {
                out = Writer::new();
            }
        }
    }
}

/// How long a connection has been idle, as Linux knows it: a mark that each call takes away and that is made
/// every so often. Whoever has it still by then is idle. Calls move no timer.
struct Age {
    period: Option<tokio::time::Interval>,
    unused: bool,
}

impl Age {
    fn new(idle: Option<Duration>) -> Age {
        let start = tokio::time::Instant::now();
        let period = idle.map(|idle| tokio::time::interval_at(start + idle, idle));
        Age {
            period,
            unused: false,
        }
    }

    /// A call has come, or a reply has gone.
    fn used(&mut self) {
        self.unused = false;
    }

    /// Returns when a whole period has passed without one; may be dropped and called again.
    async fn over(&mut self) {
        let Some(period) = &mut self.period else {
            return std::future::pending().await;
        };
        loop {
            period.tick().await;
            if std::mem::replace(&mut self.unused, true) {
                return;
            }
        }
    }
}

thread_local! {
    /// An empty buffer that some connection has no use for while it waits.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// Reads what there is, at least one byte; 0: the end. While there is nothing to read, the connection has a buffer
/// only if part of a record is in it.
async fn read(stream: &mut TcpStream, records: &RecordReader, buffer: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut read = stream.poll_read_ready(cx).map_ok(|()| 0);
        if let Poll::Ready(Ok(_)) = read {
            if buffer.capacity() == 0 {
                *buffer = SPARE.take().unwrap_or_default();
            }
            records.reserve(buffer);
            // Not `try_read_buf`: this takes less than there is room for as a sign that there is no more, and asks no
            // second time.
            read = poll_read_buf(Pin::new(&mut *stream), cx, buffer);
        }
        if read.is_pending() && buffer.is_empty() && buffer.capacity() > 0 {
            SPARE.set(Some(std::mem::take(buffer)));
        }
        read
    })
    .await
}

/// Puts a record mark before whatever `write` appends; nothing if it appends nothing.
pub fn mark_record(out: &mut Writer, write: impl FnOnce(&mut Writer)) {
    let mark = out.mark();
    out.u32(0);
    write(out);
    match out.since(mark) - 4 {
        0 => out.rewind(mark),
        len => out.patch_u32(mark, LAST_FRAGMENT | len as u32),
    }
}

/// Appends the record mark of a whole reply, and only its first bytes.
fn cut_short(out: &mut Writer, reply: Writer, bytes: usize) {
    let reply = reply.into_bytes();
    out.u32(LAST_FRAGMENT | reply.len() as u32);
    out.raw(reply.get(..bytes).unwrap_or(&reply));
}

/// Closes so that the peer sees a reset: no lingering, unsent data discarded.
fn reset(stream: &TcpStream) -> io::Result<()> {
    stream.set_zero_linger()
}

/// Sends everything in `out` by vectored writes, and empties it.
///
/// # Errors
/// Those of the socket; how much was sent before is not known then.
pub async fn write_out<W: AsyncWrite + Unpin>(stream: &mut W, out: &mut Writer) -> io::Result<()> {
    let total = out.len();
    let mut sent = 0;
    while sent < total {
        let mut skip = sent;
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let mut used = 0;
        for piece in out.pieces() {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let Some(slot) = slices.get_mut(used) else { break };
            *slot = IoSlice::new(piece.get(skip..).unwrap_or_default());
            skip = 0;
            used += 1;
        }
        match stream
            .write_vectored(slices.get(..used).unwrap_or_default())
            .await?
        {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => sent += n,
        }
    }
    out.clear();
    Ok(())
}

/// Answers datagrams until the task is dropped.
///
/// # Errors
/// Those of the socket's address; a failed send or receive is logged and passed over, since a UDP socket
/// reports the ICMP errors of one peer to the next call.
pub async fn serve_udp(socket: UdpSocket, service: Arc<dyn Service>) -> io::Result<()> {
    let mut socket = Datagrams::new(socket)?;
    let (back, mut commands) = mpsc::unbounded_channel();
    let mut buffer = vec![0; MAX_RECEIVED];
    loop {
        tokio::select! {
            Some(command) = commands.recv() => {
                match command {
                    Command::Reply(late) => send(&socket, late.from, late.to, late.reply).await,
                    Command::Cut(late, bytes) => {
                        let mut cut = Writer::new();
                        let whole = late.reply.into_bytes();
                        cut.raw(whole.get(..bytes).unwrap_or(&whole));
                        send(&socket, late.from, late.to, cut).await;
                    }
                    Command::Close | Command::Reset => {}
                }
            }
            ready = socket.readable() => {
                ready?;
                for _ in 0..DATAGRAMS_PER_TURN {
                    let arrived = match socket.try_receive(&mut buffer) {
                        Ok(arrived) => arrived,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            tracing::debug!(%error, "datagram not received");
                            break;
                        }
                    };
                    let message = Bytes::copy_from_slice(buffer.get(..arrived.len).unwrap_or_default());
                    let origin = Origin {
                        peer: arrived.peer,
                        local: arrived.local,
                        transport: Transport::Udp,
                        connection: 0,
                        back: back.clone(),
                    };
                    let mut out = Writer::new();
                    service.message(&Arc::new(origin), (&message).into(), Instant::now(), &mut out);
                    if !out.is_empty() {
                        send(&socket, arrived.local, arrived.peer, out).await;
                    }
                }
            }
        }
    }
}

async fn send(socket: &Datagrams, from: SocketAddr, to: SocketAddr, reply: Writer) {
    let reply = fitting(reply.into_bytes(), to);
    if let Err(error) = socket.send(&reply, from, to).await {
        tracing::debug!(%to, %error, "datagram not sent");
    }
}

/// The reply itself, or SYSTEM_ERR if no datagram holds it: the peer learns that it need not ask again this way.
/// NFS never comes to that, since its replies are cut to the transport; a long list of mounts or registrations may.
fn fitting(reply: Bytes, to: SocketAddr) -> Bytes {
    match reply.first_chunk::<4>() {
        Some(xid) if reply.len() > MAX_SENT => {
            tracing::warn!(%to, bytes = reply.len(), "the reply does not fit into a datagram: SYSTEM_ERR");
            let mut refusal = Writer::new();
            msg::refused(&mut refusal, u32::from_be_bytes(*xid), RpcError::SystemErr);
            refusal.into_bytes()
        }
        _ => reply,
    }
}
