//! The bytes of an empty qcow2 overlay. Every clone needs one, and starting `qemu-img` for it takes longer than the clone.
//!
//! Layout (version 3, 64 KiB clusters, 16-bit reference counts): header, reference count table, one reference count
//! block, one-cluster L1 table. No backing file is named inside: the chain is given to QEMU node by node.

const CLUSTER: u64 = 64 << 10;
/// Disk bytes that one L1 entry covers: an L2 table of one cluster, 8 bytes for each data cluster.
const L1_ENTRY_COVERS: u64 = CLUSTER / 8 * CLUSTER;
/// The largest disk whose L1 table still fits into one cluster.
pub const MAX_DISK: u64 = CLUSTER / 8 * L1_ENTRY_COVERS;

/// The allocated part of an empty overlay of `disk_bytes`, and the file length it belongs to (the rest is zeros).
pub fn empty_overlay(disk_bytes: u64) -> (Vec<u8>, u64) {
    assert!(disk_bytes <= MAX_DISK, "callers check the size of a disk");
    let l1_entries = disk_bytes.div_ceil(L1_ENTRY_COVERS) as u32;
    let mut header = Vec::with_capacity(112);
    header.extend(b"QFI\xfb");
    header.extend(3u32.to_be_bytes());
    header.extend(0u64.to_be_bytes()); // backing file: given as a node, never by name
    header.extend(0u32.to_be_bytes());
    header.extend(CLUSTER.trailing_zeros().to_be_bytes());
    header.extend(disk_bytes.to_be_bytes());
    header.extend(0u32.to_be_bytes()); // not encrypted
    header.extend(l1_entries.to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes()); // L1 table
    header.extend(CLUSTER.to_be_bytes()); // reference count table
    header.extend(1u32.to_be_bytes()); // its clusters
    header.extend(0u32.to_be_bytes()); // snapshots
    header.extend(0u64.to_be_bytes());
    header.extend([0; 24]); // features: none
    header.extend(4u32.to_be_bytes()); // 2^4 bits for each reference count
    header.extend(104u32.to_be_bytes()); // header length
    header.extend([0; 8]); // no extensions
    let mut bytes = header;
    bytes.resize(CLUSTER as usize, 0);
    bytes.extend((2 * CLUSTER).to_be_bytes()); // first reference count block
    bytes.resize(2 * CLUSTER as usize, 0);
    bytes.extend([1u16; 4].map(u16::to_be_bytes).as_flattened()); // the four clusters in use
    (bytes, 4 * CLUSTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_the_format_says() {
        let (bytes, len) = empty_overlay(4 << 30);
        assert_eq!(len, 256 << 10);
        assert!(bytes.len() as u64 <= 3 * CLUSTER);
        assert_eq!(&bytes[..8], b"QFI\xfb\0\0\0\x03");
        assert_eq!(bytes[24..32], (4u64 << 30).to_be_bytes());
        assert_eq!(bytes[36..40], 8u32.to_be_bytes());
        assert_eq!(bytes[CLUSTER as usize..][..8], (2 * CLUSTER).to_be_bytes());
    }
}
