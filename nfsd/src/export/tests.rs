use super::*;
use crate::memfs::{MemConfig, MemFs};
use crate::tree::Tree;
use proto::nfs3::Sattr3;

fn store(fsid: u64) -> Arc<MemFs> {
    Arc::new(MemFs::new(&MemConfig {
        fsid,
        ..MemConfig::default()
    }))
}

fn export(id: u32, name: &str, fsid: u64) -> Export {
    Export::new(id, name, store(fsid))
}

fn squash_of(squash: Squash, caller: Caller<'_>) -> (u32, u32, Vec<u32>) {
    let options = ExportOptions {
        squash,
        ..ExportOptions::default()
    };
    let squashed = export(1, "/lab", 1).with_options(options).squash(&caller);
    let who = squashed.caller();
    let groups = who.groups.iter().map(|gid| u32::from_be_bytes(*gid));
    (who.uid, who.gid, groups.collect())
}

#[test]
fn squashing() {
    let user = Caller {
        uid: 5,
        gid: 6,
        groups: &[[0; 4], [0, 0, 0, 7]],
    };
    let root = Caller {
        groups: &[[0; 4], [0, 0, 0, 4]],
        ..Caller::ROOT
    };
    let nobody = (65534, 65534, vec![]);
    assert_eq!(squash_of(Squash::None, root), (0, 0, vec![0, 4]));
    assert_eq!(squash_of(Squash::None, user), (5, 6, vec![0, 7]));
    assert_eq!(squash_of(Squash::Root, root), (65534, 65534, vec![65534, 4]));
    assert_eq!(squash_of(Squash::Root, user), (5, 6, vec![65534, 7]));
    assert_eq!(squash_of(Squash::All, user), nobody);
    assert_eq!(squash_of(Squash::None, Caller::ANONYMOUS), nobody);
}

#[test]
fn networks() {
    let net: Network = "10.77.0.0/24".parse().unwrap();
    assert_eq!(net.to_string(), "10.77.0.0/24");
    assert!(net.contains("10.77.0.200".parse().unwrap()));
    assert!(net.contains("::ffff:10.77.0.3".parse().unwrap()));
    assert!(!net.contains("10.77.1.1".parse().unwrap()));
    assert!(!net.contains("fe80::1".parse().unwrap()));
    let all: Network = "::/0".parse().unwrap();
    assert!(all.contains("fe80::1".parse().unwrap()));
    let one: Network = "192.0.2.1".parse().unwrap();
    assert!(one.contains("192.0.2.1".parse().unwrap()) && !one.contains("192.0.2.2".parse().unwrap()));
    for wrong in ["", "10.0.0.0/33", "::/129", "a/8", "10.0.0.0/x"] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}

#[test]
fn a_set_of_exports_that_cannot_be_told_apart_is_refused() {
    let exports = |list| Exports::new(&[0; 16], list).map(|_| ());
    assert_eq!(exports(vec![export(1, "/a/", 1), export(2, "/", 2)]), Ok(()));
    for name in ["", "lab", "/a//b", "/a/../b", "/a/.", "/a\0"] {
        assert!(
            matches!(exports(vec![export(1, name, 1)]), Err(ExportError::Name(_))),
            "{name:?}"
        );
    }
    let twice = exports(vec![export(1, "/a", 1), export(2, "/a/", 2)]);
    assert_eq!(twice, Err(ExportError::SameName("/a".into())));
    let ids = exports(vec![export(1, "/a", 1), export(1, "/b", 2)]);
    assert_eq!(ids.unwrap_err().to_string(), "exports /a and /b have the same id");
    let fsids = exports(vec![export(1, "/a", 1), export(2, "/b", 1)]);
    assert_eq!(fsids, Err(ExportError::SameFsid("/a".into(), "/b".into())));
    let shared = store(1);
    let same = vec![Export::new(1, "/a", shared.clone()), Export::new(2, "/b", shared)];
    assert_eq!(exports(same), Ok(()));
}

