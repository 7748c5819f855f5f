//! What is done with a call, and where on its way.
//!
//! A new fault is a variant of [`Action`] with its words ([`Action::from_str`] and `Display`) and the points where it
//! can be done ([`Action::points`]); it is carried out in `nfslab/src/server/plan.rs`, and explained in
//! `docs/faults.md`.

use crate::Service;
use crate::names::{self, Calls, Refused, Status};
use crate::pattern::Pattern;
use proto::mount::MountProc;
use proto::nfs3::Nfs3Proc;
use proto::nlm::NlmProc;
use proto::nsm::SmProc;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A place on the way of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// It has arrived, and the duplicate request cache has not seen it.
    Received,
    /// It is about to be executed; copies of it are known by the duplicate request cache, if there is one.
    BeforeExecute,
    /// It has been executed, and the duplicate request cache does not know the answer yet.
    AfterExecute,
    /// Its reply is ready to go.
    BeforeReply,
    /// We are about to call a client.
    BeforeCallback,
}

impl Point {
    /// All of them, in the order of the way.
    pub const ALL: [Point; 5] = [
        Point::Received,
        Point::BeforeExecute,
        Point::AfterExecute,
        Point::BeforeReply,
        Point::BeforeCallback,
    ];

    /// Its name in rules.
    pub const fn name(self) -> &'static str {
        match self {
            Point::Received => "received",
            Point::BeforeExecute => "before-execute",
            Point::AfterExecute => "after-execute",
            Point::BeforeReply => "before-reply",
            Point::BeforeCallback => "before-callback",
        }
    }

    /// Whether the call has not been executed by then.
    pub fn is_early(self) -> bool {
        matches!(self, Point::Received | Point::BeforeExecute)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Point {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Point::ALL
            .into_iter()
            .find(|point| point.name() == text)
            .ok_or_else(|| {
                format!(
                    "no point '{text}': expected {}",
                    Point::ALL.map(Point::name).join(", ")
                )
            })
    }
}

/// A field of a reply or of a callback that is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The call's number.
    Xid,
    /// The status, as any number.
    Status,
    /// NLM's cookie: its first four bytes.
    Cookie,
    /// The owner's number in GRANTED.
    Svid,
    /// The first byte in GRANTED.
    Offset,
    /// The number of bytes in GRANTED.
    Len,
    /// 1: exclusive, 0: shared; in GRANTED.
    Exclusive,
    /// The state number in SM_NOTIFY.
    State,
    /// The client's port to which the callback goes.
    Port,
    /// Of the reply's result, or the callback's arguments, the word (32 bits) with this number, counted from 0.
    Word(u32),
}

impl Field {
    const NAMED: [(&'static str, Field); 9] = [
        ("xid", Field::Xid),
        ("status", Field::Status),
        ("cookie", Field::Cookie),
        ("svid", Field::Svid),
        ("offset", Field::Offset),
        ("len", Field::Len),
        ("exclusive", Field::Exclusive),
        ("state", Field::State),
        ("port", Field::Port),
    ];

    /// Where which can be set, in words.
    const WHERE: &str = "expected xid, status, word:N, and of nlm cookie in a reply; port, word:N, of nlm cookie, of \
                         nlm.granted_msg svid, offset, len, exclusive, and of nsm.notify state in a callback";

    fn in_reply(self, calls: &Calls) -> bool {
        match self {
            Field::Xid | Field::Status | Field::Word(_) => true,
            Field::Cookie => calls.service == Some(Service::Lockd),
            _ => false,
        }
    }

    fn in_callback(self, calls: &Calls) -> bool {
        let may_be = |service, procedure| calls.service == Some(service) && calls.has(service, procedure);
        match self {
            Field::Port | Field::Word(_) => true,
            Field::Cookie => calls.service == Some(Service::Lockd),
            Field::Svid | Field::Offset | Field::Len | Field::Exclusive => {
                may_be(Service::Lockd, NlmProc::NLM_GRANTED_MSG.0)
            }
            Field::State => may_be(Service::Statd, SmProc::SM_NOTIFY.0),
            Field::Xid | Field::Status => false,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, Field::NAMED.iter().find(|(_, field)| field == self)) {
            (Field::Word(n), _) => write!(f, "word:{n}"),
            (_, Some((name, _))) => f.write_str(name),
            (_, None) => Ok(()),
        }
    }
}

impl FromStr for Field {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Field::NAMED
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, field)| *field);
        let word = || text.strip_prefix("word:")?.parse().ok().map(Field::Word);
        named.or_else(word).ok_or_else(|| {
            let names: Vec<&str> = Field::NAMED.iter().map(|(name, _)| *name).collect();
            format!("no field '{text}': expected {}, or word:N", names.join(", "))
        })
    }
}

