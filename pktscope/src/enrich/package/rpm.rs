//! rpm's database in its SQLite form (rpm's lib/backend/sqlite.c; the header's form: rpm's docs/manual/format_header.md).
//!
//! A row of `Packages` is one package's header; `Basenames` leads from a file's name to the headers that have it.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::owner::{Checksum, DatabaseStamp, Owner, aliases, stamp_of};

/// Folders that hold the database: rpm's own, and that of systems whose `/usr` is the image.
const FOLDERS: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];
const SQLITE: &str = "rpmdb.sqlite";
/// Databases of other forms, by their file: Berkeley DB up to rpm 4.15, and SUSE's own.
const UNREAD: [(&str, &str); 2] = [("Packages", "Berkeley DB"), ("Packages.db", "ndb")];

/// The largest header that is read, in bytes; a kernel package's has about 4 MiB.
const MAX_HEADER_BYTES: usize = 64 << 20;

/// Packages that are looked at for one file name; `index.html` is in many, no program is.
const MAX_PACKAGES: usize = 4096;

/// Tags and types (rpm's include/rpm/rpmtag.h).
mod tag {
    pub(super) const NAME: u32 = 1000;
    pub(super) const VERSION: u32 = 1001;
    pub(super) const RELEASE: u32 = 1002;
    pub(super) const EPOCH: u32 = 1003;
    pub(super) const FILE_STATES: u32 = 1029;
    pub(super) const FILE_DIGESTS: u32 = 1035;
    pub(super) const DIR_INDEXES: u32 = 1116;
    pub(super) const BASE_NAMES: u32 = 1117;
    pub(super) const DIR_NAMES: u32 = 1118;
    pub(super) const FILE_DIGEST_ALGORITHM: u32 = 5011;
}

fn database(root: &Path) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| root.join(folder).join(SQLITE)).find(|path| path.is_file())
}

/// What the database depended on.
pub(super) fn stamp(root: &Path) -> DatabaseStamp {
    let database = database(root)?;
    stamp_of(&log_of(&database)).filter(|(.., size)| *size != 0).or_else(|| stamp_of(&database))
}

/// The package that brought the file at `path`.
///
/// # Errors
/// Where the database cannot be read, also because it has an older form.
pub(super) fn owner(root: &Path, path: &str) -> io::Result<Option<Owner>> {
    let Some(database) = database(root) else {
        return unread_form(root).map_or(Ok(None), |form| {
            let text =
                format!("its form ({form}) is not read; `rpmdb --rebuilddb` of rpm 4.16 or later makes it SQLite");
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        });
    };
    let connection = open(&database).map_err(io::Error::other)?;
    for alias in aliases(path) {
        if let Some(owner) = find(&connection, alias).map_err(io::Error::other)? {
            return Ok(Some(owner));
        }
    }
    Ok(None)
}

fn unread_form(root: &Path) -> Option<&'static str> {
    let folder = FOLDERS.iter().map(|folder| root.join(folder)).find(|folder| folder.is_dir())?;
    UNREAD.iter().find(|(name, _)| folder.join(name).is_file()).map(|(_, form)| *form)
}

fn log_of(database: &Path) -> PathBuf {
    database.with_extension("sqlite-wal")
}

/// Opens the database without leaving a trace beside it: where nothing waits in its log it is taken as it lies there.
fn open(database: &Path) -> rusqlite::Result<Connection> {
    let is_at_rest = std::fs::metadata(log_of(database)).map_or(true, |log| log.len() == 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let escaped: String = database.to_string_lossy().chars().map(escape).collect();
    let immutable = if is_at_rest { "?immutable=1" } else { "" };
    Connection::open_with_flags(format!("file:{escaped}{immutable}"), flags)
}

/// As SQLite wants names in its URIs (sqlite.org/uri.html).
fn escape(letter: char) -> String {
    match letter {
        '%' => "%25".to_owned(),
        '?' => "%3f".to_owned(),
        '#' => "%23".to_owned(),
        other => other.to_string(),
    }
}

fn find(connection: &Connection, path: &str) -> rusqlite::Result<Option<Owner>> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let mut rows = connection.prepare("SELECT DISTINCT hnum FROM Basenames WHERE key = ?1")?;
    let packages: Vec<i64> =
        rows.query_map([name], |row| row.get(0))?.take(MAX_PACKAGES).collect::<rusqlite::Result<_>>()?;
    for package in packages {
        let blob: Option<Vec<u8>> = connection
            .query_row("SELECT blob FROM Packages WHERE hnum = ?1", [package], |row| row.get(0))
            .optional()?;
        let owner = blob.as_deref().and_then(Header::parse).and_then(|header| header.owner_of(path));
        if owner.is_some() {
            return Ok(owner);
        }
    }
    Ok(None)
}

