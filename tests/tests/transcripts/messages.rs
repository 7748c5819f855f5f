//! The commands of a transcript as messages of the lock protocol, and its replies as answers.

use crate::player::same;
use bytes::Bytes;
use nfslab_tests::transcript::{Answer, Ask, Call, Lock};
use proto::nlm::{self, FshAccess, FshMode, Netobj, Nlm4Stat, NlmProc, V4, v3};
use rpc::xdr::{self, Encode, Writer};

/// The cookie of a call whose transcript does not name one.
const COOKIE: &[u8] = b"a cookie of 21 bytes.";

fn cookie_of(call: &Call) -> &[u8] {
    call.cookie.as_deref().map_or(COOKIE, str::as_bytes)
}

/// Arguments that are encoded already.
pub struct Raw(pub Bytes);

impl Encode for Raw {
    fn encode(&self, w: &mut Writer) {
        w.raw(&self.0);
    }
}

pub fn access_of(word: &str) -> Result<FshAccess, String> {
    match word {
        "R" => Ok(FshAccess::FSA_R),
        "W" => Ok(FshAccess::FSA_W),
        "RW" => Ok(FshAccess::FSA_RW),
        other => Err(format!("'{other}' is no access")),
    }
}

pub fn mode_of(word: &str) -> Result<FshMode, String> {
    match word {
        "DN" => Ok(FshMode::FSM_DN),
        "DR" => Ok(FshMode::FSM_DR),
        "DW" => Ok(FshMode::FSM_DW),
        "DRW" => Ok(FshMode::FSM_DRW),
        other => Err(format!("'{other}' denies nothing")),
    }
}

/// A call's procedure and arguments, for the file with this handle.
pub fn ask(call: &Call, fh: &[u8]) -> Result<(NlmProc, Bytes), String> {
    let default_oh = call.who.to_string();
    let alock = nlm::Nlm4Lock {
        caller_name: call.name.as_deref().unwrap_or(&call.who.host).into(),
        fh: fh.into(),
        oh: call.oh.as_deref().unwrap_or(&default_oh).into(),
        svid: call.who.svid,
        l_offset: call.bytes.offset,
        l_len: call.bytes.len,
    };
    let (mut w, cookie) = (Writer::new(), Netobj::from(cookie_of(call)));
    let share = |access, mode| nlm::ShareArgs {
        cookie,
        share: nlm::Share {
            caller_name: alock.caller_name,
            fh: alock.fh,
            oh: alock.oh,
            mode,
            access,
        },
        reclaim: false,
    };
    let procedure = match &call.ask {
        Ask::Share { access, deny } => {
            share(access_of(access)?, mode_of(deny)?).encode(&mut w);
            NlmProc::NLM_SHARE
        }
        Ask::Unshare => {
            share(FshAccess::FSA_R, FshMode::FSM_DN).encode(&mut w);
            NlmProc::NLM_UNSHARE
        }
        Ask::FreeAll => {
            let name = alock.caller_name;
            nlm::Notify { name, state: 3 }.encode(&mut w);
            NlmProc::NLM_FREE_ALL
        }
        Ask::Lock { block, monitor, .. } => {
            cookie.encode(&mut w);
            block.encode(&mut w);
            call.exclusive.encode(&mut w);
            if *monitor {
                NlmProc::NLM_LOCK
            } else {
                NlmProc::NLM_NM_LOCK
            }
        }
        Ask::Cancel => {
            cookie.encode(&mut w);
            true.encode(&mut w);
            call.exclusive.encode(&mut w);
            NlmProc::NLM_CANCEL
        }
        Ask::Test => {
            cookie.encode(&mut w);
            call.exclusive.encode(&mut w);
            NlmProc::NLM_TEST
        }
        Ask::Unlock => {
            cookie.encode(&mut w);
            NlmProc::NLM_UNLOCK
        }
    };
    match &call.ask {
        Ask::Share { .. } | Ask::Unshare | Ask::FreeAll => {}
        _ if call.version == V4 => alock.encode(&mut w),
        _ => v3::Lock::from(alock).encode(&mut w),
    }
    if let Ask::Lock { reclaim, .. } = &call.ask {
        reclaim.encode(&mut w);
        i32::encode(&call.state, &mut w);
    }
    Ok((procedure, w.into_bytes()))
}

/// What the result of a call says; for DENIED, by which lock, if that is to be known.
pub fn answer(call: &Call, with_holder: bool, result: &[u8]) -> Result<Answer, String> {
    if call.ask == Ask::FreeAll {
        return if result.is_empty() {
            Ok(Answer::Void)
        } else {
            Err("the answer is not void".into())
        };
    }
    let mut r = xdr::Reader::new(result);
    let cookie = r.opaque("cookie", 1024).map_err(|error| error.to_string())?;
    // Linux, and we, send four bytes where there were none.
    let sent = match cookie_of(call) {
        [] => &[0; 4][..],
        sent => sent,
    };
    same(&sent, &cookie)?;
    let stat = Nlm4Stat(r.u32("status").map_err(|error| error.to_string())?);
    if with_holder && stat == Nlm4Stat::NLM4_DENIED && call.version == V4 {
        let test: nlm::TestRes<'_> = xdr::from_bytes(result).map_err(|error| error.to_string())?;
        let holder = test.holder.ok_or("DENIED without a holder")?;
        return Ok(Answer::Denied(holder.exclusive, holder.l_offset, holder.l_len));
    }
    Ok(Answer::Status(stat))
}

/// The cookie of a GRANTED, which must be for this lock on the file with this handle.
pub fn granted(version: u32, args: &[u8], lock: &Lock, fh: &[u8]) -> Result<Vec<u8>, String> {
    let args: nlm::TestArgs<'_> = match version {
        V4 => xdr::from_bytes(args),
        _ => xdr::from_bytes::<v3::TestArgs<'_>>(args).map(Into::into),
    }
    .map_err(|error| error.to_string())?;
    let bytes = (lock.exclusive, lock.who.svid, lock.bytes.offset, lock.bytes.len);
    let of = &args.alock;
    same(&bytes, &(args.exclusive, of.svid, of.l_offset, of.l_len))?;
    same(&fh, &of.fh.0)?;
    Ok(args.cookie.0.to_vec())
}
