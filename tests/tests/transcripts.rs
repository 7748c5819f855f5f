//! The transcripts in `tests/transcripts`, played to the lock service alone, to the server over loopback, and to the
//! locks of this host's own kernel. How they are written is told in `nfslab_tests::transcript`.
//!
//! Where another server differs on purpose, `tests/transcripts/differences` says so and why; a difference
//! that is listed there and no longer occurs is a failure too.
//!
//! Bugs of other servers that lie below the lock protocol are kept out by other tests: records in fragments, marks that
//! announce gigabytes and unknown credentials (nfs-mamont, nfs3_server) by `hostile.rs`; UDP, the calls that are answered
//! by calls, and whence these come (dittofs #1353) by `nlm.rs`; a port 0 for NLM (go-nfs #98) by `nlm.rs`.
//!
//! A lock of the kernel needs a process for its owner: this binary, started again with [`fcntl::PROCESS`].

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

#[path = "transcripts/fcntl.rs"]
mod fcntl;
#[path = "transcripts/messages.rs"]
mod messages;
#[path = "transcripts/player.rs"]
mod player;
#[path = "transcripts/proc_locks.rs"]
mod proc_locks;
#[path = "transcripts/pure.rs"]
mod pure;
#[path = "transcripts/wire.rs"]
mod wire;

mod common;
#[path = "common/fake_client.rs"]
mod fake_client;

use libtest_mimic::{Arguments, Trial};
use nfslab_tests::transcript::Transcript;
use player::{Player, differences, folder, judge, play, same, same_locks};
use std::path::Path;
use std::process::ExitCode;

/// Whether a player can be tried with a transcript.
type Can = fn(&Transcript) -> bool;
type Play = fn(&Transcript) -> Result<(), String>;

const PLAYERS: [(&str, Can, Play); 3] = [
    (
        "pure",
        |_| true,
        |transcript| play(transcript, &mut pure::Pure::new(transcript)?),
    ),
    ("wire", wire::can, |transcript| {
        play(transcript, &mut wire::Wire::new(transcript)?)
    }),
    ("fcntl", fcntl::can, |transcript| {
        play(transcript, &mut fcntl::Fcntl::new(transcript)?)
    }),
];

/// Each player notices a wrong answer, a wrong table and a wrong queue.
fn wrong_ones() -> Result<(), String> {
    let start = "web1/1 lock /f exclusive 0 10 -> GRANTED\n";
    for (wrong, shown) in [
        (
            "web2/1 lock /f shared 0 1 -> GRANTED",
            "expected Status(NLM4_GRANTED), got Status(NLM4_DENIED)",
        ),
        (
            "web2/1 test /f shared 0 1 -> DENIED shared 0 10",
            "got Denied(true, 0, 10)",
        ),
        ("held /f web1/1 exclusive 0 9", "got [\"web1/1 exclusive 0 10\"]"),
        ("waiting web2/1", "got []"),
        ("callback web2/1 /f exclusive 0 10", ""),
    ] {
        let transcript = Transcript::parse(Path::new("some.txt"), &format!("{start}{wrong}"))?;
        for (player, _, run) in PLAYERS {
            let place = format!("some.txt:2: {wrong}: ");
            match run(&transcript) {
                Err(found) if found.starts_with(&place) && found.contains(shown) => {}
                other => return Err(format!("{player}: {wrong}: {other:?}")),
            }
        }
    }
    for (wrong, why) in [
        (
            "web1/1 lock f exclusive 0 1 -> GRANTED",
            "expected a file like /f, not 'f'",
        ),
        (
            "web1 lock /f exclusive 0 1 -> GRANTED",
            "neither a command nor an owner",
        ),
        ("web1/1 lock /f exclusive 0 1", "expected -> and an answer"),
        ("web1/1 lock /f exclusive 0 1 -> MAYBE", "'MAYBE' is no status"),
        ("tick 5", "expected a time like 61.5s"),
        ("needs luck", "'luck' is nothing to need"),
    ] {
        let found = Transcript::parse(Path::new("some.txt"), &format!("# head\n\n{wrong}")).err();
        if !found
            .as_ref()
            .is_some_and(|f| f.starts_with("some.txt:3: ") && f.contains(why))
        {
            return Err(format!("{wrong}: {found:?}"));
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == fcntl::PROCESS) {
        return fcntl::process();
    }
    let arguments = Arguments::from_args();
    let (transcripts, mut differences) = match (Transcript::read_all(&folder()), differences()) {
        (Ok(transcripts), Ok(differences)) => (transcripts, differences),
        (Err(wrong), _) | (_, Err(wrong)) => {
            eprintln!("{wrong}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = Vec::new();
    for (player, can, run) in PLAYERS {
        let mut played = 0;
        for transcript in transcripts.iter().filter(|transcript| can(transcript)) {
            played += 1;
            let name = transcript.name();
            let difference = differences.remove(&(player.to_owned(), name.clone()));
            let transcript = transcript.clone();
            trials.push(Trial::test(format!("{player} {name}"), move || {
                judge(run(&transcript), difference.as_ref()).map_err(Into::into)
            }));
        }
        println!("{player}: {played} of {} transcripts", transcripts.len());
    }
    // What the comparison with Linux' server plays (`tests/compare/locks.rs`), it looks up itself.
    let left = differences
        .into_keys()
        .filter(|(player, _)| !player.starts_with("knfsd"))
        .map(|(player, name)| format!("{player} {name}"));
    let left: Vec<String> = left.collect();
    trials.push(Trial::test(
        "every difference is of a transcript that is played",
        move || {
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}").into())
            }
        },
    ));
    trials.push(Trial::test("what is wrong is shown with its place", || {
        wrong_ones().map_err(Into::into)
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}
