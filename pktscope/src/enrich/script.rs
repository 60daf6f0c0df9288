//! Which script an interpreter runs, as a file that can be opened.
//!
//! In: the interpreter's path and arguments, and the process or what is left around it. Out: the script's path and the
//! file, or why there is none.

use std::{io, sync::Arc};

use sha2::{Digest, Sha256};

use super::{file::OpenFile, image::Surroundings, procfs::ProcessFolder};
use crate::core::process::{
    ImageHash, Script, hexadecimal,
    interpreter::{self, Program},
};

/// A script, before its file is hashed.
#[derive(Debug)]
pub struct FoundScript {
    /// Absolute where it could be resolved, else as written; `-m MODULE` or `-c` where it is no file.
    pub path: Arc<str>,
    /// The file to hash.
    pub file: Option<OpenFile>,
    /// Its hash as far as it is known without reading a file.
    pub hash: ImageHash,
}

/// The script that `executable` runs, where it is an interpreter; arguments are each ended by a NUL.
pub fn find(executable: &str, filename: &str, arguments: &str, around: &Surroundings<'_>) -> Option<FoundScript> {
    let arguments: Vec<&str> = arguments.split_terminator('\0').collect();
    match interpreter::program_of(executable, &arguments) {
        Some(Program::File(path)) => Some(open(path, around)),
        Some(Program::Module { option, name }) => Some(FoundScript {
            path: module_path(option, name).into(),
            file: None,
            hash: ImageHash::Unreadable("a module, which the interpreter looks for by itself".into()),
        }),
        Some(Program::Inline { option, code }) => Some(FoundScript {
            path: if option.is_empty() { Script::INLINE.into() } else { option.into() },
            file: None,
            hash: ImageHash::Sha256(hexadecimal(&Sha256::digest(code.as_bytes())).into()),
        }),
        None if interpreter::is_script_run(filename, &arguments) => Some(open(filename, around)),
        None => None,
    }
}

fn module_path(option: &str, name: &str) -> String {
    let option = option.strip_suffix(name).filter(|rest| !rest.is_empty()).unwrap_or(option);
    format!("{option} {name}").trim_start().to_owned()
}

fn open(path: &str, around: &Surroundings<'_>) -> FoundScript {
    match open_as_the_process(path, around) {
        Ok(file) => FoundScript { path: file.path.clone(), file: Some(file), hash: ImageHash::Pending },
        Err(error) => {
            FoundScript { path: path.into(), file: None, hash: ImageHash::Unreadable(error.to_string().into()) }
        }
    }
}

/// Opens a path as the process would; an absolute one as its parent would where it has ended.
fn open_as_the_process(path: &str, around: &Surroundings<'_>) -> io::Result<OpenFile> {
    if let Some(number) = descriptor_of(path) {
        let ended = || io::Error::other("an open file of a process that has ended");
        return around.own.ok_or_else(ended)?.descriptor(number);
    }
    if path.starts_with('/') {
        let root = around.own.or(around.parent).map(|process| process.root());
        return match root {
            Some(Ok(root)) => OpenFile::open_in_root(root, path),
            _ => OpenFile::open_in_root(around.host_root, path),
        };
    }
    // Another process's folder may hold another script of that name.
    let ended = || io::Error::other("the process ended before its working directory could be read");
    open_in_working_directory(path, around.own.ok_or_else(ended)?)
}

/// Opens a relative path; links in it that lead to the root end at the process's own root, where its folder's path can
/// be followed from there.
fn open_in_working_directory(path: &str, process: &ProcessFolder) -> io::Result<OpenFile> {
    let from_root =
        || OpenFile::open_in_root(process.root()?, &format!("{}/{path}", process.working_directory_path()?));
    from_root().or_else(|_| OpenFile::open_in_folder(process.working_directory()?, path))
}

/// The number of an open file that a path stands for: these links lead to whoever follows them.
fn descriptor_of(path: &str) -> Option<u32> {
    if path == "/dev/stdin" {
        return Some(0);
    }
    let number = path.strip_prefix("/dev/fd/").or_else(|| path.strip_prefix("/proc/self/fd/"))?;
    number.parse().ok()
}
