//! The two ends of the wire that are ours: calls to a server, and a host that servers can call back.
//!
//! [`Peer`] makes calls, each over a connection for its program, from the address and the kind of port that
//! its case asks for. [`Listener`] is that host's port mapper and lock manager: servers send GRANTED_MSG and
//! the `_RES` calls there, and cases wait for them.

use crate::transcript::{Caller, Cred};
use nfslab_tests::call::{Call, auth_sys, record, words};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;
use tokio::net::TcpSocket;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest record that is taken from a server.
const LONGEST: usize = 4 << 20;

/// What came of a call.
pub enum Outcome {
    /// The reply.
    Reply(Vec<u8>),
    /// The server closed the connection.
    Closed,
    /// Nothing came in time.
    Silence,
}

/// Calls to one server.
pub struct Peer {
    from: IpAddr,
    server: IpAddr,
    runtime: tokio::runtime::Handle,
    ports: BTreeMap<(u32, u32, bool), u16>,
    connections: BTreeMap<(u32, bool), TcpStream>,
    xid: u32,
}

impl Peer {
    /// Nothing is connected yet. `runtime` must not be the caller's own thread.
    pub fn new(from: IpAddr, server: IpAddr, runtime: tokio::runtime::Handle) -> Peer {
        let (ports, connections) = Default::default();
        Peer {
            from,
            server,
            runtime,
            ports,
            connections,
            xid: 0x00c0_de00,
        }
    }

    /// Calls, and waits for the reply as long as the caller says.
    pub fn call(&mut self, target: (u32, u32, u32), caller: &Caller, args: Vec<u8>) -> io::Result<Outcome> {
        let (program, version, procedure) = target;
        let port = self.port(program, version, caller.udp)?;
        let message = self.message((program, version, procedure), caller, args);
        self.exchange(SocketAddr::new(self.server, port), program, caller, &message)
    }

    fn message(
        &mut self,
        (program, version, procedure): (u32, u32, u32),
        caller: &Caller,
        args: Vec<u8>,
    ) -> Vec<u8> {
        self.xid += 1;
        let mut call = Call::null(self.xid, program, version);
        call.procedure = procedure;
        call.rpc_version = caller.rpc_version;
        call.cred = match &caller.cred {
            Cred::Sys(uid, gid, groups) => {
                let mut body = auth_sys(b"compare", groups);
                // Stamp, name of 7 bytes and its padding: then user and group.
                let ids = words(&[*uid, *gid]);
                body.splice(16..24, ids);
                (1, body)
            }
            Cred::Other(flavor, len) => (*flavor, vec![0; *len]),
        };
        call.args = args.into();
        call.message()
    }

    fn exchange(
        &mut self,
        to: SocketAddr,
        program: u32,
        caller: &Caller,
        message: &[u8],
    ) -> io::Result<Outcome> {
        let patience = Duration::from_secs(caller.patience);
        if caller.udp {
            return self.datagrams(to, caller, message, patience);
        }
        let key = (program, caller.unprivileged);
        let mut stream = match self.connections.remove(&key) {
            Some(stream) => stream,
            None => self.connect(to, caller.unprivileged)?,
        };
        stream.set_read_timeout(Some(patience))?;
        if stream.write_all(&record(message)).is_err() {
            return Ok(Outcome::Closed);
        }
        loop {
            match receive(&mut stream) {
                // An answer to a call that was given up.
                Ok(Some(reply)) if reply.get(..4) != message.get(..4) => {}
                Ok(Some(reply)) => {
                    self.connections.insert(key, stream);
                    return Ok(Outcome::Reply(reply));
                }
                Ok(None) => return Ok(Outcome::Closed),
                Err(error) if timed_out(&error) => return Ok(Outcome::Silence),
                Err(error) => return Err(error),
            }
        }
    }

