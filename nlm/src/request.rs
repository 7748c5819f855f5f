//! Calls as the service takes them, and answers as it gives them.
//!
//! A [`Request`] borrows from the received record, so that a call which can be answered at once costs no
//! copy. One that has to wait for a worker is copied (`Queued`).

use crate::hosts::{HostKey, Private};
use crate::range::{Kind, Range};
use crate::short::ShortBytes;
use crate::table::Handle;
use proto::nlm::{
    CancelArgs, FshAccess, FshMode, LockArgs, Netobj, Nlm4Lock, Nlm4Stat, Res, Share, ShareArgs, SmStatus,
    TestArgs, TestRes, UnlockArgs,
};
use std::net::IpAddr;

/// A call, as the driver names it. Every copy of a retransmitted call is a call of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A call to the lock service.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The driver's name for it: the answer may come later, under this name.
    pub id: CallId,
    /// Where it came from.
    pub from: HostKey,
    /// What is asked.
    pub request: &'a Request<'a>,
    /// Whether whoever asks may read the file, or owns it, as the driver found when the call came. If not, it
    /// is `NLM4_FAILED`, where a file that is not there would be `NLM4_STALE_FH`.
    pub permitted: bool,
}

/// What is asked. The asynchronous forms (LOCK_MSG and so on) are the same requests; the driver sends
/// their answers as calls. Versions 1 and 3 are the same requests too: the driver widens the ranges, and
/// narrows the answers.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// NLM_NULL.
    Null,
    /// NLM_TEST.
    Test(TestArgs<'a>),
    /// NLM_LOCK.
    Lock(LockArgs<'a>),
    /// NLM_NM_LOCK: LOCK without monitoring.
    NmLock(LockArgs<'a>),
    /// NLM_CANCEL.
    Cancel(CancelArgs<'a>),
    /// NLM_UNLOCK.
    Unlock(UnlockArgs<'a>),
    /// NLM_GRANTED: this is a server and waits for no lock, so it is denied.
    Granted,
    /// NLM_GRANTED_RES.
    GrantedRes(Res<'a>),
    /// NLM_TEST_RES to NLM_UNLOCK_RES: nothing was asked to which they could be the answer.
    OtherRes,
    /// NLM_SM_NOTIFY. Whether the caller may say so is the driver's to know.
    SmNotify(SmStatus<'a>),
    /// NLM_SHARE.
    Share(ShareArgs<'a>),
    /// NLM_UNSHARE.
    Unshare(ShareArgs<'a>),
    /// NLM_FREE_ALL. Its arguments do not matter: what the sender's address holds is freed.
    FreeAll,
}

impl Request<'_> {
    /// The handle of the file that it is about.
    pub fn fh(&self) -> Option<&[u8]> {
        let fh = match self {
            Request::Test(args) => args.alock.fh,
            Request::Lock(args) | Request::NmLock(args) => args.alock.fh,
            Request::Cancel(args) => args.alock.fh,
            Request::Unlock(args) => args.alock.fh,
            Request::Share(args) | Request::Unshare(args) => args.share.fh,
            _ => return None,
        };
        Some(fh.0)
    }

    /// The name of the procedure.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Null => "NULL",
            Request::Test(_) => "TEST",
            Request::Lock(_) => "LOCK",
            Request::NmLock(_) => "NM_LOCK",
            Request::Cancel(_) => "CANCEL",
            Request::Unlock(_) => "UNLOCK",
            Request::Granted => "GRANTED",
            Request::GrantedRes(_) => "GRANTED_RES",
            Request::OtherRes => "RES",
            Request::SmNotify(_) => "SM_NOTIFY",
            Request::Share(_) => "SHARE",
            Request::Unshare(_) => "UNSHARE",
            Request::FreeAll => "FREE_ALL",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To LOCK, NM_LOCK, CANCEL, UNLOCK and GRANTED.
    Stat(Nlm4Stat),
    /// To TEST.
    Test(TestReply),
    /// To SHARE and UNSHARE.
    Share(Nlm4Stat),
    /// To NULL, the answers (`_RES`), SM_NOTIFY and FREE_ALL.
    Void,
}

/// The answer to TEST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestReply {
    /// What would come of a LOCK.
    pub stat: Nlm4Stat,
    /// Who is in the way, if and only if the status is DENIED.
    pub holder: Option<Holder>,
}

impl TestReply {
    /// For the wire, with the cookie of the call.
    pub fn to_wire<'a>(&'a self, cookie: Netobj<'a>) -> TestRes<'a> {
        let holder = self.holder.as_ref().map(|h| {
            let (l_offset, l_len) = h.range.to_wire();
            proto::nlm::Holder {
                exclusive: h.kind.is_exclusive(),
                svid: h.svid,
                oh: Netobj::from(h.oh.as_slice()),
                l_offset,
                l_len,
            }
        });
        TestRes {
            cookie,
            stat: self.stat,
            holder,
        }
    }
}

/// Who is in the way, as far as the personality tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its kind of lock.
    pub kind: Kind,
    /// Its process, or the lock manager's.
    pub svid: i32,
    /// Its owner handle, or nothing.
    pub oh: ShortBytes,
    /// Its range.
    pub range: Range,
}

/// A request for a callback that the driver carries out: GRANTED_MSG to the lock manager of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// The waiting request that was granted.
    pub id: crate::waiters::BlockId,
    /// Whom to call: by this transport and version, *from* the server address in it.
    pub host: HostKey,
    /// Found again in the GRANTED_RES.
    pub cookie: [u8; 4],
    /// The kind of the lock.
    pub kind: Kind,
    /// The name that the client gave for itself.
    pub caller_name: ShortBytes,
    /// The file.
    pub fh: Handle,
    /// The owner handle of the LOCK.
    pub oh: ShortBytes,
    /// The svid of the LOCK.
    pub svid: i32,
    /// The range of the LOCK.
    pub range: Range,
    /// 1 for the first GRANTED, then one more for each repetition.
    pub attempt: u32,
}

impl Callback {
    /// The arguments of GRANTED and GRANTED_MSG (`nlm4_testargs`).
    pub fn args(&self) -> TestArgs<'_> {
        let (l_offset, l_len) = self.range.to_wire();
        let alock = Nlm4Lock {
            caller_name: self.caller_name.as_slice().into(),
            fh: self.fh.as_fh().as_slice().into(),
            oh: self.oh.as_slice().into(),
            svid: self.svid,
            l_offset,
            l_len,
        };
        TestArgs {
            cookie: Netobj::from(&self.cookie[..]),
            exclusive: self.kind.is_exclusive(),
            alock,
        }
    }
}

/// Peers, as a person or a status monitor names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerSelector {
    /// Every one.
    All,
    /// The one at this address.
    Address(IpAddr),
    /// Every one that calls itself so.
    Name(String),
    /// The one that the status monitor was given under this name.
    Private(Private),
}

/// Work that waits for a worker.
#[derive(Debug, Clone)]
pub(crate) enum Queued {
    /// A copy of a call.
    Call {
        id: CallId,
        from: HostKey,
        request: OwnedRequest,
        permitted: bool,
    },
    /// The status monitor's word that a peer rebooted: on Linux a call to lockd like any other.
    PeerRebooted { which: PeerSelector, state: Option<i32> },
}

impl Queued {
    /// The name of the procedure.
    pub(crate) fn procedure(&self) -> &'static str {
        match self {
            Queued::Call { request, .. } => request.borrow().name(),
            Queued::PeerRebooted { .. } => "SM_NOTIFY",
        }
    }
}

/// [`Request`] with its own memory. Cookies are left out where the service does not look at them.
#[derive(Debug, Clone)]
pub(crate) enum OwnedRequest {
    Null,
    Test {
        exclusive: bool,
        lock: OwnedLock,
    },
    Lock {
        monitor: bool,
        block: bool,
        exclusive: bool,
        reclaim: bool,
        state: i32,
        lock: OwnedLock,
    },
    Cancel {
        block: bool,
        exclusive: bool,
        lock: OwnedLock,
    },
    Unlock {
        lock: OwnedLock,
    },
    Granted,
    GrantedRes {
        cookie: ShortBytes,
        stat: Nlm4Stat,
    },
    OtherRes,
    SmNotify {
        state: i32,
        private: Private,
    },
    Share {
        give_back: bool,
        reclaim: bool,
        share: OwnedShare,
    },
    FreeAll,
}

#[derive(Debug, Clone)]
pub(crate) struct OwnedShare {
    caller_name: ShortBytes,
    fh: ShortBytes,
    oh: ShortBytes,
    mode: FshMode,
    access: FshAccess,
}

#[derive(Debug, Clone)]
pub(crate) struct OwnedLock {
    caller_name: ShortBytes,
    fh: ShortBytes,
    oh: ShortBytes,
    svid: i32,
    l_offset: u64,
    l_len: u64,
}

impl From<&Nlm4Lock<'_>> for OwnedLock {
    fn from(l: &Nlm4Lock<'_>) -> Self {
        OwnedLock {
            caller_name: l.caller_name.0.into(),
            fh: l.fh.0.into(),
            oh: l.oh.0.into(),
            svid: l.svid,
            l_offset: l.l_offset,
            l_len: l.l_len,
        }
    }
}

