//! Which processor makes the load.
//!
//! The processors of a virtual machine need not be equally fast: of two, one was seen to take 1.6 times as long for the
//! same work for minutes, and then the other. Whatever a rate is bounded by, the load or the server, gains or loses by
//! where it happens to be. So the load stays on one processor for some rounds and on another in the next, and the servers
//! have the rest.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The processors that this thread may use. It may use all of them again when this is dropped.
pub struct Cpus {
    all: CpuSet,
    numbers: Vec<usize>,
}

const THIS_THREAD: Pid = Pid::from_raw(0);

impl Cpus {
    /// Those that it may use now.
    pub fn of_this_thread() -> Result<Cpus> {
        let all = sched_getaffinity(THIS_THREAD).context("sched_getaffinity")?;
        let may_use = |cpu: &usize| all.is_set(*cpu).unwrap_or(false);
        let numbers = (0..CpuSet::count()).filter(may_use).collect();
        Ok(Cpus { all, numbers })
    }

    /// Has this thread stay on the n-th of them, counted round and round.
    pub fn stay_on(&self, n: usize) -> Result<()> {
        let place = n.checked_rem(self.numbers.len());
        let Some(cpu) = place.and_then(|place| self.numbers.get(place)) else {
            return Ok(());
        };
        let mut only = CpuSet::new();
        only.set(*cpu)?;
        sched_setaffinity(THIS_THREAD, &only).with_context(|| format!("cannot stay on processor {cpu}"))
    }
}

impl Drop for Cpus {
    fn drop(&mut self) {
        let _ = sched_setaffinity(THIS_THREAD, &self.all);
    }
}
