//! Declarations: what is read of a file, that both languages come to one document, and what is said of all else and where.

use mvm_ir::canonical;
use mvm_ir::declare::Language::{Python, TypeScript};
use mvm_ir::declare::{Declaration, Language, Place, Problem, declaration};
use proptest::prelude::*;
use serde_json::{Value, json};

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

const PYTHON: &str = r#"import mvm

PACKAGES = ["nodejs", "git"]
PORT: int = 8_000

@mvm.app(
    name="web",
    source=mvm.local_path(".", include=["**/*.py"], exclude=("tests/**",)),
    image=mvm.debian(packages=PACKAGES),  # comments are anywhere
    resources=mvm.resources(cpus=2, memory_mib=0x200, disk_mib=4_096),
    network=mvm.network(mode="deny", ports=[mvm.port(guest=PORT, host=(8080))]),
    env={"LANG": mvm.literal("C"), "TOKEN": mvm.secret("env:" 'TOKEN'), "A/B": mvm.literal(r"a\b")},
    entrypoint=mvm.entrypoint_function(module="app", function="serve"),
    profile="standard",
    ttl=3600.5,
    on_expiry="destroy",
)
async def serve(): ...
"#;

const TYPESCRIPT: &str = r"import * as mvm from '@mvm/sdk';

const PACKAGES = ['nodejs', 'git'] as const;
const PORT: number = 8_000;

export const serve = mvm.app({
  name: 'web',
  source: mvm.localPath('.', { include: [`**/*.py`], exclude: ['tests/**'] }),
  image: mvm.debian({ packages: PACKAGES }), // comments are anywhere
  resources: mvm.resources({ cpus: 2, memoryMib: 0x200, diskMib: 4_096 }),
  network: mvm.network({ mode: 'deny', ports: [mvm.port({ guest: PORT, host: (8080) })] }),
  env: { LANG: mvm.literal('C'), 'TOKEN': mvm.secret('env:TOKEN'), 'A/B': mvm.literal('a\\b') },
  entrypoint: mvm.entrypointFunction({ module: 'app', function: 'serve' }),
  profile: 'standard' satisfies string,
  ttlMs: 3600500,
  onExpiry: 'destroy',
})(async () => {});
";

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
            "env": {"LANG": {"literal": "C"}, "TOKEN": {"secret": "env:TOKEN"}, "A/B": {"literal": "a\\b"}},
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
        ("/env/A~1B/literal", (12, 92), (12, 87)),
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
        ("<const>'x'", ""),
    ] {
        let text = typescript(&format!("name: 'a', profile: {text}"));
        if value.is_empty() {
            assert_eq!(told(TypeScript, &text).len(), 1);
        } else {
            assert_eq!(document(TypeScript, &text)["profile"], value, "{text}");
        }
    }
}

/// What is given, what is told of it, and what is said to do.
type Case = (&'static str, &'static str, &'static str);

fn check(language: Language, within: fn(&str) -> String, cases: &[Case]) {
    for (given, expected, instead) in cases {
        let text = within(given);
        assert_eq!(told(language, &text), [*expected], "{given}");
        assert_eq!(problems(language, &text)[0].instead, *instead, "{given}");
    }
}

const ITSELF: &str = "write the value itself, or a constant of this file that has it";
const ONCE: &str = "write the value itself, or a constant of this file that is given it once, at the top level";
const SCHEMA: &str = "mvmctl policy schema workload prints what a workload may say";

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
    check(
        Python,
        python,
        &[
            ("name='a', **x", "2:20: what is unpacked has no value here: nothing of this file is run [**x]", ITSELF),
            ("name='a', *x", "2:20: what is unpacked has no value here: nothing of this file is run [*x]", ITSELF),
            (
                "name='a', env={**x}",
                "2:25: what is unpacked has no value here: nothing of this file is run [**x]",
                ITSELF,
            ),
        ],
    );
    check(
        TypeScript,
        typescript,
        &[
            ("name: 'a', ...x", "2:22: what is spread has no value here: nothing of this file is run [...x]", ITSELF),
            (
                "name: 'a', profile() {}",
                "2:22: a function has no value here: nothing of this file is run [profile() {}]",
                ITSELF,
            ),
            ("name: 'a', [x]: 1", "2:22: a key is a name or a text [[x]]", "write it out"),
            ("name: 'a', 1: 1", "2:22: a key is a name or a text [1]", "write it out"),
        ],
    );
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
    check(Python, python, &[("name=X", "2:15: X is no constant of this file [X]", ONCE)]);
}

