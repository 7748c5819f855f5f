use super::*;
use proto::nfs3::Specdata3;

fn attr(ftype: Ftype3, mode: u32, uid: u32, gid: u32) -> Fattr3 {
    Fattr3 {
        ftype,
        mode,
        nlink: 1,
        uid,
        gid,
        size: 10,
        used: 0,
        rdev: Specdata3::default(),
        fsid: 1,
        fileid: 2,
        atime: Nfstime3::default(),
        mtime: Nfstime3::default(),
        ctime: Nfstime3::default(),
    }
}

fn file(mode: u32) -> Fattr3 {
    attr(Ftype3::NF3REG, mode, 10, 20)
}

fn dir(mode: u32) -> Fattr3 {
    attr(Ftype3::NF3DIR, mode, 10, 20)
}

fn user(uid: u32, gid: u32) -> Caller<'static> {
    Caller {
        uid,
        gid,
        groups: &[[0, 0, 0, 77], [0, 0, 0, 78]],
    }
}

const NOW: Nfstime3 = Nfstime3 {
    seconds: 1000,
    nseconds: 5,
};

#[test]
fn the_class_that_fits_first_decides() {
    // The owner is judged by the owner's bits even where others have more.
    assert!(!permits(&user(10, 20), &file(0o077), READ));
    assert!(!permits(&user(11, 20), &file(0o707), READ));
    assert!(permits(&user(11, 21), &file(0o004), READ));
    assert!(!permits(&user(11, 21), &file(0o004), READ | WRITE));
    let supplementary = attr(Ftype3::NF3REG, 0o060, 10, 78);
    assert!(permits(&user(11, 21), &supplementary, READ | WRITE));
}

#[test]
fn root_may_all_but_execute_what_nobody_may() {
    assert!(permits(&Caller::ROOT, &file(0), READ | WRITE));
    assert!(!permits(&Caller::ROOT, &file(0o666), EXECUTE));
    assert!(permits(&Caller::ROOT, &file(0o001), EXECUTE));
    assert!(permits(&Caller::ROOT, &dir(0), EXECUTE));
}

#[test]
fn an_owner_reads_and_writes_an_open_file_whatever_its_mode() {
    assert_eq!(may_write(&user(10, 1), &file(0o444)), Ok(()));
    assert_eq!(may_read(&user(10, 1), &file(0)), Ok(()));
    assert_eq!(
        may_read(&user(11, 1), &file(0o001)),
        Ok(()),
        "to page a program in"
    );
    assert_eq!(
        may_write(&user(11, 1), &file(0o001)),
        Err(Nfsstat3::NFS3ERR_ACCES)
    );
    // ACCESS tells what the mode says.
    assert_eq!(granted(&user(10, 1), &file(0o444), access::ALL), access::READ);
}

#[test]
fn access_bits_by_type() {
    let all = access::ALL;
    assert_eq!(granted(&Caller::ROOT, &dir(0o700), all), all & !access::EXECUTE);
    let without_exec = access::READ | access::MODIFY | access::EXTEND;
    assert_eq!(granted(&Caller::ROOT, &file(0o600), all), without_exec);
    assert_eq!(
        granted(&user(11, 1), &dir(0o705), all),
        access::READ | access::LOOKUP
    );
    assert_eq!(
        granted(&user(11, 1), &dir(0o702), all),
        0,
        "entries need search too"
    );
    assert_eq!(granted(&user(10, 1), &dir(0o700), access::LOOKUP), access::LOOKUP);
}

#[test]
fn sticky_directories_keep_what_belongs_to_others() {
    let tmp = attr(Ftype3::NF3DIR, 0o1777, 0, 0);
    let victim = file(0o666);
    assert_eq!(may_take_away(&user(10, 1), &tmp, &victim), Ok(()));
    assert_eq!(may_take_away(&Caller::ROOT, &tmp, &victim), Ok(()));
    assert_eq!(
        may_take_away(&user(11, 1), &tmp, &victim),
        Err(Nfsstat3::NFS3ERR_PERM)
    );
    let mine = attr(Ftype3::NF3DIR, 0o1777, 11, 0);
    assert_eq!(may_take_away(&user(11, 1), &mine, &victim), Ok(()));
    assert_eq!(
        may_take_away(&user(10, 1), &dir(0o555), &victim),
        Err(Nfsstat3::NFS3ERR_ACCES)
    );
}

