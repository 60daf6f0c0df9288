//! Country and autonomous system of public addresses, from MaxMind DB files.
//!
//! In: an address. Out: a [`Geo`], empty where no database knows it. Private, loopback, multicast and reserved addresses
//! are never looked up. A file that is replaced is read again; one that cannot be read leaves the old data in place.

use std::{
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use maxminddb::{MaxMindDbError, PathElement, Reader, geoip2};
use thiserror::Error;

use crate::core::{address::is_public, flow::Geo};

/// Largest file read into memory; MaxMind's largest, GeoIP2-Enterprise, has about 600 MB.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// What went wrong with a database.
#[derive(Debug, Error)]
pub enum GeoError {
    /// The file could not be read.
    #[error("failed to read GeoIP database {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is none, or is damaged or cut off.
    #[error("{} is not a usable MaxMind database: give the .mmdb file itself, whole and unpacked", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: MaxMindDbError,
    },
    /// The file is larger than any database known.
    #[error("GeoIP database {} has {bytes} bytes, more than the {MAX_FILE_BYTES} that are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The database answers another question.
    #[error("GeoIP database {} is a {found}, not one with {expected}", path.display())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// Its `database_type`.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// A record could not be read: the file is damaged inside.
    #[error("failed to look {addr} up in GeoIP database {}", path.display())]
    Lookup {
        /// The file.
        path: PathBuf,
        /// The address.
        addr: IpAddr,
        /// Why.
        #[source]
        source: MaxMindDbError,
    },
}

/// What a database must be able to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Country,
    Asn,
}

impl Kind {
    /// By MaxMind's own types; other vendors name theirs alike, or add `(compat=GeoLite2-…)`.
    fn matches(self, database_type: &str) -> bool {
        let names: &[&str] = match self {
            Self::Country => &["Country", "City", "Enterprise"],
            Self::Asn => &["ASN", "ISP"],
        };
        names.iter().any(|name| database_type.contains(name))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Country => "countries (GeoLite2-Country, GeoIP2-City or the like)",
            Self::Asn => "autonomous systems (GeoLite2-ASN, GeoIP2-ISP or the like)",
        }
    }
}

/// Tells a file from the one that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    bytes: u64,
}

impl FileStamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            bytes: metadata.len(),
        }
    }
}

struct Database {
    path: PathBuf,
    kind: Kind,
    stamp: FileStamp,
    reader: Reader<Vec<u8>>,
    /// A replacement that was refused, so that it is not read again and again.
    refused: Option<FileStamp>,
    /// Whether the file was gone at the last look, so that this is said once.
    is_missing: bool,
}

impl Database {
    fn open(path: &Path, kind: Kind) -> Result<Self, GeoError> {
        let (stamp, bytes) = read(path)?;
        let reader = Self::parse(path, kind, bytes)?;
        Ok(Self { path: path.to_owned(), kind, stamp, reader, refused: None, is_missing: false })
    }

    fn parse(path: &Path, kind: Kind, bytes: Vec<u8>) -> Result<Reader<Vec<u8>>, GeoError> {
        let path = || path.to_owned();
        let reader = Reader::from_source(bytes).map_err(|source| GeoError::Invalid { path: path(), source })?;
        let found = &reader.metadata().database_type;
        if !kind.matches(found) {
            return Err(GeoError::WrongKind { path: path(), found: found.clone(), expected: kind.name() });
        }
        Ok(reader)
    }

    /// Whether other data was read.
    fn reload_if_replaced(&mut self) -> Result<bool, GeoError> {
        let stamp = match std::fs::metadata(&self.path) {
            Ok(metadata) => FileStamp::of(&metadata),
            Err(_) if self.is_missing => return Ok(false),
            Err(source) => {
                self.is_missing = true;
                return Err(GeoError::Read { path: self.path.clone(), source });
            }
        };
        self.is_missing = false;
        if stamp == self.stamp || Some(stamp) == self.refused {
            return Ok(false);
        }
        match Self::open(&self.path, self.kind) {
            Ok(new) => {
                *self = new;
                Ok(true)
            }
            Err(error) => {
                self.refused = Some(stamp);
                Err(error)
            }
        }
    }

