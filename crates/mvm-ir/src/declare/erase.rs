//! TypeScript without its types: a program of JavaScript in which everything stands where it stood.
//!
//! Only what says something of types goes, and spaces take its place, so that an error at run time names the right line and
//! column. It is what `tsc` calls erasable syntax. Whatever would need code of its own (an enum, a namespace, a parameter
//! property) is a [`Problem`](super::Problem).

use std::ops::Range;

use tree_sitter::Node;

use super::syntax::{errors, parse, preorder};
use super::tree::Dialect;
use super::typescript::TypeScript;
use super::{Finding, Language, MAX_PROBLEMS, Problem, Source, source};

/// The largest module, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Takes the types out of a module of TypeScript. Imports stay as they are written: one of nothing but types has to be an
/// `import type`.
///
/// Takes UTF-8 of at most 1 MiB. Errors: what is wrong with the file, in the order of place, 20 at
/// most.
pub fn erased(text: &[u8]) -> Result<String, Vec<Problem>> {
    let text = source::sound(Language::TypeScript, text, MAX_BYTES)
        .map_err(|finding| vec![Source::new(&String::from_utf8_lossy(text)).problem(&finding, &[])])?;
    let source = Source::new(text);
    let problems = |findings: &[Finding]| {
        findings.iter().take(MAX_PROBLEMS).map(|finding| source.problem(finding, &[])).collect::<Vec<_>>()
    };
    let tree = parse(&TypeScript::grammar(), text).map_err(|finding| problems(&[finding]))?;
    let errors = errors(&tree);
    if !errors.is_empty() {
        return Err(problems(&errors));
    }
    let mut eraser = Eraser { text, erased: Vec::new(), findings: Vec::new() };
    // What a node is in. To ask the tree each time takes as long as it is deep.
    let mut above: Vec<Node> = Vec::new();
    preorder(tree.root_node(), |depth, node, _| {
        above.truncate(depth);
        let parent = above.last().copied().unwrap_or(node);
        above.push(node);
        eraser.enter(node, parent)
    });
    if eraser.findings.is_empty() { Ok(eraser.result()) } else { Err(problems(&eraser.findings)) }
}

/// What is written instead of something, of the same length: spaces, but for one character.
struct Erased {
    at: Range<usize>,
    /// Where that character is, and which.
    kept: Option<(usize, char)>,
}

struct Eraser<'t> {
    text: &'t str,
    erased: Vec<Erased>,
    findings: Vec<Finding>,
}

