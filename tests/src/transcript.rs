//! Transcripts of locks: `tests/transcripts/*.txt`, command by command with the answers, for a person to read and for
//! any lock server to be tried with. Here they are read; nothing here knows a server.
//!
//! One command a line. `#` begins a comment.
//!
//! ```text
//! web1/1 lock /f exclusive 0 10 block -> BLOCKED   # process 1 on web1; offset and length, length 0 is to the end
//! web1/1 unlock /f 0 10 -> GRANTED
//! web1/1 cancel /f exclusive 0 10 -> GRANTED
//! web1/1 test /f shared 0 10 -> DENIED exclusive 0 10
//! web1/1 lock /f exclusive 0 10 -> nothing         # no answer yet
//! answered web1/1 GRANTED                          # the answer that had not come
//! callback web1/1 /f exclusive 0 10                # the server calls GRANTED
//! callback none
//! web1/1 granted-res GRANTED                       # the client's answer to the latest
//! held /f web1/1 exclusive 0 10, web2/1 shared 20 0
//! held /f nothing
//! waiting web1/1 web2/1                            # in the order in which they came; `waiting none`
//! web1/1 share /f RW DW -> GRANTED                 # access R W RW, deny DN DR DW DRW; also unshare
//! web1/0 free-all -> void
//! reboot web1 5                                    # what the status monitor says, with web1's new state
//! forged-reboot web1                               # the same from somebody who is no status monitor
//! restart 45s                                      # of the server, with its grace period
//! tick 61s                                         # time passes
//! statd absent                                     # or lockd; ok, absent, hung, fails, slow 20s
//! ```
//!
//! Words after a call's range: `block`, `reclaim`, `no-monitor` (NM_LOCK), `version=3`, `oh=text`, `name=text`,
//! `state=7`, `fh=stale`, `cookie=text` (it must come back; `cookie=` is one of no bytes).
//!
//! At the head: `personality NAME`; `set KEY VALUE` for one policy of it; `same-address web1 web2`, two machines behind
//! one address. What a transcript asks of a server beyond locking is told by [`Transcript::needs`]; a
//! server that lacks it is not tried with it. `needs WORD` adds to that.

use proto::nlm::Nlm4Stat;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A process on a machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The machine, by a name of the transcript.
    pub host: String,
    /// The process.
    pub svid: i32,
}

/// Which bytes of which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes {
    /// The file, as it is written: `/f`.
    pub file: String,
    /// The first byte.
    pub offset: u64,
    /// How many; 0 is to the end.
    pub len: u64,
}

/// A lock that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Who.
    pub who: Owner,
    /// Alone, or with others.
    pub exclusive: bool,
    /// Which bytes.
    pub bytes: Bytes,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// LOCK, or NM_LOCK.
    Lock {
        /// Whether to wait.
        block: bool,
        /// Whether it was held before the server restarted.
        reclaim: bool,
        /// Not for NM_LOCK.
        monitor: bool,
    },
    /// UNLOCK.
    Unlock,
    /// CANCEL.
    Cancel,
    /// TEST.
    Test,
    /// SHARE.
    Share {
        /// R, W or RW.
        access: String,
        /// DN, DR, DW or DRW.
        deny: String,
    },
    /// UNSHARE.
    Unshare,
    /// FREE_ALL.
    FreeAll,
}

/// A call of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who asks.
    pub who: Owner,
    /// What.
    pub ask: Ask,
    /// For an exclusive lock.
    pub exclusive: bool,
    /// Of which bytes.
    pub bytes: Bytes,
    /// The version of NLM.
    pub version: u32,
    /// The owner handle, if it matters.
    pub oh: Option<String>,
    /// The caller's name, if it is not the machine's.
    pub name: Option<String>,
    /// The client's state in a LOCK.
    pub state: i32,
    /// Whether the file handle is of a file that is no more.
    pub stale: bool,
    /// The cookie, if it matters.
    pub cookie: Option<String>,
}

