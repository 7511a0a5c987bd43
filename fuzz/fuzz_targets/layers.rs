//! Layers from anybody: they are refused, or they are one archive in which everything has its place, and which is the same
//! when it is a layer itself. The first byte says how many layers the rest is.

#![no_main]

use std::collections::HashSet;
use std::io::{Read, Write};

use libfuzzer_sys::fuzz_target;
use mvm_runtime::layers::{Layer, Limits, Region, flatten};
use mvm_wire::tar::{self, Kind};

const LIMITS: Limits = Limits { layers: 4, entries: 1000, bytes: 1 << 20, names: 1 << 16 };

fn together(layers: &[&[u8]], limits: &Limits) -> Option<Vec<u8>> {
    let layer = |bytes: &&[u8]| {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("its content");
        Layer { name: "layer".to_owned(), region: Region::whole(file).expect("a file") }
    };
    let (layers, mut out): (Vec<Layer>, _) = (layers.iter().map(layer).collect(), Vec::new());
    flatten(&layers, limits, &mut out).ok().map(|_| out)
}

/// The sums of headers, which no random input has right.
fn fixed(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for header in data.chunks_exact_mut(512).filter(|header| header.iter().any(|byte| *byte != 0)) {
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    data
}

fuzz_target!(|data: &[u8]| {
    let Some((count, rest)) = data.split_first() else { return };
    let data = fixed(rest);
    let blocks = (data.len() / 512 / (usize::from(*count) % 3 + 1)).max(1);
    let layers: Vec<&[u8]> = data.chunks(blocks * 512).take(4).collect();
    let Some(flat) = together(&layers, &LIMITS) else { return };
    let (mut rest, mut directories, mut others) = (flat.as_slice(), HashSet::new(), HashSet::new());
    while let Some(entry) = tar::read(&mut rest).expect("what was written can be read") {
        let parent = entry.path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default();
        assert!(entry.path.is_empty() || directories.contains(parent), "it comes before what it is in");
        match entry.kind {
            Kind::Link(target) => assert!(others.contains(&target), "it links to what is not there"),
            Kind::Directory => assert!(directories.insert(entry.path)),
            _ => assert!(others.insert(entry.path)),
        }
        let length = entry.size + tar::padding(entry.size);
        std::io::copy(&mut rest.by_ref().take(length), &mut std::io::sink()).expect("its content");
    }
    assert_eq!(together(&[&flat], &Limits::default()).as_ref(), Some(&flat));
});
