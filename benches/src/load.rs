//! The load: connections that keep a number of calls in flight, and send the next as soon as a reply has come.

use crate::floor::Answer;
use crate::work::{Plan, Work};
use anyhow::{Context, Result, bail, ensure};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// A call that is sent again and again.
#[derive(Debug, Clone)]
pub struct Call {
    /// The whole record, mark included; the xid stands at [`XID_AT`].
    pub record: Vec<u8>,
    /// Where in the reply, counted from the xid, the word stands that must be 0.
    pub status_at: usize,
    /// Where in the record eight digits stand that are another number each time.
    pub counter_at: Option<usize>,
}

const XID_AT: usize = 4;
/// Where the procedure stands in a record.
const PROCEDURE_AT: usize = 24;
/// So much of a reply is looked at.
const LOOKED_AT: usize = 64;
/// Most that is read at once.
const CHUNK: usize = 512 << 10;
/// Before the measurement begins: some hundred times as long as a call takes from end to end.
const WARM_UP: Duration = Duration::from_millis(10);
/// So many calls of a second are put into words, those on files excepted (`CALLS_A_SECOND` of `nfslab::events`): of
/// one that lasts, and so of the rounds that are to stand for it, they are few.
const IN_WORDS: u64 = 2_000;
/// A slot's number is in the lowest bits of its xids.
const SLOT_BITS: u32 = 16;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = record.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Where the load gets its numbers from, and puts what it has counted.
#[derive(Default)]
struct Shared {
    replies: Cell<u64>,
    calls: Cell<u32>,
    stop: Cell<bool>,
}

impl Shared {
    /// Writes a call with a new xid for this slot.
    fn write(&self, call: &Call, slot: usize, out: &mut Vec<u8>) {
        let n = self.calls.get().wrapping_add(1);
        self.calls.set(n);
        let start = out.len();
        out.extend_from_slice(&call.record);
        let record = out.get_mut(start..).unwrap_or_default();
        let xid = (n << SLOT_BITS) | slot as u32;
        put(record, XID_AT, &xid.to_be_bytes());
        if let Some(at) = call.counter_at {
            put(record, at, format!("{n:08x}").as_bytes());
        }
    }
}

/// Replies as they come in; what is behind the first bytes of a long one is passed over.
struct Replies {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    skip: usize,
}

impl Replies {
    fn new() -> Replies {
        Replies {
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            skip: 0,
        }
    }

    /// Reads once.
    async fn read(&mut self, stream: &mut TcpStream) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let n = stream
            .read(self.buffer.get_mut(self.end..).unwrap_or_default())
            .await?;
        ensure!(n > 0, "the server closed the connection");
        self.end += n;
        Ok(())
    }

    /// The beginning of the next reply, from its xid on.
    fn next(&mut self) -> Option<&[u8]> {
        let skipped = self.skip.min(self.end - self.start);
        self.start += skipped;
        self.skip -= skipped;
        let there = self.buffer.get(self.start..self.end)?;
        let len = (word(there, 0)? & 0x7fff_ffff) as usize;
        let looked_at = len.min(LOOKED_AT);
        if self.skip > 0 || there.len() < 4 + looked_at {
            return None;
        }
        let from = self.start + 4;
        self.start = from + looked_at;
        self.skip = len - looked_at;
        self.buffer.get(from..from + looked_at)
    }
}

/// Fails unless the reply says that all went well.
fn check(call: &Call, reply: &[u8]) -> Result<()> {
    match (word(reply, 8), word(reply, 20), word(reply, call.status_at)) {
        (Some(0), Some(0), Some(0)) => Ok(()),
        other => bail!("an answer with MSG_ACCEPTED, SUCCESS, status = {other:?}"),
    }
}

/// A workload, ready to be run.
pub struct Load {
    depth: usize,
    /// Replies that come before the measurement begins.
    uncounted: u64,
    /// What each slot does in turn: connections × depth of them.
    slots: Rc<Vec<Vec<Call>>>,
}

impl Load {
    pub fn new(work: &Work, plan: Plan) -> Load {
        Load {
            depth: work.depth,
            uncounted: if work.service == "nfs" { 0 } else { IN_WORDS },
            slots: Rc::new(plan),
        }
    }

