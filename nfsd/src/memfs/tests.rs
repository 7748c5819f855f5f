//! The directory operations against a naive model, and against each other on several threads.

use super::*;
use crate::cx::Caller;
use crate::tree::Tree;
use crate::vfs::DirEntry;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NOW: Nfstime3 = Nfstime3 {
    seconds: 7,
    nseconds: 0,
};

fn root_cx() -> Cx<'static> {
    Cx::local(Caller::ROOT, NOW)
}

fn guarded() -> CreateHow3 {
    CreateHow3::Guarded(Sattr3::default())
}

/// Takes at most `room` names.
struct Names {
    room: usize,
    names: Vec<Vec<u8>>,
    last_cookie: u64,
    verifier: u64,
}

impl DirSink for Names {
    fn start(&mut self, _: &Fattr3, verifier: u64) {
        self.verifier = verifier;
    }
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        if self.names.len() == self.room {
            return false;
        }
        self.names.push(entry.name.to_vec());
        self.last_cookie = entry.cookie;
        true
    }
}

fn list(fs: &MemFs, dir: &FileKey, from: DirPosition, room: usize) -> (Names, bool) {
    let mut names = Names {
        room,
        names: Vec::new(),
        last_cookie: from.cookie,
        verifier: 0,
    };
    let eof = fs.readdir(&root_cx(), dir, from, true, &mut names).unwrap();
    (names, eof)
}

fn names_in(fs: &MemFs, dir: &FileKey) -> BTreeSet<Vec<u8>> {
    let start = DirPosition {
        cookie: 0,
        verifier: 0,
    };
    let (names, eof) = list(fs, dir, start, usize::MAX);
    assert!(eof);
    let set: BTreeSet<_> = names.names.iter().cloned().collect();
    assert_eq!(set.len(), names.names.len(), "a name twice");
    set.into_iter().filter(|n| n != b"." && n != b"..").collect()
}

