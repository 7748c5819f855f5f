//! The port mapper (RFC 1833, section 3): which program listens where.

use faults::Service;
use parking_lot::RwLock;
use proto::portmap::{IpProto, Mapping, PmapList, PmapProc};
use rpc::msg::{RpcError, Transport};
use rpc::xdr::{Decode, Encode, Reader, Writer};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The registrations, by program, version and transport.
#[derive(Debug, Default)]
pub struct Registry {
    entries: RwLock<BTreeMap<(u32, u32, u32), Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    port: u32,
    /// Whose it is; `None`: registered from outside by SET.
    owner: Option<Service>,
}

/// The IP protocol number of a transport.
pub const fn ip_proto(transport: Transport) -> IpProto {
    match transport {
        Transport::Tcp => IpProto::IPPROTO_TCP,
        Transport::Udp => IpProto::IPPROTO_UDP,
    }
}

impl Registry {
    /// Enters a program of ours.
    pub fn register(&self, owner: Service, program: u32, version: u32, transport: Transport, port: u16) {
        let entry = Entry {
            port: port.into(),
            owner: Some(owner),
        };
        self.entries
            .write()
            .insert((program, version, ip_proto(transport).0), entry);
    }

    /// Removes everything that belongs to `owner`.
    pub fn withdraw(&self, owner: Service) {
        self.entries.write().retain(|_, entry| entry.owner != Some(owner));
    }

    /// Handles a call of version 2. `Ok(false)`: no answer is given.
    ///
    /// # Errors
    /// The RPC refusal that the call deserves.
    pub fn call(&self, peer: IpAddr, procedure: u32, args: &[u8], w: &mut Writer) -> Result<bool, RpcError> {
        let mut r = Reader::new(args);
        let mut mapping = || Mapping::decode(&mut r).map_err(|_| RpcError::GarbageArgs);
        match PmapProc(procedure) {
            PmapProc::PMAPPROC_NULL => {}
            PmapProc::PMAPPROC_SET => mapping().map(|m| self.set(peer, m))?.encode(w),
            PmapProc::PMAPPROC_UNSET => mapping().map(|m| self.unset(peer, m))?.encode(w),
            PmapProc::PMAPPROC_GETPORT => mapping().map(|m| self.port(m))?.encode(w),
            PmapProc::PMAPPROC_DUMP => self.dump().encode(w),
            // RFC 1833, section 3.2: "If the call is unsuccessful, no reply is sent." rpcbind no longer
            // forwards calls unless it is told to, because the procedure served to amplify attacks.
            PmapProc::PMAPPROC_CALLIT => return Ok(false),
            _ => return Err(RpcError::ProcUnavail),
        }
        Ok(true)
    }

    /// SET: from this host only, and not over an existing entry.
    fn set(&self, peer: IpAddr, m: Mapping) -> bool {
        let mut entries = self.entries.write();
        let key = (m.prog, m.vers, m.prot.0);
        let free = peer.is_loopback() && !entries.contains_key(&key) && entries.len() < MAX_ENTRIES;
        if free {
            entries.insert(
                key,
                Entry {
                    port: m.port,
                    owner: None,
                },
            );
        }
        free
    }

    /// UNSET: every transport of the version, from this host only, and never one of our own programs.
    fn unset(&self, peer: IpAddr, m: Mapping) -> bool {
        let mut entries = self.entries.write();
        let before = entries.len();
        entries.retain(|&(prog, vers, _), entry| {
            !peer.is_loopback() || entry.owner.is_some() || (prog, vers) != (m.prog, m.vers)
        });
        entries.len() < before
    }

    /// GETPORT. As rpcbind does, a version that is not there is answered with the port of another version
    /// of the program, whose PROG_MISMATCH then tells the caller more than "nowhere" would.
    fn port(&self, m: Mapping) -> u32 {
        let entries = self.entries.read();
        let exact = entries.get(&(m.prog, m.vers, m.prot.0));
        let any = || {
            entries
                .range((m.prog, 0, 0)..=(m.prog, u32::MAX, u32::MAX))
                .find(|((_, _, prot), _)| *prot == m.prot.0)
                .map(|(_, entry)| entry)
        };
        exact.or_else(any).map_or(0, |entry| entry.port)
    }

    fn dump(&self) -> PmapList {
        let entries = self.entries.read();
        PmapList(
            entries
                .iter()
                .map(|(&(prog, vers, prot), entry)| Mapping {
                    prog,
                    vers,
                    prot: IpProto(prot),
                    port: entry.port,
                })
                .collect(),
        )
    }
}

/// Most registrations, ours and others'.
const MAX_ENTRIES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::xdr;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 2));

    fn ask(registry: &Registry, peer: IpAddr, procedure: PmapProc, mapping: Mapping) -> u32 {
        let mut w = Writer::new();
        assert!(
            registry
                .call(peer, procedure.0, &xdr::to_bytes(&mapping), &mut w)
                .unwrap()
        );
        xdr::from_bytes(&w.into_bytes()).unwrap()
    }

    fn nlm(vers: u32, port: u32) -> Mapping {
        Mapping {
            prog: proto::nlm::PROGRAM,
            vers,
            prot: IpProto::IPPROTO_TCP,
            port,
        }
    }

    #[test]
    fn a_program_is_found_until_its_service_withdraws() {
        let registry = Registry::default();
        registry.register(Service::Lockd, proto::nlm::PROGRAM, 4, Transport::Tcp, 32803);
        assert_eq!(
            ask(&registry, ELSEWHERE, PmapProc::PMAPPROC_GETPORT, nlm(4, 0)),
            32803
        );
        assert_eq!(
            ask(&registry, ELSEWHERE, PmapProc::PMAPPROC_GETPORT, nlm(3, 0)),
            32803,
            "another version"
        );
        registry.withdraw(Service::Lockd);
        assert_eq!(
            ask(&registry, ELSEWHERE, PmapProc::PMAPPROC_GETPORT, nlm(4, 0)),
            0
        );
    }

    #[test]
    fn only_this_host_registers_and_nobody_removes_our_own() {
        let registry = Registry::default();
        registry.register(Service::Lockd, proto::nlm::PROGRAM, 4, Transport::Tcp, 32803);
        assert_eq!(ask(&registry, ELSEWHERE, PmapProc::PMAPPROC_SET, nlm(1, 9)), 0);
        assert_eq!(ask(&registry, HERE, PmapProc::PMAPPROC_SET, nlm(1, 9)), 1);
        assert_eq!(
            ask(&registry, HERE, PmapProc::PMAPPROC_SET, nlm(1, 10)),
            0,
            "taken"
        );
        assert_eq!(
            ask(&registry, HERE, PmapProc::PMAPPROC_UNSET, nlm(4, 0)),
            0,
            "ours"
        );
        assert_eq!(ask(&registry, HERE, PmapProc::PMAPPROC_UNSET, nlm(1, 0)), 1);
    }
}
