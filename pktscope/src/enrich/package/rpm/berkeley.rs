//! The database in Berkeley DB's form, `Packages`: a hash file (libdb's src/dbinc/db_page.h).
//!
//! Pages of equal size, the first one about the file. A page of the hash has pairs of key and value, with an offset of two
//! bytes for each after the page's head and the items themselves at its end; a value that is too large for a page lies on a
//! chain of others. Which bucket a page belongs to is of no interest here: all are read, in their order.

use std::io;

use super::form::{Place, Places, Source, broken, read_at};

/// `DB_HASHMAGIC`, at 12; as read by the other byte order where the file was made on such a machine.
const MAGIC: u32 = 0x0006_1561;
/// Of Berkeley DB 3.1 up to the last one.
const VERSIONS: std::ops::RangeInclusive<u32> = 8..=10;
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;
/// `P_HASHMETA`.
const META_PAGE: u8 = 8;
/// `P_HASH_UNSORTED` (up to 4.5) and `P_HASH`.
const HASH_PAGES: [u8; 2] = [2, 13];
/// `P_OVERFLOW`.
const OVERFLOW_PAGE: u8 = 7;
/// `SIZEOF_PAGE`: of a page's head.
const HEAD_BYTES: usize = 26;
/// `H_KEYDATA`: what follows is the item; `H_OFFPAGE`: it leads to a chain of pages.
const ITEM_HERE: u8 = 1;
const ITEM_ON_PAGES: u8 = 3;
/// `HOFFPAGE_SIZE`.
const CHAIN_BYTES: usize = 12;

/// What the first page says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Berkeley {
    page_bytes: u32,
    last_page: u32,
    is_big_endian: bool,
}

impl Berkeley {
    /// `None` where it is no hash file, or one whose pages are encrypted or have checksums, which rpm never makes.
    pub(super) fn parse(start: &[u8]) -> Option<Self> {
        let is_big_endian = start.get(12..)?.first_chunk().is_some_and(|magic| u32::from_be_bytes(*magic) == MAGIC);
        let mut form = Self { page_bytes: 0, last_page: 0, is_big_endian };
        form.page_bytes = form.number(start, 20)?;
        form.last_page = form.number(start, 32)?;
        let is_sound = form.number(start, 12)? == MAGIC
            && VERSIONS.contains(&form.number(start, 16)?)
            && PAGE_SIZES.contains(&form.page_bytes)
            && form.page_bytes.is_power_of_two()
            && start.get(24..27)? == [0, META_PAGE, 0];
        is_sound.then_some(form)
    }

    /// Where the packages' headers lie.
    pub(super) fn places(self, file: &mut impl Source) -> io::Result<Places> {
        let mut places = Places::default();
        for page in 1..=self.last_page {
            let bytes = self.read_page(file, page)?;
            if HASH_PAGES.contains(&bytes[25]) && self.number(&bytes, 8) == Some(page) {
                self.values(page, &bytes, &mut places);
            }
        }
        Ok(places)
    }

    /// Adds the values on a page: every second item.
    fn values(self, page: u32, bytes: &[u8], places: &mut Places) {
        let items = self.short(bytes, 20).unwrap_or(0);
        for index in (1..items).step_by(2) {
            places.add(self.value(page, bytes, index));
        }
    }

    /// An item ends where the one before it begins.
    fn value(self, page: u32, bytes: &[u8], index: usize) -> Option<Place> {
        let start = self.short(bytes, HEAD_BYTES + index * 2)?;
        let end = self.short(bytes, HEAD_BYTES + (index - 1) * 2)?;
        let item = bytes.get(start..end)?;
        match *item.first()? {
            ITEM_HERE => Some(Place::Bytes {
                start: u64::from(page) * u64::from(self.page_bytes) + start as u64 + 1,
                length: u32::try_from(item.len() - 1).ok()?,
            }),
            ITEM_ON_PAGES if item.len() == CHAIN_BYTES => {
                Some(Place::Pages { first: self.number(item, 4)?, length: self.number(item, 8)? })
            }
            _ => None,
        }
    }

    /// What lies on a chain of pages. All but the last are full as rpm writes them; a chain of twice as many is refused.
    pub(super) fn read_chain(self, file: &mut impl Source, first: u32, length: u32) -> io::Result<Vec<u8>> {
        let (length, room) = (length as usize, self.page_bytes as usize - HEAD_BYTES);
        let (mut found, mut page) = (Vec::new(), first);
        for _ in 0..=2 * length.div_ceil(room) {
            let bytes = self.read_page(file, page)?;
            let used = self.short(&bytes, 22).ok_or_else(|| broken("a page is cut off"))?;
            let is_sound = bytes[25] == OVERFLOW_PAGE && self.number(&bytes, 8) == Some(page);
            let data = bytes.get(HEAD_BYTES..HEAD_BYTES + used).filter(|_| is_sound);
            found.extend_from_slice(data.ok_or_else(|| broken("a chain of pages is broken"))?);
            if length <= found.len() {
                found.truncate(length);
                return Ok(found);
            }
            page = self.number(&bytes, 16).unwrap_or(0);
        }
        Err(broken("a chain of pages is too long"))
    }

    fn read_page(self, file: &mut impl Source, page: u32) -> io::Result<Vec<u8>> {
        let size = self.page_bytes as usize;
        read_at(file, u64::from(page) * size as u64, size)
    }

    fn number(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn short(self, bytes: &[u8], at: usize) -> Option<usize> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }.into())
    }
}