fn plan(caller: Caller<'_>, attr: Fattr3, set: impl FnOnce(&mut Sattr3)) -> Result<Change> {
    let mut new = Sattr3::default();
    set(&mut new);
    plan_setattr(&caller, &attr, &new, NOW)
}

#[test]
fn who_may_chmod_and_chown() {
    let owner = user(10, 20);
    let other = user(11, 20);
    const PERM: Result<Change> = Err(Nfsstat3::NFS3ERR_PERM);
    assert_eq!(plan(other, file(0o644), |s| s.mode = Some(0o600)), PERM);
    assert_eq!(plan(owner, file(0o644), |s| s.uid = Some(11)), PERM);
    assert_eq!(plan(owner, file(0o644), |s| s.gid = Some(99)), PERM);
    assert_eq!(plan(other, file(0o644), |s| s.gid = Some(20)), PERM);
    let change = plan(owner, file(0o644), |s| s.gid = Some(77)).unwrap();
    assert_eq!((change.gid, change.mode), (Some(77), None));
    assert_eq!(
        plan(owner, file(0o644), |s| s.uid = Some(10)).unwrap().uid,
        Some(10)
    );
    assert_eq!(
        plan(Caller::ROOT, file(0o644), |s| s.uid = Some(11)).unwrap().uid,
        Some(11)
    );
}

#[test]
fn set_id_bits_do_not_outlive_the_hands_they_were_in() {
    let owner = user(10, 20);
    let mode = |r: Result<Change>| r.unwrap().mode;
    assert_eq!(mode(plan(owner, file(0o6755), |s| s.gid = Some(77))), Some(0o755));
    assert_eq!(
        mode(plan(Caller::ROOT, file(0o6755), |s| s.uid = Some(1))),
        Some(0o755)
    );
    assert_eq!(
        mode(plan(owner, file(0o2745), |s| s.gid = Some(77))),
        None,
        "no group execute"
    );
    assert_eq!(mode(plan(owner, dir(0o2755), |s| s.gid = Some(77))), None);
    assert_eq!(mode(plan(owner, file(0o6755), |s| s.size = Some(0))), Some(0o755));
    assert_eq!(mode(plan(Caller::ROOT, file(0o6755), |s| s.size = Some(0))), None);
    assert_eq!(mode_after_write(&owner, &file(0o6755)), 0o755);
    assert_eq!(mode_after_write(&Caller::ROOT, &file(0o6755)), 0o6755);
    // A group that the owner is not in cannot be lent.
    let foreign = attr(Ftype3::NF3REG, 0o755, 10, 99);
    assert_eq!(mode(plan(owner, foreign, |s| s.mode = Some(0o2755))), Some(0o755));
    assert_eq!(
        mode(plan(Caller::ROOT, foreign, |s| s.mode = Some(0o17_2755))),
        Some(0o2755)
    );
}

#[test]
fn times() {
    let (owner, other) = (user(10, 20), user(11, 21));
    let then = SetTime::ClientTime(Nfstime3 {
        seconds: 1,
        nseconds: 2,
    });
    assert_eq!(
        plan(owner, file(0), |s| s.mtime = then).unwrap().mtime,
        Some(Nfstime3 {
            seconds: 1,
            nseconds: 2
        })
    );
    assert_eq!(
        plan(other, file(0o666), |s| s.mtime = then),
        Err(Nfsstat3::NFS3ERR_PERM)
    );
    let touch = |s: &mut Sattr3| {
        s.atime = SetTime::ServerTime;
        s.mtime = SetTime::ServerTime;
    };
    assert_eq!(plan(other, file(0o666), touch).unwrap().atime, Some(NOW));
    assert_eq!(plan(other, file(0o644), touch), Err(Nfsstat3::NFS3ERR_ACCES));
    let broken = SetTime::ClientTime(Nfstime3 {
        seconds: 1,
        nseconds: 1_000_000_000,
    });
    assert_eq!(
        plan(owner, file(0), |s| s.atime = broken),
        Err(Nfsstat3::NFS3ERR_INVAL)
    );
}

