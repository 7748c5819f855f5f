//! What is expected of the calls so far, and what is said when it is not so.
//!
//! ```text
//! at least 2 of nlm.lock exclusive=true
//! never nlm.cancel
//! nlm.lock owner=1 before nlm.unlock owner=1
//! rule lost 2 times
//! ```
//!
//! A call counts once, however often it is transmitted, unless `transmission=` says otherwise.

use crate::Service;
use crate::active::RuleView;
use crate::exchange::Direction;
use crate::history::{History, describe};
use crate::names::Calls;
use crate::rule::{Match, Rule, insert, parse_match};
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use std::fmt;
use std::str::FromStr;

/// Something that is expected.
#[derive(Debug, Clone, PartialEq, DeserializeFromStr, SerializeDisplay)]
pub enum Expectation {
    /// So many calls.
    Calls {
        /// At least.
        least: usize,
        /// At most.
        most: usize,
        /// Which.
        which: Box<Match>,
    },
    /// The first of these comes before the first of those, and both come.
    Order {
        /// These.
        first: Box<Match>,
        /// Those.
        then: Box<Match>,
    },
    /// A rule was done so often; without a number, at least once.
    Rule {
        /// Its name.
        name: String,
        /// How often.
        times: Option<u64>,
    },
}

/// Whether it is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Checked {
    /// What is expected.
    pub expect: String,
    /// Whether it is so.
    pub passed: bool,
    /// What there is; if it is not so, with what comes nearest.
    pub found: String,
}

/// The calls of a line, as a rule has them before its arrow.
fn calls(text: &str) -> Result<Match, String> {
    let words = shell_words::split(text).map_err(|error| format!("'{text}': {error}"))?;
    let (calls, pairs) = parse_match(&words)?;
    let mut rule = toml::Table::new();
    rule.insert("match".to_owned(), calls.into());
    rule.insert("do".to_owned(), "pass".into());
    for pair in &pairs {
        insert(&mut rule, pair)?;
    }
    let rule = Rule::deserialize(rule)
        .map_err(|error| error.message().to_owned())?
        .checked()?;
    match (
        rule.when == crate::rule::When::default(),
        rule.until == crate::rule::Until::default(),
    ) {
        (true, true) => Ok(rule.calls),
        _ => Err(format!(
            "'{text}': only what a call is can be expected, not when (nth, p …) or until"
        )),
    }
}

impl FromStr for Expectation {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "'{text}' is no expectation: expected never CALL, N of CALL, at least N of CALL, at most N of CALL, \
                 CALL before CALL, rule NAME or rule NAME N times, with a CALL such as nlm.lock exclusive=true"
            )
        };
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("never ") {
            return Ok(Expectation::Calls {
                least: 0,
                most: 0,
                which: Box::new(calls(rest)?),
            });
        }
        if let Some(rest) = text.strip_prefix("rule ") {
            let counted = rest.strip_suffix(" times").or_else(|| rest.strip_suffix(" time"));
            let split = counted.and_then(|rest| rest.rsplit_once(' '));
            return Ok(match split.and_then(|(name, n)| Some((name, n.parse().ok()?))) {
                Some((name, n)) => Expectation::Rule {
                    name: name.trim().to_owned(),
                    times: Some(n),
                },
                None => Expectation::Rule {
                    name: rest.trim().to_owned(),
                    times: None,
                },
            });
        }
        if let Some((first, then)) = text.split_once(" before ") {
            return Ok(Expectation::Order {
                first: Box::new(calls(first)?),
                then: Box::new(calls(then)?),
            });
        }
        let (count, rest) = text.split_once(" of ").ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (least, most) = match (count.strip_prefix("at least "), count.strip_prefix("at most ")) {
            (Some(n), _) => (number(n)?, usize::MAX),
            (_, Some(n)) => (0, number(n)?),
            (None, None) => (number(count)?, number(count)?),
        };
        Ok(Expectation::Calls {
            least,
            most,
            which: Box::new(calls(rest)?),
        })
    }
}

/// Calls as a line has them.
struct Shown<'a>(&'a Match);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = Rule {
            name: String::new(),
            calls: self.0.clone(),
            when: crate::rule::When::default(),
            deed: crate::action::Deed {
                action: crate::Action::Pass,
                at: None,
            },
            until: crate::rule::Until::default(),
            optional: false,
        };
        let line = rule.to_string();
        f.write_str(line.strip_suffix(" -> pass").unwrap_or(&line))
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expectation::Calls { most: 0, which, .. } => write!(f, "never {}", Shown(which)),
            Expectation::Calls { least, most, which } if least == most => {
                write!(f, "{least} of {}", Shown(which))
            }
            Expectation::Calls {
                least,
                most: usize::MAX,
                which,
            } => write!(f, "at least {least} of {}", Shown(which)),
            Expectation::Calls { most, which, .. } => write!(f, "at most {most} of {}", Shown(which)),
            Expectation::Order { first, then } => write!(f, "{} before {}", Shown(first), Shown(then)),
            Expectation::Rule { name, times: None } => write!(f, "rule {name}"),
            Expectation::Rule { name, times: Some(n) } => write!(f, "rule {name} {n} times"),
        }
    }
}

