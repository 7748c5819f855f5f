//! Calls and answers of NLM 1, 3 and 4 on the wire. Behind this file there are only requests with 64-bit ranges.
//!
//! | procedures | what becomes of them |
//! |---|---|
//! | 1 to 5 | answered by the reply |
//! | 6 to 10, `_MSG` | the same requests; the reply is void, and the answer is a call of 11 to 15 to the caller |
//! | 11 to 14, `_RES` | void, and of no effect: we send nothing to which they could be the answer |
//! | 15, GRANTED_RES | void; the answer to our GRANTED_MSG |
//! | 16, SM_NOTIFY | private to a host and its own status monitor |
//! | 20 to 23 | versions 3 and 4 only |
//!
//! The reply to a `_MSG` comes when the lock service gets to the call, just before the `_RES` leaves. Linux
//! does it in the other order on its one thread, which nobody can tell apart: it queues the `_RES` and then
//! replies. So a `_MSG` to a lock service that is held up is not replied to either.
//!
//! A file handle may have any length that NFSv3 allows, in every version: the specification says `netobj`.
//! Linux insists on 32 bytes in versions 1 and 3, which were made for NFSv2; ours are longer.

use crate::server::dispatch::Refusal;
use nlm::request::{Reply, Request};
use proto::nlm::{self as wire, Netobj, NlmProc, Res, V1, V4, v3};
use rpc::msg::RpcError;
use rpc::xdr::{self, Decode, Encode, Reader, Writer};
use std::borrow::Cow;

/// How the answer to a call goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In its reply.
    Reply,
    /// In a call of this procedure; the reply is void.
    Call(NlmProc),
}

/// A call, read.
#[derive(Clone, Copy)]
pub struct Decoded<'a> {
    /// To be returned with the answer.
    pub cookie: &'a [u8],
    /// What is asked.
    pub request: Request<'a>,
    /// How the answer goes back.
    pub way: Way,
}

/// The form that an asynchronous procedure has when it is not, and how its answer goes back.
fn twin(procedure: u32) -> (NlmProc, Way) {
    match procedure {
        6..=10 => (NlmProc(procedure - 5), Way::Call(NlmProc(procedure + 5))),
        _ => (NlmProc(procedure), Way::Reply),
    }
}

/// Reads arguments that are wider in version 4.
#[inline(always)]
fn wide<'a, Wide, Narrow>(version: u32, r: &mut Reader<'a>) -> xdr::Result<Wide>
where
    Wide: Decode<'a> + From<Narrow>,
    Narrow: Decode<'a>,
{
    if version == V4 {
        Wide::decode(r)
    } else {
        Narrow::decode(r).map(Wide::from)
    }
}

/// Reads a call.
///
/// # Errors
/// PROC_UNAVAIL and GARBAGE_ARGS.
pub fn decode<'a>(version: u32, procedure: u32, args: &'a [u8]) -> Result<Decoded<'a>, Refusal> {
    if version == V1 && procedure > NlmProc::NLM_SM_NOTIFY.0 {
        return Err(Refusal(RpcError::ProcUnavail));
    }
    let r = &mut Reader::new(args);
    let (twin, way) = twin(procedure);
    // Each arm makes the whole of it: what is made first and put together later is copied, for every call.
    let decoded = |cookie: Netobj<'a>, request| Decoded {
        cookie: cookie.0,
        request,
        way,
    };
    Ok(match twin {
        NlmProc::NLM_NULL => decoded(Netobj::default(), Request::Null),
        NlmProc::NLM_TEST => {
            let args = wide::<wire::TestArgs<'_>, v3::TestArgs<'_>>(version, r)?;
            decoded(args.cookie, Request::Test(args))
        }
        NlmProc::NLM_LOCK => {
            let args = wide::<wire::LockArgs<'_>, v3::LockArgs<'_>>(version, r)?;
            decoded(args.cookie, Request::Lock(args))
        }
        NlmProc::NLM_NM_LOCK => {
            let args = wide::<wire::LockArgs<'_>, v3::LockArgs<'_>>(version, r)?;
            decoded(args.cookie, Request::NmLock(args))
        }
        NlmProc::NLM_CANCEL => {
            let args = wide::<wire::CancelArgs<'_>, v3::CancelArgs<'_>>(version, r)?;
            decoded(args.cookie, Request::Cancel(args))
        }
        NlmProc::NLM_UNLOCK => {
            let args = wide::<wire::UnlockArgs<'_>, v3::UnlockArgs<'_>>(version, r)?;
            decoded(args.cookie, Request::Unlock(args))
        }
        NlmProc::NLM_GRANTED => {
            let args = wide::<wire::TestArgs<'_>, v3::TestArgs<'_>>(version, r)?;
            decoded(args.cookie, Request::Granted)
        }
        NlmProc::NLM_SHARE | NlmProc::NLM_UNSHARE => {
            let args = wire::ShareArgs::decode(r)?;
            let give_back = twin == NlmProc::NLM_UNSHARE;
            let request = if give_back {
                Request::Unshare
            } else {
                Request::Share
            };
            decoded(args.cookie, request(args))
        }
        _ => decoded(Netobj::default(), decode_void(version, twin, r)?),
    })
}

