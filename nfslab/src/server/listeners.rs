//! The sockets: one TCP and one UDP port for each service, opened together or not at all.
//!
//! An absent service has its sockets closed and its connections dropped, as if its process had ended; when
//! it returns it listens on the same port as before.

use anyhow::{Context, Result, bail};
use faults::Service;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::task::JoinSet;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How often a free port is looked for that is free on TCP and UDP alike.
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

/// The two sockets of one service.
pub struct Sockets {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Sockets {
    /// Binds both to the same port.
    fn bind(address: IpAddr, service: Service, port: u16) -> Result<Sockets> {
        let mut tries = if port == 0 { TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::try_bind(address, port) {
                Ok(sockets) => return Ok(sockets),
                Err(_) if tries > 0 => {}
                Err((transport, error)) => {
                    let mend = match error.kind() {
                        std::io::ErrorKind::PermissionDenied => "ports below 1024 need root",
                        std::io::ErrorKind::AddrNotAvailable => "--bind must be an address of this machine",
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

    fn try_bind(address: IpAddr, port: u16) -> Result<Sockets, (&'static str, std::io::Error)> {
        let tcp = |error| ("TCP", error);
        let socket = match address {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(tcp)?;
        // A restarted server must not wait for the old connections to time out.
        socket.set_reuseaddr(true).map_err(tcp)?;
        socket.bind(SocketAddr::new(address, port)).map_err(tcp)?;
        let listener = socket.listen(BACKLOG).map_err(tcp)?;
        let port = listener.local_addr().map_err(tcp)?.port();
        let std = std::net::UdpSocket::bind(SocketAddr::new(address, port)).map_err(|e| ("UDP", e))?;
        std.set_nonblocking(true).map_err(|e| ("UDP", e))?;
        Ok(Sockets {
            tcp: listener,
            udp: UdpSocket::from_std(std).map_err(|e| ("UDP", e))?,
        })
    }

    fn port(&self) -> Result<u16> {
        Ok(self.tcp.local_addr()?.port())
    }
}

/// All sockets of a server.
pub struct Listeners {
    address: IpAddr,
    ports: Ports,
    /// The tasks of each service that listens; dropping them closes its sockets and connections.
    open: Mutex<BTreeMap<Service, JoinSet<()>>>,
}

impl Listeners {
    /// Binds every port, or none.
    ///
    /// # Errors
    /// The first port that cannot be had, with what to do about it.
    pub fn bind(address: IpAddr, wanted: Ports) -> Result<(Listeners, BTreeMap<Service, Sockets>)> {
        let mut ports = wanted;
        let mut bound = BTreeMap::new();
        if wanted.system && address.is_ipv6() {
            bail!("--ports portmap=system registers IPv4 addresses only: --bind must be one");
        }
        for service in Service::ALL {
            if wanted.system && service == Service::Portmap {
                continue;
            }
            let sockets = Sockets::bind(address, service, wanted.get(service))?;
            ports.set(service, sockets.port()?);
            bound.insert(service, sockets);
        }
        Ok((
            Listeners {
                address,
                ports,
                open: Mutex::default(),
            },
            bound,
        ))
    }

    /// The ports in use.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The address in use.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Starts to answer on sockets that are bound.
    pub fn serve(&self, service: Service, sockets: Sockets, door: Arc<dyn rpc::server::Service>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(rpc::server::serve_tcp(
            sockets.tcp,
            door.clone(),
            rpc::server::Limits::default(),
        ));
        tasks.spawn(async move {
            if let Err(error) = rpc::server::serve_udp(sockets.udp, door).await {
                tracing::error!(%service, %error, "the UDP socket is lost");
            }
        });
        self.open.lock().insert(service, tasks);
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
        self.serve(service, Sockets::bind(self.address, service, port)?, door);
        Ok(())
    }

    /// Closes a service's sockets and drops its connections; returns once they are closed.
    pub async fn close(&self, service: Service) {
        let tasks = self.open.lock().remove(&service);
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
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
            Listeners::bind([127, 0, 0, 1].into(), ports).err().unwrap()
        );
        assert!(error.contains("--ports nlm=0"), "{error}");
    }
}
