//! Which iterators a sweep runs.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use super::{netns, session::SweepKind, sys};

/// Iterators that come by sockets.
#[derive(Default)]
pub(super) struct Walks {
    /// By every socket that has storage.
    pub(super) stored: Option<OwnedFd>,
    /// By every socket that a process holds.
    pub(super) held: Option<OwnedFd>,
    /// By every TCP socket of a network namespace.
    pub(super) unheld: Option<OwnedFd>,
    /// The namespace, not our own, in which that ran last, by its inode number.
    last_namespace: u64,
}

/// One run of an iterator.
pub(super) struct Walk {
    /// Runs once when it is read.
    pub(super) iterator: File,
    /// Whether it also tells of sockets that have not changed.
    pub(super) tells_all: bool,
}

impl Walks {
    pub(super) fn is_empty(&self) -> bool {
        self.stored.is_none() && self.held.is_none()
    }

    /// Whether they come by every socket there is.
    pub(super) fn is_complete(&self) -> bool {
        self.held.is_none()
    }

    /// No socket has a slot: where there is a walk by storage it comes by every socket.
    pub(super) fn leave_slots(&mut self) {
        if self.stored.is_some() {
            (self.held, self.unheld) = (None, None);
        }
    }

    /// What a sweep runs, in this order.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn open(&mut self, kind: SweepKind) -> io::Result<Vec<Walk>> {
        let tells_all = kind != SweepKind::Changed;
        let mut walks = Vec::new();
        for link in [&self.stored, &self.held].into_iter().flatten() {
            walks.push(Walk { iterator: sys::open_iterator(link.as_fd())?, tells_all });
        }
        if tells_all && let Some(link) = &self.unheld {
            // The others have just been reported.
            walks.push(Walk { iterator: sys::open_iterator(link.as_fd())?, tells_all: false });
            let elsewhere = open_elsewhere(link, &mut self.last_namespace)?;
            walks.extend(elsewhere.map(|iterator| Walk { iterator, tells_all: false }));
        }
        Ok(walks)
    }
}

/// The same iterator in the next of the other network namespaces: in one at a time, because each walk is over the connections
/// of all. One that is gone, or may not be entered, has its turn again.
fn open_elsewhere(link: &OwnedFd, last: &mut u64) -> io::Result<Option<File>> {
    let (all, own) = (netns::all(), netns::own_inode()?);
    let Some((&inode, path)) = all.range(*last + 1..).chain(&all).find(|(inode, _)| **inode != own) else {
        return Ok(None);
    };
    *last = inode;
    let open = |namespace: File| netns::inside(&namespace, || sys::open_iterator(link.as_fd()));
    Ok(File::open(path).and_then(open).ok())
}
