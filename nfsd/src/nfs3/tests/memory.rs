//! What only the store in memory has: its limits, its figures, and data that lies where it is sent from.

use super::*;

const OK: Nfsstat3 = Nfsstat3::NFS3_OK;

fn lab_with(config: &MemConfig) -> Lab {
    mem_lab(config, ExportOptions::default())
}

#[test]
fn what_the_file_system_says_of_itself() {
    let config = MemConfig {
        max_bytes: 1 << 20,
        max_files: 10,
        ..MemConfig::default()
    };
    let lab = lab_with(&config);
    let root = lab.root();
    let fsstat = || match from_bytes(&lab.call(Nfs3Proc::NFSPROC3_FSSTAT, &NfsFh3::from(&root[..]))).unwrap()
    {
        Fsstat3Res::Ok(ok) => ok,
        Fsstat3Res::Err(status, _) => panic!("{status}"),
    };
    let empty = fsstat();
    assert_eq!(
        (empty.tbytes, empty.fbytes, empty.tfiles, empty.ffiles),
        (1 << 20, 1 << 20, 10, 10)
    );
    let fh = lab.file(&root, "f", 0o600);
    lab.write(&fh, 0, &[1; 5000]);
    let used = fsstat();
    assert_eq!((used.fbytes, used.ffiles), ((1 << 20) - 8192 - 65, 9));
    lab.remove(&root, "f");
    assert_eq!(fsstat().fbytes, empty.fbytes);

    let fsinfo = from_bytes(&lab.call(Nfs3Proc::NFSPROC3_FSINFO, &NfsFh3::from(&root[..]))).unwrap();
    let Fsinfo3Res::Ok(info) = fsinfo else {
        panic!("failed")
    };
    assert_eq!(
        (info.rtmax, info.wtmax, info.maxfilesize),
        (1 << 20, 1 << 20, i64::MAX as u64)
    );
    assert_eq!(info.properties, 0x1b);
    let mut udp = Cx::local(Caller::ROOT, lab.now());
    udp.max_payload = crate::UDP_PAYLOAD;
    let Fsinfo3Res::Ok(info) = lab.nfs.fsinfo(&udp, NfsFh3::from(&root[..])) else {
        panic!("failed")
    };
    assert_eq!(info.rtmax, 32 << 10);

    let pathconf = from_bytes(&lab.call(Nfs3Proc::NFSPROC3_PATHCONF, &NfsFh3::from(&root[..]))).unwrap();
    let Pathconf3Res::Ok(conf) = pathconf else {
        panic!("failed")
    };
    assert_eq!((conf.name_max, conf.linkmax), (255, 65_000));
    assert!(conf.no_trunc && conf.chown_restricted && conf.case_preserving && !conf.case_insensitive);
}

#[test]
fn a_full_store_says_so_and_forgets_nothing() {
    let config = MemConfig {
        max_bytes: 16_384,
        when_full: Nfsstat3::NFS3ERR_DQUOT,
        ..MemConfig::default()
    };
    let lab = lab_with(&config);
    let fh = lab.file(&lab.root(), "f", 0o600);
    assert_eq!(lab.write(&fh, 0, &[1; 12_288]).status(), Nfsstat3::NFS3_OK);
    let over = lab.write(&fh, 12_287, &[2; 4096]);
    assert_eq!(over.status(), Nfsstat3::NFS3ERR_DQUOT);
    assert_eq!(lab.attr(&fh).size, 12_288);
    assert_eq!(
        lab.write(&fh, 0, &[3; 12_288]).status(),
        Nfsstat3::NFS3_OK,
        "overwriting costs nothing"
    );
    assert_eq!(lab.read(&fh, 12_287, 9), Ok((vec![3], true)));
    lab.setattr(&fh, |s| s.size = Some(4096));
    assert_eq!(lab.write(&fh, 4096, &[4; 8192]).status(), Nfsstat3::NFS3_OK);
}

