//! RPC messages (RFC 5531, section 9): what stands before the arguments of every call and before the
//! result of every reply.
//!
//! A reply is one of three things, and the types keep them apart: a result ([`accepted`]), a refusal by
//! the RPC layer ([`RpcError`]), or, inside a result, a status of the program, which this crate never sees.

use crate::xdr::{self, Decode, DecodeError, DecodeErrorKind, Encode, Opaque, Reader, Writer};
use crate::{xdr_enum, xdr_struct};
use bytes::Bytes;
use std::fmt;

/// The only RPC version.
pub const RPC_VERSION: u32 = 2;
/// Longest body of a credential or verifier, in bytes (RFC 5531, section 8.2).
pub const MAX_AUTH_BYTES: usize = 400;
/// Longest machine name in AUTH_SYS, in bytes (RFC 5531, appendix A).
pub const MAX_MACHINE_NAME: usize = 255;
/// Most supplementary groups in AUTH_SYS.
pub const MAX_GIDS: usize = 16;

xdr_enum! {
    /// `msg_type`.
    pub enum MsgType {
        /// A question.
        CALL = 0,
        /// An answer.
        REPLY = 1,
    }
}

xdr_enum! {
    /// `reply_stat`.
    pub enum ReplyStat {
        /// The call reached the program.
        MSG_ACCEPTED = 0,
        /// It did not.
        MSG_DENIED = 1,
    }
}

xdr_enum! {
    /// `accept_stat`.
    pub enum AcceptStat {
        /// The result follows.
        SUCCESS = 0,
        /// No such program here.
        PROG_UNAVAIL = 1,
        /// The program is here, not in this version.
        PROG_MISMATCH = 2,
        /// The version has no such procedure.
        PROC_UNAVAIL = 3,
        /// The arguments cannot be decoded.
        GARBAGE_ARGS = 4,
        /// The server is in trouble.
        SYSTEM_ERR = 5,
    }
}

xdr_enum! {
    /// `reject_stat`.
    pub enum RejectStat {
        /// The RPC version is not 2.
        RPC_MISMATCH = 0,
        /// The caller could not be authenticated.
        AUTH_ERROR = 1,
    }
}

xdr_enum! {
    /// `auth_stat`: why a caller was not authenticated.
    pub enum AuthStat {
        /// It was.
        AUTH_OK = 0,
        /// Bad credential.
        AUTH_BADCRED = 1,
        /// A new session is needed.
        AUTH_REJECTEDCRED = 2,
        /// Bad verifier.
        AUTH_BADVERF = 3,
        /// Verifier expired or replayed.
        AUTH_REJECTEDVERF = 4,
        /// Not secure enough.
        AUTH_TOOWEAK = 5,
        /// Bogus response verifier.
        AUTH_INVALIDRESP = 6,
        /// Unknown reason.
        AUTH_FAILED = 7,
    }
}

xdr_enum! {
    /// `auth_flavor`.
    pub enum AuthFlavor {
        /// No identity.
        AUTH_NONE = 0,
        /// Uid and groups, taken on trust.
        AUTH_SYS = 1,
        /// A shorthand for AUTH_SYS.
        AUTH_SHORT = 2,
        /// Diffie-Hellman.
        AUTH_DH = 3,
        /// Kerberos and its like.
        RPCSEC_GSS = 6,
    }
}

xdr_struct! {
    /// `opaque_auth`: a credential or a verifier.
    #[derive(Default)]
    pub struct OpaqueAuth<'a> {
        /// Its kind.
        flavor: AuthFlavor,
        /// Its content.
        body: Opaque<'a, MAX_AUTH_BYTES>,
    }
}

impl Default for AuthFlavor {
    fn default() -> Self {
        AuthFlavor::AUTH_NONE
    }
}

