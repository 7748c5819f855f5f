use super::*;

const OK: Nfsstat3 = Nfsstat3::NFS3_OK;

fn rmdir(lab: &Lab, dir: &[u8], name: &str) -> Nfsstat3 {
    lab.status(Nfs3Proc::NFSPROC3_RMDIR, &at(dir, name))
}

#[test]
fn a_file_lives_until_its_last_name_goes() {
    let lab = lab();
    let root = lab.root();
    let fh = lab.file(&root, "a", 0o600);
    let created = lab.attr(&fh);
    let Link3Res::Ok(ok) = link(&lab, &fh, &root, "b") else {
        panic!("refused")
    };
    let attr = ok.file_attributes.unwrap();
    assert_eq!(attr.nlink, 2);
    assert!(attr.ctime > created.ctime && attr.mtime == created.mtime);
    assert_eq!(lab.lookup(&root, "b"), Ok(fh.clone()));
    assert_eq!(lab.remove(&root, "b"), OK);
    let attr = lab.attr(&fh);
    assert_eq!(attr.nlink, 1);
    assert_eq!(lab.remove(&root, "a"), OK);
    let gone = lab.status(Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from(&fh[..]));
    assert_eq!(gone, Nfsstat3::NFS3ERR_STALE);
    assert_eq!(link(&lab, &fh, &root, "c").status(), Nfsstat3::NFS3ERR_STALE);
    assert_eq!(lab.remove(&root, "a"), Nfsstat3::NFS3ERR_NOENT);
}

#[test]
fn links_that_cannot_be() {
    let lab = lab();
    let root = lab.root();
    let fh = lab.file(&root, "a", 0o600);
    let dir = lab.dir(&root, "d", 0o700);
    assert_eq!(link(&lab, &fh, &root, "a").status(), Nfsstat3::NFS3ERR_EXIST);
    assert_eq!(link(&lab, &dir, &root, "x").status(), Nfsstat3::NFS3ERR_ISDIR);
    assert_eq!(link(&lab, &fh, &fh, "x").status(), Nfsstat3::NFS3ERR_NOTDIR);
    let lab = lab.by(USER);
    assert_eq!(link(&lab, &fh, &dir, "x").status(), Nfsstat3::NFS3ERR_ACCES);
}

