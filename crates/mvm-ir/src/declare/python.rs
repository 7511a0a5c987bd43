//! Declarations in Python: `@mvm.app(…)` above a function at the top level.

use std::str::Chars;

use tree_sitter::Node;

use super::Language;
use super::names::{Kinds, Level, Meaning, Names, What};
use super::syntax::{only_part, parts};
use super::table::{Helper, find, helpers};
use super::tree::{Dialect, Key, Reader, Tree, Value, bare};

const PACKAGE: &str = "mvm";
const DECORATE: &str = "write it above a function: @mvm.app(name=\"…\")";

pub(super) struct Python;

static KINDS: Kinds = Kinds {
    member: ("attribute", "attribute"),
    call: "call",
    named: &[("keyword_argument", "name"), ("pair", "key")],
    texts: &["string", "concatenated_string"],
    changeable: &["list", "dictionary"],
    names: &["identifier"],
    bound: &[
        ("assignment", "left"),
        ("augmented_assignment", "left"),
        ("named_expression", "name"),
        ("for_statement", "left"),
        ("for_in_clause", "left"),
        ("as_pattern", "alias"),
        ("case_pattern", ""),
        ("function_definition", "name"),
        ("class_definition", "name"),
        ("type_alias_statement", "left"),
        ("delete_statement", ""),
        ("global_statement", ""),
        ("import_statement", "name"),
        ("import_from_statement", "name"),
        ("parameters", ""),
        ("lambda_parameters", ""),
    ],
    bound_first: &[
        "attribute",
        "subscript",
        "dotted_name",
        "default_parameter",
        "typed_parameter",
        "typed_default_parameter",
    ],
    bound_last: &["aliased_import", "keyword_pattern"],
    global: "global_statement",
    labels: &[("attribute", "attribute"), ("keyword_argument", "name"), ("dotted_name", "")],
    scopes: &[
        ("function_definition", "a function"),
        ("lambda", "a lambda"),
        ("class_definition", "a class"),
        ("list_comprehension", "a comprehension"),
        ("set_comprehension", "a comprehension"),
        ("dictionary_comprehension", "a comprehension"),
        ("generator_expression", "a comprehension"),
    ],
    blocks: &[
        ("if_statement", "an if"),
        ("try_statement", "a try"),
        ("with_statement", "a with"),
        ("for_statement", "a loop"),
        ("while_statement", "a loop"),
        ("match_statement", "a match"),
    ],
};

impl Dialect for Python {
    const LANGUAGE: Language = Language::Python;
    const KINDS: &'static Kinds = &KINDS;

    fn grammar() -> tree_sitter::Language {
        tree_sitter_python::LANGUAGE.into()
    }

    fn imports<'t>(names: &Names<'t>, node: Node<'t>) -> Vec<Meaning<'t>> {
        match node.kind() {
            "import_statement" => parts(node).into_iter().filter_map(|part| package(names, part)).collect(),
            "import_from_statement" => imported(names, node),
            _ => Vec::new(),
        }
    }

