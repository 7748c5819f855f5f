use super::*;
use crate::export::{Network, Squash};

#[test]
fn getattr_of_the_root_and_of_no_file_at_all() {
    let lab = lab();
    let attr = lab.attr(&lab.root());
    assert_eq!((attr.ftype, attr.mode, attr.nlink), (Ftype3::NF3DIR, 0o1777, 2));
    let bad = lab.status(Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from("0123456789"));
    assert_eq!(bad, Nfsstat3::NFS3ERR_BADHANDLE);
    let fh = lab.file(&lab.root(), "f", 0o600);
    assert_eq!(lab.remove(&lab.root(), "f"), Nfsstat3::NFS3_OK);
    let gone = lab.status(Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from(&fh[..]));
    assert_eq!(gone, Nfsstat3::NFS3ERR_STALE);
}

#[test]
fn setattr_brackets_its_change_and_obeys_its_guard() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o600);
    let before = lab.attr(&fh);
    let Setattr3Res::Ok(wcc) = lab.setattr(&fh, |s| s.mode = Some(0o640)) else {
        panic!("refused")
    };
    assert_eq!(wcc.before, Some(crate::vfs::wcc_attr(&before)));
    let after = wcc.after.unwrap();
    assert_eq!((after.mode, after.mtime), (0o640, before.mtime));
    assert!(after.ctime > before.ctime);
    assert_eq!(after, lab.attr(&fh));

    let guarded = |ctime| Setattr3Args {
        object: NfsFh3::from(&fh[..]),
        new_attributes: with_mode(0o777),
        guard: Some(ctime),
    };
    let reply = lab.call(Nfs3Proc::NFSPROC3_SETATTR, &guarded(before.ctime));
    let Setattr3Res::Err(status, wcc) = from_bytes(&reply).unwrap() else {
        panic!("set")
    };
    assert_eq!(
        (status, wcc.after.unwrap().mode),
        (Nfsstat3::NFS3ERR_NOT_SYNC, 0o640)
    );
    let status = lab.status(Nfs3Proc::NFSPROC3_SETATTR, &guarded(after.ctime));
    assert_eq!(status, Nfsstat3::NFS3_OK);
}

#[test]
fn truncating_cuts_and_growing_makes_zeros() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o600);
    lab.write(&fh, 0, b"hello world");
    lab.setattr(&fh, |s| s.size = Some(5));
    lab.setattr(&fh, |s| s.size = Some(8));
    assert_eq!(lab.read(&fh, 0, 100), Ok((b"hello\0\0\0".to_vec(), true)));
    assert_eq!(lab.attr(&fh).used, 4096);
    lab.setattr(&fh, |s| s.size = Some(0));
    assert_eq!(lab.attr(&fh).used, 0);
    let huge = lab.fs.limits().file_size_max;
    assert_eq!(
        lab.setattr(&fh, |s| s.size = Some(huge)).status(),
        Nfsstat3::NFS3_OK
    );
    assert_eq!(lab.read(&fh, huge - 3, 100), Ok((vec![0; 3], true)));
    let over = lab.setattr(&fh, |s| s.size = Some(huge + 1));
    assert_eq!(over.status(), Nfsstat3::NFS3ERR_FBIG);
}

#[test]
fn lookup_finds_dots_and_needs_the_right_to_search() {
    let lab = lab();
    let (root, sub) = (lab.root(), lab.dir(&lab.root(), "sub", 0o700));
    assert_eq!(lab.lookup(&root, "sub"), Ok(sub.clone()));
    assert_eq!(lab.lookup(&sub, ".."), Ok(root.clone()));
    assert_eq!(lab.lookup(&sub, "."), Ok(sub.clone()));
    assert_eq!(lab.lookup(&root, ".."), Ok(root.clone()));
    assert_eq!(lab.lookup(&root, "none"), Err(Nfsstat3::NFS3ERR_NOENT));
    let file = lab.file(&root, "f", 0o600);
    assert_eq!(lab.lookup(&file, "x"), Err(Nfsstat3::NFS3ERR_NOTDIR));
    let lab = lab.by(USER);
    assert_eq!(lab.lookup(&sub, "x"), Err(Nfsstat3::NFS3ERR_ACCES));
}

#[test]
fn a_moved_directory_has_its_new_parent() {
    let lab = lab();
    let root = lab.root();
    let (a, b) = (lab.dir(&root, "a", 0o700), lab.dir(&root, "b", 0o700));
    let sub = lab.dir(&a, "sub", 0o700);
    assert_eq!(lab.rename((&a, "sub"), (&b, "moved")), Nfsstat3::NFS3_OK);
    assert_eq!(lab.lookup(&sub, ".."), Ok(b.clone()));
    assert_eq!((lab.attr(&a).nlink, lab.attr(&b).nlink), (2, 3));
    assert_eq!(lab.nfs.path_of(&sub).as_deref(), Some("/lab/b/moved"));
}

