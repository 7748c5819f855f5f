//! External Data Representation (RFC 4506), the way bytes lie on the wire.
//!
//! Three rules hold everywhere in this module, because the peer may be hostile:
//!
//! - **Nothing is allocated on a stranger's word.** [`Reader`] borrows from the received record; a
//!   length is compared with what is really there before anything else happens.
//! - **Enums keep their raw value.** [`xdr_enum!`](crate::xdr_enum) makes a newtype over `u32` with
//!   the names of the RFC as constants, so an illegal value can be received, shown, and sent on purpose.
//! - **Bulk data is not copied.** [`Writer::splice`] puts a [`Bytes`] between the encoded fields; the
//!   whole goes out in one vectored write.
//!
//! Read next: [`crate::msg`] for the RPC header that wraps every message.

use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

/// Why bytes are not the XDR they should be: what was being read, where, and what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError {
    /// The type or field being read, for the message.
    pub what: &'static str,
    /// Offset in bytes from the start of what the [`Reader`] was given.
    pub offset: usize,
    /// What is wrong there.
    pub kind: DecodeErrorKind,
}

/// The ways in which bytes fail to be XDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeErrorKind {
    /// The message ends too early.
    Truncated {
        /// Bytes the item needs.
        need: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// A variable-length item is longer than its declared maximum.
    TooLong {
        /// The length on the wire.
        len: usize,
        /// The limit of the protocol's definition, or ours where it has none.
        limit: usize,
    },
    /// A boolean or optional marker that is neither 0 nor 1.
    NotBool(u32),
    /// A union's discriminant for which the definition has no arm.
    NoArm(u32),
    /// Bytes are left after the last field.
    Trailing(usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: ", self.what, self.offset)?;
        match self.kind {
            DecodeErrorKind::Truncated { need, have } => write!(f, "needs {need} bytes, {have} are left"),
            DecodeErrorKind::TooLong { len, limit } => write!(f, "is {len} long, the limit is {limit}"),
            DecodeErrorKind::NotBool(v) => write!(f, "boolean is {v}, expected 0 or 1"),
            DecodeErrorKind::NoArm(v) => write!(f, "no arm for discriminant {v}"),
            DecodeErrorKind::Trailing(n) => write!(f, "{n} bytes are left over"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Result of decoding.
pub type Result<T> = std::result::Result<T, DecodeError>;

/// Reads XDR from a borrowed buffer, front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            total: bytes.len(),
        }
    }

    /// Bytes consumed so far.
    pub fn offset(&self) -> usize {
        self.total - self.rest.len()
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The message ends before `need` more bytes have come.
    #[cold]
    fn truncated(&self, what: &'static str, need: usize) -> DecodeError {
        let have = self.rest.len();
        self.error(what, DecodeErrorKind::Truncated { need, have })
    }

    /// An error of `kind` at the present place.
    #[cold]
    pub fn error(&self, what: &'static str, kind: DecodeErrorKind) -> DecodeError {
        DecodeError {
            what,
            offset: self.offset(),
            kind,
        }
    }

    /// The next `n` bytes, without padding.
    #[inline]
    pub fn take(&mut self, what: &'static str, n: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(self.truncated(what, n)),
        }
    }

    /// `unsigned int` (RFC 4506, 4.2).
    #[inline]
    pub fn u32(&mut self, what: &'static str) -> Result<u32> {
        match self.rest.split_first_chunk::<4>() {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(u32::from_be_bytes(*head))
            }
            None => Err(self.truncated(what, 4)),
        }
    }

    /// Several of them; `None` if there are not so many, and nothing is read then.
    #[inline]
    pub fn u32s<const N: usize>(&mut self) -> Option<[u32; N]> {
        let (head, rest) = self.rest.split_at_checked(4 * N)?;
        let words = head.as_chunks().0.first_chunk()?;
        self.rest = rest;
        Some(words.map(u32::from_be_bytes))
    }

    /// `unsigned hyper` (RFC 4506, 4.5).
    #[inline]
    pub fn u64(&mut self, what: &'static str) -> Result<u64> {
        match self.rest.split_first_chunk::<8>() {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(u64::from_be_bytes(*head))
            }
            None => Err(self.truncated(what, 8)),
        }
    }

    /// `bool` (RFC 4506, 4.4): 0 or 1, anything else is an error.
    #[inline]
    pub fn bool(&mut self, what: &'static str) -> Result<bool> {
        let before = self.clone();
        match self.u32(what)? {
            0 => Ok(false),
            1 => Ok(true),
            v => Err(before.error(what, DecodeErrorKind::NotBool(v))),
        }
    }

    /// Fixed-length opaque data of `n` bytes (RFC 4506, 4.9) with its padding. The padding's value is
    /// not checked: RFC 4506 asks senders for zeros, and no receiver refuses others.
    #[inline]
    pub fn fixed(&mut self, what: &'static str, n: usize) -> Result<&'a [u8]> {
        match n.checked_add(pad(n)).and_then(|n| self.rest.split_at_checked(n)) {
            Some((padded, tail)) => {
                self.rest = tail;
                Ok(padded.get(..n).unwrap_or_default())
            }
            None => self.fixed_cut_off(what, n),
        }
    }

    /// One of which the data or the padding is missing: whichever it is, is named.
    #[cold]
    fn fixed_cut_off(&mut self, what: &'static str, n: usize) -> Result<&'a [u8]> {
        let data = self.take(what, n)?;
        self.take(what, pad(n))?;
        Ok(data)
    }

    /// Variable-length opaque data or a string (RFC 4506, 4.10 and 4.11) of at most `limit` bytes.
    #[inline]
    pub fn opaque(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8]> {
        let before = self.clone();
        let len = self.u32(what)? as usize;
        if len > limit {
            return Err(before.error(what, DecodeErrorKind::TooLong { len, limit }));
        }
        self.fixed(what, len)
    }

    /// Ends the reading: an error if anything is left.
    pub fn finish(self, what: &'static str) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(self.error(what, DecodeErrorKind::Trailing(n))),
        }
    }
}

