//! Files by path, for seeding a store and for looking into it. Root does it all.

use crate::cx::{Caller, Cx};
use crate::handle::FileKey;
use crate::vfs::{NewNode, Result, Vfs};
use bytes::Bytes;
use proto::nfs3::{CreateHow3, Nfsstat3, Nfstime3, Sattr3, SetTime, StableHow};

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// Path of the directory, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path))
}

fn mode(mode: u32) -> Sattr3 {
    Sattr3 {
        mode: Some(mode),
        ..Sattr3::default()
    }
}

/// What can be done by path in every store.
pub trait Tree: Vfs {
    /// The file at `path`, from the root; symbolic links are not followed.
    fn at(&self, path: &str) -> Result<FileKey> {
        let cx = Cx::local(Caller::ROOT, Nfstime3::default());
        parts(path).try_fold(self.root(), |dir, part| {
            self.lookup(&cx, &dir, part.as_bytes()).map(|found| found.file)
        })
    }

    /// Makes a directory and those above it, mode 0777; those that exist stay as they are.
    fn make_dirs(&self, path: &str, now: Nfstime3) -> Result<FileKey> {
        let cx = Cx::local(Caller::ROOT, now);
        parts(path).try_fold(self.root(), |dir, part| {
            match self.make(&cx, &dir, part.as_bytes(), &NewNode::Directory, &mode(0o777)) {
                Ok(made) => Ok(made.file),
                Err(Nfsstat3::NFS3ERR_EXIST) => Ok(self.lookup(&cx, &dir, part.as_bytes())?.file),
                Err(status) => Err(status),
            }
        })
    }

    /// Makes a file of these bytes, mode 0666, and the directories above it; replaces what a file there held.
    fn write_file(&self, path: &str, data: impl Into<Bytes>, now: Nfstime3) -> Result<FileKey> {
        let cx = Cx::local(Caller::ROOT, now);
        let (dir, name) = split(path);
        let dir = self.make_dirs(dir, now)?;
        let how = CreateHow3::Unchecked(Sattr3 {
            size: Some(0),
            atime: SetTime::ServerTime,
            ..mode(0o666)
        });
        let file = self.create(&cx, &dir, name.as_bytes(), &how)?.file;
        self.write(&cx, &file, 0, &data.into(), StableHow::FILE_SYNC)?;
        Ok(file)
    }

    /// Makes a symbolic link and the directories above it.
    fn write_symlink(&self, path: &str, text: &str, now: Nfstime3) -> Result<FileKey> {
        let cx = Cx::local(Caller::ROOT, now);
        let (dir, name) = split(path);
        let dir = self.make_dirs(dir, now)?;
        let node = NewNode::Symlink(text.as_bytes());
        Ok(self
            .make(&cx, &dir, name.as_bytes(), &node, &Sattr3::default())?
            .file)
    }

    /// All bytes of a file. Not for files larger than memory.
    fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let cx = Cx::local(Caller::ROOT, Nfstime3::default());
        let file = self.at(path)?;
        let mut data = Vec::new();
        loop {
            let piece = self.read(&cx, &file, data.len() as u64, 1 << 20)?;
            for part in &piece.data {
                data.extend_from_slice(part);
            }
            if piece.eof {
                return Ok(data);
            }
        }
    }
}

impl<T: Vfs + ?Sized> Tree for T {}
