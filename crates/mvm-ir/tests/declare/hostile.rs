//! What nobody writes by hand: other encodings, endless nesting, characters that terminals obey, and anything at all.

use mvm_ir::canonical;
use mvm_ir::declare::Language::{Python, TypeScript};
use mvm_ir::declare::{Language, Place, declaration};
use proptest::prelude::*;

use super::{PYTHON, TYPESCRIPT, declared, nothing, problems, python, told, typescript};

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
    for told in all(&vec![b'\n'; (256 << 10) + 1]) {
        assert_eq!(told, ["1:1: the file is larger than 256 KiB []"]);
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
    for long in ["é".repeat(1000), "\u{1f600}".repeat(100), "x".repeat(1 << 16)] {
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
    let constant = format!("X = {{'A': 'hunter2'}} ; Y = f''\n{}", python("name=Y, env=X"));
    assert_eq!(problems(Python, constant)[0].source_line, "X = … ; Y = f''");
    let shorthand = "import * as mvm from '@mvm/sdk';\nconst env = { A: 'hunter2' };\nmvm.app({ env })(() => {});\n";
    assert!(problems(TypeScript, shorthand).iter().all(|problem| !problem.to_string().contains("hunter2")));
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
    const SIZE: usize = 256 << 10;
    let within = |language, value: String| match language {
        Python => python(&format!("name='a', profile={value}")),
        TypeScript => typescript(&format!("name: 'a', profile: {value}")),
    };
    for (language, open, close) in [
        (Python, "[", "]"),
        (Python, "(", ")"),
        (Python, "{'a':", "}"),
        (TypeScript, "[", "]"),
        (TypeScript, "(", ")"),
        // Each of them is two things to the parser, which releases what it knows of them by recursion.
        (TypeScript, "{a:", "}"),
    ] {
        let all = told(language, open.repeat(SIZE / open.len()));
        assert!(all[0].contains("syntax error"), "{all:?}");
        for times in [70, SIZE / 32] {
            let value = format!("{}1{}", open.repeat(times), close.repeat(times));
            // Parentheses mean nothing, up to 16 of them.
            let all = told(language, within(language, value));
            assert!(["nested more than 64 deep", "has no value"].iter().any(|why| all[all.len() - 1].contains(why)));
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
    // So does memory, if each part can be read in several ways.
    let ambiguous = told(TypeScript, format!("f({}", "a<b,".repeat(SIZE / 4 - 1)));
    assert!(ambiguous[0].contains("the file is too tangled to be read"), "{ambiguous:?}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim_end_matches("kB").trim();
    assert!(most.parse::<u64>().unwrap() < 2 << 20, "{most} KiB");
    // A constant may be used many times.
    let text = format!("X = '{}'\n", "x".repeat(SIZE / 4));
    let given = format!("name='a', entrypoint=mvm.entrypoint_command([{}])", "X,".repeat(SIZE / 8));
    assert!(told(Python, text + &python(&given))[0].contains("larger than 1 MiB"));
    let dictionary = format!("{{{}}}", "**a,".repeat(10));
    let nothing = format!("({})", "'' ".repeat(1_000));
    for value in [format!("{{'{}': None}}", "k".repeat(SIZE / 8)), dictionary, nothing] {
        let text = format!("X = {value}\n{}", python(&format!("name='a', profile=[{}]", "X,".repeat(40_000))));
        let told = told(Python, text);
        assert!(told.iter().any(|problem| problem.contains("larger than 1 MiB")), "{told:?}");
    }
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
                    problem.why.chars().count() <= 200 && problem.instead.chars().count() <= 200,
                    "{}",
                    problem
                );
                prop_assert!(
                    problem.caret + problem.width <= problem.source_line.chars().count().max(problem.caret) + 1
                );
                prop_assert!(!problem.to_string().replace('\n', "").contains(char::is_control));
            }
        }
    }
    Ok(())
}

/// What declarations consist of, and what is near to it; ⏎ is a line feed.
const TOKENS: &str = r#"import mvm⏎¦import * as mvm from '@mvm/sdk';⏎¦from mvm import app, image as i⏎¦import { app, secret } from '@mvm/sdk';⏎
@mvm.app(¦@app(¦mvm.app({¦app({¦})(¦)⏎¦⏎def f(): ...⏎¦class A: ...⏎¦async () => {}¦);⏎¦(¦)¦[¦]¦{¦}¦,¦:¦;¦=¦<¦>¦?¦@¦*¦+¦⏎¦\⏎¦  ¦mvm¦.app
name='a'¦name: 'a'¦name¦_=1¦'': 1¦env={'A': ¦env: { A: ¦mvm.literal(¦mvm.secret('env:A')¦'x'¦"¦'¦`¦`${¦f'{¦'''¦r'\¦é¦X = ¦const X = ¦X¦1¦-1¦1.5¦0x¦1_0
1e9¦None¦null¦if x:⏎  ¦if (x) {¦else:⏎¦for x in y:⏎ ¦**x¦...x¦as const¦satisfies T¦export ¦export default ¦lambda: ¦=> ¦# coding: utf-8⏎
//¦/*¦*/¦global mvm⏎¦del X⏎¦X.append(1)⏎¦resources=mvm.resources(cpus=¦image=i(¦ports=[mvm.port(guest=1, host=1)]"#;

fn token() -> impl Strategy<Value = String> {
    let odd = ["\u{1f600}", "\u{202e}", "\u{feff}", "\r", "\r\n", "\0", "\t"].map(str::to_owned);
    let plain = TOKENS.split(['¦', '\n']).map(|token| token.replace('⏎', "\n"));
    proptest::sample::select(odd.into_iter().chain(plain).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        sound(Python, &bytes)?;
        sound(TypeScript, &bytes)?;
    }

    #[test]
    fn what_is_nearly_a_declaration_is_read_or_refused(tokens in proptest::collection::vec(token(), 0..60)) {
        let text = tokens.concat();
        sound(Python, text.as_bytes())?;
        sound(TypeScript, text.as_bytes())?;
    }

    /// A declaration with something else in it somewhere.
    #[test]
    fn a_declaration_that_was_altered_is_read_or_refused(
        at in 0..2000usize, left_out in 0..20usize, put_in in token(),
    ) {
        for (language, text) in [(Python, PYTHON), (TypeScript, TYPESCRIPT)] {
            let at = at % text.len();
            let end = (at + left_out).min(text.len());
            sound(language, [&text.as_bytes()[..at], put_in.as_bytes(), &text.as_bytes()[end..]].concat().as_slice())?;
        }
    }
}
