//! A rule: which calls, when, what is done with them, and until when.
//!
//! Two forms say the same. A line, for the shell and for scenarios:
//!
//! ```text
//! nlm.lock exclusive=true nth=2 -> hold g1
//! lost: callback nlm.granted_msg peer=10.77.0.2 count=1 -> drop
//! ```
//!
//! and TOML, with the same keys in groups:
//!
//! ```toml
//! [[rule]]
//! name = "lost"
//! match = { call = "nlm.granted_msg", direction = "callback", peer = "10.77.0.2" }
//! do = "drop"
//! until = { count = 1 }
//! ```

mod matching;
mod values;

pub use matching::{Match, Mismatch};
pub use values::{Bytes, Peers, Span, Transmissions};

use crate::action::{Deed, Point};
use crate::exchange::{Direction, Table};
use crate::pattern::Pattern;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::SerializeDisplay;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// All that the rule means.
    #[default]
    Rule,
    /// Those of each client apart.
    Client,
    /// Those of each owner of each client apart.
    Owner,
    /// Those about each file apart.
    File,
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Per::Rule => "rule",
            Per::Client => "client",
            Per::Owner => "owner",
            Per::File => "file",
        })
    }
}

/// When, of the calls that are meant. `after` and the lock table come first: what does not satisfy them is not counted.
/// At most one of `nth`, `every` and `first`. `p` comes last.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Only this one, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Every so many: 3 is the third, the sixth …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// The first so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// What is counted together.
    #[serde(skip_serializing_if = "is_default")]
    pub per: Per,
    /// Not before an event with such a name has happened: `lockd/granted`, `rule/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Pattern>,
    /// While at least so many locks are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<usize>,
    /// While at least so many requests wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<usize>,
    /// While the grace period lasts, or does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<bool>,
    /// With this probability, which is hashed from the seed, the rule's name and what the call is: it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
}

impl When {
    /// Whether it depends on the lock table.
    pub fn needs_table(&self) -> bool {
        self.held.is_some() || self.waiting.is_some() || self.grace.is_some()
    }

    /// Whether the lock table is as it must be.
    pub fn table_fits(&self, table: &Table) -> bool {
        self.held.is_none_or(|held| table.held >= held)
            && self.waiting.is_none_or(|waiting| table.waiting >= waiting)
            && self.grace.is_none_or(|grace| table.grace == grace)
    }

    /// Whether the n-th is one of those that are wanted, but for `p`.
    pub fn counts(&self, n: u64) -> bool {
        self.nth.is_none_or(|nth| n == nth)
            && self.every.is_none_or(|every| n.is_multiple_of(every))
            && self.first.is_none_or(|first| n <= first)
    }

    fn impossible(&self) -> Option<String> {
        if [self.nth, self.every, self.first].iter().flatten().count() > 1 {
            return Some("nth, every and first: at most one of them".to_owned());
        }
        let zero = [("nth", self.nth), ("every", self.every), ("first", self.first)]
            .into_iter()
            .find(|(_, n)| *n == Some(0));
        if let Some((key, _)) = zero {
            return Some(format!("{key} = 0 is never: it is counted from 1"));
        }
        match self.p {
            Some(p) if !(0.0..=1.0).contains(&p) => Some(format!("p = {p}: expected from 0 to 1")),
            _ => None,
        }
    }
}

/// Until when. What comes first ends it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Until {
    /// It has been done so often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// So much time has passed since the rule was set, by the server's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// An event with such a name has happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Pattern>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name: of its own, or the whole rule as a line. Random choices and the journal go by it.
    #[serde(default)]
    pub name: String,
    /// Which calls.
    #[serde(rename = "match", default)]
    pub calls: Match,
    /// When, of those.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when: When,
    /// What is done, and where: `hold g1 at before-reply`.
    #[serde(rename = "do")]
    pub deed: Deed,
    /// Until when.
    #[serde(default, skip_serializing_if = "is_default")]
    pub until: Until,
    /// It may never be done, and the run passes all the same.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optional: bool,
}

