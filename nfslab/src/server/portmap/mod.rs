//! The port mapper: which program listens where.
//!
//! One [`Registry`] answers three versions of program 100000: 2 ([`pmap`], RFC 1833, section 3) with ports,
//! 3 and 4 ([`rpcb`], section 2) with universal addresses.
//!
//! Two rules of rpcbind hold for all: only this host registers and removes, and nobody removes what belongs
//! to us. CALLIT, BCAST and INDIRECT are never forwarded: rpcbind does it only if told to (`-r`), because
//! the procedures amplify attacks and hide who is calling.

mod ask;
mod pmap;
mod rpcb;
mod stats;
mod system;

pub use ask::port_of;
use pmap::ip_proto;
pub use system::System;

use faults::Service;
use parking_lot::{Mutex, RwLock};
use proto::portmap::{Mapping, PmapProc};
use proto::rpcbind::{Netid, Rpcb, RpcbProc};
use rpc::msg::{RpcError, Transport};
use rpc::server::Origin;
use rpc::xdr::{Decode, Reader, Writer};
use stats::Stats;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Most registrations, ours and others'.
const MAX_ENTRIES: usize = 1024;

/// The registrations, by program, version and transport.
#[derive(Debug, Default)]
pub struct Registry {
    entries: RwLock<BTreeMap<Key, Entry>>,
    stats: Mutex<Stats>,
}

/// Program, version, transport.
type Key = (u32, u32, Netid);

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The unspecified address: every address of this host.
    address: SocketAddr,
    /// Whose it is; `None`: registered from outside by SET.
    owner: Option<Service>,
}

/// Who asks, and where they have reached us.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Their address.
    pub peer: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// How.
    pub transport: Transport,
}

impl From<&Origin> for Asker {
    fn from(origin: &Origin) -> Asker {
        Asker {
            peer: origin.peer,
            local: origin.local,
            transport: origin.transport,
        }
    }
}

impl Asker {
    /// The transport that they used.
    fn netid(&self) -> Netid {
        Netid::of(self.transport, self.peer.ip())
    }

    /// Whether they are on this host.
    fn is_here(&self) -> bool {
        self.peer.ip().to_canonical().is_loopback()
    }

    /// The address on which they have reached us. Should the kernel not have told of a datagram, it is the one from
    /// which the reply will go out.
    fn reached(&self) -> IpAddr {
        let local = self.local.ip().to_canonical();
        if !local.is_unspecified() {
            return local;
        }
        let (peer, any) = (self.peer.ip().to_canonical(), self.netid().any());
        // Connecting a datagram socket sends nothing; it looks up the route.
        let route = || {
            let socket = std::net::UdpSocket::bind((any, 0))?;
            socket.connect((peer, self.peer.port()))?;
            socket.local_addr()
        };
        route().map_or(local, |address| address.ip())
    }
}

impl Registry {
    /// Enters a program of ours. A program that listens on `::` is there on IPv4 as well.
    pub fn register(
        &self,
        owner: Service,
        program: u32,
        version: u32,
        transport: Transport,
        address: SocketAddr,
    ) {
        let mut entries = self.entries.write();
        let netid = Netid::of(transport, address.ip());
        let v4 = Netid::of(transport, Netid::Tcp.any());
        let both = netid.is_v6() && address.ip().is_unspecified();
        for netid in [Some(netid), both.then_some(v4)].into_iter().flatten() {
            let ip = if both { netid.any() } else { address.ip() };
            let entry = Entry {
                address: SocketAddr::new(ip, address.port()),
                owner: Some(owner),
            };
            entries.insert((program, version, netid), entry);
        }
    }

    /// Removes everything that belongs to `owner`.
    pub fn withdraw(&self, owner: Service) {
        self.entries.write().retain(|_, entry| entry.owner != Some(owner));
    }

