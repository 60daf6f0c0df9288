//! apk's database: one text file (apk-tools' doc/apk-package.5 and doc/apk-installed.5).

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::owner::{Checksum, DatabaseStamp, Owner, aliases, stamp_of};
use crate::core::process::hexadecimal;

/// The most that is read of the database, in bytes; a full desktop's has about 50 MiB.
const MAX_READ_BYTES: u64 = 256 << 20;

/// Where it lies; since apk-tools 3 below `/usr`.
const PLACES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

fn database(root: &Path) -> Option<PathBuf> {
    PLACES.iter().map(|place| root.join(place)).find(|path| path.is_file())
}

/// What the database depended on.
pub(super) fn stamp(root: &Path) -> DatabaseStamp {
    stamp_of(&database(root)?)
}

/// The package that brought the file at `path`; the database is small enough to be read through for each new file.
pub(super) fn owner(root: &Path, path: &str) -> io::Result<Option<Owner>> {
    match database(root) {
        Some(database) => find(BufReader::new(File::open(database)?.take(MAX_READ_BYTES)), path),
        None => Ok(None),
    }
}

/// Lines are a letter, a colon and a value: `P` package, `V` version, `F` folder, `R` file in it, `Z` the checksum of that
/// file; an empty line ends a package.
fn find(lines: impl BufRead, path: &str) -> io::Result<Option<Owner>> {
    let wanted: Vec<&str> = aliases(path).map(|alias| alias.trim_start_matches('/')).collect();
    let (mut name, mut version, mut folder) = (String::new(), String::new(), String::new());
    let mut found: Option<Owner> = None;
    for line in lines.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let (letter, value) = line.split_once(':').unwrap_or(("", ""));
        match letter {
            // What follows a file up to the next one is about it.
            "Z" if found.is_some() => {
                return Ok(found.map(|owner| Owner { checksum: checksum(value), ..owner }));
            }
            "" | "F" | "R" if found.is_some() => return Ok(found),
            "P" => value.clone_into(&mut name),
            "V" => value.clone_into(&mut version),
            "F" => value.clone_into(&mut folder),
            "R" if wanted.contains(&join(&folder, value).as_str()) => {
                found = Some(Owner { name: name.clone(), version: version.clone(), checksum: None });
            }
            _ => {}
        }
    }
    Ok(found)
}

fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// `Q1` and a base64 SHA-1, `Q2` and a base64 SHA-256 (apk-tools' src/apk_blob.c, apk_blob_pull_digest).
fn checksum(value: &str) -> Option<Checksum> {
    let digest = |text: &str| BASE64_STANDARD.decode(text).ok().map(|bytes| hexadecimal(&bytes));
    match value.split_at_checked(2)? {
        ("Q1", text) => digest(text).map(Checksum::Sha1),
        ("Q2", text) => digest(text).map(Checksum::Sha256),
        _ => None,
    }
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

    /// A database as apk writes it, of a file with this SHA-1 in base64.
    fn installed(sum: &str) -> String {
        format!(
            "C:Q1pSfk8=\nP:busybox\nV:1.36.1-r5\nA:x86_64\np:cmd:busybox=1.36.1-r5\nF:bin\nM:0:0:755\nR:busybox\n\
             a:0:0:755\nZ:Q1{sum}\nR:plain\nF:etc\nR:securetty\n\nP:other\nV:2\nF:\nR:at-root\nZ:Q2qrs=\n"
        )
    }

    fn check(path: &str, expected: Option<(&str, &str, Option<Checksum>)>) {
        let owner = find(installed("qrs=").as_bytes(), path).unwrap();
        let owner = owner.map(|owner| (owner.name, owner.version, owner.checksum));
        assert_eq!(owner, expected.map(|(name, version, sum)| (name.to_owned(), version.to_owned(), sum)), "{path}");
    }

    #[test]
    fn files_are_found_by_folder_and_name() {
        check("/bin/busybox", Some(("busybox", "1.36.1-r5", Some(Checksum::Sha1("aabb".into())))));
        check("/usr/bin/busybox", Some(("busybox", "1.36.1-r5", Some(Checksum::Sha1("aabb".into())))));
        check("/bin/plain", Some(("busybox", "1.36.1-r5", None)));
        check("/etc/securetty", Some(("busybox", "1.36.1-r5", None)));
        check("/at-root", Some(("other", "2", Some(Checksum::Sha256("aabb".into())))));
        check("/bin", None);
        check("/busybox", None);
    }

    #[test]
    fn a_changed_file_is_no_longer_the_packages() {
        let root = tempfile::tempdir().unwrap();
        let tool = root.path().join("bin/busybox");
        fs::create_dir_all(tool.parent().unwrap()).unwrap();
        fs::create_dir_all(root.path().join("lib/apk/db")).unwrap();
        fs::write(&tool, "program").unwrap();
        let sum = Command::new("sh").arg("-c").arg("openssl dgst -sha1 -binary \"$0\" | base64").arg(&tool).output();
        let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
        if sum.trim().is_empty() {
            return;
        }
        fs::write(root.path().join("lib/apk/db/installed"), installed(sum.trim())).unwrap();
        let mut packages = Packages::new(&root.path().canonicalize().unwrap()).unwrap();
        let mut is_unmodified = || {
            let file = OpenFile::open_in_root(open_folder(root.path()).unwrap(), "/bin/busybox").unwrap();
            let package = packages.find(&file, &mut Hasher::default()).unwrap().unwrap();
            assert_eq!((package.manager, &*package.name), ("apk", "busybox"));
            package.is_unmodified
        };
        assert_eq!(is_unmodified(), Some(true));
        fs::write(&tool, "changed").unwrap();
        assert_eq!(is_unmodified(), Some(false));
    }

    proptest::proptest! {
        #[test]
        fn no_database_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..500)) {
            let _ = find(bytes.as_slice(), "/bin/x");
        }
    }
}