impl Rule {
    /// Where it is done.
    pub fn at(&self) -> Point {
        let callback = self.calls.direction == Direction::Callback;
        match self.deed.at {
            Some(point) => point,
            None if callback => Point::BeforeCallback,
            None => self
                .deed
                .action
                .points()
                .first()
                .copied()
                .unwrap_or(Point::Received),
        }
    }

    /// Gives it a name if it has none, and checks what is said against each other.
    ///
    /// # Errors
    /// What cannot be, and what would be right.
    pub fn checked(mut self) -> Result<Rule, String> {
        if let Some((_, wrong)) = self.impossible() {
            return Err(wrong);
        }
        if self.name.is_empty() {
            self.name = self.to_string();
        }
        Ok(self)
    }

    /// In which group of its keys what cannot be is said, and what that is.
    fn impossible(&self) -> Option<(&'static str, String)> {
        let callback = self.calls.direction == Direction::Callback;
        let never =
            || (self.until.count == Some(0)).then(|| "count = 0 is never: leave the rule out".to_owned());
        let within = |group: &'static str| move |wrong| (group, wrong);
        (self.calls.impossible().map(within("match")))
            .or_else(|| self.when.impossible().map(within("when")))
            .or_else(|| self.misplaced().map(within("do")))
            .or_else(|| {
                let action = &self.deed.action;
                action.impossible(&self.calls.call, callback).map(within("do"))
            })
            .or_else(|| never().map(within("until")))
    }

    fn misplaced(&self) -> Option<String> {
        let callback = self.calls.direction == Direction::Callback;
        let Deed { action, at } = &self.deed;
        if callback && !action.points().contains(&Point::BeforeCallback) {
            return Some(format!(
                "'{action}' cannot be done to a callback: expected drop, delay, wait, hold, duplicate, set or pass"
            ));
        }
        match at {
            Some(point) if callback != (*point == Point::BeforeCallback) => Some(format!(
                "at {point}, and the rule is about {}s",
                self.calls.direction
            )),
            _ => None,
        }
    }

    /// The keys of a line and the groups in which TOML has them.
    const KEYS: [(&'static str, &'static [&'static str]); 3] = [
        (
            "match",
            &[
                "version",
                "transport",
                "peer",
                "caller",
                "owner",
                "uid",
                "path",
                "handle",
                "bytes",
                "exclusive",
                "block",
                "reclaim",
                "transmission",
            ],
        ),
        (
            "when",
            &[
                "nth", "every", "first", "per", "after", "held", "waiting", "grace", "p",
            ],
        ),
        ("until", &["count", "ttl", "until"]),
    ];
}

/// A value in a line: a number, a truth value, or else text.
fn value(text: &str) -> toml::Value {
    match text {
        "true" => toml::Value::Boolean(true),
        "false" => toml::Value::Boolean(false),
        text => match (text.parse(), text.parse()) {
            (Ok(n), _) => toml::Value::Integer(n),
            (_, Ok(p)) => toml::Value::Float(p),
            _ => toml::Value::String(text.to_owned()),
        },
    }
}

/// Keys whose values are text, whatever they look like.
const TEXTS: [&str; 7] = ["transmission", "bytes", "handle", "caller", "path", "peer", "ttl"];

/// The words of a line before the arrow: the call, and KEY=VALUE.
pub(crate) fn parse_match(words: &[String]) -> Result<(toml::Table, Vec<String>), String> {
    let (direction, words) = match words.split_first() {
        Some((first, rest)) if first == "callback" => ("callback", rest),
        _ => ("call", words),
    };
    let Some((call, pairs)) = words.split_first() else {
        return Err("which calls? Expected a program and a procedure, as nlm.lock".to_owned());
    };
    if call.contains('=') {
        return Err(format!(
            "'{call}' comes before the call: expected nlm.lock, nfs.* or * first"
        ));
    }
    let mut table = toml::Table::new();
    table.insert("call".to_owned(), call.clone().into());
    table.insert("direction".to_owned(), direction.into());
    Ok((table, pairs.to_vec()))
}

impl FromStr for Rule {
    type Err = String;

    /// Reads a line: `[NAME: ][callback ]CALL [KEY=VALUE]… -> ACTION [at POINT]`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (which, deed) = text.split_once("->").ok_or_else(|| {
            format!("'{text}' is no rule: expected CALL [KEY=VALUE]… -> ACTION, as nlm.lock nth=2 -> hold g1")
        })?;
        let (name, which) = match which.split_once(": ") {
            Some((name, which)) => (name.trim(), which),
            None => ("", which),
        };
        let words = shell_words::split(which).map_err(|error| format!("'{which}': {error}"))?;
        let (calls, pairs) = parse_match(&words)?;
        let mut rule = toml::Table::new();
        rule.insert("name".to_owned(), name.into());
        rule.insert("match".to_owned(), calls.into());
        rule.insert("do".to_owned(), deed.trim().into());
        for pair in &pairs {
            insert(&mut rule, pair)?;
        }
        // The error names the key on a line of its own.
        let failed = |error: toml::de::Error| {
            let text = error.to_string();
            match text.trim_end().rsplit_once("\nin `") {
                Some((what, key)) => format!("{}: {what}", key.trim_end_matches('`')),
                None => text,
            }
        };
        Rule::deserialize(rule).map_err(failed)?.checked()
    }
}

