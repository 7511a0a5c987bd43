//! The syntax tree of a file: parsed with bounded work, and walked without recursion, because its depth is the file's to choose.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;

use tree_sitter::{Node, ParseOptions, ParseState, Parser, Point, Tree};

use super::source::shown;
use super::{Finding, memory};

/// How much of the text the parser is given at once.
const CHUNK: usize = 1 << 10;
/// How often it may read each part of the text. Sources take up to 20; where its scanners look ahead without an end, at
/// comments and continued lines, their work grows with the square of the text's length.
const MAX_READS: usize = 64;
/// How many hundreds of steps it may take for each part of the text. Sources take up to 65.
const MAX_STEPS: usize = 128;
/// How many hundreds of steps more it may take once it has found an error, which take up to a millisecond.
const MAX_STEPS_AFTER_ERROR: usize = 2000;
/// The parser's stack, in bytes: of what it takes for any text, and for each byte of one. Only what is used of it is taken.
const STACK: usize = 1 << 20;
const STACK_PER_BYTE: usize = 256;
/// The most memory that a parser takes, in bytes. For what people write it takes about a hundred for each byte.
const MEMORY: usize = 256 << 20;
const TANGLED: &str = "the file is too tangled to be read";
const APART: &str = "move the declaration to a file of its own";
/// The most syntax errors that are told of.
const MAX_ERRORS: usize = 3;
const CORRECT: &str = "correct it: nothing is read of a file with an error";

/// Parses a text on a stack for it, within [`MEMORY`]. The parser's own structures are released by recursion, at most as deep as
/// the text is long, with about 100 bytes for each level.
pub(super) fn parse(grammar: &tree_sitter::Language, text: &str) -> Result<Tree, Finding> {
    let (tell, told) = mpsc::channel();
    let beyond = tell.clone();
    let (grammar, text) = (grammar.clone(), text.to_owned());
    let parsing = thread::Builder::new().stack_size(STACK + text.len() * STACK_PER_BYTE).spawn(move || {
        memory::bound(MEMORY, move || drop(beyond.send(Err(Finding::new(0..0, TANGLED, APART)))));
        let _ = tell.send(parse_here(&grammar, &text));
    });
    let parsing =
        parsing.map_err(|e| Finding::new(0..0, format!("there is no thread to read it with: {e}"), "try again"))?;
    // A thread that was stopped does not end, and one that has not told anything has panicked.
    told.recv().unwrap_or_else(|_| match parsing.join() {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => Err(Finding::new(0..0, TANGLED, APART)),
    })
}

/// Parses a text. No clock is asked: of one text it always comes to the same.
fn parse_here(grammar: &tree_sitter::Language, text: &str) -> Result<Tree, Finding> {
    let bytes = text.as_bytes();
    let parts = bytes.len() / CHUNK + 64;
    let reads = Cell::new(parts * MAX_READS);
    let mut steps = parts * MAX_STEPS;
    // Where it was first seen to be in an error, and where it was stopped.
    let (mut error, mut stopped) = (None, None);
    let mut read = |at: usize, _: Point| {
        reads.set(reads.get().saturating_sub(1));
        let end = (at / CHUNK + 1) * CHUNK;
        if reads.get() == 0 { &[] } else { bytes.get(at..end.min(bytes.len())).unwrap_or_default() }
    };
    let mut progress = |state: &ParseState| {
        let at = state.current_byte_offset();
        if state.has_error() && error.is_none() {
            error = Some(at);
            steps = steps.min(MAX_STEPS_AFTER_ERROR);
        }
        steps = steps.saturating_sub(1);
        if steps > 0 && reads.get() > 0 {
            return ControlFlow::Continue(());
        }
        stopped = Some(at);
        ControlFlow::Break(())
    };
    let options = ParseOptions::new().progress_callback(&mut progress);
    let mut parser = Parser::new();
    let tree =
        parser.set_language(grammar).ok().and_then(|()| parser.parse_with_options(&mut read, None, Some(options)));
    if let Some(tree) = tree.filter(|_| reads.get() > 0) {
        return Ok(tree);
    }
    let at = error.or(stopped).unwrap_or_default();
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    Err(match error {
        Some(_) => Finding::new(at..at, "the file has a syntax error here, or shortly before", CORRECT),
        None => Finding::new(at..at, TANGLED, APART),
    })
}

/// The first errors of a tree: of those within one another the innermost, which are nearest to what is wrong.
pub(super) fn errors(tree: &Tree) -> Vec<Finding> {
    let mut found: Vec<Node> = Vec::new();
    preorder(tree.root_node(), |_, node, _| {
        if node.is_error() || node.is_missing() {
            if found.last().is_some_and(|above| node.start_byte() < above.end_byte()) {
                found.pop();
            }
            found.push(node);
        }
        node.has_error() && found.len() <= MAX_ERRORS
    });
    let finding = |node: &Node| {
        let why = match node.is_missing() {
            true => format!("the file has a syntax error here: {} is missing", shown(node.kind())),
            false => "the file has a syntax error here".to_owned(),
        };
        Finding::new(node.byte_range(), why, CORRECT)
    };
    found.iter().take(MAX_ERRORS).map(finding).collect()
}

/// Enters each node of a tree from above, with its depth and the field of its parent that it is in, unless what it is in was
/// not to be looked into.
pub(super) fn preorder<'t>(root: Node<'t>, mut enter: impl FnMut(usize, Node<'t>, Option<&'static str>) -> bool) {
    let mut cursor = root.walk();
    let mut depth = 0;
    loop {
        if enter(depth, cursor.node(), cursor.field_name()) && cursor.goto_first_child() {
            depth += 1;
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return;
            }
            depth -= 1;
        }
    }
}

/// The named children of a node but comments and the like.
pub(super) fn parts<'t>(node: Node<'t>) -> Vec<Node<'t>> {
    node.named_children(&mut node.walk()).filter(|part| !part.is_extra()).collect()
}

/// Its only part, if it has one.
pub(super) fn only_part<'t>(node: Node<'t>) -> Option<Node<'t>> {
    match parts(node).as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}
