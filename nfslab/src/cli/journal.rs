//! `nfslab journal`: journals of decisions, read and compared.

use super::output::{json, table};
use super::serve::read_journal;
use super::{Done, Exit, OrExit, Output};
use clap::{Args, Subcommand};
use faults::journal::Journal as Decisions;
use serde::Serialize;
use std::path::PathBuf;

/// `nfslab journal`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nfslab run --journal one.jsonl scenarios/granted-lost.toml\n  \
                  nfslab run --journal two.jsonl scenarios/granted-lost.toml\n  nfslab journal compare one.jsonl two.jsonl\n  \
                  nfslab journal show one.jsonl"
)]
pub struct Journal {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every decision.
    Show {
        /// Written with --journal.
        file: PathBuf,
    },
    /// Compare journals of runs that should be the same. What the client chose is left out: addresses, xids, the numbers
    /// of owners, times, transmissions, and the order of decisions of different rules. Exit code 1 if they differ.
    Compare {
        /// Written with --journal.
        #[arg(required = true, num_args = 2..)]
        files: Vec<PathBuf>,
    },
}

/// Where a journal differs from the first.
#[derive(Debug, Serialize)]
struct Difference {
    file: PathBuf,
    rule: String,
    first: Option<String>,
    here: Option<String>,
}

impl Journal {
    pub fn main(self, output: Output) -> Done {
        match self.command {
            Command::Show { file } => {
                show(&read_journal(&file).or_exit(Exit::Usage)?, output);
                Ok(Exit::Passed)
            }
            Command::Compare { files } => compare(&files, output),
        }
    }
}

fn show(journal: &Decisions, output: Output) {
    match output {
        Output::Json => json(&journal.entries),
        Output::Text => {
            let rows: Vec<_> = journal
                .entries
                .iter()
                .map(|entry| {
                    let done = match (entry.chosen, entry.acts) {
                        (true, true) => "done",
                        (true, false) => "an earlier rule's",
                        (false, _) => "passed",
                    };
                    vec![
                        format!("{:.1} ms", entry.client.at_ms),
                        entry.from.clone(),
                        entry.call.clone(),
                        entry.path.clone().unwrap_or_default(),
                        format!("{} at {}", entry.deed, entry.at),
                        done.to_owned(),
                        entry.rule.clone(),
                    ]
                })
                .collect();
            table(&["AT", "CLIENT", "CALL", "ABOUT", "WHAT", "", "RULE"], &rows);
        }
    }
}

fn compare(files: &[PathBuf], output: Output) -> Done {
    let journals = files.iter().map(|file| read_journal(file));
    let journals = journals.collect::<Result<Vec<_>, _>>().or_exit(Exit::Usage)?;
    let Some((first, others)) = journals.split_first() else {
        return Ok(Exit::Passed);
    };
    let expected = first.comparable();
    let mut differences = Vec::new();
    for (file, journal) in files.iter().skip(1).zip(others) {
        let found = journal.comparable();
        let rules = expected.keys().chain(found.keys()).copied();
        for rule in rules.collect::<std::collections::BTreeSet<&str>>() {
            let decisions = |of: &std::collections::BTreeMap<&str, Vec<String>>| {
                of.get(rule).cloned().unwrap_or_default()
            };
            let (one, other) = (decisions(&expected), decisions(&found));
            if let Some(n) = (0..one.len().max(other.len())).find(|n| one.get(*n) != other.get(*n)) {
                differences.push(Difference {
                    file: file.clone(),
                    rule: rule.to_owned(),
                    first: one.get(n).cloned(),
                    here: other.get(n).cloned(),
                });
            }
        }
    }
    match output {
        Output::Json => json(&differences),
        Output::Text => {
            for difference in &differences {
                let none = || "nothing".to_owned();
                println!(
                    "{}: rule \"{}\": expected {}, found {}",
                    difference.file.display(),
                    difference.rule,
                    difference.first.clone().unwrap_or_else(none),
                    difference.here.clone().unwrap_or_else(none)
                );
            }
            if differences.is_empty() {
                let decisions = first.entries.len();
                println!(
                    "the same in all {}: {} rules, {decisions} decisions",
                    files.len(),
                    expected.len()
                );
            }
        }
    }
    Ok(if differences.is_empty() {
        Exit::Passed
    } else {
        Exit::Failed
    })
}
