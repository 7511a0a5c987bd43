//! The same by other means: layers put one upon the other in a tree of nested maps, entry by entry, as one reads the
//! specification. Random layers must come out as it says.

use std::collections::BTreeMap;
use std::rc::Rc;

use mvm_wire::tar::{Entry, Kind};
use proptest::prelude::*;

use super::tars::{Tar, directory, file, link, symlink};
use super::{entries, together};

/// What a layer does.
#[derive(Debug, Clone)]
enum Step {
    Directory(String, u32),
    File(String, u8),
    Symlink(String, String),
    Link(String, String),
    Removal(String),
    Emptying(String),
}

#[derive(Debug, Clone)]
enum Node {
    Directory(u32, BTreeMap<String, Node>),
    Leaf(Rc<String>),
}

fn new_directory() -> Node {
    Node::Directory(0o755, BTreeMap::new())
}

impl Node {
    fn children(&mut self) -> Option<&mut BTreeMap<String, Node>> {
        match self {
            Node::Directory(_, children) => Some(children),
            Node::Leaf(_) => None,
        }
    }

    fn get(&self, path: &str) -> Option<&Node> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(self, |node, part| match node {
            Node::Directory(_, children) => children.get(part),
            Node::Leaf(_) => None,
        })
    }

    /// The directory that a path is in, made if it is missing; none if there is something else.
    fn parent(&mut self, path: &str, make: bool) -> Option<&mut BTreeMap<String, Node>> {
        let (dir, _) = path.rsplit_once('/').unwrap_or(("", path));
        let mut node = self;
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            let children = node.children()?;
            if make {
                children.entry(part.to_owned()).or_insert_with(new_directory);
            }
            node = children.get_mut(part)?;
        }
        node.children()
    }

    fn remove(&mut self, step: &Step) {
        match step {
            Step::Removal(path) => {
                self.parent(path, false).and_then(|children| children.remove(name(path)));
            }
            Step::Emptying(path) => {
                if let Some(children) = self.parent(&format!("{path}/x"), false) {
                    children.clear();
                }
            }
            _ => {}
        }
    }

    /// Whether it can be done.
    fn add(&mut self, step: &Step) -> bool {
        let leaf = |text: String| Node::Leaf(Rc::new(text));
        let (path, node) = match step {
            Step::Directory(path, mode) => (path, Node::Directory(*mode, BTreeMap::new())),
            Step::File(path, content) => (path, leaf(format!("file {content}"))),
            Step::Symlink(path, target) => (path, leaf(format!("link {target}"))),
            Step::Link(path, target) => match self.get(target) {
                Some(node @ Node::Leaf(_)) => (path, node.clone()),
                _ => return false,
            },
            Step::Removal(_) | Step::Emptying(_) => return true,
        };
        let Some(children) = self.parent(path, true) else { return false };
        match (children.get_mut(name(path)), node) {
            (Some(Node::Directory(mode, _)), Node::Directory(new, _)) => *mode = new,
            (_, node) => drop(children.insert(name(path).to_owned(), node)),
        }
        true
    }

    /// Whether all that there is of the way to where something was to be removed are directories.
    fn could_remove(&self, step: &Step) -> bool {
        let dir = match step {
            Step::Removal(path) => path.rsplit_once('/').map_or("", |(dir, _)| dir),
            Step::Emptying(dir) => dir,
            _ => return true,
        };
        let mut node = self;
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            match node {
                Node::Leaf(_) => return false,
                Node::Directory(_, children) => match children.get(part) {
                    Some(child) => node = child,
                    None => return true,
                },
            }
        }
        matches!(node, Node::Directory(..))
    }

    /// All of it in lines: what is where, and which are names of one file.
    fn lines(&self, path: &str, firsts: &mut BTreeMap<*const String, String>, lines: &mut Vec<String>) {
        match self {
            Node::Directory(mode, children) => {
                lines.push(format!("{path}/ {mode:o}"));
                children.iter().for_each(|(name, node)| node.lines(&format!("{path}/{name}"), firsts, lines));
            }
            Node::Leaf(text) => {
                let first = firsts.entry(Rc::as_ptr(text)).or_insert_with(|| path.to_owned());
                lines.push(format!("{path} {text} as {first}"));
            }
        }
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn lines(root: &Node) -> Vec<String> {
    let mut lines = Vec::new();
    root.lines("", &mut BTreeMap::new(), &mut lines);
    lines
}

/// What the layers are together; steps that cannot be done are left out of them if that is wished, else there is nothing.
fn applied(layers: &mut [Vec<Step>], leave_out: bool) -> Option<Node> {
    let mut root = new_directory();
    for (number, layer) in layers.iter_mut().enumerate() {
        if number > 0 {
            layer.iter().for_each(|step| root.remove(step));
        }
        let before = layer.len();
        // A step that fails must change nothing.
        layer.retain(|step| {
            let mut tried = root.clone();
            let done = tried.add(step);
            if done {
                root = tried;
            }
            done
        });
        let removed = number == 0 || layer.iter().all(|step| root.could_remove(step));
        if (layer.len() < before && !leave_out) || !removed {
            return None;
        }
    }
    ["dev", "proc", "run", "sys", "tmp"].iter().for_each(|needed| {
        let mode = if *needed == "tmp" {
            0o1777
        } else if ["proc", "sys"].contains(needed) {
            0o555
        } else {
            0o755
        };
        root.add(&Step::Directory((*needed).to_owned(), mode));
    });
    Some(root)
}

fn archive(layer: &[Step]) -> Vec<u8> {
    let write = |tar: Tar, step: &Step| match step {
        Step::Directory(path, mode) => tar.put(&Entry { mode: *mode, ..directory(path) }),
        Step::File(path, content) => tar.file(path, &[*content]),
        Step::Symlink(path, target) => tar.put(&symlink(path, target)),
        Step::Link(path, target) => tar.put(&link(path, target)),
        Step::Removal(path) => {
            let (dir, name) =
                path.rsplit_once('/').map_or((String::new(), path.as_str()), |(d, n)| (format!("{d}/"), n));
            tar.put(&file(&format!("{dir}.wh.{name}"), 0))
        }
        Step::Emptying(path) => tar.put(&file(&format!("{path}/.wh..wh..opq"), 0)),
    };
    layer.iter().fold(Tar::new(), write).end()
}

/// The tree of an archive, each of whose entries must find its place as it comes.
fn unpacked(archive: &[u8]) -> Node {
    let mut root = new_directory();
    let parts = |(entry, _): (Entry, _)| entry.path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let order: Vec<_> = entries(archive).into_iter().skip(1).map(parts).collect();
    assert!(order.is_sorted(), "all of a directory comes before anything else");
    for (entry, content) in entries(archive) {
        let path = String::from_utf8(entry.path).unwrap();
        if path.is_empty() {
            continue;
        }
        assert!(root.get(&path).is_none(), "{path} is there twice");
        assert!(root.parent(&path, false).is_some(), "{path} comes before what it is in");
        let step = match entry.kind {
            Kind::Directory => Step::Directory(path, entry.mode),
            Kind::File => Step::File(path, content[0]),
            Kind::Symlink(target) => Step::Symlink(path, String::from_utf8(target).unwrap()),
            Kind::Link(target) => Step::Link(path, String::from_utf8(target).unwrap()),
            other => panic!("{other:?}"),
        };
        assert!(root.add(&step), "{step:?}");
    }
    root
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("a-"), Just("c")], 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any_path(), 0u32..0o1000).prop_map(|(path, mode)| Step::Directory(path, mode)),
        4 => (any_path(), any::<u8>()).prop_map(|(path, content)| Step::File(path, content)),
        1 => (any_path(), any_path()).prop_map(|(path, target)| Step::Symlink(path, target)),
        3 => (any_path(), any_path()).prop_map(|(path, target)| Step::Link(path, target)),
        2 => any_path().prop_map(Step::Removal),
        1 => any_path().prop_map(Step::Emptying),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn layers_are_together_what_they_are_one_by_one(
        mut layers in prop::collection::vec(prop::collection::vec(any_step(), 0..12), 1..5),
    ) {
        let expected = applied(&mut layers, true);
        let archives: Vec<Vec<u8>> = layers.iter().map(|layer| archive(layer)).collect();
        match expected {
            None => prop_assert!(together(&archives).is_err(), "{layers:?}"),
            Some(expected) => {
                let flat = together(&archives).unwrap();
                prop_assert_eq!(lines(&unpacked(&flat)), lines(&expected), "{:?}", layers);
                prop_assert_eq!(together(std::slice::from_ref(&flat)).unwrap(), flat, "one form only");
            }
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused(layers in prop::collection::vec(prop::collection::vec(any_step(), 0..5), 1..4)) {
        let archives: Vec<Vec<u8>> = layers.iter().map(|layer| archive(layer)).collect();
        prop_assert_eq!(applied(&mut layers.clone(), false).is_some(), together(&archives).is_ok(), "{:?}", layers);
    }
}
