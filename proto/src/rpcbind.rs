//! rpcbind, program 100000 versions 3 and 4 (RFC 1833, section 2): the port mapper for every transport.
//!
//! Where version 2 ([`crate::portmap`]) speaks of protocols and ports, these versions speak of netids
//! ([`Netid`]) and universal addresses ([`to_uaddr`]), and so can say where a program is on IPv6.

use rpc::msg::Transport;
use rpc::xdr::{self, Decode, Encode, Opaque, Reader, Writer};
use rpc::{xdr_enum, xdr_struct};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Program number: that of the port mapper.
pub const PROGRAM: u32 = crate::portmap::PROGRAM;
/// Version 3.
pub const V3: u32 = 3;
/// Version 4, which IPv6 kernel clients ask first.
pub const V4: u32 = 4;
/// Longest string taken, in bytes. RFC 1833 has no limit; no netid, address or owner is as long.
pub const STRING_MAX: usize = 1024;
/// `RPCBSTAT_HIGHPROC`: procedures of version 4, plus one.
pub const RPCBSTAT_HIGHPROC: usize = 13;
/// `RPCBVERS_STAT`: the versions of which statistics are kept (2, 3 and 4).
pub const RPCBVERS_STAT: usize = 3;

/// Strings of the protocol.
pub type Text<'a> = Opaque<'a, STRING_MAX>;

xdr_enum! {
    /// The procedures of versions 3 and 4. Version 3 ends at 8.
    pub enum RpcbProc {
        /// Does nothing.
        RPCBPROC_NULL = 0,
        /// Register a program on one transport.
        RPCBPROC_SET = 1,
        /// Remove a program from one transport, or from all.
        RPCBPROC_UNSET = 2,
        /// Where is this program? Any version of it will do.
        RPCBPROC_GETADDR = 3,
        /// What is registered?
        RPCBPROC_DUMP = 4,
        /// Call a program through rpcbind; `RPCBPROC_BCAST` in version 4.
        RPCBPROC_CALLIT = 5,
        /// What time is it there?
        RPCBPROC_GETTIME = 6,
        /// From a universal address to a socket address of that system.
        RPCBPROC_UADDR2TADDR = 7,
        /// The way back.
        RPCBPROC_TADDR2UADDR = 8,
        /// Where is this version of this program?
        RPCBPROC_GETVERSADDR = 9,
        /// As CALLIT, but a failure is answered.
        RPCBPROC_INDIRECT = 10,
        /// Where is it on all transports of this family?
        RPCBPROC_GETADDRLIST = 11,
        /// What has been asked?
        RPCBPROC_GETSTAT = 12,
    }
}

impl RpcbProc {
    /// What version 4 calls CALLIT.
    pub const RPCBPROC_BCAST: RpcbProc = RpcbProc::RPCBPROC_CALLIT;
}

xdr_enum! {
    /// `r_nc_semantics`: what a transport is like.
    pub enum NcSemantics {
        /// Datagrams.
        NC_TPI_CLTS = 1,
        /// Connections.
        NC_TPI_COTS = 2,
        /// Connections that end in good order.
        NC_TPI_COTS_ORD = 3,
        /// Raw.
        NC_TPI_RAW = 4,
    }
}

/// The network identifiers of TCP and UDP (RFC 5665, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Netid {
    /// UDP over IPv4.
    Udp,
    /// TCP over IPv4.
    Tcp,
    /// UDP over IPv6.
    Udp6,
    /// TCP over IPv6.
    Tcp6,
}

impl Netid {
    /// All of them.
    pub const ALL: [Netid; 4] = [Netid::Udp, Netid::Tcp, Netid::Udp6, Netid::Tcp6];

    /// The one of a transport between addresses such as this. IPv4 in IPv6 clothes is IPv4.
    pub fn of(transport: Transport, address: IpAddr) -> Netid {
        match (transport, address.to_canonical()) {
            (Transport::Udp, IpAddr::V4(_)) => Netid::Udp,
            (Transport::Tcp, IpAddr::V4(_)) => Netid::Tcp,
            (Transport::Udp, IpAddr::V6(_)) => Netid::Udp6,
            (Transport::Tcp, IpAddr::V6(_)) => Netid::Tcp6,
        }
    }

    /// On the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Netid::Udp => "udp",
            Netid::Tcp => "tcp",
            Netid::Udp6 => "udp6",
            Netid::Tcp6 => "tcp6",
        }
    }

    /// From the wire.
    pub fn from_name(name: &[u8]) -> Option<Netid> {
        Netid::ALL
            .into_iter()
            .find(|netid| netid.name().as_bytes() == name)
    }

    /// TCP or UDP.
    pub const fn transport(self) -> Transport {
        match self {
            Netid::Udp | Netid::Udp6 => Transport::Udp,
            Netid::Tcp | Netid::Tcp6 => Transport::Tcp,
        }
    }

    /// Whether its addresses are those of IPv6.
    pub const fn is_v6(self) -> bool {
        matches!(self, Netid::Udp6 | Netid::Tcp6)
    }

    /// The address that stands for every address of the host: `0.0.0.0` or `::`.
    pub const fn any(self) -> IpAddr {
        if self.is_v6() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        }
    }

    /// `r_nc_protofmly`.
    pub const fn family(self) -> &'static str {
        if self.is_v6() { "inet6" } else { "inet" }
    }

    /// `r_nc_semantics`.
    pub const fn semantics(self) -> NcSemantics {
        match self.transport() {
            Transport::Udp => NcSemantics::NC_TPI_CLTS,
            Transport::Tcp => NcSemantics::NC_TPI_COTS_ORD,
        }
    }
}