macro_rules! app {
    () => {
        "app has name, source, image, resources, network, env, entrypoint, profile, ttl and on_expiry"
    };
}

macro_rules! helpers {
    () => {
        "local_path, image, debian, resources, network, port, literal, secret, entrypoint_command and entrypoint_function"
    };
}

#[test]
fn fields_are_those_of_the_table_with_values_of_their_types() {
    check(
        Python,
        python,
        &[
            ("", "2:2: app is given no name [mvm.app]", "write app(name=\"…\")"),
            ("name=None", "2:15: name is a text [None]", "write a text, such as \"…\""),
            ("name=1", "2:15: name is a text [1]", "write a text, such as \"…\""),
            ("name=b'a'", "2:15: these are bytes, and no text [b'a']", "leave out the b"),
            (
                "name='\\N{DASH}'",
                "2:15: a character has to be known by its name here ['\\N{DASH}']",
                "write the character itself",
            ),
            (
                "name='\\ud800'",
                "2:15: an escape here stands for no character ['\\ud800']",
                "write the character itself",
            ),
            ("name='\\x4'", "2:15: an escape here stands for no character ['\\x4']", "write the character itself"),
            ("name='a', xyz=1", "2:20: app has no xyz [xyz]", concat!("leave it out; ", app!())),
            ("name='a', ttl_ms=1", "2:20: app has no ttl_ms [ttl_ms]", concat!("write ttl; ", app!())),
            ("name='a', name='b'", "2:20: name is given twice [name]", "leave one of them out"),
            ("'a', name='a'", "2:10: app takes no value without a name ['a']", "name its fields, such as name=\"…\""),
            (
                "name='a', resources=mvm.resources(memory=1)",
                "2:44: resources has no memory [memory]",
                "write memory_mib; resources has cpus, memory_mib and disk_mib",
            ),
            (
                "name='a', resources=mvm.resources(cpus=2.0)",
                "2:49: cpus is a whole number [2.0]",
                "write a whole number, such as 1",
            ),
            (
                "name='a', resources=mvm.resources(cpus=True)",
                "2:49: cpus is a whole number [True]",
                "write a whole number, such as 1",
            ),
            (
                "name='a', resources=mvm.resources(cpus=1j)",
                "2:49: this is no number that a declaration has [1j]",
                "write it in decimal digits",
            ),
            (
                "name='a', resources=mvm.resources(cpus=9999999999999999999999)",
                "2:49: cpus is out of all bounds [9999999999999999999999]",
                "write a smaller number",
            ),
            ("name='a', resources=1", "2:30: resources is resources() [1]", "write resources(), such as resources()"),
            (
                "name='a', image='debian'",
                "2:26: image is image() or debian() ['debian']",
                "write image() or debian(), such as image(\"…\")",
            ),
            (
                "name='a', image=mvm.debian()",
                "2:26: debian is given no packages [mvm.debian]",
                "write debian(packages=[\"…\"])",
            ),
            (
                "name='a', image=mvm.debian(packages=['a', 1])",
                "2:52: an item of packages is a text [1]",
                "write a text, such as \"…\"",
            ),
            (
                "name='a', image=mvm.debian(packages='a')",
                "2:46: packages is a list ['a']",
                "write a list, such as [\"…\"]",
            ),
            (
                "name='a', image=mvm.image('a', 'b')",
                "2:41: image takes one value without a name ['b']",
                "leave this one out",
            ),
            ("name='a', image=mvm.image('a', name='b')", "2:41: name is given twice [name]", "leave one of them out"),
            (
                "name='a', image=mvm.imgae('a')",
                "2:26: no declaration has imgae [mvm.imgae]",
                concat!("write image; declarations have ", helpers!()),
            ),
            (
                "name='a', image=mvm.Sandbox()",
                "2:26: no declaration has Sandbox [mvm.Sandbox]",
                concat!("write one of what declarations have: ", helpers!()),
            ),
            (
                "name='a', network=mvm.network(ports=[1])",
                "2:47: an item of ports is port() [1]",
                "write port(), such as port(guest=1, host=1)",
            ),
            (
                "name='a', network=mvm.network(ports=[mvm.port(guest=1)])",
                "2:47: port is given no host [mvm.port]",
                "write port(guest=1, host=1)",
            ),
            ("name='a', env=[]", "2:24: env is a dict [[]]", "write a dict, such as {\"NAME\": literal(\"…\")}"),
            (
                "name='a', env={'A': 1}",
                "2:30: a variable of env is literal() or secret() [1]",
                "write literal() or secret(), such as literal(\"…\")",
            ),
            (
                "name='a', env={'A': mvm.literal('1'), 'A': mvm.literal('2')}",
                "2:48: A is given twice ['A']",
                "leave one of them out",
            ),
            ("name='a', env={1: mvm.literal('')}", "2:25: a key is a text [1]", "write it out"),
            (
                "name='a', entrypoint=mvm.port(guest=1, host=1)",
                "2:31: entrypoint is entrypoint_command() or entrypoint_function() [mvm.port(guest=1, host=1)]",
                "write entrypoint_command() or entrypoint_function(), such as entrypoint_command([\"…\"])",
            ),
            (
                "name='a', ttl='1h'",
                "2:24: ttl is a number of seconds ['1h']",
                "write a number of seconds, such as 3600",
            ),
            (
                "name='a', ttl=1e999",
                "2:24: ttl is a number of seconds [1e999]",
                "write a number of seconds, such as 3600",
            ),
            (
                "name='a', source=mvm.local_path('')",
                "2:42: the path is empty, or there is a NUL in it ['']",
                "name a directory, such as .",
            ),
        ],
    );
    check(
        TypeScript,
        typescript,
        &[
            ("", "2:1: app is given no name [mvm.app]", "write app({ name: '…' })"),
            (
                "name: 'a', ttl: 1",
                "2:22: app has no ttl [ttl]",
                "write ttlMs; app has name, source, image, resources, network, env, entrypoint, profile, ttlMs and onExpiry",
            ),
            (
                "name: 'a', ttlMs: 1.5",
                "2:29: ttlMs is a whole number of milliseconds [1.5]",
                "write a whole number of milliseconds, such as 3600000",
            ),
            ("name: 'a', 'name': 'b'", "2:22: name is given twice ['name']", "leave one of them out"),
            (
                "name: 'a', resources: mvm.resources({ cpus: 1n })",
                "2:55: this is no number that a declaration has [1n]",
                "write it in decimal digits",
            ),
            (
                "name: 'a', resources: mvm.resources({ cpus: 010 })",
                "2:55: this is no number that a declaration has [010]",
                "write it in decimal digits",
            ),
            (
                "name: 'a', resources: mvm.resources(1)",
                "2:47: resources takes no value without a name [1]",
                "name its fields, such as cpus: 1",
            ),
            (
                "name: 'a', source: mvm.localPath({ path: '.' })",
                "2:44: path is a text [{ path: '.' }]",
                "write a text, such as '…'",
            ),
            (
                "name: 'a', source: mvm.localPath('.', { path: '.' })",
                "2:51: path is given twice [path]",
                "leave one of them out",
            ),
            (
                "name: 'a', image: mvm.debian({ packages: ['a', , 'b'] })",
                "2:58: an item is left out here [,]",
                "write it, or leave out the comma",
            ),
            (
                "name: 'a', profile: '\\ud800'",
                "2:31: an escape here stands for no character ['\\ud800']",
                "write the character itself",
            ),
            (
                "name: 'a', profile: '\\07'",
                "2:31: an escape here is of a kind that modules do not have ['\\07']",
                "write the character itself",
            ),
            ("name: 'a', env: 1", "2:27: env is an object [1]", "write an object, such as { NAME: literal('…') }"),
        ],
    );
    assert_eq!(document(TypeScript, &typescript("name: 'a', ttlMs: 2e3"))["ttl_ms"], 2000);
    assert_eq!(document(Python, &python("name='a', ttl=.0015"))["ttl_ms"], 2);
}

