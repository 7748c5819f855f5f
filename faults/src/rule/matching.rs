//! Which calls a rule means, and why it does not mean another.

use super::values::{Bytes, Peers, Transmissions};
use super::{hex, is_default};
use crate::exchange::{Direction, Look, Transport};
use crate::names::Calls;
use crate::pattern::Pattern;
use crate::{Service, names};
use proto::nlm::NlmProc;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which calls. What is left out does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Program and procedures: `nlm.lock|unlock`, `nfs.*`.
    #[serde(default = "any_call")]
    pub call: Calls,
    /// `call`: of a client's to us; `callback`: of ours to a client.
    #[serde(default)]
    pub direction: Direction,
    /// The version of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// `tcp` or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// The other side's address, or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peers>,
    /// The name that a lock call gives for its client (`caller_name`): a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Pattern>,
    /// The owner's number (`svid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<i32>,
    /// The user (AUTH_SYS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The path of what it is about: a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Pattern>,
    /// The file handle of what it is about, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Bytes of which it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
    /// An exclusive lock, or a shared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
    /// One that would wait, or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<bool>,
    /// One that is taken again after a restart of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<bool>,
    /// Which transmissions; the first, unless said otherwise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub transmission: Transmissions,
}

fn any_call() -> Calls {
    Calls::ANY
}

impl Default for Match {
    fn default() -> Self {
        Match {
            call: Calls::ANY,
            direction: Direction::Call,
            version: None,
            transport: None,
            peer: None,
            caller: None,
            owner: None,
            uid: None,
            path: None,
            handle: None,
            bytes: None,
            exclusive: None,
            block: None,
            reclaim: None,
            transmission: Transmissions::FIRST,
        }
    }
}

/// Why a call is not meant: which key, what is wanted, and what the call has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The key of the rule.
    pub key: &'static str,
    /// What it wants.
    pub wanted: String,
    /// What there is; none: nothing is said of it.
    pub found: Option<String>,
    /// How many of the rule's keys had fitted before.
    pub fitted: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it wants {}={}, ", self.key, self.wanted)?;
        match &self.found {
            Some(found) => write!(f, "and the call has {found}"),
            None => write!(f, "of which the call says nothing"),
        }
    }
}

/// Compares key after key, the cheap ones first.
struct Comparison {
    fitted: usize,
}

impl Comparison {
    fn key<W: fmt::Display, F: fmt::Display>(
        &mut self,
        key: &'static str,
        wanted: Option<&W>,
        found: impl FnOnce() -> Option<F>,
        fits: impl FnOnce(&W, &F) -> bool,
    ) -> Result<(), Mismatch> {
        let Some(wanted) = wanted else { return Ok(()) };
        let found = found();
        if found.as_ref().is_some_and(|found| fits(wanted, found)) {
            self.fitted += 1;
            return Ok(());
        }
        Err(Mismatch {
            key,
            wanted: wanted.to_string(),
            found: found.map(|found| found.to_string()),
            fitted: self.fitted,
        })
    }
}

