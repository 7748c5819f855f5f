//! What host and guest say to each other: one JSON object per line, over a
//! virtio serial port of the guest.
//!
//! The host sends [`Call`]s; the guest answers each with a reply of the same
//! number and sends events in between. A line that is no such object is passed
//! over by either side: a serial port carries junk at times.

use serde::{Deserialize, Serialize};

/// Counts changes of this protocol. Both sides come from one build, so that a
/// difference means that a stale image was booted.
pub(crate) const VERSION: u32 = 1;

/// Longest line that either side takes.
pub(crate) const MAX_LINE: usize = 4 << 20;

/// File content per call.
pub(crate) const CHUNK: usize = 256 << 10;

/// A request of the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Repeated in the reply.
    pub(crate) id: u64,
    #[serde(flatten)]
    pub(crate) request: Request,
}

/// What the host can ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Network, daemons and mounts. Once, before anything else.
    Setup(Setup),
    /// Runs a shell script to its end.
    Exec {
        script: String,
        deadline_ms: u64,
        limit: usize,
    },
    /// Starts a program under a label and lets it run.
    Spawn { label: String, argv: Vec<String> },
    /// Signals the process group of a label.
    Signal { label: String, signal: i32 },
    /// The state of every labelled process and its descendants.
    Processes,
    /// Writes a piece of a file; offset 0 creates it anew.
    Put {
        path: String,
        mode: u32,
        offset: u64,
        data: Bytes,
    },
    /// Reads a piece of a file.
    Get { path: String, offset: u64 },
    /// Starts an interactive shell on the console.
    Shell { rows: u16, columns: u16 },
    /// Ends the guest.
    PowerOff,
}

/// How the guest shall be set up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) hostname: String,
    /// None: no network device.
    pub(crate) network: Option<Addresses>,
    pub(crate) fixture: Fixture,
    pub(crate) nlm_timeout: Option<u32>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) deadline_ms: u64,
}

/// The guest's address and the server's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) guest: std::net::Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) server: std::net::Ipv4Addr,
}

/// Which of a client's daemons run in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixture {
    /// rpcbind on port 111: without it the server cannot find the client's
    /// lock and status services.
    pub rpcbind: bool,
    /// rpc.statd: without it `mount.nfs` refuses to mount with locks.
    pub statd: bool,
}

impl Default for Fixture {
    fn default() -> Self {
        Self {
            rpcbind: true,
            statd: true,
        }
    }
}

/// An export to mount before the guest counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `10.77.0.1:/lab`
    pub source: String,
    /// `/mnt`
    pub target: String,
    /// Options as for `mount -o`.
    pub options: String,
    /// Asks the kernel itself instead of `mount.nfs`: no check for a local
    /// statd, no portmap calls from user space.
    pub direct: bool,
}

impl Mount {
    /// A plain NFSv3 mount over TCP, with locks, through `mount.nfs`.
    pub fn v3(source: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            target: target.into(),
            options: "vers=3,tcp".into(),
            direct: false,
        }
    }
}

/// What the guest sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum Message {
    /// The agent runs and takes calls.
    Hello { version: u32, boot_ms: u64 },
    /// An export is mounted.
    Mounted { target: String },
    /// A line of the kernel's log, with its own time since boot.
    Kernel { boot_us: u64, level: u8, line: String },
    /// A line that a labelled process wrote.
    Output {
        label: String,
        stream: Stream,
        line: String,
    },
    /// A labelled process ended.
    Exit { label: String, status: Status },
    /// The answer to a call.
    Reply { id: u64, answer: Answer },
    /// A line came that is no call.
    Complaint { problem: String },
}

/// The answer to a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", content = "with", rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Output(Output),
    Pid(i32),
    Processes(Vec<Process>),
    Piece { data: Bytes, end: bool },
    Error(String),
}

/// Which of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It was still running at its deadline, and was sent SIGKILL. If it hangs
    /// in the kernel it may be there still.
    TimedOut,
}

impl Status {
    /// Whether it exited with 0.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal}"),
            Self::TimedOut => write!(f, "deadline passed"),
        }
    }
}

/// What a script left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// How it ended.
    pub status: Status,
    /// What it wrote, bytes that are no UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Whether there was more than fits.
    pub truncated: bool,
}