    /// Where the address is used; where it is registered if that is not known.
    fn country(&self, addr: IpAddr) -> Result<Option<[u8; 2]>, GeoError> {
        let failed = |source| GeoError::Lookup { path: self.path.clone(), addr, source };
        let record = self.reader.lookup(addr).map_err(failed)?;
        for holder in ["country", "registered_country"] {
            let path = [PathElement::Key(holder), PathElement::Key("iso_code")];
            let code: Option<&str> = record.decode_path(&path).map_err(failed)?;
            if let Some(code) = code.and_then(|code| code.as_bytes().try_into().ok()) {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    fn autonomous_system(&self, addr: IpAddr) -> Result<Option<geoip2::Asn<'_>>, GeoError> {
        let failed = |source| GeoError::Lookup { path: self.path.clone(), addr, source };
        let record = self.reader.lookup(addr).map_err(failed)?;
        record.decode().map_err(failed)
    }
}

/// The databases that were given.
#[derive(Default)]
pub struct GeoDatabases {
    country: Option<Database>,
    asn: Option<Database>,
}

impl GeoDatabases {
    /// Reads the given files into memory.
    ///
    /// # Errors
    /// Where a file cannot be read, is no MaxMind database, or answers another question; the message names it.
    pub fn open(country: Option<&Path>, asn: Option<&Path>) -> Result<Self, GeoError> {
        Ok(Self {
            country: country.map(|path| Database::open(path, Kind::Country)).transpose()?,
            asn: asn.map(|path| Database::open(path, Kind::Asn)).transpose()?,
        })
    }

    /// Whether there is nothing to look up in.
    pub fn is_empty(&self) -> bool {
        self.country.is_none() && self.asn.is_none()
    }

    /// Reads the files that were replaced since; to be called now and then. Gives the paths that were read.
    ///
    /// # Errors
    /// One for each file that is gone or cannot be used, said once; what was read before stays. A file that was refused
    /// is not read again until it changes.
    pub fn reload_if_replaced(&mut self) -> Vec<Result<PathBuf, GeoError>> {
        let databases = [&mut self.country, &mut self.asn];
        let reloads = databases.into_iter().flatten().map(|database| {
            let is_new = database.reload_if_replaced()?;
            Ok(is_new.then(|| database.path.clone()))
        });
        reloads.filter_map(Result::transpose).collect()
    }

    /// What is known of an address.
    ///
    /// # Errors
    /// Where a record is damaged; nothing is known then.
    pub fn lookup(&self, addr: IpAddr) -> Result<Geo, GeoError> {
        let mut geo = Geo::default();
        if !is_public(addr) {
            return Ok(geo);
        }
        if let Some(database) = &self.country {
            geo.country = database.country(addr)?;
        }
        if let Some(database) = &self.asn {
            let found = database.autonomous_system(addr)?;
            geo.as_number = found.as_ref().and_then(|found| found.autonomous_system_number);
            geo.as_organization = found.and_then(|found| found.autonomous_system_organization).map(Arc::from);
        }
        Ok(geo)
    }
}

/// The bytes of a file and what tells it apart, both of the same file.
fn read(path: &Path) -> Result<(FileStamp, Vec<u8>), GeoError> {
    let failed = |source| GeoError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let stamp = FileStamp::of(&file.metadata().map_err(failed)?);
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(GeoError::TooLarge { path: path.to_owned(), bytes: stamp.bytes });
    }
    Ok((stamp, bytes))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, error::Error as _, fs};

    use serde_json::Value;

    use super::*;
    use crate::captures;

    const COUNTRY: &str = "maxmind/test-data/GeoIP2-Country-Test.mmdb";
    const ASN: &str = "maxmind/test-data/GeoLite2-ASN-Test.mmdb";

