//! What happened, in order: one log that the control API serves, the timeline prints and tests wait on.
//!
//! An event is a fact with its numbers, and it can say itself in a sentence ([`Event::sentence`]) for
//! someone who has never heard of NLM. READ, WRITE and the other calls on files are not logged; calls of the
//! lock protocols and of MOUNT are, one by one, as long as a person could follow them: [`CALLS_A_SECOND`]. What is
//! beyond that is counted, since putting a call into words takes longer than answering it.

use crate::lanes::Lanes;
use faults::{Condition, Service};
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;
use tokio::sync::broadcast;
use utoipa::ToSchema;

/// How many events are kept for those who ask later.
pub const KEPT: usize = 65_536;
/// How far a subscriber may fall behind before it is told that it missed some.
const SUBSCRIBER_BACKLOG: usize = 16_384;

/// Most calls that are logged one by one in a second of the server's clock.
pub const CALLS_A_SECOND: u32 = 2000;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number, counted from 1 without gaps.
    pub n: u64,
    /// When, in milliseconds since the server started, on the server's clock.
    pub at_ms: f64,
    /// What.
    pub what: What,
}

/// An event as JSON.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventView<'a> {
    /// Its number, counted from 1 without gaps.
    n: u64,
    /// When, in milliseconds since the server started, on the server's clock.
    at_ms: f64,
    #[serde(flatten)]
    what: &'a What,
    /// The stable name of its kind.
    kind: String,
    /// The event in words.
    sentence: String,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let view = EventView {
            n: self.n,
            at_ms: self.at_ms,
            what: &self.what,
            kind: self.kind(),
            sentence: self.sentence(),
        };
        view.serialize(serializer)
    }
}

/// What happened.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The server accepts calls.
    Serving {
        /// Where.
        address: String,
        /// What.
        exports: Vec<String>,
    },
    /// A service's condition was set.
    Service {
        /// Which.
        service: String,
        /// How it is now.
        condition: String,
    },
    /// A call arrived.
    Call {
        /// From where.
        #[schema(value_type = String)]
        peer: IpAddr,
        /// For which service.
        service: &'static str,
        /// The RFC's name of the procedure.
        procedure: String,
        /// The call's number at the client.
        xid: u32,
        /// What it asks, in words.
        about: String,
        /// Whether the same call is still being worked on: the client has asked again.
        copy: bool,
    },
    /// A call was answered.
    Reply {
        /// To where.
        #[schema(value_type = String)]
        peer: IpAddr,
        /// By which service.
        service: &'static str,
        /// The RFC's name of the procedure.
        procedure: String,
        /// The call's number at the client.
        xid: u32,
        /// What the call asked, in words.
        about: String,
        /// The answer's status.
        status: String,
        /// Whether it answers a copy of a call that was being worked on already.
        copy: bool,
        /// How long the answer took, in milliseconds.
        took_ms: f64,
    },
    /// A step inside the lock service.
    Lockd {
        /// A stable name for the kind of step.
        step: &'static str,
        /// The client it concerns.
        #[schema(value_type = Option<String>)]
        peer: Option<IpAddr>,
        /// The step in words.
        text: String,
    },
    /// A call of ours to a client's lock manager.
    Callback {
        /// To where.
        #[schema(value_type = String)]
        peer: IpAddr,
        /// The RFC's name of the procedure.
        procedure: &'static str,
        /// What came of it.
        outcome: String,
        /// Whether it was delivered.
        delivered: bool,
    },
    /// A step of the status monitor.
    Statd {
        /// A stable name for the kind of step.
        step: &'static str,
        /// The host it concerns.
        host: String,
        /// The step in words.
        text: String,
    },
    /// Something happened to the server as a whole, because somebody wanted it to.
    Node {
        /// A stable name for what.
        step: &'static str,
        /// What, in words.
        text: String,
    },
    /// Calls came too fast to be logged one by one.
    Unlogged {
        /// How many were not.
        calls: u64,
    },
    /// A rule was done to a call.
    Rule {
        /// The client.
        #[schema(value_type = String)]
        peer: IpAddr,
        /// The rule's name.
        rule: String,
        /// The call, in words.
        call: String,
        /// What is done.
        action: String,
        /// Where on the call's way.
        at: &'static str,
    },
    /// The time to live of the rule is over for which a call waited: the call goes on.
    LetGo {
        /// The client.
        #[schema(value_type = String)]
        peer: IpAddr,
        /// The rule's name.
        rule: String,
        /// The call, in words.
        call: String,
    },
    /// The rules in force were replaced.
    Rules {
        /// How many there are now.
        rules: usize,
    },
    /// The run is not as the journal that is replayed.
    Differs {
        /// The rule whose call differs.
        rule: String,
        /// How.
        text: String,
    },
    /// Everything was put back.
    Reset,
}