    fn constants<'t>(_: &Names<'t>, statement: Node<'t>) -> Vec<(Node<'t>, Node<'t>)> {
        let assignment = only_part(statement).filter(|part| part.kind() == "assignment");
        let constant = assignment.and_then(|assignment| {
            let name = assignment.child_by_field_name("left").filter(|left| left.kind() == "identifier")?;
            Some((name, assignment.child_by_field_name("right")?))
        });
        constant.into_iter().collect()
    }

    fn sites<'t>(statement: Node<'t>) -> Vec<Node<'t>> {
        let defined = statement.child_by_field_name("definition").map(|definition| definition.kind());
        if statement.kind() != "decorated_definition" || defined != Some("function_definition") {
            return Vec::new();
        }
        let decorators = parts(statement).into_iter().filter(|part| part.kind() == "decorator").filter_map(only_part);
        decorators.map(bare::<Python>).filter(|decorator| decorator.kind() == KINDS.call).collect()
    }

    fn misplaced(levels: &[Level]) -> (String, String) {
        let above = |n: usize| levels.iter().rev().nth(n).map_or("", |level| level.kind);
        let defined = levels.iter().find_map(|level| level.node.child_by_field_name("definition"));
        let is_class = defined.is_some_and(|definition| definition.kind() == "class_definition");
        let (why, instead) = match above(1) {
            "decorator" => ("app is not called", "write @mvm.app(name=\"…\")"),
            "call" if is_class => ("app declares a function, and this is a class", "write it above a function"),
            "call" => ("app is called here, and is no decorator", DECORATE),
            _ => ("app is given another name here, or passed on", DECORATE),
        };
        (why.to_owned(), instead.to_owned())
    }

    fn takes_apart<'t>(_: &Names<'t>, _: Node<'t>) -> bool {
        false
    }

    fn inner<'t>(node: Node<'t>) -> Option<Node<'t>> {
        Some(node).filter(|node| node.kind() == "parenthesized_expression").and_then(only_part)
    }

    fn value<'t>(reader: &mut Reader<'t>, node: Node<'t>, depth: usize) -> Value {
        match node.kind() {
            "none" => Value::Null,
            "true" | "false" => Value::Bool,
            "string" | "concatenated_string" => text(reader, node),
            "integer" | "float" => number(reader, node, node, false),
            "unary_operator" => negative(reader, node),
            "list" | "tuple" => {
                Value::List(parts(node).into_iter().map(|item| reader.read::<Python>(item, depth)).collect())
            }
            "dictionary" => dictionary(reader, node, depth),
            "identifier" => reader.constant::<Python>(node, depth),
            "call" => reader.call::<Python>(node, depth),
            other => reader.unread(node, words(other)),
        }
    }

    fn given<'t>(reader: &mut Reader<'t>, _: &Helper, call: Node<'t>, depth: usize) -> (Vec<Tree>, Vec<(Key, Tree)>) {
        let (mut plain, mut named) = (Vec::new(), Vec::new());
        let arguments = call.child_by_field_name("arguments");
        let of = |arguments: Node<'t>| match arguments.kind() {
            "argument_list" => parts(arguments),
            _ => vec![arguments],
        };
        for argument in arguments.map(of).unwrap_or_default() {
            let name = argument.child_by_field_name("name");
            match name.zip(argument.child_by_field_name("value")).filter(|_| argument.kind() == "keyword_argument") {
                Some((name, value)) => {
                    let key = Key { at: name.byte_range(), text: reader.text(name).to_owned() };
                    named.push((key, reader.read::<Python>(value, depth)));
                }
                None => plain.push(reader.read::<Python>(argument, depth)),
            }
        }
        (plain, named)
    }
}

/// What `import …` makes the package known as. A module of it binds the package, unless it has a name of its own.
fn package<'t>(names: &Names<'t>, part: Node<'t>) -> Option<Meaning<'t>> {
    let (name, module) = match part.kind() {
        "aliased_import" => (part.child_by_field_name("alias")?, part.child_by_field_name("name")?),
        _ => (part.named_child(0)?, part.named_child(0)?),
    };
    (names.text(module) == PACKAGE).then(|| (names.text(name), name, What::Package))
}

/// What `from mvm import …` makes the helpers known as.
fn imported<'t>(names: &Names<'t>, node: Node<'t>) -> Vec<Meaning<'t>> {
    if node.child_by_field_name("module_name").is_none_or(|module| names.text(module) != PACKAGE) {
        return Vec::new();
    }
    let meaning = |part: Node<'t>| -> Vec<Meaning<'t>> {
        if part.kind() == "wildcard_import" {
            let name = |helper: &'static Helper| helper.name(Language::Python);
            return helpers().map(|helper| (name(helper), part, What::Starred(helper))).collect();
        }
        let name = part.child_by_field_name("alias").or(part.named_child(0));
        let helper = find(Language::Python, names.text(part.child_by_field_name("name").unwrap_or(part)));
        name.zip(helper).map(|(name, helper)| (names.text(name), name, What::Helper(helper))).into_iter().collect()
    };
    parts(node).into_iter().skip(1).flat_map(meaning).collect()
}

fn dictionary<'t>(reader: &mut Reader<'t>, node: Node<'t>, depth: usize) -> Value {
    let mut entries = Vec::new();
    for part in parts(node) {
        let pair = part.child_by_field_name("key").zip(part.child_by_field_name("value"));
        let Some((key, value)) = pair.filter(|_| part.kind() == "pair") else {
            reader.unread(part, words(part.kind()));
            continue;
        };
        let named = match KINDS.texts.contains(&key.kind()) {
            true => text(reader, key),
            false => reader.wrong(key, "a key is a text", "write it out"),
        };
        let tree = reader.read::<Python>(value, depth);
        if let Value::Text(text) = named {
            entries.push((Key { at: key.byte_range(), text }, tree));
        }
    }
    Value::Map(entries)
}

