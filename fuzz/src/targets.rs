//! The targets.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bulla_core::{
    Clock, Credential, Identity, Origin, Recorder, Secret, Timestamp, TurnedAwayRecord,
};
use bulla_identity::{Config, IssuerConfig, KeySource, Verifier};
use bulla_ledger::{Ledger, LedgerConfig, RealTime};
use bulla_postgres::Postgres;
use bulla_sql::catalog::Row;
use bulla_sql::facts::{Columns, Kind, Resolved};
use bulla_sql::{Analyzer, Catalog, Cover, Hidden, Late, Limits, SearchPath};
use bulla_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use bulla_tlog::entry::Entry;
use bulla_tlog::note::{Note, Vkey};
use bulla_tlog::proof::LogProof;
use bulla_tlog::tile::{BundleId, TileId, decode_bundle, decode_tile};
use bulla_wire::{
    Block, LoginContext, LoginSpec, Opened, Place, Protocol, TargetHello, Tls, Wire, conformance,
};
use bytes::BytesMut;

use crate::Target;

/// Every target there is.
pub const TARGETS: &[Target] = &[
    Target { krate: "bulla-postgres", name: "greeting", run: greeting },
    Target { krate: "bulla-postgres", name: "client", run: client },
    Target { krate: "bulla-postgres", name: "server", run: server },
    Target { krate: "bulla-postgres", name: "login", run: login },
    Target { krate: "bulla-sql", name: "read", run: read },
    Target { krate: "bulla-sql", name: "rewrite", run: rewrite },
    Target { krate: "bulla-tlog", name: "note", run: note },
    Target { krate: "bulla-tlog", name: "checkpoint", run: checkpoint },
    Target { krate: "bulla-tlog", name: "tile", run: tile },
    Target { krate: "bulla-tlog", name: "entry", run: entry },
    Target { krate: "bulla-tlog", name: "proof", run: proof },
    Target { krate: "bulla-ledger", name: "recover", run: recover },
    Target { krate: "bulla-identity", name: "token", run: token },
];

/// What a session may hold, in bytes, whatever comes.
const HELD_BYTES_MAX: usize = 32 << 20;

fn postgres() -> &'static Postgres {
    static POSTGRES: OnceLock<Postgres> = OnceLock::new();
    POSTGRES.get_or_init(|| Postgres::new(Limits::default()).unwrap())
}

fn place() -> Place {
    Place { resource: "orders".into(), part: "orders".into(), default_part: true }
}

fn machine() -> Box<dyn Wire> {
    let block: Block = Arc::new(|wait: &mut dyn FnMut()| wait());
    let opened = Opened {
        cancel_key: [7; bulla_wire::CANCEL_KEY_BYTES],
        target: Arc::new(TargetHello::default()),
        place: place(),
        block,
        reveals: Arc::new(|_| true),
    };
    postgres().greet().welcome(opened).unwrap().1
}

/// The first byte says how the connection is protected; the rest comes in pieces.
fn greeting(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let tls = match first % 3 {
        0 => Tls::Plain,
        1 => Tls::On { certificate: false },
        _ => Tls::On { certificate: true },
    };
    let mut greeter = postgres().greet();
    let mut input = BytesMut::new();
    for piece in rest.chunks(usize::from(first / 3).max(1)) {
        input.extend_from_slice(piece);
        for _ in 0..4 {
            if greeter.input(&mut input, tls).is_err() {
                return;
            }
        }
    }
}

fn client(bytes: &[u8]) {
    conformance::survives(&mut *machine(), bytes, HELD_BYTES_MAX);
    if bytes.len() < 4096 {
        let trace = conformance::chunking_changes_nothing(machine, bytes);
        conformance::judged_bytes_are_the_clients(&trace, bytes);
    }
}

/// A client's words up to the first 0xff, the server's behind it.
fn server(bytes: &[u8]) {
    let cut = bytes.iter().position(|byte| *byte == 0xff).unwrap_or(0);
    let (asked, answered) = bytes.split_at(cut);
    let mut wire = machine();
    let _ = conformance::run_client(&mut *wire, asked, &[64]);
    let (mut input, mut out) = (BytesMut::new(), Vec::new());
    for piece in answered.get(1..).unwrap_or_default().chunks(50) {
        input.extend_from_slice(piece);
        if wire.target(&mut input, &mut out).is_err() {
            break;
        }
    }
    assert!(wire.held_bytes() <= HELD_BYTES_MAX);
}