    /// The server's own answers to the calls of the first slot.
    pub async fn answers(&self, server: SocketAddr) -> Result<Vec<Answer>> {
        let mut stream = TcpStream::connect(server).await?;
        let shared = Shared::default();
        let mut answers = Vec::new();
        for call in self.slots.first().context("a plan without calls")? {
            let mut record = Vec::new();
            shared.write(call, 0, &mut record);
            stream.write_all(&record).await?;
            let len = stream.read_u32().await? & 0x7fff_ffff;
            let mut reply = vec![0; len as usize];
            stream.read_exact(&mut reply).await?;
            check(call, &reply)?;
            answers.push(Answer {
                procedure: word(&record, PROCEDURE_AT).context("a call without a procedure")?,
                reply: reply.split_off(4),
            });
        }
        Ok(answers)
    }

    /// Replies a second.
    pub async fn run(&self, server: SocketAddr, seconds: Duration) -> Result<f64> {
        let local = LocalSet::new();
        let shared = Rc::new(Shared::default());
        let mut tasks = Vec::new();
        for first in (0..self.slots.len()).step_by(self.depth) {
            let stream = TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            let (slots, shared, depth) = (self.slots.clone(), shared.clone(), self.depth);
            tasks.push(local.spawn_local(converse(stream, slots, first..first + depth, shared)));
        }
        let rate = local
            .run_until(async {
                tokio::time::sleep(WARM_UP).await;
                while shared.replies.get() < self.uncounted {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let (begun, before) = (Instant::now(), shared.replies.get());
                tokio::time::sleep(seconds).await;
                let rate = (shared.replies.get() - before) as f64 / begun.elapsed().as_secs_f64();
                shared.stop.set(true);
                rate
            })
            .await;
        local
            .run_until(async {
                for task in tasks {
                    task.await??;
                }
                Ok(rate)
            })
            .await
    }
}

async fn converse(
    mut stream: TcpStream,
    slots: Rc<Vec<Vec<Call>>>,
    mine: std::ops::Range<usize>,
    shared: Rc<Shared>,
) -> Result<()> {
    let mut out = Vec::new();
    let mut replies = Replies::new();
    // Which of its calls each slot has in flight.
    let mut at = vec![0; mine.len()];
    let mut in_flight = 0;
    for slot in mine.clone() {
        if let Some(call) = slots.get(slot).and_then(|calls| calls.first()) {
            shared.write(call, slot, &mut out);
            in_flight += 1;
        }
    }
    stream.write_all(&out).await?;
    while in_flight > 0 {
        out.clear();
        replies.read(&mut stream).await?;
        let mut seen = 0;
        while let Some(reply) = replies.next() {
            let slot = word(reply, 0).map_or(usize::MAX, |xid| (xid & ((1 << SLOT_BITS) - 1)) as usize);
            let calls = slots.get(slot).context("a reply to no call")?;
            let step = at
                .get_mut(slot.wrapping_sub(mine.start))
                .context("another connection's reply")?;
            check(calls.get(*step).context("no such call")?, reply)?;
            *step = (*step + 1) % calls.len();
            seen += 1;
            // A round is finished before the end, so that no lock is left.
            if *step == 0 && shared.stop.get() {
                in_flight -= 1;
            } else if let Some(call) = calls.get(*step) {
                shared.write(call, slot, &mut out);
            }
        }
        shared.replies.set(shared.replies.get() + seen);
        stream.write_all(&out).await?;
    }
    Ok(())
}

/// Makes each of these calls once, so many in flight.
pub async fn once(
    stream: &mut TcpStream,
    calls: impl IntoIterator<Item = Call>,
    in_flight: usize,
) -> Result<()> {
    let shared = Shared::default();
    let mut replies = Replies::new();
    let mut calls = calls.into_iter().peekable();
    let mut status_at = 0;
    while calls.peek().is_some() {
        let mut out = Vec::new();
        let mut sent = 0;
        for call in calls.by_ref().take(in_flight) {
            status_at = call.status_at;
            shared.write(&call, 0, &mut out);
            sent += 1;
        }
        stream.write_all(&out).await?;
        while sent > 0 {
            match replies.next() {
                Some(reply) => {
                    ensure!(
                        word(reply, status_at) == Some(0),
                        "an answer with status {:?}",
                        word(reply, status_at)
                    );
                    sent -= 1;
                }
                None => replies.read(stream).await?,
            }
        }
    }
    Ok(())
}
