//! What only a store on a real directory can get wrong: handles that must last, and ways out. What every store must do is
//! tested by `nfs3::tests::on_dirfs`.

use super::*;
use crate::cx::Caller;
use crate::tree::Tree;
use crate::vfs::DirEntry;
use bytes::Bytes;
use proto::nfs3::Nfsstat3;
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, symlink};
use tempfile::TempDir;

const NOW: Nfstime3 = Nfstime3 {
    seconds: 7,
    nseconds: 0,
};
const STALE: Option<Nfsstat3> = Some(Nfsstat3::NFS3ERR_STALE);

fn cx() -> Cx<'static> {
    Cx::local(Caller::ROOT, NOW)
}

/// An exported directory beside a secret one. None, and the reason printed, if this process may not.
struct Lab {
    folder: TempDir,
    fs: DirFs,
}

fn lab() -> Option<Lab> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("export")).unwrap();
    std::fs::create_dir(folder.path().join("secret")).unwrap();
    std::fs::write(folder.path().join("secret/file"), "secret").unwrap();
    match DirFs::open(&folder.path().join("export"), 1) {
        Ok(fs) => Some(Lab { folder, fs }),
        Err(error @ DirError::Privilege) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Lab {
    fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    /// A new instance on the same directory.
    fn restart(&mut self) {
        self.fs = DirFs::open(&self.path("export"), 1).unwrap();
    }

    fn error(&self, file: &FileKey) -> Option<Nfsstat3> {
        self.fs.getattr(&cx(), file).err()
    }

    fn text(&self, file: &FileKey) -> String {
        let read = self.fs.read(&cx(), file, 0, 100).unwrap();
        String::from_utf8(read.data.concat()).unwrap()
    }
}

#[test]
fn a_handle_survives_a_restart_and_renames_and_not_its_file() {
    let Some(mut lab) = lab() else { return };
    let file = lab.fs.write_file("a/b/f", "old", NOW).unwrap();
    let dir = lab.fs.at("a/b").unwrap();
    lab.restart();
    assert_eq!(lab.text(&file), "old");
    assert_eq!(
        lab.fs.at("a/b/f").unwrap(),
        file,
        "the same file has the same handle"
    );
    std::fs::rename(lab.path("export/a"), lab.path("export/z")).unwrap();
    std::fs::rename(lab.path("export/z/b/f"), lab.path("export/g")).unwrap();
    assert_eq!((lab.text(&file), lab.error(&dir)), ("old".to_owned(), None));
    assert_eq!(lab.fs.path_of(&file).as_deref(), Some(&b"/g"[..]));
    // Another file takes the name.
    std::fs::write(lab.path("export/new"), "new").unwrap();
    std::fs::rename(lab.path("export/new"), lab.path("export/g")).unwrap();
    assert_eq!(lab.error(&file), STALE);
    lab.restart();
    assert_eq!(lab.error(&file), STALE);
    assert_eq!(lab.text(&lab.fs.at("g").unwrap()), "new");
}

#[test]
fn an_exclusive_create_that_is_repeated_after_a_restart_finds_its_file() {
    let Some(mut lab) = lab() else { return };
    let create = |lab: &Lab, verifier: &[u8; 8]| {
        let made = lab
            .fs
            .create(&cx(), &lab.fs.root(), b"f", &CreateHow3::Exclusive(*verifier));
        made.map(|made| made.file)
    };
    const EXIST: Result<FileKey> = Err(Nfsstat3::NFS3ERR_EXIST);
    let file = create(&lab, b"attempt1").unwrap();
    let probe = rustix::fs::setxattr(
        lab.path("secret/file"),
        "trusted.nfslab.test",
        b"x",
        rustix::fs::XattrFlags::empty(),
    );
    if let Err(error) = probe {
        println!("skipped: no trusted attributes here: {error}");
        return;
    }
    lab.restart();
    assert_eq!(create(&lab, b"attempt2"), EXIST);
    assert_eq!(create(&lab, b"attempt1"), Ok(file));
    let mode = Sattr3 {
        mode: Some(0o600),
        ..Sattr3::default()
    };
    lab.fs.setattr(&cx(), &file, &mode, None).unwrap();
    let kept = rustix::fs::getxattr(lab.path("export/f"), "trusted.nfslab.verifier", &mut [0; 8]);
    assert_eq!(
        kept,
        Err(rustix::io::Errno::NODATA),
        "nothing of ours stays on it"
    );
    lab.restart();
    assert_eq!(create(&lab, b"attempt1"), EXIST, "its client has gone on");
}

#[test]
fn an_inode_number_that_is_used_again_is_another_file() {
    let Some(lab) = lab() else { return };
    let path = lab.path("export/f");
    let mut keys = Vec::new();
    let mut numbers = BTreeSet::new();
    for i in 0..50 {
        std::fs::write(&path, i.to_string()).unwrap();
        numbers.insert(std::fs::metadata(&path).unwrap().ino());
        keys.push(lab.fs.at("f").unwrap());
        std::fs::remove_file(&path).unwrap();
    }
    println!("{} inode numbers for {} files", numbers.len(), keys.len());
    std::fs::write(&path, "last").unwrap();
    assert!(keys.iter().all(|key| lab.error(key) == STALE));
}

#[test]
fn no_name_and_no_link_leads_out() {
    let Some(lab) = lab() else { return };
    let (fs, root) = (&lab.fs, lab.fs.root());
    symlink(lab.path("secret"), lab.path("export/dir-link")).unwrap();
    symlink("../secret/file", lab.path("export/file-link")).unwrap();
    for name in [
        "../secret",
        "../secret/file",
        "/etc/passwd",
        "dir-link/file",
        "a\0b",
        "",
    ] {
        let found = fs.lookup(&cx(), &root, name.as_bytes());
        assert_eq!(found.err(), Some(Nfsstat3::NFS3ERR_ACCES), "{name:?}");
    }
    let above = fs.lookup(&cx(), &root, b"..").unwrap();
    assert_eq!((above.file, above.attr.fileid), (root, lab.fs.root_ino));
    let (dir_link, file_link) = (fs.at("dir-link").unwrap(), fs.at("file-link").unwrap());
    assert_eq!(fs.getattr(&cx(), &dir_link).unwrap().ftype, Ftype3::NF3LNK);
    let inside = fs.lookup(&cx(), &dir_link, b"file");
    assert_eq!(inside.err(), Some(Nfsstat3::NFS3ERR_NOTDIR));
    assert_eq!(
        fs.read(&cx(), &file_link, 0, 9).err(),
        Some(Nfsstat3::NFS3ERR_INVAL)
    );
    let data = Bytes::from_static(b"x");
    let written = fs.write(&cx(), &file_link, 0, &data, StableHow::UNSTABLE);
    assert_eq!(written.err(), Some(Nfsstat3::NFS3ERR_INVAL));
    let truncate = Sattr3 {
        size: Some(0),
        mode: Some(0o777),
        uid: Some(3),
        ..Sattr3::default()
    };
    assert!(fs.setattr(&cx(), &file_link, &truncate, None).is_err());
    let chown = Sattr3 {
        mode: Some(0o777),
        uid: Some(3),
        ..Sattr3::default()
    };
    fs.setattr(&cx(), &file_link, &chown, None).unwrap();
    let create = CreateHow3::Unchecked(truncate);
    assert_eq!(
        fs.create(&cx(), &root, b"file-link", &create).err(),
        Some(Nfsstat3::NFS3ERR_EXIST)
    );
    fs.link(&cx(), &file_link, &root, b"hard").unwrap();
    fs.remove(&cx(), &root, b"dir-link").unwrap();
    let secret = std::fs::metadata(lab.path("secret/file")).unwrap();
    assert_eq!(
        (secret.len(), secret.uid(), secret.mode() & 0o111, secret.nlink()),
        (6, 0, 0, 1)
    );
    assert!(lab.path("secret/file").exists());
}

#[test]
fn a_handle_of_a_file_outside_is_stale_though_the_kernel_would_open_it() {
    let Some(lab) = lab() else { return };
    let other = DirFs::open(&lab.path("secret"), 1).unwrap();
    let foreign = other.at("file").unwrap();
    assert_eq!(lab.error(&foreign), STALE, "another export's tag");
    // As if somebody knew the key of handles and the tag.
    for path in ["secret", "secret/file", ""] {
        let open = std::fs::File::open(lab.path(path)).unwrap();
        let forged = lab.fs.key_of(open.as_fd()).unwrap();
        assert_eq!(lab.error(&forged), STALE, "{path}");
        assert_eq!(lab.fs.lookup(&cx(), &forged, b"file").err(), STALE, "{path}");
    }
    for junk in [&b""[..], b"12345678", &[0; 44], &[0xff; 44]] {
        assert_eq!(lab.error(&FileKey::new(junk).unwrap()), STALE);
    }
    let mut bytes = lab.fs.root().as_bytes().to_vec();
    bytes.truncate(12);
    assert_eq!(lab.error(&FileKey::new(&bytes).unwrap()), STALE);
}

#[test]
fn what_was_moved_away_is_stale_until_it_comes_back() {
    let Some(lab) = lab() else { return };
    let file = lab.fs.write_file("a/b/f", "x", NOW).unwrap();
    let (a, b) = (lab.fs.at("a").unwrap(), lab.fs.at("a/b").unwrap());
    std::fs::rename(lab.path("export/a"), lab.path("secret/a")).unwrap();
    assert_eq!([lab.error(&a), lab.error(&b), lab.error(&file)], [STALE; 3]);
    assert_eq!(lab.fs.lookup(&cx(), &b, b"..").err(), STALE);
    std::fs::rename(lab.path("secret/a"), lab.path("export/a")).unwrap();
    assert_eq!([lab.error(&a), lab.error(&b), lab.error(&file)], [None; 3]);
    // A name that only begins like the directory's is not in it.
    std::fs::rename(lab.path("export/a"), lab.path("export-a")).unwrap();
    assert_eq!(lab.error(&a), STALE);
    // The exported directory itself may be renamed.
    std::fs::rename(lab.path("export-a"), lab.path("export/a")).unwrap();
    std::fs::rename(lab.path("export"), lab.path("renamed")).unwrap();
    assert_eq!([lab.error(&a), lab.error(&file)], [None; 2]);
}

/// A directory goes in and out of the export while its ".." is asked for: the answer is the root or nothing.
#[test]
fn a_parent_that_is_moved_meanwhile_leads_nowhere() {
    let Some(lab) = lab() else { return };
    let inner = lab.fs.make_dirs("a/inner", NOW).unwrap();
    let (here, there) = (lab.path("export/a"), lab.path("secret/a"));
    let inside: Vec<u64> = ["", "a", "a/inner"]
        .map(|path| std::fs::metadata(lab.path("export").join(path)).unwrap().ino())
        .to_vec();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            for _ in 0..2000 {
                std::fs::rename(&here, &there).unwrap();
                std::fs::rename(&there, &here).unwrap();
            }
        });
        while !mover.is_finished() {
            let mut dir = inner;
            for _ in 0..3 {
                match lab.fs.lookup(&cx(), &dir, b"..") {
                    Ok(found) => {
                        assert!(inside.contains(&found.attr.fileid));
                        dir = found.file;
                    }
                    Err(status) => assert_eq!(status, Nfsstat3::NFS3ERR_STALE),
                }
            }
        }
    });
}