fn login(bytes: &[u8]) {
    let spec = || LoginSpec {
        user: "shop".to_owned(),
        secret: Some(Arc::new(Secret::new(b"secret".to_vec()))),
        part: Some("orders".to_owned()),
        settings: vec![("application_name".to_owned(), "fuzz".to_owned())],
        tls: bytes.first().is_some_and(|first| first & 1 == 1),
        nonce: [9; 24],
    };
    let with = LoginContext { tls: true, server_end_point: Some(vec![1; 32]) };
    let mut login = postgres().login(spec());
    let mut input = BytesMut::new();
    let _ = login.input(&mut input, &with);
    for piece in bytes.get(1..).unwrap_or_default().chunks(40) {
        input.extend_from_slice(piece);
        for _ in 0..4 {
            if login.input(&mut input, &with).is_err() {
                return;
            }
        }
    }
}

/// The results of the catalogue's queries, from COPY text.
fn rows(text: &str) -> Vec<Vec<Row>> {
    let mut results: Vec<Vec<Row>> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        if line == "===" {
            results.push(Vec::new());
        } else if let Some(last) = results.last_mut() {
            let cell = |cell: &str| {
                let plain = cell.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\");
                (cell != "\\N").then_some(plain)
            };
            last.push(line.split('\t').map(cell).collect());
        }
    }
    results
}

fn sql() -> &'static (Analyzer, Arc<Catalog>) {
    static WORLD: OnceLock<(Analyzer, Arc<Catalog>)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let text = include_str!("../../crates/bulla-sql/tests/fixtures/catalogue.txt");
        let catalog = Arc::new(Catalog::from_rows(&rows(text)).unwrap());
        (Analyzer::new(Limits::default()).unwrap(), catalog)
    })
}

fn hidden() -> &'static Arc<Hidden> {
    static HIDDEN: OnceLock<Arc<Hidden>> = OnceLock::new();
    HIDDEN.get_or_init(|| {
        let catalog = &sql().1;
        let mut relations: HashMap<u32, BTreeMap<Arc<str>, Cover>> = HashMap::new();
        for (relation, column, late) in [
            ("customers", "ssn", true),
            ("customers", "name", false),
            ("events", "body", true),
            ("animals", "name", false),
        ] {
            let oid = catalog.relation_named("public", relation).unwrap().oid;
            let form = if late { "NULL::pg_catalog.text" } else { "pg_catalog.left({}, 1)" };
            let late = late.then(Late::default);
            let cover = Cover { class: "pii".into(), form: form.into(), equality: true, late };
            relations.entry(oid).or_default().insert(column.into(), cover);
        }
        Arc::new(Hidden::new(catalog, relations, HashSet::new(), HashSet::new()))
    })
}

/// What is sent instead is SQL, and what reads hidden columns never goes as it is.
fn rewrite(bytes: &[u8]) {
    let (analyzer, catalog) = sql();
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = SearchPath::parse("\"$user\", public", "postgres");
    let block = |wait: &mut dyn FnMut()| wait();
    let Ok(facts) = analyzer.read(text, catalog, &path, &block) else { return };
    let Ok(plan) = analyzer.mask(text, &facts, catalog, &path, hidden(), &block) else { return };
    match &plan.sent {
        Some((sent, _)) => {
            let again = analyzer.read(sent, catalog, &path, &block);
            assert!(again.is_ok(), "what is sent cannot be read: {sent}");
            // What comes out is known for each statement, or nothing does.
            let known = plan.shapes.len() == facts.statements.len();
            assert!(!plan.is_late() || known, "values of what statement? {sent}");
        }
        None => {
            for statement in facts.statements.iter().filter(|s| s.kind == Kind::Select) {
                for used in statement.relations.iter().filter(|used| used.access.reads()) {
                    let Resolved::Known(known) = &used.resolved else { continue };
                    let Some(relation) = catalog.relation(known.oid) else { continue };
                    let reads = |name: &str| match &used.columns {
                        Columns::Known(set) => set.contains(name),
                        Columns::All | Columns::Unknown => true,
                    };
                    let hit = relation.columns.iter().find(|column| {
                        hidden().has_column(catalog, known.oid, column.attnum)
                            && reads(&column.name)
                    });
                    assert!(hit.is_none(), "hidden columns go as they are: {text}");
                }
            }
        }
    }
}

fn read(bytes: &[u8]) {
    let (analyzer, catalog) = sql();
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = SearchPath::parse("\"$user\", public", "postgres");
    let block = |wait: &mut dyn FnMut()| wait();
    if let Ok(facts) = analyzer.read(text, catalog, &path, &block) {
        for statement in &facts.statements {
            assert!(text.get(statement.text.clone()).is_some(), "a statement outside of its text");
        }
    }
    let _ = analyzer.normalise(text, &block);
}

fn note(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = Vkey::parse(&text);
    if let Ok(note) = Note::parse(bytes) {
        let _ = note.verify(&[]);
    }
}

fn checkpoint(bytes: &[u8]) {
    let _ = Checkpoint::parse(&String::from_utf8_lossy(bytes));
    let _ = SignedCheckpoint::open(bytes, &[], &[]);
}

