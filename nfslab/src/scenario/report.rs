//! The verdict of a run, for people and for machines (TAP, JUnit XML, JSON).

use super::timeline::Line;
use anyhow::{Context, Result, bail};
use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// What it was to show.
    pub say: String,
    /// Whether it did; `None`: it was not reached.
    pub passed: Option<bool>,
    /// What was seen, or what was missing.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// What it settles, if it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shows: Option<String>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The scenario's title.
    pub title: String,
    /// Which symptom of docs/symptoms.md it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u32>,
    /// What a person sees.
    #[serde(default)]
    pub symptom: String,
    /// Why it is so.
    #[serde(default)]
    pub cause: String,
    /// How to find it in real life.
    #[serde(default)]
    pub find: String,
    /// How to mend it in real life.
    #[serde(default)]
    pub mend: String,
    /// Whether every step passed.
    pub passed: bool,
    /// Each client's kernel, as it calls itself.
    pub kernels: Vec<String>,
    /// The steps.
    pub steps: Vec<StepResult>,
    /// How long the whole run took, in milliseconds.
    pub took_ms: f64,
    /// From power-on to the mounted export, for each client, in milliseconds.
    pub mounted_ms: Vec<f64>,
}

/// A verdict with everything that led to it.
#[derive(Debug, Serialize)]
pub struct Full<'a> {
    /// The verdict.
    #[serde(flatten)]
    pub verdict: &'a Verdict,
    /// The timeline.
    pub timeline: &'a [Line],
}

/// A report that is wanted: its form and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    form: Form,
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Tap,
    Junit,
    Json,
    Symptoms,
}

impl FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("'{text}' is not a report: expected tap=FILE, junit=FILE, json=FILE or symptoms=FILE");
        let (form, file) = text.split_once('=').ok_or_else(wrong)?;
        let form = match form {
            "tap" => Form::Tap,
            "junit" => Form::Junit,
            "json" => Form::Json,
            "symptoms" => Form::Symptoms,
            _ => return Err(wrong()),
        };
        if file.is_empty() {
            Err(wrong())
        } else {
            Ok(Wanted {
                form,
                file: file.into(),
            })
        }
    }
}

impl Wanted {
    /// Writes the report on `verdicts`.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn write(&self, verdicts: &[Verdict]) -> Result<()> {
        let text = match self.form {
            Form::Tap => tap(verdicts),
            Form::Junit => junit(verdicts)?,
            Form::Json => serde_json::to_string_pretty(verdicts)?,
            Form::Symptoms => symptoms(verdicts),
        };
        std::fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// What was seen, for people with such a symptom: Markdown, in the order of the rows.
fn symptoms(verdicts: &[Verdict]) -> String {
    let mut rows: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.row.is_some()).collect();
    rows.sort_by_key(|verdict| verdict.row);
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = String::from(
        "# Symptoms, and what they come from\n\nMade by `make symptoms` from runs on real kernels, not by hand. What \
         stands under \"seen\" was seen by the run; a scenario of the same title in `scenarios/` shows it again.\n",
    );
    for verdict in rows {
        let row = verdict.row.unwrap_or_default();
        let _ = write!(text, "\n## {row}. {}\n\n", verdict.title);
        let mut kernels = verdict.kernels.clone();
        kernels.sort();
        kernels.dedup();
        let passed = if verdict.passed {
            ""
        } else {
            ": **NOT as expected**"
        };
        let _ = writeln!(text, "- **Symptom**: {}", one_line(&verdict.symptom));
        let _ = writeln!(text, "- **Cause**: {}", one_line(&verdict.cause));
        let _ = writeln!(text, "- **Seen** on Linux {}{passed}:", kernels.join(", "));
        for step in &verdict.steps {
            match (&step.shows, step.passed) {
                (Some(shows), Some(true)) => {
                    let _ = writeln!(text, "  - {}", one_line(shows));
                }
                (_, Some(false)) => {
                    let _ = writeln!(
                        text,
                        "  - not seen: {}: {}",
                        one_line(&step.say),
                        one_line(&step.detail)
                    );
                }
                _ => {}
            }
        }
        for (what, how) in [("Find", &verdict.find), ("Mend", &verdict.mend)] {
            if !how.is_empty() {
                let _ = writeln!(text, "- **{what}**: {}", one_line(how));
            }
        }
    }
    text
}