impl What {
    /// A service's new condition.
    pub fn condition(service: Service, condition: Condition) -> What {
        What::Service {
            service: service.to_string(),
            condition: condition.to_string(),
        }
    }
}

impl Event {
    /// The event in words.
    pub fn sentence(&self) -> String {
        match &self.what {
            What::Serving { address, exports } => format!("serving {} on {address}", exports.join(", ")),
            What::Service { service, condition } => told(service, condition),
            What::Call {
                procedure,
                about,
                copy,
                ..
            } => {
                let again = if *copy { "asks AGAIN, no answer yet: " } else { "" };
                format!("{again}{procedure} {about}").trim_end().to_owned()
            }
            What::Reply {
                procedure,
                about,
                status,
                took_ms,
                ..
            } => {
                format!("{procedure} {about}: {status}, after {}", seconds(*took_ms))
            }
            What::Lockd { text, .. } | What::Statd { text, .. } | What::Node { text, .. } => text.clone(),
            What::Callback {
                procedure, outcome, ..
            } => format!("calls the client back, {procedure}: {outcome}"),
            What::Unlogged { calls } => {
                format!("{calls} more calls, too fast to be told one by one (over {CALLS_A_SECOND} a second)")
            }
            What::Rule {
                rule,
                call,
                action,
                at,
                ..
            } => match rule.contains("->") {
                true => format!("FAULT at {at}: {action}: {call}"),
                false => format!("FAULT \"{rule}\" at {at}: {action}: {call}"),
            },
            What::LetGo { rule, call, .. } => {
                format!("the time of the rule \"{rule}\" is over, and what waited goes on: {call}")
            }
            What::Rules { rules: 0 } => "no rules are in force".to_owned(),
            What::Rules { rules: 1 } => "1 rule is in force".to_owned(),
            What::Rules { rules } => format!("{rules} rules are in force"),
            What::Differs { text, .. } => format!("the run is not as in the journal: {text}"),
            What::Reset => "everything is put back as it was at the start".to_owned(),
        }
    }

    /// The client that the event concerns.
    pub fn peer(&self) -> Option<IpAddr> {
        match &self.what {
            What::Call { peer, .. }
            | What::Reply { peer, .. }
            | What::Callback { peer, .. }
            | What::Rule { peer, .. }
            | What::LetGo { peer, .. } => Some(*peer),
            What::Lockd { peer, .. } => *peer,
            _ => None,
        }
    }

    /// All names by which rules know it: its kind, and for calls, replies, callbacks and services with what they are
    /// about, as `reply/NLM_LOCK`, and for replies with their status, as `reply/NLM_LOCK/NLM4_BLOCKED`.
    pub fn names(&self) -> Vec<String> {
        let kind = self.kind();
        let mut names = vec![];
        match &self.what {
            What::Call { procedure, .. } => names.push(format!("call/{procedure}")),
            What::Reply {
                procedure, status, ..
            } => {
                names.push(format!("reply/{procedure}"));
                names.push(format!("reply/{procedure}/{status}"));
            }
            What::Callback { procedure, .. } => names.push(format!("callback/{procedure}")),
            What::Service { service, .. } => names.push(format!("service/{service}")),
            What::LetGo { rule, .. } => names.push(format!("let-go/{rule}")),
            _ => {}
        }
        names.push(kind);
        names
    }