fn negative(reader: &mut Reader, node: Node) -> Value {
    let argument = node.child_by_field_name("argument").map(bare::<Python>);
    let operator = node.child_by_field_name("operator").map(|operator| reader.text(operator));
    match argument.filter(|argument| matches!(argument.kind(), "integer" | "float")) {
        Some(argument) if operator == Some("-") => number(reader, node, argument, true),
        _ => reader.unread(node, "an operator"),
    }
}

fn number(reader: &mut Reader, node: Node, digits: Node, negative: bool) -> Value {
    let text = reader.text(digits).replace('_', "").to_ascii_lowercase();
    let sign = if negative { -1 } else { 1 };
    let leads = text.starts_with('0') && text.contains(|c| c != '0');
    let whole = match text.get(..2) {
        Some("0x") => i128::from_str_radix(&text[2..], 16).ok(),
        Some("0o") => i128::from_str_radix(&text[2..], 8).ok(),
        Some("0b") => i128::from_str_radix(&text[2..], 2).ok(),
        _ => text.parse().ok().filter(|_| !leads),
    };
    match (whole, text.parse::<f64>()) {
        (Some(whole), _) => Value::Whole(whole * sign),
        (None, Ok(fraction)) if digits.kind() == "float" => {
            Value::Fraction(if negative { -fraction } else { fraction })
        }
        _ => reader.wrong(node, "this is no number that a declaration has", "write it in decimal digits"),
    }
}

/// A text, or several next to each other, which are one.
fn text(reader: &mut Reader, node: Node) -> Value {
    let strings = if node.kind() == "string" { vec![node] } else { parts(node) };
    let mut whole = String::new();
    for string in strings {
        let literal = reader.text(string);
        let Some(quote) = literal.find(['"', '\'']) else { return reader.unread(string, "this") };
        let (prefix, quoted) = (literal[..quote].to_ascii_lowercase(), &literal[quote..]);
        if prefix.contains(['f', 't']) {
            return reader.unread(string, "a text with parts that are put in");
        }
        if prefix.contains('b') {
            return reader.wrong(string, "these are bytes, and no text", "leave out the b");
        }
        let width = if ["\"\"\"", "'''"].iter().any(|triple| quoted.starts_with(triple)) { 3 } else { 1 };
        let inner = quoted.get(width..quoted.len() - width).unwrap_or_default().replace("\r\n", "\n");
        let text = if prefix.contains('r') { Ok(inner) } else { unescaped(&inner) };
        match reader.unescaped(string, text) {
            Value::Text(text) => whole.push_str(&text),
            wrong => return wrong,
        }
    }
    Value::Text(whole)
}

fn unescaped(text: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('\n') => {}
            Some(same @ ('\\' | '\'' | '"')) => out.push(same),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some('x') => out.push(coded(&mut chars, 2, 2, 16)?),
            Some('u') => out.push(coded(&mut chars, 4, 4, 16)?),
            Some('U') => out.push(coded(&mut chars, 8, 8, 16)?),
            Some('N') => return Err("a character has to be known by its name here"),
            Some('0'..='7') => {
                chars = text[text.len() - chars.as_str().len() - 1..].chars();
                out.push(coded(&mut chars, 1, 3, 8)?);
            }
            // Python keeps both.
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    Ok(out)
}

/// The character whose number has so many digits.
fn coded(chars: &mut Chars, least: usize, most: usize, radix: u32) -> Result<char, &'static str> {
    let rest = chars.as_str();
    let digits = rest.find(|c: char| !c.is_digit(radix)).unwrap_or(rest.len()).min(most);
    *chars = rest[digits..].chars();
    let number = u32::from_str_radix(&rest[..digits], radix).ok().filter(|_| digits >= least);
    number.and_then(char::from_u32).ok_or("an escape here stands for no character")
}

/// What a kind of expression is called that has no value before it is run.
fn words(kind: &str) -> &'static str {
    match kind {
        "attribute" => "an attribute",
        "subscript" => "an item of something",
        "binary_operator" | "boolean_operator" | "comparison_operator" | "not_operator" => "an operator",
        "conditional_expression" => "a conditional",
        "list_comprehension" | "set_comprehension" | "dictionary_comprehension" | "generator_expression" => {
            "a comprehension"
        }
        "list_splat" | "dictionary_splat" => "what is unpacked",
        "lambda" => "a lambda",
        "set" => "a set",
        _ => "this",
    }
}
