//! TypeScript without its types: what is left, where it stands, and what is refused.

use std::path::Path;
use std::process::Command;

use mvm_ir::declare::erased;

fn left(text: &str) -> String {
    let left = erased(text.as_bytes()).unwrap_or_else(|problems| panic!("{text}: {}", problems[0]));
    assert_eq!(left.chars().count(), text.chars().count(), "{text}: {left}");
    assert_eq!(erased(left.as_bytes()).as_ref(), Ok(&left), "nothing is left of types");
    left
}

/// Without the spaces, that are as many as there were characters.
fn words(text: &str) -> String {
    left(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn types_go_and_everything_else_stays_where_it_was() {
    assert_eq!(left("let é: Map<string, 'é'> = f<'x'>(y!) as T;"), "let é                   = f     (y )     ;");
    assert_eq!(left("a\r\n  .b!\r\n"), "a\r\n  .b \r\n");
    for (text, expected) in [
        ("import type { A } from 'a'; import { type B, c, type D } from 'b';", "; import { c, } from 'b';"),
        ("import type A from 'a'\nimport d, { type /* , */ B } from 'b'", "; import d, { } from 'b'"),
        ("export type { A } from 'a'; export { b, type C }", "; export { b, }"),
        ("export type A<T> = T[]; export interface B { c(): void }; export declare const d: E;", "; ; ; ;"),
        ("interface A { readonly b: C }\ntype D = keyof typeof e\ndeclare global { var f: G }", "; ; ;"),
        (
            "function f(a: A): void;\nfunction f(this: B, a?: A, ...b: C[]): asserts a is D {}",
            "; function f( a , ...b ) {}",
        ),
        ("async function* g<T extends U = V>(a: T = b): AsyncGenerator<T> {}", "async function* g (a = b) {}"),
        ("try { x satisfies Y } catch (e: unknown) {}", "try { x } catch (e ) {}"),
        ("const a = new Map<string, Set<A>>(), b = <T,>(c: T): c is D => c;", "const a = new Map (), b = (c ) => c;"),
        (
            "for (const a of b as C[]) { let d!: E; d = <F>(g: F) => (g as H as I)!.j?.k!; }",
            "for (const a of b ) { let d ; d = (g ) => (g ) .j?.k ; }",
        ),
        (
            "abstract class A<T> extends B<T> implements C, D { declare a: T; abstract b(): void; private readonly c?: T = d; \
             static override readonly e!: T; protected abstract get f(): T; [key: string]: T; g?(): void; \
             private static async *h<U>(a: U): AsyncGenerator<U> {} constructor(); constructor(a?: T) { super() } }",
            "class A extends B { ; ; ; ; ; c = d; static e ; ; ; ; ; ; ; ; static async *h (a ) {} ; ; constructor(a ) { super() } }",
        ),
        (
            "let type = 1, as = type, declare = as; namespace = type; of: for (;;) {}",
            "let type = 1, as = type, declare = as; namespace = type; of: for (;;) {}",
        ),
        ("const a = `${b as C} as ${'d' as const}`; // as E", "const a = `${b } as ${'d' }`; // as E"),
    ] {
        assert_eq!(words(text), expected, "{text}");
    }
}

#[test]
fn a_line_does_not_become_part_of_the_one_before() {
    assert_eq!(words("a()\ninterface B {}\n(c)"), "a() ; (c)");
    assert_eq!(words("a = b as C\n/* d */ // e\n(f)"), "a = b ; /* d */ // e (f)");
    assert_eq!(words("a = b as C\n  + d"), "a = b + d");
    assert_eq!(words("class A { b = c\n  private ['d'] = e }"), "class A { b = c ; ['d'] = e }");
    // Nor may a line end before an arrow, or behind async.
    assert_eq!(left("f = (a): {\n  b: C\n} => a"), "f = (a    \n      \n) => a");
    assert_eq!(left("f = async <\n  A\n>(b: A) => b"), "f = async (\n   \n  b   ) => b");
    assert_eq!(left("f = (a): {\n  b: 'é'} | é => a"), "f = (a    \n            ) => a");
}

#[test]
fn what_is_code_of_its_own_is_refused_with_its_place() {
    for (text, why) in [
        ("let a\nenum B { C }", "2:1: an enum is code"),
        ("const enum B { C }", "1:1: an enum is code"),
        ("export namespace A { let b }", "1:8: a namespace is code"),
        ("class A { constructor(private b: C) {} }", "1:23: a parameter that is a property"),
        ("class A { constructor(readonly b?: C) {} }", "1:23: a parameter that is a property"),
        ("import a = require('a')", "1:8: this import"),
        ("import a = b.c", "1:1: this import"),
        ("export = a", "1:1: this export"),
        ("@a class B {}", "1:1: Node.js runs no decorators"),
        ("b = <C>d", "1:5: a type in front"),
        ("let a: = 1", "syntax error"),
    ] {
        let problems = erased(text.as_bytes()).expect_err(text);
        assert!(problems[0].to_string().contains(why), "{text}: {}", problems[0]);
    }
    let many = "enum A { B }\n".repeat(100);
    assert_eq!(erased(many.as_bytes()).unwrap_err().len(), 20);
    assert!(erased(b"\xff").is_err() && erased(&[b' '; (1 << 20) + 1]).is_err());
}

#[test]
fn what_is_deep_is_left_too() {
    let deep = |n: usize| format!("a = {}1{} as B", "(".repeat(n), " as B)".repeat(n));
    assert_eq!(words(&deep(5000)).matches('(').count(), 5000);
    let long = format!("class A {{ {} }}", "private readonly a?: B;\n".repeat(20_000));
    assert_eq!(words(&long).matches("; a ;").count(), 20_000);
}

/// The SDK is written in it. Node reads what is left of each of its modules.
#[test]
fn what_is_left_is_javascript() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/typescript/src");
    let dir = tempfile::tempdir().unwrap();
    let mut files = 0;
    for file in walk(&sources) {
        let out = dir.path().join(format!("{files}.mjs"));
        std::fs::write(&out, left(&std::fs::read_to_string(&file).unwrap())).unwrap();
        let checked = Command::new("node").arg("--check").arg(&out).output().expect("node runs");
        assert!(checked.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&checked.stderr));
        files += 1;
    }
    assert!(files > 20, "{files} files");
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "ts")).collect()
}
