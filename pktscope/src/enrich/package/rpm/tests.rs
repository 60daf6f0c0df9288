//! Databases of every form, made by rpm itself and by Berkeley DB.

use std::{fs, io::Cursor, process::Command};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::{super::owner::Checksum, header::tests::tool_header, *};
use crate::{
    core::process::hexadecimal,
    enrich::{
        file::{OpenFile, open_folder},
        hash::Hasher,
        package::Packages,
    },
};

/// Builds a package with the real tools and installs it below a root; `None` where they are not there.
fn install(root: &Path) -> Option<()> {
    Command::new("rpmbuild").arg("--version").output().ok()?;
    let work = tempfile::tempdir().unwrap();
    let spec = "Name: pktscope-test\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: test\nLicense: MIT\nBuildArch: noarch\n\
                %description\ntest\n%install\nmkdir -p %{buildroot}/usr/bin\nprintf program > %{buildroot}/usr/bin/tool\n\
                %files\n/usr/bin/tool\n";
    fs::write(work.path().join("test.spec"), spec).unwrap();
    let top = format!("_topdir {}", work.path().display());
    let built = Command::new("rpmbuild").args(["-bb", "-D", &top]).arg(work.path().join("test.spec")).output().unwrap();
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
    let connection = Connection::open(folder.join("rpmdb.sqlite")).unwrap();
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
    let mut rpm = Rpm::new(root.path());
    assert_eq!(rpm.owner("/usr/bin/tool").unwrap().unwrap().name, "tool");
    assert_eq!(rpm.owner("/usr/bin/other").unwrap(), None);
    assert!(rpm.stamp().is_some());
}

const NDB: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rpm/Packages.db"));
const BERKELEY: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rpm/Packages"));
const BIG_ENDIAN: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rpm/Packages.big_endian"));

/// Every file of the packages in the fixtures: path, content, package.
fn contents() -> Vec<(String, String, &'static str)> {
    let many = (100..140)
        .map(|number| (format!("/usr/share/many/file-number-{number}"), number.to_string(), "pktscope-test-many"));
    many.chain([("/usr/bin/tool".to_owned(), "program".to_owned(), "pktscope-test")]).collect()
}

#[test]
fn older_forms_give_every_file_its_package_and_checksum() {
    for bytes in [NDB, BERKELEY, BIG_ENDIAN] {
        let mut database = OlderDatabase::read(Cursor::new(bytes)).unwrap();
        for (path, content, package) in contents() {
            let owner = database.owner(&path).unwrap().unwrap();
            assert_eq!((&*owner.name, &*owner.version), (package, "4:1.2-3"));
            assert_eq!(owner.checksum, Some(Checksum::Sha256(hexadecimal(&Sha256::digest(content)))), "{path}");
        }
        for path in ["/usr/bin/tools", "/tool", "/usr/share/many/file-number-140", ""] {
            assert_eq!(database.owner(path).unwrap(), None, "{path}");
        }
    }
}

/// A root with a database in its place.
fn root_with(name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("var/lib/rpm")).unwrap();
    fs::write(root.path().join("var/lib/rpm").join(name), bytes).unwrap();
    root
}

#[test]
fn rpm_itself_finds_the_same_in_the_berkeley_form() {
    for bytes in [BERKELEY, BIG_ENDIAN] {
        let root = root_with("Packages", bytes);
        let query = ["-D", "_db_backend bdb_ro", "-qa", "--qf", "[%{=NAME} %{FILENAMES}\n]", "--dbpath"];
        let Ok(output) = Command::new("rpm").args(query).arg(root.path().join("var/lib/rpm")).output() else {
            eprintln!("skipped: rpm is not there");
            return;
        };
        let listed = String::from_utf8(output.stdout).unwrap();
        if listed.is_empty() {
            eprintln!("skipped: this rpm does not read Berkeley DB");
            return;
        }
        let mut rpm = Rpm::new(root.path());
        for line in listed.lines() {
            let (package, path) = line.split_once(' ').unwrap();
            assert_eq!(rpm.owner(path).unwrap().unwrap().name, package, "{path}");
        }
    }
}

