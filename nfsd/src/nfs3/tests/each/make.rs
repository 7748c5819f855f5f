use super::*;

#[test]
fn create_brackets_the_directory() {
    let lab = lab();
    let before = lab.attr(&lab.root());
    let (fh, attr, wcc) = create(&lab, "f", CreateHow3::Guarded(with_mode(0o640))).unwrap();
    assert_eq!(
        (attr.ftype, attr.mode, attr.nlink, attr.size),
        (Ftype3::NF3REG, 0o640, 1, 0)
    );
    assert_eq!(attr, lab.attr(&fh));
    assert_eq!(wcc.before, Some(crate::vfs::wcc_attr(&before)));
    assert_eq!(wcc.after, Some(lab.attr(&lab.root())));
    assert!(wcc.after.unwrap().mtime > before.mtime);
}

#[test]
fn unchecked_takes_what_is_there_and_guarded_does_not() {
    let lab = lab();
    let (fh, ..) = create(&lab, "f", CreateHow3::Guarded(with_mode(0o640))).unwrap();
    lab.write(&fh, 0, b"data");
    let again = create(&lab, "f", CreateHow3::Unchecked(with_mode(0o777))).unwrap();
    assert_eq!((&again.0, again.1.mode, again.1.size), (&fh, 0o640, 4));
    let truncating = Sattr3 {
        size: Some(0),
        ..Sattr3::default()
    };
    assert_eq!(
        create(&lab, "f", CreateHow3::Unchecked(truncating))
            .unwrap()
            .1
            .size,
        0
    );
    const EXIST: Option<Nfsstat3> = Some(Nfsstat3::NFS3ERR_EXIST);
    assert_eq!(create(&lab, "f", CreateHow3::Guarded(with_mode(0))).err(), EXIST);
    lab.dir(&lab.root(), "d", 0o700);
    assert_eq!(
        create(&lab, "d", CreateHow3::Unchecked(with_mode(0))).err(),
        EXIST
    );
    let lab = lab.by(USER);
    let denied = create(&lab, "f", CreateHow3::Unchecked(truncating));
    assert_eq!(denied.err(), Some(Nfsstat3::NFS3ERR_ACCES));
}

#[test]
fn a_repeated_exclusive_create_finds_its_file_also_after_setattr() {
    let lab = lab();
    let how = CreateHow3::Exclusive(*b"attempt1");
    let (fh, attr, _) = create(&lab, "f", how).unwrap();
    assert!(
        attr.atime.seconds >= 1_000_000,
        "times are times, not the verifier"
    );
    lab.setattr(&fh, |s| {
        s.mode = Some(0o600);
        s.atime = SetTime::ServerTime;
        s.mtime = SetTime::ClientTime(Nfstime3::default());
    });
    assert_eq!(create(&lab, "f", how).unwrap().0, fh);
    let other = create(&lab, "f", CreateHow3::Exclusive(*b"attempt2"));
    assert_eq!(other.err(), Some(Nfsstat3::NFS3ERR_EXIST));
    create(&lab, "g", CreateHow3::Guarded(with_mode(0))).unwrap();
    assert_eq!(
        create(&lab, "g", CreateHow3::Exclusive([0; 8])).err(),
        Some(Nfsstat3::NFS3ERR_EXIST)
    );
}

#[test]
fn create_sets_what_it_is_told_to() {
    let lab = lab();
    let then = Nfstime3 {
        seconds: 5,
        nseconds: 6,
    };
    let how = CreateHow3::Unchecked(Sattr3 {
        mode: Some(0o17_7777),
        uid: Some(7),
        gid: Some(8),
        size: Some(1 << 40),
        atime: SetTime::ClientTime(then),
        mtime: SetTime::ClientTime(then),
    });
    let (_, attr, _) = create(&lab, "f", how).unwrap();
    assert_eq!(
        (attr.mode, attr.uid, attr.gid, attr.size, attr.used),
        (0o7777, 7, 8, 1 << 40, 0)
    );
    assert_eq!((attr.atime, attr.mtime), (then, then));
    let lab = lab.by(USER);
    let (_, attr, _) = create(&lab, "g", how).unwrap();
    assert_eq!((attr.uid, attr.gid), (1000, 100));
}

#[test]
fn directories_count_each_other_and_inherit_the_group() {
    let lab = lab();
    let root = lab.root();
    let d = lab.dir(&root, "d", 0o755);
    assert_eq!((lab.attr(&root).nlink, lab.attr(&d).nlink), (3, 2));
    lab.setattr(&d, |s| {
        s.gid = Some(200);
        s.mode = Some(0o2777);
    });
    let lab = lab.by(USER);
    let inner = lab.attr(&lab.dir(&d, "inner", 0o755));
    assert_eq!((inner.uid, inner.gid, inner.mode), (1000, 200, 0o2755));
    let file = lab.attr(&lab.file(&d, "file", 0o644));
    assert_eq!((file.gid, file.mode), (200, 0o644));
    assert_eq!(lab.attr(&d).nlink, 3);
    let mkdir = Mkdir3Args {
        where_: at(&d, "inner"),
        attributes: with_mode(0o755),
    };
    let status = lab.status(Nfs3Proc::NFSPROC3_MKDIR, &mkdir);
    assert_eq!(status, Nfsstat3::NFS3ERR_EXIST);
}

