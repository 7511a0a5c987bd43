//! Declarations in TypeScript: `mvm.app({ … })(…)` as a statement of the top level, or as the value of a constant there.

use tree_sitter::Node;

use super::Language;
use super::names::{Kinds, Level, Meaning, Names, What};
use super::source::shown;
use super::syntax::{only_part, parts};
use super::table::{Helper, find};
use super::tree::{Dialect, Key, Reader, Tree, Value, bare};

const PACKAGE: &str = "@mvm/sdk";
const CALL: &str = "write export const workload = mvm.app({ name: '…' })(async () => { … }) at the top level";

pub(super) struct TypeScript;

static KINDS: Kinds = Kinds {
    member: ("member_expression", "property"),
    call: "call_expression",
    named: &[("pair", "key")],
    texts: &["string", "template_string"],
    changeable: &["array", "object"],
    names: &["identifier", "type_identifier", "shorthand_property_identifier_pattern"],
    bound: &[
        ("variable_declarator", "name"),
        ("function_declaration", "name"),
        ("generator_function_declaration", "name"),
        ("function_signature", "name"),
        ("class_declaration", "name"),
        ("abstract_class_declaration", "name"),
        ("enum_declaration", "name"),
        ("internal_module", "name"),
        ("module", "name"),
        ("import_alias", ""),
        ("import_require_clause", ""),
        ("import_clause", ""),
        ("namespace_import", ""),
        ("named_imports", ""),
        ("assignment_expression", "left"),
        ("augmented_assignment_expression", "left"),
        ("update_expression", "argument"),
        ("for_in_statement", "left"),
        ("catch_clause", "parameter"),
        ("formal_parameters", ""),
        ("arrow_function", "parameter"),
    ],
    bound_first: &[
        "member_expression",
        "subscript_expression",
        "assignment_pattern",
        "object_assignment_pattern",
        "required_parameter",
        "optional_parameter",
    ],
    bound_last: &["import_specifier", "pair_pattern"],
    global: "",
    labels: &[("export_specifier", "alias"), ("type_query", "")],
    scopes: &[
        ("function_declaration", "a function"),
        ("generator_function_declaration", "a function"),
        ("function_expression", "a function"),
        ("generator_function", "a function"),
        ("arrow_function", "a function"),
        ("method_definition", "a method"),
        ("class_body", "a class"),
        ("internal_module", "a namespace"),
        ("module", "a module"),
        ("catch_clause", "a catch"),
    ],
    blocks: &[
        ("if_statement", "an if"),
        ("try_statement", "a try"),
        ("with_statement", "a with"),
        ("for_statement", "a loop"),
        ("for_in_statement", "a loop"),
        ("while_statement", "a loop"),
        ("do_statement", "a loop"),
        ("switch_statement", "a switch"),
        ("statement_block", "a block"),
        ("labeled_statement", "a block"),
    ],
};

impl Dialect for TypeScript {
    const LANGUAGE: Language = Language::TypeScript;
    const KINDS: &'static Kinds = &KINDS;

    fn grammar() -> tree_sitter::Language {
        tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into()
    }

    fn imports<'t>(names: &Names<'t>, node: Node<'t>) -> Vec<Meaning<'t>> {
        let source = Some(node).filter(|node| node.kind() == "import_statement");
        let source = source.and_then(|node| node.child_by_field_name("source"));
        if source.map(|source| names.text(source).trim_matches(['"', '\''])) != Some(PACKAGE) || is_type(node) {
            return Vec::new();
        }
        let clause = parts(node).into_iter().find(|part| part.kind() == "import_clause");
        let mut meanings = Vec::new();
        for part in clause.map(parts).unwrap_or_default() {
            match part.kind() {
                "namespace_import" => {
                    meanings.extend(only_part(part).map(|name| (names.text(name), name, What::Package)))
                }
                "named_imports" => meanings.extend(parts(part).into_iter().filter_map(|name| imported(names, name))),
                _ => {
                    let name = names.text(part);
                    let why = format!("{PACKAGE} has no default export");
                    let instead = format!("write import * as {} from '{PACKAGE}'", shown(name));
                    meanings.push((name, part, What::Unclear(None, why, instead)));
                }
            }
        }
        meanings
    }

