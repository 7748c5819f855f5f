//! Short byte strings, kept where they are: names and owner handles.
//!
//! A Linux client's owner handle is `17@hostname`. One is kept with every owner, and an owner is made
//! and dropped with every LOCK and UNLOCK of a file that is not otherwise locked, so it must cost
//! neither an allocation nor the allocator's overhead.

use std::fmt;

/// Longest string that is kept in place.
const INLINE: usize = 22;

/// An owned byte string of at most 4 GiB; up to 22 bytes lie in place.
#[derive(Clone)]
pub struct ShortBytes(Form);

#[derive(Clone)]
enum Form {
    Inline { len: u8, bytes: [u8; INLINE] },
    Boxed(Box<[u8]>),
}

impl ShortBytes {
    /// The empty string.
    pub const EMPTY: ShortBytes = ShortBytes(Form::Inline {
        len: 0,
        bytes: [0; INLINE],
    });

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Form::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Form::Boxed(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for ShortBytes {
    fn from(from: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..from.len()) {
            Some(slot) => {
                slot.copy_from_slice(from);
                ShortBytes(Form::Inline {
                    len: from.len() as u8,
                    bytes,
                })
            }
            None => ShortBytes(Form::Boxed(from.into())),
        }
    }
}

impl std::ops::Deref for ShortBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for ShortBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for ShortBytes {}

impl PartialOrd for ShortBytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShortBytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl fmt::Display for ShortBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_slice().escape_ascii())
    }
}

impl fmt::Debug for ShortBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back_as_it_went_in() {
        for len in 0..100_u8 {
            let bytes: Vec<u8> = (0..len).collect();
            assert_eq!(ShortBytes::from(&bytes[..]).as_slice(), &bytes[..]);
        }
        assert_eq!(size_of::<ShortBytes>(), 24);
    }
}
