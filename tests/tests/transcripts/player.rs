//! What plays a transcript, whoever it is: its commands one by one, and the differences that are known.

#![allow(dead_code, reason = "not every player lists its locks by owner")]

use nfslab_tests::transcript::{Command, Lock, Transcript};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// Somebody who can be told the commands of a transcript.
pub trait Player {
    /// Carries out a command. An error says what was expected and what came.
    fn play(&mut self, command: &Command) -> Result<(), String>;

    /// After the last command: is anything left over?
    fn end(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Whether a server said what was expected.
pub fn same<T: PartialEq + Debug>(expected: &T, got: &T) -> Result<(), String> {
    if expected == got {
        return Ok(());
    }
    Err(format!("expected {expected:?}, got {got:?}"))
}

/// The locks of a file, in whatever order those are listed that begin at the same byte.
pub fn same_locks(expected: &[Lock], mut got: Vec<String>) -> Result<(), String> {
    let mut expected: Vec<String> = expected.iter().map(Lock::to_string).collect();
    expected.sort();
    got.sort();
    same(&expected, &got)
}

/// Plays it up to the first command that goes wrong.
pub fn play(transcript: &Transcript, player: &mut dyn Player) -> Result<(), String> {
    for line in &transcript.lines {
        let at = || format!("{}:{}: {}", transcript.path.display(), line.number, line.text);
        player
            .play(&line.command)
            .map_err(|wrong| format!("{}: {wrong}", at()))?;
    }
    player
        .end()
        .map_err(|wrong| format!("{}: at the end: {wrong}", transcript.path.display()))
}

/// Where the transcripts are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts")
}

/// Reasons by player and transcript.
pub fn differences() -> Result<BTreeMap<(String, String), String>, String> {
    let path = folder().join("differences");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let entry = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::trim);
        match (words.next(), words.next(), words.next()) {
            (Some(player), Some(transcript), Some(why)) if !why.is_empty() => {
                Ok(((player.to_owned(), transcript.to_owned()), why.to_owned()))
            }
            _ => Err(format!(
                "{}: expected a player, a transcript and a reason: {line}",
                path.display()
            )),
        }
    };
    lines.map(entry).collect()
}

/// What a player makes of a transcript, and whether it was to be expected.
pub fn judge(played: Result<(), String>, difference: Option<&String>) -> Result<(), String> {
    match (played, difference) {
        (Ok(()), Some(why)) => Err(format!("the difference no longer occurs, strike it out: {why}")),
        (Err(wrong), Some(why)) => {
            println!("a known difference: {why}: {wrong}");
            Ok(())
        }
        (played, None) => played,
    }
}
