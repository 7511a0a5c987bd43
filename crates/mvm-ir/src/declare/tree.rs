//! What a declaration says, before it is known whether it makes sense: literals and calls of helpers, for both languages.

use std::collections::HashSet;
use std::ops::Range;

use tree_sitter::Node;

use super::names::{Kinds, Level, Meaning, Names};
use super::source::{Source, shown};
use super::syntax::{errors, parse, parts};
use super::table::{APP, Helper, closest, helpers, listed};
use super::{Finding, Language, MAX_PROBLEMS};

/// How deep values are read, and how many parentheses around one are seen through.
const MAX_DEPTH: usize = 64;
const MAX_AROUND: usize = 16;
/// The largest declaration: what its values take, and each time that a constant is used its bytes.
const MAX_SIZE: usize = 1 << 20;
const VALUE_SIZE: usize = 16;

/// A value and where it is written, or the name of the constant that has it.
pub(super) struct Tree {
    pub(super) at: Range<usize>,
    pub(super) value: Value,
}

pub(super) enum Value {
    Null,
    Bool,
    Whole(i128),
    Fraction(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
    Call(Call),
    /// What is wrong with it was found already.
    Wrong,
}

/// A name of a field or a variable, and where it is written.
pub(super) struct Key {
    pub(super) at: Range<usize>,
    pub(super) text: String,
}

/// A call of a helper.
pub(super) struct Call {
    pub(super) helper: &'static Helper,
    /// Where the helper is named.
    pub(super) at: Range<usize>,
    /// What it is given without a name.
    pub(super) plain: Vec<Tree>,
    pub(super) named: Vec<(Key, Tree)>,
}

/// What differs between the languages.
pub(super) trait Dialect {
    const LANGUAGE: Language;
    const KINDS: &'static Kinds;

    fn grammar() -> tree_sitter::Language;

    /// What a node makes the package and its helpers known as, if it imports them.
    fn imports<'t>(names: &Names<'t>, node: Node<'t>) -> Vec<Meaning<'t>>;

    /// The names of constants of a statement of the top level, with their values.
    fn constants<'t>(names: &Names<'t>, statement: Node<'t>) -> Vec<(Node<'t>, Node<'t>)>;

    /// The calls of a statement of the top level that declare, if they are calls of `app`.
    fn sites<'t>(statement: Node<'t>) -> Vec<Node<'t>>;

    /// What is wrong with a use of `app` at the top level that is no such call, and what to write instead.
    fn misplaced(levels: &[Level]) -> (String, String);

    /// Whether a node is a pattern that gives `app` another name.
    fn takes_apart<'t>(names: &Names<'t>, node: Node<'t>) -> bool;

    /// What is in something that means nothing, such as parentheses.
    fn inner<'t>(node: Node<'t>) -> Option<Node<'t>>;

    fn value<'t>(reader: &mut Reader<'t>, node: Node<'t>, depth: usize) -> Value;

    /// What a call gives to a helper: without a name, and with one.
    fn given<'t>(
        reader: &mut Reader<'t>,
        helper: &Helper,
        call: Node<'t>,
        depth: usize,
    ) -> (Vec<Tree>, Vec<(Key, Tree)>);
}

/// What was found in a file.
pub(super) struct Found {
    /// The call of `app`, if there is one.
    pub(super) call: Option<Call>,
    pub(super) findings: Vec<Finding>,
    /// What must not be shown.
    pub(super) hidden: Vec<Range<usize>>,
}

/// Reads a file.
pub(super) fn read<D: Dialect>(source: &Source) -> Found {
    let tree = match parse(&D::grammar(), source.whole()) {
        Ok(tree) => tree,
        Err(finding) => return Found { call: None, findings: vec![finding], hidden: Vec::new() },
    };
    let names = Names::of::<D>(&tree, source);
    let declares = |call: &Node| {
        let reference = call.child_by_field_name("function").and_then(|function| names.reference(bare::<D>(function)));
        reference.is_some_and(|of| of.helper == Some(&APP) && of.doubt.is_none())
    };
    let sites: Vec<Node> = parts(tree.root_node()).into_iter().flat_map(D::sites).filter(declares).collect();
    let starts: HashSet<usize> = sites.iter().map(|call| callee::<D>(*call).start_byte()).collect();
    let (mut findings, mut hidden) = names.uses::<D>(&tree, &starts);
    // What a constant stands for is hidden once, however often it is used.
    hidden.sort_unstable_by_key(|part| (part.start, part.end));
    hidden.dedup();
    let errors = errors(&tree);
    if !errors.is_empty() {
        return Found { call: None, findings: errors, hidden };
    }
    let mut reader = Reader { names, findings: Vec::new(), left: Some(MAX_SIZE), in_constant: false };
    let first = sites.first().map(|call| reader.helper::<D>(&APP, *call, 0));
    if let Some(first) = &first {
        let why = format!("the workload is declared in line {} already", source.place(first.at.start).line);
        let more = sites.iter().skip(1).take(MAX_PROBLEMS).map(|call| callee::<D>(*call).byte_range());
        findings.extend(more.map(|at| Finding::new(at, why.clone(), "declare one workload for each file")));
    }
    findings.append(&mut reader.findings);
    Found { call: first, findings, hidden }
}

