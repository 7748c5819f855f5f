//! The locks of a kernel, as `/proc/locks` lists them.

#![allow(dead_code, reason = "whose a lock is can be seen for processes alone")]

use std::fmt;

/// A line of `/proc/locks`.
pub struct Row {
    /// For another lock, rather than held.
    pub waits: bool,
    pub exclusive: bool,
    /// For a lock of a client of lockd, that of lockd.
    pub pid: u32,
    pub inode: u64,
    pub start: u64,
    /// 0 is to the end.
    pub len: u64,
}

/// The locks of POSIX in it.
pub fn parse(text: &str) -> Vec<Row> {
    text.lines().filter_map(row).collect()
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.exclusive { "exclusive" } else { "shared" };
        write!(f, "{kind} {} {}", self.start, self.len)
    }
}

/// `1: -> POSIX  ADVISORY  WRITE 17001 fe:00:12001511 0 EOF`, without the arrow if it is held.
fn row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace().skip(1).peekable();
    let waits = words.next_if_eq(&"->").is_some();
    if words.next()? != "POSIX" {
        return None;
    }
    let kind = words.nth(1)?;
    let pid = words.next()?.parse().ok()?;
    let inode = words.next()?.rsplit(':').next()?.parse().ok()?;
    let (start, end) = (words.next()?.parse().ok()?, words.next()?);
    let len = match end {
        "EOF" => 0,
        end => end.parse::<u64>().ok()? + 1 - start,
    };
    let exclusive = kind == "WRITE";
    Some(Row {
        waits,
        exclusive,
        pid,
        inode,
        start,
        len,
    })
}