    fn constants<'t>(names: &Names<'t>, statement: Node<'t>) -> Vec<(Node<'t>, Node<'t>)> {
        let declaration = statement.child_by_field_name("declaration").unwrap_or(statement);
        let kind = declaration.child_by_field_name("kind").map(|kind| names.text(kind));
        if declaration.kind() != "lexical_declaration" || kind != Some("const") {
            return Vec::new();
        }
        let constant = |declarator: Node<'t>| {
            let name = declarator.child_by_field_name("name").filter(|name| name.kind() == "identifier")?;
            Some((name, declarator.child_by_field_name("value")?))
        };
        parts(declaration).into_iter().filter_map(constant).collect()
    }

    fn sites<'t>(statement: Node<'t>) -> Vec<Node<'t>> {
        let declaration = statement.child_by_field_name("declaration").unwrap_or(statement);
        let values = match declaration.kind() {
            "lexical_declaration" => parts(declaration)
                .into_iter()
                .filter_map(|declarator| declarator.child_by_field_name("value"))
                .collect(),
            "export_statement" => declaration.child_by_field_name("value").into_iter().collect(),
            "expression_statement" => parts(declaration),
            _ => Vec::new(),
        };
        // Of app({ … })(…) the call in front.
        let called = |value: Node<'t>| {
            let value = Some(bare::<TypeScript>(value)).filter(|value| value.kind() == KINDS.call)?;
            let function = bare::<TypeScript>(value.child_by_field_name("function")?);
            Some(function).filter(|function| function.kind() == KINDS.call)
        };
        values.into_iter().filter_map(called).collect()
    }

    fn misplaced(levels: &[Level]) -> (String, String) {
        let above = |n: usize| levels.iter().rev().nth(n).map_or("", |level| level.kind);
        let why = match (above(1), above(2)) {
            ("call_expression", "call_expression") => "app is called within something else",
            ("call_expression", _) => "app is given no function",
            _ => "app is given another name here, or passed on",
        };
        (why.to_owned(), CALL.to_owned())
    }

    fn takes_apart<'t>(names: &Names<'t>, node: Node<'t>) -> bool {
        let name = node.child_by_field_name("name").filter(|name| name.kind() == "object_pattern");
        let of = node.child_by_field_name("value").is_some_and(|value| names.is_package(value));
        let named = |part: Node| names.text(part.child_by_field_name("key").unwrap_or(part)) == "app";
        of && name.is_some_and(|pattern| parts(pattern).into_iter().any(named))
    }

    fn inner<'t>(node: Node<'t>) -> Option<Node<'t>> {
        match node.kind() {
            "parenthesized_expression" => only_part(node),
            "as_expression" | "satisfies_expression" => parts(node).first().copied(),
            _ => None,
        }
    }

    fn value<'t>(reader: &mut Reader<'t>, node: Node<'t>, depth: usize) -> Value {
        match node.kind() {
            "null" | "undefined" => Value::Null,
            "true" | "false" => Value::Bool,
            "string" | "template_string" => text(reader, node),
            "number" => number(reader, node, node, false),
            "unary_expression" => negative(reader, node),
            "array" => array(reader, node, depth),
            "object" => Value::Map(object(reader, node, depth)),
            "identifier" | "shorthand_property_identifier" => reader.constant::<TypeScript>(node, depth),
            "call_expression" => reader.call::<TypeScript>(node, depth),
            other => reader.unread(node, words(other)),
        }
    }

    fn given<'t>(
        reader: &mut Reader<'t>,
        helper: &Helper,
        call: Node<'t>,
        depth: usize,
    ) -> (Vec<Tree>, Vec<(Key, Tree)>) {
        let (mut plain, mut named) = (Vec::new(), Vec::new());
        let first = usize::from(helper.fields.first().is_some_and(|field| field.first));
        let arguments = call.child_by_field_name("arguments").map(parts).unwrap_or_default();
        for (index, argument) in arguments.into_iter().enumerate() {
            let inner = bare::<TypeScript>(argument);
            if index == first && inner.kind() == "object" {
                named = object(reader, inner, depth);
            } else {
                plain.push(reader.read::<TypeScript>(argument, depth));
            }
        }
        (plain, named)
    }
}

/// Whether an import is one of types alone.
fn is_type(node: Node) -> bool {
    node.children(&mut node.walk()).any(|part| part.kind() == "type")
}

/// What a part of `import { … }` makes a helper known as.
fn imported<'t>(names: &Names<'t>, part: Node<'t>) -> Option<Meaning<'t>> {
    let name = part.child_by_field_name("name").filter(|_| !is_type(part))?;
    let helper = find(Language::TypeScript, names.text(name))?;
    let name = part.child_by_field_name("alias").unwrap_or(name);
    Some((names.text(name), name, What::Helper(helper)))
}

fn array<'t>(reader: &mut Reader<'t>, node: Node<'t>, depth: usize) -> Value {
    let mut items = Vec::new();
    let mut is_due = true;
    let all: Vec<Node> = node.children(&mut node.walk()).collect();
    for part in all {
        match part.kind() {
            "," if is_due => return reader.wrong(part, "an item is left out here", "write it, or leave out the comma"),
            "," => is_due = true,
            "[" | "]" => {}
            _ if part.is_extra() => {}
            _ => {
                items.push(reader.read::<TypeScript>(part, depth));
                is_due = false;
            }
        }
    }
    Value::List(items)
}

