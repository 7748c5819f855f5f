//! NLM versions 1 and 3 (XNFS C702, chapter 10) where they differ from 4: ranges are 32 bits wide and there
//! are five statuses. The structures of shares, of FREE_ALL and of SM_NOTIFY look the same in all versions.
//!
//! Servers work on the 64-bit form, so everything here converts: arguments widen ([`widen`]) and answers
//! narrow ([`narrow`], [`NlmStats`]).

use super::{CallerName, Netobj, Nlm4Stat};
use rpc::xdr::{self, Decode, Encode, Reader, Writer};
use rpc::{xdr_enum, xdr_struct};

xdr_enum! {
    /// `nlm_stats`.
    pub enum NlmStats {
        /// Done.
        LCK_GRANTED = 0,
        /// Refused: someone else holds it.
        LCK_DENIED = 1,
        /// Refused: the server lacks something it needs.
        LCK_DENIED_NOLOCKS = 2,
        /// Not yet: a GRANTED call will follow.
        LCK_BLOCKED = 3,
        /// Refused: the server restarted and lets clients reclaim first.
        LCK_DENIED_GRACE_PERIOD = 4,
    }
}

impl From<Nlm4Stat> for NlmStats {
    /// As Linux does (`cast_status`, fs/lockd/svcproc.c): DEADLCK becomes DENIED, whatever else these
    /// versions do not have becomes DENIED_NOLOCKS.
    fn from(stat: Nlm4Stat) -> Self {
        match stat {
            Nlm4Stat::NLM4_DEADLCK => NlmStats::LCK_DENIED,
            Nlm4Stat(value @ 0..=4) => NlmStats(value),
            _ => NlmStats::LCK_DENIED_NOLOCKS,
        }
    }
}

impl From<NlmStats> for Nlm4Stat {
    fn from(stat: NlmStats) -> Self {
        Nlm4Stat(stat.0)
    }
}

/// A range of these versions as one of version 4.
///
/// The fields are unsigned, but the offsets of the time were signed: Linux takes a last byte beyond 2^31-1
/// for "to the end of the file", and so does this. A first byte beyond it, which Linux takes for a
/// negative one, is taken as it stands.
pub fn widen(l_offset: u32, l_len: u32) -> (u64, u64) {
    let (offset, len) = (u64::from(l_offset), u64::from(l_len));
    let last = (offset + len).saturating_sub(1);
    let to_the_end = len == 0 || last > i32::MAX as u64;
    (offset, if to_the_end { 0 } else { len })
}

/// A range of version 4 in 32 bits: what does not fit becomes the largest value.
pub fn narrow(l_offset: u64, l_len: u64) -> (u32, u32) {
    let fit = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    (fit(l_offset), fit(l_len))
}

xdr_struct! {
    /// `nlm_lock`.
    pub struct Lock<'a> {
        /// Name of the host that asks.
        caller_name: CallerName<'a>,
        /// The file.
        fh: Netobj<'a>,
        /// Owner handle: identifies the owner within the host.
        oh: Netobj<'a>,
        /// A process, or what the client takes for one.
        svid: i32,
        /// First byte.
        l_offset: u32,
        /// Number of bytes; 0 means to the end.
        l_len: u32,
    }
}

impl<'a> From<Lock<'a>> for super::Nlm4Lock<'a> {
    fn from(lock: Lock<'a>) -> Self {
        let (l_offset, l_len) = widen(lock.l_offset, lock.l_len);
        super::Nlm4Lock {
            caller_name: lock.caller_name,
            fh: lock.fh,
            oh: lock.oh,
            svid: lock.svid,
            l_offset,
            l_len,
        }
    }
}

impl<'a> From<super::Nlm4Lock<'a>> for Lock<'a> {
    fn from(lock: super::Nlm4Lock<'a>) -> Self {
        let (l_offset, l_len) = narrow(lock.l_offset, lock.l_len);
        Lock {
            caller_name: lock.caller_name,
            fh: lock.fh,
            oh: lock.oh,
            svid: lock.svid,
            l_offset,
            l_len,
        }
    }
}

xdr_struct! {
    /// `nlm_testargs`.
    pub struct TestArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// Exclusive (write) rather than shared (read).
        exclusive: bool,
        /// The lock asked about.
        alock: Lock<'a>,
    }
}

xdr_struct! {
    /// `nlm_lockargs`.
    pub struct LockArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// Wait if it cannot be had at once.
        block: bool,
        /// Exclusive (write) rather than shared (read).
        exclusive: bool,
        /// The lock asked for.
        alock: Lock<'a>,
        /// The client held it before the server restarted.
        reclaim: bool,
        /// The client's NSM state number.
        state: i32,
    }
}

xdr_struct! {
    /// `nlm_cancargs`: must match the LOCK that is to be given up.
    pub struct CancelArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// As in the LOCK.
        block: bool,
        /// As in the LOCK.
        exclusive: bool,
        /// As in the LOCK.
        alock: Lock<'a>,
    }
}

xdr_struct! {
    /// `nlm_unlockargs`.
    pub struct UnlockArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// The bytes to give back.
        alock: Lock<'a>,
    }
}

xdr_struct! {
    /// `nlm_res`.
    pub struct Res<'a> {
        /// The cookie of the call.
        cookie: Netobj<'a>,
        /// What came of it.
        stat: NlmStats,
    }
}

xdr_struct! {
    /// `nlm_holder`: who is in the way.
    pub struct Holder<'a> {
        /// Whether the lock in the way is exclusive.
        exclusive: bool,
        /// Its owner's id.
        svid: i32,
        /// Its owner's handle.
        oh: Netobj<'a>,
        /// Its first byte.
        l_offset: u32,
        /// Its length; 0 means to the end.
        l_len: u32,
    }
}