/// What is to come of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This status.
    Status(Nlm4Stat),
    /// DENIED, by a lock of this kind, offset and length.
    Denied(bool, u64, u64),
    /// An answer without content.
    Void,
    /// No answer yet.
    Nothing,
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Well.
    Ok,
    /// Not there.
    Absent,
    /// There, and silent.
    Hung,
    /// It refuses.
    Fails,
    /// It answers so much later.
    Slow(Duration),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A client calls.
    Call(Box<Call>, Answer),
    /// An answer comes that had not come.
    Answered(Owner, Nlm4Stat),
    /// The next GRANTED goes to this owner and for this lock; `None`: there is none.
    Callback(Option<Lock>),
    /// The client answers the latest GRANTED that it had for this owner.
    GrantedRes(Owner, Nlm4Stat),
    /// All locks on the file, by first byte.
    Held(String, Vec<Lock>),
    /// All who wait, in the order in which they came.
    Waiting(Vec<Owner>),
    /// The machine's status monitor tells of a reboot.
    Reboot(String, Option<i32>),
    /// Somebody else does.
    ForgedReboot(String),
    /// The server restarts.
    Restart(Duration),
    /// Time passes.
    Tick(Duration),
    /// The server's status monitor.
    Statd(Health),
    /// The server's lock manager.
    Lockd(Health),
}

/// What a server must be able to beyond LOCK, UNLOCK and TEST, or must let one do to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Policies can be chosen.
    Policy,
    /// CANCEL.
    Cancel,
    /// It calls back, and takes GRANTED_RES.
    Callback,
    /// SHARE and UNSHARE.
    Share,
    /// FREE_ALL, NM_LOCK, and the old versions; locks of a machine rather than of a process.
    Protocol,
    /// It restarts, with a grace period, in which locks are reclaimed.
    Restart,
    /// It hears of reboots.
    Reboot,
    /// Its time can be advanced.
    VirtualTime,
    /// Its services can be made ill.
    Health,
    /// One owner may wait for several locks at once, or ask again while it waits.
    SeveralWaits,
    /// Owners with the same svid on several machines behind one address, owner handles, names.
    Identity,
    /// Among those who wait, who came first is served first.
    Fifo,
    /// Answers by the numbers of the protocol: what `fcntl` has no errno for.
    Status,
}

impl FromStr for Need {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        Ok(match word {
            "fifo" => Need::Fifo,
            "policy" => Need::Policy,
            "virtual-time" => Need::VirtualTime,
            "several-waits" => Need::SeveralWaits,
            "protocol" => Need::Protocol,
            "identity" => Need::Identity,
            "status" => Need::Status,
            _ => return Err(()),
        })
    }
}

/// A line with its place.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: usize,
    /// As it is written.
    pub text: String,
    /// What it says.
    pub command: Command,
}

/// A file of commands.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// Where it lies.
    pub path: PathBuf,
    /// The server's personality, if it matters.
    pub personality: Option<String>,
    /// Policies of it that are other than usual.
    pub settings: Vec<(String, String)>,
    /// Machines behind one address.
    pub same_address: Vec<Vec<String>>,
    /// The commands.
    pub lines: Vec<Line>,
    needs: BTreeSet<Need>,
}

