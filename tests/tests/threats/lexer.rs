//! THREATS 1.1: lexer and encoding.

use anyhow::{Result, ensure};
use bulla_e2e::arena::Arena;

use crate::family::{BOTH, Family, Proof};
use Proof::{Alone, Leaks, Reaches, Runs};

#[rustfmt::skip]
pub const FAMILIES: &[Family] = &[
    Family { line: "L1", what: "standard_conforming_strings off", groups: BOTH,
        control: "SET standard_conforming_strings = on", attacks: &[
        (Runs, "SET standard_conforming_strings = off"),
        (Runs, "set Standard_Conforming_Strings to 'off'"),
        (Runs, "SET SESSION standard_conforming_strings TO false"),
        (Runs, "SET standard_conforming_strings = 0"),
        (Runs, "SET standard_conforming_strings = 'no'"),
        (Runs, "SET standard_conforming_strings = of"),
        (Runs, "SET standard_conforming_strings = f"),
        (Runs, "SET \"standard_conforming_strings\" = 'OFF'"),
        (Runs, "SET U&\"standard_conforming_string\\0073\" = off"),
        (Runs, "SET/**/standard_conforming_strings/**/=/**/off"),
        (Runs, "SET LOCAL standard_conforming_strings = off"),
        (Runs, "BEGIN ;; SET LOCAL standard_conforming_strings = off ;; COMMIT"),
        (Runs, "SET escape_string_warning = off; SET standard_conforming_strings = off"),
        (Runs, "SELECT set_config('standard_conforming_strings', 'off', false)"),
        (Runs, "SELECT pg_catalog.set_config('standard_conforming_' || 'strings', 'off', false)"),
        (Runs, "SELECT set_config(n, 'off', true) FROM (VALUES ('standard_conforming_strings')) v(n)"),
        (Runs, "SELECT \"set_config\"(U&'standard\\005fconforming_strings', 'off', false)"),
        (Reaches, "SELECT set_config(setting_name => 'standard_conforming_strings', new_value => 'off', is_local => false)"),
        (Runs, "SELECT 1 WHERE set_config('standard_conforming_strings', 'off', false) = 'off'"),
        (Runs, "SELECT count(*) FROM set_config('standard_conforming_strings', 'off', false)"),
        (Runs, "UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'"),
        (Runs, "UPDATE pg_catalog.pg_settings SET setting = 'off' WHERE name LIKE 'standard_con%'"),
        (Reaches, "WITH u AS (UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings' RETURNING 1) SELECT * FROM u"),
        (Runs, "ALTER ROLE intern SET standard_conforming_strings = off"),
        (Runs, "ALTER ROLE ALL SET standard_conforming_strings = off"),
        (Runs, "ALTER USER intern IN DATABASE orders SET standard_conforming_strings TO off"),
        (Runs, "ALTER DATABASE orders SET standard_conforming_strings = off"),
        (Alone, "ALTER SYSTEM SET standard_conforming_strings = off ;; ALTER SYSTEM RESET ALL"),
        (Runs, "DO $$ BEGIN SET standard_conforming_strings = off; END $$"),
        (Runs, "DO LANGUAGE plpgsql 'BEGIN PERFORM set_config(''standard_conforming_strings'', ''off'', false); END'"),
        (Runs, "SET backslash_quote = on"),
        (Leaks, "SET standard_conforming_strings = off ;; SELECT '\\'', (SELECT amount FROM salaries LIMIT 1) --'"),
    ] },
    Family { line: "L2", what: "an encoding with 0x5c as a second byte", groups: BOTH,
        control: "SET client_encoding = 'utf-8'", attacks: &[
        (Runs, "SET client_encoding = 'SJIS'"),
        (Runs, "SET client_encoding TO gbk"),
        (Runs, "SET client_encoding = 'GB18030'"),
        (Runs, "SET client_encoding = BIG5"),
        (Runs, "SET client_encoding = 'shift_jis_2004'"),
        (Runs, "SET client_encoding = 'Johab'"),
        (Runs, "SET client_encoding = uhc"),
        (Runs, "SET NAMES 'SJIS'"),
        (Runs, "set names 'big5'"),
        (Runs, "SET LOCAL client_encoding = 'SJIS'"),
        (Runs, "SET SESSION client_encoding = SJIS"),
        (Runs, "SET client_encoding = 's j i s'"),
        (Runs, "SELECT set_config('client_encoding', 'SJIS', false)"),
        (Runs, "SELECT set_config('CLIENT_' || 'ENCODING', 'S' || 'JIS', false)"),
        (Runs, "UPDATE pg_settings SET setting = 'GBK' WHERE name = 'client_encoding'"),
        (Runs, "ALTER ROLE intern SET client_encoding = 'SJIS'"),
        (Runs, "ALTER DATABASE orders SET client_encoding = 'SJIS'"),
        (Runs, "SELECT 1; SET client_encoding = 'SJIS'"),
    ] },
    Family { line: "L3", what: "an encoding that hides names", groups: BOTH,
        control: "SET NAMES 'UTF8'", attacks: &[
        (Runs, "SET client_encoding = 'LATIN1'"),
        (Runs, "SET client_encoding = 'EUC_JP'"),
        (Runs, "SET client_encoding = 'WIN1252'"),
        (Runs, "SET client_encoding = 'SQL_ASCII'"),
        (Runs, "SET client_encoding = 'KOI8R'"),
        (Runs, "SET NAMES 'latin9'"),
        (Runs, "SET NAMES 'EUC_TW'"),
        (Runs, "SELECT set_config('client_encoding', 'LATIN1', true)"),
        (Runs, "SELECT pg_catalog.set_config('client_encoding', (SELECT 'EUC_KR'), false)"),
        (Reaches, "UPDATE pg_settings SET setting = 'LATIN1' WHERE name = 'client_encoding'"),
    ] },
    Family { line: "L4", what: "quoting", groups: BOTH,
        control: "SELECT U&\"n\\0061me\", E'\\'', U&'d\\0061ta', N'n', $a$ $b$ $a$, 'a''b', '\\' FROM customers",
        attacks: &[
        (Leaks, "SELECT amount FROM salaries"),
        (Leaks, "SELECT amount FROM SALARIES"),
        (Leaks, "SELECT amount FROM \"salaries\""),
        (Leaks, "SELECT \"amount\" FROM public.\"salaries\""),
        (Leaks, "SELECT amount FROM \"public\" . \"salaries\""),
        (Leaks, "SELECT amount FROM orders.public.salaries"),
        (Leaks, "SELECT amount FROM public/**/./**/salaries"),
        (Leaks, "SELECT U&\"\\0061mount\" FROM U&\"s\\0061laries\""),
        (Leaks, "SELECT amount FROM U&\"\\+000073alaries\""),
        (Leaks, "SELECT amount FROM U&\"!0073alaries\" UESCAPE '!'"),
        (Leaks, "SELECT amount FROM u&\"sal#0061ries\" UESCAPE '#'"),
        (Leaks, "SELECT amount FROM ONLY salaries"),
        (Leaks, "SELECT amount FROM ONLY (salaries)"),
        (Leaks, "SELECT amount FROM salaries *"),
        (Leaks, "SELECT amount FROM salaries AS customers"),
        (Leaks, "SELECT customers.amount FROM salaries customers"),
        (Leaks, "TABLE salaries"),
        (Leaks, "TABLE ONLY public.salaries"),
        (Leaks, "SELECT '\\', amount FROM salaries --'"),
        (Leaks, "SELECT E'\\'', amount FROM salaries --'"),
        (Leaks, "SELECT e'\\\\', amount FROM salaries"),
        (Leaks, "SELECT E'\\x27', amount FROM salaries"),
        (Leaks, "SELECT U&'\\0027', amount FROM salaries"),
        (Leaks, "SELECT 'a''', amount FROM salaries --'"),
        (Leaks, "SELECT 'a'\n'b', amount FROM salaries"),
        (Leaks, "SELECT $$'$$, amount FROM salaries"),
        (Leaks, "SELECT $a$ $b$ $a$, amount FROM salaries --$b$"),
        (Leaks, "SELECT $a1_$$a1$$a1_$, amount FROM salaries"),
        (Leaks, "SELECT $é$'$é$, amount FROM salaries"),
        (Leaks, "SELECT N'x', amount FROM salaries"),
        (Leaks, "SELECT B'1', X'1F', amount FROM salaries"),
        (Leaks, "SELECT \"a\"\"b\", amount FROM (SELECT 1 AS \"a\"\"b\") x, salaries"),
        (Leaks, "SELECT 1e0, .5, 1., 1e-1, amount FROM salaries"),
        (Leaks, "SELECT(amount)FROM salaries"),
        (Leaks, "SELECT'x',amount FROM salaries"),
        (Leaks, "SELECT+1,amount FROM salaries"),
        (Leaks, "select all amount from salaries"),
        (Leaks, "SELECT DISTINCT ON (amount) amount FROM salaries"),
        (Leaks, ";;;SELECT amount FROM salaries;;;"),
        (Leaks, "(((SELECT amount FROM salaries)))"),
        (Leaks, "VALUES ((SELECT max(amount) FROM salaries))"),
    ] },
    Family { line: "L5", what: "comments and operators", groups: BOTH,
        control: "SELECT /* /* */ */ name -- x\r, 4 - - 2, 6 # 2 FROM customers /*!50000 WHERE false */",
        attacks: &[
        (Leaks, "SELECT /* /* */ id FROM customers -- */ amount FROM salaries --*/"),
        (Leaks, "SELECT /* /* */ */ amount FROM salaries -- FROM customers"),
        (Leaks, "/**/SELECT/**/amount/**/FROM/**/salaries/**/"),
        (Leaks, "SELECT id -- \r, amount FROM salaries"),
        (Leaks, "SELECT 1 --\n, amount FROM salaries"),
        (Leaks, "SELECT 1 -- /* \n, amount FROM salaries -- */"),
        (Leaks, "SELECT '/*', amount FROM salaries --*/"),
        (Leaks, "SELECT '--', amount FROM salaries"),
        (Leaks, "SELECT /* -- */ amount FROM salaries"),
        (Leaks, "SELECT /* ' */ amount FROM salaries /* ' */"),
        (Leaks, "SELECT /* $$ */ amount FROM salaries /* $$ */"),
        (Leaks, "SELECT 1 # 2, amount FROM salaries"),
        (Leaks, "SELECT 6 #2, amount FROM salaries"),
        (Leaks, "SELECT /*!50000 id */ amount FROM salaries"),
        (Leaks, "SELECT 1 /*! FROM customers */, amount FROM salaries"),
        (Leaks, "SELECT /*+ hint */ amount FROM salaries"),
        (Leaks, "SELECT 4 - - 2, amount FROM salaries"),
        (Leaks, "SELECT 4 *-2, amount FROM salaries"),
        (Leaks, "SELECT 4 +-- + \n 2, amount FROM salaries"),
        (Leaks, "SELECT 4 */* x */ 2, amount FROM salaries"),
        (Leaks, "SELECT @ -5, |/ 4, amount FROM salaries"),
        (Leaks, "SELECT '{\"a\":1}'::jsonb ? 'a', amount FROM salaries"),
        (Leaks, "SELECT\u{c}amount\u{c}FROM\u{c}salaries"),
        (Leaks, "SELECT\tamount\r\nFROM\r\nsalaries"),
        (Leaks, "SELECT amount FROM salaries; -- ;"),
        (Reaches, "\u{feff}SELECT amount FROM salaries"),
        (Reaches, "SELECT\u{a0}amount FROM salaries"),
        (Reaches, "SELECT amount FROM salaries\u{200b}"),
        (Reaches, "SELECT amount FROM \u{ff53}alaries"),
        (Leaks, "SELECT amount FROM salaries /* never closed */ /**/"),
        (Leaks, "--\r--\rSELECT amount FROM salaries"),
        (Leaks, "SELECT 1 OPERATOR(pg_catalog.+) 1, amount FROM salaries"),
    ] },
    Family { line: "L6", what: "a name cut at 63 bytes", groups: BOTH,
        control: "SELECT name AS \"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnop\" FROM customers",
        attacks: &[
        (Leaks, "SELECT * FROM abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk"),
        (Leaks, "SELECT * FROM abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkX"),
        (Leaks, "SELECT * FROM ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        (Leaks, "SELECT * FROM \"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijké\""),
        (Leaks, "SELECT * FROM public.\"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk more\""),
        (Leaks, "SELECT * FROM U&\"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghij\\006b\\0041\""),
        (Leaks, "TABLE abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklm"),
    ] },
];