/// Zero bytes that follow `n` bytes of opaque data so that the next item is aligned to four.
pub const fn pad(n: usize) -> usize {
    n.wrapping_neg() & 3
}

/// A type that can be read from XDR. It borrows what it can from the record.
pub trait Decode<'a>: Sized {
    /// Reads one value.
    fn decode(r: &mut Reader<'a>) -> Result<Self>;
}

/// A type that can be written as XDR.
pub trait Encode {
    /// Appends this value.
    fn encode(&self, w: &mut Writer);
}

/// Decodes a whole buffer: an error if bytes are left over.
pub fn from_bytes<'a, T: Decode<'a>>(bytes: &'a [u8]) -> Result<T> {
    let mut r = Reader::new(bytes);
    let value = T::decode(&mut r)?;
    r.finish(std::any::type_name::<T>())?;
    Ok(value)
}

/// Encodes one value on its own.
pub fn to_bytes<T: Encode + ?Sized>(value: &T) -> Bytes {
    let mut w = Writer::new();
    value.encode(&mut w);
    w.into_bytes()
}

/// Collects encoded fields, and between them [`Bytes`] that are sent as they lie.
///
/// One `Writer` gathers the replies to everything that one read from a socket brought.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    /// Everything that was encoded, without the spliced data.
    inline: BytesMut,
    /// Data that belongs before `inline[at]`.
    spliced: Vec<Splice>,
    spliced_len: usize,
}

#[derive(Debug, Clone)]
struct Splice {
    at: usize,
    data: Bytes,
}

