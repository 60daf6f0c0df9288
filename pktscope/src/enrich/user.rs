//! Names of users.

use std::{ffi::CStr, mem::MaybeUninit, num::NonZeroUsize, os::unix::fs::MetadataExt, ptr, sync::Arc};

use lru::LruCache;

/// Users whose name is remembered.
const MAX_USERS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The longest entry of the user database that is read, in bytes.
const MAX_ENTRY_BYTES: usize = 64 * 1024;

/// Names by user id, remembered until `/etc/passwd` changes.
pub struct Users {
    names: LruCache<u32, Option<Arc<str>>>,
    database: Option<(u64, i64, i64)>,
}

impl Default for Users {
    fn default() -> Self {
        Self { names: LruCache::new(MAX_USERS), database: None }
    }
}

impl Users {
    /// The name of a user, where the user database (passwd, LDAP, …: nsswitch.conf) has one.
    pub fn name(&mut self, uid: u32) -> Option<Arc<str>> {
        let database = std::fs::metadata("/etc/passwd").ok().map(|stat| (stat.ino(), stat.ctime(), stat.ctime_nsec()));
        if self.database != database {
            self.names.clear();
            self.database = database;
        }
        self.names.get_or_insert(uid, || read_name(uid)).clone()
    }
}

fn read_name(uid: u32) -> Option<Arc<str>> {
    let mut buffer = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and the buffer's length is given.
        let error =
            unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
        if error == libc::ERANGE && buffer.len() < MAX_ENTRY_BYTES {
            buffer.resize(2 * buffer.len(), 0);
            continue;
        }
        if error != 0 || found.is_null() {
            return None;
        }
        // SAFETY: `found` points to `entry`, which getpwuid_r filled in; its strings lie in `buffer` and end with a NUL.
        let name = unsafe { CStr::from_ptr((*found).pw_name) };
        return Some(name.to_string_lossy().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_user_database() {
        let mut users = Users::default();
        for line in std::fs::read_to_string("/etc/passwd").unwrap().lines() {
            let fields: Vec<&str> = line.split(':').collect();
            assert_eq!(users.name(fields[2].parse().unwrap()).as_deref(), Some(fields[0]));
        }
        assert_eq!(users.name(3_999_999_999), None);
    }
}
