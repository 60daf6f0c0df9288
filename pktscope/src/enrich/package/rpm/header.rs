//! A package's header (rpm's docs/manual/format_header.md), the same in every form of the database.

use super::super::owner::{Checksum, Owner};

/// The largest header that is read, in bytes; a kernel package's has about 4 MiB.
pub(super) const MAX_HEADER_BYTES: usize = 64 << 20;

/// Folders of one package that are known; a kernel's sources have about 5,000.
const MAX_FOLDERS: usize = 1 << 18;

/// Tags and types (rpm's include/rpm/rpmtag.h).
mod tag {
    pub const NAME: u32 = 1000;
    pub const VERSION: u32 = 1001;
    pub const RELEASE: u32 = 1002;
    pub const EPOCH: u32 = 1003;
    pub const FILE_STATES: u32 = 1029;
    pub const FILE_DIGESTS: u32 = 1035;
    pub const DIR_INDEXES: u32 = 1116;
    pub const BASE_NAMES: u32 = 1117;
    pub const DIR_NAMES: u32 = 1118;
    pub const FILE_DIGEST_ALGORITHM: u32 = 5011;
}

/// A package's header: entries of (tag, type, offset, count), then their data, all big-endian.
pub(super) struct Header<'a> {
    entries: &'a [u8],
    data: &'a [u8],
}

const ENTRY_BYTES: usize = 16;

impl<'a> Header<'a> {
    pub(super) fn parse(blob: &'a [u8]) -> Option<Self> {
        if MAX_HEADER_BYTES < blob.len() {
            return None;
        }
        let (counts, rest) = blob.split_at_checked(8)?;
        let (entries, length) = (number(counts, 0)? as usize, number(counts, 4)? as usize);
        let (entries, data) = rest.split_at_checked(entries.checked_mul(ENTRY_BYTES)?)?;
        Some(Self { entries, data: data.get(..length)? })
    }

    /// Data of a tag from its start, and how many values there are.
    fn values(&self, tag: u32) -> Option<(&'a [u8], usize)> {
        let entry = self.entries.chunks_exact(ENTRY_BYTES).find(|entry| number(entry, 0) == Some(tag))?;
        Some((self.data.get(number(entry, 8)? as usize..)?, number(entry, 12)? as usize))
    }

    fn string(&self, tag: u32) -> Option<String> {
        self.strings(tag).next().map(|text| String::from_utf8_lossy(text).into_owned())
    }