/// Test Anything Protocol, version 14: a test for each step.
fn tap(verdicts: &[Verdict]) -> String {
    let steps = || verdicts.iter().flat_map(|v| v.steps.iter().map(move |s| (v, s)));
    let mut text = format!("TAP version 14\n1..{}\n", steps().count());
    for (n, (verdict, step)) in steps().enumerate() {
        let ok = if step.passed == Some(true) { "ok" } else { "not ok" };
        let skip = if step.passed.is_none() {
            " # SKIP not reached"
        } else {
            ""
        };
        let name = format!("{}: {}", verdict.title, step.say).replace('#', "\\#");
        let _ = writeln!(text, "{ok} {} - {name}{skip}", n + 1);
        if step.passed == Some(false) {
            let _ = writeln!(
                text,
                "  ---\n  message: {}\n  ...",
                serde_json::Value::from(step.detail.as_str())
            );
        }
    }
    text
}

fn junit(verdicts: &[Verdict]) -> Result<String> {
    let mut report = Junit::new("nfslab");
    for verdict in verdicts {
        let mut suite = TestSuite::new(&verdict.title);
        suite.set_time(Duration::from_secs_f64(verdict.took_ms / 1000.0));
        for step in &verdict.steps {
            let status = match step.passed {
                Some(true) => TestCaseStatus::success(),
                Some(false) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(&step.detail);
                    status
                }
                None => TestCaseStatus::skipped(),
            };
            let mut case = TestCase::new(&step.say, status);
            case.set_time(Duration::from_secs_f64(step.took_ms / 1000.0));
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    Ok(report.to_string()?)
}

/// Reads verdicts that another process wrote as JSON.
///
/// # Errors
/// If the file is not there or is something else.
pub fn read(path: &Path) -> Result<Vec<Verdict>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let verdicts: Vec<Verdict> = serde_json::from_slice(&text)?;
    if verdicts.is_empty() {
        bail!("{} has no verdict", path.display());
    }
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        let step = |say: &str, passed| StepResult {
            say: say.into(),
            passed,
            detail: "seen: 3".into(),
            took_ms: 1.5,
            shows: None,
        };
        Verdict {
            title: "t".into(),
            passed: false,
            kernels: vec!["6.1.0".into()],
            steps: vec![step("a", Some(true)), step("b #1", Some(false)), step("c", None)],
            took_ms: 3.0,
            row: None,
            symptom: String::new(),
            cause: String::new(),
            find: String::new(),
            mend: String::new(),
            mounted_ms: vec![2900.0],
        }
    }

    #[test]
    fn tap_says_what_passed_what_failed_and_what_was_not_reached() {
        assert_eq!(
            tap(&[verdict()]),
            "TAP version 14\n1..3\nok 1 - t: a\nnot ok 2 - t: b \\#1\n  ---\n  message: \"seen: 3\"\n  ...\n\
             not ok 3 - t: c # SKIP not reached\n"
        );
    }

    #[test]
    fn junit_counts_failures_and_skips() {
        let xml = junit(&[verdict()]).unwrap();
        assert!(
            xml.contains("failures=\"1\"") && xml.contains("<skipped/>"),
            "{xml}"
        );
    }

    #[test]
    fn a_report_needs_a_form_and_a_file() {
        assert!("tap=x.tap".parse::<Wanted>().is_ok());
        assert!("html=x".parse::<Wanted>().unwrap_err().contains("junit=FILE"));
        assert!("json=".parse::<Wanted>().is_err());
    }
}