/// A place in a [`Writer`] to come back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    inline: usize,
    spliced: usize,
    spliced_len: usize,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes written so far, spliced data included.
    pub fn len(&self) -> usize {
        self.inline.len() + self.spliced_len
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends an `unsigned int`.
    pub fn u32(&mut self, v: u32) {
        self.inline.put_u32(v);
    }

    /// Appends several of them.
    pub fn u32s<const N: usize>(&mut self, values: [u32; N]) {
        self.inline.put_slice(values.map(u32::to_be_bytes).as_flattened());
    }

    /// Appends an `unsigned hyper`.
    pub fn u64(&mut self, v: u64) {
        self.inline.put_u64(v);
    }

    /// Appends a `bool`.
    pub fn bool(&mut self, v: bool) {
        self.inline.put_u32(u32::from(v));
    }

    /// Appends bytes as they are, without length or padding.
    pub fn raw(&mut self, data: &[u8]) {
        self.inline.put_slice(data);
    }

    /// Appends fixed-length opaque data with its padding.
    pub fn fixed(&mut self, data: &[u8]) {
        self.inline.put_slice(data);
        if pad(data.len()) > 0 {
            self.inline.put_bytes(0, pad(data.len()));
        }
    }

    /// Appends variable-length opaque data or a string: length, data, padding.
    pub fn opaque(&mut self, data: &[u8]) {
        self.inline.put_u32(data.len() as u32);
        self.fixed(data);
    }

    /// Appends variable-length opaque data made of several pieces, without copying the large ones.
    pub fn opaque_parts(&mut self, parts: impl IntoIterator<Item = Bytes>) {
        let at = self.inline.len();
        self.inline.put_u32(0);
        let before = self.len();
        for part in parts {
            self.splice(part);
        }
        let len = self.len() - before;
        if let Some(slot) = self.inline.get_mut(at..at + 4) {
            slot.copy_from_slice(&(len as u32).to_be_bytes());
        }
        self.inline.put_bytes(0, pad(len));
    }

    /// Appends data that is sent from where it lies. Short pieces are copied: an entry in the
    /// vectored write costs more than they do.
    pub fn splice(&mut self, data: Bytes) {
        const WORTH_AN_IOVEC: usize = 512;
        if data.len() < WORTH_AN_IOVEC {
            self.inline.put_slice(&data);
        } else {
            self.spliced_len += data.len();
            self.spliced.push(Splice {
                at: self.inline.len(),
                data,
            });
        }
    }

    /// Where the writer stands, for [`rewind`](Self::rewind), [`split_off`](Self::split_off) and
    /// [`patch_u32`](Self::patch_u32).
    pub fn mark(&self) -> Mark {
        Mark {
            inline: self.inline.len(),
            spliced: self.spliced.len(),
            spliced_len: self.spliced_len,
        }
    }

    /// Forgets everything written since `mark`.
    pub fn rewind(&mut self, mark: Mark) {
        self.inline.truncate(mark.inline);
        self.spliced.truncate(mark.spliced);
        self.spliced_len = mark.spliced_len;
    }

    /// Bytes written since `mark`.
    pub fn since(&self, mark: Mark) -> usize {
        self.len() - mark.inline - mark.spliced_len
    }

    /// A copy of what was written since `mark`.
    pub fn bytes_since(&self, mark: Mark) -> Bytes {
        let mut copy = BytesMut::with_capacity(self.since(mark));
        let mut skip = mark.inline + mark.spliced_len;
        for piece in self.pieces() {
            copy.put_slice(piece.get(skip..).unwrap_or_default());
            skip = skip.saturating_sub(piece.len());
        }
        copy.freeze()
    }

    /// Overwrites the four bytes that were written at `mark`.
    pub fn patch_u32(&mut self, mark: Mark, v: u32) {
        if let Some(slot) = self.inline.get_mut(mark.inline..mark.inline + 4) {
            slot.copy_from_slice(&v.to_be_bytes());
        }
    }

    /// Takes away what was written since `mark`, as a writer of its own: a reply to be sent later.
    pub fn split_off(&mut self, mark: Mark) -> Writer {
        let inline = self.inline.split_off(mark.inline);
        let mut spliced = self.spliced.split_off(mark.spliced);
        for s in &mut spliced {
            s.at -= mark.inline;
        }
        let spliced_len = self.spliced_len - mark.spliced_len;
        self.spliced_len = mark.spliced_len;
        Writer {
            inline,
            spliced,
            spliced_len,
        }
    }

    /// Appends all of `other`.
    pub fn append(&mut self, other: Writer) {
        let base = self.inline.len();
        self.inline.unsplit(other.inline);
        self.spliced.extend(other.spliced.into_iter().map(|s| Splice {
            at: s.at + base,
            data: s.data,
        }));
        self.spliced_len += other.spliced_len;
    }

    /// The pieces in the order in which they go out; none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.spliced.iter().map(|s| s.at).chain([self.inline.len()]);
        let starts = [0].into_iter().chain(self.spliced.iter().map(|s| s.at));
        let data = self.spliced.iter().map(|s| &s.data[..]).chain([&[][..]]);
        starts
            .zip(ends)
            .zip(data)
            .flat_map(|((start, end), data)| [self.inline.get(start..end).unwrap_or_default(), data])
            .filter(|piece| !piece.is_empty())
    }

    /// Everything in one piece. Copies only if something was spliced.
    pub fn into_bytes(self) -> Bytes {
        if self.spliced.is_empty() {
            return self.inline.freeze();
        }
        let mut whole = BytesMut::with_capacity(self.len());
        for piece in self.pieces() {
            whole.put_slice(piece);
        }
        whole.freeze()
    }

    /// Empties the writer and keeps its memory.
    pub fn clear(&mut self) {
        self.inline.clear();
        self.spliced.clear();
        self.spliced_len = 0;
    }

    /// Bytes of memory that it holds for what is encoded, used or not.
    pub fn room(&self) -> usize {
        self.inline.capacity()
    }
}