impl Transcript {
    /// Reads one.
    ///
    /// # Errors
    /// With file, line and what was expected there.
    pub fn read(path: &Path) -> Result<Transcript, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Transcript::parse(path, &text)
    }

    /// Every transcript of a folder, by name.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_all(folder: &Path) -> Result<Vec<Transcript>, String> {
        let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
        paths.sort();
        paths.iter().map(|path| Transcript::read(path)).collect()
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// With line and what was expected there.
    pub fn parse(path: &Path, text: &str) -> Result<Transcript, String> {
        let mut transcript = Transcript {
            path: path.to_owned(),
            personality: None,
            settings: Vec::new(),
            same_address: Vec::new(),
            lines: Vec::new(),
            needs: BTreeSet::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let text = line.split('#').next().unwrap_or_default().trim();
            let number = index + 1;
            let mut words = Words(text.split_whitespace().collect());
            if words.0.is_empty() {
                continue;
            }
            match transcript.header(&mut words).and_then(|was| match was {
                true => Ok(None),
                false => command(&mut words).map(Some),
            }) {
                Ok(None) => {}
                Ok(Some(command)) => transcript.lines.push(Line {
                    number,
                    text: text.to_owned(),
                    command,
                }),
                Err(wrong) => return Err(format!("{}:{number}: {wrong}: {text}", path.display())),
            }
        }
        transcript.find_needs();
        Ok(transcript)
    }

    /// Takes a line of the head; whether it was one.
    fn header(&mut self, words: &mut Words<'_>) -> Result<bool, String> {
        match words.0.first() {
            Some(&"personality") => {
                words.next("a word")?;
                self.personality = Some(words.next("a name")?.to_owned());
                self.needs.insert(Need::Policy);
            }
            Some(&"set") => {
                words.next("a word")?;
                let key = words.next("a policy")?.to_owned();
                self.settings.push((key, words.next("a value")?.to_owned()));
                self.needs.insert(Need::Policy);
            }
            Some(&"same-address") => {
                words.next("a word")?;
                self.same_address
                    .push(words.0.drain(..).map(str::to_owned).collect());
                self.needs.insert(Need::Identity);
            }
            Some(&"needs") => {
                words.next("a word")?;
                for word in words.0.drain(..) {
                    let need = word
                        .parse()
                        .map_err(|()| format!("'{word}' is nothing to need"))?;
                    self.needs.insert(need);
                }
            }
            _ => return Ok(false),
        }
        words.end().map(|()| true)
    }

    /// What a server must be able to do to be tried with this.
    pub fn needs(&self) -> &BTreeSet<Need> {
        &self.needs
    }

    fn find_needs(&mut self) {
        let mut blocked = BTreeSet::new();
        for line in &self.lines {
            match &line.command {
                Command::Call(call, answer) => {
                    self.needs.extend(call.needs());
                    if blocked.contains(&call.who) {
                        self.needs.insert(Need::SeveralWaits);
                    }
                    if *answer == Answer::Status(Nlm4Stat::NLM4_BLOCKED) {
                        blocked.insert(call.who.clone());
                    }
                    match answer {
                        Answer::Nothing => self.needs.insert(Need::Health),
                        Answer::Status(stat) if stat.0 == 2 || stat.0 > 5 => self.needs.insert(Need::Status),
                        _ => false,
                    };
                }
                Command::Answered(..) | Command::Statd(_) | Command::Lockd(_) => {
                    self.needs.insert(Need::Health);
                }
                Command::GrantedRes(_, stat) if *stat != Nlm4Stat::NLM4_GRANTED => {
                    self.needs.insert(Need::Callback);
                }
                Command::Callback(Some(lock)) => {
                    blocked.remove(&lock.who);
                }
                Command::Callback(None)
                | Command::GrantedRes(..)
                | Command::Held(..)
                | Command::Waiting(_) => {}
                Command::Reboot(..) | Command::ForgedReboot(_) => {
                    self.needs.insert(Need::Reboot);
                }
                Command::Restart(_) => {
                    self.needs.insert(Need::Restart);
                }
                Command::Tick(_) => {
                    self.needs.insert(Need::VirtualTime);
                }
            }
        }
    }

    /// The file's name without its ending.
    pub fn name(&self) -> String {
        self.path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

impl Call {
    fn needs(&self) -> Vec<Need> {
        let mut needs = match &self.ask {
            Ask::Lock { reclaim: true, .. } => vec![Need::Restart],
            Ask::Lock { monitor: false, .. } | Ask::FreeAll => vec![Need::Protocol],
            Ask::Lock { .. } | Ask::Unlock | Ask::Test => vec![],
            Ask::Cancel => vec![Need::Cancel],
            Ask::Share { .. } | Ask::Unshare => vec![Need::Share],
        };
        if self.version != 4 || self.stale || self.cookie.is_some() {
            needs.push(Need::Protocol);
        }
        if self.oh.is_some() || self.name.is_some() {
            needs.push(Need::Identity);
        }
        needs
    }
}

/// The words of a line that are still to be read.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn next(&mut self, expected: &str) -> Result<&'a str, String> {
        if self.0.is_empty() {
            return Err(format!("expected {expected} at the end"));
        }
        Ok(self.0.remove(0))
    }

    fn parse<T: FromStr>(&mut self, expected: &str) -> Result<T, String> {
        let word = self.next(expected)?;
        word.parse()
            .map_err(|_| format!("expected {expected}, not '{word}'"))
    }

    /// Takes the word if it is the next.
    fn take(&mut self, word: &str) -> bool {
        let is = self.0.first() == Some(&word);
        if is {
            self.0.remove(0);
        }
        is
    }

    fn kind(&mut self) -> Result<bool, String> {
        match self.next("exclusive or shared")? {
            "exclusive" => Ok(true),
            "shared" => Ok(false),
            other => Err(format!("expected exclusive or shared, not '{other}'")),
        }
    }

    fn file(&mut self) -> Result<String, String> {
        let file = self.next("a file")?;
        if file.starts_with('/') {
            Ok(file.to_owned())
        } else {
            Err(format!("expected a file like /f, not '{file}'"))
        }
    }

    fn range(&mut self) -> Result<(u64, u64), String> {
        Ok((self.parse("an offset")?, self.parse("a length")?))
    }

    fn status(&mut self) -> Result<Nlm4Stat, String> {
        let word = self.next("a status")?;
        match word {
            "GRACE" => return Ok(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD),
            "NOLOCKS" => return Ok(Nlm4Stat::NLM4_DENIED_NOLOCKS),
            _ => {}
        }
        let named = |stat: &Nlm4Stat| stat.to_string().strip_prefix("NLM4_") == Some(word);
        let mut all = (0..=9).map(Nlm4Stat);
        all.find(named).ok_or_else(|| format!("'{word}' is no status"))
    }

    fn duration(&mut self) -> Result<Duration, String> {
        let word = self.next("a time like 61.5s")?;
        let seconds = word.strip_suffix('s').and_then(|n| n.parse::<f64>().ok());
        let time = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        time.ok_or_else(|| format!("expected a time like 61.5s, not '{word}'"))
    }

    fn health(&mut self) -> Result<Health, String> {
        match self.next("ok, absent, hung, fails or slow")? {
            "ok" => Ok(Health::Ok),
            "absent" => Ok(Health::Absent),
            "hung" => Ok(Health::Hung),
            "fails" => Ok(Health::Fails),
            "slow" => Ok(Health::Slow(self.duration()?)),
            other => Err(format!("expected ok, absent, hung, fails or slow, not '{other}'")),
        }
    }

    fn end(&self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some(word) => Err(format!("'{word}' was not expected")),
        }
    }
}