/// The universal address of a socket (RFC 5665, section 5.2.3.3): the address, then the two bytes of the
/// port in decimal, as in `10.77.0.1.8.1` and `::1.8.1`.
pub fn to_uaddr(address: SocketAddr) -> String {
    let [high, low] = address.port().to_be_bytes();
    format!("{}.{high}.{low}", address.ip().to_canonical())
}

/// The socket that a universal address names; `None` if it names none.
pub fn from_uaddr(uaddr: &[u8]) -> Option<SocketAddr> {
    let mut parts = std::str::from_utf8(uaddr).ok()?.rsplitn(3, '.');
    let (low, high, ip) = (parts.next()?, parts.next()?, parts.next()?);
    let byte = |text: &str| text.parse::<u8>().ok();
    let port = u16::from_be_bytes([byte(high)?, byte(low)?]);
    Some(SocketAddr::new(ip.parse().ok()?, port))
}

xdr_struct! {
    /// `rpcb`: one registration, and the argument of most procedures.
    pub struct Rpcb<'a> {
        /// Program number.
        r_prog: u32,
        /// Program version.
        r_vers: u32,
        /// Transport: see [`Netid`].
        r_netid: Text<'a>,
        /// Universal address.
        r_addr: Text<'a>,
        /// Who registered it.
        r_owner: Text<'a>,
    }
}

xdr_struct! {
    /// `rpcb_rmtcallargs`: a call to be forwarded.
    pub struct RpcbRmtcallargs<'a> {
        /// Program number.
        prog: u32,
        /// Program version.
        vers: u32,
        /// Procedure.
        proc: u32,
        /// Its arguments, encoded.
        args: Opaque<'a, { xdr::RECORD }>,
    }
}

xdr_struct! {
    /// `netbuf`: a socket address as the answering system has it in memory.
    pub struct Netbuf<'a> {
        /// How long it could be.
        maxlen: u32,
        /// The bytes.
        buf: Text<'a>,
    }
}

xdr_struct! {
    /// `rpcb_entry`: one of the addresses of a program.
    pub struct RpcbEntry<'a> {
        /// Universal address ("merged": as this caller reaches it).
        r_maddr: Text<'a>,
        /// Netid.
        r_nc_netid: Text<'a>,
        /// What the transport is like.
        r_nc_semantics: NcSemantics,
        /// Protocol family: "inet" or "inet6".
        r_nc_protofmly: Text<'a>,
        /// Protocol: "tcp" or "udp".
        r_nc_proto: Text<'a>,
    }
}

xdr_struct! {
    /// `rpcbs_addrlist`: how often a program has been asked for.
    pub struct RpcbsAddrlist<'a> {
        /// Program number.
        prog: u32,
        /// Program version.
        vers: u32,
        /// Answered with an address.
        success: u32,
        /// Answered without one.
        failure: u32,
        /// Transport.
        netid: Text<'a>,
    }
}

xdr_struct! {
    /// `rpcbs_rmtcalllist`: how often a procedure was to be called through rpcbind.
    pub struct RpcbsRmtcalllist<'a> {
        /// Program number.
        prog: u32,
        /// Program version.
        vers: u32,
        /// Procedure.
        proc: u32,
        /// Forwarded.
        success: u32,
        /// Not forwarded.
        failure: u32,
        /// How many of them by INDIRECT.
        indirect: u32,
        /// Transport.
        netid: Text<'a>,
    }
}

/// A linked list of RFC 1833, in which every element is followed by whether there is another: `rpcblist_ptr`,
/// `rpcb_entry_list_ptr`, `rpcbs_addrlist_ptr`, `rpcbs_rmtcalllist_ptr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

/// `rpcblist_ptr`: the answer to DUMP.
pub type Rpcblist<'a> = List<Rpcb<'a>>;
/// `rpcb_entry_list_ptr`: the answer to GETADDRLIST.
pub type RpcbEntryList<'a> = List<RpcbEntry<'a>>;

impl<T: Encode> Encode for List<T> {
    fn encode(&self, w: &mut Writer) {
        for item in &self.0 {
            w.bool(true);
            item.encode(w);
        }
        w.bool(false);
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for List<T> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let mut list = Vec::new();
        while let Some(item) = Option::<T>::decode(r)? {
            list.push(item);
        }
        Ok(List(list))
    }
}