struct Names(Vec<(Vec<u8>, u64)>, usize);

impl DirSink for Names {
    fn start(&mut self, _: &Fattr3, _: u64) {}
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        if self.1 == 0 {
            return false;
        }
        self.1 -= 1;
        self.0.push((entry.name.to_vec(), entry.cookie));
        true
    }
}

#[test]
fn entries_that_stay_are_listed_once_while_others_come_and_go() {
    let Some(lab) = lab() else { return };
    let dir = lab.fs.make_dirs("d", NOW).unwrap();
    let stays: BTreeSet<Vec<u8>> = (0..300).map(|i| format!("stays{i}").into_bytes()).collect();
    for name in &stays {
        std::fs::write(lab.path("export/d").join(std::str::from_utf8(name).unwrap()), "").unwrap();
    }
    let (mut seen, mut cookie, mut round) = (Vec::new(), 0, 0);
    loop {
        let mut sink = Names(Vec::new(), 7);
        let position = DirPosition { cookie, verifier: 0 };
        let eof = lab.fs.readdir(&cx(), &dir, position, true, &mut sink).unwrap();
        cookie = sink.0.last().map_or(cookie, |(_, cookie)| *cookie);
        seen.extend(
            sink.0
                .into_iter()
                .map(|(name, _)| name)
                .filter(|n| n.starts_with(b"stays")),
        );
        if eof {
            break;
        }
        std::fs::write(lab.path(&format!("export/d/new{round}")), "").unwrap();
        if round % 2 == 1 {
            std::fs::remove_file(lab.path(&format!("export/d/new{round}"))).unwrap();
        }
        round += 1;
    }
    assert_eq!(seen.len(), stays.len(), "one twice or missing");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), stays);
}