/// A field and what it is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Which.
    pub field: Field,
    /// To what. Negative numbers are as on the wire, in two's complement.
    pub value: u64,
}

impl FromStr for Set {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (field, value) = text
            .split_once('=')
            .ok_or_else(|| format!("'{text}' sets nothing: expected FIELD=NUMBER, as svid=7"))?;
        let hex = value
            .strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let signed = || value.parse::<i64>().ok().map(|value| value as u64);
        let value = hex.or_else(|| value.parse().ok()).or_else(signed);
        let value = value.ok_or_else(|| format!("'{text}': expected a number, as 7, -1 or 0xdeadbeef"))?;
        Ok(Set {
            field: field.parse()?,
            value,
        })
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.field, self.value)
    }
}

/// What is done with one call or callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `pass`: nothing unusual. An exception before a broader rule.
    Pass,
    /// `answer STATUS`: the program's own status, whatever it would have said.
    Answer(Status),
    /// `refuse ERROR`: an error of the RPC layer.
    Refuse(Refused),
    /// `drop`: nothing, for ever. Before it is executed: it never is; after: its reply is lost.
    Drop,
    /// `delay DURATION`: later, by the server's clock.
    Delay(Duration),
    /// `wait EVENT`: when this has happened, once more from now on.
    Wait(Pattern),
    /// `hold GATE`: when somebody lets it go.
    Hold(String),
    /// `duplicate N`: the reply, or the callback, N more times.
    Duplicate(u32),
    /// `set FIELD=NUMBER …`: a changed reply or callback.
    Set(Vec<Set>),
    /// `cut N`: the first N bytes of the reply, then the end of the connection.
    Cut(u32),
    /// `close`: the end of the connection.
    Close,
    /// `reset`: the end of the connection, with a reset (RST).
    Reset,
    /// `acknowledge`: the answer "done", without having done it.
    Acknowledge,
    /// `twice`: executed twice; the second answer counts.
    Twice,
}

impl Action {
    /// Where it can be done; the first is where it is unless said otherwise.
    pub fn points(&self) -> &'static [Point] {
        use Point::{AfterExecute, BeforeCallback, BeforeExecute, BeforeReply, Received};
        match self {
            Action::Pass => &[Received, BeforeCallback],
            Action::Answer(_) | Action::Refuse(_) => &[BeforeExecute, Received, AfterExecute, BeforeReply],
            Action::Drop | Action::Hold(_) => {
                &[Received, BeforeExecute, AfterExecute, BeforeReply, BeforeCallback]
            }
            Action::Delay(_) | Action::Wait(_) => {
                &[BeforeExecute, Received, AfterExecute, BeforeReply, BeforeCallback]
            }
            Action::Duplicate(_) | Action::Set(_) => &[BeforeReply, BeforeCallback],
            Action::Cut(_) => &[BeforeReply],
            Action::Close | Action::Reset => &[Received, BeforeExecute, AfterExecute, BeforeReply],
            Action::Acknowledge | Action::Twice => &[BeforeExecute],
        }
    }

    /// Why it cannot be done to these calls; none if it can.
    pub fn impossible(&self, calls: &Calls, callback: bool) -> Option<String> {
        match self {
            Action::Answer(status) => {
                let Some(service) = calls.service else {
                    return Some("a status is one of a program's: name the program, as in nfs.*".to_owned());
                };
                if service == Service::Portmap {
                    return Some(
                        "the port mapper's answers have no status: use refuse, drop or set".to_owned(),
                    );
                }
                if let Some(void) = calls.procedures.iter().find(|p| !has_status(service, **p)) {
                    let name = names::call_name(service, *void);
                    return Some(format!(
                        "the reply to {name} has no status: use refuse, drop or set"
                    ));
                }
                let its = status.service.unwrap_or(service);
                (its != service).then(|| {
                    format!(
                        "{status} is no status of {calls}: expected {}, or a number",
                        names::statuses(service).join(", ")
                    )
                })
            }
            Action::Acknowledge => {
                let can = |procedure: &u32| calls.service.is_some_and(|s| can_be_acknowledged(s, *procedure));
                (calls.procedures.is_empty() || !calls.procedures.iter().all(can)).then(|| {
                    format!(
                        "{calls} cannot be acknowledged without being executed: only \
                         nlm.lock|nm_lock|cancel|unlock and nfs.setattr|write|remove|rmdir|rename|link|commit can"
                    )
                })
            }
            Action::Set(sets) => sets.iter().find_map(|set| {
                let fits = if callback {
                    set.field.in_callback(calls)
                } else {
                    set.field.in_reply(calls)
                };
                (!fits).then(|| {
                    let what = if callback { "a callback" } else { "the reply to" };
                    let field = set.field;
                    format!(
                        "{what} {calls} has no field '{field}' that could be set: {}",
                        Field::WHERE
                    )
                })
            }),
            _ => None,
        }
    }
}

