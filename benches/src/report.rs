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
    /// What was reached, in the same terms; none if what it is compared with was not measured.
    pub reached: Option<Share>,
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

/// Of runs that take the same time, the rate of all together.
fn mean(runs: &[f64]) -> f64 {
    runs.iter().sum::<f64>() / runs.len() as f64
}

/// A ratio of two rates, and between what it lies with 95 % certainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    pub reached: f64,
    pub least: f64,
    pub most: f64,
}

impl Share {
    /// Of all rounds together, so that what the machine does to a few of them counts for no more than it took away. How
    /// certain it is follows from how much each round's rates differ from that ratio (Cochran, *Sampling Techniques*,
    /// section 6.3 in the third edition), as far as one round does not depend on another.
    pub fn of(rates: &[f64], others: &[f64]) -> Share {
        let rounds = rates.len().min(others.len()) as f64;
        let all = others.iter().sum::<f64>();
        let reached = rates.iter().sum::<f64>() / all;
        let off = rates
            .iter()
            .zip(others)
            .map(|(rate, other)| (rate - reached * other).powi(2));
        let error = (off.sum::<f64>() * rounds / (rounds - 1.0)).sqrt() / all;
        Share {
            reached,
            least: reached - 1.96 * error,
            most: reached + 1.96 * error,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Share { reached, least, most } = self;
        write!(f, "{reached:.2}")?;
        // One round says nothing of it.
        match least.is_finite() {
            true => write!(f, " ({least:.2} to {most:.2})"),
            false => Ok(()),
        }
    }
}

/// Half of the runs lie between these.
fn middle_half(runs: &[f64]) -> (f64, f64) {
    let mut runs = runs.to_vec();
    runs.sort_by(f64::total_cmp);
    let low = runs.len() / 4;
    let at = |place: usize| runs.get(place).copied().unwrap_or(f64::NAN);
    (at(low), at(runs.len().saturating_sub(1 + low)))
}

/// The mean, and between what the middle half lies.
pub fn spread(runs: &[f64]) -> String {
    let (low, high) = middle_half(runs);
    format!("{:>9} ({} to {})", short(mean(runs)), short(low), short(high))
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
            reached: None,
            enough: None,
            goal: work.wanted,
        }
    }

    fn of_floor(&self) -> Share {
        Share::of(&self.server, &self.floor)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<38} floor {:<32} nfslab {:<32} {} of the floor",
            self.name,
            spread(&self.floor),
            spread(&self.server),
            self.of_floor()
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
                Wanted::OfFloor(wanted) | Wanted::OfFloorOr(wanted, _) => (Some(row.of_floor()), wanted),
                Wanted::Of(other, wanted) => {
                    let other = rates.iter().find(|(name, _)| *name == other);
                    (other.map(|(_, rates)| Share::of(&row.server, rates)), wanted)
                }
            };
            let fast = matches!(row.goal, Wanted::OfFloorOr(_, rate) if mean(&row.server) >= rate);
            row.enough = reached.map(|share| fast || share.reached >= wanted);
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
            let reached = match (row.reached, row.enough) {
                (Some(share), Some(false)) => format!("**{share}**"),
                (Some(share), _) => share.to_string(),
                (None, _) => "-".to_owned(),
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