impl OwnedLock {
    fn borrow(&self) -> Nlm4Lock<'_> {
        Nlm4Lock {
            caller_name: self.caller_name.as_slice().into(),
            fh: self.fh.as_slice().into(),
            oh: self.oh.as_slice().into(),
            svid: self.svid,
            l_offset: self.l_offset,
            l_len: self.l_len,
        }
    }
}

impl From<&Request<'_>> for OwnedRequest {
    fn from(request: &Request<'_>) -> Self {
        let lock = |monitor, a: &LockArgs<'_>| OwnedRequest::Lock {
            monitor,
            block: a.block,
            exclusive: a.exclusive,
            reclaim: a.reclaim,
            state: a.state,
            lock: (&a.alock).into(),
        };
        let share = |give_back, a: &ShareArgs<'_>| OwnedRequest::Share {
            give_back,
            reclaim: a.reclaim,
            share: OwnedShare {
                caller_name: a.share.caller_name.0.into(),
                fh: a.share.fh.0.into(),
                oh: a.share.oh.0.into(),
                mode: a.share.mode,
                access: a.share.access,
            },
        };
        match request {
            Request::Null => OwnedRequest::Null,
            Request::Test(a) => OwnedRequest::Test {
                exclusive: a.exclusive,
                lock: (&a.alock).into(),
            },
            Request::Lock(a) => lock(true, a),
            Request::NmLock(a) => lock(false, a),
            Request::Cancel(a) => OwnedRequest::Cancel {
                block: a.block,
                exclusive: a.exclusive,
                lock: (&a.alock).into(),
            },
            Request::Unlock(a) => OwnedRequest::Unlock {
                lock: (&a.alock).into(),
            },
            Request::Granted => OwnedRequest::Granted,
            Request::GrantedRes(a) => OwnedRequest::GrantedRes {
                cookie: a.cookie.0.into(),
                stat: a.stat,
            },
            Request::OtherRes => OwnedRequest::OtherRes,
            Request::SmNotify(a) => OwnedRequest::SmNotify {
                state: a.state,
                private: a.private,
            },
            Request::Share(a) => share(false, a),
            Request::Unshare(a) => share(true, a),
            Request::FreeAll => OwnedRequest::FreeAll,
        }
    }
}

