//! The sockets: one port for each service, on TCP and UDP and on every address, opened together or not at all.
//!
//! An absent service has its sockets closed and its connections dropped, as if its process had ended; when
//! it returns it listens on the same port as before.

use anyhow::{Context, Result, bail};
use faults::Service;
use parking_lot::Mutex;
use rpc::server::{Flow, Limits, Message, Origin};
use rpc::xdr::Writer;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use std::{fmt, io};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How often a port is looked for that is free on TCP and UDP and on every address alike.
const TRIES: u32 = 32;

/// Which port each service listens on; 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    numbers: [u16; 5],
    /// `portmap=system`: port 111 belongs to the rpcbind of this host.
    system: bool,
}

/// Port of MOUNT in the standard set.
pub const MOUNT_PORT: u16 = 20048;
/// Port of NLM in the standard set.
pub const NLM_PORT: u16 = 32803;
/// Port of NSM in the standard set.
pub const NSM_PORT: u16 = 32765;

impl Ports {
    /// The ports that administrators and firewalls expect.
    pub const STANDARD: Ports = Ports {
        numbers: [
            proto::portmap::PMAP_PORT,
            MOUNT_PORT,
            proto::nfs3::NFS_PORT,
            NLM_PORT,
            NSM_PORT,
        ],
        system: false,
    };
    /// A free port for each.
    pub const AUTO: Ports = Ports {
        numbers: [0; 5],
        system: false,
    };

    /// Whether our programs are registered with the port mapper of this host, and none is ours.
    pub fn system_portmap(&self) -> bool {
        self.system
    }

    /// The port of `service`.
    pub fn get(&self, service: Service) -> u16 {
        let index = Service::ALL.iter().position(|s| *s == service);
        index
            .and_then(|i| self.numbers.get(i))
            .copied()
            .unwrap_or_default()
    }

    fn set(&mut self, service: Service, port: u16) {
        for (slot, s) in self.numbers.iter_mut().zip(Service::ALL) {
            if s == service {
                *slot = port;
            }
        }
    }
}

/// The name of a service's port on the command line: that of its protocol.
const fn port_name(service: Service) -> &'static str {
    match service {
        Service::Portmap => "portmap",
        Service::Mount => "mount",
        Service::Nfs => "nfs",
        Service::Lockd => "nlm",
        Service::Statd => "nsm",
    }
}

impl FromStr for Ports {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "standard" => return Ok(Ports::STANDARD),
            "auto" => return Ok(Ports::AUTO),
            _ => {}
        }
        let mut ports = Ports::STANDARD;
        for part in text.split(',') {
            let (name, number) = part.split_once('=').ok_or_else(|| {
                format!(
                    "'{part}' is not NAME=PORT; expected standard, auto, or a list such as nfs=2049,portmap=0"
                )
            })?;
            let service = Service::ALL
                .into_iter()
                .find(|s| port_name(*s) == name)
                .ok_or_else(|| {
                    format!("no port is called '{name}': expected nfs, mount, nlm, nsm or portmap")
                })?;
            if (service, number) == (Service::Portmap, "system") {
                ports.system = true;
                continue;
            }
            let number = number
                .parse()
                .map_err(|_| format!("'{number}' is not a port: expected 0 (a free one) to 65535"))?;
            ports.set(service, number);
        }
        Ok(ports)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = Service::ALL.map(|s| match s {
            Service::Portmap if self.system => "portmap=system".to_owned(),
            s => format!("{}={}", port_name(s), self.get(s)),
        });
        f.write_str(&parts.join(","))
    }
}

/// The sockets of one service: two on each address, all on one port.
pub struct Sockets {
    pairs: Vec<Pair>,
    port: u16,
}

/// Not yet in the hands of the runtime, or no more.
struct Pair {
    tcp: std::net::TcpListener,
    udp: std::net::UdpSocket,
}

impl Pair {
    fn try_clone(&self) -> io::Result<Pair> {
        Ok(Pair {
            tcp: self.tcp.try_clone()?,
            udp: self.udp.try_clone()?,
        })
    }