/// Puts KEY=VALUE into the group to which it belongs.
pub(crate) fn insert(rule: &mut toml::Table, pair: &str) -> Result<(), String> {
    let known = || {
        let all: Vec<&str> = Rule::KEYS
            .iter()
            .flat_map(|(_, keys)| keys.iter().copied())
            .collect();
        format!("expected {} or optional, each as KEY=VALUE", all.join(", "))
    };
    let (key, text) = pair
        .split_once('=')
        .ok_or_else(|| format!("'{pair}' has no value: {}", known()))?;
    let parsed = match TEXTS.contains(&key) {
        true => toml::Value::String(text.to_owned()),
        false => value(text),
    };
    let group = Rule::KEYS
        .iter()
        .find(|(_, keys)| keys.contains(&key))
        .map(|(group, _)| *group);
    let table = match group {
        None if key == "optional" => rule,
        None => return Err(format!("no key '{key}': {}", known())),
        Some(group) => {
            let table = rule.entry(group).or_insert_with(|| toml::Table::new().into());
            table.as_table_mut().ok_or("not a table")?
        }
    };
    let key = if key == "until" { "event" } else { key };
    match table.insert(key.to_owned(), parsed) {
        None => Ok(()),
        Some(_) => Err(format!("{key} is said twice")),
    }
}

impl fmt::Display for Rule {
    /// The rule as a line, without a name that is that line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Match { call, direction, .. } = &self.calls;
        let mut line = String::new();
        if *direction == Direction::Callback {
            line.push_str("callback ");
        }
        line.push_str(&call.to_string());
        // What serde would write, group after group, in the order of the keys.
        let groups = [
            ("match", toml::Value::try_from(&self.calls)),
            ("when", toml::Value::try_from(&self.when)),
            ("until", toml::Value::try_from(&self.until)),
        ];
        for (group, table) in groups {
            let Ok(toml::Value::Table(table)) = table else {
                continue;
            };
            let keys = Rule::KEYS
                .iter()
                .find(|(name, _)| *name == group)
                .map_or(&[][..], |(_, keys)| *keys);
            for key in keys {
                let stored = if *key == "until" { "event" } else { key };
                let Some(value) = table.get(stored) else { continue };
                let text = match value {
                    toml::Value::String(text) if text.contains([' ', '\'', '"', '\\']) => {
                        shell_words::quote(text).into_owned()
                    }
                    toml::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                line.push_str(&format!(" {key}={text}"));
            }
        }
        if self.optional {
            line.push_str(" optional=true");
        }
        line.push_str(&format!(" -> {}", self.deed));
        match self.name.as_str() {
            "" => f.write_str(&line),
            name if name == line => f.write_str(&line),
            name => write!(f, "{name}: {line}"),
        }
    }
}

