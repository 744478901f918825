//! The keys that are remembered, in the order in which they were heard of. Pure.
//!
//! A table of its own, for its size: 10,000 clients have to fit into 2 MiB, and a map from names beside a list of names
//! holds each name twice. Here a node is in two lists by index: the chain of its hash, and the order of use.

use std::hash::{BuildHasher, RandomState};

use super::bucket::Bucket;

/// No node.
const NONE: u32 = u32::MAX;
const HEADS_MIN: usize = 16;

/// How many of the oldest are looked at, when one is added, for one that need not be remembered: nginx's number. One
/// would do to give back more than is taken.
const STALE_LOOKS: usize = 2;

#[derive(Debug)]
pub(super) struct Keys {
    keys_max: usize,
    /// First node of each chain; a power of two of them.
    heads: Vec<u32>,
    nodes: Vec<Node>,
    /// First of the nodes that are free, chained as well.
    free: u32,
    newest: u32,
    oldest: u32,
    len: usize,
    /// Clients choose names: the hash is keyed.
    hasher: RandomState,
}

#[derive(Debug)]
struct Node {
    key: Box<str>,
    bucket: Bucket,
    hash: u32,
    next: u32,
    newer: u32,
    older: u32,
}

impl Keys {
    pub(super) fn new(keys_max: usize) -> Keys {
        Keys {
            keys_max: keys_max.clamp(1, NONE as usize),
            heads: vec![NONE; HEADS_MIN],
            nodes: Vec::new(),
            free: NONE,
            newest: NONE,
            oldest: NONE,
            len: 0,
            hasher: RandomState::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &str) -> Option<&Bucket> {
        self.find(key, self.hash(key)).map(|at| &self.nodes[at as usize].bucket)
    }

    /// The bucket of a key, which is now the newest.
    pub(super) fn heard_of(&mut self, key: &str) -> Option<&mut Bucket> {
        let at = self.find(key, self.hash(key))?;
        if self.newest != at {
            self.leave_order(at);
            self.enter_order(at);
        }
        Some(&mut self.nodes[at as usize].bucket)
    }

    /// Adds a key that is not there. If there is no room, the oldest goes, whatever its bucket holds.
    pub(super) fn insert(&mut self, key: &str, bucket: Bucket, is_stale: impl Fn(&Bucket) -> bool) {
        debug_assert!(self.get(key).is_none(), "a key stands once");
        for _ in 0..STALE_LOOKS {
            if self.oldest == NONE || !is_stale(&self.nodes[self.oldest as usize].bucket) {
                break;
            }
            self.remove_oldest();
        }
        if self.len >= self.keys_max {
            self.remove_oldest();
        }
        self.link(Box::from(key), bucket);
    }

    /// Keeps the newest of them if there are too many, and gives memory back.
    pub(super) fn resize(&mut self, keys_max: usize) {
        self.keys_max = keys_max.clamp(1, NONE as usize);
        if self.nodes.len() <= self.keys_max {
            return;
        }
        while self.len > self.keys_max {
            self.remove_oldest();
        }
        let mut smaller = Keys::new(self.keys_max);
        while self.oldest != NONE {
            let bucket = self.nodes[self.oldest as usize].bucket;
            let key = self.remove_oldest();
            smaller.link(key, bucket);
        }
        *self = smaller;
    }

    fn hash(&self, key: &str) -> u32 {
        // The lower half is as good as any.
        self.hasher.hash_one(key) as u32
    }

    fn head(&self, hash: u32) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    fn find(&self, key: &str, hash: u32) -> Option<u32> {
        let mut at = self.heads[self.head(hash)];
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.hash == hash && *node.key == *key {
                return Some(at);
            }
            at = node.next;
        }
        None
    }

    fn link(&mut self, key: Box<str>, bucket: Bucket) {
        if self.len >= self.heads.len() {
            self.widen();
        }
        let hash = self.hash(&key);
        let head = self.head(hash);
        let node = Node { key, bucket, hash, next: self.heads[head], newer: NONE, older: NONE };
        let at = self.place(node);
        self.heads[head] = at;
        self.enter_order(at);
        self.len += 1;
    }

    fn place(&mut self, node: Node) -> u32 {
        if self.free != NONE {
            let at = self.free;
            self.free = std::mem::replace(&mut self.nodes[at as usize], node).next;
            return at;
        }
        if self.nodes.len() == self.nodes.capacity() {
            // Twice as many, but no more than can ever be.
            let room = self.nodes.len().max(HEADS_MIN).min(self.keys_max - self.nodes.len());
            self.nodes.reserve_exact(room);
        }
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    /// Twice the chains. Nodes that are free are in none.
    fn widen(&mut self) {
        self.heads = vec![NONE; self.heads.len() * 2];
        let mut at = self.oldest;
        while at != NONE {
            let head = self.head(self.nodes[at as usize].hash);
            let node = &mut self.nodes[at as usize];
            node.next = std::mem::replace(&mut self.heads[head], at);
            at = node.newer;
        }
    }

    fn remove_oldest(&mut self) -> Box<str> {
        let at = self.oldest;
        self.leave_order(at);
        self.leave_chain(at);
        self.len -= 1;
        let node = &mut self.nodes[at as usize];
        node.next = std::mem::replace(&mut self.free, at);
        std::mem::take(&mut node.key)
    }

    fn leave_chain(&mut self, at: u32) {
        let Node { hash, next, .. } = self.nodes[at as usize];
        let head = self.head(hash);
        let mut before = self.heads[head];
        if before == at {
            self.heads[head] = next;
            return;
        }
        while self.nodes[before as usize].next != at {
            before = self.nodes[before as usize].next;
        }
        self.nodes[before as usize].next = next;
    }

    fn leave_order(&mut self, at: u32) {
        let Node { newer, older, .. } = self.nodes[at as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    fn enter_order(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        match before {
            NONE => self.oldest = at,
            before => self.nodes[before as usize].newer = at,
        }
        let node = &mut self.nodes[at as usize];
        (node.newer, node.older) = (NONE, before);
    }
}
