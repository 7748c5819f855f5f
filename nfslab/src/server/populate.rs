//! `--populate FILE`: what an export has in it when the server starts.

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use nfsd::handle::FileKey;
use nfsd::tree::Tree;
use nfsd::vfs::{DirEntry, DirPosition, DirSink, FILE_SIZE_MAX, NewNode};
use nfsd::{Caller, Cx, Vfs};
use proto::nfs3::{CreateHow3, Fattr3, Nfsstat3, Nfstime3, Sattr3, StableHow};
use serde::Deserialize;
use std::path::Path;
use toml::Spanned;

/// An example, for `--help`.
pub const EXAMPLE: &str = "\
A file for --populate (TOML; paths from the export's root; folders above are made as needed, mode 0777):
  [[dir]]
  path = \"/home/ann\"
  mode = 0o750               # also uid, gid; for files too
  uid = 1000
  [[file]]
  path = \"/home/ann/big.bin\"
  size = 1_048_576           # bytes; 0 if left out
  pattern = \"random\"         # from --seed and the path; or \"text\", or \"zero\" (a hole), which is the default
  [[symlink]]
  path = \"/latest\"
  to = \"home/ann/big.bin\"    # the link's text
  [[hardlink]]
  path = \"/home/ann/same.bin\"
  to = \"/home/ann/big.bin\"   # a file that is there";

/// Bytes that are written at once.
const CHUNK: u64 = 1 << 20;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    dir: Vec<Spanned<Dir>>,
    #[serde(default)]
    file: Vec<Spanned<File>>,
    #[serde(default)]
    symlink: Vec<Spanned<Link>>,
    #[serde(default)]
    hardlink: Vec<Spanned<Link>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dir {
    path: String,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    pattern: Pattern,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pattern {
    #[default]
    Zero,
    Random,
    Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    path: String,
    to: String,
}

/// What is to be made, and where it is written.
#[derive(Debug)]
pub struct Populate {
    name: String,
    text: String,
    contents: Contents,
}

impl Populate {
    /// Reads a file.
    ///
    /// # Errors
    /// The file, the line and the field that is wrong.
    pub fn read(path: &Path) -> Result<Populate> {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {name} (--populate)"))?;
        Populate::parse(name, text)
    }

    fn parse(name: String, text: String) -> Result<Populate> {
        let contents: Contents = toml::from_str(&text).with_context(|| format!("in {name}"))?;
        let populate = Populate { name, text, contents };
        let Contents {
            dir,
            file,
            symlink,
            hardlink,
        } = &populate.contents;
        for entry in dir {
            populate.check(entry, "dir", &entry.get_ref().path, entry.get_ref().mode)?;
        }
        for entry in file {
            let File { path, mode, size, .. } = entry.get_ref();
            populate.check(entry, "file", path, *mode)?;
            if *size > FILE_SIZE_MAX {
                bail!(
                    "{}: file.size {size} is over {FILE_SIZE_MAX}",
                    populate.place(entry)
                );
            }
        }
        for entry in symlink.iter().chain(hardlink) {
            populate.check(entry, "link", &entry.get_ref().path, None)?;
        }
        Ok(populate)
    }

    fn check<T>(&self, entry: &Spanned<T>, kind: &str, path: &str, mode: Option<u32>) -> Result<()> {
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        let last = parts.peek().is_some() && !path.ends_with('/');
        if !path.starts_with('/') || !last || parts.any(|part| matches!(part, "." | "..")) {
            bail!(
                "{}: {kind}.path '{path}' must begin with '/' and name something, without . and ..",
                self.place(entry)
            );
        }
        match mode {
            Some(mode) if mode > 0o7777 => {
                bail!("{}: {kind}.mode {mode:#o} is over 0o7777", self.place(entry))
            }
            _ => Ok(()),
        }
    }

    /// File and line of an entry.
    fn place<T>(&self, entry: &Spanned<T>) -> String {
        let before = self.text.get(..entry.span().start).unwrap_or_default();
        format!("{}, line {}", self.name, before.matches('\n').count() + 1)
    }

    /// Fills a store: folders, files, symbolic links, hard links, in this order. One that has something in it already, as
    /// a real directory may, stays as it is.
    ///
    /// # Errors
    /// The line and the path of what could not be made, and the store's reason.
    pub fn fill(&self, store: &dyn Vfs, seed: u64, now: Nfstime3) -> Result<()> {
        let filler = Filler {
            store,
            cx: Cx::local(Caller::ROOT, now),
            seed,
        };
        if !filler.is_empty()? {
            return Ok(());
        }
        let contents = &self.contents;
        for entry in &contents.dir {
            let Dir { path, mode, uid, gid } = entry.get_ref();
            let sattr = owner(*mode, *uid, *gid);
            self.told(entry, "dir", path, filler.dir(path, &sattr))?;
        }
        for entry in &contents.file {
            self.told(entry, "file", &entry.get_ref().path, filler.file(entry.get_ref()))?;
        }
        for entry in &contents.symlink {
            let Link { path, to } = entry.get_ref();
            let made = filler.symlink(path, to);
            self.told(entry, "symlink", path, made)?;
        }
        for entry in &contents.hardlink {
            let Link { path, to } = entry.get_ref();
            self.told(entry, "hardlink", path, filler.hardlink(path, to))?;
        }
        Ok(())
    }

    fn told<T>(&self, entry: &Spanned<T>, kind: &str, path: &str, made: Result<(), Nfsstat3>) -> Result<()> {
        made.map_err(|status| anyhow!("{}: {kind}.path '{path}': {status}", self.place(entry)))
    }
}

fn owner(mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) -> Sattr3 {
    Sattr3 {
        mode,
        uid,
        gid,
        ..Sattr3::default()
    }
}

/// Path of the directory, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

struct Filler<'a> {
    store: &'a dyn Vfs,
    cx: Cx<'static>,
    seed: u64,
}

