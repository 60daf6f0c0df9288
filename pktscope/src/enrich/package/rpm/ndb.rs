//! The database in SUSE's own form, `Packages.db` (rpm's lib/backend/ndb/rpmpkg.c).
//!
//! A header of 32 bytes, then slots of 16 that each lead to a package's blob; blobs lie in blocks of 16 bytes. All numbers
//! are little-endian.

use std::io;

use super::form::{Place, Places, Source, broken, read_at};

/// `PKGDB_MAGIC`, `SLOT_MAGIC`, `BLOBHEAD_MAGIC`.
const MAGIC: &[u8; 4] = b"RpmP";
const SLOT_MAGIC: &[u8; 4] = b"Slot";
const BLOB_MAGIC: &[u8; 4] = b"BlbS";

const VERSION: u32 = 0;
const HEADER_BYTES: usize = 32;
const PAGE_BYTES: usize = 4096;
/// Of a slot, of a blob's head, and of the blocks that offsets and lengths count.
const BLOCK_BYTES: usize = 16;

/// Pages of slots that are read: half a million packages.
const MAX_SLOT_PAGES: usize = 2048;

pub(super) fn is_ndb(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// Where the packages' headers lie.
pub(super) fn places(file: &mut impl Source) -> io::Result<Places> {
    let header = read_at(file, 0, HEADER_BYTES)?;
    let pages = number(&header, 12).map_or(usize::MAX, |pages| pages as usize);
    if number(&header, 4) != Some(VERSION) || MAX_SLOT_PAGES < pages || pages == 0 {
        return Err(broken("its version is not known"));
    }
    let slots = read_at(file, HEADER_BYTES as u64, pages * PAGE_BYTES - HEADER_BYTES)?;
    let mut places = Places::default();
    for slot in slots.chunks_exact(BLOCK_BYTES) {
        match number(slot, 4) {
            _ if !slot.starts_with(SLOT_MAGIC) => places.add(None),
            // A free slot.
            Some(0) => {}
            _ => places.add(blob(file, slot)),
        }
    }
    Ok(places)
}

/// Where the blob lies to which a slot leads: both name the package, and the blob fits into its blocks.
fn blob(file: &mut impl Source, slot: &[u8]) -> Option<Place> {
    let (package, block, blocks) = (number(slot, 4)?, number(slot, 8)?, number(slot, 12)?);
    let start = u64::from(block) * BLOCK_BYTES as u64;
    let head = read_at(file, start, BLOCK_BYTES).ok()?;
    let length = number(&head, 12)?;
    let room = u64::from(blocks) * BLOCK_BYTES as u64;
    let is_sound =
        head.starts_with(BLOB_MAGIC) && number(&head, 4)? == package && BLOCK_BYTES as u64 + u64::from(length) <= room;
    is_sound.then_some(Place::Bytes { start: start + BLOCK_BYTES as u64, length })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}