    /// Handles a call of version 2, 3 or 4. `Ok(false)`: no answer is given.
    ///
    /// # Errors
    /// The RPC refusal that the call deserves.
    pub fn call(
        &self,
        asker: Asker,
        version: u32,
        procedure: u32,
        args: &[u8],
        w: &mut Writer,
    ) -> Result<bool, RpcError> {
        let r = &mut Reader::new(args);
        match version {
            proto::portmap::V2 => self.pmap(asker, PmapProc(procedure), r, w),
            _ => self.rpcb(asker, version, RpcbProc(procedure), r, w),
        }
    }

    /// SET: from this host only, and not over an entry with another address.
    fn set(&self, asker: Asker, key: Key, address: SocketAddr) -> bool {
        let mut entries = self.entries.write();
        if !asker.is_here() {
            return false;
        }
        if let Some(entry) = entries.get(&key) {
            return entry.address == address;
        }
        if entries.len() >= MAX_ENTRIES {
            return false;
        }
        entries.insert(key, Entry { address, owner: None });
        true
    }

    /// UNSET of one transport or of all, from this host only, and never of one of our own programs.
    fn unset(&self, asker: Asker, program: u32, version: u32, netid: Option<Netid>) -> bool {
        let mut entries = self.entries.write();
        let before = entries.len();
        entries.retain(|&(prog, vers, net), entry| {
            !asker.is_here()
                || entry.owner.is_some()
                || (prog, vers) != (program, version)
                || netid.is_some_and(|netid| netid != net)
        });
        entries.len() < before
    }

    /// Where exactly this version is. One that is listed with port 0 is nowhere.
    fn exact(&self, key: Key) -> Option<SocketAddr> {
        let address = self.entries.read().get(&key).map(|entry| entry.address);
        address.filter(|address| address.port() != 0)
    }

    /// As rpcbind does, a version that is not there is answered with the address of another version of the
    /// program, whose PROG_MISMATCH then tells the caller more than "nowhere" would.
    fn any_version(&self, key: Key) -> Option<SocketAddr> {
        let (program, _, netid) = key;
        let entries = self.entries.read();
        let exact = entries.get(&key);
        let any = || {
            entries
                .range((program, 0, Netid::Udp)..=(program, u32::MAX, Netid::Tcp6))
                .find(|((_, _, net), _)| *net == netid)
                .map(|(_, entry)| entry)
        };
        let address = exact.or_else(any).map(|entry| entry.address);
        address.filter(|address| address.port() != 0)
    }

    /// All of them, in order.
    fn list(&self) -> Vec<(Key, Entry)> {
        let entries = self.entries.read();
        entries.iter().map(|(key, entry)| (*key, *entry)).collect()
    }
}

/// What the log says of a call: the procedure's name, and what it is about.
pub fn describe(version: u32, procedure: u32, args: &[u8]) -> (String, String) {
    let r = &mut Reader::new(args);
    if version == proto::portmap::V2 {
        let about = match PmapProc(procedure) {
            PmapProc::PMAPPROC_SET | PmapProc::PMAPPROC_UNSET | PmapProc::PMAPPROC_GETPORT => {
                Mapping::decode(r).map(|m| about(m.prog, m.vers, &m.prot))
            }
            _ => Ok(String::new()),
        };
        return (PmapProc(procedure).to_string(), about.unwrap_or_default());
    }
    let about = match RpcbProc(procedure) {
        RpcbProc::RPCBPROC_SET
        | RpcbProc::RPCBPROC_UNSET
        | RpcbProc::RPCBPROC_GETADDR
        | RpcbProc::RPCBPROC_GETVERSADDR
        | RpcbProc::RPCBPROC_GETADDRLIST => {
            Rpcb::decode(r).map(|rpcb| about(rpcb.r_prog, rpcb.r_vers, &rpcb.r_netid))
        }
        _ => Ok(String::new()),
    };
    (RpcbProc(procedure).to_string(), about.unwrap_or_default())
}

fn about(program: u32, version: u32, transport: &dyn std::fmt::Display) -> String {
    format!("program {program} version {version} {transport}")
}

#[cfg(test)]
mod tests;
