//! An export on a directory, from the first question to the last answer.

use crate::client::Client;
use crate::dev::{Device, MountOptions, Mounted as OnDirectory};
use crate::fs::Fs;
use crate::locks::Locks;
use crate::options::{LocalLock, Options};
use crate::target::{Mounted, Target};
use anyhow::{Context as _, Result, anyhow};
use std::path::Path;
use tokio::runtime::Handle;

/// How far the kernel reads ahead, in KiB: several READs of 1 MiB side by side.
const READ_AHEAD: u32 = 4096;

/// A mounted export. Dropped, it is unmounted by force.
pub struct Mount {
    remote: Mounted,
    local: OnDirectory,
    locks: Option<Locks>,
}

impl Mount {
    /// Mounts `target` on `dir`. Must be called within a tokio runtime, which then serves it.
    ///
    /// # Errors
    /// What failed, the likely cause, and what mends it. Nothing stays mounted.
    pub async fn new(target: Target, dir: &Path, options: &Options) -> Result<Mount> {
        let metadata =
            std::fs::metadata(dir).with_context(|| format!("the mount point {}", dir.display()))?;
        if !metadata.is_dir() {
            return Err(anyhow!("the mount point {} is not a directory", dir.display()));
        }
        let remote = Mounted::new(target, options).await?;
        let client = Client::new(&remote, options).await?;
        let how = MountOptions {
            fsname: remote.target.to_string(),
            allow_other: true,
            default_permissions: true,
            read_only: options.read_only,
            nosuid: true,
            nodev: true,
            ..MountOptions::default()
        };
        let locks = match options.local_lock {
            LocalLock {
                flock: true,
                posix: true,
            } => None,
            _ => Some(remote.locks(options).await?),
        };
        let device = Device::mount(dir, &how).with_context(|| {
            format!(
                "cannot mount on {}: this needs /dev/fuse (modprobe fuse; in a container --device /dev/fuse) and \
                 CAP_SYS_ADMIN (root)",
                dir.display()
            )
        })?;
        let runtime = Handle::current();
        let fs = Fs::new(
            client,
            locks.clone(),
            options.local_lock,
            options.caching.reg_min,
            device.notifier(),
            runtime.clone(),
        );
        let direct = std::sync::Arc::new(fs.clone());
        // It waits for the kernel, and so must not hold up the runtime.
        let started = tokio::task::spawn_blocking(move || device.start(direct, fs, runtime)).await?;
        let local = started.context("the FUSE session cannot be started")?;
        if let Err(error) = local.set_read_ahead(READ_AHEAD) {
            tracing::info!("reading ahead stays at the kernel's 128 KiB: {error}");
        }
        if let Some(locks) = &locks {
            locks.notify(local.notifier());
        }
        Ok(Mount { remote, local, locks })
    }

    /// What is mounted.
    pub fn target(&self) -> &Target {
        &self.remote.target
    }

    /// Waits until somebody has unmounted it.
    pub async fn ended(&self) {
        self.local.ended().await;
    }

    /// Unmounts: what was written is made safe, locks are given back, the server is told. A mount that is in use is
    /// detached: it goes on until its last file is closed.
    ///
    /// # Errors
    /// Those of umount(2). True: it is in use.
    pub async fn unmount(self) -> Result<()> {
        let Mount { remote, local, locks } = self;
        let local = tokio::task::spawn_blocking(move || {
            let unmounted = local.unmount();
            (local, unmounted)
        });
        let (local, unmounted) = local.await?;
        if unmounted.is_err() {
            local.detach().context("cannot unmount")?;
        }
        local.ended().await;
        tokio::task::spawn_blocking(move || local.join()).await??;
        if let Some(locks) = locks {
            locks.close().await;
        }
        remote.unmounted().await;
        Ok(())
    }
}