/// Texts that are made, not written.
fn stresses() -> Vec<(&'static str, Proof, String)> {
    let amount = "(SELECT max(amount) FROM salaries)";
    let deep = |open: &str, close: &str, times: usize, inner: &str| {
        format!("SELECT {}{inner}{}", open.repeat(times), close.repeat(times))
    };
    vec![
        ("L7 a megabyte of comment", Leaks, format!("/*{}*/ SELECT {amount}", "x".repeat(900_000))),
        ("L7 3 MB of comment", Leaks, format!("/*{}*/ SELECT {amount}", "x".repeat(3 << 20))),
        ("L7 3 MB of literal", Leaks, format!("SELECT '{}', {amount}", "x".repeat(3 << 20))),
        ("L7 3 MB behind it", Leaks, format!("SELECT {amount} -- {}", "x".repeat(3 << 20))),
        ("L7 3 MB of blanks", Leaks, format!("SELECT{}{amount}", " ".repeat(3 << 20))),
        ("L7 3 MB of dollars", Leaks, format!("SELECT $a${}$a$, {amount}", "x".repeat(3 << 20))),
        ("L7 17 MB of comment", Leaks, format!("/*{}*/ SELECT {amount}", "x".repeat(17 << 20))),
        ("L8 a sum of 9,000 terms", Reaches, format!("SELECT {amount}{}", " + 0".repeat(9_000))),
        (
            "L8 9,000 texts joined",
            Reaches,
            format!("SELECT {amount} || ''{}", " || 'x'".repeat(9_000)),
        ),
        ("L8 2,500 nested queries", Reaches, deep("(SELECT ", ")", 2_500, amount)),
        ("L8 100,000 statements", Leaks, "SELECT 1;".repeat(100_000) + "SELECT " + amount),
        ("L8 100,000 brackets", Reaches, deep("(", ")", 100_000, amount)),
        ("L8 100,000 open brackets", Reaches, format!("SELECT {}", "(".repeat(100_000))),
        ("L8 50,000 minus signs", Reaches, format!("SELECT {}{amount}", "- ".repeat(50_000))),
        ("L8 20,000 NOT", Reaches, format!("SELECT {}true, {amount}", "NOT ".repeat(20_000))),
        ("L8 20,000 CASE", Reaches, deep("CASE WHEN true THEN ", " END", 20_000, amount)),
        ("L8 5,000 UNION", Reaches, format!("{}SELECT {amount}", "SELECT 1 UNION ".repeat(5_000))),
        ("L8 50,000 casts", Reaches, format!("SELECT {amount}{}", "::text".repeat(50_000))),
        (
            "L8 50,000 subscripts",
            Reaches,
            format!("SELECT ('{{1}}'::int[]){}, {amount}", "[1]".repeat(50_000)),
        ),
        (
            "L8 30,000 joins",
            Reaches,
            format!("SELECT {amount} FROM orders a{}", " CROSS JOIN orders".repeat(30_000)),
        ),
        (
            "L8 2,000 nested WITH",
            Reaches,
            format!("{}SELECT {amount}{}", "WITH a AS (".repeat(2_000), ") SELECT 1".repeat(2_000)),
        ),
        (
            "L8 100,000 values",
            Leaks,
            format!("SELECT {amount} WHERE 1 IN (1{})", ",2".repeat(100_000)),
        ),
    ]
}