/// Variable-length opaque data or a string of at most `MAX` bytes, borrowed from the record.
///
/// Strings are bytes here: NFS names have no encoding, and neither RFC 1813 nor XNFS promises one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Opaque<'a, const MAX: usize>(pub &'a [u8]);

/// Data whose only limit is the record that carries it.
pub const RECORD: usize = u32::MAX as usize;

impl<'a, const MAX: usize> Decode<'a> for Opaque<'a, MAX> {
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        r.opaque("opaque data", MAX).map(Opaque)
    }
}

impl<const MAX: usize> Encode for Opaque<'_, MAX> {
    fn encode(&self, w: &mut Writer) {
        w.opaque(self.0);
    }
}

impl<'a, const MAX: usize> From<&'a [u8]> for Opaque<'a, MAX> {
    fn from(bytes: &'a [u8]) -> Self {
        Opaque(bytes)
    }
}

impl<'a, const MAX: usize> From<&'a str> for Opaque<'a, MAX> {
    fn from(text: &'a str) -> Self {
        Opaque(text.as_bytes())
    }
}

impl<const MAX: usize> std::ops::Deref for Opaque<'_, MAX> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl<const MAX: usize> fmt::Debug for Opaque<'_, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl<const MAX: usize> fmt::Display for Opaque<'_, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

macro_rules! primitive {
    ($($ty:ty, $method:ident, $what:literal;)*) => {$(
        impl Decode<'_> for $ty {
            #[inline]
            fn decode(r: &mut Reader<'_>) -> Result<Self> {
                r.$method($what)
            }
        }
        impl Encode for $ty {
            fn encode(&self, w: &mut Writer) {
                w.$method(*self);
            }
        }
    )*};
}

primitive! {
    u32, u32, "unsigned int";
    u64, u64, "unsigned hyper";
    bool, bool, "bool";
}

impl Decode<'_> for i32 {
    #[inline]
    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        r.u32("int").map(|v| v as i32)
    }
}

