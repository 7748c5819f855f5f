//! Everything that a guest said, in order, for any number of readers.
//!
//! A reader begins at the first event and misses none, however late it comes:
//! a timeline must not depend on when somebody began to look. The log is
//! bounded; what falls out at the old end is counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::protocol::{Status, Stream};

/// Events that are kept.
const KEPT: usize = 100_000;

/// Something that happened in a guest.
#[derive(Clone, Debug)]
pub struct GuestEvent {
    /// When, by the host's clock.
    pub at: Instant,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A line on the console.
    Console(String),
    /// A line of the kernel's log.
    Kernel {
        /// The kernel's own time, since it started.
        since_boot: Duration,
        /// Its severity: 0 emergency … 7 debug.
        level: u8,
        /// The text.
        line: String,
    },
    /// A line that a labelled process wrote.
    Output {
        /// The process's label.
        label: String,
        /// To which of its outputs.
        stream: Stream,
        /// The text.
        line: String,
    },
    /// A labelled process ended.
    Exit {
        /// The process's label.
        label: String,
        /// How.
        status: Status,
    },
    /// An export is mounted there.
    Mounted(String),
    /// Everything that was asked for is set up.
    Ready,
    /// The kernel panicked, with this line.
    Panic(String),
    /// The machine is gone, and how.
    Gone(String),
}

#[derive(Default)]
struct Log {
    events: VecDeque<GuestEvent>,
    /// Events that fell out.
    dropped: u64,
    ended: bool,
}

/// The writer's end.
#[derive(Clone)]
pub(super) struct EventLog {
    log: Arc<Mutex<Log>>,
    changed: Arc<watch::Sender<()>>,
}

/// A reader of a guest's events, from the first on.
pub struct Events {
    log: Arc<Mutex<Log>>,
    changed: watch::Receiver<()>,
    next: u64,
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventLog {
    pub(super) fn new() -> Self {
        Self {
            log: Arc::default(),
            changed: Arc::new(watch::Sender::new(())),
        }
    }

    pub(super) fn push(&self, at: Instant, kind: EventKind) {
        let mut log = lock(&self.log);
        if log.ended {
            return;
        }
        log.ended = matches!(kind, EventKind::Gone(_));
        log.events.push_back(GuestEvent { at, kind });
        if log.events.len() > KEPT {
            log.events.pop_front();
            log.dropped += 1;
        }
        drop(log);
        self.changed.send_replace(());
    }

    pub(super) fn reader(&self) -> Events {
        Events {
            log: self.log.clone(),
            changed: self.changed.subscribe(),
            next: 0,
        }
    }
}

impl Events {
    /// The next event; `None` after the guest is gone. Nothing is lost when
    /// the future is dropped.
    pub async fn recv(&mut self) -> Option<GuestEvent> {
        loop {
            self.changed.borrow_and_update();
            if let Some(event) = self.try_recv() {
                return Some(event);
            }
            if lock(&self.log).ended {
                return None;
            }
            self.changed.changed().await.ok()?;
        }
    }

    /// The next event, if there is one yet.
    pub fn try_recv(&mut self) -> Option<GuestEvent> {
        let log = lock(&self.log);
        self.next = self.next.max(log.dropped);
        let event = log
            .events
            .get(usize::try_from(self.next - log.dropped).ok()?)?
            .clone();
        self.next += 1;
        Some(event)
    }

    /// Passes events over until one fits. `None` if the guest is gone first, or
    /// the deadline passes.
    pub async fn wait_for(
        &mut self,
        deadline: Duration,
        mut fits: impl FnMut(&EventKind) -> bool,
    ) -> Option<GuestEvent> {
        let search = async {
            loop {
                let event = self.recv().await?;
                if fits(&event.kind) {
                    return Some(event);
                }
            }
        };
        tokio::time::timeout(deadline, search).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_reader_sees_everything_and_then_the_end() {
        let log = EventLog::new();
        log.push(Instant::now(), EventKind::Ready);
        let mut early = log.reader();
        assert_eq!(early.recv().await.unwrap().kind, EventKind::Ready);
        assert!(early.try_recv().is_none());

        let waiting = tokio::spawn(async move { early.recv().await.map(|e| e.kind) });
        log.push(Instant::now(), EventKind::Gone("off".into()));
        log.push(Instant::now(), EventKind::Ready);
        assert_eq!(waiting.await.unwrap(), Some(EventKind::Gone("off".into())));

        let mut late = log.reader();
        assert_eq!(late.recv().await.unwrap().kind, EventKind::Ready);
        assert!(late.recv().await.is_some());
        assert!(late.recv().await.is_none());
    }

    #[test]
    fn the_log_is_bounded() {
        let log = EventLog::new();
        for n in 0..KEPT + 5 {
            log.push(Instant::now(), EventKind::Console(n.to_string()));
        }
        assert_eq!(
            log.reader().try_recv().unwrap().kind,
            EventKind::Console("5".into())
        );
    }
}
