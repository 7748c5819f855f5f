//! Network Status Monitor, program 100024 version 1 (XNFS C702, chapter 12).
//!
//! Each host has a state number: odd while it is up, even while it is down, higher after every restart.
//! A lock manager asks its own host's monitor (`SM_MON`) to watch a peer; a host that restarts tells
//! (`SM_NOTIFY`) every host that it had been watching.

use rpc::xdr::Opaque;
use rpc::{xdr_enum, xdr_struct};

/// Program number.
pub const PROGRAM: u32 = 100_024;
/// The only version.
pub const V1: u32 = 1;
/// `SM_MAXSTRLEN`: the longest host name, in bytes.
pub const SM_MAXSTRLEN: usize = 1024;
/// Length of the private data that comes back with the call to the lock manager.
pub const SM_PRIV_SIZE: usize = 16;

/// A host name.
pub type SmName<'a> = Opaque<'a, SM_MAXSTRLEN>;

xdr_enum! {
    /// The procedures.
    pub enum SmProc {
        /// Does nothing.
        SM_NULL = 0,
        /// Could this host be monitored?
        SM_STAT = 1,
        /// Watch a host and call back when it restarts.
        SM_MON = 2,
        /// Stop watching a host.
        SM_UNMON = 3,
        /// Stop watching every host for one caller.
        SM_UNMON_ALL = 4,
        /// Behave as after a crash.
        SM_SIMU_CRASH = 5,
        /// Another host restarted.
        SM_NOTIFY = 6,
    }
}

xdr_enum! {
    /// `sm_res`.
    pub enum SmRes {
        /// Will be monitored.
        STAT_SUCC = 0,
        /// Cannot be monitored.
        STAT_FAIL = 1,
    }
}

xdr_struct! {
    /// `sm_stat_res`: the answer to SM_STAT and SM_MON.
    pub struct SmStatRes {
        /// Whether it will be monitored.
        res_stat: SmRes,
        /// The state number of the host that answers.
        state: i32,
    }
}

xdr_struct! {
    /// `my_id`: whom to call when a monitored host restarts.
    pub struct MyId<'a> {
        /// The host that asks.
        my_name: SmName<'a>,
        /// Its program,
        my_prog: i32,
        /// version,
        my_vers: i32,
        /// and procedure.
        my_proc: i32,
    }
}

xdr_struct! {
    /// `mon_id`: whom to watch and whom to call.
    pub struct MonId<'a> {
        /// The host to watch.
        mon_name: SmName<'a>,
        /// Whom to call.
        my_id: MyId<'a>,
    }
}

xdr_struct! {
    /// `mon`: the argument of SM_MON.
    pub struct Mon<'a> {
        /// Whom to watch and whom to call.
        mon_id: MonId<'a>,
        /// Returned in the call.
        private: [u8; SM_PRIV_SIZE],
    }
}

xdr_struct! {
    /// `stat_chge`: the argument of SM_NOTIFY.
    pub struct StatChge<'a> {
        /// The host that restarted, as it calls itself.
        mon_name: SmName<'a>,
        /// Its new state number.
        state: i32,
    }
}

xdr_struct! {
    /// `status`: what the monitor tells the lock manager (`nlm_sm_status` in Linux).
    pub struct Status<'a> {
        /// The host that restarted.
        mon_name: SmName<'a>,
        /// Its new state number.
        state: i32,
        /// As given with SM_MON.
        private: [u8; SM_PRIV_SIZE],
    }
}

xdr_struct! {
    /// The state number alone: the answer to SM_UNMON and SM_UNMON_ALL.
    pub struct SmStat {
        /// The state number of the host that answers.
        state: i32,
    }
}