/// `authsys_parms` (RFC 5531, appendix A): who the client says its user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthSys<'a> {
    /// Chosen by the client.
    pub stamp: u32,
    /// The client's host name.
    pub machine_name: Opaque<'a, MAX_MACHINE_NAME>,
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, [`MAX_GIDS`] at most, each as it lies on the wire: most calls ask for none of them.
    pub gids: &'a [[u8; 4]],
}

/// The body of an AUTH_SYS credential; groups beyond the sixteenth are left out, as the flavour cannot carry them.
pub fn auth_sys(machine_name: &str, uid: u32, gid: u32, groups: &[u32]) -> Bytes {
    let gids: Vec<_> = groups
        .iter()
        .take(MAX_GIDS)
        .map(|gid| gid.to_be_bytes())
        .collect();
    xdr::to_bytes(&AuthSys {
        stamp: 0,
        machine_name: machine_name.into(),
        uid,
        gid,
        gids: &gids,
    })
}

impl<'a> Decode<'a> for AuthSys<'a> {
    #[inline]
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let (stamp, machine_name) = (Decode::decode(r)?, Decode::decode(r)?);
        let (uid, gid) = (Decode::decode(r)?, Decode::decode(r)?);
        let before = r.clone();
        let (len, limit) = (r.u32("gids")? as usize, MAX_GIDS);
        if len > limit {
            return Err(before.error("gids", DecodeErrorKind::TooLong { len, limit }));
        }
        let gids = r.take("gids", 4 * len)?.as_chunks().0;
        Ok(AuthSys {
            stamp,
            machine_name,
            uid,
            gid,
            gids,
        })
    }
}

impl Encode for AuthSys<'_> {
    fn encode(&self, w: &mut Writer) {
        w.u32(self.stamp);
        self.machine_name.encode(w);
        w.u32(self.uid);
        w.u32(self.gid);
        w.u32(self.gids.len() as u32);
        w.raw(self.gids.as_flattened());
    }
}

/// Who is calling, as far as the credential says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// AUTH_NONE.
    None,
    /// AUTH_SYS.
    Sys(AuthSys<'a>),
}

impl<'a> Credential<'a> {
    /// Reads the credential of a call.
    ///
    /// # Errors
    /// [`AuthStat::AUTH_BADCRED`] if the body is not what the flavour says, or the flavour is not known.
    /// Quirk(linux): RFC 5531 names no status for an unknown flavour; knfsd answers AUTH_BADCRED, and
    /// closes nothing.
    #[inline]
    pub fn parse(auth: &OpaqueAuth<'a>) -> Result<Self, AuthStat> {
        match auth.flavor {
            AuthFlavor::AUTH_NONE => Ok(Credential::None),
            AuthFlavor::AUTH_SYS => {
                let mut r = Reader::new(auth.body.0);
                AuthSys::decode(&mut r)
                    .map(Credential::Sys)
                    .map_err(|_| AuthStat::AUTH_BADCRED)
            }
            _ => Err(AuthStat::AUTH_BADCRED),
        }
    }
}

/// A call without its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallHeader<'a> {
    /// Chosen by the caller; the reply bears the same. A retransmission keeps it.
    pub xid: u32,
    /// Which program.
    pub program: u32,
    /// Which version of it.
    pub version: u32,
    /// Which procedure of that.
    pub procedure: u32,
    /// Who asks.
    pub cred: OpaqueAuth<'a>,
    /// Proof of that; empty for AUTH_NONE and AUTH_SYS.
    pub verf: OpaqueAuth<'a>,
}

/// Why a message is not a call that can be dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotACall {
    /// No answer is possible: a reply, or not even a header. The connection is of no more use.
    Hopeless(DecodeError),
    /// An answer is possible, and this is it.
    Refused {
        /// The call's xid.
        xid: u32,
        /// What to answer.
        error: RpcError,
    },
}

const CALL: u32 = MsgType::CALL.0;

