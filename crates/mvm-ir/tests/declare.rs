//! Declarations: what is read of a file, that both languages come to one document, and what is said of all else and where.

use mvm_ir::canonical;
use mvm_ir::declare::Language::{Python, TypeScript};
use mvm_ir::declare::{Declaration, Language, Place, Problem, declaration};
use serde_json::{Value, json};

#[path = "declare/hostile.rs"]
mod hostile;

fn declared(language: Language, text: &str) -> Declaration {
    match declaration(language, text.as_bytes()) {
        Ok(declared) => declared.unwrap_or_else(|| panic!("nothing is declared:\n{text}")),
        Err(problems) => panic!("{}", problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")),
    }
}

fn document(language: Language, text: &str) -> Value {
    serde_json::to_value(declared(language, text).workload).unwrap()
}

fn problems(language: Language, text: impl AsRef<[u8]>) -> Vec<Problem> {
    let text = text.as_ref();
    match declaration(language, text) {
        Err(problems) => problems,
        Ok(other) => panic!("no problem: {other:?}\n{}", String::from_utf8_lossy(text)),
    }
}

/// Each problem as `1:2: why [what is pointed at]`.
fn told(language: Language, text: impl AsRef<[u8]>) -> Vec<String> {
    let tell = |problem: &Problem| {
        let at: String = problem.source_line.chars().skip(problem.caret).take(problem.width).collect();
        format!("{}:{}: {} [{at}]", problem.place.line, problem.place.column, problem.why)
    };
    problems(language, text).iter().map(tell).collect()
}

fn nothing(language: Language, text: &str) {
    assert_eq!(declaration(language, text.as_bytes()), Ok(None), "{text}");
}

/// A declaration in Python whose `app` is given this, which begins at 2:10.
fn python(given: &str) -> String {
    format!("import mvm\n@mvm.app({given})\ndef serve(): ...\n")
}

/// One in TypeScript, where it begins at 2:11.
fn typescript(given: &str) -> String {
    format!("import * as mvm from '@mvm/sdk';\nmvm.app({{ {given} }})(() => {{}});\n")
}

/// Everything that a declaration can say, in both languages: what fuzzing starts from, too.
const PYTHON: &str = include_str!("../../../fuzz/seeds/declaration/whole.py");
const TYPESCRIPT: &str = include_str!("../../../fuzz/seeds/declaration/whole.ts");

#[test]
fn both_languages_come_to_one_document() {
    let (python, typescript) = (declared(Python, PYTHON), declared(TypeScript, TYPESCRIPT));
    let text = |declared: &Declaration| String::from_utf8(canonical(&declared.workload).unwrap()).unwrap();
    assert_eq!(text(&python), text(&typescript).replace(r#""language":"typescript""#, r#""language":"python""#));
    assert_eq!(
        serde_json::to_value(&python.workload).unwrap(),
        json!({
            "schema": "mvm.workload/v1", "name": "web", "profile": "standard", "ttl_ms": 3_600_500, "on_expiry": "destroy",
            "source": {"guest_path": "/app", "include": ["**/*.py"], "exclude": ["tests/**"], "files": []},
            "image": {"debian": {"packages": ["nodejs", "git"]}},
            "resources": {"cpus": 2, "memory_mib": 512, "disk_mib": 4096},
            "network": {"mode": "deny", "egress": [], "ports": [
                {"guest_port": 8000, "host_port": 8080, "host": "127.0.0.1", "protocol": "tcp"},
            ]},
            "env": {"LANG": {"literal": "C\n"}, "TOKEN": {"secret": "env:TOKEN"}, "A/B": {"literal": "a\\b"}},
            "entrypoint": {"function": {"language": "python", "module": "app", "function": "serve"}},
            "mounts": [], "files": [], "steps": [],
        })
    );
    for (declared, line) in [(&python, 8), (&typescript, 8)] {
        let local = declared.local_path.as_ref().unwrap();
        assert_eq!((local.path.as_str(), local.place.line), (".", line));
    }
}

#[test]
fn each_part_of_the_document_has_its_place_and_others_that_of_what_they_are_in() {
    let (python, typescript) = (declared(Python, PYTHON), declared(TypeScript, TYPESCRIPT));
    for (pointer, in_python, in_typescript) in [
        ("", (6, 2), (6, 22)),
        ("/mounts", (6, 2), (6, 22)),
        ("/name", (7, 10), (7, 9)),
        ("/source/include/0", (8, 41), (8, 42)),
        ("/source/guest_path", (8, 12), (8, 11)),
        // A constant's item is where it is written; a constant is where it is used.
        ("/image/debian/packages", (9, 31), (9, 33)),
        ("/image/debian/packages/1", (3, 23), (3, 29)),
        ("/network/ports/0/guest_port", (11, 60), (11, 66)),
        ("/network/ports/0/protocol", (11, 45), (11, 48)),
        ("/env/LANG/literal", (12, 30), (12, 28)),
        ("/env/A~1B/literal", (12, 97), (12, 94)),
        ("/env/OTHER", (12, 9), (12, 8)),
        ("/entrypoint/function/module", (13, 47), (13, 48)),
        ("/ttl_ms", (15, 9), (15, 10)),
    ] {
        let place = |(line, column)| Place { line, column };
        assert_eq!(python.place(pointer), place(in_python), "{pointer}");
        assert_eq!(typescript.place(pointer), place(in_typescript), "{pointer}");
    }
}

#[test]
fn what_is_left_out_has_the_documents_default() {
    let bare = json!({
        "schema": "mvm.workload/v1", "name": "a", "image": {"named": "debian"}, "profile": "standard", "source": null,
        "resources": {"cpus": 1, "memory_mib": 256, "disk_mib": 4096}, "network": {"mode": "deny", "ports": [], "egress": []},
        "entrypoint": null, "env": {}, "ttl_ms": null, "on_expiry": "destroy", "mounts": [], "files": [], "steps": [],
    });
    for given in ["name='a'", "name='a', ttl=None, image=None, env={}, resources=mvm.resources(cpus=None),"] {
        assert_eq!(document(Python, &python(given)), bare, "{given}");
    }
    for given in ["name: 'a'", "name: 'a', ttlMs: null, image: undefined, env: {}, resources: mvm.resources({}),"] {
        assert_eq!(document(TypeScript, &typescript(given)), bare, "{given}");
    }
    let network = |text: String, language| document(language, &text)["network"].clone();
    assert_eq!(network(python("name='a', network=mvm.network()"), Python), bare["network"]);
    assert_eq!(network(typescript("name: 'a', network: mvm.network()"), TypeScript), bare["network"]);
}

#[test]
fn the_package_and_its_helpers_are_known_by_what_the_file_imports_them_as() {
    for text in [
        "import mvm\n@mvm.app(name='a')\ndef f(): ...",
        "import mvm as m, os\n@m.app(name='a')\nasync def f(): ...",
        "import mvm\nimport mvm\n@mvm.app(name='a')\ndef f(): ...",
        "import mvm.errors\n@mvm.app(name='a')\ndef f(): ...",
        "import os.path\npath = 1\nfrom mvm import app\n@app(name='a')\ndef f(): ...",
        "from mvm import (Sandbox, app as declare,)\n@other\n@(declare(name='a'))\n@other.app\ndef f(): ...",
        "from mvm import app, image as i\n@app(name='a', image=i(name='debian'))\ndef f(): ...\nclass C:\n  app = 1",
        "import mvm\n@mvm.app(name='a')\ndef f():\n  mvm = 1\n  mvm.app()",
        "import mvm\ndef g():\n  import mvm\n@mvm.app(name='a')\ndef f(): ...",
    ] {
        assert_eq!(declared(Python, text).workload.name, "a");
    }
    for text in [
        "import * as mvm from '@mvm/sdk'; mvm.app({ name: 'a' })(f)",
        "import * as m from \"@mvm/sdk\"; export default m.app({ name: 'a' })(f);",
        "import { app } from '@mvm/sdk'; let a = 1, f = app({ name: 'a' })(function () {})",
        "import { Sandbox, app as declare, debian, type X } from '@mvm/sdk'; export const f = (declare<Y>({ name: 'a' }))(f) as Z;",
        "import * as mvm from '@mvm/sdk'; type T = typeof mvm.app; mvm.app({ name: 'a' })((app: T) => app());",
        "import { app } from '@mvm/sdk'; app({ name: 'a', })(async (app) => { app.start(); });",
    ] {
        assert_eq!(declared(TypeScript, text).workload.name, "a");
    }
}

#[test]
fn a_file_without_an_app_of_mvms_declares_nothing() {
    for text in [
        "",
        "\u{feff}",
        "import mvm\nwith mvm.Sandbox() as box:\n    box.run('true')\n",
        "@mvm.app(name='a')\ndef f(): ...",
        "import other as mvm\n@mvm.app(name='a')\ndef f(): ...",
        "from .mvm import app\n@app(name='a')\ndef f(): ...",
        "from mvm.x import app\n@app(name='a')\ndef f(): ...",
        "from mvm import Sandbox\napp = 1\n@app.get('/')\ndef f(): ...",
        "from mvm import *\napp = web()\n@app.get('/')\ndef f(): ...",
        "import mvm as m\n@mvm.app(name='a')\ndef f(): ...",
        // Cyrillic and full-width letters: other names, whatever Python makes of the latter.
        "import mvm\n@\u{43c}vm.app(name='a')\ndef f(): ...",
        "import \u{43c}vm\n@\u{43c}vm.app(name='a')\ndef f(): ...",
        "import mvm\n@mvm.\u{430}pp(name='a')\ndef f(): ...",
        "import mvm\n@\u{ff4d}vm.app(name='a')\ndef f(): ...",
        "text = '''\nimport mvm\n@mvm.app(name='a')\ndef f(): ...\n'''",
    ] {
        nothing(Python, text);
    }
    for text in [
        "",
        "import { Sandbox } from '@mvm/sdk'; await using box = await Sandbox.create();",
        "mvm.app({ name: 'a' })(f)",
        "import * as mvm from '@mvm/sdk/x'; mvm.app({ name: 'a' })(f)",
        "import * as mvm from 'mvm'; mvm.app({ name: 'a' })(f)",
        "import type { app } from '@mvm/sdk'; app({ name: 'a' })(f)",
        "import { type app } from '@mvm/sdk'; app({ name: 'a' })(f)",
        "import { app as x } from '@mvm/sdk'; app({ name: 'a' })(f)",
        "const mvm = require('@mvm/sdk'); mvm.app({ name: 'a' })(f)",
        "import * as mvm from '@mvm/sdk'; // mvm.app({ name: 'a' })(f)",
        "import * as mvm from '@mvm/sdk'; mv\u{43c}.app({ name: 'a' })(f)",
    ] {
        nothing(TypeScript, text);
    }
}

#[test]
fn texts_are_what_their_language_makes_of_them() {
    for (text, value) in [
        (r#""a" 'b' """c""" "#, "abc"),
        ("'a' \\\n 'b'", "ab"),
        (
            r#""\x41\u00e9\U0001F600\101\0\a\b\f\n\r\t\v\\\'\"\q""#,
            "A\u{e9}\u{1f600}A\0\u{7}\u{8}\u{c}\n\r\t\u{b}\\'\"\\q",
        ),
        ("'a\\\nb'", "ab"),
        ("'a\\\r\nb'", "ab"),
        ("'''a\r\nb\n'''", "a\nb\n"),
        (r"r'\n\''", r"\n\'"),
        (r"Ru'\x'", r"\x"),
        ("u''", ""),
        ("''''''", ""),
        (r"'\0011'", "\u{1}1"),
    ] {
        let text = python(&format!("name='a', profile={text} 'x'"));
        // A NUL is in no field but a profile's, which the host judges.
        assert_eq!(document(Python, &text)["profile"], format!("{value}x"), "{text}");
    }
    for (text, value) in [
        (r#""a'b""#, "a'b"),
        (
            r"'\x41\u00e9\u{1F600}\ud83d\ude00\0\b\f\n\r\t\v\\\'\q'",
            "A\u{e9}\u{1f600}\u{1f600}\0\u{8}\u{c}\n\r\t\u{b}\\'q",
        ),
        ("'a\\\nb'", "ab"),
        ("`a\r\n\\`b$`", "a\n`b$"),
        ("`\\${a}`", "${a}"),
        ("('x')", "x"),
    ] {
        let text = typescript(&format!("name: 'a', profile: {text}"));
        assert_eq!(document(TypeScript, &text)["profile"], value, "{text}");
    }
}

#[test]
fn times_are_in_seconds_in_python_and_in_milliseconds_in_typescript() {
    for (given, ms) in [("60", 60_000), (".0015", 2), ("1_0.5", 10_500), ("0x10", 16_000)] {
        assert_eq!(document(Python, &python(&format!("name='a', ttl={given}")))["ttl_ms"], ms);
    }
    for (given, ms) in [("60", 60), ("2e3", 2000), ("1_0.0", 10), ("0b11", 3)] {
        assert_eq!(document(TypeScript, &typescript(&format!("name: 'a', ttlMs: {given}")))["ttl_ms"], ms);
    }
}

/// What a case gives, as a whole file.
type Within = fn(&str) -> String;

/// The cases of a file beside this one, which says how they are written.
#[test]
fn what_is_wrong_is_told_with_its_place_and_what_to_do_instead() {
    let (mut within, mut cases): (Option<(Language, Within)>, _) = (None, 0);
    for block in include_str!("declare/problems.txt").split("\n\n") {
        let lines: Vec<&str> = block.trim().lines().filter(|line| !line.starts_with('#')).collect();
        match (lines.as_slice(), within) {
            ([], _) => {}
            ([heading], _) => {
                within = Some(match *heading {
                    "== Python call" => (Python, python),
                    "== Python lines" => (Python, |text| format!("import mvm\n{text}")),
                    "== Python file" => (Python, str::to_owned),
                    "== TypeScript call" => (TypeScript, typescript),
                    "== TypeScript lines" => (TypeScript, |text| format!("import * as mvm from '@mvm/sdk';\n{text}")),
                    "== TypeScript file" => (TypeScript, str::to_owned),
                    other => panic!("what is {other}?"),
                });
            }
            ([given, expected, instead], Some((language, within))) => {
                let text = within(&given.replace("(nothing)", "").replace('⏎', "\n"));
                assert_eq!(told(language, &text), [*expected], "{text}");
                assert_eq!(problems(language, &text)[0].instead, *instead, "{text}");
                cases += 1;
            }
            other => panic!("a case has three lines: {other:?}"),
        }
    }
    assert!(cases > 100);
}

#[test]
fn what_would_have_to_be_run_has_no_value() {
    let run = |what: &str| format!("{what} has no value here: nothing of this file is run");
    for (value, what) in [
        ("f'a'", "a text with parts that are put in"),
        ("f'{x}'", "a text with parts that are put in"),
        ("'a' f'{x}'", "a text with parts that are put in"),
        ("'a' + 'b'", "an operator"),
        ("not 1", "an operator"),
        ("+1", "an operator"),
        ("--1", "an operator"),
        ("str(1)", "a call"),
        ("mvm.x.image('a')", "a call"),
        ("os.environ", "an attribute"),
        ("os.environ['A']", "an item of something"),
        ("'a' if x else 'b'", "a conditional"),
        ("[a for a in b]", "a comprehension"),
        ("{a: a for a in b}", "a comprehension"),
        ("lambda: 'a'", "a lambda"),
        ("{'a'}", "a set"),
        ("...", "this"),
    ] {
        let all = told(Python, python(&format!("name='a', profile={value}")));
        assert!(all[0].contains(&run(what)), "{value}: {all:?}");
        assert!(all[0].starts_with(if value.starts_with("'a' f") { "2:32" } else { "2:28" }), "{value}: {all:?}");
    }
    for (value, what) in [
        ("`a${x}`", "a text with parts that are put in"),
        ("'a' + 'b'", "an operator"),
        ("!1", "an operator"),
        ("String(1)", "a call"),
        ("process.env.A", "a property"),
        ("a['b']", "an item of something"),
        ("x ? 'a' : 'b'", "a conditional"),
        ("() => 'a'", "a function"),
        ("new String('a')", "a new object"),
        ("await x", "what is awaited"),
        ("/a/", "this"),
    ] {
        let all = told(TypeScript, typescript(&format!("name: 'a', profile: {value}")));
        assert_eq!(all.len(), 1);
        assert!(all[0].starts_with("2:31: ") && all[0].contains(&run(what)), "{value}: {all:?}");
    }
}

#[test]
fn constants_are_literals_that_are_given_once() {
    let named = |constant: &str| told(Python, format!("{}{constant}", python("name=X")));
    assert_eq!(declared(Python, &format!("X = 'a'\n{}", python("name=X"))).workload.name, "a");
    assert_eq!(named(""), ["2:15: X is no constant of this file [X]"]);
    assert_eq!(named("from conf import X"), ["2:15: X is no constant of this file [X]"]);
    for again in
        ["X = 'b'", "X += 'b'", "del X", "def X(): ...", "for X in y: ...", "(X := 1)", "if y:\n  X = 1", "[X, y] = z"]
    {
        assert_eq!(
            named(&format!("X = 'a'\n{again}")),
            [format!("2:15: X is given another value in line {} [X]", if again.starts_with("if") { 6 } else { 5 })]
        );
    }
    for again in [
        "def f():\n  global X",
        "class X: ...",
        "import X",
        "import a as X",
        "from a import X",
        "with a as (X, b): ...",
    ] {
        assert_eq!(named(&format!("X = 'a'\n{again}")).len(), 1, "{again}");
    }
    for other in [
        "def f(X):\n  X = 2",
        "class C:\n  X = 2",
        "[X for X in y]",
        "a.X = 1",
        "a[X] = 1",
        "f(X=1)",
        "lambda X: X",
        "X.lower()",
    ] {
        assert_eq!(declared(Python, &format!("X = 'a'\n{}{other}", python("name=X"))).workload.name, "a", "{other}");
    }
    for changed in ["X.append('b')", "X[0] = 'b'", "X += ['b']", "del X[0]"] {
        let text = format!("X = ['a']\n{}{changed}", python("name='a', entrypoint=mvm.entrypoint_command(X)"));
        assert_eq!(told(Python, &text).len(), 1, "{changed}");
    }
    assert_eq!(named("X = Y"), ["4:5: Y is no constant of this file [Y]"]);
    assert_eq!(named("X = Y\nY = 'a'"), ["4:5: a constant is a literal, and this is a name [Y]"]);
    assert_eq!(named("X = mvm.literal('a')"), ["4:5: a constant is a literal, and this is a call [mvm.literal('…')]"]);
    assert_eq!(named("X = f()"), ["4:5: a call has no value here: nothing of this file is run [f()]"]);

    let named = |constant: &str| told(TypeScript, format!("{}{constant}", typescript("name: X")));
    for constant in
        ["const X = 'a'", "export const X: string = 'a'", "const Y = 1, X = ('a' as const) satisfies string"]
    {
        assert_eq!(declared(TypeScript, &format!("{}{constant}", typescript("name: X"))).workload.name, "a");
    }
    assert_eq!(declared(TypeScript, &format!("const name = 'a'\n{}", typescript("name"))).workload.name, "a");
    for other in [
        "",
        "let X = 'a'",
        "var X = 'a'",
        "{ const X = 'a' }",
        "import { X } from 'x'",
        "enum X { A }",
        "const { X } = y",
    ] {
        assert_eq!(named(other), ["2:17: X is no constant of this file [X]"], "{other}");
    }
    assert_eq!(told(TypeScript, typescript("name")), ["2:11: name is no constant of this file [name]"]);
    assert_eq!(named("const X = 'a', Y = X; X = 'b'"), ["2:17: X is given another value in line 3 [X]"]);
    assert_eq!(named("const X = `a${1}`").len(), 1);
    for changed in ["X.push('b')", "X[0] = 'b'", "X.length = 0"] {
        let text =
            format!("const X = ['a'];\n{}{changed}", typescript("name: 'a', entrypoint: mvm.entrypointCommand(X)"));
        assert_eq!(told(TypeScript, &text).len(), 1, "{changed}");
    }
}

#[test]
fn app_is_not_used_inside_of_anything() {
    for (within, words) in [
        ("def g():", "a function"),
        ("async def g():", "a function"),
        ("class G:", "a class"),
        ("if x:", "an if"),
        ("try:", "a try"),
        ("with x:", "a with"),
        ("for x in y:", "a loop"),
        ("while x:", "a loop"),
        ("match x:\n case y:", "a match"),
    ] {
        let end = if within == "try:" { "\nfinally: ..." } else { "" };
        let text = format!("import mvm\n{within}\n  @mvm.app(name='a')\n  def f(): ...{end}");
        let line = text.matches('\n').count() - end.matches('\n').count();
        assert_eq!(told(Python, text), [format!("{line}:4: app is used inside of {words} [mvm.app]")]);
    }
    for (within, words) in [
        ("function g() {", "a function"),
        ("const g = async () => {", "a function"),
        ("class G { f() {", "a class"),
        ("if (x) {", "an if"),
        ("try {", "a try"),
        ("for (;;) {", "a loop"),
        ("for (const x of y) {", "a loop"),
        ("do {", "a loop"),
        ("switch (x) { default:", "a switch"),
        ("namespace N {", "a namespace"),
        ("{", "a block"),
    ] {
        let end = match within {
            "try {" => "} finally {}",
            "do {" => "} while (x)",
            "class G { f() {" => "}}",
            _ => "}",
        };
        let text = format!("import * as mvm from '@mvm/sdk';\n{within}\nmvm.app({{ name: 'a' }})(f)\n{end}");
        assert_eq!(told(TypeScript, text), [format!("3:1: app is used inside of {words} [mvm.app]")]);
    }
}