fn tile(bytes: &[u8]) {
    let Some((width, rest)) = bytes.split_first_chunk::<2>() else { return };
    let width = u16::from_be_bytes(*width);
    let _ = decode_tile(width, rest);
    if let Ok(leaves) = decode_bundle(width, rest) {
        for leaf in leaves {
            let _ = Entry::decode(leaf);
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = (TileId::parse(&text), BundleId::parse(&text));
}

fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        let again = entry.encode().expect("what was decoded can be encoded");
        assert!(again.as_slice() == bytes, "an entry has two encodings");
    }
}

fn proof(bytes: &[u8]) {
    if let Ok(proof) = LogProof::parse(bytes) {
        let _ = proof.verify(b"entry", &[], &[]);
    }
}

fn ledger_config(dir: PathBuf) -> LedgerConfig {
    LedgerConfig {
        dir,
        origin: "fuzz.example/log".into(),
        segment_bytes: 512 << 10,
        reserve_bytes: 64 << 10,
        real_time: RealTime::Off,
        ..LedgerConfig::default()
    }
}

fn turned_away(ledger: &Ledger, at: u64) {
    let written = ledger.turned_away(&TurnedAwayRecord {
        at: Timestamp::from_secs(1_800_000_000 + at),
        protocol: "postgres",
        origin: Origin {
            address: std::net::IpAddr::from([127, 0, 0, 1]),
            port: 1,
            tls: "".into(),
            certificate: None,
        },
        principal: None,
        resource: None,
        why: "fuzz",
        detail: "x".repeat(100).into(),
        because: None,
    });
    let pending = written.expect("an entry");
    bulla_ledger::wait_durable(pending).expect("durable");
}

/// Edits of a journal's files, eight bytes each: which file, where, how. A ledger either opens and
/// goes on, or says why not.
fn recover(bytes: &[u8]) {
    static TEMPLATE: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
    let nanos = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let fresh =
        || std::env::temp_dir().join(format!("bulla-fuzz-{}-{}", std::process::id(), nanos()));
    let template = TEMPLATE.get_or_init(|| {
        let dir = fresh();
        let ledger = Ledger::open(ledger_config(dir.clone())).expect("a ledger");
        (0..20).for_each(|at| turned_away(&ledger, at));
        drop(ledger);
        let mut files = Vec::new();
        collect(&dir, &dir, &mut files);
        files.sort();
        let _ = std::fs::remove_dir_all(&dir);
        files
    });
    let dir = fresh();
    let mut files = template.clone();
    for edit in bytes.chunks_exact(8) {
        let &[which, a, b, c, how, value, d, e] = edit else { continue };
        let count = files.len();
        let Some((_, file)) = files.get_mut(usize::from(which) % count.max(1)) else { continue };
        let at = u32::from_be_bytes([0, a, b, c]) as usize % file.len().max(1);
        match how % 4 {
            0 => {
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= value;
                }
            }
            1 => file.truncate(at),
            2 => {
                let length = usize::from(u16::from_be_bytes([d, e]));
                file.iter_mut().skip(at).take(length).for_each(|byte| *byte = value);
            }
            _ => file.clear(),
        }
    }
    for (path, file) in &files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        std::fs::write(path, file).expect("write a file");
    }
    if let Ok(ledger) = Ledger::open(ledger_config(dir.clone())) {
        turned_away(&ledger, 100);
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn collect(root: &std::path::Path, dir: &std::path::Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).expect("inside").to_path_buf();
            files.push((name, std::fs::read(&path).expect("a file")));
        }
    }
}

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }
}

/// The public key of RFC 7517, appendix A.1: whoever could forge its signature would be a finding.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1","alg":"ES256","use":"sig",
"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

fn token(bytes: &[u8]) {
    static VERIFIER: OnceLock<(tokio::runtime::Runtime, Verifier)> = OnceLock::new();
    let (runtime, verifier) = VERIFIER.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let path = std::env::temp_dir().join(format!("bulla-fuzz-{}.jwks", std::process::id()));
        std::fs::write(&path, KEYS).expect("write the keys");
        let mut issuer = IssuerConfig::new("idp", "https://idp.example.com", "bulla");
        issuer.keys = KeySource::File { path };
        let config = Config { issuers: vec![issuer], trust_domains: vec![] };
        let guard = runtime.enter();
        let verifier = Verifier::new(&config, Arc::new(Fixed)).expect("a verifier");
        drop(guard);
        (runtime, verifier)
    });
    let origin = Origin {
        address: std::net::IpAddr::from([127, 0, 0, 1]),
        port: 1,
        tls: "".into(),
        certificate: None,
    };
    let credential = Credential::Token(Secret::new(bytes.to_vec()));
    let verified = runtime.block_on(verifier.verify(credential, &origin, Fixed.now()));
    assert!(verified.is_err(), "a token that nobody signed is accepted");
}