#[test]
fn what_the_document_refuses_is_refused_where_it_is_declared() {
    check(
        Python,
        python,
        &[
            (
                "name='A'",
                "2:15: a name has 1 to 63 lower-case letters, digits and, between them, hyphens, and does not begin with mvm- ['A']",
                SCHEMA,
            ),
            ("name='a', resources=mvm.resources(cpus=0)", "2:49: it is above zero [0]", SCHEMA),
            (
                "name='a', resources=mvm.resources(cpus=-1)",
                "2:49: a whole number from 0 to 4294967295 belongs here [-1]",
                SCHEMA,
            ),
            ("name='a', ttl=-0.5", "2:24: a whole number from 0 belongs here [-0.5]", SCHEMA),
            ("name='a', ttl=0.0001", "2:24: it is above zero [0.0001]", SCHEMA),
            ("name='a', network=mvm.network(mode='allow')", "2:45: this is none of `deny` ['allow']", SCHEMA),
            (
                "name='a', network=mvm.network(ports=[mvm.port(guest=1, host=70000)])",
                "2:70: a whole number from 0 to 65535 belongs here [70000]",
                SCHEMA,
            ),
            (
                "name='a', image=mvm.debian(packages=['-x'])",
                "2:47: this is no name of a package of Debian ['-x']",
                SCHEMA,
            ),
            ("name='a', image=mvm.image('')", "2:36: a name has 1 to 64 characters ['']", SCHEMA),
            (
                "name='a', env={'A/B': mvm.secret('hunter2')}",
                "2:43: a secret is named by where it is: env:VAR or file:PATH ['…']",
                SCHEMA,
            ),
            (
                "name='a', env={'': mvm.literal('')}",
                "2:24: the name of a variable is empty, or has a = or a NUL in it [{'': mvm.literal('')}]",
                SCHEMA,
            ),
            ("name='a', on_expiry='explode'", "2:30: this is none of `destroy`, `stop`, `cold` ['explode']", SCHEMA),
            ("name='a', entrypoint=mvm.entrypoint_command([])", "2:54: a command has a program [[]]", SCHEMA),
            (
                "name='a', entrypoint=mvm.entrypoint_function(module='a', function='f')",
                "2:31: its module is in no source tree: the workload has none [mvm.entrypoint_function]",
                SCHEMA,
            ),
        ],
    );
}