#[derive(Debug, Clone)]
enum Op {
    Create(u8),
    Mkdir(u8),
    Remove(u8),
    Rmdir(u8),
    Rename(u8, u8),
    Link(u8, u8),
    /// Reads so many more entries of the listing that is under way.
    List(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..12u8;
    prop_oneof![
        3 => name.clone().prop_map(Op::Create),
        1 => name.clone().prop_map(Op::Mkdir),
        2 => name.clone().prop_map(Op::Remove),
        1 => name.clone().prop_map(Op::Rmdir),
        2 => (name.clone(), name.clone()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (name.clone(), name).prop_map(|(a, b)| Op::Link(a, b)),
        3 => (1..4usize).prop_map(Op::List),
    ]
}

/// A map from names to what they name: (number of the file, whether it is a directory).
#[derive(Debug, Default)]
struct Model {
    names: BTreeMap<u8, (u64, bool)>,
    made: u64,
}

impl Model {
    fn make(&mut self, name: u8, dir: bool) -> Option<Nfsstat3> {
        if self.names.contains_key(&name) {
            return Some(Nfsstat3::NFS3ERR_EXIST);
        }
        self.made += 1;
        self.names.insert(name, (self.made, dir));
        None
    }

    fn take(&mut self, name: u8, want_dir: bool) -> Option<Nfsstat3> {
        match self.names.get(&name) {
            None => return Some(Nfsstat3::NFS3ERR_NOENT),
            Some((_, true)) if !want_dir => return Some(Nfsstat3::NFS3ERR_ISDIR),
            Some((_, false)) if want_dir => return Some(Nfsstat3::NFS3ERR_NOTDIR),
            Some(_) => {}
        }
        self.names.remove(&name);
        None
    }

    fn rename(&mut self, from: u8, to: u8) -> Option<Nfsstat3> {
        let Some(&source) = self.names.get(&from) else {
            return Some(Nfsstat3::NFS3ERR_NOENT);
        };
        match self.names.get(&to) {
            Some(&target) if target == source => return None,
            Some((_, false)) if source.1 => return Some(Nfsstat3::NFS3ERR_NOTDIR),
            Some((_, true)) if !source.1 => return Some(Nfsstat3::NFS3ERR_ISDIR),
            _ => {}
        }
        self.names.remove(&from);
        self.names.insert(to, source);
        None
    }

    fn link(&mut self, from: u8, to: u8) -> Option<Nfsstat3> {
        match self.names.get(&from) {
            None => Some(Nfsstat3::NFS3ERR_NOENT),
            Some((_, true)) => Some(Nfsstat3::NFS3ERR_ISDIR),
            Some(_) if self.names.contains_key(&to) => Some(Nfsstat3::NFS3ERR_EXIST),
            Some(&file) => {
                self.names.insert(to, file);
                None
            }
        }
    }

    fn links(&self, name: u8) -> u32 {
        let file = self.names[&name];
        if file.1 {
            return 2;
        }
        self.names.values().filter(|&&other| other == file).count() as u32
    }
}

/// What a listing in several pieces owes: names that were there all the time.
struct Walk {
    position: DirPosition,
    seen: Vec<Vec<u8>>,
    owed: BTreeSet<Vec<u8>>,
}

fn name(n: u8) -> Vec<u8> {
    format!("name{n}").into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn like_a_map_also_while_listed_in_pieces(ops in prop::collection::vec(op(), 1..80)) {
        let fs = MemFs::new(&MemConfig::default());
        let (cx, dir) = (root_cx(), fs.root());
        let mut model = Model::default();
        let mut walk: Option<Walk> = None;
        for op in ops {
            let (got, expected) = match op {
                Op::Create(n) => (fs.create(&cx, &dir, &name(n), &guarded()).err(), model.make(n, false)),
                Op::Mkdir(n) => {
                    let made = fs.make(&cx, &dir, &name(n), &NewNode::Directory, &Sattr3::default());
                    (made.err(), model.make(n, true))
                }
                Op::Remove(n) => (fs.remove(&cx, &dir, &name(n)).err(), model.take(n, false)),
                Op::Rmdir(n) => (fs.rmdir(&cx, &dir, &name(n)).err(), model.take(n, true)),
                Op::Rename(a, b) => {
                    (fs.rename(&cx, &dir, &name(a), &dir, &name(b)).err(), model.rename(a, b))
                }
                Op::Link(a, b) => {
                    let file = fs.lookup(&cx, &dir, &name(a)).map(|found| found.file);
                    (file.and_then(|f| fs.link(&cx, &f, &dir, &name(b))).err(), model.link(a, b))
                }
                Op::List(room) => {
                    let walk_now = walk.get_or_insert_with(|| Walk {
                        position: DirPosition { cookie: 0, verifier: 0 },
                        seen: Vec::new(),
                        owed: names_in(&fs, &dir),
                    });
                    let (names, eof) = list(&fs, &dir, walk_now.position, room);
                    walk_now.position = DirPosition { cookie: names.last_cookie, verifier: names.verifier };
                    walk_now.seen.extend(names.names);
                    if eof {
                        let walk = walk.take().unwrap();
                        let distinct: BTreeSet<_> = walk.seen.iter().cloned().collect();
                        prop_assert!(distinct.is_superset(&walk.owed), "missing: {:?}", walk);
                    }
                    (None, None)
                }
            };
            prop_assert_eq!(got, expected);
            let now: BTreeSet<_> = model.names.keys().map(|&n| name(n)).collect();
            prop_assert_eq!(&names_in(&fs, &dir), &now);
            if let Some(walk) = &mut walk {
                // What went away, even if it came back, is owed no more, and may come again.
                let lost: BTreeSet<_> = walk.owed.difference(&now).cloned().collect();
                walk.owed.retain(|n| !lost.contains(n));
                walk.seen.retain(|n| now.contains(n) || n.starts_with(b"."));
                let distinct: BTreeSet<_> = walk.seen.iter().collect();
                prop_assert_eq!(distinct.len(), walk.seen.len(), "a name twice: {:?}", walk);
            }
        }
        let subdirs = model.names.values().filter(|file| file.1).count() as u32;
        prop_assert_eq!(fs.getattr(&cx, &dir).unwrap().nlink, 2 + subdirs);
        for &n in model.names.keys() {
            prop_assert_eq!(fs.lookup(&cx, &dir, &name(n)).unwrap().attr.nlink, model.links(n));
        }
        for (n, (_, is_dir)) in model.names {
            if is_dir { fs.rmdir(&cx, &dir, &name(n)) } else { fs.remove(&cx, &dir, &name(n)) }.unwrap();
        }
        assert_empty(&fs);
    }
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |names: &mut dyn Iterator<Item = &Vec<u8>>| {
            names
                .map(|n| n.escape_ascii().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let (seen, owed) = (text(&mut self.seen.iter()), text(&mut self.owed.iter()));
        write!(f, "seen {seen}, owed {owed}")
    }
}

/// Everything was given back.
fn assert_empty(fs: &MemFs) {
    let space = fs.space(&root_cx(), &fs.root()).unwrap();
    assert_eq!(space.free_bytes, space.total_bytes);
    assert_eq!(space.free_files, space.total_files);
    assert_eq!(fs.table.len(), 1);
    let root = fs.getattr(&root_cx(), &fs.root()).unwrap();
    assert_eq!((root.size, root.used, root.nlink), (0, 0, 2));
}

fn remove_all(fs: &MemFs, dir: &FileKey) {
    for name in names_in(fs, dir) {
        let found = fs.lookup(&root_cx(), dir, &name).unwrap();
        if found.attr.ftype == Ftype3::NF3DIR {
            remove_all(fs, &found.file);
            fs.rmdir(&root_cx(), dir, &name).unwrap();
        } else {
            fs.remove(&root_cx(), dir, &name).unwrap();
        }
    }
}

/// A small generator of numbers, so that a thread's script is the same each time.
fn next(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// Four threads move, list, make and remove in one small tree. None may wait for ever, no file may be lost or
/// counted twice, and no directory may end up inside itself.
#[test]
fn four_threads_in_one_tree() {
    let fs = MemFs::new(&MemConfig::default());
    let dirs = ["a", "a/b", "a/b/c", "d", "d/e", "f"];
    for dir in dirs {
        fs.make_dirs(dir, NOW).unwrap();
    }
    let keys: Vec<FileKey> = dirs
        .iter()
        .map(|d| fs.at(d).unwrap())
        .chain([fs.root()])
        .collect();
    let run = |seed: u64| {
        let mut rng = seed;
        let names: [&[u8]; 5] = [b"a", b"b", b"c", b"x", b"y"];
        for _ in 0..3000 {
            let mut dir = || keys[next(&mut rng) % keys.len()];
            let (from, to) = (dir(), dir());
            let mut name = || names[next(&mut rng) % names.len()];
            let (old, new) = (name(), name());
            let cx = root_cx();
            match next(&mut rng) % 8 {
                0..=3 => _ = fs.rename(&cx, &from, old, &to, new).ok(),
                4 => _ = fs.create(&cx, &from, old, &guarded()).ok(),
                5 => _ = fs.remove(&cx, &from, old).ok(),
                6 => {
                    if let Ok(found) = fs.lookup(&cx, &from, old) {
                        let _ = fs.link(&cx, &found.file, &to, new);
                        let data = Bytes::from_static(b"data");
                        let _ = fs.write(&cx, &found.file, 0, &data, StableHow::UNSTABLE);
                    }
                }
                _ => {
                    let start = DirPosition {
                        cookie: 0,
                        verifier: 0,
                    };
                    let mut sink = Names {
                        room: usize::MAX,
                        names: Vec::new(),
                        last_cookie: 0,
                        verifier: 0,
                    };
                    let _ = fs.readdir(&cx, &from, start, true, &mut sink);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            let run = &run;
            scope.spawn(move || run(seed));
        }
    });
    for key in &keys {
        if let Ok(inode) = fs.inode(key) {
            assert_eq!(fs.ancestors(&inode).unwrap().last(), Some(&ROOT_INO));
        }
    }
    remove_all(&fs, &fs.root());
    assert_empty(&fs);
}

/// Two directories, each about to go into the other: one RENAME wins, and then the other is impossible.
#[test]
fn of_two_directories_only_one_goes_into_the_other() {
    let fs = MemFs::new(&MemConfig::default());
    let (root, cx) = (fs.root(), root_cx());
    let (a, b) = (fs.make_dirs("a", NOW).unwrap(), fs.make_dirs("b", NOW).unwrap());
    let barrier = std::sync::Barrier::new(2);
    for _ in 0..3000 {
        let (into_b, into_a) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                barrier.wait();
                fs.rename(&root_cx(), &root, b"a", &b, b"a").err()
            });
            barrier.wait();
            let mine = fs.rename(&cx, &root, b"b", &a, b"b").err();
            (other.join().unwrap(), mine)
        });
        let (back, lost) = match (into_b, into_a) {
            (None, Some(lost)) => (fs.rename(&cx, &b, b"a", &root, b"a"), lost),
            (Some(lost), None) => (fs.rename(&cx, &a, b"b", &root, b"b"), lost),
            both => panic!("{both:?}"),
        };
        assert_eq!(lost, Nfsstat3::NFS3ERR_INVAL);
        back.unwrap();
    }
}

/// Two directories that exchange files cross each other's locks in opposite order.
#[test]
fn files_cross_between_two_directories() {
    let fs = MemFs::new(&MemConfig::default());
    let (a, b) = (fs.make_dirs("a", NOW).unwrap(), fs.make_dirs("b", NOW).unwrap());
    fs.write_file("a/x", "", NOW).unwrap();
    fs.write_file("b/y", "", NOW).unwrap();
    let to_and_fro = |from: &FileKey, to: &FileKey, name: &[u8]| {
        for _ in 0..5000 {
            fs.rename(&root_cx(), from, name, to, name).unwrap();
            fs.rename(&root_cx(), to, name, from, name).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| to_and_fro(&a, &b, b"x"));
        to_and_fro(&b, &a, b"y");
    });
    remove_all(&fs, &fs.root());
    assert_empty(&fs);
}