#[test]
fn sizes() {
    let root = Caller::ROOT;
    let max = FILE_SIZE_MAX;
    let status = |r: Result<Change>| r.err();
    assert_eq!(status(plan(root, file(0), |s| s.size = Some(max))), None);
    assert_eq!(
        status(plan(root, file(0), |s| s.size = Some(max + 1))),
        Some(Nfsstat3::NFS3ERR_FBIG)
    );
    assert_eq!(
        status(plan(root, dir(0), |s| s.size = Some(0))),
        Some(Nfsstat3::NFS3ERR_ISDIR)
    );
    let fifo = attr(Ftype3::NF3FIFO, 0o666, 10, 20);
    assert_eq!(
        status(plan(root, fifo, |s| s.size = Some(0))),
        Some(Nfsstat3::NFS3ERR_INVAL)
    );
    let denied = plan(user(11, 21), file(0o644), |s| s.size = Some(0));
    assert_eq!(status(denied), Some(Nfsstat3::NFS3ERR_ACCES));
    let same_size = plan(root, file(0), |s| s.size = Some(10)).unwrap();
    assert_eq!(same_size.mtime, Some(NOW));
    assert!(plan(root, file(0), |_| ()).unwrap().is_empty());
}

#[test]
fn what_new_files_inherit() {
    let new = Sattr3 {
        mode: Some(0o2755),
        uid: Some(5),
        gid: Some(6),
        ..Sattr3::default()
    };
    let who = user(11, 21);
    let plain = identity_of_new(&who, &dir(0o777), Ftype3::NF3REG, &new);
    assert_eq!((plain.mode, plain.uid, plain.gid), (0o2755, 11, 21));
    let group_dir = dir(0o2777);
    let inside = identity_of_new(&who, &group_dir, Ftype3::NF3REG, &new);
    assert_eq!(
        (inside.mode, inside.gid),
        (0o755, 20),
        "not in that group: no set-group-id"
    );
    let subdir = identity_of_new(&who, &group_dir, Ftype3::NF3DIR, &Sattr3::default());
    assert_eq!((subdir.mode, subdir.gid), (0o2000, 20));
    let roots = identity_of_new(&Caller::ROOT, &dir(0o777), Ftype3::NF3REG, &new);
    assert_eq!((roots.uid, roots.gid), (5, 6));
    assert_eq!(
        identity_of_new(&who, &dir(0o777), Ftype3::NF3LNK, &new).mode,
        0o777
    );
}

#[test]
fn the_id_of_nobody_is_no_change() {
    let nobody = Sattr3 {
        uid: Some(u32::MAX),
        gid: Some(u32::MAX),
        ..Sattr3::default()
    };
    let change = plan_setattr(&Caller::ROOT, &file(0o644), &nobody, NOW).unwrap();
    assert_eq!((change.uid, change.gid), (None, None));
    let identity = identity_of_new(&Caller::ROOT, &dir(0o755), Ftype3::NF3REG, &nobody);
    assert_eq!((identity.uid, identity.gid), (0, 0));
}

#[test]
fn a_links_mode_stays() {
    let new = Sattr3 {
        mode: Some(0o600),
        ..Sattr3::default()
    };
    let link = attr(Ftype3::NF3LNK, 0o777, 10, 20);
    assert_eq!(plan_setattr(&Caller::ROOT, &link, &new, NOW).unwrap().mode, None);
}
