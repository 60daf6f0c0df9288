//! Pieces of a byte stream, joined by offset: TCP segments and QUIC CRYPTO frames, in any order, overlapping or twice.

use std::collections::BTreeMap;

/// Most pieces that wait for an earlier one.
const MAX_EARLY_PIECES: usize = 64;

/// The start of a stream, joined as far as it has no hole.
#[derive(Clone, Debug, Default)]
pub struct Joiner {
    /// Offset of `ready`'s first byte.
    start: u64,
    ready: Vec<u8>,
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
    limit: usize,
}

/// A piece does not fit the joiner's bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Joiner {
    /// A joiner that holds at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The joined bytes that were not consumed.
    pub fn ready(&self) -> &[u8] {
        &self.ready
    }

    /// Offset of the byte after [`Self::ready`].
    pub fn end(&self) -> u64 {
        self.start + self.ready.len() as u64
    }

    /// Bytes held, joined or waiting.
    pub fn buffered_bytes(&self) -> usize {
        self.ready.len() + self.early_bytes
    }

    /// Adds a piece; where pieces overlap the bytes that came first stay.
    ///
    /// # Errors
    /// Where the piece would exceed the bound; the joiner is unchanged then.
    pub fn insert(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TooLong> {
        let skip = usize::try_from(self.end().saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get(skip..).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        if self.buffered_bytes() + bytes.len() > self.limit {
            return Err(TooLong);
        }
        if offset <= self.end() {
            self.ready.extend_from_slice(bytes);
            self.join_early();
        } else if self.early.len() >= MAX_EARLY_PIECES {
            return Err(TooLong);
        } else if self.early.get(&offset).is_none_or(|held| held.len() < bytes.len()) {
            let replaced = self.early.insert(offset, bytes.to_vec());
            self.early_bytes += bytes.len();
            self.early_bytes -= replaced.map_or(0, |held| held.len());
        }
        Ok(())
    }

    /// Drops the first `len` joined bytes: they were read.
    pub fn consume(&mut self, len: usize) {
        let len = len.min(self.ready.len());
        self.ready.drain(..len);
        self.start += len as u64;
    }

    /// Makes room for `len` bytes before the first one, which turned out not to be the first.
    pub fn prepend_hole(&mut self, len: u64) {
        let ready = std::mem::take(&mut self.ready);
        let early = std::mem::take(&mut self.early);
        self.early = early.into_iter().map(|(offset, bytes)| (offset + len, bytes)).collect();
        self.early_bytes += ready.len();
        if !ready.is_empty() {
            self.early.insert(self.start + len, ready);
        }
    }

    fn join_early(&mut self) {
        while let Some(piece) = self.early.first_entry() {
            if *piece.key() > self.start + self.ready.len() as u64 {
                return;
            }
            let (offset, bytes) = piece.remove_entry();
            self.early_bytes -= bytes.len();
            let skip = usize::try_from(self.end() - offset).unwrap_or(usize::MAX);
            self.ready.extend_from_slice(bytes.get(skip..).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(pieces: &[(u64, &[u8])]) -> Joiner {
        let mut joiner = Joiner::new(1000);
        pieces.iter().for_each(|(offset, bytes)| joiner.insert(*offset, bytes).unwrap());
        joiner
    }

    #[test]
    fn any_order() {
        assert_eq!(joined(&[(4, b"efg"), (2, b"cd"), (0, b"ab")]).ready(), b"abcdefg");
        assert_eq!(joined(&[(2, b"cd"), (1, b"XX"), (0, b"abc")]).ready(), b"abcd");
        assert_eq!(joined(&[(0, b"ab"), (3, b"d")]).ready(), b"ab");
    }

    #[test]
    fn the_first_bytes_stay() {
        assert_eq!(joined(&[(0, b"ab"), (0, b"XXcd"), (1, b"Y")]).ready(), b"abcd");
    }

    #[test]
    fn consumed_bytes_do_not_come_back() {
        let mut joiner = joined(&[(0, b"abcd")]);
        joiner.consume(3);
        joiner.insert(0, b"abcdef").unwrap();
        assert_eq!(joiner.ready(), b"def");
    }

    #[test]
    fn a_late_start() {
        let mut joiner = joined(&[(0, b"cd"), (4, b"gh")]);
        joiner.prepend_hole(2);
        joiner.insert(0, b"ab").unwrap();
        assert_eq!(joiner.ready(), b"abcd");
        joiner.insert(4, b"ef").unwrap();
        assert_eq!((joiner.ready(), joiner.buffered_bytes()), (&b"abcdefgh"[..], 8));
    }

    #[test]
    fn bounds() {
        let mut joiner = Joiner::new(4);
        assert_eq!(joiner.insert(0, b"abcde"), Err(TooLong));
        assert_eq!(joiner.insert(10, b"abcd"), Ok(()));
        assert_eq!(joiner.insert(0, b"a"), Err(TooLong));
    }

    proptest! {
        #[test]
        fn shuffled_pieces_give_the_stream(
            stream in proptest::collection::vec(any::<u8>(), 1..200),
            pieces in proptest::collection::vec((0_usize..200, 1_usize..40), 0..40),
        ) {
            let mut joiner = Joiner::new(400);
            for (offset, len) in pieces {
                let offset = offset % stream.len();
                let end = (offset + len).min(stream.len());
                let _ = joiner.insert(offset as u64, &stream[offset..end]);
                prop_assert!(joiner.buffered_bytes() <= 400);
            }
            prop_assert!(stream.starts_with(joiner.ready()));
            let _ = joiner.insert(0, &stream);
        }
    }
}