#[test]
fn app_is_called_at_the_top_level_and_once() {
    const TOP: &str = "move it to the top level of the file";
    const DECORATE: &str = "write it above a function: @mvm.app(name=\"…\")";
    let as_is: fn(&str) -> String = |text| format!("import mvm\n{text}");
    let decorated = "@mvm.app(name='a')\n  def f(): ...";
    for (within, words) in [
        ("def g():", "a function"),
        ("class G:", "a class"),
        ("if x:", "an if"),
        ("try:", "a try"),
        ("with x:", "a with"),
        ("for x in y:", "a loop"),
        ("while x:", "a loop"),
        ("async def g():", "a function"),
    ] {
        let end = if within == "try:" { "\nfinally: ..." } else { "" };
        let all = problems(Python, format!("import mvm\n{within}\n  {decorated}{end}"));
        let expected =
            format!("3:4: app is used inside of {words}\n    @mvm.app(name='a')\n     ^^^^^^^\n  try: {TOP}");
        assert_eq!(all.iter().map(Problem::to_string).collect::<Vec<_>>(), [expected]);
    }
    check(
        Python,
        as_is,
        &[
            ("@mvm.app\ndef f(): ...", "2:2: app is not called [mvm.app]", "write @mvm.app(name=\"…\")"),
            (
                "@mvm.app(name='a')\nclass F: ...",
                "2:2: app declares a function, and this is a class [mvm.app]",
                "write it above a function",
            ),
            ("f = mvm.app(name='a')(f)", "2:5: app is called here, and is no decorator [mvm.app]", DECORATE),
            ("@x(mvm.app(name='a'))\ndef f(): ...", "2:4: app is called here, and is no decorator [mvm.app]", DECORATE),
            ("declare = mvm.app", "2:11: app is given another name here, or passed on [mvm.app]", DECORATE),
            ("f(mvm.app)", "2:3: app is given another name here, or passed on [mvm.app]", DECORATE),
            ("f = lambda: mvm.app", "2:13: app is used inside of a lambda [mvm.app]", TOP),
            ("m = mvm\n@m.app(name='a')\ndef f(): ...", "3:2: m is another name of mvm [m.app]", "write mvm.app"),
            (
                "mvm = mvm\n@mvm.app(name='a')\ndef f(): ...",
                "3:2: mvm stands for something else, too: see line 2 [mvm.app]",
                "give one of them another name",
            ),
            (
                "@mvm.app(name='a')\ndef mvm(): ...",
                "2:2: mvm stands for something else, too: see line 3 [mvm.app]",
                "give one of them another name",
            ),
            (
                "try:\n  import mvm\nexcept ImportError:\n  mvm = None\n@mvm.app(name='a')\ndef f(): ...",
                "6:2: mvm stands for something else, too: see line 5 [mvm.app]",
                "give one of them another name",
            ),
            (
                "def g():\n  global mvm\n@mvm.app(name='a')\ndef f(): ...",
                "4:2: mvm stands for something else, too: see line 3 [mvm.app]",
                "give one of them another name",
            ),
            (
                "mvm.image = f\nfrom mvm import app, image\nimage = 1\n@app(name='a', image=image('b'))\ndef f(): ...",
                "5:22: image stands for something else, too: see line 4 [image]",
                "give one of them another name",
            ),
            (
                "@mvm.app(name='a')\ndef f(): ...\n\n@mvm.app(name='b')\ndef g(): ...",
                "5:2: the workload is declared in line 2 already [mvm.app]",
                "declare one workload for each file",
            ),
            (
                "@mvm.app(name='a', source=mvm.app(name='b'))\ndef f(): ...",
                "2:27: app is called here, and is no decorator [mvm.app]",
                DECORATE,
            ),
        ],
    );
    check(
        Python,
        str::to_owned,
        &[
            (
                "if x:\n  import mvm\n@mvm.app(name='a')\ndef f(): ...",
                "3:2: mvm is imported inside of an if [mvm.app]",
                "import it at the top level of the file",
            ),
            (
                "def g():\n  from mvm import app\n  @app(name='a')\n  def f(): ...",
                "3:4: app is imported inside of a function [app]",
                "import it at the top level of the file",
            ),
            (
                "from mvm import *\n@app(name='a')\ndef f(): ...",
                "2:2: app is imported by *, which may be another's [app]",
                "write from mvm import app",
            ),
            (
                "from mvm import app\n@app(name='a')\ndef app(): ...",
                "2:2: app stands for something else, too: see line 3 [app]",
                "give one of them another name",
            ),
        ],
    );
    const CALL: &str = "write export const workload = mvm.app({ name: '…' })(async () => { … }) at the top level";
    let as_is: fn(&str) -> String = |text| format!("import * as mvm from '@mvm/sdk';\n{text}");
    check(
        TypeScript,
        as_is,
        &[
            ("mvm.app({ name: 'a' });", "2:1: app is given no function [mvm.app]", CALL),
            ("const a = mvm.app;", "2:11: app is given another name here, or passed on [mvm.app]", CALL),
            ("const { app } = mvm;", "2:7: app is given another name here, or passed on [{ app } = mvm]", CALL),
            (
                "const { image, app: x } = mvm;",
                "2:7: app is given another name here, or passed on [{ image, app: x } = mvm]",
                CALL,
            ),
            ("f(mvm.app({ name: 'a' })(f));", "2:3: app is called within something else [mvm.app]", CALL),
            ("var f = mvm.app({ name: 'a' })(f);", "2:9: app is called within something else [mvm.app]", CALL),
            ("@mvm.app({}) class A {}", "2:2: app is given no function [mvm.app]", CALL),
            (
                "export { x as app };\nconst f = () => mvm.app({ name: 'a' })(f);",
                "3:17: app is used inside of a function [mvm.app]",
                TOP,
            ),
            ("if (x) { mvm.app({ name: 'a' })(f) }", "2:10: app is used inside of an if [mvm.app]", TOP),
            ("class A { static { mvm.app({ name: 'a' })(f) } }", "2:20: app is used inside of a class [mvm.app]", TOP),
            ("namespace A { mvm.app({ name: 'a' })(f) }", "2:15: app is used inside of a namespace [mvm.app]", TOP),
            ("{ mvm.app({ name: 'a' })(f) }", "2:3: app is used inside of a block [mvm.app]", TOP),
            ("const m = mvm; m.app({ name: 'a' })(f);", "2:16: m is another name of mvm [m.app]", "write mvm.app"),
            (
                "mvm.app({ name: 'a' })(f);\nexport default mvm.app({ name: 'b' })(f);",
                "3:16: the workload is declared in line 2 already [mvm.app]",
                "declare one workload for each file",
            ),
            (
                "function mvm() {}\nmvm.app({ name: 'a' })(f);",
                "3:1: mvm stands for something else, too: see line 2 [mvm.app]",
                "give one of them another name",
            ),
        ],
    );
    check(
        TypeScript,
        str::to_owned,
        &[(
            "import mvm from '@mvm/sdk'; mvm.app({ name: 'a' })(f);",
            "1:29: @mvm/sdk has no default export [mvm.app]",
            "write import * as mvm from '@mvm/sdk'",
        )],
    );
}

