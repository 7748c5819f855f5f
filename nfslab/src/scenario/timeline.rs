//! One timeline of a run: what the server did on the left, what the clients' kernels showed on the right,
//! and between them what the scenario did and why.

use crate::events::ms;
use console::{Style, Term, measure_text_width, pad_str};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// Width of a line where there is no terminal to ask.
const WIDTH: usize = 150;
/// Narrowest line that still has two columns.
const NARROWEST: usize = 80;
/// Width of the time.
const TIME: usize = 9;
/// How long a line is held back in case an earlier one comes.
pub const HOLD_BACK: Duration = Duration::from_millis(700);

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The scenario itself: over the whole width.
    Story,
    /// The server: on the left.
    Server,
    /// A client: on the right.
    Client,
}

/// How it is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tone {
    /// As it comes.
    Plain,
    /// The heading of a step.
    Heading,
    /// Something was shown.
    Good,
    /// Something is wrong, on purpose or not.
    Bad,
}

/// A line.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Milliseconds since the server started.
    pub at_ms: f64,
    /// Whose it is.
    pub side: Side,
    /// How it is to be taken.
    pub tone: Tone,
    /// What it says.
    pub text: String,
}

/// Prints lines in the order of their times, and keeps them for the report.
///
/// A line may be told a little after it happened (several events in one sentence, a message through a
/// serial line), so each is held back for a moment in case an earlier one is still to come.
pub struct Timeline {
    lines: Vec<Line>,
    /// Those from here on are not printed yet, and not in order.
    printed: usize,
    width: usize,
    out: Box<dyn Write + Send>,
}

impl Timeline {
    /// Prints to standard output, in colour if that is a terminal.
    pub fn to_stdout() -> Self {
        let width = Term::stdout()
            .size_checked()
            .map_or(WIDTH, |(_, columns)| columns.into());
        Self::new(width, Box::new(std::io::stdout()))
    }

    /// Prints to standard error, so that standard output has nothing but the report.
    pub fn to_stderr() -> Self {
        let width = Term::stderr()
            .size_checked()
            .map_or(WIDTH, |(_, columns)| columns.into());
        Self::new(width, Box::new(std::io::stderr()))
    }

    /// Prints to `out`.
    pub fn new(width: usize, out: Box<dyn Write + Send>) -> Self {
        Timeline {
            lines: Vec::new(),
            printed: 0,
            width: width.max(NARROWEST),
            out,
        }
    }

    /// Everything so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The heads of the columns.
    pub fn head(&mut self) {
        let (left, _) = self.columns();
        self.put(&format!(
            "{}{}{}",
            pad("time", TIME),
            pad("SERVER (nfslab)", left + 2),
            "CLIENTS (real Linux kernels)"
        ));
        self.put(&"─".repeat(self.width));
    }

    /// Adds a line.
    pub fn add(&mut self, at: Duration, side: Side, tone: Tone, text: impl Into<String>) {
        self.lines.push(Line {
            at_ms: ms(at),
            side,
            tone,
            text: text.into(),
        });
    }

    /// Prints what happened before `now` less [`HOLD_BACK`].
    pub fn settle(&mut self, now: Duration) {
        self.print_until(ms(now.saturating_sub(HOLD_BACK)));
    }

    /// Prints everything.
    pub fn flush(&mut self) {
        self.print_until(f64::INFINITY);
    }

    fn print_until(&mut self, at_ms: f64) {
        let mut waiting = self.lines.split_off(self.printed);
        waiting.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        let due = waiting.partition_point(|line| line.at_ms < at_ms);
        waiting.iter().take(due).for_each(|line| self.print(line));
        self.printed += due;
        self.lines.append(&mut waiting);
    }

    fn columns(&self) -> (usize, usize) {
        let rest = self.width - TIME - 2;
        (rest / 2, rest - rest / 2)
    }

    fn print(&mut self, line: &Line) {
        let (left, right) = self.columns();
        let (indent, width) = match line.side {
            Side::Story => (TIME, self.width - TIME),
            Side::Server => (TIME, left),
            Side::Client => (TIME + left + 2, right),
        };
        let style = match (line.side, line.tone) {
            (_, Tone::Heading) => Style::new().bold(),
            (_, Tone::Good) => Style::new().green(),
            (_, Tone::Bad) => Style::new().red(),
            (Side::Server, _) => Style::new().cyan(),
            _ => Style::new(),
        };
        if line.tone == Tone::Heading {
            self.put("");
        }
        let time = format!("{:>7.2}  ", line.at_ms / 1000.0);
        let options = textwrap::Options::new(width).subsequent_indent("  ");
        let pieces = line
            .text
            .lines()
            .flat_map(|paragraph| textwrap::wrap(paragraph, &options));
        for (i, piece) in pieces.enumerate() {
            let lead = if i == 0 {
                pad(&time, indent)
            } else {
                " ".repeat(indent)
            };
            self.put(&format!("{lead}{}", style.apply_to(piece)));
        }
    }

    fn put(&mut self, text: &str) {
        // A reader that has gone away (a closed pipe) does not change what the run finds.
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }

    /// Prints text as it is, outside the columns and after every line so far.
    pub fn text(&mut self, text: &str, tone: Tone) {
        self.flush();
        let style = match tone {
            Tone::Good => Style::new().green().bold(),
            Tone::Bad => Style::new().red().bold(),
            Tone::Heading => Style::new().bold(),
            Tone::Plain => Style::new(),
        };
        for paragraph in text.lines() {
            for piece in textwrap::wrap(paragraph, self.width) {
                self.put(&style.apply_to(piece).to_string());
            }
        }
    }
}

fn pad(text: &str, width: usize) -> String {
    pad_str(
        text,
        width.max(measure_text_width(text)),
        console::Alignment::Left,
        None,
    )
    .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn server_and_client_stand_side_by_side_and_long_lines_are_wrapped() {
        let page = Page::default();
        let mut timeline = Timeline::new(80, Box::new(page.clone()));
        timeline.head();
        timeline.add(
            Duration::from_secs(22),
            Side::Client,
            Tone::Plain,
            "lockd: not responding",
        );
        let text = "a LOCK that waits for the monitor call behind it";
        timeline.add(Duration::from_millis(4310), Side::Server, Tone::Plain, text);
        timeline.settle(Duration::from_secs(1));
        assert_eq!(
            page.0
                .lock()
                .unwrap()
                .iter()
                .filter(|byte| **byte == b'\n')
                .count(),
            2,
            "held back"
        );
        timeline.flush();
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("   4.31  a LOCK that waits"), "{text}");
        assert!(lines[3].starts_with("           "), "wrapped: {text}");
        assert_eq!(lines[4].find("lockd"), Some(9 + 34 + 2), "{text}");
        assert!(lines.iter().all(|line| measure_text_width(line) <= 80), "{text}");
    }
}