    fn datagrams(
        &self,
        to: SocketAddr,
        caller: &Caller,
        message: &[u8],
        patience: Duration,
    ) -> io::Result<Outcome> {
        let socket = ports(caller.unprivileged)
            .find_map(|port| UdpSocket::bind((self.from, port)).ok())
            .ok_or(io::ErrorKind::AddrInUse)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(patience))?;
        socket.send(message)?;
        let mut reply = vec![0; 65_536];
        match socket.recv(&mut reply) {
            Ok(len) => {
                reply.truncate(len);
                Ok(Outcome::Reply(reply))
            }
            Err(error) if timed_out(&error) => Ok(Outcome::Silence),
            Err(error) => Err(error),
        }
    }

    fn connect(&self, to: SocketAddr, unprivileged: bool) -> io::Result<TcpStream> {
        let from = self.from;
        let attempt = async move {
            let mut last = io::Error::from(io::ErrorKind::AddrInUse);
            for port in ports(unprivileged) {
                let socket = TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                match socket.bind(SocketAddr::new(from, port)) {
                    Ok(()) => {}
                    Err(error) => {
                        last = error;
                        continue;
                    }
                }
                match tokio::time::timeout(CONNECT, socket.connect(to)).await {
                    Ok(Ok(stream)) => return stream.into_std(),
                    Ok(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => last = error,
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                }
            }
            Err(last)
        };
        let stream = self.runtime.block_on(attempt)?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Where the server has a program, by its port mapper. A version that is not registered is asked for where
    /// another one is, and so is a program that nobody has: the answer of whoever listens there is compared.
    fn port(&mut self, program: u32, version: u32, udp: bool) -> io::Result<u16> {
        if program == proto::portmap::PROGRAM {
            return Ok(111);
        }
        if let Some(port) = self.ports.get(&(program, version, udp)) {
            return Ok(*port);
        }
        let mut found = 0;
        for (program, version) in [
            (program, version),
            (program, 1),
            (program, 3),
            (proto::nfs3::PROGRAM, 3),
        ] {
            let protocol = if udp { 17 } else { 6 };
            let caller = Caller {
                cred: Cred::Other(0, 0),
                udp: false,
                unprivileged: false,
                rpc_version: 2,
                patience: 20,
            };
            let args = words(&[program, version, protocol, 0]);
            let message = self.message((proto::portmap::PROGRAM, 2, 3), &caller, args);
            let to = SocketAddr::new(self.server, 111);
            if let Outcome::Reply(reply) = self.exchange(to, proto::portmap::PROGRAM, &caller, &message)? {
                found = reply
                    .get(26..28)
                    .map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
            }
            if found != 0 {
                break;
            }
        }
        self.ports.insert((program, version, udp), found);
        Ok(found)
    }
}

/// Ports to try: those that only root may take, or any free one.
fn ports(unprivileged: bool) -> Box<dyn Iterator<Item = u16> + Send> {
    match unprivileged {
        true => Box::new(std::iter::once(0)),
        false => Box::new((600..1000).rev()),
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The next record; `None`: the connection ended.
fn receive(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    loop {
        let mut mark = [0; 4];
        match stream.read_exact(&mut mark) {
            Ok(()) => {}
            Err(error) if timed_out(&error) => return Err(error),
            Err(_) => return Ok(None),
        }
        let mark = u32::from_be_bytes(mark);
        let (last, len) = (mark >> 31 == 1, (mark & 0x7fff_ffff) as usize);
        let start = message.len();
        if start + len > LONGEST {
            return Err(io::Error::other(format!("a record of {len} bytes")));
        }
        message.resize(start + len, 0);
        if stream.read_exact(&mut message[start..]).is_err() {
            return Ok(None);
        }
        if last {
            return Ok(Some(message));
        }
    }
}

/// A call that a server made to us.
#[derive(Debug)]
pub struct Callback {
    /// Who.
    pub from: IpAddr,
    /// The lock protocol's version.
    pub version: u32,
    /// Its procedure.
    pub procedure: u32,
    /// The arguments.
    pub args: Vec<u8>,
}

/// The host that servers call back: port 111 and a lock manager, on TCP and UDP.
pub struct Listener {
    callbacks: Receiver<Callback>,
    /// Those that nobody has asked about yet.
    kept: Vec<Callback>,
}

impl Listener {
    /// Listens at this address until the process ends.
    pub fn start(at: IpAddr) -> io::Result<Listener> {
        let (tell, callbacks) = channel();
        let locks = SocketAddr::new(at, 0);
        let stream = TcpListener::bind(locks)?;
        let locks = stream.local_addr()?;
        let datagrams = UdpSocket::bind(locks)?;
        let mapper = SocketAddr::new(at, 111);
        let host = Host {
            port: locks.port(),
            tell,
        };
        for listener in [stream, TcpListener::bind(mapper)?] {
            let host = host.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let host = host.clone();
                    thread::spawn(move || host.serve(stream));
                }
            });
        }
        for socket in [datagrams, UdpSocket::bind(mapper)?] {
            let host = host.clone();
            thread::spawn(move || host.serve_datagrams(&socket));
        }
        Ok(Listener {
            callbacks,
            kept: Vec::new(),
        })
    }

    /// The next call of this server, of this procedure if one is named, if one comes in time.
    pub fn next(&mut self, from: IpAddr, procedure: Option<u32>, patience: Duration) -> Option<Callback> {
        let wanted = |c: &Callback| c.from == from && procedure.is_none_or(|p| p == c.procedure);
        if let Some(at) = self.kept.iter().position(wanted) {
            return Some(self.kept.remove(at));
        }
        let deadline = std::time::Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.callbacks.recv_timeout(left).ok()? {
                callback if wanted(&callback) => return Some(callback),
                other => self.kept.push(other),
            }
        }
    }
}

#[derive(Clone)]
struct Host {
    port: u16,
    tell: Sender<Callback>,
}

impl Host {
    fn serve(&self, mut stream: TcpStream) {
        let Ok(from) = stream.peer_addr() else { return };
        while let Ok(Some(message)) = receive(&mut stream) {
            if let Some(reply) = self.answer(from.ip(), &message)
                && stream.write_all(&record(&reply)).is_err()
            {
                return;
            }
        }
    }

    fn serve_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            if let Some(reply) = buffer.get(..len).and_then(|m| self.answer(from.ip(), m)) {
                let _ = socket.send_to(&reply, from);
            }
        }
    }

    fn answer(&self, from: IpAddr, message: &[u8]) -> Option<Vec<u8>> {
        let word = |at: usize| {
            let bytes = message.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        let (program, version, procedure) = (word(12)?, word(16)?, word(20)?);
        // Credential and verifier.
        let mut at = 24;
        for _ in 0..2 {
            at += 8 + (word(at + 4)? as usize).next_multiple_of(4);
        }
        let args = message.get(at..)?;
        let result = match (program, version, procedure) {
            (_, _, 0) => vec![0],
            (proto::portmap::PROGRAM, 2, 3) => vec![0, u32::from(self.port)],
            (proto::portmap::PROGRAM, ..) => vec![2, 2, 2],
            (proto::nlm::PROGRAM, ..) => {
                let _ = self.tell.send(Callback {
                    from,
                    version,
                    procedure,
                    args: args.to_vec(),
                });
                vec![0]
            }
            _ => vec![1],
        };
        let mut reply = words(&[word(0)?, 1, 0, 0, 0]);
        reply.extend(words(&result));
        Some(reply)
    }
}