    /// Drops the connections that wait to be accepted, and the datagrams that wait to be read: as many as can have come
    /// before this, and not for ever if more keep coming.
    fn forget(&self) {
        for _ in 0..=BACKLOG {
            if self.tcp.accept().is_err() {
                break;
            }
        }
        for _ in 0..=BACKLOG {
            if self.udp.recv(&mut []).is_err() {
                break;
            }
        }
    }
}

/// A socket that could not be had.
struct Denied {
    transport: &'static str,
    address: IpAddr,
    error: io::Error,
}

impl Sockets {
    /// Binds all of them to the same port. With port 0 that is one which is free on every address.
    fn bind(addresses: &[IpAddr], service: Service, port: u16) -> Result<Sockets> {
        let mut tries = if port == 0 { TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::try_bind(addresses, port) {
                Ok(sockets) => return Ok(sockets),
                Err(_) if tries > 0 => {}
                Err(Denied {
                    transport,
                    address,
                    error,
                }) => {
                    let mend = match error.kind() {
                        io::ErrorKind::PermissionDenied => "ports below 1024 need root",
                        io::ErrorKind::AddrNotAvailable => "--bind must be an address of this machine",
                        _ => "choose another",
                    };
                    let name = port_name(service);
                    return Err(error).with_context(|| {
                        format!(
                            "cannot listen on {transport} port {port} of {address} for {service}; {mend}, \
                             for example with --ports auto or --ports {name}=0"
                        )
                    });
                }
            }
        }
    }

    fn try_bind(addresses: &[IpAddr], mut port: u16) -> Result<Sockets, Denied> {
        // A socket of all IPv6 addresses takes IPv4 as well, unless IPv4 has sockets of its own.
        let only_v6 = addresses.iter().any(IpAddr::is_ipv4);
        let mut pairs = Vec::new();
        for &address in addresses {
            let denied = |transport| {
                move |error| Denied {
                    transport,
                    address,
                    error,
                }
            };
            let tcp = bind_tcp(address, port, only_v6).map_err(denied("TCP"))?;
            port = tcp.local_addr().map_err(denied("TCP"))?.port();
            let udp = bind_udp(address, port, only_v6).map_err(denied("UDP"))?;
            pairs.push(Pair { tcp, udp });
        }
        Ok(Sockets { pairs, port })
    }
}

fn socket(address: IpAddr, kind: Type, only_v6: bool) -> io::Result<Socket> {
    let socket = match address {
        IpAddr::V4(_) => Socket::new(Domain::IPV4, kind, None)?,
        IpAddr::V6(_) => {
            let socket = Socket::new(Domain::IPV6, kind, None)?;
            socket.set_only_v6(only_v6)?;
            socket
        }
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_tcp(address: IpAddr, port: u16, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, Type::STREAM, only_v6)?;
    // A restarted server must not wait for the old connections to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_udp(address: IpAddr, port: u16, only_v6: bool) -> io::Result<std::net::UdpSocket> {
    let socket = socket(address, Type::DGRAM, only_v6)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    Ok(socket.into())
}

/// All sockets of a server.
pub struct Listeners {
    addresses: Vec<IpAddr>,
    ports: Ports,
    limits: Limits,
    /// Each service that listens.
    open: Mutex<BTreeMap<Service, Open>>,
    /// Where lockd is served, once it has been, if the runtime has several threads.
    lockd: OnceLock<OneThread>,
}

/// A thread with a runtime of its own, until this is dropped.
///
/// lockd has one, as on Linux: every call of its clients reads and writes the lock table, and the processors would spend
/// more time on passing the table's memory to each other than on the calls.
struct OneThread {
    runtime: Handle,
    _stop: oneshot::Sender<Infallible>,
}

impl OneThread {
    fn start(name: &str) -> io::Result<OneThread> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime
                .block_on(stopped)
                .map_or((), |never: Infallible| match never {})
        })?;
        Ok(OneThread {
            runtime: handle,
            _stop: stop,
        })
    }
}