impl<'a> CallHeader<'a> {
    /// Reads a call's header and leaves the reader at the arguments.
    ///
    /// # Errors
    /// [`NotACall::Refused`] for an RPC version other than 2 (RPC_MISMATCH) and for a credential or
    /// verifier that cannot be read (AUTH_BADCRED, AUTH_BADVERF); [`NotACall::Hopeless`] for the rest.
    #[inline(always)]
    pub fn read(r: &mut Reader<'a>) -> Result<Self, NotACall> {
        let mut ahead = r.clone();
        let (xid, program, version, procedure) = match ahead.u32s() {
            Some([xid, CALL, RPC_VERSION, program, version, procedure]) => {
                *r = ahead;
                (xid, program, version, procedure)
            }
            _ => Self::read_numbers(r)?,
        };
        let refused = |stat| {
            move |_| NotACall::Refused {
                xid,
                error: RpcError::Auth(stat),
            }
        };
        let cred = OpaqueAuth::decode(r).map_err(refused(AuthStat::AUTH_BADCRED))?;
        let verf = OpaqueAuth::decode(r).map_err(refused(AuthStat::AUTH_BADVERF))?;
        Ok(CallHeader {
            xid,
            program,
            version,
            procedure,
            cred,
            verf,
        })
    }

    /// Transaction, program, version and procedure of a header that begins in another way than calls do: one by one, so
    /// that what is wrong is named.
    #[cold]
    fn read_numbers(r: &mut Reader<'a>) -> Result<(u32, u32, u32, u32), NotACall> {
        let xid = r.u32("xid").map_err(NotACall::Hopeless)?;
        let before = r.clone();
        match MsgType::decode(r).map_err(NotACall::Hopeless)? {
            MsgType::CALL => {}
            MsgType(v) => {
                return Err(NotACall::Hopeless(
                    before.error("call", DecodeErrorKind::NoArm(v)),
                ));
            }
        }
        if r.u32("rpcvers").map_err(NotACall::Hopeless)? != RPC_VERSION {
            let error = RpcError::RpcMismatch {
                low: RPC_VERSION,
                high: RPC_VERSION,
            };
            return Err(NotACall::Refused { xid, error });
        }
        let mut number = |what| r.u32(what).map_err(NotACall::Hopeless);
        Ok((xid, number("program")?, number("version")?, number("procedure")?))
    }
}

impl Encode for CallHeader<'_> {
    fn encode(&self, w: &mut Writer) {
        w.u32(self.xid);
        MsgType::CALL.encode(w);
        w.u32(RPC_VERSION);
        w.u32(self.program);
        w.u32(self.version);
        w.u32(self.procedure);
        self.cred.encode(w);
        self.verf.encode(w);
    }
}

/// A refusal by the RPC layer: everything but SUCCESS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// PROG_UNAVAIL.
    #[error("PROG_UNAVAIL: no such program there")]
    ProgUnavail,
    /// PROG_MISMATCH, with the lowest and highest version that exist.
    #[error("PROG_MISMATCH: the program has versions {low} to {high} there")]
    ProgMismatch {
        /// Lowest.
        low: u32,
        /// Highest.
        high: u32,
    },
    /// PROC_UNAVAIL.
    #[error("PROC_UNAVAIL: no such procedure there")]
    ProcUnavail,
    /// GARBAGE_ARGS.
    #[error("GARBAGE_ARGS: the arguments could not be decoded there")]
    GarbageArgs,
    /// SYSTEM_ERR.
    #[error("SYSTEM_ERR: the server is in trouble")]
    SystemErr,
    /// RPC_MISMATCH, with the lowest and highest version of RPC.
    #[error("RPC_MISMATCH: RPC versions {low} to {high} are spoken there")]
    RpcMismatch {
        /// Lowest.
        low: u32,
        /// Highest.
        high: u32,
    },
    /// AUTH_ERROR.
    #[error("AUTH_ERROR: {0}")]
    Auth(AuthStat),
    /// An `accept_stat` that RFC 5531 does not have.
    #[error("accept_stat {0}, which RFC 5531 does not have")]
    Unknown(u32),
}

