//! The order in which entries are evicted.
//!
//! This is the clock algorithm, the usual substitute for least recently used, as a queue. The
//! oldest item is checked first. If it was used since it came to the end of the queue, it moves to
//! the end again. A hit changes one mark and no list.
//!
//! SIEVE (Zhang and others, NSDI 2024) was tried. It leaves an item in its place when it spares it.
//! There an item that was used once stays for ever if no later item is used twice in time. So a new
//! phase of a program may get only a small part of the budget.
#![forbid(unsafe_code)]

const NONE: u32 = u32::MAX;

/// A queue of items in the order of eviction.
pub(super) struct Clock<T> {
    nodes: Vec<Node<T>>,
    /// Nodes without an item.
    unused: Vec<u32>,
    oldest: u32,
    newest: u32,
}

struct Node<T> {
    item: Option<T>,
    older: u32,
    newer: u32,
}

impl<T> Default for Clock<T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), unused: Vec::new(), oldest: NONE, newest: NONE }
    }
}

impl<T> Clock<T> {
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.unused.len()
    }

    /// Adds an item, and returns its place, which does not change.
    pub(super) fn push(&mut self, item: T) -> u32 {
        let node = Node { item: Some(item), older: NONE, newer: NONE };
        let at = match self.unused.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.link(at);
        at
    }

    pub(super) fn remove(&mut self, at: u32) -> Option<T> {
        let item = self.nodes.get_mut(at as usize)?.item.take()?;
        self.unlink(at);
        self.unused.push(at);
        Some(item)
    }

    /// Returns the next item that is not spared. Each item is asked about at most twice.
    pub(super) fn victim(&mut self, mut is_spared: impl FnMut(&T) -> bool) -> Option<&T> {
        for _ in 0..2 * self.len() {
            let at = self.oldest;
            if !self.nodes.get(at as usize)?.item.as_ref().is_some_and(&mut is_spared) {
                return self.nodes[at as usize].item.as_ref();
            }
            self.unlink(at);
            self.link(at);
        }
        None
    }

    /// Returns the items from the oldest to the newest.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let first = self.nodes.get(self.oldest as usize);
        std::iter::successors(first, |node| self.nodes.get(node.newer as usize)).filter_map(|node| node.item.as_ref())
    }

    /// Adds a node at the end.
    fn link(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        (node.older, node.newer) = (self.newest, NONE);
        match self.newest {
            NONE => self.oldest = at,
            older => self.nodes[older as usize].newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let &Node { older, newer, .. } = &self.nodes[at as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn what_was_used_is_spared_once() {
        let mut clock = Clock::default();
        let places: Vec<u32> = (0..5).map(|n| clock.push(n)).collect();
        let mut used: HashSet<usize> = [0, 2, 4].into();
        let next = |clock: &mut Clock<usize>, used: &mut HashSet<usize>| {
            let victim = clock.victim(|n| used.remove(n)).copied()?;
            clock.remove(places[victim])
        };
        assert_eq!((next(&mut clock, &mut used), next(&mut clock, &mut used)), (Some(1), Some(3)));
        assert_eq!(clock.iter().copied().collect::<Vec<_>>(), [4, 0, 2]);
        assert_eq!((next(&mut clock, &mut used), clock.len()), (Some(0), 2));
        used.extend([2, 4]);
        assert_eq!((next(&mut clock, &mut used), next(&mut clock, &mut used)), (Some(2), Some(4)));
        assert_eq!((next(&mut clock, &mut used), clock.len(), clock.iter().count()), (None, 0, 0));
        // Places are used again.
        assert!(places.contains(&clock.push(9)));
        assert_eq!((clock.remove(77), clock.len()), (None, 1));
        assert_eq!(clock.victim(|_| true), None, "it ends where all are spared");
    }
}