impl FromStr for Owner {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        let (host, svid) = word.split_once('/').ok_or(())?;
        let svid = svid.parse().map_err(|_| ())?;
        let host = host.to_owned();
        if host.is_empty() {
            Err(())
        } else {
            Ok(Owner { host, svid })
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.svid)
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.exclusive { "exclusive" } else { "shared" };
        write!(f, "{} {kind} {} {}", self.who, self.bytes.offset, self.bytes.len)
    }
}

fn command(words: &mut Words<'_>) -> Result<Command, String> {
    let first = words.next("a command")?;
    let command = match first {
        "answered" => Command::Answered(words.parse("an owner like web1/1")?, words.status()?),
        "callback" if words.take("none") => Command::Callback(None),
        "callback" => {
            let (who, file) = (words.parse("an owner like web1/1")?, words.file()?);
            Command::Callback(Some(lock(words, who, file)?))
        }
        "held" => {
            let file = words.file()?;
            Command::Held(file.clone(), held(words, &file)?)
        }
        "waiting" if words.take("none") => Command::Waiting(Vec::new()),
        "waiting" => {
            let mut owners = Vec::new();
            while !words.0.is_empty() || owners.is_empty() {
                owners.push(words.parse("an owner like web1/1")?);
            }
            Command::Waiting(owners)
        }
        "reboot" => {
            let host = words.next("a machine")?.to_owned();
            let state = if words.0.is_empty() {
                None
            } else {
                Some(words.parse("a state")?)
            };
            Command::Reboot(host, state)
        }
        "forged-reboot" => Command::ForgedReboot(words.next("a machine")?.to_owned()),
        "restart" => Command::Restart(words.duration()?),
        "tick" => Command::Tick(words.duration()?),
        "statd" => Command::Statd(words.health()?),
        "lockd" => Command::Lockd(words.health()?),
        _ => {
            let who = first
                .parse()
                .map_err(|()| format!("'{first}' is neither a command nor an owner like web1/1"))?;
            of_owner(words, who)?
        }
    };
    words.end()?;
    Ok(command)
}