impl Match {
    /// Whether a call is meant, whichever transmission of it this is.
    ///
    /// # Errors
    /// The first key that does not fit.
    pub fn check(&self, call: &dyn Look) -> Result<(), Mismatch> {
        let ex = call.exchange();
        let c = &mut Comparison { fitted: 0 };
        c.key(
            "direction",
            Some(&self.direction),
            || Some(ex.direction),
            |a, b| a == b,
        )?;
        let name = || Some(names::call_name(ex.service, ex.procedure));
        let fits = self.call.has(ex.service, ex.procedure);
        if fits {
            c.fitted += 1;
        } else {
            c.key("call", Some(&self.call), name, |_, _| false)?;
        }
        c.key(
            "version",
            self.version.as_ref(),
            || Some(ex.version),
            |a, b| a == b,
        )?;
        c.key(
            "transport",
            self.transport.as_ref(),
            || Some(ex.transport),
            |a, b| a == b,
        )?;
        c.key(
            "peer",
            self.peer.as_ref(),
            || Some(ex.peer.ip()),
            |a, b| a.has(*b),
        )?;
        c.key("uid", self.uid.as_ref(), || ex.uid, |a, b| a == b)?;
        let lock = || call.lock();
        c.key("owner", self.owner.as_ref(), || lock()?.svid, |a, b| a == b)?;
        c.key(
            "exclusive",
            self.exclusive.as_ref(),
            || lock()?.exclusive,
            |a, b| a == b,
        )?;
        c.key("block", self.block.as_ref(), || lock()?.block, |a, b| a == b)?;
        c.key(
            "reclaim",
            self.reclaim.as_ref(),
            || lock()?.reclaim,
            |a, b| a == b,
        )?;
        let caller = || Some(String::from_utf8_lossy(lock()?.caller));
        c.key("caller", self.caller.as_ref(), caller, |a, b| a.fits(b))?;
        let bytes = || call.bytes().map(ShownBytes);
        c.key("bytes", self.bytes.as_ref(), bytes, |a, b| a.touch(b.0))?;
        let handle = || call.handle().map(hex);
        c.key("handle", self.handle.as_ref(), handle, |a, b| {
            a.eq_ignore_ascii_case(b)
        })?;
        c.key("path", self.path.as_ref(), || call.path(), |a, b| a.fits(b))
    }

    /// What is said that cannot be.
    pub(super) fn impossible(&self) -> Option<String> {
        let Match { call, .. } = self;
        let of_locks = [
            ("caller", self.caller.is_some()),
            ("owner", self.owner.is_some()),
            ("exclusive", self.exclusive.is_some()),
            ("block", self.block.is_some()),
            ("reclaim", self.reclaim.is_some()),
        ];
        if let Some((key, _)) = of_locks.iter().find(|(_, said)| *said)
            && call.service != Some(Service::Lockd)
        {
            return Some(format!(
                "{key} is of lock calls: expected one of nlm, as nlm.lock, not {call}"
            ));
        }
        let only = |procedures: &[NlmProc]| {
            let few = !call.procedures.is_empty();
            few && call.procedures.iter().all(|p| procedures.contains(&NlmProc(*p)))
        };
        if self.exclusive.is_some() && only(&[NlmProc::NLM_UNLOCK, NlmProc::NLM_UNLOCK_MSG]) {
            return Some("UNLOCK does not say whether the lock is exclusive".to_owned());
        }
        if self.reclaim.is_some() && only(&[NlmProc::NLM_UNLOCK, NlmProc::NLM_CANCEL, NlmProc::NLM_TEST]) {
            return Some(format!("{call} does not say reclaim: LOCK does"));
        }
        let of_files = self.path.is_some() || self.handle.is_some() || self.bytes.is_some();
        if of_files && matches!(call.service, Some(Service::Portmap | Service::Statd)) {
            return Some(format!(
                "{call} is about no file: path, handle and bytes are of nfs, nlm and mount"
            ));
        }
        if let Some(handle) = &self.handle
            && (handle.is_empty() || handle.len() % 2 > 0 || !handle.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Some(format!(
                "handle '{handle}' is not hexadecimal: expected what `nfslab lock list` shows"
            ));
        }
        if self.direction == Direction::Callback {
            let ours = match call.service {
                Some(Service::Lockd) => call.procedures.iter().all(|p| (10..=14).contains(p)),
                Some(Service::Statd) => call
                    .procedures
                    .iter()
                    .all(|p| *p == proto::nsm::SmProc::SM_NOTIFY.0),
                None => true,
                Some(_) => false,
            };
            if !ours {
                return Some(format!(
                    "we never call {call}: callbacks are nlm.granted_msg, nlm.*_res and nsm.notify"
                ));
            }
        }
        None
    }
}

/// A range of a call in words.
struct ShownBytes((u64, u64));

impl fmt::Display for ShownBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            (start, 0) => write!(f, "{start}.."),
            (start, len) => write!(f, "{start}..{}", start.saturating_add(len)),
        }
    }
}