#[test]
fn what_is_no_text_of_the_language_is_told_with_its_place() {
    let all = |text: &[u8]| [told(Python, text), told(TypeScript, text)];
    for told in all(b"x = 1\n\n\xc3\xa9 = '\0'\n") {
        assert_eq!(told, ["3:6: there is a NUL in the file [\u{fffd}]"]);
    }
    for told in all(b"x = 1\n\xc3\xa9 = '\xe9'\n") {
        assert_eq!(told, ["2:6: the file is not UTF-8 here [\u{fffd}]"]);
    }
    for told in all(b"x = 1 # a\rmvm\r\n") {
        assert_eq!(told, ["1:10: there is a carriage return without a line feed [\u{fffd}]"]);
    }
    for told in all(&vec![b'\n'; (1 << 20) + 1]) {
        assert_eq!(told, ["1:1: the file is larger than 1 MiB []"]);
    }
    for (text, expected) in [
        ("# coding: latin-1", "1:11: the file says that it is not UTF-8 [latin-1]"),
        ("#!/usr/bin/python3\r\n  # -*- coding=cp1252 -*-", "2:16: the file says that it is not UTF-8 [cp1252]"),
        ("\n# vim: fileencoding: utf_16", "2:22: the file says that it is not UTF-8 [utf_16]"),
    ] {
        assert_eq!(told(Python, text), [expected]);
    }
    for text in [
        "# coding: UTF_8",
        "# coding: ascii",
        "\n\n# coding: latin-1",
        "x = 1\n# coding: latin-1",
        "# coding latin-1",
        "'coding: latin-1'",
    ] {
        nothing(Python, text);
    }
    nothing(TypeScript, "// coding: latin-1");
    // Deeper than its grammar's scanner has room for.
    let mut deep: String = (0..520).map(|depth| format!("{}if x:\n", " ".repeat(depth))).collect();
    deep += &format!("{}f'{{x}}'\n", " ".repeat(520));
    assert_eq!(
        told(Python, deep),
        [format!("301:1: the file is indented in more than 300 widths [{}]", " ".repeat(80))]
    );
}

