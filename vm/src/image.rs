//! A file tree in memory, written as the `newc` cpio archive that a kernel
//! unpacks as its first root file system.
//!
//! Invariants: every parent folder exists before what lies in it, and the root
//! is mode 0755 (rpcbind drops its privileges and then reads `/etc`; with a
//! closed root it answers every call with an authentication error).

use std::collections::BTreeMap;
use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};

/// What lies at a path.
#[derive(Clone, Debug)]
enum Node {
    Folder { mode: u32, owner: u32 },
    File { mode: u32, data: Vec<u8> },
    Link { target: String },
}

/// A file tree.
#[derive(Default)]
pub(crate) struct Image {
    nodes: BTreeMap<String, Node>,
}

/// `/bin/x` → `usr/bin/x`: the guest has the merged layout.
pub(crate) fn merged(path: &str) -> String {
    let path = path.trim_matches('/');
    match path.split('/').next() {
        Some("bin" | "sbin" | "lib" | "lib64") => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

impl Image {
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// A folder of mode 0755 of root.
    pub(crate) fn folder(&mut self, path: &str) {
        self.folder_of(path, 0o755, 0);
    }

    pub(crate) fn folder_of(&mut self, path: &str, mode: u32, owner: u32) {
        self.parents(path);
        self.nodes.insert(path.to_owned(), Node::Folder { mode, owner });
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, data: impl Into<Vec<u8>>) {
        self.parents(path);
        self.nodes.insert(
            path.to_owned(),
            Node::File {
                mode,
                data: data.into(),
            },
        );
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.nodes.insert(
            path.to_owned(),
            Node::Link {
                target: target.to_owned(),
            },
        );
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default().to_owned();
            self.nodes.entry(parent).or_insert(Node::Folder {
                mode: 0o755,
                owner: 0,
            });
        }
    }

    /// Writes the archive. A map in order of path puts parents first.
    pub(crate) fn write(&self, mut out: impl Write) -> io::Result<()> {
        let root = Node::Folder {
            mode: 0o755,
            owner: 0,
        };
        let nodes = std::iter::once((".", &root)).chain(self.nodes.iter().map(|(p, n)| (p.as_str(), n)));
        for (ino, (path, node)) in (1u32..).zip(nodes) {
            let entry = Builder::new(path).ino(ino);
            out = match node {
                Node::Folder { mode, owner } => {
                    let entry = entry.mode(*mode).uid(*owner).gid(*owner).nlink(2);
                    entry
                        .set_mode_file_type(ModeFileType::Directory)
                        .write(out, 0)
                        .finish()?
                }
                Node::File { mode, data } => {
                    let entry = entry.mode(*mode).set_mode_file_type(ModeFileType::Regular);
                    body(entry, out, data)?
                }
                Node::Link { target } => {
                    let entry = entry.mode(0o777).set_mode_file_type(ModeFileType::Symlink);
                    body(entry, out, target.as_bytes())?
                }
            };
        }
        trailer(out)?.flush()
    }
}

fn body<W: Write>(entry: Builder, out: W, data: &[u8]) -> io::Result<W> {
    let size = u32::try_from(data.len()).map_err(|_| io::Error::other("a file over 4 GB in an initramfs"))?;
    let mut writer = entry.write(out, size);
    writer.write_all(data)?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: (path, mode, uid, content).
    fn entries(archive: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut rest = archive;
        let mut all = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return all;
            }
            let (name, mode, uid) = (
                reader.entry().name().to_owned(),
                reader.entry().mode(),
                reader.entry().uid(),
            );
            let mut data = Vec::new();
            io::Read::read_to_end(&mut reader, &mut data).unwrap();
            all.push((name, mode, uid, data));
            rest = reader.finish().unwrap();
        }
    }

    fn sample() -> Image {
        let mut image = Image::default();
        image.file("usr/bin/tool", 0o755, b"odd".to_vec());
        image.link("bin", "usr/bin");
        image.folder_of("var/lib/nfs", 0o700, 100);
        image.file("etc/empty", 0o644, Vec::new());
        image
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut archive = Vec::new();
        sample().write(&mut archive).unwrap();
        let all = entries(&archive);
        let find = |p: &str| all.iter().find(|e| e.0 == p).unwrap().clone();
        assert_eq!(all[0].0, ".");
        assert_eq!(all[0].1, 0o040_755);
        assert_eq!(find("usr/bin/tool").1, 0o100_755);
        assert_eq!(find("usr/bin/tool").3, b"odd");
        assert_eq!((find("bin").1, find("bin").3), (0o120_777, b"usr/bin".to_vec()));
        assert_eq!((find("var/lib/nfs").1, find("var/lib/nfs").2), (0o040_700, 100));
        assert!(find("etc/empty").3.is_empty());
    }

    #[test]
    fn a_folder_comes_before_what_lies_in_it() {
        let mut archive = Vec::new();
        sample().write(&mut archive).unwrap();
        let paths: Vec<String> = entries(&archive).into_iter().map(|e| e.0).collect();
        for (at, path) in paths.iter().enumerate() {
            if let Some((parent, _)) = path.rsplit_once('/') {
                assert!(
                    paths[..at].iter().any(|p| p == parent),
                    "{parent} is missing before {path}"
                );
            }
        }
    }

    #[test]
    fn paths_follow_the_merged_layout() {
        for (path, expected) in [
            ("/sbin/x", "usr/sbin/x"),
            ("usr/bin/x", "usr/bin/x"),
            ("etc/x", "etc/x"),
        ] {
            assert_eq!(merged(path), expected);
        }
    }
}
