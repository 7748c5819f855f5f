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

use crate::msg::Transport;
use crate::record::{FIRST_BUFFER, LAST_FRAGMENT, MAX_RECORD, RecordReader};
use crate::xdr::Writer;
use bytes::{Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Most TCP connections that one listener holds; the next is closed at once.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Replies are written out when this many bytes have gathered, even if more calls wait in the buffer.
const FLUSH_AT: usize = 512 << 10;
/// Most pieces in one vectored write.
const MAX_PIECES: usize = 64;
/// Largest UDP datagram.
const MAX_DATAGRAM: usize = 65_536;
/// Datagrams answered before other tasks get their turn.
const DATAGRAMS_PER_TURN: usize = 64;

/// Where a message came from, and the way back.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// Ours.
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
    /// Send this reply to the peer.
    Reply(SocketAddr, Writer),
    /// Close the connection in the usual way (UDP: nothing).
    Close,
    /// Close it with a reset (UDP: nothing).
    Reset,
}

impl Origin {
    /// Sends a reply that could not be given in place. A connection that has gone meanwhile takes its
    /// replies with it, as on a real network.
    pub fn reply(&self, reply: Writer) {
        let _ = self.back.send(Command::Reply(self.peer, reply));
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

/// Something that answers messages.
pub trait Service: Send + Sync + 'static {
    /// Handles one message. A reply that is ready goes into `out`; anything else is up to the service.
    fn message(&self, origin: &Arc<Origin>, message: Bytes, out: &mut Writer) -> Flow;
}

/// Accepts connections until the task is dropped, and with it every connection it accepted.
pub async fn serve_tcp(listener: TcpListener, service: Arc<dyn Service>) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                    let id = NEXT.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(connection(stream, peer, id, service.clone()));
                }
                Ok((_, peer)) => tracing::warn!(%peer, limit = MAX_CONNECTIONS, "connection refused: too many"),
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

async fn connection(stream: TcpStream, peer: SocketAddr, id: u64, service: Arc<dyn Service>) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    let (back, commands) = mpsc::unbounded_channel();
    let origin = Arc::new(Origin {
        peer,
        local,
        transport: Transport::Tcp,
        connection: id,
        back,
    });
    match converse(stream, &origin, commands, service).await {
        Ok(()) => tracing::debug!(%peer, "connection closed"),
        Err(error) => tracing::debug!(%peer, %error, "connection ended"),
    }
}

async fn converse(
    mut stream: TcpStream,
    origin: &Arc<Origin>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    service: Arc<dyn Service>,
) -> io::Result<()> {
    use tokio::io::AsyncReadExt;
    let mut records = RecordReader::new(MAX_RECORD);
    let mut buffer = BytesMut::with_capacity(FIRST_BUFFER);
    let mut out = Writer::new();
    loop {
        records.reserve(&mut buffer);
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Reply(_, reply)) => mark_record(&mut out, |out| out.append(reply)),
                Some(Command::Close) | None => return stream.shutdown().await,
                Some(Command::Reset) => return reset(&stream),
            },
            read = stream.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some(record) = records.next(&mut buffer).map_err(io::Error::other)? {
                    let mut flow = Flow::Continue;
                    mark_record(&mut out, |out| flow = service.message(origin, record, out));
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
        write_out(&mut stream, &mut out).await?;
    }
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

/// Closes so that the peer sees a reset: no lingering, unsent data discarded.
fn reset(stream: &TcpStream) -> io::Result<()> {
    stream.set_zero_linger()
}

async fn write_out(stream: &mut TcpStream, out: &mut Writer) -> io::Result<()> {
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
    let local = socket.local_addr()?;
    let (back, mut commands) = mpsc::unbounded_channel();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        tokio::select! {
            Some(command) = commands.recv() => {
                if let Command::Reply(peer, reply) = command {
                    send(&socket, peer, reply).await;
                }
            }
            ready = socket.readable() => {
                ready?;
                for _ in 0..DATAGRAMS_PER_TURN {
                    let (len, peer) = match socket.try_recv_from(&mut buffer) {
                        Ok(received) => received,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            tracing::debug!(%error, "datagram not received");
                            break;
                        }
                    };
                    let message = Bytes::copy_from_slice(buffer.get(..len).unwrap_or_default());
                    let origin = Origin { peer, local, transport: Transport::Udp, connection: 0, back: back.clone() };
                    let mut out = Writer::new();
                    service.message(&Arc::new(origin), message, &mut out);
                    if !out.is_empty() {
                        send(&socket, peer, out).await;
                    }
                }
            }
        }
    }
}

async fn send(socket: &UdpSocket, peer: SocketAddr, reply: Writer) {
    if let Err(error) = socket.send_to(&reply.into_bytes(), peer).await {
        tracing::debug!(%peer, %error, "datagram not sent");
    }
}