#[test]
fn deeper_than_a_path_can_be_told() {
    let Some(lab) = lab() else { return };
    let name = "n".repeat(250);
    let mut dir = lab.fs.root();
    for _ in 0..40 {
        let made = lab.fs.make(
            &cx(),
            &dir,
            name.as_bytes(),
            &NewNode::Directory,
            &Sattr3::default(),
        );
        dir = made.unwrap().file;
    }
    assert_eq!(lab.error(&dir), None);
    lab.fs
        .create(&cx(), &dir, b"f", &CreateHow3::Guarded(Sattr3::default()))
        .unwrap();
    let top = lab.path("export").join(&name);
    std::fs::rename(top, lab.path("secret/top")).unwrap();
    assert_eq!(lab.error(&dir), STALE);
}

#[test]
fn directories_that_cannot_be_exported_say_why() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    for (path, text) in [("none", "No such file"), ("file", "Not a directory")] {
        let error = DirFs::open(&folder.path().join(path), 1).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    // sysfs has no handles that user space could have; where it has, nothing is wrong.
    if let Err(error) = DirFs::open(Path::new("/proc"), 1) {
        println!("{error}");
    }
}

#[test]
fn two_clients_race_for_one_name_and_one_wins() {
    let Some(lab) = lab() else { return };
    let (fs, root) = (&lab.fs, lab.fs.root());
    let how = CreateHow3::Guarded(Sattr3::default());
    for i in 0..50 {
        let name = format!("f{i}");
        let made = std::thread::scope(|scope| {
            let race = || fs.create(&cx(), &root, name.as_bytes(), &how).is_ok();
            let other = scope.spawn(race);
            [race(), other.join().unwrap()]
        });
        assert_ne!(made[0], made[1]);
    }
}