/// Starts a reply whose result the caller appends.
pub fn accepted(w: &mut Writer, xid: u32) {
    accepted_as(w, xid, AcceptStat::SUCCESS);
}

fn accepted_as(w: &mut Writer, xid: u32, stat: AcceptStat) {
    let (flavor, len) = (AuthFlavor::AUTH_NONE.0, 0); // of the verifier
    let accepted = ReplyStat::MSG_ACCEPTED.0;
    w.u32s([xid, MsgType::REPLY.0, accepted, flavor, len, stat.0]);
}

/// Writes a whole refusal.
pub fn refused(w: &mut Writer, xid: u32, error: RpcError) {
    let denied = [xid, MsgType::REPLY.0, ReplyStat::MSG_DENIED.0];
    match error {
        RpcError::ProgUnavail => accepted_as(w, xid, AcceptStat::PROG_UNAVAIL),
        RpcError::ProcUnavail => accepted_as(w, xid, AcceptStat::PROC_UNAVAIL),
        RpcError::GarbageArgs => accepted_as(w, xid, AcceptStat::GARBAGE_ARGS),
        RpcError::SystemErr => accepted_as(w, xid, AcceptStat::SYSTEM_ERR),
        RpcError::Unknown(stat) => accepted_as(w, xid, AcceptStat(stat)),
        RpcError::ProgMismatch { low, high } => {
            accepted_as(w, xid, AcceptStat::PROG_MISMATCH);
            w.u32s([low, high]);
        }
        RpcError::RpcMismatch { low, high } => {
            w.u32s(denied);
            w.u32s([RejectStat::RPC_MISMATCH.0, low, high]);
        }
        RpcError::Auth(stat) => {
            w.u32s(denied);
            w.u32s([RejectStat::AUTH_ERROR.0, stat.0]);
        }
    }
}

/// A reply, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The xid of the call that it answers.
    pub xid: u32,
    /// The result, still encoded, or the refusal.
    pub result: Result<Bytes, RpcError>,
}

impl Reply {
    /// Reads a whole message as a reply.
    ///
    /// # Errors
    /// A [`DecodeError`] if it is not one.
    pub fn read(record: &Bytes) -> xdr::Result<Self> {
        let mut r = Reader::new(record);
        let xid = r.u32("xid")?;
        let before = r.clone();
        match MsgType::decode(&mut r)? {
            MsgType::REPLY => {}
            MsgType(v) => return Err(before.error("reply", DecodeErrorKind::NoArm(v))),
        }
        let before = r.clone();
        let result = match ReplyStat::decode(&mut r)? {
            ReplyStat::MSG_ACCEPTED => {
                OpaqueAuth::decode(&mut r)?;
                match AcceptStat::decode(&mut r)? {
                    AcceptStat::SUCCESS => Ok(record.slice(r.offset()..)),
                    AcceptStat::PROG_UNAVAIL => Err(RpcError::ProgUnavail),
                    AcceptStat::PROG_MISMATCH => Err(RpcError::ProgMismatch {
                        low: r.u32("low")?,
                        high: r.u32("high")?,
                    }),
                    AcceptStat::PROC_UNAVAIL => Err(RpcError::ProcUnavail),
                    AcceptStat::GARBAGE_ARGS => Err(RpcError::GarbageArgs),
                    AcceptStat::SYSTEM_ERR => Err(RpcError::SystemErr),
                    AcceptStat(stat) => Err(RpcError::Unknown(stat)),
                }
            }
            ReplyStat::MSG_DENIED => match RejectStat::decode(&mut r)? {
                RejectStat::RPC_MISMATCH => Err(RpcError::RpcMismatch {
                    low: r.u32("low")?,
                    high: r.u32("high")?,
                }),
                RejectStat::AUTH_ERROR => Err(RpcError::Auth(AuthStat::decode(&mut r)?)),
                RejectStat(v) => return Err(before.error("reject_stat", DecodeErrorKind::NoArm(v))),
            },
            ReplyStat(v) => return Err(before.error("reply_stat", DecodeErrorKind::NoArm(v))),
        };
        Ok(Reply { xid, result })
    }
}

