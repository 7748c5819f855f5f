//! What was written to a file and is not safe yet.
//!
//! A write is sent at once, unstable, and acknowledged to the program before the server has answered, as long as not too
//! much is under way. What the server has taken unstably is kept until a COMMIT says that it is safe; another verifier
//! than before means that the server has restarted and may have lost it, and then it is written again (RFC 1813, sections
//! 3.3.7 and 3.3.21). fsync(2) and close(2) wait for all of that, and tell of the errors.
//!
//! RPC has no order, so two writes that overlap are never under way together.

use crate::line::{LineError, Who};
use crate::nfs::{Fh, Nfs, NfsError, Result, WriteVerf};
use bytes::Bytes;
use nix::errno::Errno;
use parking_lot::Mutex;
use proto::nfs3::{Nfsstat3, PostOpAttr, StableHow};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Notify, RwLock};

/// Most bytes of one file that are under way or not committed before a write has to wait.
const MOST_AT_RISK: usize = 64 << 20;
/// From so many uncommitted bytes on they are committed in the background.
const COMMIT_FROM: usize = 32 << 20;

/// A write that the server has taken, unstably.
#[derive(Clone)]
struct Taken {
    offset: u64,
    data: Bytes,
    verf: WriteVerf,
    who: Who,
}

#[derive(Default)]
struct State {
    /// Writes under way, by number: which bytes.
    under_way: BTreeMap<u64, Range<u64>>,
    last: u64,
    /// In the order in which they are to be written again.
    taken: Vec<Taken>,
    /// Bytes of both.
    at_risk: usize,
    /// The first error that nobody was told of.
    error: Option<Errno>,
    committing: bool,
    /// The attributes that the last answer brought.
    attr: PostOpAttr,
}

impl State {
    /// The first `count` writes that were taken are of no concern any more.
    fn forget(&mut self, count: usize) {
        let bytes: usize = self
            .taken
            .drain(..count.min(self.taken.len()))
            .map(|taken| taken.data.len())
            .sum();
        self.at_risk = self.at_risk.saturating_sub(bytes);
    }

    /// Whether it must be written again if an older write is: it lies over it.
    fn covers(&self, range: &Range<u64>) -> bool {
        self.taken
            .iter()
            .any(|taken| taken.offset < range.end && range.start < taken.offset + taken.data.len() as u64)
    }

    fn overlaps(&self, range: &Range<u64>) -> bool {
        let mut under_way = self.under_way.values();
        under_way.any(|other| other.start < range.end && range.start < other.end)
    }
}

/// The writes to one file.
pub struct Written {
    nfs: Nfs,
    fh: Fh,
    /// Most bytes of a WRITE.
    wsize: usize,
    state: Mutex<State>,
    /// A write or a commit has ended.
    ended: Notify,
    /// One COMMIT at a time: the next may cover more.
    commits: tokio::sync::Mutex<()>,
    /// Held to write while old data are written again: new data must not come in between.
    again: RwLock<()>,
}

/// Ends a write however it ends.
struct UnderWay<'a>(&'a Written, u64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if let Some(range) = state.under_way.remove(&self.1) {
            state.at_risk = state.at_risk.saturating_sub((range.end - range.start) as usize);
        }
        drop(state);
        self.0.ended.notify_waiters();
    }
}

impl Written {
    /// Of a file of which nothing was written.
    pub fn new(nfs: Nfs, fh: Fh, wsize: u32) -> Written {
        Written {
            nfs,
            fh,
            wsize: wsize.max(1) as usize,
            state: Mutex::default(),
            ended: Notify::new(),
            commits: tokio::sync::Mutex::default(),
            again: RwLock::default(),
        }
    }

