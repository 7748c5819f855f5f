//! The folder where fetched and built things stay.
//!
//! Invariants: a thing lies at its final name only when it is complete (it is
//! built under `tmp/` and renamed), and whoever builds one holds a lock of its
//! name, so that two processes do not do the same work twice. Killing any of
//! them at any point leaves at most rubbish in `tmp/`, which is swept later.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Result};

/// Rubbish in `tmp/` older than this belongs to nobody any more.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The folder that holds kernels, the guest's programs, built images and the
/// remembered KVM verdict.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Held while something of a name is built. Released when dropped, and by the
/// kernel if we die.
pub(crate) struct CacheLock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

impl Cache {
    /// The usual place: `NFSLAB_CACHE`, else `$XDG_CACHE_HOME/nfslab`, else
    /// `~/.cache/nfslab`.
    pub fn open() -> Result<Self> {
        let var = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = var("NFSLAB_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("nfslab")))
            .or_else(|| var("HOME").map(|d| d.join(".cache/nfslab")))
            .ok_or_else(|| Error::Missing {
                what: "a cache folder (NFSLAB_CACHE, XDG_CACHE_HOME and HOME are all unset)".into(),
                mend: "set NFSLAB_CACHE to a folder with a few hundred MB to spare".into(),
            })?;
        Self::at(root)
    }

    /// A cache in this folder.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(root.join("tmp")).context(|| {
            format!(
                "creating the cache {} (NFSLAB_CACHE chooses another)",
                root.display()
            )
        })?;
        let root = root
            .canonicalize()
            .context(|| format!("resolving {}", root.display()))?;
        let cache = Self { root };
        cache.sweep();
        Ok(cache)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a thing lies or would lie.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A folder in the cache, created when absent.
    pub(crate) fn dir(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// Waits for the lock of this name.
    pub(crate) fn lock(&self, name: &str) -> Result<CacheLock> {
        let path = self.dir("locks")?.join(name.replace('/', "-"));
        let file = File::create(&path).context(|| format!("creating {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| e)
            .context(|| format!("locking {}", path.display()))?;
        Ok(CacheLock(lock))
    }

    /// A fresh folder under `tmp/`, removed when dropped.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir> {
        let tmp = self.dir("tmp")?;
        tempfile::Builder::new()
            .prefix("build-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(&tmp)
            .context(|| format!("creating a folder in {}", tmp.display()))
    }

    /// The folder `name`, built by `build` in a scratch folder if absent.
    pub(crate) fn build_dir(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(name);
        if path.is_dir() {
            return Ok(path);
        }
        let _lock = self.lock(name)?;
        if path.is_dir() {
            return Ok(path);
        }
        let scratch = self.scratch()?;
        build(scratch.path())?;
        self.publish(scratch.keep(), &path)?;
        Ok(path)
    }

    /// The file `name`, written by `build` under another name if absent.
    pub(crate) fn build_file(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(name);
        if path.is_file() {
            return Ok(path);
        }
        let _lock = self.lock(name)?;
        if path.is_file() {
            return Ok(path);
        }
        let scratch = self.scratch()?;
        let file = scratch.path().join("file");
        build(&file)?;
        self.publish(file, &path)?;
        Ok(path)
    }

    /// Writes a small file as one.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let scratch = self.scratch()?;
        let file = scratch.path().join("file");
        fs::write(&file, content).context(|| format!("writing {}", file.display()))?;
        self.publish(file, &self.path(name))
    }

    fn publish(&self, from: PathBuf, to: &Path) -> Result<()> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).context(|| format!("creating {}", parent.display()))?;
        }
        fs::rename(&from, to).context(|| format!("renaming {} to {}", from.display(), to.display()))
    }

    /// Removes what killed processes left behind. Nothing depends on it.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.path("tmp")) else {
            return;
        };
        for entry in entries.flatten() {
            let age = entry
                .metadata()
                .and_then(|m| m.modified())
                .ok()
                .and_then(|t| t.elapsed().ok());
            if age.is_some_and(|age| age > STALE_AFTER) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_build_leaves_nothing_and_the_next_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let failed = cache.build_dir("thing", |path| {
            fs::write(path.join("half"), "half").unwrap();
            Err(Error::Malformed {
                what: "thing".into(),
                problem: "half".into(),
            })
        });
        assert!(failed.is_err());
        assert!(!cache.path("thing").exists());
        assert_eq!(fs::read_dir(cache.path("tmp")).unwrap().count(), 0);

        let path = cache
            .build_dir("thing", |path| {
                fs::write(path.join("whole"), "").context(|| "writing".into())
            })
            .unwrap();
        assert!(path.join("whole").exists());
        cache.build_dir("thing", |_| panic!("built twice")).unwrap();
    }

    #[test]
    fn two_builders_at_once_build_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let built = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    cache
                        .build_file("deep/file", |path| {
                            built.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            fs::write(path, "x").context(|| "writing".into())
                        })
                        .unwrap()
                });
            }
        });
        assert_eq!(built.into_inner(), 1);
    }
}