/// Whether the reply to a procedure has a status. NLM's asynchronous calls (`_MSG`) are answered by a call of ours, and
/// their reply is void. A procedure that nobody knows may have one.
pub fn has_status(service: Service, procedure: u32) -> bool {
    match service {
        Service::Nfs => procedure != Nfs3Proc::NFSPROC3_NULL.0,
        Service::Mount => procedure == MountProc::MOUNTPROC3_MNT.0,
        Service::Lockd => {
            !matches!(
                NlmProc(procedure),
                NlmProc::NLM_NULL | NlmProc::NLM_SM_NOTIFY | NlmProc::NLM_FREE_ALL
            ) && !(NlmProc::NLM_TEST_MSG.0..=NlmProc::NLM_GRANTED_RES.0).contains(&procedure)
        }
        Service::Statd => matches!(SmProc(procedure), SmProc::SM_STAT | SmProc::SM_MON),
        Service::Portmap => false,
    }
}

/// Whether "done" can be said to a call without executing it: its answer carries nothing that only execution gives.
pub fn can_be_acknowledged(service: Service, procedure: u32) -> bool {
    match service {
        Service::Lockd => matches!(
            NlmProc(procedure),
            NlmProc::NLM_LOCK | NlmProc::NLM_NM_LOCK | NlmProc::NLM_CANCEL | NlmProc::NLM_UNLOCK
        ),
        Service::Nfs => matches!(
            Nfs3Proc(procedure),
            Nfs3Proc::NFSPROC3_SETATTR
                | Nfs3Proc::NFSPROC3_WRITE
                | Nfs3Proc::NFSPROC3_REMOVE
                | Nfs3Proc::NFSPROC3_RMDIR
                | Nfs3Proc::NFSPROC3_RENAME
                | Nfs3Proc::NFSPROC3_LINK
                | Nfs3Proc::NFSPROC3_COMMIT
        ),
        _ => false,
    }
}

/// Most copies of one message: they are all made at once.
const MOST_COPIES: u32 = 1000;

/// The words of every action, for messages.
const WORDS: &str = "pass, answer STATUS, refuse ERROR, drop, drop-reply, delay DURATION, wait EVENT, hold GATE, \
                     duplicate [N], set FIELD=NUMBER…, cut BYTES, close, reset, acknowledge, twice";

/// An action and where it is done, as a rule has it: `hold g1 at before-reply`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// What.
    pub action: Action,
    /// Where, if it is said.
    pub at: Option<Point>,
}