#[test]
fn the_longest_name_wins_and_only_whole_parts_count() {
    let list = vec![export(1, "/", 1), export(2, "/lab", 2), export(3, "/lab/deep", 3)];
    let exports = Exports::new(&[0; 16], list).unwrap();
    let find = |path: &'static str| exports.find(path.as_bytes()).map(|(e, rest)| (e.id, rest));
    assert_eq!(find("/lab/deep/er"), Some((3, &b"/er"[..])));
    assert_eq!(find("/lab/deeper"), Some((2, &b"/deeper"[..])));
    assert_eq!(find("/lab"), Some((2, &b""[..])));
    assert_eq!(find("/labor"), Some((1, &b"/labor"[..])));
    assert_eq!(find("/"), Some((1, &b"/"[..])));
    assert_eq!(find("lab"), None);
}

#[test]
fn handles_lead_to_files_paths_and_locks() {
    let now = Nfstime3::default();
    let fs = store(1);
    let lock = fs.write_file("dir/w1.lock", "x", now).unwrap();
    let dir = fs.at("dir").unwrap();
    fs.write_symlink("link", "dir", now).unwrap();
    let read_only = ExportOptions {
        read_only: true,
        ..ExportOptions::default()
    };
    let list = vec![
        Export::new(1, "/lab", fs.clone()),
        Export::new(2, "/ro", fs.clone()).with_options(read_only),
    ];
    let exports = Exports::new(&[3; 16], list.clone()).unwrap();
    let seal = |export: usize, file: &FileKey| exports.seal(&list[export], file);

    let handle = seal(0, &lock);
    assert_eq!(
        exports.path_of(handle.as_bytes()).as_deref(),
        Some("/lab/dir/w1.lock")
    );
    assert_eq!(
        exports.path_of(seal(1, &fs.root()).as_bytes()).as_deref(),
        Some("/ro")
    );
    assert_eq!(exports.path_of(b"junk"), None);
    assert_eq!(exports.root_handle("/lab"), Some(seal(0, &fs.root())));
    assert_eq!(exports.root_handle("/none"), None);

    let lockable = |handle: Handle| exports.lockable(&Caller::ROOT, handle.as_bytes()).file.err();
    assert_eq!(lockable(handle), None);
    assert_eq!(lockable(seal(1, &lock)), Some(Nfsstat3::NFS3ERR_ROFS));
    assert_eq!(lockable(seal(0, &dir)), Some(Nfsstat3::NFS3ERR_ISDIR));
    assert_eq!(
        lockable(seal(0, &fs.at("link").unwrap())),
        Some(Nfsstat3::NFS3ERR_INVAL)
    );
    assert_eq!(
        exports.lockable(&Caller::ROOT, b"junk").file,
        Err(Nfsstat3::NFS3ERR_BADHANDLE)
    );
    let cx = Cx::local(Caller::ROOT, now);
    let mode = |mode| {
        let mode = Sattr3 {
            mode: Some(mode),
            uid: Some(10),
            ..Sattr3::default()
        };
        fs.setattr(&cx, &lock, &mode, None).unwrap();
    };
    let may_lock = |uid| {
        let caller = Caller {
            uid,
            ..Caller::ANONYMOUS
        };
        exports.lockable(&caller, handle.as_bytes()).permitted
    };
    mode(0o600);
    assert_eq!([0, 10, 11].map(may_lock), [true, true, false]);
    mode(0o004);
    assert_eq!([0, 10, 11].map(may_lock), [true, true, true]);
    fs.remove(&cx, &dir, b"w1.lock").unwrap();
    assert_eq!(lockable(handle), Some(Nfsstat3::NFS3ERR_STALE));
    assert_eq!(exports.path_of(handle.as_bytes()), None);

    let fewer = Exports::new(&[3; 16], vec![export(9, "/lab", 1)]).unwrap();
    assert_eq!(
        fewer.resolve(handle.as_bytes()).err(),
        Some(Nfsstat3::NFS3ERR_STALE)
    );
}