/// Which way a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A byte stream with record marks.
    Tcp,
    /// One message per datagram.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(xid: u32, cred: OpaqueAuth<'_>) -> CallHeader<'_> {
        CallHeader {
            xid,
            program: 100_003,
            version: 3,
            procedure: 1,
            cred,
            verf: OpaqueAuth::default(),
        }
    }

    #[test]
    fn a_call_header_survives_the_round_trip() {
        let sys = AuthSys {
            stamp: 0,
            machine_name: "web1".into(),
            uid: 33,
            gid: 34,
            gids: &[[0, 0, 0, 4], [0, 0, 0, 24]],
        };
        let body = auth_sys("web1", 33, 34, &[4, 24]);
        let cred = OpaqueAuth {
            flavor: AuthFlavor::AUTH_SYS,
            body: Opaque(&body),
        };
        let bytes = xdr::to_bytes(&header(7, cred));
        let read = CallHeader::read(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(read, header(7, cred));
        assert_eq!(Credential::parse(&read.cred), Ok(Credential::Sys(sys)));
    }

    #[test]
    fn seventeen_groups_are_a_bad_credential() {
        let mut body = auth_sys("web1", 0, 0, &[]).to_vec();
        let at = body.len() - 4;
        body[at..].copy_from_slice(&17u32.to_be_bytes());
        body.extend([0; 17 * 4]);
        let cred = OpaqueAuth {
            flavor: AuthFlavor::AUTH_SYS,
            body: Opaque(&body),
        };
        assert_eq!(Credential::parse(&cred), Err(AuthStat::AUTH_BADCRED));
    }

    #[test]
    fn another_rpc_version_is_told_which_one_is_spoken() {
        let mut bytes = xdr::to_bytes(&header(9, OpaqueAuth::default())).to_vec();
        bytes[11] = 3;
        let refused = CallHeader::read(&mut Reader::new(&bytes)).unwrap_err();
        assert_eq!(
            refused,
            NotACall::Refused {
                xid: 9,
                error: RpcError::RpcMismatch { low: 2, high: 2 }
            }
        );
    }

    #[test]
    fn a_credential_of_four_gigabytes_is_a_bad_credential() {
        let mut bytes = xdr::to_bytes(&header(9, OpaqueAuth::default())).to_vec();
        bytes[28..32].copy_from_slice(&u32::MAX.to_be_bytes());
        let refused = CallHeader::read(&mut Reader::new(&bytes)).unwrap_err();
        assert_eq!(
            refused,
            NotACall::Refused {
                xid: 9,
                error: RpcError::Auth(AuthStat::AUTH_BADCRED)
            }
        );
    }

    #[test]
    fn every_refusal_survives_the_round_trip() {
        for error in [
            RpcError::ProgUnavail,
            RpcError::ProgMismatch { low: 1, high: 4 },
            RpcError::ProcUnavail,
            RpcError::GarbageArgs,
            RpcError::SystemErr,
            RpcError::RpcMismatch { low: 2, high: 2 },
            RpcError::Auth(AuthStat::AUTH_TOOWEAK),
            RpcError::Unknown(77),
        ] {
            let mut w = Writer::new();
            refused(&mut w, 5, error);
            assert_eq!(
                Reply::read(&w.into_bytes()),
                Ok(Reply {
                    xid: 5,
                    result: Err(error)
                })
            );
        }
    }

    proptest! {
        #[test]
        fn junk_is_refused_or_hopeless_and_never_a_panic(data in prop::collection::vec(any::<u8>(), 0..128)) {
            let data = Bytes::from(data);
            if let Ok(call) = CallHeader::read(&mut Reader::new(&data)) {
                let _ = Credential::parse(&call.cred);
            }
            let _ = Reply::read(&data);
        }
    }
}
