//! Which rule a call would meet, and why the others would not.

use crate::active::Active;
use crate::exchange::{Direction, Exchange, Facts, LockFacts, Look, Table, Transport};
use crate::rule::{Rule, insert, parse_match};
use crate::{Service, history};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// A call that somebody has thought of: `nlm.lock path=/lab/f owner=3 exclusive=true`. What is left out is unknown, but
/// for the version (the newest), the transport (tcp) and the peer (127.0.0.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample(pub Facts);

impl FromStr for Sample {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = shell_words::split(text).map_err(|error| format!("'{text}': {error}"))?;
        let (calls, pairs) = parse_match(&words)?;
        let mut table = toml::Table::new();
        table.insert("match".to_owned(), calls.into());
        table.insert("do".to_owned(), "pass".into());
        for pair in &pairs {
            insert(&mut table, pair)?;
        }
        let Rule { calls, .. } = Rule::deserialize(table)
            .map_err(|error| error.message().to_owned())?
            .checked()?;
        let (Some(service), 1) = (calls.call.service, calls.call.procedures.len()) else {
            return Err(format!(
                "{} is not one call: expected one procedure, as nlm.lock",
                calls.call
            ));
        };
        let exact = |pattern: &crate::pattern::Pattern| match pattern.exact() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("'{pattern}' is a pattern: a call has one name")),
        };
        let peer = calls
            .peer
            .map(|peer| peer.exact().ok_or_else(|| format!("'{peer}' is not one address")));
        let peer = peer.transpose()?.unwrap_or_else(|| [127, 0, 0, 1].into());
        let caller = calls.caller.as_ref().map(exact).transpose()?;
        let lock = (service == Service::Lockd).then_some(LockFacts {
            caller: b"",
            svid: calls.owner,
            exclusive: calls.exclusive,
            block: calls.block,
            reclaim: calls.reclaim,
        });
        let (program, newest) = program_of(service);
        Ok(Sample(Facts {
            exchange: Exchange {
                direction: calls.direction,
                service,
                peer: SocketAddr::new(peer, 0),
                transport: calls.transport.unwrap_or(Transport::Tcp),
                program,
                version: calls.version.unwrap_or(newest),
                procedure: calls.call.procedures.first().copied().unwrap_or_default(),
                xid: 0,
                uid: calls.uid,
            },
            client: caller.clone().unwrap_or_else(|| peer.to_string()),
            caller: caller.map(String::into_bytes),
            lock,
            handle: calls.handle.as_deref().and_then(unhex),
            path: calls.path.as_ref().map(exact).transpose()?,
            bytes: calls.bytes.map(|bytes| bytes.to_range()),
        }))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// A service's program and its newest version.
const fn program_of(service: Service) -> (u32, u32) {
    match service {
        Service::Portmap => (proto::portmap::PROGRAM, proto::rpcbind::V4),
        Service::Mount => (proto::mount::PROGRAM, proto::mount::V3),
        Service::Nfs => (proto::nfs3::PROGRAM, proto::nfs3::V3),
        Service::Lockd => (proto::nlm::PROGRAM, proto::nlm::V4),
        Service::Statd => (proto::nsm::PROGRAM, proto::nsm::V1),
    }
}

/// What one rule would do about a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Explained {
    /// The rule.
    pub rule: String,
    /// Whether it would act on the call.
    pub acts: bool,
    /// Why, or why not.
    pub why: String,
}

impl Active {
    /// What every rule would do about the first transmission of a call. Nothing is counted by this.
    pub fn explain(&self, now: Duration, call: &dyn Look, table: &Table) -> Vec<Explained> {
        let mut taken: Option<&str> = None;
        let views = self.view(now);
        let mut explained = Vec::new();
        for (rule, view) in self.rules().iter().zip(&views) {
            let (acts, why) = match self.would(rule, view.ended, view.counted, call, table) {
                Err(why) => (false, why),
                Ok(why) => match taken {
                    Some(first) => (false, format!("{why}, but \"{first}\" comes first")),
                    None => {
                        taken = Some(&rule.name);
                        (true, why)
                    }
                },
            };
            explained.push(Explained {
                rule: rule.name.clone(),
                acts,
                why,
            });
        }
        explained
    }

    /// What stands in the way of a rule, or what it would do.
    fn would(
        &self,
        rule: &Rule,
        ended: bool,
        counted: u64,
        call: &dyn Look,
        table: &Table,
    ) -> Result<String, String> {
        rule.calls.check(call).map_err(|miss| miss.to_string())?;
        if ended {
            return Err("it is over (until)".to_owned());
        }
        if !rule.calls.transmission.has(1) {
            return Err(format!("it wants transmission={}", rule.calls.transmission));
        }
        if let Some(after) = rule.when.after.as_ref().filter(|_| !self.is_armed(rule)) {
            return Err(format!("it waits for an event {after}, and none has happened"));
        }
        if !rule.when.table_fits(table) {
            let Table { held, waiting, grace } = table;
            return Err(format!(
                "the lock table is not as it wants: {held} held, {waiting} waiting, grace={grace}"
            ));
        }
        let way = match call.exchange().direction {
            Direction::Call => "call",
            Direction::Callback => "callback",
        };
        let next = counted + 1;
        if rule.when.per == crate::rule::Per::Rule && !rule.when.counts(next) {
            return Err(format!(
                "it would be {way} {next} that it counts, and is not chosen"
            ));
        }
        let chance = rule
            .when
            .p
            .map_or(String::new(), |p| format!(", with a chance of {p}"));
        let call = history::describe(call);
        Ok(format!(
            "{} at {} would be done to {call}{chance}",
            rule.deed.action,
            rule.at()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleFile;

    #[test]
    fn every_rule_says_why() {
        let lines = [
            "nlm.lock owner=4 -> drop",
            "nlm.lock path=/lab/* nth=2 -> drop",
            "nlm.lock after=lockd/granted -> drop",
            "nlm.lock held=1 -> drop",
            "one: nlm.lock exclusive=true -> hold g",
            "nlm.* -> delay 5s",
            "nfs.* -> drop",
        ];
        let rules = lines.iter().map(|line| line.parse().unwrap()).collect();
        let rules = RuleFile {
            rules,
            tables: vec![],
        }
        .into_rules()
        .unwrap();
        let active = Active::new(rules, 1, Duration::ZERO, None);
        let call: Sample = "nlm.lock path=/lab/f owner=3 exclusive=true".parse().unwrap();
        let told = active.explain(Duration::ZERO, &call.0, &Table::default());
        let why: Vec<&str> = told.iter().map(|one| one.why.as_str()).collect();
        assert!(
            why[0].contains("owner=4") && why[0].contains("has 3"),
            "{}",
            why[0]
        );
        assert!(why[1].contains("call 1"), "{}", why[1]);
        assert!(why[2].contains("lockd/granted"), "{}", why[2]);
        assert!(why[3].contains("0 held"), "{}", why[3]);
        assert!(why[5].contains("\"one\" comes first"), "{}", why[5]);
        assert!(why[6].contains("nlm.lock"), "{}", why[6]);
        let acts: Vec<bool> = told.iter().map(|one| one.acts).collect();
        assert_eq!(acts, [false, false, false, false, true, false, false]);
        assert_eq!(active.view(Duration::ZERO)[4].counted, 0);
        assert!("nlm.*".parse::<Sample>().unwrap_err().contains("one procedure"));
        assert!(
            "nlm.lock path=/a*"
                .parse::<Sample>()
                .unwrap_err()
                .contains("pattern")
        );
    }
}
