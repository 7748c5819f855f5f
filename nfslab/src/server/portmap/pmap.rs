//! Version 2 (RFC 1833, section 3): protocols and ports.
//!
//! It knows no address families. rpcbind offers it on IPv4 only; here it answers on IPv6 too, with the ports
//! of the family on which it is asked.

use super::{Asker, Registry};
use proto::portmap::{IpProto, Mapping, PmapList, PmapProc, V2};
use proto::rpcbind::Netid;
use rpc::msg::{RpcError, Transport};
use rpc::xdr::{Decode, Encode, Reader, Writer};
use std::net::SocketAddr;

/// The IP protocol number of a transport.
pub const fn ip_proto(transport: Transport) -> IpProto {
    match transport {
        Transport::Tcp => IpProto::IPPROTO_TCP,
        Transport::Udp => IpProto::IPPROTO_UDP,
    }
}

/// The transport that is meant by a protocol in a question from `asker`.
fn netid(asker: Asker, proto: IpProto) -> Option<Netid> {
    let transport = match proto {
        IpProto::IPPROTO_TCP => Transport::Tcp,
        IpProto::IPPROTO_UDP => Transport::Udp,
        _ => return None,
    };
    Some(Netid::of(transport, asker.peer.ip()))
}

impl Registry {
    pub(super) fn pmap(
        &self,
        asker: Asker,
        procedure: PmapProc,
        r: &mut Reader<'_>,
        w: &mut Writer,
    ) -> Result<bool, RpcError> {
        self.stats.lock().called(V2, procedure.0);
        let mut mapping = || Mapping::decode(r).map_err(|_| RpcError::GarbageArgs);
        match procedure {
            PmapProc::PMAPPROC_NULL => {}
            PmapProc::PMAPPROC_SET => mapping().map(|m| self.pmap_set(asker, m))?.encode(w),
            PmapProc::PMAPPROC_UNSET => mapping().map(|m| self.pmap_unset(asker, m))?.encode(w),
            PmapProc::PMAPPROC_GETPORT => mapping().map(|m| self.pmap_port(asker, m))?.encode(w),
            PmapProc::PMAPPROC_DUMP => self.pmap_dump(asker).encode(w),
            // RFC 1833, section 3.2: "If the call is unsuccessful, no reply is sent." See the module's text.
            PmapProc::PMAPPROC_CALLIT => return Ok(false),
            _ => return Err(RpcError::ProcUnavail),
        }
        Ok(true)
    }

    fn pmap_set(&self, asker: Asker, m: Mapping) -> bool {
        let (Some(netid), Ok(port)) = (netid(asker, m.prot), u16::try_from(m.port)) else {
            return false;
        };
        let address = SocketAddr::new(netid.any(), port);
        let done = self.set(asker, (m.prog, m.vers, netid), address);
        self.stats.lock().set(V2, done);
        done
    }

    /// Every transport of the version: protocol and port do not count (RFC 1833, section 3.2).
    fn pmap_unset(&self, asker: Asker, m: Mapping) -> bool {
        let done = self.unset(asker, m.prog, m.vers, None);
        self.stats.lock().unset(V2, done);
        done
    }

    /// 0: nowhere.
    fn pmap_port(&self, asker: Asker, m: Mapping) -> u32 {
        let Some(netid) = netid(asker, m.prot) else {
            return 0;
        };
        let found = self.any_version((m.prog, m.vers, netid));
        self.stats
            .lock()
            .asked(V2, (m.prog, m.vers, netid), found.is_some());
        found.map_or(0, |address| address.port().into())
    }

    fn pmap_dump(&self, asker: Asker) -> PmapList {
        let list = self.list().into_iter();
        let mappings = list
            .filter(|((_, _, netid), _)| netid.is_v6() == asker.netid().is_v6())
            .map(|((prog, vers, netid), entry)| Mapping {
                prog,
                vers,
                prot: ip_proto(netid.transport()),
                port: entry.address.port().into(),
            });
        PmapList(mappings.collect())
    }
}
