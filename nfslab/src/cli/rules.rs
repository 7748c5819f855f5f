//! Commands on the rules, gates and expectations of a running server.

use super::control::At;
use super::output::{json, table};
use super::{Done, Exit, OrExit, Output};
use crate::control::api::{GateView, RuleView, SetGate, Verify as Expected};
use crate::control::client::Control;
use anyhow::Context;
use clap::{Args, Subcommand};
use faults::rule::{Line, RuleFile};
use std::io::Read;
use std::path::PathBuf;

/// `nfslab rule`.
#[derive(Debug, Args)]
#[command(after_help = "A rule says which calls, when, and what is done with them:\n  \
                  nlm.lock exclusive=true nth=2 -> hold g1\n  \
                  lost: callback nlm.granted_msg peer=10.77.0.2 count=1 -> drop\n  \
                  nfs.write path=/lab/db* every=100 -> answer NFS3ERR_JUKEBOX\n\n\
                  Examples:\n  nfslab rule set 'nlm.unlock count=1 -> drop-reply'\n  nfslab rule set --file rules.toml\n  \
                  nfslab rule list\n  nfslab rule explain 'nlm.lock path=/lab/file owner=3 exclusive=true'\n  nfslab rule clear\n\n\
                  docs/faults.md has every key and action.")]
pub struct Rule {
    #[command(subcommand)]
    command: RuleCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum RuleCommand {
    /// List the rules in force: how many calls each has counted, and how often it was done.
    List,
    /// Replace all rules by these, as one.
    Set {
        /// A rule as a line: CALL [KEY=VALUE]… -> ACTION [at POINT].
        #[arg(value_name = "RULE", required_unless_present = "file")]
        lines: Vec<String>,
        /// A TOML file with `rules = [lines]` and `[[rule]]` tables; - is standard input.
        #[arg(long, value_name = "FILE", conflicts_with = "lines")]
        file: Option<PathBuf>,
    },
    /// Which rule a call would meet, and why the others would not.
    Explain {
        /// The call, as a rule has it before its arrow.
        #[arg(value_name = "CALL")]
        call: String,
    },
    /// Take all rules away.
    Clear,
}

impl Rule {
    pub fn main(self, output: Output) -> Done {
        match self.command {
            RuleCommand::List => {
                let rules = self.at.ask(|control| async move { control.rules().await })?;
                print_rules(&rules, output);
            }
            RuleCommand::Set { lines, file } => {
                let toml = match file {
                    Some(file) => read(&file).or_exit(Exit::Usage)?,
                    None => as_file(&lines).or_exit(Exit::Usage)?,
                };
                let rules = self
                    .at
                    .ask(|control| async move { control.set_rules(toml).await })?;
                print_rules(&rules, output);
            }
            RuleCommand::Explain { call } => {
                let checked = call.parse::<faults::explain::Sample>();
                checked.map_err(anyhow::Error::msg).or_exit(Exit::Usage)?;
                let ask = |control: Control| async move { control.explain(&call).await };
                let explained = self.at.ask(ask)?;
                match output {
                    Output::Json => json(&explained),
                    Output::Text => {
                        let rows: Vec<_> = explained
                            .iter()
                            .map(|one| {
                                let acts = if one.acts { "ACTS" } else { "-" };
                                vec![acts.to_owned(), one.rule.clone(), one.why.clone()]
                            })
                            .collect();
                        table(&["", "RULE", "WHY"], &rows);
                    }
                }
            }
            RuleCommand::Clear => {
                let rules = self.at.ask(|control| async move { control.no_rules().await })?;
                print_rules(&rules, output);
            }
        }
        Ok(Exit::Passed)
    }
}

/// Lines as a rule file, checked before anybody is asked.
fn as_file(lines: &[String]) -> anyhow::Result<String> {
    let rules = lines
        .iter()
        .map(|line| line.parse::<Line>().map_err(anyhow::Error::msg));
    let file = RuleFile {
        rules: rules.collect::<Result<_, _>>()?,
        tables: vec![],
    };
    file.clone().into_rules().map_err(anyhow::Error::msg)?;
    Ok(toml::to_string(&file)?)
}

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == std::path::Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let checked = RuleFile::parse(&text).and_then(RuleFile::into_rules);
    checked
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("in {}", path.display()))?;
    Ok(text)
}

fn print_rules(rules: &[RuleView], output: Output) {
    match output {
        Output::Json => json(&rules),
        Output::Text => {
            let rows: Vec<_> = rules
                .iter()
                .map(|rule| {
                    let state = if rule.ended { "over" } else { "in force" };
                    vec![
                        rule.counted.to_string(),
                        rule.fired.to_string(),
                        state.to_owned(),
                        rule.rule.clone(),
                    ]
                })
                .collect();
            table(&["COUNTED", "DONE", "STATE", "RULE"], &rows);
        }
    }
}

