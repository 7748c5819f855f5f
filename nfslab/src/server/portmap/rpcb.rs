//! Versions 3 and 4 (RFC 1833, section 2): netids and universal addresses.

use super::{Asker, Entry, Key, Registry};
use proto::rpcbind::{
    List, Netbuf, Netid, Rpcb, RpcbEntry, RpcbEntryList, RpcbProc, RpcbRmtcallargs, Rpcblist, Text, V3,
    from_uaddr, to_uaddr,
};
use rpc::msg::{RpcError, Transport};
use rpc::xdr::{Decode, Encode, Reader, Writer};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

/// Owner of what we serve; rpcbind says so of what root registers on the same host.
const OURS: &str = "superuser";
/// Owner of what is registered over the network, by loopback: rpcbind cannot tell who it is.
const OTHERS: &str = "unknown";

fn get<'a, T: Decode<'a>>(r: &mut Reader<'a>) -> Result<T, RpcError> {
    T::decode(r).map_err(|_| RpcError::GarbageArgs)
}

impl Registry {
    pub(super) fn rpcb(
        &self,
        asker: Asker,
        version: u32,
        procedure: RpcbProc,
        r: &mut Reader<'_>,
        w: &mut Writer,
    ) -> Result<bool, RpcError> {
        if version == V3 && procedure > RpcbProc::RPCBPROC_TADDR2UADDR {
            return Err(RpcError::ProcUnavail);
        }
        self.stats.lock().called(version, procedure.0);
        match procedure {
            RpcbProc::RPCBPROC_NULL => {}
            RpcbProc::RPCBPROC_SET => self.rpcb_set(asker, version, &get(r)?).encode(w),
            RpcbProc::RPCBPROC_UNSET => self.rpcb_unset(asker, version, &get(r)?).encode(w),
            RpcbProc::RPCBPROC_GETADDR => self.getaddr(asker, version, &get(r)?, Registry::any_version, w),
            RpcbProc::RPCBPROC_GETVERSADDR => self.getaddr(asker, version, &get(r)?, Registry::exact, w),
            RpcbProc::RPCBPROC_DUMP => put_dump(&self.list(), w),
            RpcbProc::RPCBPROC_CALLIT => {
                // As in version 2: no reply unless the call was forwarded and succeeded.
                if let Ok(call) = get(r) {
                    self.not_forwarded(asker, version, &call, false);
                }
                return Ok(false);
            }
            RpcbProc::RPCBPROC_INDIRECT => {
                self.not_forwarded(asker, version, &get(r)?, true);
                return Err(RpcError::ProcUnavail);
            }
            RpcbProc::RPCBPROC_GETTIME => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                w.u32(now.as_secs() as u32);
            }
            RpcbProc::RPCBPROC_UADDR2TADDR => put_taddr(from_uaddr(&get::<Text<'_>>(r)?), w),
            RpcbProc::RPCBPROC_TADDR2UADDR => {
                let address = from_taddr(&get::<Netbuf<'_>>(r)?.buf);
                w.opaque(address.map(to_uaddr).unwrap_or_default().as_bytes());
            }
            RpcbProc::RPCBPROC_GETADDRLIST => put_addrlist(asker, &get(r)?, &self.list(), w),
            RpcbProc::RPCBPROC_GETSTAT => self.stats.lock().put(w),
            _ => return Err(RpcError::ProcUnavail),
        }
        Ok(true)
    }

    /// SET: the address must be one of the netid's family.
    fn rpcb_set(&self, asker: Asker, version: u32, rpcb: &Rpcb<'_>) -> bool {
        let (Some(netid), Some(address)) = (Netid::from_name(&rpcb.r_netid), from_uaddr(&rpcb.r_addr)) else {
            return false;
        };
        let done =
            address.is_ipv6() == netid.is_v6() && self.set(asker, (rpcb.r_prog, rpcb.r_vers, netid), address);
        self.stats.lock().set(version, done);
        done
    }

    /// UNSET: no netid means every netid (RFC 1833, section 2.2.1).
    fn rpcb_unset(&self, asker: Asker, version: u32, rpcb: &Rpcb<'_>) -> bool {
        let netid = Netid::from_name(&rpcb.r_netid);
        let known = netid.is_some() || rpcb.r_netid.is_empty();
        let done = known && self.unset(asker, rpcb.r_prog, rpcb.r_vers, netid);
        self.stats.lock().unset(version, done);
        done
    }

    /// GETADDR and GETVERSADDR. `r_netid` is ignored: the answer is for the transport on which the question
    /// came (RFC 1833, section 2.2.1). An empty string: nowhere.
    fn getaddr(
        &self,
        asker: Asker,
        version: u32,
        rpcb: &Rpcb<'_>,
        find: impl Fn(&Registry, Key) -> Option<SocketAddr>,
        w: &mut Writer,
    ) {
        let key = (rpcb.r_prog, rpcb.r_vers, asker.netid());
        let found = find(self, key);
        self.stats.lock().asked(version, key, found.is_some());
        let merged = found.map(|address| to_uaddr(merge(asker, address)));
        w.opaque(merged.unwrap_or_default().as_bytes());
    }

    fn not_forwarded(&self, asker: Asker, version: u32, call: &RpcbRmtcallargs<'_>, indirect: bool) {
        let key = (call.prog, call.vers, asker.netid());
        self.stats.lock().not_forwarded(version, key, call.proc, indirect);
    }
}

/// The address at which the asker reaches a program: where it listens, or, if it listens everywhere, the
/// address on which they have reached us.
fn merge(asker: Asker, listens: SocketAddr) -> SocketAddr {
    if listens.ip().is_unspecified() {
        SocketAddr::new(asker.reached(), listens.port())
    } else {
        listens
    }
}

fn put_dump(list: &[(Key, Entry)], w: &mut Writer) {
    let addresses: Vec<String> = list.iter().map(|(_, entry)| to_uaddr(entry.address)).collect();
    let rpcbs = list
        .iter()
        .zip(&addresses)
        .map(|(((prog, vers, netid), entry), address)| Rpcb {
            r_prog: *prog,
            r_vers: *vers,
            r_netid: netid.name().into(),
            r_addr: address.as_str().into(),
            r_owner: if entry.owner.is_some() { OURS } else { OTHERS }.into(),
        });
    let dump: Rpcblist<'_> = List(rpcbs.collect());
    dump.encode(w);
}

/// GETADDRLIST: this version of the program, on all transports of the asker's family.
fn put_addrlist(asker: Asker, rpcb: &Rpcb<'_>, list: &[(Key, Entry)], w: &mut Writer) {
    let wanted = |(prog, vers, netid): &Key| {
        (*prog, *vers) == (rpcb.r_prog, rpcb.r_vers) && netid.is_v6() == asker.netid().is_v6()
    };
    let found: Vec<(Netid, String)> = list
        .iter()
        .filter(|(key, entry)| wanted(key) && entry.address.port() != 0)
        .map(|((_, _, netid), entry)| (*netid, to_uaddr(merge(asker, entry.address))))
        .collect();
    let entries = found.iter().map(|(netid, address)| RpcbEntry {
        r_maddr: address.as_str().into(),
        r_nc_netid: netid.name().into(),
        r_nc_semantics: netid.semantics(),
        r_nc_protofmly: netid.family().into(),
        r_nc_proto: match netid.transport() {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
        .into(),
    });
    let entries: RpcbEntryList<'_> = List(entries.collect());
    entries.encode(w);
}

// A transport address is a socket address as this system has it in memory: `sockaddr_in`, `sockaddr_in6` of
// Linux. Only callers on the same system can make anything of it, which is what RFC 1833 intends.

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A `netbuf`, empty if there is no such address.
fn put_taddr(address: Option<SocketAddr>, w: &mut Writer) {
    let taddr = address.map(to_taddr).unwrap_or_default();
    let netbuf = Netbuf {
        maxlen: taddr.len() as u32,
        buf: taddr.as_slice().into(),
    };
    netbuf.encode(w);
}

fn to_taddr(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(v4) => {
            let family = AF_INET.to_ne_bytes();
            [&family[..], &port, &v4.ip().octets(), &[0; 8]].concat()
        }
        SocketAddr::V6(v6) => {
            let family = AF_INET6.to_ne_bytes();
            let (flow, scope) = (v6.flowinfo().to_be_bytes(), v6.scope_id().to_ne_bytes());
            [&family[..], &port, &flow, &v6.ip().octets(), &scope].concat()
        }
    }
}

fn from_taddr(taddr: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = taddr.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match u16::from_ne_bytes(*family) {
        AF_INET => {
            let (ip, _) = rest.split_first_chunk::<4>()?;
            Some((Ipv4Addr::from(*ip), port).into())
        }
        AF_INET6 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let (ip, _) = rest.split_first_chunk::<16>()?;
            Some((Ipv6Addr::from(*ip), port).into())
        }
        _ => None,
    }
}