#[test]
fn a_database_of_an_older_form_is_read_again_when_it_changes() {
    let root = root_with("Packages", BERKELEY);
    let database = root.path().join("var/lib/rpm/Packages");
    let mut rpm = Rpm::new(root.path());
    let before = rpm.stamp();
    assert_eq!(rpm.owner("/bin/tool").unwrap(), None);
    assert_eq!(rpm.owner("/usr/bin/tool").unwrap().unwrap().name, "pktscope-test");
    fs::write(database.with_file_name("new"), renamed(BERKELEY)).unwrap();
    fs::rename(database.with_file_name("new"), &database).unwrap();
    assert_ne!(rpm.stamp(), before);
    assert_eq!(rpm.owner("/usr/bin/tool").unwrap(), None);
    assert_eq!(rpm.owner("/usr/bin/fool").unwrap().unwrap().name, "pktscope-test");
    fs::remove_file(&database).unwrap();
    assert_eq!((rpm.owner("/usr/bin/fool").unwrap(), rpm.stamp()), (None, None));
}

/// The same database of a package that has `fool` instead of `tool`.
fn renamed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_owned();
    let at = bytes.windows(6).position(|window| window == b"\0tool\0").unwrap();
    bytes[at + 1] = b'f';
    bytes
}

#[test]
fn a_merged_usr_s_old_paths_are_found_in_an_older_form() {
    let mut bytes = NDB.to_owned();
    let at = bytes
        .windows(11)
        .position(|window| window == b"\0/usr/bin/\0\0")
        .or(bytes.windows(11).position(|window| window == b"\0/usr/bin/\0"));
    let at = at.unwrap();
    bytes[at + 1..at + 11].copy_from_slice(b"/bin/\0\0\0\0\0");
    let root = root_with("Packages.db", &bytes);
    assert_eq!(Rpm::new(root.path()).owner("/usr/bin/tool").unwrap().unwrap().name, "pktscope-test");
}

#[test]
fn what_is_no_database_is_said_with_its_name() {
    for (name, bytes) in [("Packages", &b""[..]), ("Packages.db", b"RpmP\x01\0\0\0"), ("Packages", &BERKELEY[..700])] {
        let root = root_with(name, bytes);
        let error = Rpm::new(root.path()).owner("/bin/x").unwrap_err().to_string();
        assert!(error.contains(&format!("/var/lib/rpm/{name}: ")), "{error}");
    }
}

/// The place of a page's chain in `BERKELEY`: pages whose type is that of a chain.
fn chain_pages() -> impl Iterator<Item = usize> {
    (1..BERKELEY.len() / 512).map(|page| page * 512).filter(|page| BERKELEY[page + 25] == 7)
}

#[test]
fn chains_that_lead_in_a_circle_are_left() {
    let mut bytes = BERKELEY.to_owned();
    for page in chain_pages() {
        bytes.copy_within(page + 8..page + 12, page + 16);
        bytes[page + 22..page + 24].copy_from_slice(&1u16.to_le_bytes());
    }
    assert_ne!(chain_pages().count(), 0);
    let mut database = OlderDatabase::read(Cursor::new(bytes)).unwrap();
    assert_eq!(database.owner("/usr/bin/tool").unwrap(), None);
}

proptest::proptest! {
    #[test]
    fn no_older_database_panics(
        form in 0usize..3,
        changes in proptest::collection::vec((proptest::num::usize::ANY, proptest::num::u8::ANY), 1..40),
        cut in proptest::num::usize::ANY,
    ) {
        let mut bytes = [NDB, BERKELEY, BIG_ENDIAN][form].to_owned();
        for (at, value) in changes {
            // Most changes where the structure is: the first bytes of pages, slots and blobs.
            let at = if at % 2 == 0 { at / 2 % bytes.len() } else { at / 2 % (bytes.len() / 512) * 512 + at / 1024 % 64 };
            bytes[at] = value;
        }
        if cut % 3 == 0 {
            bytes.truncate(cut / 3 % bytes.len());
        }
        if let Ok(mut database) = OlderDatabase::read(Cursor::new(bytes)) {
            let _ = database.owner("/usr/bin/tool");
        }
    }
}