/// A service that listens.
struct Open {
    /// Dropping them closes its sockets and connections.
    tasks: JoinSet<()>,
    /// Ends when the last connection is gone.
    gone: mpsc::Receiver<Infallible>,
    /// The same sockets once more, for [`Listeners::suspend`].
    spare: io::Result<Vec<Pair>>,
}

impl Open {
    /// Ends its tasks and connections.
    async fn end(mut self) -> io::Result<Vec<Pair>> {
        self.tasks.shutdown().await;
        // The tasks of its connections have been told to end, and end when their turn comes.
        self.gone.recv().await;
        self.spare
    }
}

/// What every socket and every connection has for as long as it is there.
struct Held {
    door: Arc<dyn rpc::server::Service>,
    _alive: mpsc::Sender<Infallible>,
}

impl rpc::server::Service for Held {
    fn message(
        &self,
        origin: &Arc<Origin>,
        message: Message<'_>,
        arrived: Instant,
        out: &mut Writer,
    ) -> Flow {
        self.door.message(origin, message, arrived, out)
    }

    fn connected(&self) {
        self.door.connected();
    }

    fn disconnected(&self) {
        self.door.disconnected();
    }
}

impl Listeners {
    /// Binds every port of these services on every address, or none.
    ///
    /// # Errors
    /// The first port that cannot be had, with what to do about it.
    pub fn bind(
        addresses: &[IpAddr],
        wanted: Ports,
        services: impl IntoIterator<Item = Service>,
        limits: Limits,
    ) -> Result<(Listeners, BTreeMap<Service, Sockets>)> {
        let mut distinct: Vec<IpAddr> = Vec::new();
        for address in addresses {
            if !distinct.contains(address) {
                distinct.push(*address);
            }
        }
        if distinct.is_empty() {
            bail!("there is no address to listen on: --bind must name one");
        }
        let mut ports = wanted;
        let mut bound = BTreeMap::new();
        if wanted.system && distinct.iter().all(IpAddr::is_ipv6) {
            bail!("--ports portmap=system registers IPv4 addresses only: --bind must be one");
        }
        // The port mapper of the system has its port whether it is ours or not; its statd has one that we do not know.
        ports.set(Service::Statd, 0);
        for service in services {
            let sockets = Sockets::bind(&distinct, service, wanted.get(service))?;
            ports.set(service, sockets.port);
            bound.insert(service, sockets);
        }
        Ok((
            Listeners {
                addresses: distinct,
                ports,
                limits,
                open: Mutex::default(),
                lockd: OnceLock::new(),
            },
            bound,
        ))
    }

    /// The ports in use.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The addresses in use, at least one.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// What to register with a port mapper: for each family the address that listens, or the unspecified one
    /// if there are several, which means: the one at which you have reached the port mapper. IPv6 comes first,
    /// since its unspecified address stands for IPv4 as well until IPv4 has said otherwise.
    pub fn registered(&self) -> Vec<IpAddr> {
        let family = |v6: bool, any: IpAddr| {
            let mut ours = self.addresses.iter().filter(|address| address.is_ipv6() == v6);
            match (ours.next(), ours.next()) {
                (only, None) => only.copied(),
                (Some(_), Some(_)) | (None, Some(_)) => Some(any),
            }
        };
        let v6 = family(true, Ipv6Addr::UNSPECIFIED.into());
        let v4 = family(false, Ipv4Addr::UNSPECIFIED.into());
        v6.into_iter().chain(v4).collect()
    }

    /// From which of our addresses to call a peer; `None`: whichever the kernel chooses.
    pub fn source_towards(&self, peer: IpAddr) -> Option<IpAddr> {
        let of_family = |address: &&IpAddr| address.is_ipv4() == peer.is_ipv4();
        self.addresses.iter().find(of_family).copied()
    }

