//! What the names of a file stand for at its top level, and where it uses `app`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tree_sitter::{Node, Tree};

use super::source::{Source, shown};
use super::syntax::preorder;
use super::table::{APP, Helper, find};
use super::tree::{Dialect, bare};
use super::{Finding, Language, MAX_PROBLEMS};

/// A key of an object whose value is what the name stands for: in TypeScript alone.
const SHORTHAND: &str = "shorthand_property_identifier";

/// Kinds of nodes that matter for names. A pair is a kind and one of its fields; any child of it if the field is empty.
pub(super) struct Kinds {
    /// A name after a dot, and the field that has it. What is before the dot is in the field `object`.
    pub(super) member: (&'static str, &'static str),
    pub(super) call: &'static str,
    /// What has a name and a `value`, and the field that has the name.
    pub(super) named: &'static [(&'static str, &'static str)],
    pub(super) texts: &'static [&'static str],
    /// Literals that can be changed after they were made.
    pub(super) changeable: &'static [&'static str],
    pub(super) names: &'static [&'static str],
    /// Where names get a value: all that are within, but of
    pub(super) bound: &'static [(&'static str, &'static str)],
    /// these only in the first part,
    pub(super) bound_first: &'static [&'static str],
    /// and of these only in the last one.
    pub(super) bound_last: &'static [&'static str],
    /// What gives a value to a name of the top level from wherever it is.
    pub(super) global: &'static str,
    /// Where a name stands for nothing.
    pub(super) labels: &'static [(&'static str, &'static str)],
    /// What has names of its own, and what it is called.
    pub(super) scopes: &'static [(&'static str, &'static str)],
    /// What has none, and is not the top level all the same.
    pub(super) blocks: &'static [(&'static str, &'static str)],
}

/// A node on the way from the root to the one that is looked at.
#[derive(Clone, Copy)]
pub(super) struct Level<'t> {
    pub(super) node: Node<'t>,
    /// The node's.
    pub(super) kind: &'static str,
    /// Whether names in it get a value.
    bound: bool,
    /// Whether a name is only a label.
    label: bool,
    /// Whether it has names of its own.
    scope: bool,
    /// Whether texts in it may be secrets.
    secret: bool,
    /// What it is in that is not the top level: the outermost.
    inside: Option<&'static str>,
}

fn has(pairs: &[(&str, &str)], kind: &str, field: Option<&str>) -> bool {
    pairs.iter().any(|(of, its)| *of == kind && (its.is_empty() || Some(*its) == field))
}

