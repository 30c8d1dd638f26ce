//! What no policy can permit, and what looks as if it were so but can be.

use std::fmt::Write as _;

use bulla_e2e::proc::capture;
use bulla_e2e::{client::program, place::TempDir};

use crate::world::{PATIENCE, Side, World};

/// How a client tries it.
enum Try {
    /// A text by the simple protocol.
    Text(&'static str),
    /// `PGOPTIONS`.
    Options(&'static str),
    /// An encoding, as `PGCLIENTENCODING`.
    Encoding(&'static str),
    /// A text that is a repetition: before, this often, after.
    Long(&'static str, usize, &'static str),
}

use Try::{Encoding, Long, Options, Text};

/// `(what, what the client is told, why)`
const NEVER: &[(Try, &str, &str)] = &[
    (
        Text("SELEC 1"),
        "refused: syntax error",
        "what the grammar does not accept is not sent on; the answer is the server's own, with its \
         place where that can be told",
    ),
    (
        Text("SET standard_conforming_strings = off"),
        "may not be set to that through this gateway",
        "text would mean something else to the server than to the gateway",
    ),
    (
        Text("SELECT set_config('standard_conforming_strings', 'off', false)"),
        "may not be set to that through this gateway",
        "the same by a function",
    ),
    (
        Text("DO $$ BEGIN SET standard_conforming_strings = off; END $$"),
        "the target changed `standard_conforming_strings`",
        "the same out of sight: the session ends when the server reports it",
    ),
    (
        Text("SET client_encoding = 'SJIS'"),
        "may not be set to that through this gateway",
        "every route is UTF-8, so that no byte can be read in two ways",
    ),
    (
        Text("SET transform_null_equals = on"),
        "may not be set to that through this gateway",
        "it changes what `= NULL` means",
    ),
    (
        Text("SET backslash_quote = on"),
        "may not be set to that through this gateway",
        "it changes where a string ends",
    ),
    (Encoding("LATIN1"), "may not be chosen by a client", "as `client_encoding` above"),
    (
        Options("-c role=shop"),
        "may not be chosen by a client",
        "at the start, settings that change who acts are refused before a policy can be asked",
    ),
    (
        Options("-c session_replication_role=replica"),
        "may not be chosen by a client",
        "as `role`; within the session a policy may permit `postgres:set_privileged`",
    ),
    (
        Long("SELECT ", 3_000, "("),
        "refused: ",
        "texts have bounds in bytes, tokens, nesting and depth, so that reading them has one",
    ),
];

/// `(text, a part of the answer)`: unusual, but permitted by a policy that permits everything.
const PERMITTED: &[(&str, &str)] = &[
    ("SELECT no_such_function(1)", "42883"),
    ("SELECT * FROM no_such_table", "42P01"),
    ("DO $$ BEGIN RAISE NOTICE 'did it'; END $$", "did it"),
    ("SELECT void_payment(42)", "payment 42 is void"),
    ("CALL raise_salaries(1)", "CALL"),
    ("SET ROLE shop", "SET"),
    ("SET session_replication_role = replica", "42501: permission denied"),
    ("SET no_such_setting = 1", "42704"),
    ("SET a.b = 'c'", "SET"),
    ("ALTER SYSTEM SET work_mem = '1MB'", "42501: permission denied"),
    ("ALTER ROLE CURRENT_USER SET work_mem = '1MB'", "ALTER ROLE"),
    ("COPY notes TO PROGRAM 'cat'", "42501"),
    ("COPY notes FROM '/nowhere'", "42501"),
    ("SELECT pg_read_file('/etc/hostname')", "42501: permission denied"),
    ("SELECT query_to_xml('SELECT 1 AS x', true, true, '')", "<x>1</x>"),
    ("CREATE EXTENSION no_such_extension", "0A000"),
    ("CREATE SERVER s FOREIGN DATA WRAPPER nothing", "42704"),
    ("LOAD 'nothing'", "nothing"),
    ("SELECT lo_create(4711)", "4711"),
    ("SELECT pg_advisory_lock(1)", "pg_advisory_lock"),
    ("PREPARE TRANSACTION 'x'", "25P01"),
    ("CHECKPOINT", "42501"),
    ("SECURITY LABEL ON TABLE notes IS 'x'", "no security label providers"),
    ("CREATE FUNCTION two() RETURNS int LANGUAGE sql AS 'SELECT 2'", "CREATE FUNCTION"),
    ("SELECT two()", "2"),
    ("CREATE SCHEMA made CREATE TABLE t (a int)", "CREATE SCHEMA"),
    ("CREATE TEMP TABLE customers AS SELECT 1 AS a", "SELECT 1"),
    ("REINDEX TABLE notes", "REINDEX"),
    ("CREATE PUBLICATION p FOR TABLE notes", "CREATE PUBLICATION"),
    ("IMPORT FOREIGN SCHEMA a FROM SERVER b INTO public", "42704"),
    ("GRANT SELECT ON notes TO PUBLIC", "GRANT"),
];

fn told(side: &Side, what: &Try, scratch: &TempDir) -> String {
    let (text, dial) = match what {
        Text(text) => ((*text).to_owned(), side.dial.clone()),
        Options(options) => ("SELECT 1".to_owned(), side.dial.clone().env("PGOPTIONS", options)),
        Encoding(name) => ("SELECT 1".to_owned(), side.dial.clone().env("PGCLIENTENCODING", name)),
        Long(before, times, part) => {
            (format!("{before}{}1", part.repeat(*times)), side.dial.clone())
        }
    };
    let file = scratch.write("text.sql", format!("{text};\n")).unwrap();
    let mut psql = dial.command(&program("psql").unwrap());
    psql.args(["-X", "-v", "VERBOSITY=verbose", "-f"]).arg(file);
    let done = capture(psql, None, PATIENCE).unwrap();
    format!("{}{}", done.out(), done.err())
}

#[test]
fn a_policy_can_permit_all_but_what_cannot_be_read() {
    let world = World::start("never");
    let scratch = TempDir::new("never").unwrap();
    let side = world.side(0);
    let mut wrong = String::new();
    for (what, words, _) in NEVER {
        let said = told(side, what, &scratch);
        if !said.contains(words) {
            let _ = writeln!(wrong, "{}: no `{words}` in {said}", shown(what));
        }
    }
    for (text, words) in PERMITTED {
        let said = told(side, &Text(text), &scratch);
        if !said.contains(words) || said.contains("refused: ") {
            let _ = writeln!(wrong, "{text}: no `{words}` in {said}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let log = side.server.log();
    for word in ["SELEC 1", "'SJIS'", "transform_null_equals", "((((("] {
        assert!(!log.contains(word), "`{word}` reached the server");
    }
    world.verified();
}

/// Code that changes how text is read, and a text that already waits behind it: two columns as the
/// gateway reads it, one as the server would.
const OUT_OF_SIGHT: &str = r#"
import psycopg
c = psycopg.connect("", autocommit=True).pgconn
c.enter_pipeline_mode()
c.send_query_params(b"DO $$ BEGIN SET standard_conforming_strings = off; END $$", [])
c.pipeline_sync()
c.send_query_params(b"SELECT 'misread\', version() --'", [])
c.pipeline_sync()
for _ in range(8):
    result = c.get_result()
    if result is not None:
        print(result.status, result.nfields, result.error_message.decode())
"#;

#[test]
fn no_text_overtakes_a_change_of_how_it_is_read() {
    let world = World::start("never");
    let side = world.side(0);
    let said = side.dial.python(OUT_OF_SIGHT).unwrap();
    assert!(said.out().contains("the target changed `standard_conforming_strings`"), "{said}");
    assert!(!side.server.log().contains("misread"), "it reached the server: {said}");
    world.verified();
}

fn shown(what: &Try) -> String {
    match what {
        Text(text) => format!("`{text}`"),
        Options(options) => format!("`PGOPTIONS='{options}'`"),
        Encoding(name) => format!("`PGCLIENTENCODING={name}`"),
        Long(before, times, part) => format!("`{before}`, then {times} × `{part}`"),
    }
}

/// For `docs/clients.md`.
pub fn section() -> String {
    let mut text = String::from(
        "\n## What no policy can permit\n\nA policy that permits everything still leaves these \
         refused. All else is its choice, unknown\nstatements (`postgres:unknown`), functions \
         (`postgres:call`) and settings (`postgres:set_privileged`)\nincluded.\n\n\
         | Tried | Told | Why |\n|---|---|---|\n",
    );
    for (what, words, why) in NEVER {
        let _ = writeln!(text, "| {} | {} | {why} |", shown(what), words.trim());
    }
    text.push_str(
        "| a byte that is not UTF-8, a NUL, a frame that does not add up | protocol violation | \
         as a server would |\n\
         | TLS off, or GSS encryption | | no credential is asked for in the clear |\n",
    );
    text
}