    fn strings(&self, tag: u32) -> impl Iterator<Item = &'a [u8]> {
        let (data, count) = self.values(tag).unwrap_or((&[], 0));
        data.split(|byte| *byte == 0).take(count)
    }

    fn number(&self, tag: u32, index: usize) -> Option<u32> {
        let (data, count) = self.values(tag)?;
        (index < count).then(|| number(data, index * 4)).flatten()
    }

    /// The package, where it brought the file at `path`.
    pub(super) fn owner_of(&self, path: &str) -> Option<Owner> {
        let split = path.rfind('/')? + 1;
        let (folder, name) = (&path.as_bytes()[..split], &path.as_bytes()[split..]);
        let mut named = self.strings(tag::BASE_NAMES).enumerate().filter(|(_, base)| *base == name);
        let (file, _) = named.find(|(file, _)| self.folder_of(*file) == Some(folder) && self.is_in_place(*file))?;
        let digest = self.strings(tag::FILE_DIGESTS).nth(file).map(|text| String::from_utf8_lossy(text).into_owned());
        Some(Owner {
            name: self.string(tag::NAME)?,
            version: self.version()?,
            checksum: digest.filter(|digest| !digest.is_empty()).and_then(|digest| self.checksum(digest)),
        })
    }

    /// Gives every file's folder, slash at its end, and name.
    pub(super) fn each_file(&self, mut give: impl FnMut(&[u8], &[u8])) {
        let folders: Vec<&[u8]> = self.strings(tag::DIR_NAMES).take(MAX_FOLDERS).collect();
        let (indexes, count) = self.values(tag::DIR_INDEXES).unwrap_or((&[], 0));
        let indexes = indexes.chunks_exact(4).take(count).map(|index| number(index, 0));
        for (name, index) in self.strings(tag::BASE_NAMES).zip(indexes) {
            if let Some(folder) = index.and_then(|index| folders.get(index as usize)) {
                give(folder, name);
            }
        }
    }

    fn folder_of(&self, file: usize) -> Option<&'a [u8]> {
        self.strings(tag::DIR_NAMES).nth(self.number(tag::DIR_INDEXES, file)? as usize)
    }

    /// Whether the package's own file is there, rather than left out or replaced by another package's (rpmfileState).
    fn is_in_place(&self, file: usize) -> bool {
        self.values(tag::FILE_STATES)
            .and_then(|(data, count)| data.get(..count)?.get(file))
            .is_none_or(|state| *state == 0)
    }

    fn version(&self) -> Option<String> {
        let epoch = self.number(tag::EPOCH, 0).map(|epoch| format!("{epoch}:")).unwrap_or_default();
        Some(format!("{epoch}{}-{}", self.string(tag::VERSION)?, self.string(tag::RELEASE)?))
    }

    /// The algorithm is numbered as in RFC 4880, section 9.4; none said means MD5.
    fn checksum(&self, digest: String) -> Option<Checksum> {
        match self.number(tag::FILE_DIGEST_ALGORITHM, 0).unwrap_or(1) {
            1 => Some(Checksum::Md5(digest)),
            2 => Some(Checksum::Sha1(digest)),
            8 => Some(Checksum::Sha256(digest)),
            10 => Some(Checksum::Sha512(digest)),
            _ => None,
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header with these tags: type, count, data.
    fn header(tags: &[(u32, u32, u32, Vec<u8>)]) -> Vec<u8> {
        let (mut entries, mut data) = (Vec::new(), Vec::<u8>::new());
        for (tag, kind, count, bytes) in tags {
            for value in [*tag, *kind, u32::try_from(data.len()).unwrap(), *count] {
                entries.extend(value.to_be_bytes());
            }
            data.extend(bytes);
        }
        let mut blob = u32::try_from(tags.len()).unwrap().to_be_bytes().to_vec();
        blob.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        blob.extend(entries);
        blob.extend(data);
        blob
    }

    /// A header of a package that has `/usr/bin/tool` with this digest, `/etc/tool`, and a file that was left out.
    pub(in super::super) fn tool_header(digest: &str) -> Vec<u8> {
        let strings =
            |words: &[&str]| words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>();
        let numbers = |values: &[u32]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>();
        header(&[
            (tag::NAME, 6, 1, strings(&["tool"])),
            (tag::VERSION, 6, 1, strings(&["1.2"])),
            (tag::RELEASE, 6, 1, strings(&["3.el9"])),
            (tag::EPOCH, 4, 1, numbers(&[1])),
            (tag::FILE_STATES, 2, 3, vec![0, 1, 0]),
            (tag::FILE_DIGESTS, 8, 3, strings(&["00", "11", digest])),
            (tag::DIR_INDEXES, 4, 3, numbers(&[0, 1, 1])),
            (tag::BASE_NAMES, 8, 3, strings(&["tool", "skipped", "tool"])),
            (tag::DIR_NAMES, 8, 2, strings(&["/etc/", "/usr/bin/"])),
            (tag::FILE_DIGEST_ALGORITHM, 4, 1, numbers(&[8])),
        ])
    }

    #[test]
    fn a_file_is_found_by_folder_and_name_in_a_header() {
        let blob = tool_header("22");
        let header = Header::parse(&blob).unwrap();
        let owner = |path| header.owner_of(path).map(|owner| (owner.name, owner.version, owner.checksum));
        let expected = |sum: &str| Some(("tool".into(), "1:1.2-3.el9".into(), Some(Checksum::Sha256(sum.into()))));
        assert_eq!(owner("/usr/bin/tool"), expected("22"));
        assert_eq!(owner("/etc/tool"), expected("00"));
        assert_eq!(owner("/usr/bin/skipped"), None, "the package's own file was left out");
        assert_eq!(owner("/bin/tool"), None);
    }

    #[test]
    fn every_file_is_given_with_its_folder() {
        let (blob, mut files) = (tool_header("22"), Vec::new());
        Header::parse(&blob).unwrap().each_file(|folder, name| files.push([folder, name].concat()));
        assert_eq!(files, [b"/etc/tool".as_slice(), b"/usr/bin/skipped", b"/usr/bin/tool"]);
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0usize..400, at in 0usize..300, value: u8) {
            let mut broken = tool_header("22");
            let at = at % broken.len();
            broken[at] = value;
            broken.truncate(cut);
            for blob in [bytes, broken] {
                let Some(header) = Header::parse(&blob) else { continue };
                header.owner_of("/usr/bin/tool");
                header.each_file(|_, _| {});
            }
        }
    }
}