impl Encode for i32 {
    fn encode(&self, w: &mut Writer) {
        w.u32(*self as u32);
    }
}

impl Decode<'_> for () {
    fn decode(_: &mut Reader<'_>) -> Result<Self> {
        Ok(())
    }
}

impl Encode for () {
    fn encode(&self, _: &mut Writer) {}
}

impl<const N: usize> Decode<'_> for [u8; N] {
    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        let bytes = r.fixed("fixed opaque", N)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }
}

impl<const N: usize> Encode for [u8; N] {
    fn encode(&self, w: &mut Writer) {
        w.fixed(self);
    }
}

/// Optional data (RFC 4506, 4.19): a boolean, then the value if it is true.
impl<'a, T: Decode<'a>> Decode<'a> for Option<T> {
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        Ok(if r.bool("optional data")? {
            Some(T::decode(r)?)
        } else {
            None
        })
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, w: &mut Writer) {
        w.bool(self.is_some());
        if let Some(value) = self {
            value.encode(w);
        }
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn encode(&self, w: &mut Writer) {
        (**self).encode(w);
    }
}

/// A variable-length array (RFC 4506, 4.13). Memory grows with the elements that are really there,
/// never with the length that was announced.
pub fn decode_array<'a, T: Decode<'a>>(
    r: &mut Reader<'a>,
    what: &'static str,
    limit: usize,
) -> Result<Vec<T>> {
    let before = r.clone();
    let len = r.u32(what)? as usize;
    if len > limit {
        return Err(before.error(what, DecodeErrorKind::TooLong { len, limit }));
    }
    let mut items = Vec::new();
    for _ in 0..len {
        items.push(T::decode(r)?);
    }
    Ok(items)
}

/// Writes what [`decode_array`] reads.
pub fn encode_array<T: Encode>(w: &mut Writer, items: &[T]) {
    w.u32(items.len() as u32);
    for item in items {
        item.encode(w);
    }
}

/// Declares an XDR `enum` as a newtype over `u32` that keeps values the definition does not have.
///
/// The constants bear the names of the RFC; `name` and `from_name` translate, and `Display` shows the
/// name or `Type(77)`.
#[macro_export]
macro_rules! xdr_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:expr),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl $name {
            $($(#[$vmeta])* pub const $variant: $name = $name($value);)*

            /// Every value that the definition names.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The name in the specification, if it has this value.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $($name::$variant => Some(stringify!($variant)),)*
                    _ => None,
                }
            }

            /// What is displayed; nothing is allocated for a value that has a name.
            pub fn shown(self) -> ::std::borrow::Cow<'static, str> {
                match self.name() {
                    Some(name) => name.into(),
                    None => self.to_string().into(),
                }
            }

            /// The value with this name in the specification.
            pub fn from_name(name: &str) -> Option<$name> {
                match name {
                    $(stringify!($variant) => Some($name::$variant),)*
                    _ => None,
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($name), "({})"), self.0),
                }
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(self, f)
            }
        }

        impl $crate::xdr::Decode<'_> for $name {
            #[inline]
            fn decode(r: &mut $crate::xdr::Reader<'_>) -> $crate::xdr::Result<Self> {
                r.u32(stringify!($name)).map($name)
            }
        }

        impl $crate::xdr::Encode for $name {
            fn encode(&self, w: &mut $crate::xdr::Writer) {
                w.u32(self.0);
            }
        }
    };
}

