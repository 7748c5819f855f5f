//! The server's clock. Timers of the protocols (upcalls, repeated grants, grace) run on it, so a test that
//! advances it need not wait for them.
//!
//! A [manual](Clock::manual) one moves only when it is advanced. It knows who sleeps until when, so that it can be
//! advanced from one sleeper's time to the next ([`next_sleeper`](Clock::next_sleeper), [`settled`](Clock::settled)).

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Time since the server started, plus whatever it was advanced by.
#[derive(Debug)]
pub struct Clock {
    /// A manual clock has none.
    start: Option<Instant>,
    /// Nanoseconds; every call reads them.
    advanced: AtomicU64,
    moved: Notify,
    /// Of a manual clock: until when each of its sleepers sleeps, each with a number.
    sleepers: Mutex<(u64, BTreeSet<(Duration, u64)>)>,
    /// A sleeper is awake.
    awake: Notify,
}

impl Default for Clock {
    fn default() -> Self {
        Clock {
            start: Some(Instant::now()),
            advanced: AtomicU64::new(0),
            moved: Notify::new(),
            sleepers: Mutex::default(),
            awake: Notify::new(),
        }
    }
}

impl Clock {
    /// One that stands at 0 until it is advanced.
    pub fn manual() -> Clock {
        Clock {
            start: None,
            ..Clock::default()
        }
    }

    /// Whether it moves only when it is advanced.
    pub fn is_manual(&self) -> bool {
        self.start.is_none()
    }

    /// The time now.
    pub fn now(&self) -> Duration {
        let passed = self.start.map_or(Duration::ZERO, |start| start.elapsed());
        passed.saturating_add(self.advanced())
    }

    /// Moves it forward; every sleeper looks again.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let more = |nanos: u64| Some(nanos.saturating_add(by));
        let _ = self
            .advanced
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        self.moved.notify_waiters();
    }

    /// What `instant` is on this clock. A manual one knows no instants: it is what it shows now.
    pub fn at(&self, instant: Instant) -> Duration {
        let passed = |start| instant.saturating_duration_since(start);
        self.start
            .map_or(Duration::ZERO, passed)
            .saturating_add(self.advanced())
    }

    fn advanced(&self) -> Duration {
        Duration::from_nanos(self.advanced.load(Ordering::Acquire))
    }

    /// Of a manual clock: the earliest time until which somebody sleeps.
    pub fn next_sleeper(&self) -> Option<Duration> {
        self.sleepers.lock().1.first().map(|(until, _)| *until)
    }

    /// Of a manual clock: waits until nobody sleeps beyond their time. What they do next may still be under way.
    pub async fn settled(&self) {
        loop {
            let awake = self.awake.notified();
            tokio::pin!(awake);
            awake.as_mut().enable();
            if self.next_sleeper().is_none_or(|until| until > self.now()) {
                return;
            }
            awake.await;
        }
    }

    /// Waits until the clock shows `when`; for ever if there is no such time.
    pub async fn sleep_until(&self, when: Option<Duration>) {
        let Some(when) = when else {
            return std::future::pending().await;
        };
        let _sleeper = self.is_manual().then(|| Sleeper::new(self, when));
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let now = self.now();
            if now >= when {
                return;
            }
            let passes = async {
                match self.is_manual() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(when - now).await,
                }
            };
            tokio::select! {
                () = passes => {}
                () = moved => {}
            }
        }
    }
}

/// Somebody who sleeps by a manual clock, until this is dropped.
struct Sleeper<'a> {
    clock: &'a Clock,
    entry: (Duration, u64),
}

impl<'a> Sleeper<'a> {
    fn new(clock: &'a Clock, until: Duration) -> Self {
        let (last, all) = &mut *clock.sleepers.lock();
        *last += 1;
        let entry = (until, *last);
        all.insert(entry);
        Sleeper { clock, entry }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.clock.sleepers.lock().1.remove(&self.entry);
        self.clock.awake.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_clock_is_advanced_past_its_time() {
        let clock = Arc::new(Clock::default());
        let sleeper = {
            let clock = clock.clone();
            tokio::spawn(async move { clock.sleep_until(Some(Duration::from_secs(3600))).await })
        };
        clock.advance(Duration::from_secs(3601));
        tokio::time::timeout(Duration::from_secs(5), sleeper)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_manual_clock_knows_its_sleepers_and_wakes_them_in_time() {
        let clock = Arc::new(Clock::manual());
        let at = Duration::from_secs;
        let sleepers = [at(5), at(3)].map(|until| {
            let clock = clock.clone();
            tokio::spawn(async move { clock.sleep_until(Some(until)).await })
        });
        while clock.sleepers.lock().1.len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!((clock.now(), clock.next_sleeper()), (Duration::ZERO, Some(at(3))));
        clock.advance(at(3));
        clock.settled().await;
        assert_eq!(clock.next_sleeper(), Some(at(5)));
        clock.advance(at(2));
        clock.settled().await;
        assert_eq!((clock.now(), clock.next_sleeper()), (at(5), None));
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
    }
}