    /// The stable name of its kind: the tag in JSON, with the step for services that have steps.
    pub fn kind(&self) -> String {
        match &self.what {
            What::Serving { .. } => "serving".to_owned(),
            What::Service { .. } => "service".to_owned(),
            What::Call { .. } => "call".to_owned(),
            What::Reply { .. } => "reply".to_owned(),
            What::Lockd { step, .. } => format!("lockd/{step}"),
            What::Callback { .. } => "callback".to_owned(),
            What::Statd { step, .. } => format!("statd/{step}"),
            What::Node { step, .. } => format!("node/{step}"),
            What::Unlogged { .. } => "unlogged".to_owned(),
            What::Rule { rule, .. } => format!("rule/{rule}"),
            What::LetGo { .. } => "let-go".to_owned(),
            What::Rules { .. } => "rules".to_owned(),
            What::Differs { .. } => "differs".to_owned(),
            What::Reset => "reset".to_owned(),
        }
    }
}

/// A service's new condition, for someone who does not know what the service is for.
fn told(service: &str, condition: &str) -> String {
    let Ok((name, how)) = faults::condition::parse(service, condition) else {
        return format!("{service} is now: {condition}");
    };
    let does = match name {
        Service::Portmap => "says on which port which service listens",
        Service::Mount => "lets clients mount",
        Service::Nfs => "serves files",
        Service::Lockd => "serves locks",
        Service::Statd => "restart monitor",
    };
    let consequence = match name {
        Service::Statd if how != Condition::Ok => ", and lockd cannot work without it",
        _ => "",
    };
    let it = format!("{service} ({does})");
    match how {
        Condition::Ok => format!("{it} is running"),
        Condition::Absent => format!("{it} is NOT running{consequence}"),
        Condition::Refused => {
            format!(
                "{it} has died: the port mapper still names its port, which refuses connections{consequence}"
            )
        }
        Condition::Hung => format!("{it} is stopped: it accepts, and never answers"),
        Condition::HungAfter(calls) => {
            let more = if calls == 1 {
                "one more call".to_owned()
            } else {
                format!("{calls} more calls")
            };
            format!("{it} answers {more}; then it accepts, and never answers")
        }
        Condition::Slow(_) => format!("{service} is now: {condition}; it answers everything so much later"),
        Condition::Failing => format!("{it} answers that it cannot watch anyone{consequence}"),
        Condition::LyingPort(0) => {
            format!("{it} is running, but the port mapper says that it is nowhere (port 0)")
        }
        Condition::LyingPort(port) => {
            format!("{it} is running, but the port mapper names a wrong port for it, {port}")
        }
    }
}

/// A duration in milliseconds: the unit of every figure in events, reports and the control API.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Milliseconds as a person reads them.
pub fn seconds(ms: f64) -> String {
    if ms < 1.0 {
        format!("{:.0} µs", ms * 1000.0)
    } else if ms < 1000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

/// The log.
#[derive(Debug)]
pub struct EventLog {
    calls: Rate,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    last: u64,
    events: VecDeque<Arc<Event>>,
    /// None once the server has stopped.
    live: Option<broadcast::Sender<Arc<Event>>>,
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog {
            calls: Rate::default(),
            kept: Mutex::new(Kept {
                last: 0,
                events: VecDeque::new(),
                live: Some(broadcast::channel(SUBSCRIBER_BACKLOG).0),
            }),
        }
    }
}

/// How many calls were logged in this second, and how many were not.
#[derive(Debug, Default)]
struct Rate {
    second: AtomicU64,
    logged: AtomicU32,
    /// All calls that were not.
    unlogged: Lanes<AtomicU64>,
    /// Those of them that an event has told of.
    told: AtomicU64,
}

impl Rate {
    fn unlogged(&self) -> u64 {
        self.unlogged.sum(|count| count.load(Relaxed))
    }
}

/// How much was logged since the start, and how much was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Events.
    pub logged: u64,
    /// Those of them that are no longer kept ([`KEPT`]).
    pub dropped: u64,
    /// Calls beyond [`CALLS_A_SECOND`].
    pub unlogged: u64,
}

impl EventLog {
    /// Whether a call that arrived at `at` is to be logged; one that is not, is counted.
    pub fn has_room_for_call(&self, at: Duration) -> bool {
        let Rate {
            second,
            logged,
            unlogged,
            ..
        } = &self.calls;
        let now = at.as_secs();
        if second.load(Relaxed) != now && second.swap(now, Relaxed) != now {
            logged.store(0, Relaxed);
            self.tell_unlogged(at);
        }
        let room = logged.load(Relaxed) < CALLS_A_SECOND && logged.fetch_add(1, Relaxed) < CALLS_A_SECOND;
        if !room {
            unlogged.add_one(|count| Some(count));
        }
        room
    }

