//! What a call brings along besides its arguments.

use proto::nfs3::Nfstime3;
use rpc::xdr::DecodeError;
use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};

/// Largest READ or WRITE over TCP, in bytes: what Linux clients ask for at most.
pub const TCP_PAYLOAD: u32 = 1 << 20;
/// Largest READ or WRITE over UDP, in bytes, so that a reply fits one datagram. Linux knfsd has the same.
pub const UDP_PAYLOAD: u32 = 32 << 10;

/// Who asks: the ids of AUTH_SYS (RFC 5531, appendix A).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller<'a> {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Further groups, each in network byte order, as AUTH_SYS has them.
    pub groups: &'a [[u8; 4]],
}

impl Caller<'_> {
    /// Root.
    pub const ROOT: Caller<'static> = Caller {
        uid: 0,
        gid: 0,
        groups: &[],
    };

    /// Nobody in particular: what AUTH_NONE becomes. Every export replaces it by its anonymous ids, as Linux
    /// knfsd does with the id -1 from any client.
    pub const ANONYMOUS: Caller<'static> = Caller {
        uid: u32::MAX,
        gid: u32::MAX,
        groups: &[],
    };

    /// Whether the caller is root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the caller belongs to `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid.to_be_bytes())
    }
}

/// The surroundings of one call.
#[derive(Debug, Clone)]
pub struct Cx<'a> {
    /// Who asks.
    pub caller: Caller<'a>,
    /// Where wall time comes from. It is read when it is first asked for: most calls change nothing, and a clock that
    /// is read for each of them takes a twentieth of a GETATTR.
    clock: fn() -> Nfstime3,
    now: OnceCell<Nfstime3>,
    /// From where.
    pub peer: IpAddr,
    /// Largest READ or WRITE that the transport carries: [`TCP_PAYLOAD`] or [`UDP_PAYLOAD`].
    pub max_payload: u32,
}

impl<'a> Cx<'a> {
    /// A call whose time `clock` tells.
    pub fn new(caller: Caller<'a>, clock: fn() -> Nfstime3, peer: IpAddr, max_payload: u32) -> Self {
        Cx {
            caller,
            clock,
            now: OnceCell::new(),
            peer,
            max_payload,
        }
    }

    /// Wall time: what mtime, ctime and atime become. The same however often it is asked for.
    pub fn now(&self) -> Nfstime3 {
        *self.now.get_or_init(self.clock)
    }

    /// A call from this machine over TCP, at a time.
    pub fn local(caller: Caller<'a>, now: Nfstime3) -> Self {
        Cx {
            caller,
            clock: Nfstime3::default,
            now: now.into(),
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            max_payload: TCP_PAYLOAD,
        }
    }

    /// The same call by someone else: after squashing.
    pub fn with_caller<'b>(&self, caller: Caller<'b>) -> Cx<'b> {
        Cx {
            caller,
            clock: self.clock,
            now: self.now.clone(),
            peer: self.peer,
            max_payload: self.max_payload,
        }
    }
}

/// Why a call got no reply of its program: an accept status of the RPC layer (RFC 5531, section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The program has no such procedure: `PROC_UNAVAIL`.
    #[error("no such procedure")]
    ProcUnavail,
    /// The arguments are not the XDR that the procedure takes: `GARBAGE_ARGS`.
    #[error("arguments: {0}")]
    GarbageArgs(#[from] DecodeError),
}
