//! Replies that are other than they would be: answer, refuse, set, duplicate, acknowledge, twice.

use crate::kit::*;
use bytes::Bytes;
use faults::{Condition, Service};
use nfs3_types::nfs3 as theirs;
use nfs3_types::xdr_codec::Unpack;
use nfslab_tests::call::Call;
use nfslab_tests::programs::PROCEDURES;
use proto::nfs3::{Nfs3Proc, Nfsstat3, Read3Args, Read3Res, Res3, Write3Res};
use proto::nlm::{Nlm4Stat, NlmProc, V1, V3, V4};
use rpc::client::Target;
use rpc::msg::{AuthStat, RpcError, Transport};
use rpc::xdr;
use std::time::Duration;

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// The status of a failure that an independent decoder reads, with nothing left over.
fn failure(procedure: Nfs3Proc, result: &Bytes) -> Option<u32> {
    fn read<R: Unpack, E: Unpack>(mut bytes: &[u8]) -> Option<u32> {
        let (result, _) = theirs::Nfs3Result::<R, E>::unpack(&mut bytes).ok()?;
        match result {
            theirs::Nfs3Result::Err((status, _)) if bytes.is_empty() => Some(status as u32),
            _ => None,
        }
    }
    use theirs::*;
    Some(match procedure {
        Nfs3Proc::NFSPROC3_GETATTR => read::<GETATTR3resok, nfs3_types::xdr_codec::Void>(result)?,
        Nfs3Proc::NFSPROC3_SETATTR => read::<SETATTR3resok, SETATTR3resfail>(result)?,
        Nfs3Proc::NFSPROC3_LOOKUP => read::<LOOKUP3resok, LOOKUP3resfail>(result)?,
        Nfs3Proc::NFSPROC3_ACCESS => read::<ACCESS3resok, ACCESS3resfail>(result)?,
        Nfs3Proc::NFSPROC3_READLINK => read::<READLINK3resok<'_>, READLINK3resfail>(result)?,
        Nfs3Proc::NFSPROC3_READ => read::<READ3resok<'_>, READ3resfail>(result)?,
        Nfs3Proc::NFSPROC3_WRITE => read::<WRITE3resok, WRITE3resfail>(result)?,
        Nfs3Proc::NFSPROC3_CREATE => read::<CREATE3resok, CREATE3resfail>(result)?,
        Nfs3Proc::NFSPROC3_MKDIR => read::<MKDIR3resok, MKDIR3resfail>(result)?,
        Nfs3Proc::NFSPROC3_SYMLINK => read::<SYMLINK3resok, SYMLINK3resfail>(result)?,
        Nfs3Proc::NFSPROC3_MKNOD => read::<MKNOD3resok, MKNOD3resfail>(result)?,
        Nfs3Proc::NFSPROC3_REMOVE => read::<REMOVE3resok, REMOVE3resfail>(result)?,
        Nfs3Proc::NFSPROC3_RMDIR => read::<RMDIR3resok, RMDIR3resfail>(result)?,
        Nfs3Proc::NFSPROC3_RENAME => read::<RENAME3resok, RENAME3resfail>(result)?,
        Nfs3Proc::NFSPROC3_LINK => read::<LINK3resok, LINK3resfail>(result)?,
        Nfs3Proc::NFSPROC3_READDIR => read::<READDIR3resok<'_>, READDIR3resfail>(result)?,
        Nfs3Proc::NFSPROC3_READDIRPLUS => read::<READDIRPLUS3resok<'_>, READDIRPLUS3resfail>(result)?,
        Nfs3Proc::NFSPROC3_FSSTAT => read::<FSSTAT3resok, FSSTAT3resfail>(result)?,
        Nfs3Proc::NFSPROC3_FSINFO => read::<FSINFO3resok, FSINFO3resfail>(result)?,
        Nfs3Proc::NFSPROC3_PATHCONF => read::<PATHCONF3resok, PATHCONF3resfail>(result)?,
        Nfs3Proc::NFSPROC3_COMMIT => read::<COMMIT3resok, COMMIT3resfail>(result)?,
        other => panic!("{other}"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_nfs_procedure_can_be_answered_with_a_status_at_every_point() {
    let lab = Lab::start(&[]).await;
    let procedures = PROCEDURES.iter().filter(|p| p.program == proto::nfs3::PROGRAM);
    let mut xid = 100;
    for point in ["received", "before-execute", "after-execute", "before-reply"] {
        for transport in BOTH {
            let mut wire = lab.dial(Service::Nfs, transport);
            lab.set(&[&format!("nfs.* -> answer NFS3ERR_JUKEBOX at {point}")]);
            for procedure in procedures.clone() {
                xid += 1;
                let message = Call::new(xid, procedure, (procedure.example)(&lab.root)).message();
                let result = wire.ask(&message.into()).unwrap();
                let what = format!("{} at {point} over {transport:?}", procedure.name);
                match Nfs3Proc(procedure.number) {
                    Nfs3Proc::NFSPROC3_NULL => assert!(result.is_empty(), "{what}: it has no status"),
                    number => {
                        let jukebox = Nfsstat3::NFS3ERR_JUKEBOX.0;
                        assert_eq!(failure(number, &result), Some(jukebox), "{what}: {result:?}");
                    }
                }
            }
        }
    }
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_procedure_of_nlm_mount_and_nsm_can_be_answered_with_a_status() {
    let lab = Lab::start(&[
        "nlm.* -> answer 1",
        "mount.* -> answer 13",
        "nsm.* -> answer STAT_FAIL",
    ])
    .await;
    let cookie = b"\0\0\0\x06cookie\0\0";
    let of = |program| PROCEDURES.iter().filter(move |p| p.program == program);
    for (base, transport) in [0, 10_000].into_iter().zip(BOTH) {
        let mut wire = lab.dial(Service::Lockd, transport);
        for (xid, procedure) in (base + 1000..).zip(of(proto::nlm::PROGRAM)) {
            let message = Call::new(xid, procedure, (procedure.example)(&lab.fh)).message();
            let result = wire.ask(&message.into()).unwrap();
            let what = format!("{} of version {}", procedure.name, procedure.version);
            let body = match NlmProc(procedure.number) {
                NlmProc::NLM_TEST => {
                    // Denied, by a holder of whom nothing is known; the range is narrower before version 4.
                    let words = if procedure.version == V4 { 7 } else { 5 };
                    [&[0, 0, 0, 1, 0, 0, 0, 1][..], &vec![0; 4 * words - 4]].concat()
                }
                NlmProc::NLM_LOCK
                | NlmProc::NLM_CANCEL
                | NlmProc::NLM_UNLOCK
                | NlmProc::NLM_GRANTED
                | NlmProc::NLM_NM_LOCK => vec![0, 0, 0, 1],
                NlmProc::NLM_SHARE | NlmProc::NLM_UNSHARE => vec![0, 0, 0, 1, 0, 0, 0, 0],
                _ => {
                    assert!(result.is_empty(), "{what}: the reply is void");
                    continue;
                }
            };
            assert_eq!(result[..], [&cookie[..], &body].concat(), "{what}");
        }
        let mut wire = lab.dial(Service::Mount, transport);
        for (xid, procedure) in (base + 2000..).zip(of(proto::mount::PROGRAM)) {
            let message = Call::new(xid, procedure, (procedure.example)(&lab.fh)).message();
            let result = wire.ask(&message.into()).unwrap();
            let expected: &[u8] = if procedure.number == 1 {
                &[0, 0, 0, 13]
            } else {
                &[]
            };
            assert_eq!(
                result, expected,
                "{} of version {}",
                procedure.name, procedure.version
            );
        }
        let mut wire = lab.dial(Service::Statd, transport);
        for (xid, procedure) in (base + 3000..).zip(of(proto::nsm::PROGRAM)) {
            let message = Call::new(xid, procedure, (procedure.example)(&lab.fh)).message();
            let result = wire.ask(&message.into()).unwrap();
            let expected: &[u8] = if [1, 2].contains(&procedure.number) {
                &[0, 0, 0, 1, 0, 0, 0, 0]
            } else {
                &[]
            };
            assert_eq!(result, expected, "{}", procedure.name);
        }
    }
    assert_eq!(lab.held(), 0, "nothing was executed");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_of_nlm_gets_its_status() {
    let lab = Lab::start(&["nlm.lock -> answer NLM4_DENIED_GRACE_PERIOD at before-reply"]).await;
    for (xid, version) in (1..).zip([V1, V3, V4]) {
        let procedure = PROCEDURES
            .iter()
            .find(|p| (p.program, p.version, p.number) == (proto::nlm::PROGRAM, version, 2))
            .unwrap();
        let message = Call::new(xid, procedure, (procedure.example)(&lab.fh)).message();
        let result = lab.tcp(Service::Lockd).ask(&message.into()).unwrap();
        assert_eq!(result[12..], [0, 0, 0, 4], "version {version}");
    }
    assert!(lab.held() > 0, "at before-reply it has been executed");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_error_can_be_the_refusal_at_every_point() {
    let lab = Lab::start(&[]).await;
    let errors = [
        ("PROG_UNAVAIL", RpcError::ProgUnavail),
        ("PROG_MISMATCH 1-2", RpcError::ProgMismatch { low: 1, high: 2 }),
        ("PROC_UNAVAIL", RpcError::ProcUnavail),
        ("GARBAGE_ARGS", RpcError::GarbageArgs),
        ("SYSTEM_ERR", RpcError::SystemErr),
        ("RPC_MISMATCH 3-4", RpcError::RpcMismatch { low: 3, high: 4 }),
        ("AUTH_TOOWEAK", RpcError::Auth(AuthStat::AUTH_TOOWEAK)),
        ("77", RpcError::Unknown(77)),
    ];
    for service in [
        Service::Nfs,
        Service::Lockd,
        Service::Mount,
        Service::Statd,
        Service::Portmap,
    ] {
        for transport in BOTH {
            let mut wire = lab.dial(service, transport);
            for (n, (name, error)) in (1..).zip(&errors) {
                for (m, point) in (1..).zip(["received", "before-execute", "after-execute", "before-reply"]) {
                    lab.set(&[&format!("* -> refuse {name} at {point}")]);
                    let refused = wire.ask(&null(10 * n + m, service)).unwrap_err();
                    assert_eq!(refused, *error, "{service}: {name} at {point}");
                }
            }
        }
    }
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_at_before_execute_is_the_answer_to_copies_too() {
    let line = "nfs.remove -> answer NFS3ERR_IO";
    for (line, copy) in [
        (line.to_owned(), "NFS3ERR_IO"),
        (format!("{line} at after-execute"), "NFS3ERR_IO"),
        (format!("{line} at before-reply"), "NFS3_OK"),
        // The cache has not seen it.
        (format!("{line} at received"), "NFS3_OK"),
    ] {
        let lab = Lab::start(&[&line]).await;
        let mut wire = lab.tcp(Service::Nfs);
        assert_eq!(
            removed(wire.ask(&remove(7, &lab.root, "f"))),
            "NFS3ERR_IO",
            "{line}"
        );
        assert_eq!(removed(wire.ask(&remove(7, &lab.root, "f"))), copy, "{line}");
        lab.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_reply_are_set() {
    let lab = Lab::start(&[]).await;
    for transport in BOTH {
        let mut nlm = lab.dial(Service::Lockd, transport);
        let mut nfs = lab.dial(Service::Nfs, transport);
        lab.set(&["nlm.lock -> set xid=77 cookie=0x61626364 status=-1"]);
        nlm.send(&lock(1, &lab.fh, 1));
        let (xid, result) = nlm.reply();
        assert_eq!(xid, 77);
        assert_eq!(result.unwrap()[..], *b"\0\0\0\x01abcd\xff\xff\xff\xff");
        lab.set(&["nfs.getattr -> set status=70 word:1=9"]);
        let result = nfs.ask(&getattr(2, &lab.fh)).unwrap();
        assert_eq!(result[..8], [0, 0, 0, 70, 0, 0, 0, 9]);
        assert_eq!(result.len(), 88, "the rest is as it was");
        // What is not there is not set, and a refusal has only a number.
        lab.set(&[
            "nfs.null -> set status=7 word:1000000=1",
            "nfs.99 -> set xid=5 status=7 word:0=7",
        ]);
        assert!(nfs.ask(&null(3, Service::Nfs)).unwrap().is_empty());
        nfs.send(&call(4, Target::new(proto::nfs3::PROGRAM, 3, 99), &()));
        assert_eq!(nfs.reply(), (5, Err(RpcError::ProcUnavail)));
        nfs.send(&call(6, Target::new(proto::nfs3::PROGRAM, 2, 99), &()));
        let mismatch = RpcError::ProgMismatch { low: 3, high: 3 };
        assert_eq!(nfs.reply(), (5, Err(mismatch)));
    }
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_comes_several_times() {
    let lab = Lab::start(&["nfs.getattr -> duplicate 2", "nlm.lock -> duplicate"]).await;
    for transport in BOTH {
        let mut nfs = lab.dial(Service::Nfs, transport);
        nfs.send(&getattr(7, &lab.fh));
        let replies = [nfs.reply(), nfs.reply(), nfs.reply()];
        assert!(replies.iter().all(|reply| *reply == replies[0] && reply.0 == 7));
        nfs.is_silent();
        let mut nlm = lab.dial(Service::Lockd, transport);
        nlm.send(&lock(7, &lab.fh, 1));
        assert_eq!(nlm.reply(), nlm.reply());
        nlm.is_silent();
        lab.set(&["nfs.getattr -> duplicate 2", "nlm.lock -> duplicate"]);
    }
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_is_acknowledged_and_the_lock_stays() {
    let lab = Lab::start(&["nlm.unlock count=1 -> acknowledge"]).await;
    let mut wire = lab.tcp(Service::Lockd);
    assert_eq!(stat(wire.ask(&lock(1, &lab.fh, 1))), 0);
    assert_eq!(stat(wire.ask(&unlock(2, &lab.fh, 1))), 0);
    assert_eq!(lab.held(), 1);
    assert_eq!(stat(wire.ask(&unlock(3, &lab.fh, 1))), 0);
    assert_eq!(lab.held(), 0);
    lab.set(&["nlm.lock -> acknowledge"]);
    assert_eq!(stat(wire.ask(&lock(4, &lab.fh, 1))), 0);
    assert_eq!(lab.held(), 0, "granted, and not held");
    lab.server.stop().await;
}

fn contents(lab: &Lab) -> String {
    let args = Read3Args {
        file: lab.fh[..].into(),
        offset: 0,
        count: 100,
    };
    let result = lab
        .tcp(Service::Nfs)
        .ask(&nfs(99, Nfs3Proc::NFSPROC3_READ, &args))
        .unwrap();
    match xdr::from_bytes::<Read3Res<'_>>(&result).unwrap() {
        Res3::Ok(read) => String::from_utf8_lossy(&read.data).into_owned(),
        Res3::Err(status, _) => panic!("{status}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_acknowledged_and_the_data_are_not_there() {
    let in_memory = Lab::start(&[]).await;
    for lab in [Some(in_memory), Lab::on_directory(&[]).await]
        .into_iter()
        .flatten()
    {
        lab.set(&["nfs.write count=1 -> acknowledge"]);
        let mut wire = lab.tcp(Service::Nfs);
        let result = wire.ask(&write(1, &lab.fh, "lost")).unwrap();
        let Res3::Ok(lost) = xdr::from_bytes::<Write3Res>(&result).unwrap() else {
            panic!("refused");
        };
        assert_eq!(lost.count, 4);
        assert_eq!(contents(&lab), "");
        let result = wire.ask(&write(2, &lab.fh, "there")).unwrap();
        let Res3::Ok(there) = xdr::from_bytes::<Write3Res>(&result).unwrap() else {
            panic!("refused");
        };
        assert_eq!((lost.verf, lost.committed), (there.verf, there.committed));
        assert_eq!(contents(&lab), "there");
        lab.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_can_be_acknowledged_has_a_valid_answer() {
    let lab = Lab::start(&["nfs.setattr|write|remove|rmdir|rename|link|commit -> acknowledge"]).await;
    let mut wire = lab.tcp(Service::Nfs);
    fn decodes<T: Unpack>(mut bytes: &[u8]) {
        T::unpack(&mut bytes).unwrap();
        assert!(bytes.is_empty());
    }
    let decode = |number| match Nfs3Proc(number) {
        Nfs3Proc::NFSPROC3_SETATTR => decodes::<theirs::SETATTR3res>,
        Nfs3Proc::NFSPROC3_WRITE => decodes::<theirs::WRITE3res>,
        Nfs3Proc::NFSPROC3_REMOVE => decodes::<theirs::REMOVE3res>,
        Nfs3Proc::NFSPROC3_RMDIR => decodes::<theirs::RMDIR3res>,
        Nfs3Proc::NFSPROC3_RENAME => decodes::<theirs::RENAME3res>,
        Nfs3Proc::NFSPROC3_LINK => decodes::<theirs::LINK3res>,
        _ => decodes::<theirs::COMMIT3res>,
    };
    for (xid, number) in (1..).zip([2, 7, 12, 13, 14, 15, 21]) {
        let procedure = PROCEDURES
            .iter()
            .find(|p| (p.program, p.number) == (proto::nfs3::PROGRAM, number))
            .unwrap();
        let message = Call::new(xid, procedure, (procedure.example)(&lab.root)).message();
        let result = wire.ask(&message.into()).unwrap();
        assert_eq!(result[..4], [0; 4], "{}", procedure.name);
        decode(number)(&result);
    }
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_executed_twice_and_the_second_answer_counts() {
    let in_memory = Lab::start(&[]).await;
    for lab in [Some(in_memory), Lab::on_directory(&[]).await]
        .into_iter()
        .flatten()
    {
        lab.set(&["nfs.remove -> twice", "nlm.unlock -> twice"]);
        let mut wire = lab.tcp(Service::Nfs);
        assert_eq!(removed(wire.ask(&remove(1, &lab.root, "f"))), "NFS3ERR_NOENT");
        wire.is_silent();
        lab.server.stop().await;
    }
}

/// A lock that the lock service puts off, since statd is slow, is answered late; what is done to its reply is done then.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_a_reply_is_done_to_one_that_was_put_off_too() {
    for (line, expected) in [
        ("nlm.lock -> answer NLM4_DENIED at before-reply", vec![(7, 1)]),
        ("nlm.lock -> answer NLM4_DENIED at after-execute", vec![(7, 1)]),
        ("nlm.lock -> set status=4", vec![(7, 4)]),
        ("nlm.lock -> set xid=8", vec![(8, 0)]),
        ("nlm.lock -> duplicate 2", vec![(7, 0); 3]),
        ("nlm.lock -> drop-reply", vec![]),
        ("nlm.lock -> drop at after-execute", vec![]),
    ] {
        for transport in BOTH {
            let lab = Lab::start(&[line]).await;
            lab.condition(Service::Statd, Condition::Slow(Duration::from_secs(30)))
                .await;
            let mut wire = lab.dial(Service::Lockd, transport);
            wire.send(&lock(7, &lab.fh, 1));
            lab.happens("lockd/upcall-started").await;
            assert_eq!(lab.held(), 0);
            lab.advance(Duration::from_secs(31));
            let mut replies: Vec<(u32, u32)> = Vec::new();
            for _ in &expected {
                let (xid, result) = wire.reply();
                replies.push((xid, stat(result)));
            }
            assert_eq!(replies, expected, "{line} over {transport:?}");
            lab.happens("reply/NLM_LOCK").await;
            wire.is_silent();
            assert_eq!(lab.held(), 1, "{line}: it was executed");
            lab.server.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_was_put_off_is_held_and_its_connection_closed_too() {
    let lab = Lab::start(&["nlm.lock -> hold late at before-reply"]).await;
    lab.condition(Service::Statd, Condition::Slow(Duration::from_secs(30)))
        .await;
    let mut wire = lab.tcp(Service::Lockd);
    wire.send(&lock(7, &lab.fh, 1));
    lab.happens("lockd/upcall-started").await;
    lab.advance(Duration::from_secs(31));
    lab.at_gate("late", 1).await;
    assert_eq!(lab.held(), 1);
    lab.server
        .node()
        .release("late", None, None, nfslab::server::Verdict::Go);
    assert_eq!(wire.reply().0, 7);
    // Another client, who is not monitored yet.
    lab.server.node().forget_peers(None);
    lab.set(&["nlm.lock -> close at after-execute"]);
    wire.send(&lock(8, &lab.fh, 2));
    lab.happens_often("lockd/upcall-started", 2).await;
    lab.advance(Duration::from_secs(31));
    assert_eq!(wire.next(), None, "closed");
    assert_eq!(lab.held(), 2);
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_takes_the_place_of_what_a_hung_lock_service_would_not_say() {
    let lab = Lab::start(&["nlm.lock -> answer NLM4_DENIED_NOLOCKS"]).await;
    lab.condition(Service::Lockd, Condition::Hung).await;
    let mut wire = lab.tcp(Service::Lockd);
    let denied = stat(wire.ask(&lock(1, &lab.fh, 1)));
    assert_eq!(Nlm4Stat(denied), Nlm4Stat::NLM4_DENIED_NOLOCKS);
    lab.server.stop().await;
}