/// A process in the guest, as its kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Under which label it, or an ancestor, was started.
    pub label: String,
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub ppid: i32,
    /// The program's name as the kernel has it (15 bytes).
    pub comm: String,
    /// The arguments. Empty when reading them would have hung.
    pub cmdline: Vec<String>,
    /// R running, S sleeping, D in uninterruptible sleep, Z zombie, T stopped.
    pub state: char,
    /// The kernel function it sleeps in.
    pub wchan: String,
    /// Its kernel stack, innermost first, without addresses: `nlmclnt_call`.
    pub stack: Vec<String>,
}

impl Process {
    /// Whether it sleeps in a call of this kernel function.
    pub fn is_in(&self, function: &str) -> bool {
        self.wchan == function || self.stack.iter().any(|frame| frame == function)
    }
}

/// Bytes in a JSON text: base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = String::deserialize(deserializer)?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        decoded.map(Self).map_err(serde::de::Error::custom)
    }
}

/// One line, with its end.
pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    // These types have no map with odd keys, so that this cannot fail; an
    // empty line would be passed over.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Cuts a stream of bytes into lines, and survives one without end.
#[derive(Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
    overlong: bool,
}

impl Lines {
    /// Takes bytes, gives the lines that they complete (without their end).
    /// A line longer than `limit` is dropped whole.
    pub(crate) fn push(&mut self, bytes: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let ends = piece.ends_with(b"\n");
            if self.pending.len() + piece.len() > limit {
                self.overlong = true;
                self.pending.clear();
            }
            if !self.overlong {
                self.pending.extend_from_slice(piece);
            }
            if ends {
                let mut line = std::mem::take(&mut self.pending);
                while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                    line.pop();
                }
                if !std::mem::take(&mut self.overlong) {
                    lines.push(line);
                }
            }
        }
        lines
    }

    /// What came after the last line's end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn calls_and_messages_survive_the_line() {
        let put = Request::Put {
            path: "/tmp/x".into(),
            mode: 0o644,
            offset: 7,
            data: Bytes(vec![0, 255, 10, 13]),
        };
        let line = encode(&Call {
            id: u64::MAX,
            request: put,
        });
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let back: Call = serde_json::from_slice(&line).unwrap();
        assert_eq!(back.id, u64::MAX);
        assert!(matches!(back.request, Request::Put { data, .. } if data.0 == [0, 255, 10, 13]));

        let process = Process {
            label: "w".into(),
            pid: 7,
            ppid: 1,
            comm: "flock".into(),
            cmdline: vec!["flock".into(), "-x\n".into()],
            state: 'D',
            wchan: "nlmclnt_call".into(),
            stack: vec!["nlmclnt_call".into()],
        };
        let message = Message::Reply {
            id: 3,
            answer: Answer::Processes(vec![process.clone()]),
        };
        match serde_json::from_slice(&encode(&message)).unwrap() {
            Message::Reply {
                id: 3,
                answer: Answer::Processes(all),
            } => assert_eq!(all, [process]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_without_end_is_dropped_and_the_next_one_read() {
        let mut lines = Lines::default();
        assert!(lines.push(&[b'x'; 30], 10).is_empty());
        assert!(lines.push(&[b'x'; 30], 10).is_empty());
        assert_eq!(lines.push(b"tail\nnext\r\n", 10), [b"next"]);
    }

    proptest! {
        /// However the bytes are cut, the same lines come out.
        #[test]
        fn cuts_do_not_matter(text in "[a-c\n]{0,60}", cut in 1usize..9) {
            let mut whole = Lines::default();
            let expected = whole.push(text.as_bytes(), 100);
            let mut cut_up = Lines::default();
            let got: Vec<_> = text.as_bytes().chunks(cut).flat_map(|c| cut_up.push(c, 100)).collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(cut_up.rest(), whole.rest());
        }

        /// Any bytes at all are a line that parses or one that does not; never a panic.
        #[test]
        fn junk_is_no_call(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for line in Lines::default().push(&bytes, MAX_LINE) {
                prop_assert!(serde_json::from_slice::<Call>(&line).is_err());
            }
        }
    }
}