impl Filler<'_> {
    fn is_empty(&self) -> Result<bool> {
        struct Any(bool);
        impl DirSink for Any {
            fn start(&mut self, _: &Fattr3, _: u64) {}
            fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
                // ext4 puts it into every new file system.
                self.0 |= !matches!(entry.name, b"." | b".." | b"lost+found");
                !self.0
            }
        }
        let start = DirPosition {
            cookie: 0,
            verifier: 0,
        };
        let mut any = Any(false);
        let listed = self
            .store
            .readdir(&self.cx, &self.store.root(), start, false, &mut any);
        listed.map_err(|status| anyhow!("cannot list it: {status}"))?;
        Ok(!any.0)
    }

    fn above(&self, path: &str) -> Result<FileKey, Nfsstat3> {
        self.store.make_dirs(split(path).0, self.cx.now())
    }

    fn dir(&self, path: &str, sattr: &Sattr3) -> Result<(), Nfsstat3> {
        let dir = self.store.make_dirs(path, self.cx.now())?;
        self.store.setattr(&self.cx, &dir, sattr, None).map(drop)
    }

    fn file(&self, file: &File) -> Result<(), Nfsstat3> {
        let dir = self.above(&file.path)?;
        let sattr = Sattr3 {
            size: Some(file.size).filter(|_| matches!(file.pattern, Pattern::Zero)),
            ..owner(Some(file.mode.unwrap_or(0o666)), file.uid, file.gid)
        };
        let how = CreateHow3::Guarded(sattr);
        let key = self
            .store
            .create(&self.cx, &dir, split(&file.path).1.as_bytes(), &how)?
            .file;
        let mut bytes: Box<dyn Iterator<Item = u8>> = match file.pattern {
            Pattern::Zero => return Ok(()),
            Pattern::Random => Box::new(random(self.seed, &file.path)),
            Pattern::Text => Box::new(lines(&file.path)),
        };
        let mut offset = 0;
        while offset < file.size {
            let chunk: Bytes = bytes
                .by_ref()
                .take(CHUNK.min(file.size - offset) as usize)
                .collect();
            let written = self
                .store
                .write(&self.cx, &key, offset, &chunk, StableHow::UNSTABLE)?;
            if (written.count as usize) < chunk.len() {
                return Err(Nfsstat3::NFS3ERR_NOSPC);
            }
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    fn symlink(&self, path: &str, to: &str) -> Result<(), Nfsstat3> {
        let (dir, name) = (self.above(path)?, split(path).1.as_bytes());
        let node = NewNode::Symlink(to.as_bytes());
        self.store
            .make(&self.cx, &dir, name, &node, &Sattr3::default())
            .map(drop)
    }

    fn hardlink(&self, path: &str, to: &str) -> Result<(), Nfsstat3> {
        let (dir, file) = (self.above(path)?, self.store.at(to)?);
        self.store
            .link(&self.cx, &file, &dir, split(path).1.as_bytes())
            .map(drop)
    }
}

/// Bytes that look random and are the same for a seed and a path: splitmix64.
fn random(seed: u64, path: &str) -> impl Iterator<Item = u8> + use<> {
    let mut state = path
        .bytes()
        .fold(seed, |state, byte| mix(state ^ u64::from(byte)));
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(state).to_le_bytes()
    })
    .flatten()
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbered lines that name the file.
fn lines(path: &str) -> impl Iterator<Item = u8> + use<> {
    let path = path.to_owned();
    (1u64..).flat_map(move |n| format!("{path} line {n}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfsd::{MemConfig, MemFs};

    const GOOD: &str = "[[dir]]\npath = '/home/ann'\nmode = 0o750\nuid = 1000\n\
        [[file]]\npath = '/home/ann/r'\nsize = 3_000_000\npattern = 'random'\n\
        [[file]]\npath = '/t'\nsize = 20\npattern = 'text'\nmode = 0o600\n\
        [[file]]\npath = '/z'\nsize = 5\n\
        [[symlink]]\npath = '/l'\nto = 'home/ann/r'\n\
        [[hardlink]]\npath = '/deep/h'\nto = '/t'\n";

    fn filled(text: &str, seed: u64) -> Result<MemFs> {
        let fs = MemFs::new(&MemConfig::default());
        Populate::parse("seed.toml".to_owned(), text.to_owned())?.fill(&fs, seed, Nfstime3::default())?;
        Ok(fs)
    }

    #[test]
    fn what_is_asked_for_is_there_and_the_same_each_time() {
        let fs = filled(GOOD, 1).unwrap();
        let cx = Cx::local(Caller::ROOT, Nfstime3::default());
        let attr = |path| fs.getattr(&cx, &fs.at(path).unwrap()).unwrap();
        assert_eq!((attr("/home/ann").mode, attr("/home/ann").uid), (0o750, 1000));
        assert_eq!(fs.read_file("/deep/h").unwrap(), b"/t line 1\n/t line 2\n");
        assert_eq!((attr("/t").mode, attr("/t").nlink), (0o600, 2));
        assert_eq!(fs.read_file("/z").unwrap(), [0; 5]);
        assert_eq!(
            &fs.readlink(&cx, &fs.at("/l").unwrap()).unwrap().0[..],
            b"home/ann/r"
        );
        let random = fs.read_file("/home/ann/r").unwrap();
        assert_eq!(random.len(), 3_000_000);
        assert_eq!(filled(GOOD, 1).unwrap().read_file("/home/ann/r").unwrap(), random);
        assert_ne!(filled(GOOD, 2).unwrap().read_file("/home/ann/r").unwrap(), random);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_field() {
        let error = |text: &str| format!("{:#}", filled(text, 1).unwrap_err());
        for (text, parts) in [
            (
                "[[file]]\npath = '/a'\nsice = 1\n",
                ["seed.toml", "line 3", "sice"],
            ),
            (
                "[[file]]\npath = '/a'\npattern = 'red'\n",
                ["seed.toml", "line 3", "random"],
            ),
            (
                "\n[[file]]\npath = '../a'\n",
                ["seed.toml", "line 2", "file.path"],
            ),
            (
                "[[dir]]\npath = '/a'\nmode = 0o70000\n",
                ["seed.toml", "line 1", "dir.mode"],
            ),
            (
                "[[hardlink]]\npath = '/a'\nto = '/b'\n",
                ["seed.toml", "line 1", "NOENT"],
            ),
            (
                "[[file]]\npath='/a'\n[[symlink]]\npath='/a'\nto='b'\n",
                ["seed.toml", "line 3", "EXIST"],
            ),
        ] {
            let error = error(text);
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
