//! `--state-dir`: what the status monitor leaves to its successor, kept as rpc.statd keeps it in /var/lib/nfs.
//!
//! ```text
//! DIR/state            the state number, in decimal
//! DIR/sm/10.77.0.2     this host is watched
//! DIR/sm.bak/10.77.0.3 this one has not been told of the latest restart
//! DIR/lock             locked by the server that runs
//! ```
//!
//! The names of the files in `sm` and `sm.bak` say everything; they are empty. A file is there or is not, whenever
//! the server is killed, and `state` is written beside and renamed. What only makes a host be told twice if it is lost
//! (that it was told, or is watched no more) is not waited for; everything else is on the disk when it is done.

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nsm::names::as_address;
use nsm::{HostName, Kept, Saved, limits};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Longest text of a state number, with room for whatever stands there instead.
const STATE_LEN: u64 = 64;

/// A folder that this server has for itself.
pub struct Store {
    folder: PathBuf,
    /// Ends with the process, however that ends.
    _alone: Flock<File>,
}

impl Store {
    /// The folder, made if it is not there, and what is in it.
    ///
    /// # Errors
    /// If it cannot be read or written, if another server has it, or if what stands in it is no state number. Nothing
    /// is changed then.
    pub fn open(folder: &Path) -> Result<(Store, Saved)> {
        let opened = Store::at(folder).and_then(|store| {
            let saved = Saved {
                state: store.state()?,
                watched: store.hosts("sm")?,
                to_tell: store.hosts("sm.bak")?,
            };
            Ok((store, saved))
        });
        opened.with_context(|| {
            format!(
                "what the status monitor has kept in {} (--state-dir)",
                folder.display()
            )
        })
    }

