//! Network Lock Manager, program 100021 (XNFS C702, chapters 10 and 11; version 4: RFC 1813, appendix II).
//!
//! Version 4 is what every NFSv3 kernel client speaks: 64-bit ranges and file handles of up to 64 bytes.
//! A lock covers `[l_offset, l_offset + l_len)`, and `l_len` 0 means to the end of the file. Versions 1 and 3,
//! where they differ, are in [`v3`]; version 2 was never used.

pub mod v3;

use rpc::xdr::{self, Decode, Encode, Opaque, Reader, Writer};
use rpc::{xdr_enum, xdr_struct};

/// Program number.
pub const PROGRAM: u32 = 100_021;
/// The first version: 32-bit ranges, procedures 0 to 16.
pub const V1: u32 = 1;
/// Version 1 with SHARE, UNSHARE, NM_LOCK and FREE_ALL.
pub const V3: u32 = 3;
/// The version with 64-bit ranges.
pub const V4: u32 = 4;

/// `LM_MAXSTRLEN`: the longest `caller_name`, in bytes.
pub const MAXSTRLEN: usize = 1024;
/// `MAXNETOBJ_SZ`: the longest cookie, owner handle or file handle, in bytes.
pub const MAXNETOBJ_SZ: usize = 1024;
/// Bytes of the private value that SM_NOTIFY brings back.
pub const PRIV_SIZE: usize = 16;

/// `netobj`: an opaque identifier that its maker understands.
pub type Netobj<'a> = Opaque<'a, MAXNETOBJ_SZ>;
/// `string caller_name<LM_MAXSTRLEN>`.
pub type CallerName<'a> = Opaque<'a, MAXSTRLEN>;

xdr_enum! {
    /// The procedures of all versions. 16 is private to Linux; 17 to 19 are not assigned.
    pub enum NlmProc {
        /// Does nothing.
        NLM_NULL = 0,
        /// Would this lock be granted?
        NLM_TEST = 1,
        /// Take a lock.
        NLM_LOCK = 2,
        /// Give up waiting for a lock.
        NLM_CANCEL = 3,
        /// Give back a lock.
        NLM_UNLOCK = 4,
        /// Server to client: the lock you waited for is yours.
        NLM_GRANTED = 5,
        /// Asynchronous TEST.
        NLM_TEST_MSG = 6,
        /// Asynchronous LOCK.
        NLM_LOCK_MSG = 7,
        /// Asynchronous CANCEL.
        NLM_CANCEL_MSG = 8,
        /// Asynchronous UNLOCK.
        NLM_UNLOCK_MSG = 9,
        /// Asynchronous GRANTED.
        NLM_GRANTED_MSG = 10,
        /// Answer to TEST_MSG.
        NLM_TEST_RES = 11,
        /// Answer to LOCK_MSG.
        NLM_LOCK_RES = 12,
        /// Answer to CANCEL_MSG.
        NLM_CANCEL_RES = 13,
        /// Answer to UNLOCK_MSG.
        NLM_UNLOCK_RES = 14,
        /// Answer to GRANTED_MSG.
        NLM_GRANTED_RES = 15,
        /// statd tells lockd, on the same machine, that a peer rebooted (Linux only).
        NLM_SM_NOTIFY = 16,
        /// Take a share reservation (DOS).
        NLM_SHARE = 20,
        /// Give it back.
        NLM_UNSHARE = 21,
        /// LOCK without monitoring.
        NLM_NM_LOCK = 22,
        /// A client restarted: drop all it held.
        NLM_FREE_ALL = 23,
    }
}

xdr_enum! {
    /// `nlm4_stats` (RFC 1813, appendix II). Versions 1 and 3 know the first five.
    pub enum Nlm4Stat {
        /// Done.
        NLM4_GRANTED = 0,
        /// Refused: someone else holds it.
        NLM4_DENIED = 1,
        /// Refused: the server lacks something it needs, for instance a working status monitor.
        NLM4_DENIED_NOLOCKS = 2,
        /// Not yet: a GRANTED call will follow.
        NLM4_BLOCKED = 3,
        /// Refused: the server restarted and lets clients reclaim first.
        NLM4_DENIED_GRACE_PERIOD = 4,
        /// Refused: waiting would be a deadlock.
        NLM4_DEADLCK = 5,
        /// Refused: read-only file system.
        NLM4_ROFS = 6,
        /// Refused: the file handle names no file.
        NLM4_STALE_FH = 7,
        /// Refused: the range does not fit.
        NLM4_FBIG = 8,
        /// Refused for another reason.
        NLM4_FAILED = 9,
    }
}

xdr_struct! {
    /// `nlm4_lock`: who wants which bytes of which file.
    pub struct Nlm4Lock<'a> {
        /// Name of the host that asks.
        caller_name: CallerName<'a>,
        /// The file.
        fh: Netobj<'a>,
        /// Owner handle: identifies the owner within the host.
        oh: Netobj<'a>,
        /// "System V id": a process, or what the client takes for one.
        svid: i32,
        /// First byte.
        l_offset: u64,
        /// Number of bytes; 0 means to the end.
        l_len: u64,
    }
}

