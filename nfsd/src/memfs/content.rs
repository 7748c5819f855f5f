//! The bytes of a file: chunks of 64 KiB at most, and nothing where there is a hole.
//!
//! A chunk may be shorter than 64 KiB; what is missing at its end reads as zeros, as does a missing chunk. So a
//! small file costs what it holds, and a file of 2^63-1 bytes without data costs nothing.
//!
//! Chunks are [`Bytes`], so READ hands them out as they lie. A WRITE changes a chunk in place if no reply holds
//! it at that moment and copies it if one does. A WRITE that covers whole chunks puts the received bytes
//! themselves into the file. As long as one such chunk is left, so is the whole buffer that it came in: memory can
//! exceed what is counted by that buffer's size per chunk, if all but one chunk of each WRITE is written again.
//!
//! **Counting**: a chunk counts as its length rounded up to [`BLOCK`].

use crate::vfs::Pieces;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Bytes per chunk.
const CHUNK: usize = 64 << 10;
const CHUNK_U64: u64 = CHUNK as u64;
/// Unit of space accounting.
const BLOCK: usize = 4096;

static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// A file's data, without its size: the inode has that, and asks for nothing beyond it.
#[derive(Debug, Default)]
pub(super) struct Content {
    chunks: BTreeMap<u64, Bytes>,
}

/// The part of a range that lies in one chunk.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Which chunk.
    index: u64,
    /// First byte within it.
    start: usize,
    /// Number of bytes.
    len: usize,
}

/// Cuts `len` bytes at `offset` at the chunks' borders. The end does not exceed 2^63.
fn spans(mut offset: u64, mut len: usize) -> impl Iterator<Item = Span> {
    std::iter::from_fn(move || {
        if len == 0 {
            return None;
        }
        let start = (offset % CHUNK_U64) as usize;
        let span = Span {
            index: offset / CHUNK_U64,
            start,
            len: len.min(CHUNK - start),
        };
        offset += span.len as u64;
        len -= span.len;
        Some(span)
    })
}

fn counted(chunk_len: usize) -> u64 {
    chunk_len.next_multiple_of(BLOCK) as u64
}

fn push_zeros(out: &mut Pieces, len: usize) {
    if let Some(zeros) = ZEROS.get(..len).filter(|z| !z.is_empty()) {
        out.push(Bytes::from_static(zeros));
    }
}

impl Content {
    /// Appends `len` bytes at `offset` to `out`.
    pub(super) fn read(&self, offset: u64, len: usize, out: &mut Pieces) {
        for span in spans(offset, len) {
            let held = match self.chunks.get(&span.index) {
                Some(chunk) => {
                    let from = span.start.min(chunk.len());
                    let to = (span.start + span.len).min(chunk.len());
                    if from < to {
                        out.push(chunk.slice(from..to));
                    }
                    to - from
                }
                None => 0,
            };
            push_zeros(out, span.len - held);
        }
    }

    /// Bytes by which the count grows if `len` bytes are written at `offset`.
    pub(super) fn growth(&self, offset: u64, len: usize) -> u64 {
        spans(offset, len)
            .map(|span| {
                let old = self.chunks.get(&span.index).map_or(0, Bytes::len);
                counted(old.max(span.start + span.len)) - counted(old)
            })
            .sum()
    }

    /// Writes `data` at `offset`.
    pub(super) fn write(&mut self, offset: u64, data: &Bytes) {
        let mut done = 0;
        for span in spans(offset, data.len()) {
            let part = done..done + span.len;
            done += span.len;
            let chunk = self.chunks.entry(span.index).or_default();
            if span.len == CHUNK {
                *chunk = data.slice(part);
            } else if let Some(part) = data.get(part) {
                overwrite(chunk, span.start, part);
            }
        }
    }

    /// Drops everything from `size` on and returns by how much the count shrinks. The dropped chunks are
    /// returned too, to be freed without a lock.
    pub(super) fn truncate(&mut self, size: u64) -> (u64, Dropped) {
        let (index, keep) = (size / CHUNK_U64, (size % CHUNK_U64) as usize);
        let mut dropped = self.chunks.split_off(&index);
        if keep > 0
            && let Some(mut chunk) = dropped.remove(&index)
        {
            let old = counted(chunk.len());
            chunk.truncate(keep);
            let freed = old - counted(chunk.len());
            self.chunks.insert(index, chunk);
            let rest: u64 = dropped.values().map(|c| counted(c.len())).sum();
            return (freed + rest, Dropped(dropped));
        }
        let freed = dropped.values().map(|c| counted(c.len())).sum();
        (freed, Dropped(dropped))
    }
}