/// A value without what means nothing.
pub(super) fn bare<'t, D: Dialect>(node: Node<'t>) -> Node<'t> {
    std::iter::successors(Some(node), |node| D::inner(*node)).take(MAX_AROUND).last().unwrap_or(node)
}

fn callee<'t, D: Dialect>(call: Node<'t>) -> Node<'t> {
    call.child_by_field_name("function").map_or(call, bare::<D>)
}

/// Reads values.
pub(super) struct Reader<'t> {
    names: Names<'t>,
    findings: Vec<Finding>,
    /// How much may still be read; nothing once it was too much.
    left: Option<usize>,
    /// Whether what is read is the value of a constant, and has to be a literal.
    in_constant: bool,
}

impl<'t> Reader<'t> {
    pub(super) fn text(&self, node: Node) -> &'t str {
        self.names.text(node)
    }

    pub(super) fn wrong(&mut self, node: Node, why: impl Into<String>, instead: impl Into<String>) -> Value {
        self.findings.push(Finding::new(node.byte_range(), why, instead));
        Value::Wrong
    }

    /// Of what would have to be run to have a value.
    pub(super) fn unread(&mut self, node: Node, what: &str) -> Value {
        let why = format!("{what} has no value here: nothing of this file is run");
        self.wrong(node, why, "write the value itself, or a constant of this file that has it")
    }

    /// Reads a value, unless it is too deep or too much.
    pub(super) fn read<D: Dialect>(&mut self, node: Node<'t>, depth: usize) -> Tree {
        let value = match depth < MAX_DEPTH {
            _ if !self.affords(node, VALUE_SIZE) => Value::Wrong,
            true => D::value(self, bare::<D>(node), depth + 1),
            false => self.wrong(node, format!("this is nested more than {MAX_DEPTH} deep"), "write it flatter"),
        };
        Tree { at: node.byte_range(), value }
    }

    /// Whether so much more may be read. That it may not is told of once.
    fn affords(&mut self, node: Node, size: usize) -> bool {
        let Some(left) = self.left else { return false };
        self.left = left.checked_sub(size);
        if self.left.is_none() {
            self.wrong(node, format!("the declaration is larger than {} MiB", MAX_SIZE >> 20), "make it smaller");
        }
        self.left.is_some()
    }

    /// A text as its language unescapes it, or why it cannot be.
    pub(super) fn unescaped(&mut self, node: Node, text: Result<String, &str>) -> Value {
        match text {
            Ok(text) => Value::Text(text),
            Err(why) => self.wrong(node, why, "write the character itself"),
        }
    }

    /// Reads the value of a constant.
    pub(super) fn constant<D: Dialect>(&mut self, node: Node<'t>, depth: usize) -> Value {
        let value = match self.names.constant(node) {
            Ok(value) if !self.in_constant => value,
            Ok(_) => return self.wrong(node, "a constant is a literal, and this is a name", "write the value itself"),
            Err((why, instead)) => return self.wrong(node, why, instead),
        };
        if !self.affords(node, value.byte_range().len()) {
            return Value::Wrong;
        }
        self.in_constant = true;
        let tree = self.read::<D>(value, depth);
        self.in_constant = false;
        tree.value
    }

    /// Reads a call of a helper.
    pub(super) fn call<D: Dialect>(&mut self, node: Node<'t>, depth: usize) -> Value {
        let function = callee::<D>(node);
        let Some(reference) = self.names.reference(function) else { return self.unread(node, "a call") };
        match (reference.doubt, reference.helper) {
            (Some((why, instead)), _) => self.wrong(function, why, instead),
            (None, None) => self.unknown::<D>(function, reference.name),
            // That it is here was found with all uses of it.
            (None, Some(helper)) if *helper == APP => Value::Wrong,
            (None, Some(_)) if self.in_constant => {
                self.wrong(node, "a constant is a literal, and this is a call", "write it where the constant is used")
            }
            (None, Some(helper)) => Value::Call(self.helper::<D>(helper, node, depth)),
        }
    }

    fn helper<D: Dialect>(&mut self, helper: &'static Helper, call: Node<'t>, depth: usize) -> Call {
        let (plain, named) = D::given(self, helper, call, depth);
        Call { helper, at: callee::<D>(call).byte_range(), plain, named }
    }

    fn unknown<D: Dialect>(&mut self, node: Node, name: &str) -> Value {
        let names: Vec<&str> = helpers().skip(1).map(|helper| helper.name(D::LANGUAGE)).collect();
        let instead = match closest(name, &names) {
            Some(meant) => format!("write {meant}; declarations have {}", listed(&names)),
            None => format!("write one of what declarations have: {}", listed(&names)),
        };
        self.wrong(node, format!("no declaration has {}", shown(name)), instead)
    }
}
