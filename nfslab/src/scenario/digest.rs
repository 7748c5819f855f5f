//! The server's events for a reader: alike ones in one line, and what says the same twice only once.
//!
//! A call that is answered at once is told with its answer; one that must wait is told when it comes. Questions
//! to the port mapper and NULL calls are left to the capture.

use super::timeline::{Side, Timeline, Tone};
use crate::events::{Event, What, seconds};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// Events of a kind that come within this time are told together.
pub const TOGETHER: Duration = Duration::from_millis(300);
/// How many alike events are told one by one.
const SEPARATE: usize = 2;

/// Events that belong together and have not been told yet.
#[derive(Default)]
pub struct Digest {
    kind: Option<Kind>,
    since: Duration,
    events: Vec<(Duration, Tone, String)>,
    statuses: BTreeMap<String, usize>,
    slowest_ms: f64,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A copy of a call came.
    Again,
    /// A call waits.
    Queued,
    /// A call that had waited is answered.
    Late,
    /// A copy of a call is answered.
    LateCopy,
    /// A call is answered at once.
    Prompt,
    /// Told by itself.
    Single,
}

impl Digest {
    /// Takes an event; tells what came before if it is of another kind.
    pub fn take(&mut self, event: &Event, timeline: &Mutex<Timeline>) {
        let Some((kind, tone)) = sort(event) else { return };
        // Of course a copy waits behind what it is a copy of.
        if (self.kind, kind) == (Some(Kind::Again), Kind::Queued) {
            return;
        }
        let at = Duration::from_secs_f64(event.at_ms / 1000.0);
        let procedure = match &event.what {
            What::Reply { procedure, .. } => procedure.as_str(),
            _ => "",
        };
        let joins = self.kind == Some(kind) && kind != Kind::Single && self.name == procedure;
        if !joins || at > self.since + TOGETHER {
            self.tell(timeline);
            *self = Digest {
                kind: Some(kind),
                since: at,
                name: procedure.to_owned(),
                ..Digest::default()
            };
        }
        if let What::Reply { status, took_ms, .. } = &event.what {
            *self.statuses.entry(status.clone()).or_default() += 1;
            self.slowest_ms = self.slowest_ms.max(*took_ms);
        }
        self.events.push((at, tone, event.sentence()));
    }

    /// Tells everything that has been taken.
    pub fn tell(&mut self, timeline: &Mutex<Timeline>) {
        let Digest {
            kind,
            events,
            statuses,
            slowest_ms,
            name,
            ..
        } = std::mem::take(self);
        let (Some(kind), Some((at, tone, first))) = (kind, events.first()) else {
            return;
        };
        let statuses: Vec<_> = statuses
            .iter()
            .map(|(status, n)| format!("{n} × {status}"))
            .collect();
        let (statuses, slowest) = (statuses.join(", "), seconds(slowest_ms));
        let text = match (kind, events.len()) {
            (Kind::Single, _) | (_, ..=SEPARATE) => {
                let mut timeline = timeline.lock();
                events
                    .iter()
                    .for_each(|(at, tone, text)| timeline.add(*at, Side::Server, *tone, text));
                return;
            }
            (Kind::Prompt, n) => format!("{n} calls {name}: {statuses}, the slowest after {slowest}"),
            (Kind::Again, n) => format!("{n} calls come AGAIN (same numbers): the client has had no answer"),
            (Kind::Queued, n) => format!("{first}; so do {} more calls", n - 1),
            (Kind::Late, n) => {
                format!("{n} calls are answered, {name}: {statuses}; the oldest had waited {slowest}")
            }
            (Kind::LateCopy, n) => {
                format!("{n} copies of them are answered too, since lockd remembers no call: {statuses}")
            }
        };
        timeline.lock().add(*at, Side::Server, *tone, text);
    }
}

/// What kind of event it is, and its tone; `None` if it is not told.
fn sort(event: &Event) -> Option<(Kind, Tone)> {
    /// An answer that took longer had to wait for something.
    const AT_ONCE_MS: f64 = 500.0;
    Some(match &event.what {
        What::Call {
            service: "portmap", ..
        }
        | What::Reply {
            service: "portmap", ..
        } => return None,
        What::Call { procedure, .. } | What::Reply { procedure, .. } if procedure.ends_with("NULL") => {
            return None;
        }
        What::Call { copy: true, .. } => (Kind::Again, Tone::Bad),
        What::Call { .. } => return None,
        What::Reply { copy: true, .. } => (Kind::LateCopy, Tone::Plain),
        What::Reply { took_ms, .. } if *took_ms > AT_ONCE_MS => (Kind::Late, Tone::Good),
        What::Reply { .. } => (Kind::Prompt, Tone::Plain),
        What::Lockd {
            step: "call-queued", ..
        } => (Kind::Queued, Tone::Plain),
        What::Lockd {
            step: "statd-not-registered",
            ..
        } => (Kind::Single, Tone::Bad),
        What::Node { .. } | What::Callback { delivered: false, .. } => (Kind::Single, Tone::Bad),
        What::Service { condition, .. } => (
            Kind::Single,
            if condition == "ok" { Tone::Good } else { Tone::Bad },
        ),
        _ => (Kind::Single, Tone::Plain),
    })
}
