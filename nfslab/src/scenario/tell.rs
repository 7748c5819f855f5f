//! Who puts what into the timeline: the server's events, the clients' kernels, the story and the verdict.

use super::digest::{Digest, TOGETHER};
use super::file::Scenario;
use super::report::Verdict;
use super::run::{BOOT, Shared};
use super::timeline::{Side, Tone};
use crate::clock::Clock;
use crate::events::{Event, seconds};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use vm::{EventKind, Events};

/// How often the timeline is printed.
const PRINT_EVERY: Duration = Duration::from_millis(100);

/// The events so far and those to come.
type Log = (Vec<Arc<Event>>, tokio::sync::broadcast::Receiver<Arc<Event>>);

/// Puts the server's events into the timeline, those of a kind together.
pub(super) fn server((past, mut live): Log, timeline: Shared) -> impl Future<Output = ()> {
    let mut past = past.into_iter();
    async move {
        let mut digest = Digest::default();
        loop {
            let event = match past.next() {
                Some(event) => event,
                None => match tokio::time::timeout(TOGETHER, live.recv()).await {
                    Ok(Ok(event)) => event,
                    Ok(Err(_)) => return,
                    Err(_) => {
                        digest.tell(&timeline);
                        continue;
                    }
                },
            };
            digest.take(&event, &timeline);
        }
    }
}

/// Prints the timeline as it grows.
pub(super) async fn print(clock: Arc<Clock>, timeline: Shared) {
    loop {
        tokio::time::sleep(PRINT_EVERY).await;
        timeline.lock().settle(clock.now());
    }
}

/// Puts what a client's kernel prints, and what its processes print and how they end, into the timeline.
pub(super) async fn client(name: String, mut events: Events, timeline: Shared, clock: Arc<Clock>) {
    // What the kernel says while it boots is in the console log.
    events
        .wait_for(BOOT, |kind| matches!(kind, EventKind::Ready))
        .await;
    let mut said = Repeated::default();
    loop {
        let event = match tokio::time::timeout(TOGETHER, events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => return said.tell(&name, &timeline),
            Err(_) => {
                said.tell(&name, &timeline);
                continue;
            }
        };
        let (tone, text) = match event.kind {
            EventKind::Kernel { line, .. } if about_locks(&line) => {
                let tone = if line.ends_with("OK") {
                    Tone::Good
                } else {
                    Tone::Bad
                };
                (tone, format!("{name}: kernel log: {line}"))
            }
            EventKind::Output { label, line, .. } => (Tone::Plain, format!("{name}: {label} prints: {line}")),
            EventKind::Exit { label, status } if !status.success() => {
                (Tone::Bad, format!("{name}: {label} ended with {status}"))
            }
            EventKind::Panic(line) => (Tone::Bad, format!("{name}: KERNEL PANIC: {line}")),
            _ => continue,
        };
        let at = clock.at(event.at);
        if said.text == text {
            said.times += 1;
        } else {
            said.tell(&name, &timeline);
            timeline.lock().add(at, Side::Client, tone, text.clone());
            said = Repeated { text, at, times: 0 };
        }
    }
}

/// A line that a client may say once more: a kernel says the same for each process that waits.
#[derive(Default)]
struct Repeated {
    text: String,
    at: Duration,
    times: u32,
}

impl Repeated {
    fn tell(&mut self, name: &str, timeline: &Shared) {
        let Repeated { at, times, .. } = std::mem::take(self);
        if times > 0 {
            let text = format!("{name}: … and the same line {times} times more");
            timeline.lock().add(at, Side::Client, Tone::Plain, text);
        }
    }
}

/// Whether a line of the kernel's log concerns NFS or its locks.
fn about_locks(line: &str) -> bool {
    ["lockd", "nfs", "NFS", "statd", "RPC"]
        .iter()
        .any(|word| line.contains(word))
}

/// Tells what the scenario is about.
pub(super) fn story(scenario: &Scenario, timeline: &Shared) {
    let mut timeline = timeline.lock();
    timeline.text(&scenario.title, Tone::Heading);
    timeline.text(
        &format!("\nWhat one sees   {}", one_line(&scenario.symptom)),
        Tone::Plain,
    );
    timeline.text(
        &format!("The cause       {}\n", one_line(&scenario.cause)),
        Tone::Plain,
    );
    timeline.text(
        "Who is who      lockd keeps the locks, on the server and in each client's kernel. statd tells a client \
         when the server has restarted, so that it can take its locks again. NLM is the protocol between lockds: \
         LOCK asks for a lock, UNLOCK gives it back, GRANTED tells one who waited that it has it.\n ",
        Tone::Plain,
    );
    timeline.head();
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tells what came of it.
pub(super) fn verdict(scenario: &Scenario, verdict: &Verdict, timeline: &Shared) {
    let mut timeline = timeline.lock();
    let passed = verdict.steps.iter().filter(|s| s.passed == Some(true)).count();
    let (tone, word) = if verdict.passed {
        (Tone::Good, "PASSED")
    } else {
        (Tone::Bad, "FAILED")
    };
    timeline.text(
        &format!(
            "\n{word}  {}: {passed} of {} steps, in {}, on Linux {}",
            scenario.title,
            verdict.steps.len(),
            seconds(verdict.took_ms),
            verdict.kernels.join(", ")
        ),
        tone,
    );
    if let Some(step) = verdict.steps.iter().find(|step| step.passed == Some(false)) {
        timeline.text(
            &format!("Failed step: {}\n  {}", step.say, step.detail),
            Tone::Bad,
        );
    } else {
        for (head, text) in [
            ("How to find it ", &scenario.find),
            ("How to mend it ", &scenario.mend),
        ] {
            if !text.is_empty() {
                timeline.text(&format!("{head} {}", one_line(text)), Tone::Plain);
            }
        }
    }
}
