//! Calls to the server, and their replies.

use crate::client;
use crate::range::{Kind, OFFSET_MAX, Range};
use crate::request::{Holder, Reply, Request, TestReply};
use crate::short::ShortBytes;
use crate::table::Handle;
use proto::nlm::{CancelArgs, LockArgs, Netobj, Nlm4Lock, TestArgs, TestRes, UnlockArgs};

/// What is called, with what is special to it. All are version 4 (RFC 1813, appendix II).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Procedure {
    /// NLM_TEST.
    Test,
    /// NLM_LOCK.
    Lock {
        /// Whether to wait for it.
        block: bool,
        /// Whether it was held before the server rebooted.
        reclaim: bool,
    },
    /// NLM_CANCEL.
    Cancel {
        /// As in the LOCK.
        block: bool,
    },
    /// NLM_UNLOCK.
    Unlock,
}

/// A call, with its own memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is called.
    pub procedure: Procedure,
    /// What this host calls itself.
    pub caller_name: ShortBytes,
    /// The file.
    pub fh: Handle,
    /// The owner handle, `<svid>@<caller_name>` as Linux makes it (`nlmclnt_setlockargs`, fs/lockd/clntproc.c).
    pub oh: ShortBytes,
    /// Who asks.
    pub holder: client::Holder,
    /// The owner's number.
    pub svid: i32,
    /// Which bytes.
    pub range: Range,
    /// Alone or with others; means nothing in UNLOCK.
    pub kind: Kind,
    /// This host's NSM state number; in LOCK only.
    pub state: i32,
}

impl Call {
    /// The call as it goes over the wire: the arguments of TEST, LOCK, CANCEL or UNLOCK. `cookie` comes back in the
    /// reply.
    pub fn request<'a>(&'a self, cookie: Netobj<'a>) -> Request<'a> {
        let (exclusive, alock) = (self.kind.is_exclusive(), self.alock());
        match self.procedure {
            Procedure::Test => Request::Test(TestArgs {
                cookie,
                exclusive,
                alock,
            }),
            Procedure::Lock { block, reclaim } => Request::Lock(LockArgs {
                cookie,
                block,
                exclusive,
                alock,
                reclaim,
                state: self.state,
            }),
            Procedure::Cancel { block } => Request::Cancel(CancelArgs {
                cookie,
                block,
                exclusive,
                alock,
            }),
            Procedure::Unlock => Request::Unlock(UnlockArgs { cookie, alock }),
        }
    }

    fn alock(&self) -> Nlm4Lock<'_> {
        let (l_offset, l_len) = self.range.to_wire();
        Nlm4Lock {
            caller_name: self.caller_name.as_slice().into(),
            fh: self.fh.as_fh().as_slice().into(),
            oh: self.oh.as_slice().into(),
            svid: self.svid,
            l_offset,
            l_len,
        }
    }
}

/// The reply to TEST, from the wire. A holder whose range does not fit holds to the end.
pub fn reply_of_test(res: &TestRes<'_>) -> Reply {
    let holder = res.holder.map(|h| {
        let start = h.l_offset.min(OFFSET_MAX);
        let to_end = || Range::from_wire(start, 0).unwrap_or(Range::WHOLE_FILE);
        Holder {
            kind: Kind::from_wire(h.exclusive),
            svid: h.svid,
            oh: h.oh.0.into(),
            range: Range::from_wire(start, h.l_len).unwrap_or_else(|_| to_end()),
        }
    });
    Reply::Test(TestReply {
        stat: res.stat,
        holder,
    })
}