impl Expectation {
    /// The calls that it is about and of which nothing can be said: calls on files are kept only if a rule means them.
    pub fn unkept(&self, rules: &[Rule]) -> Option<&Match> {
        let about: &[&Match] = match self {
            Expectation::Calls { which, .. } => &[which],
            Expectation::Order { first, then } => &[first, then],
            Expectation::Rule { .. } => &[],
        };
        let kept = |which: &Match| {
            let files = which.direction == Direction::Call
                && which.call.service.is_none_or(|service| service == Service::Nfs);
            let covers = |rule: &Rule| {
                let Calls { service, procedures } = &rule.calls.call;
                let all = procedures.is_empty()
                    || (!which.call.procedures.is_empty() && which.call.procedures.is_subset(procedures));
                // Beside that it says nothing that is not expected too.
                let and_these = Match {
                    call: which.call.clone(),
                    transmission: which.transmission,
                    ..rule.calls.clone()
                };
                service.is_none_or(|service| service == Service::Nfs)
                    && all
                    && (and_these == *which
                        || and_these
                            == Match {
                                call: which.call.clone(),
                                transmission: which.transmission,
                                ..Match::default()
                            })
            };
            !files || rules.iter().any(covers)
        };
        about.iter().copied().find(|which| !kept(which))
    }

    /// Whether it is so. `missed` calls came too fast to be kept.
    pub fn check(&self, history: &History, missed: u64, rules: &[RuleView]) -> Checked {
        let missed = missed + history.forgotten();
        let (passed, found) = match self {
            Expectation::Calls { least, most, which } => counted(*least, *most, which, history, missed),
            Expectation::Order { first, then } => ordered(first, then, history),
            Expectation::Rule { name, times } => match rules.iter().find(|rule| rule.name == *name) {
                None => {
                    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
                    (
                        false,
                        format!("no rule \"{name}\": there are [{}]", names.join(", ")),
                    )
                }
                Some(rule) => {
                    let passed = times.map_or(rule.fired > 0, |times| rule.fired == times);
                    let found = format!(
                        "done {} times, of {} calls that it means",
                        rule.fired, rule.counted
                    );
                    (passed, found)
                }
            },
        };
        Checked {
            expect: self.to_string(),
            passed,
            found,
        }
    }
}

fn counted(least: usize, most: usize, which: &Match, history: &History, missed: u64) -> (bool, String) {
    let n = history.find(which).count();
    if missed > 0 && n <= most && (most < usize::MAX || n < least) {
        return (
            false,
            format!("cannot be said: {n} came, and {missed} calls are not kept"),
        );
    }
    let found = match history.find(which).last() {
        Some(past) if n > most => format!("{n} came, the last was {}", describe(&past.facts)),
        _ if n < least => format!("{n} came; {}", history.nearest(which)),
        _ => format!("{n} came"),
    };
    ((least..=most).contains(&n), found)
}

fn ordered(first: &Match, then: &Match, history: &History) -> (bool, String) {
    match (history.find(first).next(), history.find(then).next()) {
        (Some(a), Some(b)) if a.at_ms <= b.at_ms => (true, "in this order".to_owned()),
        (Some(a), Some(b)) => (
            false,
            format!("the other way round: at {:.1} ms and {:.1} ms", a.at_ms, b.at_ms),
        ),
        (None, _) => (
            false,
            format!("the first did not come: {}", history.nearest(first)),
        ),
        (_, None) => (
            false,
            format!("the second did not come: {}", history.nearest(then)),
        ),
    }
}

/// What must hold of every rule that does not say otherwise: it was done.
pub fn unused(rules: &[RuleView], sets: &[Rule], history: &History) -> Vec<Checked> {
    let idle = rules
        .iter()
        .zip(sets)
        .filter(|(view, _)| view.fired == 0 && !view.optional);
    let tell = |(view, rule): (&RuleView, &Rule)| {
        let why = match view.counted {
            0 => history.nearest(&rule.calls),
            n => format!("it counted {n} calls, and chose none of them"),
        };
        Checked {
            expect: format!("rule {}", view.name),
            passed: false,
            found: format!("it was never done: {why} (if that is in order, say optional=true)"),
        }
    };
    idle.map(tell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_written_as_they_are_read() {
        for text in [
            "never nlm.cancel",
            "2 of nlm.lock exclusive=true",
            "at least 2 of nlm.lock transmission=any",
            "at most 3 of callback nlm.granted_msg",
            "nlm.lock owner=1 before nlm.unlock owner=1",
            "rule lost",
            "rule the lost one 2 times",
        ] {
            assert_eq!(text.parse::<Expectation>().unwrap().to_string(), text);
        }
        for wrong in [
            "nlm.lock",
            "some of nlm.lock",
            "never nlm.lok",
            "2 of nlm.lock nth=2",
        ] {
            assert!(wrong.parse::<Expectation>().is_err(), "{wrong}");
        }
    }
}
