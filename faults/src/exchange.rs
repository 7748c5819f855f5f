//! A call, as far as a decision may depend on it.
//!
//! [`Exchange`] is what every call has and what costs nothing to know. The rest ([`Look`]) is asked for only if a rule
//! depends on it: reading NLM's arguments takes as long as answering, and a path has to be put together.

use crate::Service;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Which way a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Direction {
    /// A client calls us.
    #[default]
    Call,
    /// We call a client: GRANTED, SM_NOTIFY, or the question to its port mapper before them.
    Callback,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Call => "call",
            Direction::Callback => "callback",
        })
    }
}

impl FromStr for Direction {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "call" => Ok(Direction::Call),
            "callback" => Ok(Direction::Callback),
            _ => Err(format!("no direction '{text}': expected call or callback")),
        }
    }
}

/// How a call travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}

impl FromStr for Transport {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tcp" => Ok(Transport::Tcp),
            "udp" => Ok(Transport::Udp),
            _ => Err(format!("no transport '{text}': expected tcp or udp")),
        }
    }
}

/// What every call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Which way.
    pub direction: Direction,
    /// Which of our services is concerned.
    pub service: Service,
    /// The other side.
    pub peer: SocketAddr,
    /// How it travels.
    pub transport: Transport,
    /// Program number.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Its procedure.
    pub procedure: u32,
    /// The call's number at the other side; 0 for what we call.
    pub xid: u32,
    /// The user, by AUTH_SYS.
    pub uid: Option<u32>,
}

/// What a lock call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LockFacts<'a> {
    /// The client's name for itself.
    pub caller: &'a [u8],
    /// The owner's number at the client; SHARE has none.
    pub svid: Option<i32>,
    /// Alone or with others, if the call says so (UNLOCK does not).
    pub exclusive: Option<bool>,
    /// Whether it would wait, if the call says so.
    pub block: Option<bool>,
    /// Whether it takes again what it had before a restart, if the call says so.
    pub reclaim: Option<bool>,
}

/// A call that can be looked at as closely as a rule wants.
pub trait Look {
    /// What every call has.
    fn exchange(&self) -> Exchange;
    /// To which service it goes.
    fn service(&self) -> Service {
        self.exchange().service
    }
    /// The name by which its client is known: of the lock call, or of AUTH_SYS, or else its address.
    fn client(&self) -> String;
    /// What it says as a lock call; none if it is not one.
    fn lock(&self) -> Option<LockFacts<'_>>;
    /// The file handle that it is about.
    fn handle(&self) -> Option<&[u8]>;
    /// The path that it is about: the file's, or that of the name in the directory.
    fn path(&self) -> Option<&str>;
    /// The first byte and the number of bytes that it is about; 0 is to the end of the largest file.
    fn bytes(&self) -> Option<(u64, u64)>;
}

/// A call that is kept, with everything that could be seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What every call has.
    pub exchange: Exchange,
    /// [`Look::client`].
    pub client: String,
    /// [`LockFacts::caller`], if it is a lock call.
    pub caller: Option<Vec<u8>>,
    /// [`LockFacts`] without the caller.
    pub lock: Option<LockFacts<'static>>,
    /// [`Look::handle`].
    pub handle: Option<Vec<u8>>,
    /// [`Look::path`].
    pub path: Option<String>,
    /// [`Look::bytes`].
    pub bytes: Option<(u64, u64)>,
}

impl Facts {
    /// Everything there is to see of a call.
    pub fn of(call: &dyn Look) -> Facts {
        let lock = call.lock();
        Facts {
            exchange: call.exchange(),
            client: call.client(),
            caller: lock.map(|lock| lock.caller.to_vec()),
            lock: lock.map(|lock| LockFacts { caller: b"", ..lock }),
            handle: call.handle().map(<[u8]>::to_vec),
            path: call.path().map(str::to_owned),
            bytes: call.bytes(),
        }
    }
}

impl Look for Facts {
    fn exchange(&self) -> Exchange {
        self.exchange
    }
    fn client(&self) -> String {
        self.client.clone()
    }
    fn lock(&self) -> Option<LockFacts<'_>> {
        let lock = self.lock?;
        Some(LockFacts {
            caller: self.caller.as_deref().unwrap_or_default(),
            ..lock
        })
    }
    fn handle(&self) -> Option<&[u8]> {
        self.handle.as_deref()
    }
    fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }
    fn bytes(&self) -> Option<(u64, u64)> {
        self.bytes
    }
}

/// The lock table, as far as a decision may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Table {
    /// Locks that are held.
    pub held: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// Whether the grace period lasts.
    pub grace: bool,
}
