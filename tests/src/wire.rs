//! Sockets for tests that send what no client would: raw bytes out, whole messages in, and a deadline on
//! everything. Record marks are read by a few lines of their own here, not by the code under test.

use bytes::Bytes;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How long a test waits for what must come. A server that is well answers in less than a millisecond.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Longest record taken from a server.
const MAX_RECORD: usize = 2 << 20;

/// What came from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A whole message.
    Message(Bytes),
    /// The end of the connection, in good order or by a reset.
    Closed,
}

/// A TCP connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects within [`PATIENCE`].
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open(to: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of the socket; a server that has closed shows here or in [`receive`](Self::receive).
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends our half: the server reads an end of file, we can still receive.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// The next whole message, within [`PATIENCE`].
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], or [`io::ErrorKind::InvalidData`] for a record that no server sends.
    pub fn receive(&mut self) -> io::Result<Received> {
        let deadline = Instant::now() + PATIENCE;
        let mut message = Vec::new();
        loop {
            let mut mark = [0; 4];
            if !self.fill(&mut mark, deadline)? {
                return Ok(Received::Closed);
            }
            let mark = u32::from_be_bytes(mark);
            let (last, len) = (mark >> 31 == 1, (mark & 0x7fff_ffff) as usize);
            let start = message.len();
            if start + len > MAX_RECORD {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a record of {len} bytes"),
                ));
            }
            message.resize(start + len, 0);
            if !self.fill(message.get_mut(start..).unwrap_or_default(), deadline)? {
                return Ok(Received::Closed);
            }
            if last {
                return Ok(Received::Message(message.into()));
            }
        }
    }

    /// Fills `buffer`; false: the connection ended first.
    fn fill(&mut self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<bool> {
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => buffer = buffer.get_mut(n..).unwrap_or_default(),
                Err(error) => match error.kind() {
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return Ok(false),
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }
}

/// A UDP socket connected to a server.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    /// Takes a free port of loopback.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open(to: SocketAddr) -> io::Result<Datagrams> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Datagrams { socket })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(bytes).map(|_| ())
    }

    /// The next datagram, within [`PATIENCE`].
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] or [`io::ErrorKind::WouldBlock`] if none comes.
    pub fn receive(&self) -> io::Result<Bytes> {
        let mut buffer = vec![0; 65_536];
        let len = self.socket.recv(&mut buffer)?;
        buffer.truncate(len);
        Ok(buffer.into())
    }
}