impl<'t> Level<'t> {
    fn below(above: Option<&Level<'t>>, node: Node<'t>, field: Option<&str>, kinds: &Kinds) -> Level<'t> {
        let root =
            Level { node, kind: node.kind(), bound: false, label: false, scope: false, secret: false, inside: None };
        let Some(above) = above else { return root };
        let kind = above.kind;
        let passed = above.bound
            && (!kinds.bound_first.contains(&kind) || node.start_byte() == above.node.start_byte())
            && (!kinds.bound_last.contains(&kind) || node.end_byte() == above.node.end_byte());
        let words = |kinds: &[(&str, &'static str)]| kinds.iter().find(|(of, _)| *of == kind).map(|(_, words)| *words);
        // The name of a function belongs to what the function is in.
        let scope = words(kinds.scopes).filter(|_| field != Some("name"));
        Level {
            node,
            kind: node.kind(),
            bound: passed || has(kinds.bound, kind, field),
            label: has(kinds.labels, kind, field),
            scope: above.scope || scope.is_some(),
            secret: above.secret && !has(kinds.named, kind, field),
            inside: above.inside.or(scope).or_else(|| words(kinds.blocks)),
        }
    }
}

/// What a name stands for.
#[derive(Clone)]
pub(super) enum What<'t> {
    Package,
    Helper(&'static Helper),
    /// A constant, by its value.
    Constant(Node<'t>),
    /// A helper, unless the file has something else of this name.
    Starred(&'static Helper),
    /// A helper, or the package, that came in a way that is not taken: why, and what to write instead.
    Unclear(Option<&'static Helper>, String, String),
}

/// A name that a statement gives a meaning to, and where it does.
pub(super) type Meaning<'t> = (&'t str, Node<'t>, What<'t>);

/// The names of the top level.
pub(super) struct Names<'t> {
    source: &'t Source<'t>,
    language: Language,
    kinds: &'static Kinds,
    known: HashMap<&'t str, What<'t>>,
    /// Where that was learnt.
    learnt: HashSet<usize>,
    /// Where a name gets a value besides.
    bound: HashMap<&'t str, usize>,
    /// The names of anything that has names of its own.
    local: HashSet<&'t str>,
    /// Where something of what a name stands for is used, which may change it.
    touched: HashMap<&'t str, usize>,
}

/// A use of a helper.
pub(super) struct Reference<'t> {
    pub(super) name: &'t str,
    /// The helper; none if the package has none of this name.
    pub(super) helper: Option<&'static Helper>,
    /// Why it may be none, and what to write instead.
    pub(super) doubt: Option<(String, String)>,
}

impl<'t> Names<'t> {
    pub(super) fn of<D: Dialect>(tree: &'t Tree, source: &'t Source<'t>) -> Names<'t> {
        let (known, bound, touched) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (learnt, local) = (HashSet::new(), HashSet::new());
        let mut names = Names { source, language: D::LANGUAGE, kinds: D::KINDS, known, learnt, bound, local, touched };
        visit(tree, D::KINDS, |levels| names.see::<D>(levels));
        names
    }

    fn see<D: Dialect>(&mut self, levels: &[Level<'t>]) {
        let Some(here) = levels.last() else { return };
        for (name, at, what) in D::imports(self, here.node) {
            self.learn(name, at, what, here.inside);
        }
        if levels.len() == 2 {
            for (name, value) in D::constants(self, here.node) {
                self.learn(self.text(name), name, What::Constant(bare::<D>(value)), None);
            }
        }
        if here.bound && self.kinds.names.contains(&here.kind) && !self.learnt.contains(&here.node.start_byte()) {
            let name = self.text(here.node);
            let above = levels.iter().rev().nth(1).map(|above| above.kind);
            if here.scope && above != Some(self.kinds.global) {
                self.local.insert(name);
            } else {
                self.bound.entry(name).or_insert(here.node.start_byte());
            }
        }
        if let Some((object, Some(_))) = self.dotted(here.node).filter(|_| !here.scope) {
            self.touched.entry(object).or_insert(here.node.start_byte());
        }
    }

    /// Takes a meaning for a name that has none or the same; of any other it is another value.
    fn learn(&mut self, name: &'t str, at: Node, what: What<'t>, inside: Option<&'static str>) {
        let same = match (self.known.get(name), &what) {
            (None, _) | (Some(What::Package | What::Unclear(..)), What::Package) => true,
            (Some(What::Helper(one)), What::Helper(other)) => one == other,
            (Some(What::Unclear(..)), What::Helper(_)) => true,
            _ => false,
        };
        if !same {
            return;
        }
        self.learnt.insert(at.start_byte());
        match inside {
            None => self.known.insert(name, what),
            Some(inside) if !self.known.contains_key(name) => self.known.insert(name, within(what, name, inside)),
            Some(_) => None,
        };
    }

    pub(super) fn text(&self, node: Node) -> &'t str {
        self.source.text(node.byte_range())
    }

    /// A name, and the one after the dot if there is one.
    fn dotted(&self, node: Node<'t>) -> Option<(&'t str, Option<&'t str>)> {
        let (member, property) = self.kinds.member;
        if node.kind() == "identifier" {
            return Some((self.text(node), None));
        }
        let member = Some(node).filter(|node| node.kind() == member)?;
        let object = member.child_by_field_name("object").filter(|object| object.kind() == "identifier")?;
        Some((self.text(object), Some(self.text(member.child_by_field_name(property)?))))
    }

    /// Which helper a name, or one after a dot, refers to; nothing if it is none of mvm's.
    pub(super) fn reference(&self, node: Node<'t>) -> Option<Reference<'t>> {
        let (first, last) = self.dotted(node)?;
        let of_package = |last| find(self.language, last);
        let (helper, mut doubt) = match (self.known.get(first)?, last) {
            (What::Package, Some(last)) => (of_package(last), None),
            (What::Helper(helper), None) => (Some(*helper), None),
            (What::Starred(helper), None) if !self.bound.contains_key(first) => {
                let instead = format!("write from mvm import {first}");
                (Some(*helper), Some((format!("{first} is imported by *, which may be another's"), instead)))
            }
            (What::Unclear(None, why, instead), Some(last)) => {
                (Some(of_package(last)?), Some((why.clone(), instead.clone())))
            }
            (What::Unclear(Some(helper), why, instead), None) => (Some(*helper), Some((why.clone(), instead.clone()))),
            (What::Constant(value), Some(last)) if self.is_package(*value) => {
                let package = shown(self.text(*value));
                let why = format!("{} is another name of {package}", shown(first));
                (Some(of_package(last)?), Some((why, format!("write {package}.{last}"))))
            }
            _ => return None,
        };
        if let Some(at) = self.bound.get(first) {
            let why =
                format!("{} stands for something else, too: see line {}", shown(first), self.source.place(*at).line);
            doubt = Some((why, "give one of them another name".to_owned()));
        }
        Some(Reference { name: last.unwrap_or(first), helper, doubt })
    }

    /// Whether it is a name of the package.
    pub(super) fn is_package(&self, node: Node) -> bool {
        node.kind() == "identifier" && matches!(self.known.get(self.text(node)), Some(What::Package))
    }

    /// The value of a constant; or why a name is none, and what to write instead.
    pub(super) fn constant(&self, node: Node<'t>) -> Result<Node<'t>, (String, String)> {
        let name = self.text(node);
        let refused = |why: &str, at: Option<&usize>| {
            let line = at.map(|at| format!(" in line {}", self.source.place(*at).line)).unwrap_or_default();
            let instead = "write the value itself, or a constant of this file that is given it once, at the top level";
            Err((format!("{} {why}{line}", shown(name)), instead.to_owned()))
        };
        let Some(What::Constant(value)) = self.known.get(name) else {
            return refused("is no constant of this file", None);
        };
        let touched = self.touched.get(name).filter(|_| self.kinds.changeable.contains(&value.kind()));
        match (self.bound.get(name), touched) {
            (None, None) => Ok(*value),
            (None, touched) => refused("may be changed", touched),
            (bound, _) => refused("is given another value", bound),
        }
    }

    /// Goes through all uses of `app`: gives what is wrong with those that do not begin at one of these places, and where texts
    /// are that may be secrets.
    pub(super) fn uses<D: Dialect>(&self, tree: &'t Tree, sites: &HashSet<usize>) -> (Vec<Finding>, Vec<Range<usize>>) {
        let (mut findings, mut hidden) = (Vec::new(), Vec::new());
        visit(tree, self.kinds, |levels| {
            // They come in the order of place.
            if findings.len() < MAX_PROBLEMS {
                findings.extend(self.misused::<D>(levels, sites));
            }
            let [.., above, here] = levels else { return };
            here.secret |= self.is_secret(above.node, here.node);
            if here.secret {
                hidden.extend(self.hidden(here.node));
            }
        });
        (findings, hidden)
    }

    fn misused<D: Dialect>(&self, levels: &[Level<'t>], sites: &HashSet<usize>) -> Option<Finding> {
        let here = levels.last()?;
        if D::takes_apart(self, here.node) {
            let (why, instead) = D::misplaced(levels);
            return Some(Finding::new(here.node.byte_range(), why, instead));
        }
        let (name, _) = self.dotted(here.node)?;
        let elsewhere = here.label || here.bound || (here.scope && self.local.contains(name));
        let is_known = elsewhere || sites.contains(&here.node.start_byte());
        let reference = self.reference(here.node).filter(|of| of.helper == Some(&APP) && !is_known)?;
        let (why, instead) = match (reference.doubt, here.inside) {
            (Some(doubt), _) => doubt,
            (None, Some(inside)) => {
                (format!("app is used inside of {inside}"), "move it to the top level of the file".to_owned())
            }
            (None, None) => D::misplaced(levels),
        };
        Some(Finding::new(here.node.byte_range(), why, instead))
    }

    /// Whether texts in a part of a node may be secrets: in the field `env`, and in what `literal` and `secret` are given.
    fn is_secret(&self, above: Node<'t>, here: Node<'t>) -> bool {
        if here.kind() == SHORTHAND {
            return self.text(here) == "env";
        }
        let is = |field: &str| above.child_by_field_name(field).is_some_and(|part| part == here);
        let name = self.kinds.named.iter().find(|(kind, _)| *kind == above.kind());
        if let Some(name) = name.and_then(|(_, field)| above.child_by_field_name(field)) {
            return is("value") && self.text(name).trim_matches(['"', '\'']) == "env";
        }
        let function = Some(above).filter(|above| above.kind() == self.kinds.call && is("arguments"));
        let reference = function.and_then(|call| self.reference(call.child_by_field_name("function")?));
        reference.and_then(|of| of.helper).is_some_and(|helper| helper.is("literal") || helper.is("secret"))
    }

    /// The inside of a text, or of the one that a constant stands for; all of one that stands for more than a text.
    fn hidden(&self, node: Node<'t>) -> Option<Range<usize>> {
        let named = matches!(node.kind(), "identifier" | SHORTHAND);
        let value = named.then(|| self.constant(node).ok()).flatten().unwrap_or(node);
        if value != node && self.kinds.changeable.contains(&value.kind()) {
            return Some(value.byte_range());
        }
        let text = Some(value).filter(|text| self.kinds.texts.contains(&text.kind()))?;
        let quote = self.text(text).find(['"', '\'', '`'])?;
        Some(text.start_byte() + quote + 1..text.end_byte() - 1)
    }
}

/// Visits each node with all that it is in.
fn visit<'t>(tree: &'t Tree, kinds: &Kinds, mut visit: impl FnMut(&mut [Level<'t>])) {
    let mut levels: Vec<Level<'t>> = Vec::new();
    preorder(tree.root_node(), |depth, node, field| {
        levels.truncate(depth);
        levels.push(Level::below(levels.last(), node, field, kinds));
        visit(&mut levels);
        true
    });
}

/// What an import comes to that is not at the top level.
fn within<'t>(what: What<'t>, name: &str, inside: &str) -> What<'t> {
    let why = format!("{} is imported inside of {inside}", shown(name));
    let instead = "import it at the top level of the file".to_owned();
    match what {
        What::Package => What::Unclear(None, why, instead),
        What::Helper(helper) => What::Unclear(Some(helper), why, instead),
        other => other,
    }
}