#[test]
fn symlinks_are_text() {
    let lab = lab();
    let root = lab.root();
    let symlink = |name, text: &[u8]| {
        let args = Symlink3Args {
            where_: at(&root, name),
            symlink_attributes: with_mode(0o600),
            symlink_data: text.into(),
        };
        lab.call(Nfs3Proc::NFSPROC3_SYMLINK, &args)
    };
    let (_, attr, _) = made(&symlink("l", b"../\xff/x"));
    assert_eq!((attr.ftype, attr.mode, attr.size), (Ftype3::NF3LNK, 0o777, 6));
    assert_eq!(from_bytes_prefix(&symlink("l", b"x")), Nfsstat3::NFS3ERR_EXIST);
    assert_eq!(from_bytes_prefix(&symlink("m", b"")), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(from_bytes_prefix(&symlink("m", b"a\0b")), Nfsstat3::NFS3ERR_INVAL);
    let long = from_bytes_prefix(&symlink("m", &[b'x'; 4096]));
    assert_eq!(long, Nfsstat3::NFS3ERR_NAMETOOLONG);
    assert_eq!(from_bytes_prefix(&symlink("m", &[b'x'; 4095])), Nfsstat3::NFS3_OK);
}

#[test]
fn mknod_of_every_kind() {
    let lab = lab();
    let root = lab.root();
    let mode = with_mode(0o622);
    let rdev = Specdata3 {
        specdata1: 4,
        specdata2: 66,
    };
    let mknod = |lab: &Lab, name, what| {
        lab.call(
            Nfs3Proc::NFSPROC3_MKNOD,
            &Mknod3Args {
                where_: at(&root, name),
                what,
            },
        )
    };
    for (name, what, rdev) in [
        ("chr", MknodData3::Device(Ftype3::NF3CHR, mode, rdev), rdev),
        ("blk", MknodData3::Device(Ftype3::NF3BLK, mode, rdev), rdev),
        (
            "sock",
            MknodData3::Pipe(Ftype3::NF3SOCK, mode),
            Specdata3::default(),
        ),
        (
            "fifo",
            MknodData3::Pipe(Ftype3::NF3FIFO, mode),
            Specdata3::default(),
        ),
    ] {
        let (fh, attr, _) = made(&mknod(&lab, name, what));
        assert_eq!((attr.mode, attr.rdev), (0o622, rdev), "{name}");
        assert_eq!(lab.read(&fh, 0, 1), Err(Nfsstat3::NFS3ERR_INVAL), "{name}");
    }
    for ftype in [0, 1, 2, 5, 8, u32::MAX] {
        let status = from_bytes_prefix(&mknod(&lab, "x", MknodData3::Other(Ftype3(ftype))));
        assert_eq!(status, Nfsstat3::NFS3ERR_BADTYPE, "{ftype}");
    }
    let lab = lab.by(USER);
    let device = mknod(&lab, "y", MknodData3::Device(Ftype3::NF3CHR, mode, rdev));
    assert_eq!(from_bytes_prefix(&device), Nfsstat3::NFS3ERR_PERM);
    made(&mknod(&lab, "z", MknodData3::Pipe(Ftype3::NF3FIFO, mode)));
}

#[test]
fn names_that_cannot_be_made() {
    let lab = lab();
    for (name, status) in [
        ("", Nfsstat3::NFS3ERR_ACCES),
        ("a/b", Nfsstat3::NFS3ERR_ACCES),
        ("a\0b", Nfsstat3::NFS3ERR_ACCES),
        (".", Nfsstat3::NFS3ERR_EXIST),
        ("..", Nfsstat3::NFS3ERR_EXIST),
        (&"n".repeat(256), Nfsstat3::NFS3ERR_NAMETOOLONG),
    ] {
        let refused = create(&lab, name, CreateHow3::Guarded(with_mode(0)));
        assert_eq!(refused.err(), Some(status), "{name:?}");
    }
    assert!(create(&lab, &"n".repeat(255), CreateHow3::Guarded(with_mode(0))).is_ok());
    let fh = lab.file(&lab.root(), "f", 0o600);
    let inside = create_args(&fh, "x", CreateHow3::Guarded(with_mode(0)));
    assert_eq!(
        lab.status(Nfs3Proc::NFSPROC3_CREATE, &inside),
        Nfsstat3::NFS3ERR_NOTDIR
    );
}
