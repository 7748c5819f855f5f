//! Port mapper, program 100000 version 2 (RFC 1833, section 3).
//!
//! Clients ask it on port 111 where a program listens. Port 0 in the answer means: nowhere.

use rpc::xdr::{self, Decode, Encode, Reader, Writer};
use rpc::{xdr_enum, xdr_struct};

/// Program number.
pub const PROGRAM: u32 = 100_000;
/// The version that IPv4 kernel clients speak.
pub const V2: u32 = 2;
/// The port where it is always found.
pub const PMAP_PORT: u16 = 111;

xdr_enum! {
    /// The procedures of version 2.
    pub enum PmapProc {
        /// Does nothing.
        PMAPPROC_NULL = 0,
        /// Register a program.
        PMAPPROC_SET = 1,
        /// Remove a program.
        PMAPPROC_UNSET = 2,
        /// Where is this program?
        PMAPPROC_GETPORT = 3,
        /// What is registered?
        PMAPPROC_DUMP = 4,
        /// Call a program through the port mapper.
        PMAPPROC_CALLIT = 5,
    }
}

xdr_enum! {
    /// Transport protocols, by their IP protocol number.
    pub enum IpProto {
        /// TCP.
        IPPROTO_TCP = 6,
        /// UDP.
        IPPROTO_UDP = 17,
    }
}

xdr_struct! {
    /// `mapping`: one registration.
    pub struct Mapping {
        /// Program number.
        prog: u32,
        /// Program version.
        vers: u32,
        /// Transport.
        prot: IpProto,
        /// Port; ignored in a question.
        port: u32,
    }
}

/// `pmaplist`: the answer to DUMP, a linked list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PmapList(pub Vec<Mapping>);

impl Encode for PmapList {
    fn encode(&self, w: &mut Writer) {
        for mapping in &self.0 {
            w.bool(true);
            mapping.encode(w);
        }
        w.bool(false);
    }
}

impl<'a> Decode<'a> for PmapList {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let mut list = Vec::new();
        while let Some(mapping) = Option::<Mapping>::decode(r)? {
            list.push(mapping);
        }
        Ok(PmapList(list))
    }
}