fn lock(words: &mut Words<'_>, who: Owner, file: String) -> Result<Lock, String> {
    let exclusive = words.kind()?;
    let (offset, len) = words.range()?;
    let bytes = Bytes { file, offset, len };
    Ok(Lock {
        who,
        exclusive,
        bytes,
    })
}

fn held(words: &mut Words<'_>, file: &str) -> Result<Vec<Lock>, String> {
    if words.take("nothing") {
        return Ok(Vec::new());
    }
    let mut locks = Vec::new();
    loop {
        let who = words.parse("an owner like web1/1")?;
        // The comma sticks to the length.
        if let Some(len) = words.0.get_mut(2) {
            *len = len.trim_end_matches(',');
        }
        locks.push(lock(words, who, file.to_owned())?);
        if words.0.is_empty() {
            return Ok(locks);
        }
    }
}

fn of_owner(words: &mut Words<'_>, who: Owner) -> Result<Command, String> {
    let verb = words.next("a verb")?;
    if verb == "granted-res" {
        return Ok(Command::GrantedRes(who, words.status()?));
    }
    let mut call = Call {
        who,
        ask: Ask::FreeAll,
        exclusive: false,
        bytes: Bytes {
            file: String::new(),
            offset: 0,
            len: 0,
        },
        version: 4,
        oh: None,
        name: None,
        state: 3,
        stale: false,
        cookie: None,
    };
    if verb != "free-all" {
        call.bytes.file = words.file()?;
    }
    match verb {
        "lock" | "cancel" | "test" => {
            call.exclusive = words.kind()?;
            (call.bytes.offset, call.bytes.len) = words.range()?;
        }
        "unlock" => (call.bytes.offset, call.bytes.len) = words.range()?,
        _ => {}
    }
    let (mut block, mut reclaim, mut monitor) = (false, false, true);
    call.ask = match verb {
        "share" => Ask::Share {
            access: words.next("R, W or RW")?.to_owned(),
            deny: words.next("DN, DR, DW or DRW")?.to_owned(),
        },
        "unshare" => Ask::Unshare,
        "unlock" => Ask::Unlock,
        "cancel" => Ask::Cancel,
        "test" => Ask::Test,
        "lock" | "free-all" => Ask::FreeAll,
        other => return Err(format!("'{other}' is no verb")),
    };
    while !words.take("->") {
        let word = words.next("-> and an answer")?;
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || {
            value
                .parse()
                .map_err(|_| format!("expected a number in '{word}'"))
        };
        match key {
            "block" => block = true,
            "reclaim" => reclaim = true,
            "no-monitor" => monitor = false,
            "version" => call.version = number()?,
            "state" => call.state = number()? as i32,
            "oh" => call.oh = Some(value.to_owned()),
            "name" => call.name = Some(value.to_owned()),
            "cookie" => call.cookie = Some(value.to_owned()),
            "fh" if value == "stale" => call.stale = true,
            _ => return Err(format!("'{word}' was not expected")),
        }
    }
    if verb == "lock" {
        call.ask = Ask::Lock {
            block,
            reclaim,
            monitor,
        };
    }
    let answer = if words.take("nothing") {
        Answer::Nothing
    } else if words.take("void") {
        Answer::Void
    } else {
        match words.status()? {
            Nlm4Stat::NLM4_DENIED if !words.0.is_empty() => {
                let exclusive = words.kind()?;
                let (offset, len) = words.range()?;
                Answer::Denied(exclusive, offset, len)
            }
            stat => Answer::Status(stat),
        }
    };
    Ok(Command::Call(Box::new(call), answer))
}