/// Rules as a file or a request has them: lines first, then tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleFile {
    /// As lines.
    #[schemars(with = "Vec<String>")]
    pub rules: Vec<Line>,
    /// As tables.
    #[serde(rename = "rule")]
    pub tables: Vec<Rule>,
}

/// A rule as a line.
#[derive(Debug, Clone, PartialEq, SerializeDisplay)]
pub struct Line(pub Rule);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Line;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rule as a line, as \"nlm.lock nth=2 -> hold g1\"; a table is one of [[rule]]")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Line, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl FromStr for Line {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Line)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What cannot be in a file whose form is right.
struct Wrong {
    /// Which rule: lines first, then tables, counted from 0.
    rule: usize,
    /// In which group of its keys.
    group: &'static str,
    what: String,
}

/// Where everything is in the text of a file.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Places {
    rules: Vec<toml::Spanned<String>>,
    rule: Vec<toml::Spanned<BTreeMap<String, toml::Spanned<toml::Value>>>>,
}

impl Places {
    /// The byte at which a rule begins, or a group of its keys if the rule says it.
    fn of(&self, wrong: &Wrong) -> Option<usize> {
        if let Some(line) = self.rules.get(wrong.rule) {
            return Some(line.span().start);
        }
        let table = self.rule.get(wrong.rule - self.rules.len())?;
        let group = table.get_ref().get(wrong.group);
        Some(group.map_or_else(|| table.span(), toml::Spanned::span).start)
    }
}

impl RuleFile {
    /// Reads TOML, and checks what is said in it against each other.
    ///
    /// # Errors
    /// The line, the field, what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<RuleFile, String> {
        let failed = |error: toml::de::Error| error.to_string().trim_end().to_owned();
        let file: RuleFile = toml::from_str(text).map_err(failed)?;
        match file.impossible() {
            None => Ok(file),
            Some(wrong) => {
                let places: Places = toml::from_str(text).map_err(failed)?;
                let before = places
                    .of(&wrong)
                    .and_then(|at| text.get(..at))
                    .unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                Err(format!("line {line}: {}", file.tell(&wrong)))
            }
        }
    }

    /// All rules in their order, checked, each with a name of its own.
    ///
    /// # Errors
    /// Which rule, what is wrong with it and what would be right.
    pub fn into_rules(self) -> Result<Vec<Rule>, String> {
        match self.impossible() {
            Some(wrong) => Err(self.tell(&wrong)),
            None => self.into_iter().map(Rule::checked).collect(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|Line(rule)| rule).chain(&self.tables)
    }

    fn into_iter(self) -> impl Iterator<Item = Rule> {
        self.rules.into_iter().map(|Line(rule)| rule).chain(self.tables)
    }

    /// The first rule that cannot be, by itself or beside those before it.
    fn impossible(&self) -> Option<Wrong> {
        let mut names = BTreeSet::new();
        self.iter().enumerate().find_map(|(n, rule)| {
            let (group, what) = rule.impossible().or_else(|| {
                let name = match rule.name.as_str() {
                    "" => rule.to_string(),
                    name => name.to_owned(),
                };
                let twice = format!(
                    "two rules are called \"{name}\": give each a name of its own, as in first: nlm.lock -> drop"
                );
                (!names.insert(name)).then_some(("name", twice))
            })?;
            Some(Wrong { rule: n, group, what })
        })
    }

    fn tell(&self, wrong: &Wrong) -> String {
        let Wrong { rule, group, what } = wrong;
        match rule.checked_sub(self.rules.len()) {
            None => what.clone(),
            Some(n) => match self.tables.get(n).map(|rule| rule.name.as_str()) {
                None | Some("") => format!("{group} of [[rule]] {}: {what}", n + 1),
                Some(name) => format!("{group} of [[rule]] \"{name}\": {what}"),
            },
        }
    }
}

#[cfg(test)]
mod tests;