#[test]
fn writers_of_one_file_on_two_threads_leave_whole_writes() {
    let fs = MemFs::new(&MemConfig::default());
    let file = fs.write_file("f", "", NOW).unwrap();
    std::thread::scope(|scope| {
        for byte in 1..=2u8 {
            let fs = &fs;
            scope.spawn(move || {
                for i in 0..200 {
                    let data = Bytes::from(vec![byte; 100_000]);
                    fs.write(&root_cx(), &file, i % 3, &data, StableHow::UNSTABLE)
                        .unwrap();
                    let read = fs.read(&root_cx(), &file, 10, 99_000).unwrap();
                    let flat = read.data.concat();
                    assert!(flat.iter().all(|b| *b == flat[0]), "half of a write was read");
                }
            });
        }
    });
}

#[test]
fn a_tree_as_deep_as_it_likes_is_freed() {
    let fs = MemFs::new(&MemConfig::default());
    let mut dir = fs.root();
    for _ in 0..50_000 {
        dir = fs
            .make(&root_cx(), &dir, b"d", &NewNode::Directory, &Sattr3::default())
            .unwrap()
            .file;
    }
    assert!(fs.path_of(&dir).is_some());
    drop(fs);
}

#[test]
fn keys_of_another_instance_are_stale() {
    let fs = |generation| {
        MemFs::new(&MemConfig {
            generation,
            ..MemConfig::default()
        })
    };
    let old = fs(1).write_file("f", "x", NOW).unwrap();
    let new = fs(2);
    new.write_file("f", "x", NOW).unwrap();
    const STALE: Option<Nfsstat3> = Some(Nfsstat3::NFS3ERR_STALE);
    assert_eq!(new.getattr(&root_cx(), &old).err(), STALE);
    let strange = FileKey::new(b"short").unwrap();
    assert_eq!(new.getattr(&root_cx(), &strange).err(), STALE);
}

