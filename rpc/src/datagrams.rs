//! A UDP socket whose replies come from the address that was asked.
//!
//! A socket bound to every address of the host lets the kernel choose the source of what it sends, by the route.
//! A client that connected its socket, as `mount.nfs`, `rpcinfo` and kernels do, drops a reply from another
//! address than the one it asked. So such a socket has the kernel tell where each datagram was sent
//! (`IP_PKTINFO`, `IPV6_RECVPKTINFO`), and replies are sent from there.

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Most bytes in a datagram of ours: 65,535 less the headers of UDP and IPv4. IPv6 has room for twenty more, which
/// nobody counts on.
pub const MAX_SENT: usize = 65_507;
/// Largest datagram that can arrive.
pub const MAX_RECEIVED: usize = 65_536;

/// A UDP socket that knows at which of its addresses a datagram arrived.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    bound: SocketAddr,
    /// Where the kernel puts the address that was asked; empty if there is only one.
    control: Vec<u8>,
}

/// A datagram that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Its bytes in the buffer.
    pub len: usize,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Where they sent it to.
    pub local: SocketAddr,
}

impl Datagrams {
    /// Takes a socket over.
    ///
    /// # Errors
    /// Those of asking for its address and of setting its options.
    pub fn new(socket: UdpSocket) -> io::Result<Datagrams> {
        let bound = socket.local_addr()?;
        let mut control = Vec::new();
        if bound.ip().is_unspecified() {
            if bound.is_ipv4() {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            } else {
                // Of a datagram that came by IPv4 this tells the mapped address.
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            control = nix::cmsg_space!(libc::in6_pktinfo);
        }
        Ok(Datagrams {
            socket,
            bound,
            control,
        })
    }

    /// Waits until there may be something to receive.
    ///
    /// # Errors
    /// If the runtime is ending.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Receives one datagram.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none; else the ICMP error that some peer caused earlier.
    pub fn try_receive(&mut self, buffer: &mut [u8]) -> io::Result<Arrived> {
        let Datagrams {
            socket,
            bound,
            control,
        } = self;
        if control.is_empty() {
            let (len, peer) = socket.try_recv_from(buffer)?;
            return Ok(Arrived {
                len,
                peer,
                local: *bound,
            });
        }
        socket.try_io(Interest::READABLE, || {
            let mut pieces = [IoSliceMut::new(buffer)];
            let fd = socket.as_raw_fd();
            let got = recvmsg::<SockaddrStorage>(fd, &mut pieces, Some(control), MsgFlags::empty())?;
            let peer = got.address.as_ref().and_then(socket_address);
            let peer = peer.ok_or_else(|| io::Error::other("a datagram from no internet address"))?;
            let asked = got.cmsgs()?.find_map(|message| match message {
                // The second is the same for what was sent to one address. Of a datagram that came before we asked to
                // be told, the kernel knows that one only.
                ControlMessageOwned::Ipv4PacketInfo(info) => [info.ipi_spec_dst, info.ipi_addr]
                    .map(|address| Ipv4Addr::from(address.s_addr.to_ne_bytes()))
                    .into_iter()
                    .find(|address| !address.is_unspecified())
                    .map(IpAddr::V4),
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
                }
                _ => None,
            });
            let local = SocketAddr::new(asked.unwrap_or(bound.ip()), bound.port());
            Ok(Arrived {
                len: got.bytes,
                peer,
                local,
            })
        })
    }

    /// Sends a datagram from one of our addresses.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn send(&self, message: &[u8], from: SocketAddr, to: SocketAddr) -> io::Result<()> {
        if self.control.is_empty() || from.ip().is_unspecified() {
            return self.socket.send_to(message, to).await.map(|_| ());
        }
        let to = SockaddrStorage::from(to);
        let send = || {
            let pieces = [IoSlice::new(message)];
            let (v4, v6);
            let source = match from.ip() {
                IpAddr::V4(address) => {
                    v4 = libc::in_pktinfo {
                        ipi_ifindex: 0,
                        ipi_spec_dst: libc::in_addr {
                            s_addr: u32::from_ne_bytes(address.octets()),
                        },
                        ipi_addr: libc::in_addr { s_addr: 0 },
                    };
                    ControlMessage::Ipv4PacketInfo(&v4)
                }
                IpAddr::V6(address) => {
                    // The interface of a link-local address is the one that the peer's address names.
                    v6 = libc::in6_pktinfo {
                        ipi6_addr: libc::in6_addr {
                            s6_addr: address.octets(),
                        },
                        ipi6_ifindex: 0,
                    };
                    ControlMessage::Ipv6PacketInfo(&v6)
                }
            };
            let flags = MsgFlags::empty();
            sendmsg(self.socket.as_raw_fd(), &pieces, &[source], flags, Some(&to))?;
            Ok(())
        };
        self.socket.async_io(Interest::WRITABLE, send).await
    }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || storage.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    let v6 = || storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()));
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a socket bound to `any` at `asked`: where it says the datagram arrived, and where the reply came from.
    async fn ask(any: &str, asked: &str) -> (IpAddr, IpAddr) {
        let bound = UdpSocket::bind((any, 0)).await.unwrap();
        let port = bound.local_addr().unwrap().port();
        let asked: IpAddr = asked.parse().unwrap();
        let client: IpAddr = if asked.is_ipv4() {
            [0; 4].into()
        } else {
            [0u16; 8].into()
        };
        let client = UdpSocket::bind((client, 0)).await.unwrap();
        let to = SocketAddr::new(asked, port);
        // The first comes before the socket is ours, as when a server starts; it is answered like the second.
        client.send_to(b"question", to).await.unwrap();
        let mut server = Datagrams::new(bound).unwrap();
        let first = answer(&mut server, &client, to).await;
        client.send_to(b"question", to).await.unwrap();
        assert_eq!(answer(&mut server, &client, to).await, first);
        first
    }

    async fn answer(server: &mut Datagrams, client: &UdpSocket, to: SocketAddr) -> (IpAddr, IpAddr) {
        let mut buffer = [0; 100];
        let arrived = loop {
            server.readable().await.unwrap();
            match server.try_receive(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                arrived => break arrived.unwrap(),
            }
        };
        assert_eq!(&buffer[..arrived.len], b"question");
        assert_eq!(arrived.local.port(), to.port());
        server.send(b"answer", arrived.local, arrived.peer).await.unwrap();
        let (len, from) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"answer");
        (arrived.local.ip().to_canonical(), from.ip().to_canonical())
    }

    #[tokio::test]
    async fn a_reply_comes_from_the_address_that_was_asked() {
        for (any, asked) in [
            ("0.0.0.0", "127.0.0.2"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("::", "127.0.0.3"),
            ("127.0.0.2", "127.0.0.2"),
        ] {
            let asked_at: IpAddr = asked.parse().unwrap();
            assert_eq!(ask(any, asked).await, (asked_at, asked_at), "{any}");
        }
    }
}