#[test]
fn a_byte_order_mark_and_line_feeds_of_windows_are_fine() {
    for (language, text) in [(Python, PYTHON), (TypeScript, TYPESCRIPT)] {
        let plain = declared(language, text);
        let odd = declared(language, &format!("\u{feff}{}", text.replace('\n', "\r\n")));
        assert_eq!(odd, plain);
    }
    let text = format!("\u{feff}# é\r\n{}", python("'é', name=f''").replace('\n', "\r\n"));
    assert_eq!(
        told(Python, &text),
        [
            "3:10: app takes no value without a name ['é']",
            "3:20: a text with parts that are put in has no value here: nothing of this file is run [f'']",
        ]
    );
    assert_eq!(told(Python, "\u{feff}é = )\r\n"), ["1:1: the file has a syntax error here [é = )]"]);
}

#[test]
fn a_syntax_error_is_told_near_what_is_wrong() {
    for (text, expected) in [
        ("import mvm\n@mvm.app(name='a', profile='b)\ndef f(): ...\n", "2:28: the file has a syntax error here [']"),
        ("import mvm\n@mvm.app(name='a'\ndef f(): ...\n", "3:1: the file has a syntax error here [def f]"),
        (
            "import mvm\n@mvm.app(name='a' profile='b')\ndef f(): ...\n",
            "2:19: the file has a syntax error here [profile=]",
        ),
    ] {
        assert_eq!(told(Python, text), [expected]);
    }
    let text = typescript("name: 'a', resources: mvm.resources({ cpus: 2 )");
    assert_eq!(told(TypeScript, text), ["2:56: the file has a syntax error here: } is missing [ ]"]);
    // The first few are told of.
    assert_eq!(told(Python, "x = = 1\n".repeat(50)).len(), 3);
}