impl OwnedRequest {
    pub(crate) fn borrow(&self) -> Request<'_> {
        let cookie = Netobj::default();
        match self {
            OwnedRequest::Null => Request::Null,
            OwnedRequest::Test { exclusive, lock } => Request::Test(TestArgs {
                cookie,
                exclusive: *exclusive,
                alock: lock.borrow(),
            }),
            OwnedRequest::Lock {
                monitor,
                block,
                exclusive,
                reclaim,
                state,
                lock,
            } => {
                let args = LockArgs {
                    cookie,
                    block: *block,
                    exclusive: *exclusive,
                    alock: lock.borrow(),
                    reclaim: *reclaim,
                    state: *state,
                };
                if *monitor {
                    Request::Lock(args)
                } else {
                    Request::NmLock(args)
                }
            }
            OwnedRequest::Cancel {
                block,
                exclusive,
                lock,
            } => Request::Cancel(CancelArgs {
                cookie,
                block: *block,
                exclusive: *exclusive,
                alock: lock.borrow(),
            }),
            OwnedRequest::Unlock { lock } => Request::Unlock(UnlockArgs {
                cookie,
                alock: lock.borrow(),
            }),
            OwnedRequest::Granted => Request::Granted,
            OwnedRequest::OtherRes => Request::OtherRes,
            OwnedRequest::SmNotify { state, private } => Request::SmNotify(SmStatus {
                mon_name: Netobj::default(),
                state: *state,
                private: *private,
            }),
            OwnedRequest::Share {
                give_back,
                reclaim,
                share,
            } => {
                let args = ShareArgs {
                    cookie,
                    share: Share {
                        caller_name: share.caller_name.as_slice().into(),
                        fh: share.fh.as_slice().into(),
                        oh: share.oh.as_slice().into(),
                        mode: share.mode,
                        access: share.access,
                    },
                    reclaim: *reclaim,
                };
                if *give_back {
                    Request::Unshare(args)
                } else {
                    Request::Share(args)
                }
            }
            OwnedRequest::GrantedRes { cookie, stat } => Request::GrantedRes(Res {
                cookie: cookie.as_slice().into(),
                stat: *stat,
            }),
            OwnedRequest::FreeAll => Request::FreeAll,
        }
    }
}