/// `nfslab gate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nfslab rule set 'nlm.lock nth=2 -> hold g1'\n  nfslab gate wait g1 --held 1 --within 10s\n  \
                  nfslab gate release g1\n  nfslab gate release g1 --count 1 --as 'answer NLM4_DENIED'\n  nfslab gate open g1"
)]
pub struct Gate {
    #[command(subcommand)]
    command: GateCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum GateCommand {
    /// List every gate and what waits there.
    List,
    /// Wait until so many calls are held at a gate, and show them.
    Wait {
        /// The gate.
        gate: String,
        /// How many.
        #[arg(long, default_value_t = 1)]
        held: usize,
        /// How long it may take.
        #[arg(long, default_value = "30s")]
        within: String,
    },
    /// Let calls go, or decide otherwise about them.
    Release {
        /// The gate.
        gate: String,
        /// What becomes of them: go, drop, or answer STATUS.
        #[arg(long = "as", value_name = "VERDICT", default_value = "go")]
        verdict: String,
        /// Only the call with this number.
        #[arg(long, conflicts_with = "count")]
        id: Option<u64>,
        /// Only the first so many.
        #[arg(long)]
        count: Option<usize>,
    },
    /// Let everything pass, now and from now on.
    Open {
        /// The gate.
        gate: String,
    },
    /// Hold again what comes.
    Close {
        /// The gate.
        gate: String,
    },
}

impl Gate {
    pub fn main(self, output: Output) -> Done {
        let set = |gate: String, what: SetGate| {
            let ask = move |control: Control| async move { control.set_gate(&gate, &what).await };
            let released = self.at.ask(ask)?;
            match output {
                Output::Json => json(&released),
                Output::Text => println!("{} released", released.released),
            }
            Ok(Exit::Passed)
        };
        match self.command {
            GateCommand::List => {
                let gates = self.at.ask(|control| async move { control.gates().await })?;
                print_gates(&gates, output);
                Ok(Exit::Passed)
            }
            GateCommand::Wait { gate, held, within } => {
                humantime::parse_duration(&within)
                    .with_context(|| format!("--within '{within}' is no duration such as 10s"))
                    .or_exit(Exit::Usage)?;
                let ask = |control: Control| async move { control.wait_at_gate(&gate, held, &within).await };
                print_gates(&[self.at.ask(ask)?], output);
                Ok(Exit::Passed)
            }
            GateCommand::Release {
                gate,
                verdict,
                id,
                count,
            } => {
                let verdict: crate::server::Verdict =
                    verdict.parse().map_err(anyhow::Error::msg).or_exit(Exit::Usage)?;
                let what = SetGate {
                    release: Some(verdict.to_string()),
                    id,
                    count,
                    open: None,
                };
                set(gate, what)
            }
            GateCommand::Open { gate } => set(gate, open(true)),
            GateCommand::Close { gate } => set(gate, open(false)),
        }
    }
}

fn open(open: bool) -> SetGate {
    SetGate {
        open: Some(open),
        ..SetGate::default()
    }
}

fn print_gates(gates: &[GateView], output: Output) {
    match output {
        Output::Json => json(&gates),
        Output::Text => {
            let mut rows = Vec::new();
            for gate in gates {
                let state = if gate.open { "open" } else { "closed" };
                for held in &gate.held {
                    rows.push(vec![
                        gate.gate.clone(),
                        state.to_owned(),
                        held.id.to_string(),
                        held.at.clone(),
                        held.call.clone(),
                    ]);
                }
                if gate.held.is_empty() {
                    let came = format!("{} have come, none waits", gate.arrived);
                    rows.push(vec![
                        gate.gate.clone(),
                        state.to_owned(),
                        "-".to_owned(),
                        "-".to_owned(),
                        came,
                    ]);
                }
            }
            table(&["GATE", "STATE", "ID", "AT", "CALL"], &rows);
        }
    }
}

/// `nfslab verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nfslab verify\n  nfslab verify 'at least 2 of nlm.lock exclusive=true' 'never nlm.cancel' --within 10s\n  \
                  nfslab verify --only 'nlm.lock owner=1 before nlm.unlock owner=1'"
)]
pub struct Verify {
    /// What is expected: N of CALL, at least N of CALL, at most N of CALL, never CALL, CALL before CALL, rule NAME, rule
    /// NAME N times.
    #[arg(value_name = "EXPECTATION")]
    expect: Vec<String>,
    /// How long it may take to become so.
    #[arg(long)]
    within: Option<String>,
    /// Only what is said: not that every rule was done, no gate holds a call, and a replayed journal is complete.
    #[arg(long)]
    only: bool,
    #[command(flatten)]
    at: At,
}

impl Verify {
    pub fn main(self, output: Output) -> Done {
        for text in &self.expect {
            let checked = text.parse::<faults::verify::Expectation>();
            checked.map_err(anyhow::Error::msg).or_exit(Exit::Usage)?;
        }
        if let Some(within) = &self.within {
            humantime::parse_duration(within)
                .with_context(|| format!("--within '{within}' is no duration such as 10s"))
                .or_exit(Exit::Usage)?;
        }
        let what = Expected {
            expect: self.expect,
            within: self.within,
            only: self.only,
        };
        let verified = self
            .at
            .ask(|control| async move { control.verify(&what).await })?;
        match output {
            Output::Json => json(&verified),
            Output::Text => {
                for check in &verified.checks {
                    let mark = if check.passed { "✓" } else { "✗" };
                    println!("{mark} {}: {}", check.expect, check.found);
                }
                if verified.checks.is_empty() {
                    println!("✓ every rule was done, and no call waits at a gate");
                }
            }
        }
        Ok(if verified.passed {
            Exit::Passed
        } else {
            Exit::Failed
        })
    }
}