#[test]
fn a_line_is_shown_as_far_as_it_is_short_and_harmless_and_no_secret() {
    let problem = &problems(Python, python("name='a', xyz=1"))[0];
    assert_eq!(
        problem.to_string(),
        "2:20: app has no xyz\n  @mvm.app(name='a', xyz=1)\n                     ^^^\n  try: leave it out; app has name, source, image, \
         resources, network, env, entrypoint, profile, ttl and on_expiry"
    );
    // Control characters, and those that show a text in another order.
    let problem = &problems(Python, python("name='\t\u{1b}[2J\u{202e}é', xyz=1"))[0];
    assert_eq!(problem.source_line, "@mvm.app(name=' \u{fffd}[2J\u{fffd}é', xyz=1)");
    assert_eq!((problem.place.column, problem.caret), (26, 25));
    for long in ["é".repeat(1000), "\u{1f600}".repeat(100), "x".repeat(1 << 18)] {
        let text = python(&format!("name='{long}', xyz=1, profile='{long}', abc=1"));
        for problem in problems(Python, &text) {
            assert!((100..=200).contains(&problem.source_line.chars().count()));
            let at: String = problem.source_line.chars().skip(problem.caret).take(problem.width).collect();
            assert!(["xyz", "abc"].contains(&at.as_str()), "{at}");
        }
    }
    let name = "x".repeat(100_000);
    assert!(problems(Python, python(&format!("name='a', {name}=1")))[0].why.len() < 200);

    for given in [
        "name='a', env={'A': mvm.literal('hunter2'), 'B': 'hunter2', 'C': f('hunter2')}, xyz=1",
        "name='a', env=dict(A='hunter2'), xyz='a'",
        "name='a', xyz={'A': mvm.literal('''hunter2''' 'hunter2')}",
        "name='a', xyz=mvm.secret(rb'hunter2')",
        "name='a', env={'A': mvm.secret('hunter2')}",
        "name='a', env={'A': mvm.literal('hunter2' + 'hunter2')}",
    ] {
        for problem in problems(Python, python(given)) {
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
            assert!(problem.source_line.contains("name='a'") && problem.source_line.contains('…'), "{problem}");
        }
    }
    let constant = "import mvm\nX = 'hunter2'; @mvm.app(name='a')\n";
    assert!(!told(Python, constant).is_empty());
    let constant = format!("X = 'hunter2' ; Y = f''\n{}", python("name=Y, env={'A': mvm.literal(X)}"));
    assert_eq!(problems(Python, constant)[0].source_line, "X = '…' ; Y = f''");
    for given in
        ["name: 'a', env: { A: mvm.literal(`hunter2`), B: 'hunter2' }, xyz: 1", "name: 'a', xyz: mvm.secret('hunter2')"]
    {
        for problem in problems(TypeScript, typescript(given)) {
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}

#[test]
fn all_problems_of_a_file_are_told_at_once_and_in_order() {
    let text = "import mvm\nX = f''\n@mvm.app(nmae='a', profile=X, **y)\ndef f():\n  mvm.app\nmvm.app\n";
    let places: Vec<Place> = problems(Python, text).iter().map(|problem| problem.place).collect();
    let expected = [(2, 5), (3, 2), (3, 10), (3, 31), (5, 3), (6, 1)];
    assert_eq!(places, expected.map(|(line, column)| Place { line, column }));
    assert_eq!(problems(Python, python(&"xyz=1,".repeat(1000))).len(), 20);
}

#[test]
fn what_a_file_makes_deep_or_large_is_refused() {
    const SIZE: usize = 1 << 20;
    let within = |language, value: String| match language {
        Python => python(&format!("name='a', profile={value}")),
        TypeScript => typescript(&format!("name: 'a', profile: {value}")),
    };
    for (language, open, close, size) in [
        (Python, "[", "]", SIZE),
        (Python, "(", ")", SIZE),
        (Python, "{1:", "}", SIZE),
        (Python, "-(", ")", SIZE / 16),
        (Python, "f'{", "}'", SIZE / 16),
        (TypeScript, "[", "]", SIZE),
        (TypeScript, "(", ")", SIZE),
        // Each of them is two things to the parser, whose memory of that is as deep.
        (TypeScript, "{a:", "}", SIZE),
        (TypeScript, "`${", "}`", SIZE / 16),
        (TypeScript, "()=>{", "}", SIZE / 16),
    ] {
        let _ = problems(language, open.repeat(size / open.len()));
        let _ = problems(language, close.repeat(size / close.len() / 16));
        for times in [70, size / 2 / (open.len() + close.len())] {
            let value = format!("{}1{}", open.repeat(times), close.repeat(times));
            let _ = problems(language, within(language, value));
        }
    }
    let lists = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let why = |depth: usize| told(Python, python(&format!("name={}", lists(depth))));
    assert_eq!(why(63), ["2:15: name is a text [".to_owned() + &lists(63) + "]"]);
    assert_eq!(why(64)[1], "2:79: this is nested more than 64 deep [1]");
    // Work that grows with the square of the length ends early.
    for (language, text) in [(Python, "\\\n"), (TypeScript, "x\n/*")] {
        let told = told(language, text.repeat(SIZE / text.len()));
        assert!(told[0].contains("the file is too tangled to be read"), "{told:?}");
    }
    // A constant may be used many times.
    let text = format!("X = '{}'\n", "x".repeat(SIZE / 4));
    let given = format!("name='a', entrypoint=mvm.entrypoint_command([{}])", "X,".repeat(SIZE / 8));
    assert!(told(Python, text + &python(&given))[0].contains("larger than 1 MiB"));
}

/// Whether the place of each problem is one of the text, and its line is shown as a terminal may have it.
fn sound(language: Language, bytes: &[u8]) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(&text).split('\n').collect();
    match declaration(language, bytes) {
        Ok(None) => {}
        Ok(Some(declared)) => {
            let document = canonical(&declared.workload).unwrap();
            prop_assert_eq!(mvm_ir::read(&document).unwrap(), declared.workload);
        }
        Err(problems) => {
            prop_assert!((1..=20).contains(&problems.len()));
            prop_assert!(problems.is_sorted_by_key(|problem| problem.place));
            for problem in problems {
                let (line, column) = (problem.place.line as usize, problem.place.column as usize);
                prop_assert!(line >= 1 && line <= lines.len(), "{}", problem);
                prop_assert!(column >= 1 && column <= lines[line - 1].chars().count() + 1, "{}", problem);
                prop_assert!(problem.source_line.chars().count() <= 200 && problem.width >= 1);
                prop_assert!(
                    problem.caret + problem.width <= problem.source_line.chars().count().max(problem.caret) + 1
                );
                prop_assert!(!problem.to_string().replace('\n', "").contains(char::is_control));
            }
        }
    }
    Ok(())
}

const TOKENS: &[&str] = &[
    "import mvm\n",
    "import * as mvm from '@mvm/sdk';\n",
    "from mvm import app, image as i\n",
    "import { app, secret } from '@mvm/sdk';\n",
    "@mvm.app(",
    "@app(",
    "mvm.app({",
    "app({",
    "})(",
    ")\n",
    "\ndef f(): ...\n",
    "class A: ...\n",
    "async () => {}",
    ");\n",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    ";",
    "=",
    "\n",
    "\r\n",
    "  ",
    "\t",
    "\\\n",
    "name='a'",
    "name: 'a'",
    "name",
    "env={'A': ",
    "env: { A: ",
    "mvm.literal(",
    "mvm.secret('env:A')",
    "'x'",
    "\"",
    "'",
    "`",
    "`${",
    "f'{",
    "'''",
    "r'\\",
    "é",
    "\u{1f600}",
    "\u{202e}",
    "X = ",
    "const X = ",
    "X",
    "1",
    "-1",
    "1.5",
    "0x",
    "1_0",
    "1e9",
    "None",
    "null",
    "if x:\n  ",
    "if (x) {",
    "else:\n",
    "for x in y:\n ",
    "mvm",
    ".app",
    "**x",
    "...x",
    "*",
    "+",
    "as const",
    "satisfies T",
    "export ",
    "export default ",
    "lambda: ",
    "=> ",
    "# coding: utf-8\n",
    "//",
    "/*",
    "*/",
    "\u{feff}",
    "\r",
    "\0",
    "<",
    ">",
    "?",
    "@",
    "global mvm\n",
    "del X\n",
    "X.append(1)\n",
    "resources=mvm.resources(cpus=",
    "image=i(",
    "ports=[mvm.port(guest=1, host=1)]",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        sound(Python, &bytes)?;
        sound(TypeScript, &bytes)?;
    }

    #[test]
    fn what_is_nearly_a_declaration_is_read_or_refused(tokens in proptest::collection::vec(proptest::sample::select(TOKENS), 0..60)) {
        let text = tokens.concat();
        sound(Python, text.as_bytes())?;
        sound(TypeScript, text.as_bytes())?;
    }

    /// A declaration with something else in it somewhere.
    #[test]
    fn a_declaration_that_was_altered_is_read_or_refused(
        at in 0..2000usize, left_out in 0..20usize, put_in in proptest::sample::select(TOKENS),
    ) {
        for (language, text) in [(Python, PYTHON), (TypeScript, TYPESCRIPT)] {
            let at = at % text.len();
            let end = (at + left_out).min(text.len());
            sound(language, [&text.as_bytes()[..at], put_in.as_bytes(), &text.as_bytes()[end..]].concat().as_slice())?;
        }
    }
}
