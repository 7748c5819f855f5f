//! What requests are read into.

use bytes::{Bytes, BytesMut};

/// How many buffers are kept for another use. More may be lent at a time; they are freed when the last slice goes.
const KEPT: usize = 16;

/// Buffers of one size, one of which is the current one. A buffer that was lent is used again when all slices of it
/// are gone: a fresh megabyte costs 257 page faults, more than copying what comes into it.
pub(super) struct Buffers {
    /// In bytes.
    size: usize,
    current: BytesMut,
    lent: Vec<BytesMut>,
}

impl Buffers {
    pub(super) fn new(size: usize) -> Buffers {
        Buffers {
            size,
            current: BytesMut::with_capacity(size),
            lent: Vec::new(),
        }
    }

    /// The current buffer, empty, with room for `size` bytes at least.
    pub(super) fn empty(&mut self) -> &mut BytesMut {
        self.current.clear();
        if !self.current.try_reclaim(self.size) {
            let size = self.size;
            let free = self.lent.iter_mut().position(|buffer| buffer.try_reclaim(size));
            let next = match free {
                Some(at) => self.lent.swap_remove(at),
                None => BytesMut::with_capacity(size),
            };
            let used = std::mem::replace(&mut self.current, next);
            if self.lent.len() < KEPT {
                self.lent.push(used);
            }
        }
        &mut self.current
    }

    /// What was read into the current buffer.
    pub(super) fn filled(&mut self) -> &mut [u8] {
        &mut self.current
    }

    /// The same, to be kept as long as one likes, without a copy.
    pub(super) fn lend(&mut self) -> Bytes {
        self.current.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lent_buffer_is_used_again_when_its_last_slice_is_gone() {
        let mut buffers = Buffers::new(1 << 16);
        buffers.empty().extend_from_slice(&[1; 50_000]);
        let first = buffers.lend();
        let at = first.as_ptr();
        let slice = first.slice(100..200);
        drop(first);
        buffers.empty().extend_from_slice(&[2; 50_000]);
        let second = buffers.lend();
        assert_ne!(second.as_ptr(), at, "still lent");
        assert_eq!(slice, [1; 100][..]);
        drop(slice);
        buffers.empty().extend_from_slice(&[3; 10]);
        assert_eq!(buffers.filled().as_ptr(), at);
        assert!(buffers.empty().capacity() >= 1 << 16);
    }
}
