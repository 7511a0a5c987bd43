//! Which step is which in two lists of steps: one that was put in between is one step more, and not all after it others.

use std::collections::BTreeMap;

use serde_json::Value;

/// A step that is in both lists, or in one of them, by its indexes.
pub type Pair = (Option<usize>, Option<usize>);

/// A step as numbers: its kind's, then that of what it runs or works on, then its own, which only equal steps have.
type Mark = [usize; 3];

/// Pairs the steps of two lists in their order: as many equal ones as can be, then as many with one program or path as can be,
/// then as many of one kind. Time and memory are bounded by the product of the lengths, each of which is at most 1000, and not
/// by the sizes of the steps.
pub fn align(before: &[Value], after: &[Value]) -> Vec<Pair> {
    let mut numbers = BTreeMap::new();
    let [before, after] = [before, after].map(|steps| marks(steps, &mut numbers));
    let best = best(&before, &after);
    let (mut pairs, mut old, mut new) = (Vec::new(), 0, 0);
    while old < before.len() || new < after.len() {
        let here = best[old][new];
        if old < before.len() && new < after.len() && paired(&best, &before, &after, old, new) == Some(here) {
            pairs.push((Some(old), Some(new)));
            (old, new) = (old + 1, new + 1);
        } else if old < before.len() && best[old + 1][new] == here {
            pairs.push((Some(old), None));
            old += 1;
        } else {
            pairs.push((None, Some(new)));
            new += 1;
        }
    }
    pairs
}

fn marks(steps: &[Value], numbers: &mut BTreeMap<String, usize>) -> Vec<Mark> {
    let mut number = |text: String| {
        let next = numbers.len();
        *numbers.entry(text).or_insert(next)
    };
    let mark = |step: &Value| {
        let (kind, call) = step.as_object().and_then(|choice| choice.iter().next()).unzip();
        let kind = kind.cloned().unwrap_or_default();
        let on = |call: &Value| {
            let fields = ["path", "source", "guest_path"].map(|field| call[field].to_string());
            format!("{kind} {} {}", call["argv"][0], fields.join(" "))
        };
        let on = call.map(on);
        [kind, on.unwrap_or_default(), step.to_string()].map(&mut number)
    };
    steps.iter().map(mark).collect()
}

/// The most that pairing can gain from each pair of places on.
fn best(before: &[Mark], after: &[Mark]) -> Vec<Vec<usize>> {
    let mut best = vec![vec![0; after.len() + 1]; before.len() + 1];
    for old in (0..before.len()).rev() {
        for new in (0..after.len()).rev() {
            let unpaired = best[old + 1][new].max(best[old][new + 1]);
            best[old][new] = paired(&best, before, after, old, new).unwrap_or(0).max(unpaired);
        }
    }
    best
}

/// The same if these two steps are paired; none if they are of different kinds.
fn paired(best: &[Vec<usize>], before: &[Mark], after: &[Mark], old: usize, new: usize) -> Option<usize> {
    let alike = before[old].iter().zip(&after[new]).take_while(|(mark, other)| mark == other).count();
    // One pair is worth more than all that are less alike.
    let more = before.len() + 1;
    let gain = [None, Some(1), Some(more), Some(more * more)][alike];
    gain.map(|gain| gain + best[old + 1][new + 1])
}