/// Chunks that belong to no file any more; dropping this frees them.
#[derive(Debug, Default)]
#[must_use = "keep it until the lock is released"]
pub(super) struct Dropped(#[expect(dead_code, reason = "held to be dropped")] BTreeMap<u64, Bytes>);

/// Puts `part` into `chunk` at `start`, in place if nobody else holds the chunk.
fn overwrite(chunk: &mut Bytes, start: usize, part: &[u8]) {
    let end = start + part.len();
    if start == 0 && end >= chunk.len() && !chunk.is_unique() {
        *chunk = Bytes::copy_from_slice(part);
        return;
    }
    let mut buf = match std::mem::take(chunk).try_into_mut() {
        Ok(buf) => buf,
        Err(shared) => {
            let mut copy = BytesMut::with_capacity(shared.len().max(end));
            copy.extend_from_slice(&shared);
            copy
        }
    };
    if start >= buf.len() {
        // Appending, or beyond the end: the gap is zeros.
        buf.resize(start, 0);
        buf.extend_from_slice(part);
    } else {
        if end > buf.len() {
            buf.resize(end, 0);
        }
        if let Some(slot) = buf.get_mut(start..end) {
            slot.copy_from_slice(part);
        }
    }
    *chunk = buf.freeze();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Write { offset: usize, len: usize, byte: u8 },
        Truncate(usize),
        Read { offset: usize, len: usize },
    }

    fn op() -> impl Strategy<Value = Op> {
        let place = prop_oneof![
            0..4 * CHUNK,
            (0..5usize, 0..9usize).prop_map(|(n, d)| (n * CHUNK + d).saturating_sub(4)),
        ];
        let len = prop_oneof![0..64usize, 0..3 * CHUNK, Just(CHUNK), Just(2 * CHUNK)];
        prop_oneof![
            3 => (place.clone(), len.clone(), 1..=255u8)
                .prop_map(|(offset, len, byte)| Op::Write { offset, len, byte }),
            1 => place.clone().prop_map(Op::Truncate),
            2 => (place, len).prop_map(|(offset, len)| Op::Read { offset, len }),
        ]
    }

    fn read(content: &Content, offset: usize, len: usize) -> (Vec<u8>, Pieces) {
        let mut pieces = Pieces::new();
        content.read(offset as u64, len, &mut pieces);
        (pieces.concat(), pieces)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The naive model: one vector. Replies that are still held must not change under later writes.
        #[test]
        fn like_a_vector(ops in prop::collection::vec(op(), 1..24)) {
            let (mut content, mut model, mut used) = (Content::default(), Vec::new(), 0);
            let mut held: Vec<(Vec<u8>, Pieces)> = Vec::new();
            for op in ops {
                match op {
                    Op::Write { offset, len, byte } => {
                        let data = Bytes::from(vec![byte; len]);
                        used += content.growth(offset as u64, len);
                        content.write(offset as u64, &data);
                        if model.len() < offset + len {
                            model.resize(offset + len, 0);
                        }
                        model[offset..offset + len].fill(byte);
                    }
                    Op::Truncate(size) => {
                        let (freed, dropped) = content.truncate(size as u64);
                        drop(dropped);
                        used -= freed;
                        model.resize(size, 0);
                    }
                    Op::Read { offset, len } => {
                        let end = (offset + len).min(model.len());
                        let start = offset.min(end);
                        let (flat, pieces) = read(&content, start, end - start);
                        prop_assert!(flat == model[start..end], "READ at {start} of {}", end - start);
                        held.push((flat, pieces));
                    }
                }
                let counted_now: u64 = content.chunks.values().map(|c| counted(c.len())).sum();
                prop_assert_eq!(used, counted_now);
            }
            prop_assert!(read(&content, 0, model.len()).0 == model);
            for (flat, pieces) in held {
                prop_assert!(flat == pieces.concat());
            }
        }
    }

    #[test]
    fn a_hole_costs_nothing_at_any_offset() {
        let mut content = Content::default();
        let end = crate::vfs::FILE_SIZE_MAX;
        content.write(end - 1, &Bytes::from_static(b"z"));
        assert_eq!(content.growth(end - 1, 1), 0);
        assert_eq!(content.chunks.len(), 1);
        let mut pieces = Pieces::new();
        content.read(end - 3, 3, &mut pieces);
        assert_eq!(pieces.concat(), b"\0\0z");
        let (freed, _dropped) = content.truncate(end - 1);
        assert_eq!(freed, 0);
        let (freed, _dropped) = content.truncate(0);
        assert_eq!(freed, CHUNK_U64);
    }

    #[test]
    fn whole_chunks_are_kept_and_not_copied() {
        let data = Bytes::from(vec![5; 3 * CHUNK]);
        let mut content = Content::default();
        content.write(CHUNK_U64 / 2, &data);
        let mut pieces = Pieces::new();
        content.read(CHUNK_U64, CHUNK, &mut pieces);
        assert_eq!(pieces[0].as_ptr(), data[CHUNK / 2..].as_ptr());
    }

    #[test]
    fn appending_byte_by_byte_does_not_copy_each_time() {
        let mut content = Content::default();
        let mut moves = 0;
        let mut last = std::ptr::null();
        for i in 0..CHUNK_U64 {
            content.write(i, &Bytes::from_static(b"a"));
            let now = content.chunks[&0].as_ptr();
            moves += usize::from(now != last);
            last = now;
        }
        assert!(moves < 40, "the chunk moved {moves} times");
    }
}
