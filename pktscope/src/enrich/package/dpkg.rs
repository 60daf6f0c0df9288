//! dpkg's database: `/var/lib/dpkg` (dpkg(1), deb-md5sums(5), dpkg-divert(1)).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    owner::{Checksum, DatabaseStamp, Owner, aliases, stamp_of},
    paths::PathIndex,
};

/// The largest file of the database that is read, in bytes; `status` of a full desktop is about 5 MiB.
const MAX_READ_BYTES: u64 = 64 << 20;

/// The database, of which only an index of paths stays in memory.
pub(super) struct Dpkg {
    folder: PathBuf,
    index: Option<Index>,
}

/// Which package's list has a path.
struct Index {
    stamp: DatabaseStamp,
    /// Names of lists without `.list`: `NAME` or `NAME:ARCHITECTURE`.
    packages: Vec<Box<str>>,
    files: PathIndex,
}

impl Dpkg {
    pub(super) fn new(root: &Path) -> Self {
        Self { folder: root.join("var/lib/dpkg"), index: None }
    }

    /// What the database depended on: every installation writes `status` anew.
    pub(super) fn stamp(&self) -> DatabaseStamp {
        stamp_of(&self.folder.join("status"))
    }

    /// The package that brought the file at `path`.
    pub(super) fn owner(&mut self, path: &str) -> io::Result<Option<Owner>> {
        let stamp = self.stamp();
        if stamp.is_none() {
            return Ok(None);
        }
        if self.index.as_ref().is_none_or(|index| index.stamp != stamp) {
            self.index = Some(Index::read(&self.folder.join("info"), stamp)?);
        }
        let diversions = self.read("diversions").unwrap_or_default();
        for alias in aliases(path) {
            let (name, except, only) = diverted(&diversions, alias);
            let index = self.index.as_ref().map(|index| index.find(name)).unwrap_or_default();
            let holders = index.into_iter().filter(|package| {
                let own_name = package.split(':').next().unwrap_or(package);
                except != Some(own_name) && only.is_none_or(|only| only == own_name)
            });
            for package in holders {
                if self.has_line(package, name)? {
                    return self.describe(package, name).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn has_line(&self, package: &str, path: &str) -> io::Result<bool> {
        Ok(self.read(&format!("info/{package}.list"))?.lines().any(|line| line == path))
    }

    fn describe(&self, package: &str, path: &str) -> io::Result<Owner> {
        let (name, architecture) = match package.split_once(':') {
            Some((name, architecture)) => (name, Some(architecture)),
            None => (package, None),
        };
        let status = self.read("status")?;
        let is_it = |stanza: &&str| {
            field(stanza, "Package") == Some(name)
                && architecture.is_none_or(|wanted| field(stanza, "Architecture") == Some(wanted))
        };
        let stanza = status.split("\n\n").find(is_it).unwrap_or("");
        let sums = self.read(&format!("info/{package}.md5sums")).unwrap_or_default();
        let checksum = sum_of(&sums, path).or_else(|| conffile_sum(stanza, path));
        Ok(Owner {
            name: name.to_owned(),
            version: field(stanza, "Version").unwrap_or("").to_owned(),
            checksum: checksum.map(|sum| Checksum::Md5(sum.to_owned())),
        })
    }

    fn read(&self, name: &str) -> io::Result<String> {
        read_bounded(&self.folder.join(name))
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, MAX_READ_BYTES), &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Index {
    fn read(info: &Path, stamp: DatabaseStamp) -> io::Result<Self> {
        let (mut packages, mut files) = (Vec::new(), PathIndex::default());
        for entry in fs::read_dir(info)? {
            let name = entry?.file_name();
            if let Some(package) = name.to_str().and_then(|name| name.strip_suffix(".list")) {
                add(&mut files, &read_bounded(&info.join(&name))?, u32::try_from(packages.len()).unwrap_or(u32::MAX));
                packages.push(package.into());
            }
        }
        Ok(Self { stamp, packages, files: files.seal("dpkg") })
    }

    /// Packages that may have a file, in the order of their lists.
    fn find(&self, path: &str) -> Vec<&str> {
        let hits = self.files.find(path.as_bytes());
        hits.filter_map(|package| self.packages.get(package as usize).map(AsRef::as_ref)).collect()
    }
}

fn add(files: &mut PathIndex, list: &str, package: u32) {
    let mut lines = list.lines().peekable();
    while let Some(path) = lines.next() {
        // A folder stands right before what lies in it.
        let is_folder =
            lines.peek().is_some_and(|next| next.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
        if !is_folder {
            files.add(path.as_bytes(), package);
        }
    }
}

/// The name by which packages know a file, who it is not from, and who it is from alone.
///
/// A diversion is three lines: the name, the name to which other packages' file of that name is moved, and the package
/// whose own file stays (`:` for an administrator's).
fn diverted<'a>(diversions: &'a str, path: &'a str) -> (&'a str, Option<&'a str>, Option<&'a str>) {
    let mut lines = diversions.lines();
    while let (Some(name), Some(moved), Some(by)) = (lines.next(), lines.next(), lines.next()) {
        if moved == path {
            return (name, Some(by), None);
        }
        if name == path {
            return (name, None, Some(by));
        }
    }
    (path, None, None)
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// From lines `SUM  PATH`, the path without its first slash.
fn sum_of<'a>(sums: &'a str, path: &str) -> Option<&'a str> {
    let path = path.strip_prefix('/')?;
    sums.lines().find_map(|line| line.split_once("  ").filter(|(_, name)| *name == path).map(|(sum, _)| sum))
}

/// From the lines ` PATH SUM` below `Conffiles:`.
fn conffile_sum<'a>(stanza: &'a str, path: &str) -> Option<&'a str> {
    let lines = stanza.lines().skip_while(|line| *line != "Conffiles:").skip(1);
    let mut rows = lines.take_while(|line| line.starts_with(' ')).map(|line| line[1..].split(' '));
    rows.find_map(|mut words| (words.next() == Some(path)).then(|| words.next()).flatten())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::enrich::{file::OpenFile, hash::Hasher, package::Packages};

    fn run(program: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().ok()?;
        Some(String::from_utf8(output.stdout).unwrap())
    }

    /// Owners as `dpkg -S` gives them, by path; files that nobody or several own are left out.
    fn dpkg_search(paths: &[String]) -> Option<Vec<(String, String)>> {
        let arguments: Vec<&str> = std::iter::once("-S").chain(paths.iter().map(String::as_str)).collect();
        let lines = run("dpkg-query", &arguments)?;
        let rows = lines.lines().filter(|line| !line.starts_with("diversion "));
        let rows = rows.filter_map(|line| line.split_once(": ")).filter(|(owner, _)| !owner.contains(','));
        Some(rows.map(|(owner, path)| (path.to_owned(), owner.split(':').next().unwrap().to_owned())).collect())
    }

    fn programs() -> Vec<String> {
        let folders = ["/usr/bin", "/usr/sbin"].into_iter().filter_map(|folder| fs::read_dir(folder).ok());
        let paths = folders.flatten().map(|entry| entry.unwrap()).filter(|entry| entry.file_type().unwrap().is_file());
        paths.map(|entry| entry.path().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn owners_are_those_that_dpkg_finds() {
        let programs = programs();
        let Some(expected) = dpkg_search(&programs) else { return };
        // dpkg before 1.22 does not know of a merged /usr; it has such files under their old names.
        let old: Vec<String> = programs.iter().map(|path| path.trim_start_matches("/usr").to_owned()).collect();
        let expected = expected.into_iter().chain(dpkg_search(&old).unwrap());
        let mut dpkg = Dpkg::new(Path::new("/"));
        let mut compared = 0;
        for (path, package) in expected {
            let path = if path.starts_with("/usr/") { path } else { format!("/usr{path}") };
            let owner = dpkg.owner(&path).unwrap().unwrap_or_else(|| panic!("{path} is of {package}"));
            assert_eq!(owner.name, package, "{path}");
            compared += 1;
        }
        assert!(100 < compared, "{compared} files compared");
        assert_eq!(dpkg.owner("/usr/bin/no-such-program").unwrap(), None);
    }

    #[test]
    fn versions_and_checksums_are_those_of_dpkg() {
        let Some(version) = run("dpkg-query", &["-W", "-f", "${Version}", "coreutils"]) else { return };
        let mut packages = Packages::new(Path::new("/")).unwrap();
        let root = crate::enrich::file::open_folder(Path::new("/")).unwrap();
        let file = OpenFile::open_in_root(&root, "/usr/bin/cat").unwrap();
        let package = packages.find(&file, &mut Hasher::default()).unwrap().unwrap();
        let is_verified = run("dpkg", &["-V", "coreutils"]).unwrap().lines().all(|line| !line.ends_with("bin/cat"));
        assert_eq!((package.manager, &*package.name, &*package.version), ("dpkg", "coreutils", &*version));
        assert_eq!(package.is_unmodified, Some(is_verified));
    }

    /// A root directory with a dpkg database of its own.
    struct Installation(tempfile::TempDir);

    impl Installation {
        fn new() -> Option<Self> {
            let root = tempfile::tempdir().unwrap();
            for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "build/DEBIAN", "build/usr/bin"] {
                fs::create_dir_all(root.path().join(folder)).unwrap();
            }
            fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
            run("dpkg-deb", &["--version"])?;
            Some(Self(root))
        }

        fn path(&self, name: &str) -> String {
            self.0.path().canonicalize().unwrap().join(name).to_str().unwrap().to_owned()
        }

        /// Builds and installs a version of the package with the real tools.
        fn install(&self, version: &str, content: &str) {
            let control = format!(
                "Package: pktscope-test\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <n@example.org>\n\
                 Description: test\n"
            );
            let sum = hex_md5(content.as_bytes());
            fs::write(self.path("build/DEBIAN/control"), control).unwrap();
            fs::write(self.path("build/DEBIAN/md5sums"), format!("{sum}  usr/bin/tool\n")).unwrap();
            fs::write(self.path("build/usr/bin/tool"), content).unwrap();
            let package = self.path("test.deb");
            assert!(
                Command::new("dpkg-deb").args(["-b", &self.path("build"), &package]).output().unwrap().status.success()
            );
            let root = format!("--root={}", self.path(""));
            let options = ["--force-not-root", "--force-bad-path", "--log=/dev/null"];
            let output = Command::new("dpkg").arg(root).args(options).args(["-i", &package]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }

        fn open(&self) -> OpenFile {
            let root = crate::enrich::file::open_folder(self.0.path()).unwrap();
            OpenFile::open_in_root(root, "/usr/bin/tool").unwrap()
        }
    }

    fn hex_md5(bytes: &[u8]) -> String {
        use md5::Digest;
        crate::core::process::hexadecimal(&md5::Md5::digest(bytes))
    }

    #[test]
    fn an_upgrade_a_change_and_a_deletion_are_told_apart() {
        let Some(installation) = Installation::new() else { return };
        let mut hasher = Hasher::default();
        let mut packages = Packages::new(&installation.0.path().canonicalize().unwrap()).unwrap();
        let mut check = |file: &OpenFile, expected: Option<(&str, Option<bool>)>| {
            let package = packages.find(file, &mut hasher).unwrap();
            assert_eq!(package.as_ref().map(|package| (&*package.version, package.is_unmodified)), expected);
        };
        installation.install("1.0", "first");
        let first = installation.open();
        check(&first, Some(("1.0", Some(true))));
        check(&first, Some(("1.0", Some(true))));

        installation.install("2.0", "second");
        check(&installation.open(), Some(("2.0", Some(true))));
        check(&first, None);

        fs::write(installation.path("usr/bin/tool"), "changed").unwrap();
        check(&installation.open(), Some(("2.0", Some(false))));
    }

    #[test]
    fn a_diverted_file_is_of_the_package_that_moved_it_or_was_moved() {
        let diversions = "/bin/sh\n/bin/sh.distrib\ndash\n/usr/bin/x\n/usr/bin/x.real\n:\n";
        assert_eq!(diverted(diversions, "/bin/sh"), ("/bin/sh", None, Some("dash")));
        assert_eq!(diverted(diversions, "/bin/sh.distrib"), ("/bin/sh", Some("dash"), None));
        assert_eq!(diverted(diversions, "/usr/bin/x.real"), ("/usr/bin/x", Some(":"), None));
        assert_eq!(diverted(diversions, "/bin/ls"), ("/bin/ls", None, None));
        assert_eq!(diverted("/bin/sh\n", "/bin/sh"), ("/bin/sh", None, None), "cut short");
    }

    #[test]
    fn a_configuration_files_checksum_stands_in_the_status() {
        let stanza = "Package: cron\nConffiles:\n /etc/init.d/cron 0123 obsolete\n /etc/x 4567\nDescription: d";
        assert_eq!(conffile_sum(stanza, "/etc/init.d/cron"), Some("0123"));
        assert_eq!(conffile_sum(stanza, "/etc/x"), Some("4567"));
        assert_eq!(conffile_sum(stanza, "/etc/y"), None);
    }

    #[test]
    fn no_database_means_no_package_and_a_broken_one_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Dpkg::new(root.path()).owner("/bin/ls").unwrap(), None);
        fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
        fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
        assert!(Dpkg::new(root.path()).owner("/bin/ls").is_err(), "there is no info folder");
    }
}