    /// Says how many calls were not logged, if there were any.
    fn tell_unlogged(&self, at: Duration) {
        let unlogged = self.calls.unlogged();
        let calls = unlogged.saturating_sub(self.calls.told.fetch_max(unlogged, Relaxed));
        if calls > 0 {
            self.add(at, What::Unlogged { calls });
        }
    }

    /// How much was logged.
    pub fn figures(&self) -> Figures {
        let kept = self.kept.lock();
        Figures {
            logged: kept.last,
            dropped: kept.last - kept.events.len() as u64,
            unlogged: self.calls.unlogged(),
        }
    }

    /// Adds an event that happened at `at`.
    pub fn add(&self, at: Duration, what: What) -> Arc<Event> {
        let mut kept = self.kept.lock();
        kept.last += 1;
        let event = Arc::new(Event {
            n: kept.last,
            at_ms: ms(at),
            what,
        });
        if kept.events.len() == KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(event.clone());
        // Under the lock, so that subscribers see the numbers in order; no subscriber is no error.
        if let Some(live) = &kept.live {
            let _ = live.send(event.clone());
        }
        event
    }

    /// Nothing more will happen: whoever has subscribed is told so. What is kept stays.
    pub fn end(&self) {
        self.kept.lock().live = None;
    }

    /// Everything that happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.since(u64::MAX).1
    }

    /// Those kept with a number above `after`, and everything that follows, without a gap between.
    pub fn since(&self, after: u64) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock();
        let past = kept
            .events
            .iter()
            .filter(|event| event.n > after)
            .cloned()
            .collect();
        let live = match &kept.live {
            Some(live) => live.subscribe(),
            None => broadcast::channel(1).1,
        };
        (past, live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_come_too_fast_are_counted() {
        let log = EventLog::default();
        let flood = |at| (0..5000).filter(|_| log.has_room_for_call(at)).count();
        assert_eq!(flood(Duration::from_millis(10)), CALLS_A_SECOND as usize);
        assert_eq!(flood(Duration::from_millis(990)), 0);
        assert_eq!(log.figures().unlogged, 8000);
        assert!(log.has_room_for_call(Duration::from_millis(1001)));
        assert_eq!(log.figures().unlogged, 8000, "told, and not forgotten");
        let (past, _) = log.since(0);
        assert_eq!(past[0].kind(), "unlogged");
        assert!(
            past[0].sentence().starts_with("8000 more calls"),
            "{}",
            past[0].sentence()
        );
    }

    #[test]
    fn every_condition_has_a_sentence_of_its_own() {
        let mut sentences = std::collections::BTreeSet::new();
        let conditions = [
            "ok",
            "absent",
            "refused",
            "hung",
            "hung after 1",
            "hung after 2",
            "slow 5s",
        ];
        for text in conditions
            .iter()
            .chain(&["failing", "lying port 0", "lying port 7"])
        {
            let event = Event {
                n: 1,
                at_ms: 0.0,
                what: What::condition(Service::Statd, text.parse().unwrap()),
            };
            assert_eq!(event.kind(), "service");
            assert!(event.sentence().starts_with("statd"), "{}", event.sentence());
            sentences.insert(event.sentence());
        }
        assert_eq!(sentences.len(), 10, "{sentences:#?}");
    }

    #[test]
    fn the_past_and_the_live_events_join_without_a_gap() {
        let log = EventLog::default();
        log.add(Duration::ZERO, What::Reset);
        log.add(
            Duration::from_millis(1500),
            What::condition(Service::Statd, Condition::Absent),
        );
        let (past, mut live) = log.since(1);
        log.add(Duration::from_secs(2), What::Reset);
        assert_eq!(past.iter().map(|e| e.n).collect::<Vec<_>>(), [2]);
        assert_eq!(live.try_recv().unwrap().n, 3);
        let json = serde_json::to_value(&*past[0]).unwrap();
        assert_eq!(json["event"], "service");
        assert_eq!(json["at_ms"], 1500.0);
    }
}