    /// Waits until `ready` is so; it is asked again whenever a write has ended.
    async fn when<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // From here on no end is missed.
            ended.as_mut().enable();
            if let Some(value) = ready(&mut self.state.lock()) {
                return value;
            }
            ended.await;
        }
    }

    /// Whether nothing is under way and everything is safe.
    pub fn is_clean(&self) -> bool {
        let state = self.state.lock();
        state.under_way.is_empty() && state.taken.is_empty()
    }

    /// The attributes that the last WRITE or COMMIT brought, once.
    pub fn attr(&self) -> PostOpAttr {
        self.state.lock().attr.take()
    }

    /// Takes a write over. It returns when the write may be acknowledged: at once, or when less is at risk.
    ///
    /// # Errors
    /// That of an earlier write, once.
    pub async fn write(
        self: &Arc<Self>,
        who: &Who,
        offset: u64,
        data: Bytes,
    ) -> std::result::Result<(), Errno> {
        let range = offset..offset.saturating_add(data.len() as u64);
        let admitted = |state: &mut State| {
            if let Some(error) = state.error.take() {
                return Some(Err(error));
            }
            if state.overlaps(&range) || state.at_risk + data.len() > MOST_AT_RISK && state.at_risk > 0 {
                return None;
            }
            state.last += 1;
            state.at_risk += data.len();
            state.under_way.insert(state.last, range.clone());
            Some(Ok(state.last))
        };
        // While the limit is reached, somebody must commit.
        let full = |state: &mut State| {
            (state.at_risk + data.len() > MOST_AT_RISK && state.under_way.is_empty()).then_some(())
        };
        let crowded = async {
            loop {
                self.when(full).await;
                if let Err(error) = self.commit(who).await {
                    self.state.lock().error.get_or_insert(error.errno());
                    self.ended.notify_waiters();
                }
            }
        };
        let number = tokio::select! {
            biased;
            number = self.when(admitted) => number?,
            never = crowded => never,
        };
        let (this, who) = (self.clone(), who.clone());
        tokio::spawn(async move {
            let under_way = UnderWay(&this, number);
            let sent = {
                let _not_again = this.again.read().await;
                this.send(&who, offset, data, StableHow::UNSTABLE).await
            };
            if let Err(error) = sent {
                this.state.lock().error.get_or_insert(error.errno());
            }
            drop(under_way);
            this.commit_in_time(&who).await;
        });
        Ok(())
    }

    /// Writes and waits until the data are safe: for `sync` mounts and O_SYNC files.
    ///
    /// # Errors
    /// Those of WRITE.
    pub async fn write_safely(&self, who: &Who, offset: u64, data: Bytes) -> Result<()> {
        self.drained().await;
        self.send(who, offset, data, StableHow::FILE_SYNC).await
    }

    /// Sends it in pieces, and the rest of those that were taken in part.
    async fn send(&self, who: &Who, offset: u64, data: Bytes, stable: StableHow) -> Result<()> {
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            let piece = data.slice(..data.len().min(self.wsize));
            let answer = self
                .nfs
                .write(who, &self.fh, offset, std::slice::from_ref(&piece), stable)
                .await?;
            let taken = (answer.count as usize).min(piece.len());
            if taken == 0 {
                // The server took nothing and named no reason.
                return Err(NfsError::Status(Nfsstat3::NFS3ERR_IO));
            }
            let piece = piece.slice(..taken);
            let mut state = self.state.lock();
            state.attr = answer.file_wcc.after;
            let at = offset..offset + taken as u64;
            if answer.committed == StableHow::UNSTABLE || state.covers(&at) {
                state.at_risk += piece.len();
                state.taken.push(Taken {
                    offset,
                    data: piece,
                    verf: answer.verf,
                    who: who.clone(),
                });
            }
            offset += taken as u64;
            data = data.slice(taken..);
        }
        Ok(())
    }

    /// Waits until the writes that are under way have been answered: then READ and GETATTR see them.
    pub async fn drained(&self) {
        self.when(|state| state.under_way.is_empty().then_some(())).await;
    }

    /// The same for those that overlap these bytes.
    pub async fn drained_at(&self, range: Range<u64>) {
        self.when(|state| (!state.overlaps(&range)).then_some(())).await;
    }

    async fn commit_in_time(self: &Arc<Self>, who: &Who) {
        let due = {
            let mut state = self.state.lock();
            let uncommitted: usize = state.taken.iter().map(|taken| taken.data.len()).sum();
            uncommitted >= COMMIT_FROM && !std::mem::replace(&mut state.committing, true)
        };
        if due {
            let committed = self.commit(who).await;
            let mut state = self.state.lock();
            state.committing = false;
            if let Err(error) = committed {
                state.error.get_or_insert(error.errno());
            }
        }
    }

    /// Waits until everything that was written is safe: fsync(2), close(2).
    ///
    /// # Errors
    /// The first error of a write or commit since the last time, once.
    pub async fn safe(self: &Arc<Self>, who: &Who) -> std::result::Result<(), Errno> {
        loop {
            self.drained().await;
            if let Some(error) = self.state.lock().error.take() {
                return Err(error);
            }
            if self.is_clean() {
                return Ok(());
            }
            self.commit(who).await.map_err(|error| error.errno())?;
        }
    }

    /// Asks the server to make safe what it has taken so far, and writes again what it may have lost. Goes to its end
    /// even if nobody waits for that any more: halfway, data would be nowhere.
    async fn commit(self: &Arc<Self>, who: &Who) -> Result<()> {
        let (this, who) = (self.clone(), who.clone());
        let committed = tokio::spawn(async move { this.commit_to_the_end(&who).await });
        committed.await.unwrap_or(Err(LineError::Closed.into()))
    }

    async fn commit_to_the_end(&self, who: &Who) -> Result<()> {
        let _one = self.commits.lock().await;
        // What is taken after the COMMIT was sent is not covered by it.
        let covered = self.state.lock().taken.len();
        if covered == 0 {
            return Ok(());
        }
        let answer = self.nfs.commit(who, &self.fh).await?;
        let lost = {
            let mut state = self.state.lock();
            state.attr = answer.file_wcc.after;
            let lost = state
                .taken
                .iter()
                .take(covered)
                .any(|taken| taken.verf != answer.verf);
            if !lost {
                state.forget(covered);
            }
            lost
        };
        if lost {
            self.write_again().await?;
        }
        self.ended.notify_waiters();
        Ok(())
    }

    /// Everything, in its order: what came later may lie over what came before.
    async fn write_again(&self) -> Result<()> {
        let _alone = self.again.write().await;
        let all = {
            let mut state = self.state.lock();
            let all = state.taken.to_vec();
            state.forget(all.len());
            all
        };
        tracing::info!(
            writes = all.len(),
            "the server has restarted: what it had not committed is written again"
        );
        for taken in all {
            self.send(&taken.who, taken.offset, taken.data, StableHow::UNSTABLE)
                .await?;
        }
        Ok(())
    }
}

/// Runs futures side by side and gives their results in order.
pub async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        match pending {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}