xdr_struct! {
    /// `nlm4_testargs`.
    pub struct TestArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// Exclusive (write) rather than shared (read).
        exclusive: bool,
        /// The lock asked about.
        alock: Nlm4Lock<'a>,
    }
}

xdr_struct! {
    /// `nlm4_lockargs`.
    pub struct LockArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// Wait if it cannot be had at once.
        block: bool,
        /// Exclusive (write) rather than shared (read).
        exclusive: bool,
        /// The lock asked for.
        alock: Nlm4Lock<'a>,
        /// The client held it before the server restarted.
        reclaim: bool,
        /// The client's NSM state number.
        state: i32,
    }
}

xdr_struct! {
    /// `nlm4_cancargs`: must match the LOCK that is to be given up.
    pub struct CancelArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// As in the LOCK.
        block: bool,
        /// As in the LOCK.
        exclusive: bool,
        /// As in the LOCK.
        alock: Nlm4Lock<'a>,
    }
}

xdr_struct! {
    /// `nlm4_unlockargs`.
    pub struct UnlockArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// The bytes to give back.
        alock: Nlm4Lock<'a>,
    }
}

xdr_struct! {
    /// `nlm4_res`: the answer to everything but TEST and the shares.
    pub struct Res<'a> {
        /// The cookie of the call.
        cookie: Netobj<'a>,
        /// What came of it.
        stat: Nlm4Stat,
    }
}

xdr_struct! {
    /// `nlm4_holder`: who is in the way.
    pub struct Holder<'a> {
        /// Whether the lock in the way is exclusive.
        exclusive: bool,
        /// Its owner's id.
        svid: i32,
        /// Its owner's handle.
        oh: Netobj<'a>,
        /// Its first byte.
        l_offset: u64,
        /// Its length; 0 means to the end.
        l_len: u64,
    }
}

/// `nlm4_testres`: the answer to TEST. The holder is there if and only if the status is DENIED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestRes<'a> {
    /// The cookie of the call.
    pub cookie: Netobj<'a>,
    /// What would come of a LOCK.
    pub stat: Nlm4Stat,
    /// Who is in the way.
    pub holder: Option<Holder<'a>>,
}

impl<'a> Decode<'a> for TestRes<'a> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let cookie = Decode::decode(r)?;
        let stat = Nlm4Stat::decode(r)?;
        let holder = if stat == Nlm4Stat::NLM4_DENIED {
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

xdr_struct! {
    /// `nlm4_notify`: the argument of FREE_ALL.
    pub struct Notify<'a> {
        /// The host that restarted, as it calls itself.
        name: CallerName<'a>,
        /// Its new state number.
        state: i32,
    }
}

xdr_enum! {
    /// `fsh_mode`: what a share reservation denies to others.
    pub enum FshMode {
        /// Nothing.
        FSM_DN = 0,
        /// Reading.
        FSM_DR = 1,
        /// Writing.
        FSM_DW = 2,
        /// Both.
        FSM_DRW = 3,
    }
}

xdr_enum! {
    /// `fsh_access`: what a share reservation is wanted for.
    pub enum FshAccess {
        /// Nothing.
        FSA_NONE = 0,
        /// Reading.
        FSA_R = 1,
        /// Writing.
        FSA_W = 2,
        /// Both.
        FSA_RW = 3,
    }
}

xdr_struct! {
    /// `nlm4_share`, and `nlm_share`, which looks the same: a DOS open with its share modes.
    pub struct Share<'a> {
        /// Name of the host that asks.
        caller_name: CallerName<'a>,
        /// The file.
        fh: Netobj<'a>,
        /// Owner handle: identifies the reservation within the host.
        oh: Netobj<'a>,
        /// What others may not do.
        mode: FshMode,
        /// What the owner does.
        access: FshAccess,
    }
}

xdr_struct! {
    /// `nlm4_shareargs`, in all versions that have it.
    pub struct ShareArgs<'a> {
        /// Chosen by the caller, returned in the answer.
        cookie: Netobj<'a>,
        /// The reservation.
        share: Share<'a>,
        /// The client held it before the server restarted.
        reclaim: bool,
    }
}

xdr_struct! {
    /// `nlm4_shareres`.
    pub struct ShareRes<'a> {
        /// The cookie of the call.
        cookie: Netobj<'a>,
        /// What came of it.
        stat: Nlm4Stat,
        /// Kept for older clients; nobody looks at it, and Linux sends 0.
        sequence: i32,
    }
}

xdr_struct! {
    /// `nlm_sm_status`: the argument of SM_NOTIFY, with which statd tells lockd of a reboot.
    pub struct SmStatus<'a> {
        /// The host that restarted, as lockd had named it.
        mon_name: CallerName<'a>,
        /// Its new state number.
        state: i32,
        /// What lockd had given with SM_MON.
        private: [u8; PRIV_SIZE],
    }
}
