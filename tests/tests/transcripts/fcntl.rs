//! The locks of this host's own kernel (`fcntl`): each owner of a transcript is a process.
//!
//! BLOCKED is a process that `/proc/locks` shows waiting; GRANTED is its F_SETLKW that returns, and DEADLCK is EDEADLK.

use crate::proc_locks::{self, Row};
use nfslab_tests::transcript::{Answer, Ask, Call, Command, Lock, Owner, Transcript};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, flock};
use proto::nlm::Nlm4Stat;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The first argument of such a process.
pub const PROCESS: &str = "fcntl-process";
const PATIENCE: Duration = Duration::from_secs(5);

pub fn can(transcript: &Transcript) -> bool {
    transcript.needs().is_empty()
}

/// Reads commands, carries them out with `fcntl`, and says what came of them.
pub fn process() -> ExitCode {
    let mut files = BTreeMap::new();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match carry_out(&line, &mut files) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{error}"),
        }
    }
    ExitCode::SUCCESS
}

/// `setlk`, `setlkw` or `getlk`; the lock's type, first byte and length; the path.
fn carry_out(line: &str, files: &mut BTreeMap<String, File>) -> std::io::Result<String> {
    let bad = || std::io::Error::other(format!("not understood: {line}"));
    let mut words = line.splitn(5, ' ');
    let mut word = || words.next().ok_or_else(bad);
    let (what, kind, start, len, path) = (word()?, word()?, word()?, word()?, word()?);
    let number = |text: &str| text.parse().map_err(|_| bad());
    let mut lock = flock {
        l_type: match kind {
            "exclusive" => libc::F_WRLCK,
            "shared" => libc::F_RDLCK,
            _ => libc::F_UNLCK,
        } as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: number(start)?,
        l_len: number(len)?,
        l_pid: 0,
    };
    // Never closed: that would give its locks back.
    if !files.contains_key(path) {
        let file = File::options().read(true).write(true).open(path)?;
        files.insert(path.to_owned(), file);
    }
    let file = files.get(path).ok_or_else(bad)?;
    let done = match what {
        "setlk" => fcntl(file, FcntlArg::F_SETLK(&lock)),
        "setlkw" => fcntl(file, FcntlArg::F_SETLKW(&lock)),
        _ => fcntl(file, FcntlArg::F_GETLK(&mut lock)),
    };
    Ok(match done {
        Ok(_) if what != "getlk" || lock.l_type == libc::F_UNLCK as i16 => "GRANTED".to_owned(),
        Ok(_) => {
            let kind = if lock.l_type == libc::F_WRLCK as i16 {
                "exclusive"
            } else {
                "shared"
            };
            format!("DENIED {kind} {} {}", lock.l_start, lock.l_len)
        }
        Err(Errno::EAGAIN | Errno::EACCES) => "DENIED".to_owned(),
        Err(Errno::EDEADLK) => "DEADLCK".to_owned(),
        Err(other) => other.to_string(),
    })
}

struct Process {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    waits: bool,
}

