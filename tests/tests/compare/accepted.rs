//! The differences that are meant to be: `accepted.toml`, each with its reason.

use serde::Deserialize;
use std::collections::BTreeSet;

/// One case, or several, in which our answer differs from Linux' in this way.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// `TRANSCRIPT/CASE` each; `*` stands for any text.
    pub cases: Vec<String>,
    /// On this store only: `mem` or `dir`.
    pub store: Option<String>,
    /// Only with this series of kernels, such as `7.3`.
    pub kernel: Option<String>,
    /// What Linux says where the answers differ; `*` stands for any text. An answer may differ in several places,
    /// and each must be listed.
    pub linux: String,
    /// What we say there.
    pub ours: String,
    /// Why that is right.
    pub why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    difference: Vec<Accepted>,
}

/// The series for which every entry without a `kernel` must occur. Later ones have mended some of what is listed.
pub const MADE_FOR: &str = "6.1";

/// The list, and which of its cases have been met.
pub struct List {
    series: String,
    all: Vec<Accepted>,
    met: BTreeSet<(usize, usize)>,
}

impl List {
    /// Reads `accepted.toml`, for a comparison with a kernel of this series.
    pub fn parse(text: &str, series: &str) -> Result<List, String> {
        let mut file: File = toml::from_str(text).map_err(|e| format!("accepted.toml: {e}"))?;
        let applies = |a: &Accepted| a.kernel.as_ref().is_none_or(|kernel| kernel == series);
        file.difference.retain(applies);
        Ok(List {
            series: series.to_owned(),
            all: file.difference,
            met: BTreeSet::new(),
        })
    }

    /// Whether this difference is listed.
    pub fn accepts(&mut self, store: &str, case: &str, linux: &str, ours: &str) -> bool {
        let mut found = false;
        for (n, accepted) in self.all.iter().enumerate() {
            if accepted.store.as_ref().is_some_and(|wanted| wanted != store)
                || !fits(&accepted.linux, linux)
                || !fits(&accepted.ours, ours)
            {
                continue;
            }
            for (m, pattern) in accepted.cases.iter().enumerate() {
                if fits(pattern, case) {
                    self.met.insert((n, m));
                    found = true;
                }
            }
        }
        found
    }

    /// What is listed and has not occurred: the list must not rot. Only of these transcripts.
    pub fn unmet(&self, played: &BTreeSet<String>) -> Vec<String> {
        let mut unmet = Vec::new();
        for (n, accepted) in self.all.iter().enumerate() {
            if accepted.kernel.is_none() && self.series != MADE_FOR {
                continue;
            }
            for (m, pattern) in accepted.cases.iter().enumerate() {
                let of = pattern.split('/').next().unwrap_or_default();
                if !self.met.contains(&(n, m)) && played.iter().any(|p| fits(of, p)) {
                    unmet.push(format!("{pattern}: {} => {}", accepted.linux, accepted.ours));
                }
            }
        }
        unmet
    }

    /// How many reasons there are.
    pub fn reasons(&self) -> usize {
        self.all.iter().filter(|a| !a.why.is_empty()).count()
    }
}

/// Whether a text is as a pattern says, in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| fits(tail, rest)))
        }),
    }
}

/// Where two texts differ: the words of the one that the other has not, and what it has in their place.
pub fn differences(linux: &str, ours: &str) -> Vec<(String, String)> {
    let (a, b): (Vec<&str>, Vec<&str>) = (linux.split(' ').collect(), ours.split(' ').collect());
    // common[i][j]: how many words of a[i..] and b[j..] can be paired in order.
    let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = match a[i] == b[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut all) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        let (from, with) = (i, j);
        while i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        }
        if (i, j) != (from, with) {
            continue;
        }
        while (i < a.len() || j < b.len()) && !(i < a.len() && j < b.len() && a[i] == b[j]) {
            match j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
                true => i += 1,
                false => j += 1,
            }
        }
        all.push((a[from..i].join(" "), b[with..j].join(" ")));
    }
    all
}
