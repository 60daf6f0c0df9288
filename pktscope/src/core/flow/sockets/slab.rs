//! Where open flows lie: in blocks of their own, so that what is freed between them can be given back.

use ahash::RandomState;
use hashbrown::HashMap;

use super::live::LiveFlow;
use crate::core::flow::FlowId;

/// Flows a block: some 90 KiB.
const BLOCK: usize = 256;
/// Flows whose room in the index is never given up.
const LEAST_ROOM: usize = 1_024;

/// Flows by number.
#[derive(Debug)]
pub(super) struct Slab<U> {
    index: HashMap<FlowId, u32, RandomState>,
    /// Each block full, or empty where none of its flows is left.
    blocks: Vec<Vec<Option<LiveFlow<U>>>>,
    free: Vec<u32>,
}

impl<U> Slab<U> {
    pub(super) fn new(state: RandomState) -> Self {
        Self { index: HashMap::with_hasher(state), blocks: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub(super) fn contains_key(&self, id: &FlowId) -> bool {
        self.index.contains_key(id)
    }

    pub(super) fn get(&self, id: &FlowId) -> Option<&LiveFlow<U>> {
        let (block, at) = place(*self.index.get(id)?);
        self.blocks.get(block)?.get(at)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: &FlowId) -> Option<&mut LiveFlow<U>> {
        let (block, at) = place(*self.index.get(id)?);
        self.blocks.get_mut(block)?.get_mut(at)?.as_mut()
    }

    pub(super) fn insert(&mut self, id: FlowId, live: LiveFlow<U>) {
        if self.free.is_empty() {
            self.add_block();
        }
        let Some(slot) = self.free.pop() else { return };
        let (block, at) = place(slot);
        self.blocks[block][at] = Some(live);
        self.index.insert(id, slot);
    }

    pub(super) fn remove(&mut self, id: &FlowId) -> Option<LiveFlow<U>> {
        let slot = self.index.remove(id)?;
        self.free.push(slot);
        let (block, at) = place(slot);
        self.blocks.get_mut(block)?.get_mut(at)?.take()
    }

    /// Flows that there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.blocks.iter().map(Vec::len).sum()
    }

    /// Every flow, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &LiveFlow<U>)> {
        self.index.keys().filter_map(|id| self.get(id).map(|live| (*id, live)))
    }

    fn add_block(&mut self) {
        let block = self.blocks.iter().position(Vec::is_empty).unwrap_or_else(|| {
            self.blocks.push(Vec::new());
            self.blocks.len() - 1
        });
        self.blocks[block].resize_with(BLOCK, || None);
        self.free.extend((0..BLOCK).rev().filter_map(|at| u32::try_from(block * BLOCK + at).ok()));
    }

    /// Gives up blocks without flows where most of the room is not used.
    pub(super) fn shrink(&mut self) {
        let room = (self.index.len() * 2).max(LEAST_ROOM);
        if self.index.capacity() / 8 <= room {
            return;
        }
        self.index.shrink_to(room);
        for block in &mut self.blocks {
            if block.iter().all(Option::is_none) {
                *block = Vec::new();
            }
        }
        let blocks = &self.blocks;
        self.free.retain(|slot| !blocks[place(*slot).0].is_empty());
        self.free.shrink_to_fit();
    }
}

/// A slot's block, and where it lies in there.
fn place(slot: u32) -> (usize, usize) {
    (slot as usize / BLOCK, slot as usize % BLOCK)
}