/// `rpcb_stat`: what one version has been asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RpcbStat<'a> {
    /// Calls of each procedure.
    pub info: [u32; RPCBSTAT_HIGHPROC],
    /// Registrations that succeeded.
    pub setinfo: u32,
    /// Removals that succeeded.
    pub unsetinfo: u32,
    /// Questions for addresses, by program.
    pub addrinfo: List<RpcbsAddrlist<'a>>,
    /// Calls to be forwarded, by procedure.
    pub rmtinfo: List<RpcbsRmtcalllist<'a>>,
}

impl Encode for RpcbStat<'_> {
    fn encode(&self, w: &mut Writer) {
        for count in self.info {
            w.u32(count);
        }
        w.u32(self.setinfo);
        w.u32(self.unsetinfo);
        self.addrinfo.encode(w);
        self.rmtinfo.encode(w);
    }
}

impl<'a> Decode<'a> for RpcbStat<'a> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let mut stat = RpcbStat::default();
        for count in &mut stat.info {
            *count = r.u32("rpcbs_proc")?;
        }
        stat.setinfo = r.u32("setinfo")?;
        stat.unsetinfo = r.u32("unsetinfo")?;
        stat.addrinfo = Decode::decode(r)?;
        stat.rmtinfo = Decode::decode(r)?;
        Ok(stat)
    }
}

/// `rpcb_stat_byvers`: the answer to GETSTAT; versions 2, 3 and 4 in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RpcbStatByvers<'a>(pub [RpcbStat<'a>; RPCBVERS_STAT]);

impl Encode for RpcbStatByvers<'_> {
    fn encode(&self, w: &mut Writer) {
        for stat in &self.0 {
            stat.encode(w);
        }
    }
}

impl<'a> Decode<'a> for RpcbStatByvers<'a> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        Ok(RpcbStatByvers([
            Decode::decode(r)?,
            Decode::decode(r)?,
            Decode::decode(r)?,
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn universal_addresses_go_both_ways() {
        for (socket, uaddr) in [
            ("10.77.0.1:2049", "10.77.0.1.8.1"),
            ("0.0.0.0:111", "0.0.0.0.0.111"),
            ("[::1]:2049", "::1.8.1"),
            ("[2001:db8::5]:65535", "2001:db8::5.255.255"),
        ] {
            let socket: SocketAddr = socket.parse().unwrap();
            assert_eq!(to_uaddr(socket), uaddr);
            assert_eq!(from_uaddr(uaddr.as_bytes()), Some(socket));
        }
        let clothed: SocketAddr = "[::ffff:10.0.0.1]:111".parse().unwrap();
        assert_eq!(to_uaddr(clothed), "10.0.0.1.0.111");
    }

    #[test]
    fn what_is_no_universal_address() {
        for text in [
            "",
            ".",
            "..",
            "1.2",
            "10.0.0.1",
            "10.0.0.1.8",
            "10.0.0.1.8.256",
            "10.0.0.1.8.-1",
            "x.8.1",
            "::1",
            "/run/rpcbind.sock",
            "10.0.0.1.8.1.",
        ] {
            assert_eq!(from_uaddr(text.as_bytes()), None, "{text}");
        }
        assert_eq!(from_uaddr(&[0xff, b'.', b'1', b'.', b'1']), None);
    }

    #[test]
    fn netids() {
        for netid in Netid::ALL {
            assert_eq!(Netid::from_name(netid.name().as_bytes()), Some(netid));
            assert_eq!(Netid::of(netid.transport(), netid.any()), netid);
        }
        let clothed = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(Netid::of(Transport::Tcp, clothed), Netid::Tcp);
        assert_eq!(Netid::from_name(b"local"), None);
    }

    /// Word by word, from the definitions in RFC 1833, section 2.1.
    #[test]
    fn lists_are_marked_before_each_element_and_at_the_end() {
        let rpcb = Rpcb {
            r_prog: 100_003,
            r_vers: 3,
            r_netid: "tcp".into(),
            r_addr: "0.0.0.0.8.1".into(),
            r_owner: "superuser".into(),
        };
        let bytes = xdr::to_bytes(&List(vec![rpcb]));
        let expected = b"\0\0\0\x01\0\x01\x86\xa3\0\0\0\x03\0\0\0\x03tcp\0\0\0\0\x0b0.0.0.0.8.1\0\
            \0\0\0\x09superuser\0\0\0\0\0\0\0";
        assert_eq!(&bytes[..], &expected[..]);
        assert_eq!(xdr::from_bytes(&bytes), Ok(List(vec![rpcb])));
    }

    #[test]
    fn statistics_survive_the_round_trip() {
        let mut stat = RpcbStatByvers::default();
        stat.0[2].info[12] = 1;
        stat.0[0].addrinfo.0.push(RpcbsAddrlist {
            prog: 100_003,
            vers: 3,
            success: 2,
            failure: 1,
            netid: "udp6".into(),
        });
        let bytes = xdr::to_bytes(&stat);
        assert_eq!(bytes.len(), 3 * (15 + 2) * 4 + 7 * 4);
        assert_eq!(xdr::from_bytes(&bytes), Ok(stat));
    }
}
