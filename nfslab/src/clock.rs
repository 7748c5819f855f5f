//! The server's clock. Timers of the protocols (upcalls, repeated grants, grace) run on it, so a test that
//! advances it need not wait for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Time since the server started, plus whatever it was advanced by.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// Nanoseconds; every call reads them.
    advanced: AtomicU64,
    moved: Notify,
}

impl Default for Clock {
    fn default() -> Self {
        Clock {
            start: Instant::now(),
            advanced: AtomicU64::new(0),
            moved: Notify::new(),
        }
    }
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> Duration {
        self.start.elapsed() + self.advanced()
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

    /// What `instant` is on this clock.
    pub fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.start) + self.advanced()
    }

    fn advanced(&self) -> Duration {
        Duration::from_nanos(self.advanced.load(Ordering::Acquire))
    }

    /// Waits until the clock shows `when`; for ever if there is no such time.
    pub async fn sleep_until(&self, when: Option<Duration>) {
        let Some(when) = when else {
            return std::future::pending().await;
        };
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let now = self.now();
            if now >= when {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(when - now) => {}
                () = moved => {}
            }
        }
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
}
