//! The lock service in words and as JSON: what a call asks, what is held, what happened. With paths where the
//! service knows handles.

use crate::control::api;
use crate::events::{What, ms};
use crate::server::Node;
use nlm::effect::Event;
use nlm::request::Request;
use nlm::service::{HolderView, LockView, WaitEdge};
use nlm::shares::ShareView;
use nlm::waiters::BlockState;
use proto::nlm::Nlm4Lock;

/// What a request asks, in words.
pub fn about(node: &Node, request: &Request<'_>) -> String {
    let lock = |kind: &str, lock: &Nlm4Lock<'_>| {
        let range = match nlm::range::Range::from_wire(lock.l_offset, lock.l_len) {
            Ok(range) => range.to_string(),
            Err(_) => "bytes beyond the largest file".to_owned(),
        };
        format!(
            "{kind}{}, {range}, for {} owner {}",
            path(node, &lock.fh),
            lock.caller_name,
            lock.svid
        )
    };
    let kind = |exclusive| if exclusive { "exclusive " } else { "shared " };
    match request {
        Request::Null | Request::FreeAll | Request::Granted | Request::OtherRes => String::new(),
        Request::Test(args) => lock(kind(args.exclusive), &args.alock),
        Request::Lock(args) | Request::NmLock(args) => {
            let again = if args.reclaim { "once more (reclaim): " } else { "" };
            lock(&format!("{again}{}", kind(args.exclusive)), &args.alock)
        }
        Request::Cancel(args) => lock(kind(args.exclusive), &args.alock),
        Request::Unlock(args) => lock("", &args.alock),
        Request::Share(args) | Request::Unshare(args) => {
            let share = &args.share;
            format!(
                "{}, {} {}, for {}",
                path(node, &share.fh),
                share.access,
                share.mode,
                share.caller_name
            )
        }
        Request::SmNotify(news) => format!("{} has state {}", news.mon_name, news.state),
        Request::GrantedRes(args) => format!("the client answers: {}", args.stat),
    }
}