#[test]
fn remove_and_rmdir_mind_the_type_and_the_entries() {
    let lab = lab();
    let root = lab.root();
    lab.file(&root, "f", 0o600);
    let d = lab.dir(&root, "d", 0o700);
    lab.file(&d, "inside", 0o600);
    assert_eq!(lab.remove(&root, "d"), Nfsstat3::NFS3ERR_ISDIR);
    assert_eq!(rmdir(&lab, &root, "f"), Nfsstat3::NFS3ERR_NOTDIR);
    assert_eq!(rmdir(&lab, &root, "d"), Nfsstat3::NFS3ERR_NOTEMPTY);
    assert_eq!(rmdir(&lab, &root, "."), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(rmdir(&lab, &root, ".."), Nfsstat3::NFS3ERR_EXIST);
    assert_eq!(lab.remove(&d, "inside"), OK);
    assert_eq!(rmdir(&lab, &root, "d"), OK);
    assert_eq!(lab.attr(&root).nlink, 2);
    let create = create_args(&d, "late", CreateHow3::Guarded(with_mode(0)));
    let late = lab.status(Nfs3Proc::NFSPROC3_CREATE, &create);
    assert_eq!(late, Nfsstat3::NFS3ERR_STALE);
}

#[test]
fn sticky_directories_protect_others_files() {
    let lab = lab().by(USER);
    let root = lab.root();
    lab.file(&root, "users", 0o666);
    let lab = lab.by(OTHER);
    assert_eq!(lab.remove(&root, "users"), Nfsstat3::NFS3ERR_PERM);
    assert_eq!(
        lab.rename((&root, "users"), (&root, "mine")),
        Nfsstat3::NFS3ERR_PERM
    );
    lab.file(&root, "others", 0o666);
    assert_eq!(
        lab.rename((&root, "others"), (&root, "users")),
        Nfsstat3::NFS3ERR_PERM
    );
    assert!(
        lab.lookup(&root, "others").is_ok(),
        "a refused RENAME changes nothing"
    );
    assert_eq!(lab.remove(&root, "others"), OK);
}

#[test]
fn rename_replaces_and_brackets_both_directories() {
    let lab = lab();
    let root = lab.root();
    let (a, b) = (lab.dir(&root, "a", 0o700), lab.dir(&root, "b", 0o700));
    let (x, y) = (lab.file(&a, "x", 0o600), lab.file(&b, "y", 0o600));
    let before = (lab.attr(&a), lab.attr(&b), lab.attr(&x));
    let args = Rename3Args {
        from: at(&a, "x"),
        to: at(&b, "y"),
    };
    let reply = lab.call(Nfs3Proc::NFSPROC3_RENAME, &args);
    let Rename3Res::Ok(wcc) = from_bytes(&reply).unwrap() else {
        panic!("refused")
    };
    assert_eq!(wcc.fromdir_wcc.before, Some(crate::vfs::wcc_attr(&before.0)));
    assert_eq!(wcc.todir_wcc.before, Some(crate::vfs::wcc_attr(&before.1)));
    assert_eq!(wcc.fromdir_wcc.after, Some(lab.attr(&a)));
    assert_eq!(wcc.todir_wcc.after, Some(lab.attr(&b)));
    assert_eq!(lab.lookup(&b, "y"), Ok(x.clone()));
    assert_eq!(lab.lookup(&a, "x"), Err(Nfsstat3::NFS3ERR_NOENT));
    let replaced = lab.status(Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from(&y[..]));
    assert_eq!(replaced, Nfsstat3::NFS3ERR_STALE);
    assert!(lab.attr(&x).ctime > before.2.ctime);
}

#[test]
fn rename_between_types() {
    let lab = lab();
    let root = lab.root();
    lab.file(&root, "f", 0o600);
    let d = lab.dir(&root, "d", 0o700);
    let e = lab.dir(&root, "e", 0o700);
    lab.file(&e, "inside", 0o600);
    assert_eq!(lab.rename((&root, "f"), (&root, "d")), Nfsstat3::NFS3ERR_ISDIR);
    assert_eq!(lab.rename((&root, "d"), (&root, "f")), Nfsstat3::NFS3ERR_NOTDIR);
    assert_eq!(lab.rename((&root, "d"), (&root, "e")), Nfsstat3::NFS3ERR_NOTEMPTY);
    assert_eq!(lab.rename((&root, "e"), (&root, "d")), OK);
    assert_eq!(lab.attr(&root).nlink, 3);
    let gone = lab.status(Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from(&d[..]));
    assert_eq!(gone, Nfsstat3::NFS3ERR_STALE);
    for name in [".", ".."] {
        assert_eq!(lab.rename((&root, name), (&root, "x")), Nfsstat3::NFS3ERR_INVAL);
        assert_eq!(lab.rename((&root, "f"), (&root, name)), Nfsstat3::NFS3ERR_INVAL);
    }
    assert_eq!(lab.rename((&root, "none"), (&root, "x")), Nfsstat3::NFS3ERR_NOENT);
}

#[test]
fn a_directory_does_not_move_into_itself() {
    let lab = lab();
    let root = lab.root();
    let a = lab.dir(&root, "a", 0o700);
    let b = lab.dir(&a, "b", 0o700);
    let c = lab.dir(&b, "c", 0o700);
    assert_eq!(lab.rename((&root, "a"), (&a, "x")), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(lab.rename((&root, "a"), (&c, "x")), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(lab.rename((&b, "c"), (&root, "a")), Nfsstat3::NFS3ERR_NOTEMPTY);
    assert_eq!(lab.rename((&b, "c"), (&root, "c")), OK);
    assert_eq!(lab.rename((&root, "a"), (&c, "a")), OK);
    assert_eq!(lab.nfs.path_of(&b).as_deref(), Some("/lab/c/a/b"));
}

#[test]
fn two_names_of_one_file_rename_to_nothing() {
    let lab = lab();
    let root = lab.root();
    let fh = lab.file(&root, "a", 0o600);
    link(&lab, &fh, &root, "b");
    let before = lab.attr(&root);
    assert_eq!(lab.rename((&root, "a"), (&root, "b")), OK);
    assert_eq!(lab.rename((&root, "a"), (&root, "a")), OK);
    assert_eq!((lab.attr(&root), lab.attr(&fh).nlink), (before, 2));
}

#[test]
fn moving_a_directory_needs_the_right_to_change_it() {
    let lab = lab();
    let root = lab.root();
    let d = lab.dir(&root, "d", 0o755);
    lab.setattr(&d, |s| s.uid = Some(1000));
    let box_ = lab.dir(&root, "box", 0o777);
    let lab = lab.by(USER);
    lab.setattr(&d, |s| s.mode = Some(0o555));
    assert_eq!(lab.rename((&root, "d"), (&box_, "d")), Nfsstat3::NFS3ERR_ACCES);
    assert_eq!(
        lab.rename((&root, "d"), (&root, "e")),
        OK,
        "its parent stays the same"
    );
}