xdr_struct! {
    /// `nlm_shareres`.
    pub struct ShareRes<'a> {
        /// The cookie of the call.
        cookie: Netobj<'a>,
        /// What came of it.
        stat: NlmStats,
        /// Kept for older clients.
        sequence: i32,
    }
}

/// `nlm_testres`. The holder is there if and only if the status is DENIED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestRes<'a> {
    /// The cookie of the call.
    pub cookie: Netobj<'a>,
    /// What would come of a LOCK.
    pub stat: NlmStats,
    /// Who is in the way.
    pub holder: Option<Holder<'a>>,
}

impl<'a> Decode<'a> for TestRes<'a> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let cookie = Decode::decode(r)?;
        let stat = NlmStats::decode(r)?;
        let holder = if stat == NlmStats::LCK_DENIED {
            Some(Decode::decode(r)?)
        } else {
            None
        };
        Ok(TestRes { cookie, stat, holder })
    }
}

impl Encode for TestRes<'_> {
    fn encode(&self, w: &mut Writer) {
        self.cookie.encode(w);
        self.stat.encode(w);
        if let Some(holder) = &self.holder {
            holder.encode(w);
        }
    }
}

impl<'a> From<TestArgs<'a>> for super::TestArgs<'a> {
    fn from(a: TestArgs<'a>) -> Self {
        super::TestArgs {
            cookie: a.cookie,
            exclusive: a.exclusive,
            alock: a.alock.into(),
        }
    }
}

impl<'a> From<super::TestArgs<'a>> for TestArgs<'a> {
    fn from(a: super::TestArgs<'a>) -> Self {
        TestArgs {
            cookie: a.cookie,
            exclusive: a.exclusive,
            alock: a.alock.into(),
        }
    }
}

impl<'a> From<LockArgs<'a>> for super::LockArgs<'a> {
    fn from(a: LockArgs<'a>) -> Self {
        super::LockArgs {
            cookie: a.cookie,
            block: a.block,
            exclusive: a.exclusive,
            alock: a.alock.into(),
            reclaim: a.reclaim,
            state: a.state,
        }
    }
}

impl<'a> From<CancelArgs<'a>> for super::CancelArgs<'a> {
    fn from(a: CancelArgs<'a>) -> Self {
        super::CancelArgs {
            cookie: a.cookie,
            block: a.block,
            exclusive: a.exclusive,
            alock: a.alock.into(),
        }
    }
}

impl<'a> From<UnlockArgs<'a>> for super::UnlockArgs<'a> {
    fn from(a: UnlockArgs<'a>) -> Self {
        super::UnlockArgs {
            cookie: a.cookie,
            alock: a.alock.into(),
        }
    }
}

impl<'a> From<Res<'a>> for super::Res<'a> {
    fn from(res: Res<'a>) -> Self {
        super::Res {
            cookie: res.cookie,
            stat: res.stat.into(),
        }
    }
}

impl<'a> From<super::Res<'a>> for Res<'a> {
    fn from(res: super::Res<'a>) -> Self {
        Res {
            cookie: res.cookie,
            stat: res.stat.into(),
        }
    }
}

impl<'a> From<super::ShareRes<'a>> for ShareRes<'a> {
    fn from(res: super::ShareRes<'a>) -> Self {
        ShareRes {
            cookie: res.cookie,
            stat: res.stat.into(),
            sequence: res.sequence,
        }
    }
}

impl<'a> From<super::TestRes<'a>> for TestRes<'a> {
    fn from(res: super::TestRes<'a>) -> Self {
        let holder = res.holder.map(|h| {
            let (l_offset, l_len) = narrow(h.l_offset, h.l_len);
            Holder {
                exclusive: h.exclusive,
                svid: h.svid,
                oh: h.oh,
                l_offset,
                l_len,
            }
        });
        let stat = match NlmStats::from(res.stat) {
            // A reader of DENIED goes on to read a holder.
            NlmStats::LCK_DENIED if holder.is_none() => NlmStats::LCK_DENIED_NOLOCKS,
            stat => stat,
        };
        TestRes {
            cookie: res.cookie,
            stat,
            holder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_byte_beyond_31_bits_is_the_end_of_the_file() {
        assert_eq!(widen(7, 0), (7, 0));
        assert_eq!(widen(7, 3), (7, 3));
        assert_eq!(widen(0, 1 << 31), (0, 1 << 31), "the last byte is 2^31-1");
        assert_eq!(widen(1, 1 << 31), (1, 0));
        assert_eq!(widen(u32::MAX, 1), (u32::MAX.into(), 0));
        assert_eq!(widen(u32::MAX, u32::MAX), (u32::MAX.into(), 0));
    }

    #[test]
    fn what_does_not_fit_into_32_bits_becomes_the_largest_value() {
        assert_eq!(narrow(7, 0), (7, 0));
        assert_eq!(narrow(1 << 40, 1 << 33), (u32::MAX, u32::MAX));
        assert_eq!(narrow(u32::MAX.into(), 5), (u32::MAX, 5));
    }

    #[test]
    fn statuses_that_version_3_lacks_are_denied_or_no_locks() {
        let cast: Vec<u32> = Nlm4Stat::ALL.iter().map(|s| NlmStats::from(*s).0).collect();
        assert_eq!(cast, [0, 1, 2, 3, 4, 1, 2, 2, 2, 2]);
        let nobody = super::super::TestRes {
            cookie: Netobj::default(),
            stat: Nlm4Stat::NLM4_DEADLCK,
            holder: None,
        };
        assert_eq!(TestRes::from(nobody).stat, NlmStats::LCK_DENIED_NOLOCKS);
    }
}