/// Large and deep texts are read whole or refused; the gateway lives on.
pub fn stress(arena: &Arena) {
    for (row, proof, text) in stresses() {
        arena.try_row(row, || {
            let mut session = arena.through("deny", row)?.open()?;
            let from = arena.logged();
            let answer = session.query(&text)?;
            arena.expect_refused(row, &answer)?;
            let since = arena.logged_since(from)?;
            ensure!(!since.contains("salaries") && since.len() < 100_000, "it reached the server");
            ensure!(answer.is_ready(), "the session is gone: {}", answer.describe());
            let control = session.query("SELECT count(*) FROM customers")?;
            ensure!(control.succeeded(), "the control: {}", control.describe());
            Ok(())
        });
        // What the server itself cannot take proves nothing, and takes long to say so.
        if proof == Leaks {
            arena.try_row(&format!("{row}, unguarded"), || leaks(arena, &text));
        }
    }
    arena.try_row("L7 100 KB of comment, benign", || {
        let mut session = arena.through("least", "L7-benign")?.open()?;
        for text in [
            format!("/*{}*/ SELECT name FROM customers", "x".repeat(100_000)),
            format!("SELECT name FROM customers WHERE id IN (7{})", ",8".repeat(2_000)),
            format!("SELECT name{} FROM customers", " || 'x'".repeat(150)),
            format!("SELECT {}1{} FROM customers", "(".repeat(60), ")".repeat(60)),
            format!("SELECT 1 FROM customers{}", " UNION ALL SELECT 1 FROM orders".repeat(100)),
            "SELECT 1;".repeat(100),
        ] {
            let answer = session.query(&text)?;
            let start: String = text.chars().take(40).collect();
            ensure!(answer.succeeded(), "{start}: {}", answer.describe());
        }
        Ok(())
    });
}

fn leaks(arena: &Arena, text: &str) -> Result<()> {
    let answer = arena.passage().open()?.query(text)?;
    ensure!(answer.holds("6400.00"), "leaks nothing by itself: {:.300}", answer.describe());
    Ok(())
}