fn object<'t>(reader: &mut Reader<'t>, node: Node<'t>, depth: usize) -> Vec<(Key, Tree)> {
    let mut entries = Vec::new();
    for part in parts(node) {
        let (key, value) = match part.kind() {
            "pair" => (part.child_by_field_name("key"), part.child_by_field_name("value")),
            "shorthand_property_identifier" => (Some(part), Some(part)),
            _ => (None, None),
        };
        let Some((key, value)) = key.zip(value) else {
            reader.unread(part, words(part.kind()));
            continue;
        };
        let named = match key.kind() {
            "string" => text(reader, key),
            "property_identifier" | "shorthand_property_identifier" => Value::Text(reader.text(key).to_owned()),
            _ => reader.wrong(key, "a key is a name or a text", "write it out"),
        };
        let tree = reader.read::<TypeScript>(value, depth);
        if let Value::Text(text) = named {
            entries.push((Key { at: key.byte_range(), text }, tree));
        }
    }
    entries
}

fn negative(reader: &mut Reader, node: Node) -> Value {
    let argument = node.child_by_field_name("argument").map(bare::<TypeScript>);
    let operator = node.child_by_field_name("operator").map(|operator| reader.text(operator));
    match argument.filter(|argument| argument.kind() == "number") {
        Some(argument) if operator == Some("-") => number(reader, node, argument, true),
        _ => reader.unread(node, "an operator"),
    }
}

fn number(reader: &mut Reader, node: Node, digits: Node, negative: bool) -> Value {
    let text = reader.text(digits).replace('_', "").to_ascii_lowercase();
    let leads = text.starts_with('0') && text[1..].starts_with(|c: char| c.is_ascii_digit());
    let whole = |radix| i128::from_str_radix(&text[2..], radix).ok().map(|whole| whole as f64);
    let number = match text.get(..2) {
        Some("0x") => whole(16),
        Some("0o") => whole(8),
        Some("0b") => whole(2),
        _ => text.parse().ok().filter(|_| !leads),
    };
    match number.map(|number| if negative { -number } else { number }) {
        // All numbers are of one type, and of the whole ones the larger are not exact.
        Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => Value::Whole(number as i128),
        Some(number) => Value::Fraction(number),
        None => reader.wrong(node, "this is no number that a declaration has", "write it in decimal digits"),
    }
}

fn text(reader: &mut Reader, node: Node) -> Value {
    if parts(node).iter().any(|part| part.kind() == "template_substitution") {
        return reader.unread(node, "a text with parts that are put in");
    }
    let literal = reader.text(node);
    let inner = literal.get(1..literal.len() - 1).unwrap_or_default().replace("\r\n", "\n");
    reader.unescaped(node, unescaped(&inner))
}

const NO_CHARACTER: &str = "an escape here stands for no character";

fn unescaped(text: &str) -> Result<String, &'static str> {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        units.extend(rest[..at].encode_utf16());
        let mut chars = rest[at + 1..].chars();
        let escaped = chars.next();
        rest = chars.as_str();
        let plain = match escaped {
            Some('\n' | '\u{2028}' | '\u{2029}') => continue,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some('0') if !rest.starts_with(|c: char| c.is_ascii_digit()) => '\0',
            Some('0'..='9') => return Err("an escape here is of a kind that modules do not have"),
            Some(kind @ ('x' | 'u')) => {
                let (code, behind) = code(kind, rest).ok_or(NO_CHARACTER)?;
                rest = behind;
                match u16::try_from(code) {
                    // Half a character may be one, with the next.
                    Ok(unit) => units.push(unit),
                    Err(_) => units.extend(char::from_u32(code).ok_or(NO_CHARACTER)?.encode_utf16(&mut [0; 2]).iter()),
                }
                continue;
            }
            Some(other) => other,
            None => '\\',
        };
        units.extend(plain.encode_utf16(&mut [0; 2]).iter());
    }
    units.extend(rest.encode_utf16());
    String::from_utf16(&units).map_err(|_| NO_CHARACTER)
}

/// The number that an escape has, and what is behind it: \xhh, \uhhhh or \u{h…}.
fn code(kind: char, rest: &str) -> Option<(u32, &str)> {
    let (digits, behind) = match (kind, rest.strip_prefix('{')) {
        ('u', Some(braced)) => braced.split_once('}')?,
        ('u', None) => rest.split_at_checked(4)?,
        _ => rest.split_at_checked(2)?,
    };
    let number = digits.chars().all(|c| c.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?;
    number.map(|number| (number, behind))
}

/// What a kind of expression is called that has no value before it is run.
fn words(kind: &str) -> &'static str {
    match kind {
        "member_expression" => "a property",
        "subscript_expression" => "an item of something",
        "binary_expression" | "unary_expression" => "an operator",
        "ternary_expression" => "a conditional",
        "spread_element" => "what is spread",
        "arrow_function" | "function_expression" | "method_definition" => "a function",
        "new_expression" => "a new object",
        "await_expression" => "what is awaited",
        _ => "this",
    }
}