    /// Starts to answer on sockets that are bound.
    ///
    /// # Errors
    /// If the runtime cannot take them.
    pub fn serve(
        &self,
        service: Service,
        sockets: Sockets,
        door: Arc<dyn rpc::server::Service>,
    ) -> Result<()> {
        let spare = sockets.pairs.iter().map(Pair::try_clone).collect();
        let (alive, gone) = mpsc::channel(1);
        let door: Arc<dyn rpc::server::Service> = Arc::new(Held { door, _alive: alive });
        let mut tasks = JoinSet::new();
        let runtime = self.runtime_for(service)?;
        let _in_it = runtime.enter();
        for Pair { tcp, udp } in sockets.pairs {
            let (tcp, udp) = (TcpListener::from_std(tcp)?, UdpSocket::from_std(udp)?);
            tasks.spawn(rpc::server::serve_tcp(tcp, door.clone(), self.limits));
            let door = door.clone();
            tasks.spawn(async move {
                if let Err(error) = rpc::server::serve_udp(udp, door).await {
                    tracing::error!(%service, %error, "the UDP socket is lost");
                }
            });
        }
        self.open.lock().insert(service, Open { tasks, gone, spare });
        Ok(())
    }

    /// Where a service is to be served. What has a single thread anyway, as a test may, is left as it is.
    fn runtime_for(&self, service: Service) -> Result<Handle> {
        let here = Handle::current();
        if service != Service::Lockd || here.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Ok(here);
        }
        if let Some(thread) = self.lockd.get() {
            return Ok(thread.runtime.clone());
        }
        let thread = OneThread::start("lockd").context("starting a thread for lockd")?;
        Ok(self.lockd.get_or_init(|| thread).runtime.clone())
    }

    /// Binds and serves again what was closed; nothing if it is open.
    ///
    /// # Errors
    /// If the port has been taken meanwhile.
    pub fn open(&self, service: Service, door: Arc<dyn rpc::server::Service>) -> Result<()> {
        if self.open.lock().contains_key(&service) {
            return Ok(());
        }
        let port = self.ports.get(service);
        if port == 0 {
            bail!("{service} has never listened");
        }
        self.serve(service, Sockets::bind(&self.addresses, service, port)?, door)
    }

    /// Drops a service's connections, also those that it has not accepted yet, and answers nothing, but keeps its port
    /// from others: what comes from now on waits in the sockets for [`serve`](Self::serve). Returns once that is so; `None` if it was closed, or is now because there
    /// are too many open files.
    pub async fn suspend(&self, service: Service) -> Option<Sockets> {
        let open = self.open.lock().remove(&service)?;
        let pairs = open.end().await.ok()?;
        pairs.iter().for_each(Pair::forget);
        let port = self.ports.get(service);
        Some(Sockets { pairs, port })
    }

    /// Closes a service's sockets and drops its connections; returns once they are closed.
    pub async fn close(&self, service: Service) {
        let open = self.open.lock().remove(&service);
        if let Some(open) = open {
            let _ = open.end().await;
        }
    }

    /// Has everything closed, whenever the runtime gets to it.
    pub fn abandon(&self) {
        self.open.lock().clear();
    }

    /// Closes everything.
    pub async fn close_all(&self) {
        for service in Service::ALL {
            self.close(service).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn ports_are_read_as_documented() {
        assert_eq!("standard".parse(), Ok(Ports::STANDARD));
        assert_eq!("auto".parse(), Ok(Ports::AUTO));
        let ports: Ports = "nfs=0,portmap=1111".parse().unwrap();
        assert_eq!(
            ports.to_string(),
            "portmap=1111,mount=20048,nfs=0,nlm=32803,nsm=32765"
        );
        let ports: Ports = "nfs=0,portmap=system".parse().unwrap();
        assert!(ports.system_portmap());
        assert_eq!(ports.get(Service::Portmap), 111);
        assert!("nfs=system".parse::<Ports>().is_err());
        assert!("lockd=1".parse::<Ports>().unwrap_err().contains("nlm"));
        assert!("nfs".parse::<Ports>().unwrap_err().contains("NAME=PORT"));
        assert!("nfs=70000".parse::<Ports>().unwrap_err().contains("65535"));
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_flag_that_mends_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ports = Ports::AUTO;
        ports.set(Service::Lockd, taken.local_addr().unwrap().port());
        let error = format!(
            "{:#}",
            Listeners::bind(&[[127, 0, 0, 1].into()], ports, Service::ALL, Limits::default())
                .err()
                .unwrap()
        );
        assert!(error.contains("--ports nlm=0"), "{error}");
    }

    /// Has heard whatever it is sent, and answers nothing.
    struct Ear(mpsc::UnboundedSender<Bytes>);

    impl rpc::server::Service for Ear {
        fn message(&self, _: &Arc<Origin>, message: Message<'_>, _: Instant, _: &mut Writer) -> Flow {
            self.0.send(message.keep()).unwrap();
            Flow::Continue
        }
    }

    /// With one thread nothing is accepted or read before this test waits for something.
    #[tokio::test]
    async fn suspending_drops_what_waits_and_keeps_what_comes_after_it() {
        use std::io::Read;
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (listeners, mut bound) =
            Listeners::bind(&[here], Ports::AUTO, [Service::Nfs], Limits::default()).unwrap();
        let sockets = bound.remove(&Service::Nfs).unwrap();
        let at = SocketAddr::new(here, sockets.port);
        let (ear, mut heard) = mpsc::unbounded_channel();
        let door: Arc<dyn rpc::server::Service> = Arc::new(Ear(ear));
        listeners.serve(Service::Nfs, sockets, door.clone()).unwrap();

        let client = std::net::UdpSocket::bind((here, 0)).unwrap();
        client.send_to(b"before", at).unwrap();
        let mut early = std::net::TcpStream::connect(at).unwrap();
        let sockets = listeners.suspend(Service::Nfs).await.unwrap();
        client.send_to(b"after", at).unwrap();
        let mut late = std::net::TcpStream::connect(at).unwrap();
        late.set_nonblocking(true).unwrap();
        listeners.serve(Service::Nfs, sockets, door).unwrap();

        assert_eq!(heard.recv().await.unwrap(), "after");
        assert!(matches!(early.read(&mut [0]), Ok(0)), "closed");
        assert_eq!(
            late.read(&mut [0]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "open"
        );
        listeners.close_all().await;
    }

    #[tokio::test]
    async fn one_port_serves_every_address() {
        let bind = |addresses: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            Listeners::bind(&addresses, Ports::AUTO, Service::ALL, Limits::default()).unwrap()
        };
        let registered = |listeners: &Listeners| {
            let texts = listeners.registered();
            texts.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        let (listeners, bound) = bind(&["127.0.0.1", "::1", "127.0.0.1"]);
        assert_eq!(bound[&Service::Nfs].pairs.len(), 2);
        for pair in &bound[&Service::Nfs].pairs {
            let port = listeners.ports().get(Service::Nfs);
            assert_eq!(pair.tcp.local_addr().unwrap().port(), port);
            assert_eq!(pair.udp.local_addr().unwrap().port(), port);
        }
        assert_eq!(registered(&listeners), ["::1", "127.0.0.1"]);
        let towards = |peer: &str| listeners.source_towards(peer.parse().unwrap()).unwrap();
        assert_eq!(towards("127.0.0.9").to_string(), "127.0.0.1");
        assert_eq!(towards("::1").to_string(), "::1");
        let (listeners, _) = bind(&["127.0.0.1", "127.0.0.2"]);
        assert_eq!(registered(&listeners), ["0.0.0.0"]);
        assert_eq!(listeners.source_towards("::1".parse().unwrap()), None);
        let (listeners, _) = bind(&["0.0.0.0", "::"]);
        assert_eq!(registered(&listeners), ["::", "0.0.0.0"]);
    }
}