    #[test]
    fn a_file_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("country.mmdb");
        let error = GeoDatabases::open(Some(&path), None).err().unwrap();
        assert!(error.to_string().contains("country.mmdb") && error.source().is_some(), "{error}");
        for bytes in [&b""[..], b"<html>404</html>", &[0xff; 4096]] {
            fs::write(&path, bytes).unwrap();
            let error = GeoDatabases::open(Some(&path), None).err().unwrap();
            assert!(matches!(error, GeoError::Invalid { .. }) && error.to_string().contains("country.mmdb"), "{error}");
        }
    }

    #[test]
    fn a_database_for_another_question_is_refused() {
        let Some(path) = captures::file(ASN) else { return };
        let error = GeoDatabases::open(Some(&path), None).err().unwrap();
        assert!(matches!(&error, GeoError::WrongKind { found, .. } if found == "GeoLite2-ASN"), "{error}");
    }

    #[test]
    fn nothing_is_known_of_private_addresses() {
        let Some(path) = captures::file(COUNTRY) else { return };
        let databases = GeoDatabases::open(Some(&path), None).unwrap();
        for addr in ["10.0.0.1", "127.0.0.1", "224.0.0.1", "fe80::1", "::1"] {
            assert_eq!(databases.lookup(addr.parse().unwrap()).unwrap(), Geo::default());
        }
    }

    /// The rows of one database: first address of each network and its record.
    fn truth(database: &str) -> Option<BTreeMap<IpAddr, Value>> {
        let rows = captures::rows("truth/maxmind_expected.jsonl.gz")?;
        let of_database = rows.into_iter().filter(|row| row["db"] == database);
        let record = |row: Value| {
            let network = row["network"].as_str().unwrap().split_once('/').unwrap().0;
            (network.parse().unwrap(), row["record"].clone())
        };
        Some(of_database.map(record).collect())
    }

    #[test]
    fn countries_as_published() {
        for name in [COUNTRY, "maxmind/test-data/GeoLite2-Country-Test.mmdb", "maxmind/test-data/GeoIP2-City-Test.mmdb"]
        {
            let Some((rows, path)) = truth(name).zip(captures::file(name)) else { return };
            let databases = GeoDatabases::open(Some(&path), None).unwrap();
            let mut checked = 0;
            for (addr, record) in rows.iter().filter(|(addr, _)| is_public(**addr)) {
                let holders = ["country", "registered_country"];
                let expected = holders.into_iter().find_map(|holder| record[holder]["iso_code"].as_str());
                let found = databases.lookup(*addr).unwrap().country;
                let found = found.as_ref().map(|code| str::from_utf8(code).unwrap());
                assert_eq!(found, expected, "{addr} in {name}");
                checked += 1;
            }
            eprintln!("{checked} networks of {name}");
            assert!(checked > 100, "only {checked} networks in {name}");
        }
    }

    #[test]
    fn autonomous_systems_as_published() {
        for name in [ASN, "maxmind/test-data/GeoIP2-ISP-Test.mmdb"] {
            let Some((rows, path)) = truth(name).zip(captures::file(name)) else { return };
            let databases = GeoDatabases::open(None, Some(&path)).unwrap();
            for (addr, record) in rows.iter().filter(|(addr, _)| is_public(**addr)) {
                let found = databases.lookup(*addr).unwrap();
                let number = record["autonomous_system_number"].as_u64();
                assert_eq!(found.as_number.map(u64::from), number, "{addr} in {name}");
                assert_eq!(found.as_organization.as_deref(), record["autonomous_system_organization"].as_str());
            }
            assert!(rows.len() > 50, "{name}");
        }
    }

    /// Damaged files are refused with their name or give errors; whatever they hold, nothing panics or loops.
    #[test]
    fn damaged_databases() {
        let Some(folder) = captures::file("maxmind/bad-data") else { return };
        let (mut refused, mut opened) = (0, 0);
        for entry in fs::read_dir(folder).unwrap().flat_map(|vendor| fs::read_dir(vendor.unwrap().path()).unwrap()) {
            let path = entry.unwrap().path();
            let (_, bytes) = read(&path).unwrap();
            let Ok(reader) = Reader::from_source(bytes) else {
                let error = GeoDatabases::open(Some(&path), None).err().unwrap();
                assert!(error.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
                refused += 1;
                continue;
            };
            let stamp = FileStamp::of(&fs::metadata(&path).unwrap());
            let database = Database { path, kind: Kind::Country, stamp, reader, refused: None, is_missing: false };
            for first in 1..=223 {
                let addr = IpAddr::from([first, 1, 1, 1]);
                let _ = (database.country(addr), database.autonomous_system(addr));
            }
            opened += 1;
        }
        eprintln!("{refused} refused, {opened} opened");
        assert!(refused > 0 && refused + opened > 15);
    }

    #[test]
    fn a_replaced_file_is_read_again_and_a_bad_one_is_not() {
        let Some((first, second)) =
            captures::file(COUNTRY).zip(captures::file("maxmind/test-data/GeoIP2-City-Test.mmdb"))
        else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("geo.mmdb");
        let replace = |source: &Path| {
            fs::copy(source, folder.path().join("new")).unwrap();
            fs::rename(folder.path().join("new"), &path).unwrap();
        };
        let only_city: IpAddr = "2.125.160.216".parse().unwrap();
        replace(&first);
        let mut databases = GeoDatabases::open(Some(&path), None).unwrap();
        assert!(databases.reload_if_replaced().is_empty());
        let before = databases.lookup(only_city).unwrap();

        fs::write(folder.path().join("bad"), b"not a database").unwrap();
        replace(&folder.path().join("bad"));
        let reloads = databases.reload_if_replaced();
        assert!(matches!(&reloads[..], [Err(GeoError::Invalid { .. })]), "{reloads:?}");
        assert!(databases.reload_if_replaced().is_empty(), "a refused file is read once");
        assert_eq!(databases.lookup(only_city).unwrap(), before, "the old data stays");

        replace(&second);
        assert!(matches!(&databases.reload_if_replaced()[..], [Ok(read)] if *read == path));
        assert_eq!(databases.lookup(only_city).unwrap().country, Some(*b"GB"));

        fs::remove_file(&path).unwrap();
        assert!(matches!(&databases.reload_if_replaced()[..], [Err(GeoError::Read { .. })]));
        assert!(databases.reload_if_replaced().is_empty(), "said once");
        assert_eq!(databases.lookup(only_city).unwrap().country, Some(*b"GB"));
    }
}
