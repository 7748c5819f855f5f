//! To come.
use crate::dev::*;
use crate::nfs::Fh;
use nix::errno::Errno;
use tokio_util::sync::CancellationToken;
/// Locks.
pub struct Locks {
    notifier: Notifier,
}
#[allow(missing_docs)]
impl Locks {
    pub async fn test(
        &self,
        _fh: &Fh,
        _holder: LockHolder,
        _lock: FileLock,
        _interrupted: &CancellationToken,
    ) -> Result<Conflict, Errno> {
        Err(Errno::ENOLCK)
    }
    pub async fn lock(
        &self,
        _fh: &Fh,
        _holder: LockHolder,
        _lock: FileLock,
        _wait: bool,
        _interrupted: &CancellationToken,
    ) -> Result<(), Errno> {
        Err(Errno::ENOLCK)
    }
    pub async fn unlock(&self, _fh: &Fh, _holder: LockHolder, _lock: FileLock) -> Result<(), Errno> {
        Ok(())
    }
    pub async fn release(&self, _fh: &Fh, _owner: u64, _flock: bool) {}
    pub async fn invalidate(&self, nodeid: u64) {
        let notifier = self.notifier.clone();
        let _ = tokio::task::spawn_blocking(move || notifier.invalidate(nodeid, 0, 0)).await;
    }
}