/// Declares an XDR `struct`: its fields in the order of the wire, all of them public.
#[macro_export]
macro_rules! xdr_struct {
    ($(#[$meta:meta])* pub struct $name:ident $(<$lt:lifetime>)? {
        $($(#[$fmeta:meta])* $field:ident: $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name $(<$lt>)? {
            $($(#[$fmeta])* pub $field: $ty,)*
        }

        $crate::xdr_struct!(@decode $name $(<$lt>)? { $($field),* });

        impl $(<$lt>)? $crate::xdr::Encode for $name $(<$lt>)? {
            fn encode(&self, w: &mut $crate::xdr::Writer) {
                $($crate::xdr::Encode::encode(&self.$field, w);)*
                let _ = w;
            }
        }
    };
    (@decode $name:ident { $($field:ident),* }) => {
        impl $crate::xdr::Decode<'_> for $name {
            #[inline]
            fn decode(r: &mut $crate::xdr::Reader<'_>) -> $crate::xdr::Result<Self> {
                $(let $field = $crate::xdr::Decode::decode(r)?;)*
                Ok($name { $($field),* })
            }
        }
    };
    (@decode $name:ident <$lt:lifetime> { $($field:ident),* }) => {
        impl<$lt> $crate::xdr::Decode<$lt> for $name<$lt> {
            #[inline]
            fn decode(r: &mut $crate::xdr::Reader<$lt>) -> $crate::xdr::Result<Self> {
                $(let $field = $crate::xdr::Decode::decode(r)?;)*
                Ok($name { $($field),* })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_fills_to_four() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(pad), [0, 3, 2, 1, 0, 3]);
    }

    #[test]
    fn a_length_beyond_the_end_is_truncation_and_one_beyond_the_limit_is_too_long() {
        let four_gib = [0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
        let e = Reader::new(&four_gib).opaque("fh", 64).unwrap_err();
        assert_eq!(
            e.kind,
            DecodeErrorKind::TooLong {
                len: u32::MAX as usize,
                limit: 64
            }
        );
        assert_eq!(e.to_string(), "fh at byte 0: is 4294967295 long, the limit is 64");
        let e = Reader::new(&four_gib).opaque("name", RECORD).unwrap_err();
        assert_eq!(
            e.kind,
            DecodeErrorKind::Truncated {
                need: u32::MAX as usize,
                have: 4
            }
        );
    }

    #[test]
    fn an_array_of_four_billion_allocates_nothing() {
        let bytes = [0xff, 0xff, 0xff, 0xff];
        let e = decode_array::<u32>(&mut Reader::new(&bytes), "gids", RECORD).unwrap_err();
        assert_eq!(e.kind, DecodeErrorKind::Truncated { need: 4, have: 0 });
    }

    #[test]
    fn a_boolean_is_zero_or_one() {
        let e = from_bytes::<bool>(&[0, 0, 0, 2]).unwrap_err();
        assert_eq!(e.kind, DecodeErrorKind::NotBool(2));
    }

    proptest! {
        #[test]
        fn opaque_survives_the_round_trip(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = to_bytes(&Opaque::<256>(&data));
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert_eq!(from_bytes::<Opaque<'_, 256>>(&bytes).unwrap().0, &data[..]);
        }

        #[test]
        fn spliced_and_copied_data_are_the_same_bytes(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1500), 0..6),
            cut in 0usize..7,
        ) {
            let (mut spliced, mut copied) = (Writer::new(), Writer::new());
            let mut mark = spliced.mark();
            for (i, part) in parts.iter().enumerate() {
                if i == cut {
                    mark = spliced.mark();
                }
                spliced.u32(7);
                spliced.opaque_parts([Bytes::copy_from_slice(part)]);
                copied.u32(7);
                copied.opaque(part);
            }
            let copied_tail = spliced.bytes_since(mark);
            let tail = spliced.split_off(mark);
            prop_assert_eq!(tail.bytes_since(Writer::new().mark()), copied_tail);
            spliced.append(tail);
            prop_assert_eq!(spliced.len(), copied.len());
            prop_assert_eq!(spliced.into_bytes(), copied.into_bytes());
        }

        #[test]
        fn junk_never_panics(data in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut r = Reader::new(&data);
            let _ = r.opaque("x", 16);
            let _ = decode_array::<Option<u64>>(&mut r, "y", RECORD);
            let _ = r.bool("z");
        }
    }
}