impl FromStr for Deed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (words, mut at) = match text.rsplit_once(" at ") {
            Some((words, point)) => (words.trim(), Some(point.trim().parse()?)),
            None => (text, None),
        };
        let (verb, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
        let rest = rest.trim();
        let number = |what: &str| {
            rest.parse::<u32>()
                .map_err(|_| format!("'{words}': expected {what}, as {verb} 2"))
        };
        let needs = |what: &str| match rest {
            "" => Err(format!("'{words}' needs {what}")),
            rest => Ok(rest),
        };
        let action = match verb {
            "pass" => Action::Pass,
            "answer" => Action::Answer(needs("a status, as answer NLM4_DENIED_NOLOCKS")?.parse()?),
            "refuse" => Action::Refuse(needs("an RPC error, as refuse PROG_UNAVAIL")?.parse()?),
            "drop" => Action::Drop,
            "drop-reply" => {
                at = at.or(Some(Point::BeforeReply));
                Action::Drop
            }
            "delay" => {
                let by = needs("a duration, as delay 5s")?;
                let by = humantime::parse_duration(by)
                    .map_err(|error| format!("'{by}' is no duration such as 5s or 250ms: {error}"))?;
                Action::Delay(by)
            }
            "wait" => Action::Wait(needs("an event, as wait callback/NLM_GRANTED_MSG")?.parse()?),
            "hold" => Action::Hold(needs("the name of a gate, as hold g1")?.to_owned()),
            "duplicate" if rest.is_empty() => Action::Duplicate(1),
            "duplicate" => match number("how many more")? {
                more @ 1..=MOST_COPIES => Action::Duplicate(more),
                _ => return Err(format!("'{words}': expected from 1 to {MOST_COPIES} more")),
            },
            "set" => {
                let sets = needs("a field and a number, as set svid=7")?;
                Action::Set(
                    sets.split_whitespace()
                        .map(Set::from_str)
                        .collect::<Result<_, _>>()?,
                )
            }
            "cut" => Action::Cut(number("a number of bytes")?),
            "close" => Action::Close,
            "reset" => Action::Reset,
            "acknowledge" => Action::Acknowledge,
            "twice" => Action::Twice,
            "" => return Err(format!("no action (`do`): expected {WORDS}")),
            other => return Err(format!("no action '{other}': expected {WORDS}")),
        };
        let alone = [
            "pass",
            "drop",
            "drop-reply",
            "close",
            "reset",
            "acknowledge",
            "twice",
        ];
        if alone.contains(&verb) && !rest.is_empty() {
            return Err(format!(
                "'{rest}' after {verb}: nothing is expected there but at POINT"
            ));
        }
        if matches!(&action, Action::Hold(gate) if gate.contains(char::is_whitespace)) {
            return Err(format!("'{rest}' is no name for a gate: expected one word"));
        }
        if let Some(point) = at
            && !action.points().contains(&point)
        {
            let points: Vec<&str> = action.points().iter().map(|point| point.name()).collect();
            return Err(format!(
                "{verb} cannot be done at {point}: expected {}",
                points.join(", ")
            ));
        }
        Ok(Deed { action, at })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Pass => f.write_str("pass"),
            Action::Answer(status) => write!(f, "answer {status}"),
            Action::Refuse(error) => write!(f, "refuse {error}"),
            Action::Drop => f.write_str("drop"),
            Action::Delay(by) => write!(f, "delay {}", humantime::format_duration(*by)),
            Action::Wait(event) => write!(f, "wait {event}"),
            Action::Hold(gate) => write!(f, "hold {gate}"),
            Action::Duplicate(more) => write!(f, "duplicate {more}"),
            Action::Set(sets) => {
                f.write_str("set")?;
                sets.iter().try_for_each(|set| write!(f, " {set}"))
            }
            Action::Cut(bytes) => write!(f, "cut {bytes}"),
            Action::Close => f.write_str("close"),
            Action::Reset => f.write_str("reset"),
            Action::Acknowledge => f.write_str("acknowledge"),
            Action::Twice => f.write_str("twice"),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        match self.at {
            Some(point) => write!(f, " at {point}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeds_are_written_as_they_are_read() {
        for text in [
            "pass",
            "answer NLM4_DENIED_NOLOCKS",
            "answer 4711 at before-reply",
            "refuse PROG_MISMATCH 1-3",
            "drop at before-callback",
            "delay 5s at before-reply",
            "wait callback/NLM_GRANTED_MSG at before-reply",
            "hold g1 at before-execute",
            "duplicate 2",
            "set svid=7 offset=18446744073709551615",
            "set word:3=9",
            "cut 12",
            "reset at after-execute",
            "acknowledge",
            "twice",
        ] {
            assert_eq!(text.parse::<Deed>().unwrap().to_string(), text);
        }
        let lost: Deed = "drop-reply".parse().unwrap();
        assert_eq!(lost.to_string(), "drop at before-reply");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let error = |text: &str| text.parse::<Deed>().unwrap_err();
        assert!(error("hang").contains("hold GATE"));
        assert!(error("twice at before-reply").contains("before-execute"));
        assert!(error("drop it").contains("'it'"));
        assert!(error("hold").contains("gate"));
        assert!(error("delay soon").contains("5s"));
        assert!(error("set svid").contains("svid=7"));
        assert!(error("set spin=7").contains("svid"));
        assert!(error("hold a b").contains("one word"));
        assert!(error("duplicate 0").contains("from 1"));
        assert!(error("duplicate 4000000000").contains("to 1000"));
    }
}