fn access(lab: &Lab, fh: &[u8]) -> u32 {
    let args = Access3Args {
        object: fh.into(),
        access: 0xffff_ffff,
    };
    match from_bytes(&lab.call(Nfs3Proc::NFSPROC3_ACCESS, &args)).unwrap() {
        Access3Res::Ok(ok) => ok.access,
        Access3Res::Err(status, _) => panic!("{status}"),
    }
}

#[test]
fn access_by_mode_group_and_squash() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o640);
    assert_eq!(access(&lab, &fh), access::READ | access::MODIFY | access::EXTEND);
    lab.setattr(&fh, |s| s.gid = Some(200));
    let lab = lab.by(USER);
    assert_eq!(access(&lab, &fh), access::READ);
    let lab = lab.by(OTHER);
    assert_eq!(access(&lab, &fh), 0);

    let squashing = ExportOptions {
        squash: Squash::Root,
        ..ExportOptions::default()
    };
    let lab = lab_with(squashing);
    let fh = lab.file(&lab.root(), "f", 0o600);
    assert_eq!(lab.attr(&fh).uid, 65534);
    lab.fs.write_file("roots", "", lab.now()).unwrap();
    let roots = lab.fh("roots");
    assert_eq!(
        lab.setattr(&roots, |s| s.mode = Some(0)).status(),
        Nfsstat3::NFS3ERR_PERM
    );
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let read_only = ExportOptions {
        read_only: true,
        ..ExportOptions::default()
    };
    let lab = lab_with(read_only);
    lab.fs.write_file("f", "data", lab.now()).unwrap();
    let (root, fh) = (lab.root(), lab.fh("f"));
    const ROFS: Nfsstat3 = Nfsstat3::NFS3ERR_ROFS;
    assert_eq!(lab.setattr(&fh, |s| s.mode = Some(0)).status(), ROFS);
    assert_eq!(lab.write(&fh, 0, b"x").status(), ROFS);
    assert_eq!(lab.remove(&root, "f"), ROFS);
    assert_eq!(lab.status(Nfs3Proc::NFSPROC3_RMDIR, &at(&root, "f")), ROFS);
    assert_eq!(lab.rename((&root, "f"), (&root, "g")), ROFS);
    let link = Link3Args {
        file: NfsFh3::from(&fh[..]),
        link: at(&root, "l"),
    };
    assert_eq!(lab.status(Nfs3Proc::NFSPROC3_LINK, &link), ROFS);
    let create = create_args(&root, "n", CreateHow3::Exclusive([0; 8]));
    assert_eq!(lab.status(Nfs3Proc::NFSPROC3_CREATE, &create), ROFS);
    assert_eq!(access(&lab, &fh), access::READ);
    assert_eq!(lab.read(&fh, 0, 9), Ok((b"data".to_vec(), true)));
}

#[test]
fn an_export_for_others_is_not_for_us() {
    let options = ExportOptions {
        clients: vec![Network::new("10.0.0.0".parse().unwrap(), 8).unwrap()],
        ..ExportOptions::default()
    };
    let lab = lab_with(options);
    let status = lab.status(Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from(&lab.root()[..]));
    assert_eq!(status, Nfsstat3::NFS3ERR_ACCES);
}

#[test]
fn readlink_and_what_is_no_link() {
    let lab = lab();
    let text = "t".repeat(1023);
    lab.fs.write_symlink("l", &text, lab.now()).unwrap();
    let reply = lab.call(Nfs3Proc::NFSPROC3_READLINK, &NfsFh3::from(&lab.fh("l")[..]));
    let Readlink3Res::Ok(ok) = from_bytes(&reply).unwrap() else {
        panic!("failed")
    };
    assert_eq!(ok.data.to_string(), text);
    let attr = ok.symlink_attributes.unwrap();
    assert_eq!((attr.ftype, attr.mode, attr.size), (Ftype3::NF3LNK, 0o777, 1023));
    let status = lab.status(Nfs3Proc::NFSPROC3_READLINK, &NfsFh3::from(&lab.root()[..]));
    assert_eq!(status, Nfsstat3::NFS3ERR_INVAL);
}

#[test]
fn every_change_moves_ctime_even_within_one_tick() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o600);
    let cx = Cx::local(Caller::ROOT, lab.now());
    let mut last = lab.attr(&fh).ctime;
    for i in 0..5u8 {
        let byte = [i];
        let args = Write3Args {
            file: NfsFh3::from(&fh[..]),
            offset: 0,
            count: 1,
            stable: StableHow::FILE_SYNC,
            data: byte[..].into(),
        };
        let Write3Res::Ok(ok) = lab.nfs.write(&cx, &args, Bytes::copy_from_slice(&byte)) else {
            panic!("refused")
        };
        let attr = ok.file_wcc.after.unwrap();
        assert!(attr.ctime > last);
        assert_eq!(attr.ctime, attr.mtime);
        last = attr.ctime;
    }
}