#[test]
fn an_export_may_be_for_some_only() {
    let options = ExportOptions {
        clients: vec!["10.0.0.0/8".parse().unwrap()],
        ..ExportOptions::default()
    };
    let exports = Exports::new(&[0; 16], vec![export(1, "/lab", 1).with_options(options)]).unwrap();
    let root = exports.root_handle("/lab").unwrap();
    let mut cx = Cx::local(Caller::ROOT, Nfstime3::default());
    let refused = exports.resolve_for(&cx, root.as_bytes()).err();
    assert_eq!(refused, Some(Nfsstat3::NFS3ERR_ACCES));
    cx.peer = "10.1.2.3".parse().unwrap();
    assert!(exports.resolve_for(&cx, root.as_bytes()).is_ok());
}

#[test]
fn whether_a_call_may_wait_for_a_disk_is_known_by_the_export_that_its_handle_names() {
    let folder = tempfile::tempdir().unwrap();
    let disk = match crate::dirfs::DirFs::open(folder.path(), 2) {
        Ok(disk) => Arc::new(disk),
        Err(error) => return println!("skipped: {error}"),
    };
    let list = vec![export(1, "/lab", 1), Export::new(2, "/disk", disk)];
    let exports = Exports::new(&[0; 16], list).unwrap();
    for (name, blocks) in [("/lab", false), ("/disk", true)] {
        let handle = exports.root_handle(name).unwrap();
        assert_eq!(exports.may_block(handle.as_bytes()), blocks, "{name}");
        // Whether it was made here, the call finds out.
        let mut forged = handle.as_bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert!(exports.resolve(&forged).is_err());
        assert_eq!(exports.may_block(&forged), blocks, "{name}");
    }
    for nobodys in [&[][..], &[0, 0, 2], &[0, 0, 0, 3, 0], &[0xff; 64]] {
        assert!(!exports.may_block(nobodys));
    }
}

#[test]
fn a_path_is_escaped_as_ascii_whether_or_not_it_is_plain() {
    let every: Vec<u8> = (1..=255).collect();
    for path in [
        &b"/a b/c~"[..],
        b"/it's",
        b"/a\\b",
        b"/\"",
        b"/tab\t",
        "/ä".as_bytes(),
        b"/\xff",
        &every,
    ] {
        let mut text = String::from("/lab");
        push_escaped(&mut text, path);
        assert_eq!(text, format!("/lab{}", path.escape_ascii()));
    }
}

#[test]
fn a_path_that_is_asked_for_again_is_that_of_today() {
    let fs = store(1);
    let cx = Cx::local(Caller::ROOT, Nfstime3::default());
    let file = fs.write_file("d/a", "", Nfstime3::default()).unwrap();
    let dir = fs.at("d").unwrap();
    let exports = Exports::new(&[3; 16], vec![Export::new(1, "/lab", fs.clone())]).unwrap();
    let handle = exports.seal(&exports.list()[0], &file);
    let is_at = |path: Option<&str>| {
        for _ in 0..2 {
            assert_eq!(exports.path_of(handle.as_bytes()).as_deref(), path);
        }
    };
    is_at(Some("/lab/d/a"));
    fs.rename(&cx, &dir, b"a", &dir, b"b").unwrap();
    is_at(Some("/lab/d/b"));
    fs.rename(&cx, &dir, b"b", &fs.root(), b"c").unwrap();
    is_at(Some("/lab/c"));
    fs.link(&cx, &file, &dir, b"e").unwrap();
    is_at(Some("/lab/d/e"));
    fs.rename(&cx, &fs.root(), b"d", &fs.root(), b"f").unwrap();
    is_at(Some("/lab/f/e"));
    fs.remove(&cx, &dir, b"e").unwrap();
    is_at(None); // it has another name, which is not remembered
    fs.remove(&cx, &fs.root(), b"c").unwrap();
    is_at(None);
    assert_eq!(fs.getattr(&cx, &file).err(), Some(Nfsstat3::NFS3ERR_STALE));
}
