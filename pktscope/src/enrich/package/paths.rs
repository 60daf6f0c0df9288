//! An index of paths, small enough to hold every file of a system.

use ahash::RandomState;

/// Paths that an index holds, 8 bytes each; a full desktop has about half a million.
const MAX_FILES: usize = 4 << 20;

/// Hashes of paths and the number of what holds each: about 1 MiB for 130,000 files.
///
/// A hit is to be checked: half a hash stands for the path.
#[derive(Debug)]
pub(super) struct PathIndex {
    /// Hash of the path, holder; sorted once sealed.
    files: Vec<(u32, u32)>,
    hasher: RandomState,
}

impl Default for PathIndex {
    fn default() -> Self {
        Self { files: Vec::new(), hasher: RandomState::with_seeds(1, 2, 3, 4) }
    }
}

impl PathIndex {
    /// Notes that a holder has a path; none beyond the bound.
    pub(super) fn add(&mut self, path: &[u8], holder: u32) {
        if self.files.len() < MAX_FILES {
            self.files.push((self.hash(path), holder));
        }
    }

    /// Makes the index ready to be asked.
    pub(super) fn seal(mut self, database: &str) -> Self {
        if MAX_FILES <= self.files.len() {
            tracing::warn!(limit = MAX_FILES, "{database} knows more files than are indexed: some have no package");
        }
        self.files.sort_unstable();
        self.files.dedup();
        self.files.shrink_to_fit();
        self
    }

    /// Holders that may have a path, in their order.
    pub(super) fn find(&self, path: &[u8]) -> impl Iterator<Item = u32> {
        let hash = self.hash(path);
        let start = self.files.partition_point(|(other, _)| *other < hash);
        self.files[start..].iter().take_while(move |(other, _)| *other == hash).map(|(_, holder)| *holder)
    }

    fn hash(&self, path: &[u8]) -> u32 {
        // Half the bits are enough to find the holder in which the path is then looked for.
        (self.hasher.hash_one(path) >> 32) as u32
    }
}
