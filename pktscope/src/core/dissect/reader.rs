//! A cursor over untrusted bytes: every read is checked and gives `None` past the end.

/// The bytes not yet read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes are left.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        let (&byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(byte)
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Option<u16> {
        let (&bytes, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(u16::from_be_bytes(bytes))
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Option<u32> {
        let (&bytes, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(u32::from_be_bytes(bytes))
    }

    /// A QUIC variable-length integer (RFC 9000, 16).
    pub fn varint(&mut self) -> Option<u64> {
        let len = 1 << (self.bytes.first()? >> 6);
        let (&first, rest) = self.take(len)?.split_first()?;
        let start = u64::from(first & 0x3f);
        Some(rest.iter().fold(start, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// A block with its length before it in one byte.
    pub fn prefixed_u8(&mut self) -> Option<Self> {
        let len = self.u8()?.into();
        self.take(len).map(Self::new)
    }

    /// A block with its length before it in two bytes.
    pub fn prefixed_u16(&mut self) -> Option<Self> {
        let mut ahead = *self;
        let len = ahead.u16()?.into();
        let block = ahead.take(len)?;
        *self = ahead;
        Some(Self::new(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_length_integers() {
        // RFC 9000, A.1.
        let check = |bytes: &[u8], expected| assert_eq!(Reader::new(bytes).varint(), expected);
        check(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], Some(151_288_809_941_952_652));
        check(&[0x9d, 0x7f, 0x3e, 0x7d], Some(494_878_333));
        check(&[0x7b, 0xbd], Some(15_293));
        check(&[0x25], Some(37));
        check(&[0x40], None);
        check(&[], None);
    }

    #[test]
    fn reads_past_the_end_take_nothing() {
        let mut reader = Reader::new(&[0, 5, 1]);
        assert!(reader.prefixed_u16().is_none());
        assert_eq!(reader.len(), 3);
        assert_eq!((reader.u32(), reader.u16(), reader.u16(), reader.u8()), (None, Some(5), None, Some(1)));
        assert!(reader.is_empty());
    }
}