impl Process {
    fn start() -> std::io::Result<Process> {
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .arg(PROCESS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(commands), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("no pipes"));
        };
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.map_while(|line| sender.send(line).ok()).for_each(drop);
        });
        Ok(Process {
            child,
            commands,
            answers,
            waits: false,
        })
    }

    fn is_shown_waiting(&self) -> bool {
        let pid = self.child.id();
        table().iter().any(|row| row.waits && row.pid == pid)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may wait for a lock, and would not notice that nobody commands it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The table as it was at one time: the kernel lists it page by page, and a line may come twice if others change it meanwhile.
fn table() -> Vec<Row> {
    let read = || std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut text = read();
    for _ in 0..1000 {
        let again = read();
        if again == text {
            break;
        }
        text = again;
    }
    proc_locks::parse(&text)
}

pub struct Fcntl {
    folder: tempfile::TempDir,
    processes: BTreeMap<Owner, Process>,
}

impl Fcntl {
    pub fn new(_: &Transcript) -> Result<Fcntl, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Fcntl {
            folder,
            processes: BTreeMap::new(),
        })
    }

    fn path(&self, file: &str) -> std::io::Result<PathBuf> {
        let path = self.folder.path().join(file.trim_start_matches('/'));
        if !path.exists() {
            File::create(&path)?;
        }
        Ok(path)
    }

    fn call(&mut self, call: &Call, with_holder: bool) -> Result<Answer, String> {
        let path = self.path(&call.bytes.file).map_err(|error| error.to_string())?;
        let what = match &call.ask {
            Ask::Lock { block: true, .. } => "setlkw",
            Ask::Test => "getlk",
            _ => "setlk",
        };
        let kind = match (&call.ask, call.exclusive) {
            (Ask::Unlock, _) => "none",
            (_, true) => "exclusive",
            (_, false) => "shared",
        };
        if !self.processes.contains_key(&call.who) {
            let process = Process::start().map_err(|error| error.to_string())?;
            self.processes.insert(call.who.clone(), process);
        }
        let process = self.processes.get_mut(&call.who).ok_or("no process")?;
        if process.waits {
            return Err("the process waits, and cannot ask".into());
        }
        let (offset, len) = (call.bytes.offset, call.bytes.len);
        writeln!(
            process.commands,
            "{what} {kind} {offset} {len} {}",
            path.display()
        )
        .map_err(|error| error.to_string())?;
        let end = Instant::now() + PATIENCE;
        let answer = loop {
            if let Ok(answer) = process.answers.try_recv() {
                break answer;
            }
            if what == "setlkw" && process.is_shown_waiting() {
                process.waits = true;
                return Ok(Answer::Status(Nlm4Stat::NLM4_BLOCKED));
            }
            if Instant::now() > end {
                return Err("the process neither answers nor waits".into());
            }
            std::thread::yield_now();
        };
        answer_of(&answer, with_holder)
    }

    fn who(&self, pid: u32) -> Option<&Owner> {
        let process = self
            .processes
            .iter()
            .find(|(_, process)| process.child.id() == pid);
        process.map(|(who, _)| who)
    }

    /// A process that waited has its lock.
    fn granted(&mut self, lock: &Lock) -> Result<(), String> {
        let process = self.processes.get_mut(&lock.who).filter(|process| process.waits);
        let process = process.ok_or("this process does not wait")?;
        let answer = process
            .answers
            .recv_timeout(PATIENCE)
            .map_err(|_| "it still waits")?;
        process.waits = false;
        super::same(&"GRANTED", &answer.as_str())
    }

    fn waiting(&self, owners: &[Owner]) -> Result<(), String> {
        let table = table();
        let waiting = table.iter().filter(|row| row.waits);
        let mut got: Vec<Owner> = waiting.filter_map(|row| self.who(row.pid)).cloned().collect();
        // The kernel lists them by the lock that they wait for.
        got.sort();
        let mut expected = owners.to_vec();
        expected.sort();
        super::same(&expected, &got)
    }

    fn held(&self, file: &str, locks: &[Lock]) -> Result<(), String> {
        let path = self.path(file).map_err(|error| error.to_string())?;
        let inode = std::fs::metadata(path).map_err(|error| error.to_string())?.ino();
        let table = table();
        let held = table.iter().filter(|row| !row.waits && row.inode == inode);
        let shown = held.filter_map(|row| Some(format!("{} {row}", self.who(row.pid)?)));
        super::same_locks(locks, shown.collect())
    }
}

fn answer_of(answer: &str, with_holder: bool) -> Result<Answer, String> {
    let words: Vec<&str> = answer.split(' ').collect();
    Ok(match words[..] {
        ["GRANTED"] => Answer::Status(Nlm4Stat::NLM4_GRANTED),
        ["DEADLCK"] => Answer::Status(Nlm4Stat::NLM4_DEADLCK),
        ["DENIED", kind, start, len] if with_holder => {
            let number = |text: &str| text.parse().map_err(|_| format!("got {answer}"));
            Answer::Denied(kind == "exclusive", number(start)?, number(len)?)
        }
        ["DENIED", ..] => Answer::Status(Nlm4Stat::NLM4_DENIED),
        _ => return Err(format!("got {answer}")),
    })
}

impl super::Player for Fcntl {
    fn play(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Call(call, answer) => {
                let got = self.call(call, matches!(answer, Answer::Denied(..)))?;
                super::same(answer, &got)
            }
            Command::Callback(Some(lock)) => self.granted(lock),
            Command::Callback(None) => {
                let waiting = self.processes.iter().filter(|(_, process)| process.waits);
                match waiting
                    .map(|(who, process)| (who, process.answers.try_recv()))
                    .find(|(_, got)| got.is_ok())
                {
                    None => Ok(()),
                    Some((who, _)) => Err(format!("{who} has its lock")),
                }
            }
            // Nobody need be told that a process knows what it has.
            Command::GrantedRes(..) => Ok(()),
            Command::Held(file, locks) => self.held(file, locks),
            // Who is woken and cannot have its lock yet is not shown for a moment.
            Command::Waiting(owners) => {
                let end = Instant::now() + PATIENCE;
                while self.waiting(owners).is_err() && Instant::now() < end {
                    std::thread::yield_now();
                }
                self.waiting(owners)
            }
            _ => Err("fcntl knows nothing of this".into()),
        }
    }
}
