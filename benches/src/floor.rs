//! The responder that does nothing: the fastest that a server of this shape can be.
//!
//! It takes whole records out of a buffer, and for each appends a reply that it was given beforehand, with the call's
//! xid; one system call reads, one writes. It decodes no credential, looks nothing up, and keeps nothing. Its replies
//! are as long as the server's own, since they were the server's.

use anyhow::{Context, Result};
use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A procedure and its reply, without the record mark and the xid.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Its number.
    pub procedure: u32,
    /// Everything behind the xid.
    pub reply: Vec<u8>,
}

/// A procedure's reply, ready to be sent.
struct Prepared {
    procedure: u32,
    copies: Vec<Vec<u8>>,
}

impl Prepared {
    fn copy(&self, n: usize) -> &[u8] {
        self.copies.get(n % self.copies.len()).map_or(&[], Vec::as_slice)
    }
}

/// Where the procedure stands in a call.
const PROCEDURE_AT: usize = 20;
/// A reply shorter than this is copied into the buffer; a longer one goes out from where it lies.
const COPIED: usize = 4096;
/// Most pieces in one system call.
const PIECES: usize = 64;
/// A long reply has so many copies, one after the other: a server that sends another part of a file each time does not
/// find it in the processor's cache either.
const COPIES: usize = 16;
/// What is asked for in one read.
const CHUNK: usize = 256 << 10;

/// Serves until it is killed. Says its port on standard output.
pub async fn serve(answers: &Path) -> Result<()> {
    let answers: Vec<Answer> = serde_json::from_slice(&std::fs::read(answers)?)?;
    let prepare = |answer: Answer| {
        let copies = if answer.reply.len() <= COPIED { 1 } else { COPIES };
        Prepared {
            procedure: answer.procedure,
            copies: vec![answer.reply; copies],
        }
    };
    let answers: Arc<Vec<Prepared>> = Arc::new(answers.into_iter().map(prepare).collect());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(converse(stream, answers.clone()));
    }
}

/// What is to be sent: the copied bytes, and which long replies stand where between them.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    /// Position in `bytes`, and which answer follows there, in which copy.
    long: Vec<(usize, usize, usize)>,
    /// How many long ones there have been.
    sent: usize,
}

impl Out {
    async fn send(&mut self, stream: &mut TcpStream, answers: &[Prepared]) -> Result<()> {
        let mut pieces = Vec::with_capacity(2 * self.long.len() + 1);
        let mut from = 0;
        for (at, which, copy) in &self.long {
            pieces.push(self.bytes.get(from..*at).unwrap_or_default());
            pieces.push(answers.get(*which).map_or(&[][..], |answer| answer.copy(*copy)));
            from = *at;
        }
        pieces.push(self.bytes.get(from..).unwrap_or_default());
        let mut slices: Vec<IoSlice<'_>> = pieces.into_iter().map(IoSlice::new).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let (now, _) = rest.split_at(rest.len().min(PIECES));
            let sent = stream.write_vectored(now).await?;
            anyhow::ensure!(sent > 0, "the peer is gone");
            IoSlice::advance_slices(&mut rest, sent);
        }
        self.bytes.clear();
        self.long.clear();
        Ok(())
    }
}

async fn converse(mut stream: TcpStream, answers: Arc<Vec<Prepared>>) -> Result<()> {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let mut out = Out::default();
    loop {
        while let Some(mark) = buffer.first_chunk::<4>() {
            let len = (u32::from_be_bytes(*mark) & 0x7fff_ffff) as usize;
            if buffer.len() < 4 + len {
                buffer.reserve(4 + len - buffer.len());
                break;
            }
            let call = buffer.get(4..4 + len).unwrap_or_default();
            let word = |at: usize| {
                call.get(at..at + 4)
                    .and_then(|w| w.try_into().ok())
                    .map(u32::from_be_bytes)
            };
            let procedure = word(PROCEDURE_AT).context("a call without a procedure")?;
            let which = answers
                .iter()
                .position(|a| a.procedure == procedure)
                .context("an unknown procedure")?;
            let reply = answers.get(which).map_or(&[][..], |answer| answer.copy(out.sent));
            out.bytes
                .extend_from_slice(&(0x8000_0000 | (4 + reply.len()) as u32).to_be_bytes());
            out.bytes.extend_from_slice(call.get(..4).unwrap_or_default());
            if reply.len() <= COPIED {
                out.bytes.extend_from_slice(reply);
            } else {
                out.long.push((out.bytes.len(), which, out.sent));
                out.sent += 1;
            }
            buffer.advance(4 + len);
        }
        if !out.bytes.is_empty() {
            out.send(&mut stream, &answers).await?;
        }
        if buffer.capacity() == buffer.len() {
            buffer.reserve(CHUNK);
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}