/// A package's header: entries of (tag, type, offset, count), then their data, all big-endian.
struct Header<'a> {
    entries: &'a [u8],
    data: &'a [u8],
}

const ENTRY_BYTES: usize = 16;

impl<'a> Header<'a> {
    fn parse(blob: &'a [u8]) -> Option<Self> {
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

    fn owner_of(&self, path: &str) -> Option<Owner> {
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
mod tests {
    use std::{fs, process::Command};

    use super::*;
    use crate::enrich::{
        file::{OpenFile, open_folder},
        hash::Hasher,
        package::Packages,
    };

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

    fn tool_header(digest: &str) -> Vec<u8> {
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

    /// Builds a package with the real tools and installs it below a root; `None` where they are not there.
    fn install(root: &Path) -> Option<()> {
        Command::new("rpmbuild").arg("--version").output().ok()?;
        let work = tempfile::tempdir().unwrap();
        let spec = "Name: pktscope-test\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: test\nLicense: MIT\nBuildArch: noarch\n\
                    %description\ntest\n%install\nmkdir -p %{buildroot}/usr/bin\nprintf program > %{buildroot}/usr/bin/tool\n\
                    %files\n/usr/bin/tool\n";
        fs::write(work.path().join("test.spec"), spec).unwrap();
        let top = format!("_topdir {}", work.path().display());
        let built =
            Command::new("rpmbuild").args(["-bb", "-D", &top]).arg(work.path().join("test.spec")).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let package = work.path().join("RPMS/noarch/pktscope-test-1.2-3.noarch.rpm");
        let options = ["--nodeps", "--noscripts", "--dbpath", "/var/lib/rpm", "-D", "_db_backend sqlite", "-i"];
        let output = Command::new("rpm").arg("--root").arg(root).args(options).arg(package).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(())
    }

    #[test]
    fn a_package_that_rpm_installed_is_found_with_its_checksum() {
        let root = tempfile::tempdir().unwrap();
        if install(root.path()).is_none() {
            return;
        }
        let before: Vec<_> =
            fs::read_dir(root.path().join("var/lib/rpm")).unwrap().map(|entry| entry.unwrap().path()).collect();
        let mut packages = Packages::new(&root.path().canonicalize().unwrap()).unwrap();
        let mut find = || {
            let file = OpenFile::open_in_root(open_folder(root.path()).unwrap(), "/usr/bin/tool").unwrap();
            packages.find(&file, &mut Hasher::default()).unwrap().unwrap()
        };
        let package = find();
        assert_eq!((package.manager, &*package.name, &*package.version), ("rpm", "pktscope-test", "4:1.2-3"));
        assert_eq!(package.is_unmodified, Some(true));
        fs::write(root.path().join("usr/bin/tool"), "changed").unwrap();
        assert_eq!(find().is_unmodified, Some(false));
        let after: Vec<_> =
            fs::read_dir(root.path().join("var/lib/rpm")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(after, before, "reading leaves nothing behind");
    }

    #[test]
    fn a_database_made_by_hand_is_read_without_rpm() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/lib/sysimage/rpm");
        fs::create_dir_all(&folder).unwrap();
        let connection = Connection::open(folder.join(SQLITE)).unwrap();
        // The tables as rpm 4.18 makes them.
        connection
            .execute_batch(
                "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);
                 CREATE TABLE Basenames (key TEXT NOT NULL, hnum INTEGER NOT NULL, idx INTEGER NOT NULL);
                 INSERT INTO Basenames VALUES ('tool', 7, 2);",
            )
            .unwrap();
        connection.execute("INSERT INTO Packages VALUES (7, ?1)", [tool_header("22")]).unwrap();
        drop(connection);
        assert_eq!(owner(root.path(), "/usr/bin/tool").unwrap().unwrap().name, "tool");
        assert_eq!(owner(root.path(), "/usr/bin/other").unwrap(), None);
        assert!(stamp(root.path()).is_some());
    }

    #[test]
    fn an_older_form_is_said_to_be_unread() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(owner(root.path(), "/bin/x").unwrap(), None);
        fs::create_dir_all(root.path().join("var/lib/rpm")).unwrap();
        fs::write(root.path().join("var/lib/rpm/Packages"), "").unwrap();
        let error = owner(root.path(), "/bin/x").unwrap_err().to_string();
        assert!(error.contains("Berkeley DB") && error.contains("rebuilddb"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0usize..400, at in 0usize..300, value: u8) {
            let mut broken = tool_header("22");
            let at = at % broken.len();
            broken[at] = value;
            broken.truncate(cut);
            for blob in [bytes, broken] {
                let _ = Header::parse(&blob).and_then(|header| header.owner_of("/usr/bin/tool"));
            }
        }
    }
}
