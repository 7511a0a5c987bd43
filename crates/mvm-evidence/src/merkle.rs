//! The hash tree of RFC 6962 (and RFC 9162): one root over any number of entries, and short proofs that one is among them.

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// The hash of an entry.
pub fn leaf_hash(entry: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

/// The hash of two subtrees side by side.
pub fn node_hash(left: Digest, right: Digest) -> Digest {
    Digest(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// A tree that only its right edge is kept of: entries are added and the root is known, in memory that hardly grows.
#[derive(Debug, Clone, Default)]
pub struct Edge {
    size: u64,
    /// The roots of the complete subtrees, the largest first: one for each bit of the size.
    subtrees: Vec<Digest>,
}

impl Edge {
    /// Adds an entry by its hash.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            // One subtree for each bit that is set.
            let Some(left) = self.subtrees.pop() else { break };
            hash = node_hash(left, hash);
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root: of no entries the hash of nothing.
    pub fn root(&self) -> Digest {
        let roots = self.subtrees.iter().rev().copied();
        roots.reduce(|right, left| node_hash(left, right)).unwrap_or_else(|| Digest::of(b""))
    }
}

/// The root of a tree with these leaf hashes.
pub fn root(leaves: &[Digest]) -> Digest {
    let mut edge = Edge::default();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    edge.root()
}

/// The root of the entries `from..to`, where `from` is a multiple of the largest power of two below their number, from
/// the roots of complete subtrees: `node(height, index)` is that of the entries `index << height .. (index + 1) << height`.
pub fn range_root<E>(from: u64, to: u64, node: &mut impl FnMut(u32, u64) -> Result<Digest, E>) -> Result<Digest, E> {
    let size = to - from;
    if size == 0 {
        return Ok(Digest::of(b""));
    }
    if size.is_power_of_two() {
        let height = size.trailing_zeros();
        return node(height, from >> height);
    }
    let middle = from + split(size);
    Ok(node_hash(range_root(from, middle, node)?, range_root(middle, to, node)?))
}

/// The inclusion proof of an entry in a tree of `size`: from the entry's sibling to a child of the root.
pub fn inclusion<E>(
    index: u64,
    size: u64,
    node: &mut impl FnMut(u32, u64) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(range_root(middle, to, node)?);
            to = middle;
        } else {
            path.push(range_root(from, middle, node)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root to which an inclusion proof leads (RFC 9162, 2.1.3.2). `None` if it is no proof for that place in a tree of
/// that size.
pub fn root_of_inclusion(leaf: Digest, index: u64, size: u64, path: &[Digest]) -> Option<Digest> {
    if index >= size {
        return None;
    }
    let (mut place, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(*sibling, hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(hash, *sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// The largest power of two below `size`, which is above one.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<Digest> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    /// As the RFC words it.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(b""),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(split(many.len() as u64) as usize);
                node_hash(by_definition(left), by_definition(right))
            }
        }
    }

    /// The hashes of the tree with the entries 0, 1, … in the RFC's reference implementation.
    #[test]
    fn known_roots() {
        let entries: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let hashes: Vec<_> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        for (size, expected) in [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(root(&hashes[..size]).to_string(), expected, "{size}");
        }
    }

    #[test]
    fn roots_and_proofs_agree_with_the_definition_at_every_size() {
        let all = leaves(70);
        let mut node = |height: u32, index: u64| -> Result<Digest, ()> {
            let from = (index << height) as usize;
            Ok(by_definition(&all[from..from + (1 << height)]))
        };
        for size in 0..=70 {
            let expected = by_definition(&all[..size as usize]);
            assert_eq!(root(&all[..size as usize]), expected, "{size}");
            assert_eq!(range_root(0, size, &mut node).unwrap(), expected, "{size}");
            for index in 0..size {
                let path = inclusion(index, size, &mut node).unwrap();
                let leads_to = |index, size, path: &[Digest]| root_of_inclusion(all[index as usize], index, size, path);
                assert_eq!(leads_to(index, size, &path), Some(expected), "{index} of {size}");
                // Of another place, with a hash too many or too few, or of another size, it leads elsewhere.
                assert_ne!(leads_to((index + 1) % size, size, &path), (size > 1).then_some(expected));
                assert_ne!(
                    leads_to(index, size, &[&path[..], &path[..1.min(path.len())], &all[..1]].concat()),
                    Some(expected)
                );
                if let Some((_, shorter)) = path.split_last() {
                    assert_eq!(leads_to(index, size, shorter), None);
                }
                assert_eq!(leads_to(index, index, &path), None);
            }
        }
    }
}