/// Those whose reply is void.
fn decode_void<'a>(version: u32, procedure: NlmProc, r: &mut Reader<'a>) -> Result<Request<'a>, Refusal> {
    Ok(match procedure {
        NlmProc::NLM_TEST_RES if version == V4 => {
            wire::TestRes::decode(r)?;
            Request::OtherRes
        }
        NlmProc::NLM_TEST_RES => {
            v3::TestRes::decode(r)?;
            Request::OtherRes
        }
        NlmProc::NLM_LOCK_RES | NlmProc::NLM_CANCEL_RES | NlmProc::NLM_UNLOCK_RES => {
            Res::decode(r)?;
            Request::OtherRes
        }
        NlmProc::NLM_GRANTED_RES => Request::GrantedRes(Res::decode(r)?),
        NlmProc::NLM_SM_NOTIFY => Request::SmNotify(wire::SmStatus::decode(r)?),
        NlmProc::NLM_FREE_ALL => {
            wire::Notify::decode(r)?;
            Request::FreeAll
        }
        _ => return Err(Refusal(RpcError::ProcUnavail)),
    })
}

/// Writes an answer, as the result of a call or as the arguments of a `_RES`; its status in words.
pub fn answer(out: &mut Writer, version: u32, cookie: &[u8], reply: &Reply) -> Cow<'static, str> {
    // Quirk(linux 6.1): an empty cookie is answered with four bytes of zero (read, not observed), because a
    // client that sends none has been seen to want some.
    let cookie = Netobj::from(if cookie.is_empty() { &[0; 4] } else { cookie });
    match *reply {
        Reply::Void => "ok".into(),
        Reply::Stat(stat) => {
            narrowed::<_, v3::Res<'_>>(out, version, Res { cookie, stat });
            shown(version, stat)
        }
        Reply::Test(ref test) => {
            narrowed::<_, v3::TestRes<'_>>(out, version, test.to_wire(cookie));
            shown(version, test.stat)
        }
        Reply::Share(stat) => {
            let res = wire::ShareRes {
                cookie,
                stat,
                sequence: 0,
            };
            narrowed::<_, v3::ShareRes<'_>>(out, version, res);
            shown(version, stat)
        }
    }
}

fn shown(version: u32, stat: wire::Nlm4Stat) -> Cow<'static, str> {
    if version == V4 {
        stat.shown()
    } else {
        v3::NlmStats::from(stat).shown()
    }
}

fn narrowed<Wide: Encode, Narrow: Encode + From<Wide>>(out: &mut Writer, version: u32, answer: Wide) {
    if version == V4 {
        answer.encode(out);
    } else {
        Narrow::from(answer).encode(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_procedures() {
        let unknown = |version, procedure| {
            matches!(
                decode(version, procedure, &[]),
                Err(Refusal(RpcError::ProcUnavail))
            )
        };
        for version in [1, 3, 4] {
            let has: Vec<u32> = (0..30).filter(|p| !unknown(version, *p)).collect();
            let end = if version == 1 { 0..0 } else { 20..24 };
            assert_eq!(has, (0..17).chain(end).collect::<Vec<_>>(), "version {version}");
        }
    }

    #[test]
    fn cookies_come_back_whatever_their_length() {
        for len in [0, 1, 4, 5, 32, 33, 1024] {
            let cookie = vec![7; len];
            for version in [1, 3, 4] {
                let mut out = Writer::new();
                answer(
                    &mut out,
                    version,
                    &cookie,
                    &Reply::Stat(wire::Nlm4Stat::NLM4_DEADLCK),
                );
                let bytes = out.into_bytes();
                let (back, stat) = if version == V4 {
                    let res = xdr::from_bytes::<Res<'_>>(&bytes).unwrap();
                    (res.cookie.0, res.stat.0)
                } else {
                    let res = xdr::from_bytes::<v3::Res<'_>>(&bytes).unwrap();
                    (res.cookie.0, res.stat.0)
                };
                assert_eq!(back, if len == 0 { &[0; 4] } else { &cookie[..] });
                assert_eq!(stat, if version == V4 { 5 } else { 1 });
            }
        }
    }
}
