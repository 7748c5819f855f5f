//! The figures, as a table or as JSON.

use crate::work::{Wanted, Work};
use clap::ValueEnum;
use serde::Serialize;
use std::fmt;

/// How the figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table.
    Text,
    /// JSON.
    Json,
}

/// A workload's rates, run by run.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: &'static str,
    /// Replies a second of the responder that does nothing.
    pub floor: Vec<f64>,
    /// Replies a second of nfslab.
    pub server: Vec<f64>,
    /// What is wanted, in words.
    pub wanted: String,
    /// What was reached in each round, in the same terms; none if what it is compared with was not measured.
    pub reached: Vec<f64>,
    /// Whether that is enough.
    pub enough: Option<bool>,
    #[serde(skip)]
    goal: Wanted,
}

/// A figure that is not a rate.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    pub at_most: Option<f64>,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
    pub figures: Vec<Figure>,
}

/// The one in the middle.
pub fn median(runs: &[f64]) -> f64 {
    let mut runs = runs.to_vec();
    runs.sort_by(f64::total_cmp);
    runs.get(runs.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What was reached in each round of what was measured beside.
pub fn ratios(rates: &[f64], others: &[f64]) -> Vec<f64> {
    rates
        .iter()
        .zip(others)
        .map(|(rate, other)| rate / other)
        .collect()
}

/// Lowest and highest.
fn ends(runs: &[f64]) -> (f64, f64) {
    let low = runs.iter().copied().fold(f64::INFINITY, f64::min);
    (low, runs.iter().copied().fold(0.0, f64::max))
}

/// Lowest, median and highest.
pub fn spread(runs: &[f64]) -> String {
    let (low, high) = ends(runs);
    format!("{:>9} ({} to {})", short(median(runs)), short(low), short(high))
}

fn short(rate: f64) -> String {
    match rate {
        r if r >= 1e6 => format!("{:.2} M", r / 1e6),
        r if r >= 1e4 => format!("{:.0} k", r / 1e3),
        r => format!("{r:.0}"),
    }
}

impl Row {
    pub fn new(work: &Work) -> Row {
        let wanted = match work.wanted {
            Wanted::OfFloor(share) => format!("{share} of the floor"),
            Wanted::Of(other, share) => format!("{share} of {other}"),
            Wanted::OfFloorOr(share, rate) => format!("{share} of the floor, or {} a second", short(rate)),
        };
        Row {
            name: work.name,
            floor: Vec::new(),
            server: Vec::new(),
            wanted,
            reached: Vec::new(),
            enough: None,
            goal: work.wanted,
        }
    }

    /// nfslab's share of the floor, round by round.
    fn shares(&self) -> Vec<f64> {
        ratios(&self.server, &self.floor)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<38} floor {:<32} nfslab {:<32} {:.2} of the floor",
            self.name,
            spread(&self.floor),
            spread(&self.server),
            median(&self.shares())
        )
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<42} {:.1} {}{}",
            self.name,
            self.value,
            self.unit,
            self.at_most
                .map_or(String::new(), |limit| format!(" (wanted: at most {limit})"))
        )
    }
}

impl Report {
    /// Fills in what each row has reached.
    pub fn compare_with_others(&mut self) {
        let rates: Vec<(&str, Vec<f64>)> = self
            .rows
            .iter()
            .map(|row| (row.name, row.server.clone()))
            .collect();
        for row in &mut self.rows {
            let (reached, wanted) = match row.goal {
                Wanted::OfFloor(wanted) | Wanted::OfFloorOr(wanted, _) => (row.shares(), wanted),
                Wanted::Of(other, wanted) => {
                    let other = rates.iter().find(|(name, _)| *name == other);
                    let other = other.map_or(&[][..], |(_, rates)| rates);
                    (ratios(&row.server, other), wanted)
                }
            };
            let fast = matches!(row.goal, Wanted::OfFloorOr(_, rate) if median(&row.server) >= rate);
            row.enough = (!reached.is_empty()).then(|| fast || median(&reached) >= wanted);
            row.reached = reached;
        }
    }

    pub fn print(&self, output: Output) {
        match output {
            Output::Json => match serde_json::to_string_pretty(self) {
                Ok(text) => println!("{text}"),
                Err(error) => eprintln!("{error}"),
            },
            Output::Text => self.table(),
        }
    }

    fn table(&self) {
        println!("| what | floor | nfslab | reached | wanted |");
        println!("|---|---|---|---|---|");
        for row in &self.rows {
            let (least, most) = ends(&row.reached);
            let reached = match (median(&row.reached), row.enough) {
                (share, Some(true)) => format!("{share:.2} ({least:.2} to {most:.2})"),
                (share, Some(false)) => format!("**{share:.2}** ({least:.2} to {most:.2})"),
                (_, None) => "-".to_owned(),
            };
            println!(
                "| {} | {} | {} | {reached} | {} |",
                row.name,
                spread(&row.floor).trim(),
                spread(&row.server).trim(),
                row.wanted
            );
        }
        for figure in &self.figures {
            let missed = figure.at_most.is_some_and(|limit| figure.value > limit);
            let missed = if missed { "**" } else { "" };
            let wanted = figure
                .at_most
                .map_or("-".to_owned(), |limit| format!("at most {limit}"));
            println!(
                "| {} | | {missed}{:.1} {}{missed} | | {wanted} |",
                figure.name, figure.value, figure.unit
            );
        }
    }
}