#[test]
fn links_are_limited() {
    let fs = MemFs::new(&MemConfig::default());
    let file = fs.write_file("f", "", NOW).unwrap();
    for i in 1..LINK_MAX {
        fs.link(&root_cx(), &file, &fs.root(), i.to_string().as_bytes())
            .unwrap();
    }
    let one_more = fs.link(&root_cx(), &file, &fs.root(), b"more");
    assert_eq!(one_more.err(), Some(Nfsstat3::NFS3ERR_MLINK));
    assert_eq!(fs.path_of(&file).unwrap(), b"/64999");
    remove_all(&fs, &fs.root());
    assert_empty(&fs);
}

#[test]
fn seeding_and_looking() {
    let fs = MemFs::new(&MemConfig::default());
    let big = vec![3; (1 << 20) + 17];
    fs.write_file("/deep/er/file", big.clone(), NOW).unwrap();
    assert_eq!(fs.read_file("deep/er/file").unwrap(), big);
    fs.write_file("/deep/er/file", "short", NOW).unwrap();
    assert_eq!(fs.read_file("/deep//er/file").unwrap(), b"short");
    assert_eq!(fs.read_file("/deep/er"), Err(Nfsstat3::NFS3ERR_ISDIR));
    assert_eq!(fs.at("/none"), Err(Nfsstat3::NFS3ERR_NOENT));
    let file = fs.write_file("top", "", NOW).unwrap();
    assert_eq!(fs.path_of(&file).unwrap(), b"/top");
    assert_eq!(fs.path_of(&fs.root()).unwrap(), b"/");
}

#[test]
fn a_clock_that_stands_still_or_is_set_back() {
    let fs = MemFs::new(&MemConfig::default());
    let file = fs.write_file("f", "", NOW).unwrap();
    let write_at = |seconds| {
        let cx = Cx::local(Caller::ROOT, Nfstime3 { seconds, nseconds: 0 });
        let written = fs
            .write(&cx, &file, 0, &Bytes::from_static(b"x"), StableHow::UNSTABLE)
            .unwrap();
        written.wcc.after.unwrap().ctime
    };
    let first = write_at(100);
    assert!(write_at(100) > first);
    assert_eq!(write_at(50).seconds, 50, "an hour back is believed");
}