impl Eraser<'_> {
    /// Takes what a node has of types. Says whether there may be more in it.
    fn enter(&mut self, node: Node, parent: Node) -> bool {
        match node.kind() {
            "enum_declaration" => self.refuse(node, "an enum is code of its own", "write an object, as const"),
            "internal_module" | "module" if node.is_named() => {
                self.refuse(node, "a namespace is code of its own", "write a module")
            }
            "import_alias" | "import_require_clause" => {
                self.refuse(node, "this import is none of JavaScript's modules", "write import … from '…'")
            }
            "decorator" => self.refuse(node, "Node.js runs no decorators", "call it as a function"),
            "type_assertion" => self.refuse(node, "a type in front is taken for JSX elsewhere", "write … as Type"),
            "required_parameter" | "optional_parameter" => self.parameter(node),
            "interface_declaration"
            | "type_alias_declaration"
            | "ambient_declaration"
            | "function_signature"
            | "abstract_method_signature"
            | "index_signature"
            | "method_signature" => self.statement(node),
            "import_statement" if has(node, "type") => self.statement(node),
            "export_statement" => self.export(node),
            "named_imports" | "export_clause" | "formal_parameters" => self.list(node),
            "public_field_definition" if has(node, "declare") || has(node, "abstract") => self.statement(node),
            "arrow_function" => self.arrow(node),
            "as_expression" | "satisfies_expression" | "instantiation_expression" => self.behind(node),
            "type_annotation"
            | "asserts_annotation"
            | "type_predicate_annotation"
            | "type_parameters"
            | "type_arguments"
            | "implements_clause" => self.erase(node.byte_range(), None),
            "accessibility_modifier" | "override_modifier" | "readonly" | "abstract" => self.modifier(node, parent),
            "?" if matches!(parent.kind(), "optional_parameter" | "public_field_definition" | "method_definition") => {
                self.erase(node.byte_range(), None)
            }
            "!" if matches!(
                parent.kind(),
                "variable_declarator" | "public_field_definition" | "non_null_expression"
            ) =>
            {
                self.erase(node.byte_range(), None)
            }
            _ => true,
        }
    }

    fn refuse(&mut self, node: Node, why: &str, instead: &str) -> bool {
        // One line of it is enough to be shown.
        let end = self.text[node.byte_range()].find('\n').map_or(node.end_byte(), |at| node.start_byte() + at);
        let instead = format!("{instead}, or leave the file out with exclude");
        self.findings.push(Finding::new(node.start_byte()..end, why, instead));
        false
    }

    fn erase(&mut self, at: Range<usize>, kept: Option<(usize, char)>) -> bool {
        self.erased.push(Erased { at, kept });
        false
    }

    /// A statement or a member of a class. Without it the next line could go on with the one before.
    fn statement(&mut self, node: Node) -> bool {
        self.erase(node.byte_range(), Some((node.start_byte(), ';')))
    }

    fn export(&mut self, node: Node) -> bool {
        let declared = node.child_by_field_name("declaration").or_else(|| node.child_by_field_name("value"));
        let types = ["interface_declaration", "type_alias_declaration", "ambient_declaration", "function_signature"];
        if has(node, "type") || declared.is_some_and(|declared| types.contains(&declared.kind())) {
            return self.statement(node);
        }
        if has(node, "=") || has(node, "namespace") {
            return self.refuse(node, "this export is none of JavaScript's modules", "write export default …");
        }
        true
    }

    /// Takes from a list what is nothing but a type, with the comma behind it: what is imported as one, and `this`.
    fn list(&mut self, node: Node) -> bool {
        let mut erasing = None;
        for part in node.children(&mut node.walk()).filter(|part| !part.is_extra()) {
            let is_this = |pattern: Node| pattern.kind() == "this";
            let is_type = match part.kind() {
                "import_specifier" | "export_specifier" => has(part, "type"),
                "required_parameter" => part.child_by_field_name("pattern").is_some_and(is_this),
                _ => false,
            };
            match erasing.take() {
                Some(start) if part.kind() == "," => drop(self.erase(start..part.end_byte(), None)),
                _ if is_type => {
                    erasing = Some(part.start_byte());
                    self.erase(part.byte_range(), None);
                }
                _ => {}
            }
        }
        true
    }

    fn parameter(&mut self, node: Node) -> bool {
        let is_property =
            |part: &Node| matches!(part.kind(), "accessibility_modifier" | "override_modifier" | "readonly");
        if node.children(&mut node.walk()).any(|part| is_property(&part)) {
            return self.refuse(
                node,
                "a parameter that is a property is code of its own",
                "assign it in the constructor",
            );
        }
        true
    }

    /// A line may not end before `=>`, nor behind `async`. So if types take several, the parentheses take their places.
    fn arrow(&mut self, node: Node) -> bool {
        let [types, parameters, returned] =
            ["type_parameters", "parameters", "return_type"].map(|field| node.child_by_field_name(field));
        let long = |part: &Node| self.text[part.byte_range()].contains('\n');
        let (types, returned) = (types.filter(long), returned.filter(long));
        let Some(parameters) = parameters else { return true };
        if let Some(types) = types {
            let open = parameters.start_byte();
            self.erase(open..open + 1, None);
            self.erase(types.byte_range(), Some((types.start_byte(), '(')));
        }
        if let Some(returned) = returned {
            let close = parameters.end_byte() - 1;
            self.erase(close..close + 1, None);
            self.erase(returned.byte_range(), Some((self.last(returned.end_byte()), ')')));
        }
        true
    }

    /// What stands behind an expression. Nothing that is called or looked up may follow it on another line, which it could then.
    fn behind(&mut self, node: Node) -> bool {
        let Some(expression) = node.named_child(0) else { return true };
        let end = node.end_byte();
        let next = self.next(end);
        let goes_on = self.text[end..next].contains('\n') && self.text[next..].starts_with(['(', '[', '`']);
        self.erase(expression.end_byte()..end, goes_on.then_some((self.last(end), ';')));
        true
    }

    /// Where the last character begins before a place.
    fn last(&self, end: usize) -> usize {
        self.text[..end].char_indices().next_back().map_or(0, |(at, _)| at)
    }

    /// Where the next thing begins that is no comment.
    fn next(&self, at: usize) -> usize {
        let mut rest = self.text[at..].trim_start();
        loop {
            let behind = match rest.get(..2) {
                Some("//") => rest.split_once('\n'),
                Some("/*") => rest[2..].split_once("*/"),
                _ => return self.text.len() - rest.len(),
            };
            rest = behind.map_or("", |(_, behind)| behind.trim_start());
        }
    }

    /// A word in front of a member or a class.
    fn modifier(&mut self, node: Node, parent: Node) -> bool {
        let begins = parent.start_byte() == node.start_byte() && parent.kind() != "abstract_class_declaration";
        self.erase(node.byte_range(), begins.then_some((node.start_byte(), ';')))
    }

    fn result(mut self) -> String {
        self.erased.sort_by_key(|erased| (erased.at.start, std::cmp::Reverse(erased.at.end)));
        let (mut result, mut done) = (String::with_capacity(self.text.len()), 0);
        for Erased { at, kept } in &self.erased {
            // What is in something that is erased already.
            if at.start < done {
                continue;
            }
            result.push_str(&self.text[done..at.start]);
            result.extend(self.text[at.clone()].char_indices().map(|(offset, c)| match (kept, c) {
                (Some((place, kept)), _) if *place == at.start + offset => *kept,
                (_, '\n' | '\r') => c,
                _ => ' ',
            }));
            done = at.end;
        }
        result + &self.text[done..]
    }
}

fn has(node: Node, keyword: &str) -> bool {
    node.children(&mut node.walk()).any(|part| !part.is_named() && part.kind() == keyword)
}