fn path(node: &Node, fh: &[u8]) -> String {
    let unknown = || format!("an unknown file ({})", hex(fh));
    node.exports
        .path_of(fh)
        .map_or_else(unknown, |path| path.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A lock that is held or wanted.
pub fn lock(node: &Node, lock: &LockView) -> api::LockView {
    let handle = lock.fh.as_fh().as_slice();
    let (start, len) = lock.range.to_wire();
    api::LockView {
        path: path(node, handle),
        handle: hex(handle),
        peer: lock.host.peer,
        name: lock.caller_name.to_string(),
        svid: lock.svid,
        owner: lock.oh.to_string(),
        kind: lock.kind.to_string(),
        start,
        len,
        since_ms: ms(lock.since),
        orphan: nlm::service::is_orphan(lock.host.peer),
    }
}

/// That one owner waits for another.
pub fn edge(node: &Node, edge: &WaitEdge) -> api::WaitView {
    let (start, len) = edge.waits_for.range.to_wire();
    api::WaitView {
        lock: lock(node, &edge.wants),
        waits_for: api::BlockerView {
            peer: edge.waits_for.who.peer,
            name: edge.waits_for.who.name.to_string(),
            svid: edge.waits_for.who.svid,
            kind: edge.waits_for.kind.to_string(),
            start,
            len,
            queued: edge.waits_for.queued.is_some(),
        },
        cycle: edge.cycle,
    }
}

/// Who is in the way of a request, in words.
pub fn holder(holder: &HolderView) -> String {
    let queued = if holder.queued.is_some() {
        ", waits longer"
    } else {
        ""
    };
    format!("{} ({}{queued})", holder.who, holder.kind)
}

/// Whether a file is meant by this path, or by this handle in hexadecimal.
pub fn is_file(node: &Node, fh: &[u8], named: &str) -> bool {
    named == hex(fh) || node.exports.path_of(fh).as_deref() == Some(named)
}

/// A share reservation.
pub fn share(node: &Node, share: &ShareView) -> api::ShareView {
    let handle = share.fh.as_fh().as_slice();
    api::ShareView {
        path: path(node, handle),
        handle: hex(handle),
        peer: share.host.peer,
        name: share.caller_name.to_string(),
        owner: share.oh.to_string(),
        access: share.terms.access().to_string(),
        mode: share.terms.mode().to_string(),
        since_ms: ms(share.since),
    }
}

/// What came of the latest GRANTED.
pub fn last_callback(state: &BlockState) -> Option<String> {
    match state {
        BlockState::Waiting => None,
        BlockState::Granting { attempts, last, .. } => Some(match last {
            None => format!("being sent, attempt {attempts}"),
            Some((_, true)) => format!("delivered, attempt {attempts}, not acknowledged"),
            Some((_, false)) => format!("could not be delivered, attempt {attempts}"),
        }),
    }
}

/// An event of the service as an event of the server, with paths instead of handles. `None` for what the
/// server has told already.
pub fn told(node: &Node, event: &Event) -> Option<What> {
    let (step, peer) = match event {
        // The callback's own event says the same, and why.
        Event::CallbackResult { .. } => return None,
        Event::CallQueued { from, .. } => ("call-queued", Some(from.peer)),
        Event::QueueFull { .. } => ("queue-full", None),
        Event::CallDropped { .. } => ("call-dropped", None),
        Event::UpcallStarted { peer, .. } => ("upcall-started", Some(*peer)),
        Event::StatdNotRegistered { peer, .. } => ("statd-not-registered", Some(*peer)),
        Event::UpcallEnded { peer, .. } => ("upcall-ended", Some(*peer)),
        Event::HostMonitored { peer, .. } => ("host-monitored", Some(*peer)),
        Event::Blocked { who, .. } => ("blocked", Some(who.peer)),
        Event::Deadlock { who, .. } => ("deadlock", Some(who.peer)),
        Event::Granted { who, .. } => ("granted", Some(who.peer)),
        Event::GrantedToPoll { who, .. } => ("granted-to-poll", Some(who.peer)),
        Event::GrantRepeated { who, .. } => ("grant-repeated", Some(who.peer)),
        Event::GrantAccepted { who, .. } => ("grant-accepted", Some(who.peer)),
        Event::GrantDenied { who, .. } => ("grant-denied", Some(who.peer)),
        Event::Leaked { who, .. } => ("leaked", Some(who.peer)),
        Event::PeerRebooted { peer, .. } => ("peer-rebooted", Some(*peer)),
        Event::RebootInferred { peer, .. } => ("reboot-inferred", Some(*peer)),
        Event::FreedAll { peer, .. } => ("freed-all", Some(*peer)),
        Event::LocksBroken { .. } => ("locks-broken", None),
        Event::LocksForgotten { .. } => ("locks-forgotten", None),
        Event::Orphaned { .. } => ("orphaned", None),
        Event::OrphanGone { .. } => ("orphan-gone", None),
        Event::DoubleGrantsDue { .. } => ("double-grants-due", None),
        Event::DoublyGranted { who, .. } => ("doubly-granted", Some(who.peer)),
        Event::ServerRebooted { .. } => ("server-rebooted", None),
        Event::GraceStarted { .. } => ("grace-started", None),
        Event::GraceEnded => ("grace-ended", None),
    };
    let mut text = event.to_string();
    let fh = match event {
        Event::Blocked { what, .. }
        | Event::Deadlock { what, .. }
        | Event::Granted { what, .. }
        | Event::Leaked { what, .. }
        | Event::Orphaned { what }
        | Event::DoublyGranted { what, .. } => Some(what.fh),
        Event::DoubleGrantsDue { fh, .. } => Some(*fh),
        _ => None,
    };
    if let Some(fh) = fh {
        text = text.replace(&format!("file {fh}"), &path(node, fh.as_fh().as_slice()));
    }
    Some(What::Lockd { step, peer, text })
}