    fn at(folder: &Path) -> Result<Store> {
        for name in ["sm", "sm.bak"] {
            let made = fs::create_dir_all(folder.join(name));
            made.with_context(|| format!("cannot make the folder {name}"))?;
        }
        let lock = File::create(folder.join("lock")).context("cannot make the file lock")?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => Ok(Store {
                folder: folder.to_path_buf(),
                _alone: alone,
            }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!("another server uses it: end that one, or give this one a folder of its own")
            }
            Err((_, error)) => Err(error).context("cannot lock the file lock"),
        }
    }

    fn state(&self) -> Result<Option<i32>> {
        let path = self.folder.join("state");
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(STATE_LEN).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let number = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        // To guess one would be to risk that a peer has heard it before, and ignores it.
        let number = number.with_context(|| {
            format!(
                "{}: expected the state number, an odd one such as 5, and found '{}': write one there that is greater \
                 than those that clients have heard, or remove the file to begin with 1",
                path.display(),
                bytes.escape_ascii()
            )
        })?;
        Ok(Some(number))
    }

    /// Whoever has a file in this folder. Files whose names are not addresses are not ours, and stay.
    fn hosts(&self, folder: &str) -> Result<Vec<HostName>> {
        let path = self.folder.join(folder);
        let entries = fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut hosts = Vec::new();
        for entry in entries {
            let name = entry
                .with_context(|| format!("cannot read {}", path.display()))?
                .file_name();
            let host = name.to_str().filter(|name| as_address(name.as_bytes()).is_some());
            let Some(host) = host else {
                tracing::warn!(
                    "{}: expected the address of a host as the name of the file; it is left as it is",
                    path.join(&name).display()
                );
                continue;
            };
            hosts.push(HostName::from(host));
            ensure!(
                hosts.len() <= limits::RECORDS,
                "{}: more than {} hosts; remove those that need not be told of the restart",
                path.display(),
                limits::RECORDS
            );
        }
        hosts.sort();
        Ok(hosts)
    }

    /// Carries out a change. What must last is on the disk then.
    ///
    /// # Errors
    /// What could not be done to which file.
    pub fn keep(&self, change: &Kept) -> Result<()> {
        match change {
            Kept::State(number) => self.write_state(*number),
            Kept::Watched(host) => {
                let path = self.path("sm", host)?;
                let made = File::create(&path).and_then(|_| self.sync("sm"));
                made.with_context(|| format!("cannot make {}", path.display()))
            }
            Kept::Unwatched(host) => self.remove("sm", host),
            Kept::Told(host) => self.remove("sm.bak", host),
            // In this order: until the number is there, a successor finds someone to tell, and counts on.
            Kept::Restarted(number) => {
                for host in self.hosts("sm")? {
                    let (from, to) = (self.path("sm", &host)?, self.path("sm.bak", &host)?);
                    let moved = fs::rename(&from, &to);
                    moved.with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
                }
                for folder in ["sm.bak", "sm"] {
                    let synced = self.sync(folder);
                    synced.with_context(|| {
                        format!("cannot write {} to the disk", self.folder.join(folder).display())
                    })?;
                }
                self.write_state(*number)
            }
            Kept::Nobody => {
                for folder in ["sm", "sm.bak"] {
                    for host in self.hosts(folder)? {
                        self.remove(folder, &host)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Only the text of an address becomes the name of a file.
    fn path(&self, folder: &str, host: &HostName) -> Result<PathBuf> {
        let name = std::str::from_utf8(host.as_bytes()).ok();
        match name.filter(|name| as_address(name.as_bytes()).is_some()) {
            Some(name) => Ok(self.folder.join(folder).join(name)),
            None => bail!("{host} is not an address"),
        }
    }

    fn remove(&self, folder: &str, host: &HostName) -> Result<()> {
        let path = self.path(folder, host)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn write_state(&self, number: i32) -> Result<()> {
        let written = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            writeln!(file, "{number}")?;
            file.as_file().sync_all()?;
            file.persist(self.folder.join("state"))?;
            self.sync("")
        };
        written().with_context(|| format!("cannot write {}", self.folder.join("state").display()))
    }

    /// Has the names in this folder on the disk.
    fn sync(&self, folder: &str) -> io::Result<()> {
        File::open(self.folder.join(folder))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(folder: &Path) -> Saved {
        Store::open(folder).unwrap().1
    }

    fn error(folder: &Path) -> String {
        format!("{:#}", Store::open(folder).err().unwrap())
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("made/if/missing");
        let (store, before) = Store::open(&folder).unwrap();
        assert_eq!(before, Saved::default());
        assert!(error(&folder).contains("another server uses it"));
        let [a, b] = ["10.77.0.2", "fe80::1"].map(HostName::from);
        for change in [
            Kept::State(7),
            Kept::Watched(b.clone()),
            Kept::Watched(a.clone()),
            Kept::Watched(a.clone()),
        ] {
            store.keep(&change).unwrap();
        }
        drop(store);
        let (store, found) = Store::open(&folder).unwrap();
        let expected = Saved {
            state: Some(7),
            watched: vec![a.clone(), b.clone()],
            to_tell: vec![],
        };
        assert_eq!(found, expected);
        assert_eq!(fs::read_to_string(folder.join("state")).unwrap(), "7\n");
        store.keep(&Kept::Restarted(9)).unwrap();
        store.keep(&Kept::Watched(a.clone())).unwrap();
        store.keep(&Kept::Told(a.clone())).unwrap();
        store.keep(&Kept::Told(a.clone())).unwrap();
        drop(store);
        let (store, found) = Store::open(&folder).unwrap();
        let expected = Saved {
            state: Some(9),
            watched: vec![a.clone()],
            to_tell: vec![b],
        };
        assert_eq!(found, expected);
        store.keep(&Kept::Unwatched(a)).unwrap();
        store.keep(&Kept::Nobody).unwrap();
        drop(store);
        let expected = Saved {
            state: Some(9),
            ..Saved::default()
        };
        assert_eq!(saved(&folder), expected);
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        for name in ["../outside", "/etc/passwd", "..", "", "a/b", "client1"] {
            let error = store.keep(&Kept::Watched(name.into())).unwrap_err();
            assert!(error.to_string().contains("not an address"), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path().join("sm")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_ours_or_damaged_is_named_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let foreign = folder.path().join("sm/client1");
        fs::write(&foreign, "a record of rpc.statd").unwrap();
        for change in [Kept::State(3), Kept::Restarted(5), Kept::Nobody] {
            store.keep(&change).unwrap();
        }
        drop(store);
        assert!(foreign.exists());
        assert!(saved(folder.path()).watched.is_empty());
        let state = folder.path().join("state");
        for damaged in [&b""[..], b"five", b"\x05\0\0\0", b"99999999999", &[b'1'; 4096]] {
            fs::write(&state, damaged).unwrap();
            let error = error(folder.path());
            let (what, right) = (state.display().to_string(), "such as 5");
            assert!(error.contains(&what) && error.contains(right), "{error}");
            assert_eq!(fs::read(&state).unwrap(), damaged);
        }
    }
}
