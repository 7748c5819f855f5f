//! The journal: every decision with what it was keyed on, one JSON object a line; and the replay of one.
//!
//! The first line is a [`Header`]. In an [`Entry`], everything but [`Entry::client`] is the same in every run with the
//! same seed and the same calls; what stands there is the client's choice. So is the order of entries of different
//! rules: a client that has several calls under way sends them as it likes. [`Journal::comparable`] leaves both out.

use crate::action::Point;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The version of the form.
pub const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub journal: u32,
    /// For every hashed choice.
    pub seed: u64,
}

impl Header {
    /// The header of a journal that is written now.
    pub fn new(seed: u64) -> Header {
        Header {
            journal: VERSION,
            seed,
        }
    }
}

/// What the client, or chance, decided about a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FromClient {
    /// From where, or to where.
    pub peer: SocketAddr,
    /// The call's number.
    pub xid: u32,
    /// The owner's number at the client.
    pub owner: Option<i32>,
    /// The how manieth message it was.
    pub transmission: u32,
    /// When, in milliseconds on the server's clock.
    pub at_ms: f64,
}

/// That a rule has counted a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number in the journal.
    pub n: u64,
    /// The rule.
    pub rule: String,
    /// The how manieth call that the rule has counted.
    pub count: u64,
    /// The same, of those that are counted together (`per`).
    pub nth: u64,
    /// Program and procedure.
    pub call: String,
    /// The client, by its name.
    pub from: String,
    /// What it is about.
    pub path: Option<String>,
    /// Whether the rule chooses it.
    pub chosen: bool,
    /// Whether the rule acts on it: no rule before it did.
    pub acts: bool,
    /// What the rule does.
    #[serde(rename = "do")]
    pub deed: String,
    /// Where.
    pub at: Point,
    /// What depends on the client.
    pub client: FromClient,
}

/// A journal that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Journal {
    /// Its first line.
    pub header: Header,
    /// The others.
    pub entries: Vec<Entry>,
}

impl Journal {
    /// Reads a journal.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Journal, String> {
        let mut lines = text.lines().enumerate();
        let header = lines
            .next()
            .and_then(|(_, line)| serde_json::from_str::<Header>(line).ok());
        let header = header.filter(|header| header.journal == VERSION).ok_or_else(|| {
            format!("line 1: this is no journal: expected {{\"journal\":{VERSION},\"seed\":…}}, as --journal writes it")
        })?;
        let entry = |(n, line)| {
            serde_json::from_str(line).map_err(|error| format!("line {}: no decision: {error}", n + 1))
        };
        let entries = lines.map(entry).collect::<Result<_, _>>()?;
        Ok(Journal::new(header, entries))
    }

    /// A journal of these decisions. Calls of several connections are decided about at one time, and what is decided
    /// first is not always written first.
    pub fn new(header: Header, mut entries: Vec<Entry>) -> Journal {
        entries.sort_by_key(|entry| entry.n);
        Journal { header, entries }
    }

    /// As it is written: JSON lines.
    pub fn to_lines(&self) -> String {
        let mut text = serde_json::to_string(&self.header).unwrap_or_default();
        for entry in &self.entries {
            text.push('\n');
            text.push_str(&serde_json::to_string(entry).unwrap_or_default());
        }
        text.push('\n');
        text
    }

    /// What must be the same in two runs: every rule with its decisions in their order, without what the client chose.
    pub fn comparable(&self) -> BTreeMap<&str, Vec<String>> {
        let mut rules: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for entry in &self.entries {
            rules.entry(&entry.rule).or_default().push(entry.stable());
        }
        rules
    }
}

impl Entry {
    /// It without what the client chose, in words.
    fn stable(&self) -> String {
        let Entry {
            count,
            nth,
            call,
            from,
            path,
            chosen,
            acts,
            deed,
            at,
            ..
        } = self;
        let about = path.as_deref().unwrap_or("-");
        let done = match (chosen, acts) {
            (false, _) => "passed",
            (true, true) => "done",
            (true, false) => "an earlier rule's",
        };
        format!("{count} ({nth}): {call} of {from} about {about}: {deed} at {at}: {done}")
    }
}

/// A journal from which decisions are taken.
#[derive(Debug, Clone)]
pub struct Replay {
    rules: BTreeMap<String, std::collections::VecDeque<Entry>>,
}

/// The first call that is not as in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("rule \"{rule}\", call {count}: {how}")]
pub struct Differs {
    /// The rule.
    pub rule: String,
    /// The how manieth call that the rule counts.
    pub count: u64,
    /// What is different.
    pub how: String,
}

impl Replay {
    /// Prepares to take decisions from a journal.
    pub fn new(journal: Journal) -> Replay {
        let mut rules: BTreeMap<String, std::collections::VecDeque<Entry>> = BTreeMap::new();
        for entry in journal.entries {
            rules.entry(entry.rule.clone()).or_default().push_back(entry);
        }
        Replay { rules }
    }

    /// What was decided about a call.
    pub(crate) fn next(&mut self, now: &Entry) -> Result<bool, Differs> {
        let differs = |how| Differs {
            rule: now.rule.clone(),
            count: now.count,
            how,
        };
        let Some(then) = self
            .rules
            .get_mut(&now.rule)
            .and_then(std::collections::VecDeque::pop_front)
        else {
            return Err(differs(format!(
                "the journal has {} for this rule, and now comes {} of {}",
                match now.count {
                    1 => "no call".to_owned(),
                    count => format!("only {}", count - 1),
                },
                now.call,
                now.from
            )));
        };
        let about = |entry: &Entry| {
            let path = entry.path.as_deref().unwrap_or("no file");
            (entry.call.clone(), entry.from.clone(), path.to_owned())
        };
        let (was, is) = (about(&then), about(now));
        if was != is {
            return Err(differs(format!(
                "the journal has {} of {} about {}, and now comes {} of {} about {}",
                was.0, was.1, was.2, is.0, is.1, is.2
            )));
        }
        Ok(then.chosen)
    }

    /// How many decisions have not been taken.
    pub fn left(&self) -> u64 {
        self.rules.values().map(|entries| entries.len() as u64).sum()
    }
}
