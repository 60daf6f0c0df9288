//! A capture file's bytes in, frames out: pcap and pcapng, read as a stream in constant memory.
//!
//! What is cut off or corrupt ends the file or a block of it, never the program: [`CaptureStatistics`] says how much
//! could not be read.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::core::{packet::LinkType, time::WallTime};

mod format;

use format::{Format, Parsed, Span};

/// Bytes read at once. Large enough that reading costs little, small enough to stay in the processor's cache.
const READ_BYTES: usize = 128 << 10;
/// The largest frame: libpcap's `MAXIMUM_SNAPLEN`. A record or block that claims more is corrupt.
const MAX_FRAME_BYTES: usize = 256 << 10;
/// The largest pcapng block kept in memory; a larger one that holds no packet is skipped.
const MAX_BLOCK_BYTES: usize = MAX_FRAME_BYTES + 1024;
/// What is read at once, after the largest block but its last byte.
const BUFFER_BYTES: usize = MAX_BLOCK_BYTES + READ_BYTES;

/// Why a capture cannot be read at all, or not further.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file is not there or not readable.
    #[error("failed to open capture {path}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading failed on the way.
    #[error("failed to read the capture at byte {offset}")]
    Read {
        /// Bytes read before.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It begins like neither format.
    #[error("not a capture: it begins with {found} instead of the magic number of pcap or pcapng")]
    Unrecognised {
        /// The first bytes in hexadecimal.
        found: String,
    },
}

/// How much was read, and how much could not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureStatistics {
    /// Bytes taken from the file.
    pub bytes: u64,
    /// Frames given out.
    pub frames: u64,
    /// Frames that the capture cut short (snap length); they are given out as far as they go.
    pub cut_frames: u64,
    /// Blocks of pcapng that contradict themselves, or name an interface that was not described.
    pub bad_blocks: u64,
    /// Bytes at the end that are no whole record: the file was cut off, or is corrupt from there on.
    pub unread_bytes: u64,
}

impl CaptureStatistics {
    /// Whether all of the file could be read.
    pub fn is_complete(&self) -> bool {
        self.bad_blocks == 0 && self.unread_bytes == 0
    }
}

/// A captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// When.
    pub at: WallTime,
    /// What it begins with.
    pub link: LinkType,
    /// Its size on the wire.
    pub wire_bytes: u32,
    /// What was captured of it.
    pub data: &'a [u8],
}

/// Reads frames from anything that gives bytes.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    is_at_end: bool,
    format: Format,
    spans: Vec<Span>,
    /// Bytes of an oversized block still to be skipped.
    to_skip: u64,
    statistics: CaptureStatistics,
}

impl Reader<File> {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let opened = File::open(path);
        let file = opened.map_err(|source| CaptureError::Open { path: path.display().to_string(), source })?;
        Self::new(file)
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header that tells the format.
    pub fn new(source: R) -> Result<Self, CaptureError> {
        let mut reader = Self {
            source,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            is_at_end: false,
            format: Format::default(),
            spans: Vec::new(),
            to_skip: 0,
            statistics: CaptureStatistics::default(),
        };
        reader.fill()?;
        let (format, header_bytes) = Format::detect(&reader.buffer[..reader.end])
            .ok_or_else(|| CaptureError::Unrecognised { found: hexadecimal(&reader.buffer[..reader.end.min(4)]) })?;
        (reader.format, reader.start) = (format, header_bytes);
        Ok(reader)
    }

    /// What was read so far.
    pub fn statistics(&self) -> CaptureStatistics {
        self.statistics
    }

    /// The next frames, a buffer's worth; `None` at the end.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>, CaptureError> {
        self.spans.clear();
        loop {
            self.parse();
            if !self.spans.is_empty() {
                return Ok(Some(Batch { buffer: &self.buffer, spans: &self.spans }));
            }
            if self.is_at_end {
                self.statistics.unread_bytes += (self.end - self.start) as u64;
                self.start = self.end;
                return Ok(None);
            }
            self.fill()?;
        }
    }

    /// Finds all whole frames in the buffer.
    fn parse(&mut self) {
        self.skip();
        while self.start < self.end {
            match self.format.parse(&self.buffer[self.start..self.end]) {
                Parsed::Frame(mut span, consumed) => {
                    self.statistics.frames += 1;
                    self.statistics.cut_frames += u64::from(span.length < span.wire_bytes);
                    span.start += self.start as u32;
                    self.spans.push(span);
                    self.start += consumed;
                }
                Parsed::Other(consumed) => self.start += consumed,
                Parsed::Bad(consumed) => {
                    self.statistics.bad_blocks += 1;
                    self.start += consumed;
                }
                Parsed::Oversized(length) => {
                    self.to_skip = length;
                    self.skip();
                }
                Parsed::Incomplete => return,
                Parsed::Corrupt => return self.give_up(),
            }
        }
    }

    fn skip(&mut self) {
        let here = self.to_skip.min((self.end - self.start) as u64);
        self.start += here as usize;
        self.to_skip -= here;
    }

    /// Nothing tells where the next record begins: the rest is counted and left.
    fn give_up(&mut self) {
        self.statistics.unread_bytes += (self.end - self.start) as u64;
        self.start = self.end;
        self.format = Format::GivenUp;
    }

    fn fill(&mut self) -> Result<(), CaptureError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let full = self.buffer.len().min(self.end + READ_BYTES);
        while self.end < full && !self.is_at_end {
            match self.source.read(&mut self.buffer[self.end..full]) {
                Ok(0) => self.is_at_end = true,
                Ok(count) => {
                    self.end += count;
                    self.statistics.bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(CaptureError::Read { offset: self.statistics.bytes, source }),
            }
        }
        Ok(())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Frames of one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    buffer: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Batch<'a> {
    /// The frames, in the file's order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = Frame<'a>> {
        let (buffer, spans) = (self.buffer, self.spans);
        spans.iter().map(move |span| Frame {
            at: WallTime(span.at),
            link: span.link,
            wire_bytes: span.wire_bytes,
            data: &buffer[span.start as usize..(span.start + span.length) as usize],
        })
    }
}

#[cfg(test)]
mod tests;