#[test]
fn read_data_goes_out_as_it_lies() {
    let lab = lab_with(&MemConfig::default());
    let fh = lab.file(&lab.root(), "f", 0o600);
    lab.write(&fh, 0, &[7; 1 << 17]);
    let cx = Cx::local(Caller::ROOT, lab.now());
    let args = Read3Args {
        file: NfsFh3::from(&fh[..]),
        offset: 0,
        count: 1 << 17,
    };
    let pointers = || match lab.nfs.read(&cx, &args) {
        ReadReply::Ok(read) => read.data.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>(),
        ReadReply::Err(status, _) => panic!("{status}"),
    };
    assert_eq!(pointers().len(), 2);
    assert_eq!(pointers(), pointers());
}

#[test]
fn inodes_run_out_and_come_back() {
    let config = MemConfig {
        max_files: 2,
        ..MemConfig::default()
    };
    let lab = lab_with(&config);
    let root = lab.root();
    lab.file(&root, "a", 0o600);
    lab.dir(&root, "b", 0o700);
    let full = create(&lab, "c", CreateHow3::Exclusive([1; 8]));
    assert_eq!(full.err(), Some(Nfsstat3::NFS3ERR_NOSPC));
    assert_eq!(
        lab.rename((&root, "a"), (&root, "z")),
        Nfsstat3::NFS3_OK,
        "renaming needs no inode"
    );
    assert_eq!(
        lab.status(Nfs3Proc::NFSPROC3_RMDIR, &at(&root, "b")),
        Nfsstat3::NFS3_OK
    );
    assert!(create(&lab, "c", CreateHow3::Exclusive([1; 8])).is_ok());
}

#[test]
fn a_full_store_can_still_rename() {
    let config = MemConfig {
        max_bytes: 2 * 65,
        ..MemConfig::default()
    };
    let lab = lab_with(&config);
    let root = lab.root();
    lab.file(&root, "a", 0o600);
    let fh = lab.file(&root, "b", 0o600);
    assert_eq!(link(&lab, &fh, &root, "c").status(), Nfsstat3::NFS3ERR_NOSPC);
    assert_eq!(lab.rename((&root, "a"), (&root, "c")), OK);
    assert_eq!(lab.rename((&root, "c"), (&root, "cc")), Nfsstat3::NFS3ERR_NOSPC);
    assert_eq!(lab.rename((&root, "c"), (&root, "b")), OK);
    assert_eq!(lab.rename((&root, "b"), (&root, "bbb")), OK);
}

#[test]
fn two_exports_are_two_file_systems() {
    let fs = |fsid| {
        let config = MemConfig {
            fsid,
            ..MemConfig::default()
        };
        Arc::new(MemFs::new(&config))
    };
    let (one, two) = (fs(1), fs(2));
    one.write_file("f", "x", Nfstime3::default()).unwrap();
    let list = vec![Export::new(1, "/one", one.clone()), Export::new(2, "/two", two)];
    let exports = Arc::new(Exports::new(&[0; 16], list).unwrap());
    let nfs = Nfs3::new(exports.clone(), VERF);
    let cx = Cx::local(Caller::ROOT, Nfstime3::default());
    let root = |name| exports.root_handle(name).unwrap();
    let (from, to) = (root("/one"), root("/two"));
    let rename = Rename3Args {
        from: at(from.as_bytes(), "f"),
        to: at(to.as_bytes(), "f"),
    };
    assert_eq!(nfs.rename(&cx, &rename).status(), Nfsstat3::NFS3ERR_XDEV);
    let file = exports.seal(&exports.list()[0], &one.at("f").unwrap());
    let link = Link3Args {
        file: file.as_bytes().into(),
        link: at(to.as_bytes(), "f"),
    };
    assert_eq!(nfs.link(&cx, &link).status(), Nfsstat3::NFS3ERR_XDEV);
}

#[test]
fn the_first_read_after_a_change_sets_atime_and_no_other() {
    let lab = lab_with(&MemConfig::default());
    let fh = lab.file(&lab.root(), "f", 0o600);
    lab.write(&fh, 0, b"abc");
    lab.read(&fh, 0, 1).unwrap();
    let first = lab.attr(&fh);
    assert!(first.atime > first.mtime);
    lab.read(&fh, 0, 1).unwrap();
    assert_eq!(lab.attr(&fh), first);
    lab.clock_s.fetch_add(86_400, Relaxed);
    lab.read(&fh, 0, 1).unwrap();
    assert!(lab.attr(&fh).atime > first.atime);
    assert_eq!(lab.attr(&fh).ctime, first.ctime);
}
