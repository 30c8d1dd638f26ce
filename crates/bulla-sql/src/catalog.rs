//! A snapshot of one database's catalogue, as plain data, and how names are found in it.
//!
//! The caller runs [`QUERIES`] on a connection of its own and hands the rows to
//! [`Catalog::from_rows`]; it runs [`FINGERPRINT`] to learn cheaply whether the snapshot is stale.
//! An attacker who could forge these rows could make any name mean anything: they MUST come from
//! the target itself, over the same verified connection parameters as the sessions that they judge,
//! as the same role (a schema without `USAGE` is invisible to name search).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::facts::RelationKind;
use crate::view::Body;

mod acts;
mod depends;
mod path;
mod queries;

pub use acts::Acts;
pub(crate) use depends::{Fate, Object};
pub use path::{Found, SearchPath, Temporary};
pub use queries::{FINGERPRINT, QUERIES, SESSION, SETUP};

/// Rows that one snapshot may hold in all; a larger catalogue is refused.
pub const ROWS_MAX: usize = 4_000_000;

/// OIDs below this are made by `initdb`.
const FIRST_NORMAL_OID: u32 = 16_384;

/// One result row in text form, as a simple query returns it; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// Why rows could not become a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    #[error("expected {want} catalogue results, got {got}")]
    Results { want: usize, got: usize },
    #[error("catalogue result `{query}` row {row} column {column} is not what the query promises")]
    Value { query: &'static str, row: usize, column: usize },
    #[error("the catalogue has more than {max} rows")]
    TooLarge { max: usize },
}

/// The snapshot. Immutable; share it in an `Arc`.
#[derive(Debug)]
pub struct Catalog {
    epoch: u64,
    server_version: u32,
    database: Arc<str>,
    user: Arc<str>,
    schemas: HashMap<Arc<str>, Schema>,
    relations: Vec<Relation>,
    relation_by_oid: HashMap<u32, usize>,
    relation_by_name: HashMap<Arc<str>, Vec<usize>>,
    functions: HashMap<Arc<str>, Vec<Function>>,
    function_by_oid: HashMap<u32, (Arc<str>, usize)>,
    types: HashMap<u32, Type>,
    type_by_name: HashMap<Arc<str>, Vec<u32>>,
    operators: HashMap<Arc<str>, Vec<Operator>>,
    casts: Vec<Cast>,
    depends: depends::Depends,
    written_under: SearchPath,
}

#[derive(Debug, Clone)]
pub struct Schema {
    pub oid: u32,
    pub name: Arc<str>,
    /// The connection's role may look names up in it.
    pub usable: bool,
}

#[derive(Debug)]
pub struct Relation {
    pub oid: u32,
    pub schema: Arc<str>,
    pub name: Arc<str>,
    pub kind: RelationKind,
    /// In `attnum` order, dropped ones included. Empty for indexes and TOAST tables.
    pub columns: Vec<Column>,
    /// The `SELECT` of a view or materialized view outside the system schemas.
    pub definition: Option<Arc<str>>,
    /// Has rewrite rules (other than a view's own) or `INSTEAD OF` triggers: writes go elsewhere.
    pub has_rules: bool,
    /// The expressions of its row-security policies, if row security is on.
    pub policies: Vec<Arc<str>>,
    pub row_security: bool,
    /// A temporary relation of some session.
    pub temporary: bool,
    /// What a partitioned table is divided by; 0 is an expression.
    pub divided_by: Vec<i16>,
    pub acts: Acts,
    /// OIDs, direct ones only.
    pub parents: Vec<u32>,
    pub children: Vec<u32>,
    /// What a view reaches, or what row-security policies run; read on first use.
    pub(crate) body: OnceLock<Arc<Body>>,
    pub(crate) guard: OnceLock<Arc<Body>>,
}

impl Relation {
    /// A live column by name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| !c.dropped && &*c.name == name)
    }

    /// Whether the columns were loaded.
    #[must_use]
    pub fn knows_columns(&self) -> bool {
        !matches!(self.kind, RelationKind::Index | RelationKind::Toast | RelationKind::Other)
    }

    /// `schema.name`, unquoted.
    #[must_use]
    pub fn qualified(&self) -> Arc<str> {
        format!("{}.{}", self.schema, self.name).into()
    }

    /// Made by `initdb`: its definition is the server's own.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.oid < FIRST_NORMAL_OID && is_system_schema(&self.schema)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: Arc<str>,
    pub attnum: i16,
    pub type_oid: u32,
    pub dropped: bool,
    /// It is computed of these columns of its relation.
    pub made_of: Vec<i16>,
    /// The server keeps a value of it beside the rows, for those that are older than the column.
    pub kept_aside: bool,
}

/// A function that is not one of the server's own in `pg_catalog`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub oid: u32,
    pub schema: Arc<str>,
    pub name: Arc<str>,
    pub kind: FunctionKind,
    pub volatility: Volatility,
    pub language: Arc<str>,
    pub security_definer: bool,
    /// Types of the input arguments; a variadic one is the array type.
    pub argtypes: Vec<u32>,
    pub defaults: usize,
    pub variadic: bool,
    pub returns: u32,
    pub extension: Option<Arc<str>>,
}

impl Function {
    /// Whether a call with so many arguments could mean this function.
    #[must_use]
    pub fn takes(&self, args: usize) -> bool {
        let least = self.argtypes.len().saturating_sub(self.defaults + usize::from(self.variadic));
        args >= least && (self.variadic || args <= self.argtypes.len())
    }

    /// Made by `initdb`.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.oid < FIRST_NORMAL_OID && is_system_schema(&self.schema)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    Function,
    Aggregate,
    Window,
    Procedure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    pub oid: u32,
    pub schema: Arc<str>,
    pub name: Arc<str>,
    pub kind: TypeKind,
    /// Element type of an array, or 0.
    pub element: u32,
    /// Base type of a domain, or 0.
    pub base: u32,
    /// A domain with `CHECK` constraints.
    pub checked: bool,
    pub extension: Option<Arc<str>>,
}

impl Type {
    /// Made by somebody in this database.
    #[must_use]
    pub fn is_user(&self) -> bool {
        self.oid >= FIRST_NORMAL_OID
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeKind {
    Base,
    Composite,
    Domain,
    Enum,
    Pseudo,
    Range,
    Multirange,
    Other,
}

/// An operator that is not one of the server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub schema: Arc<str>,
    pub name: Arc<str>,
    /// 0 for a prefix operator.
    pub left: u32,
    pub right: u32,
    pub function: u32,
}

/// A cast that is not one of the server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cast {
    pub source: u32,
    pub target: u32,
    /// 0: no function runs.
    pub function: u32,
    /// Applied without being asked for, in any expression.
    pub implicit: bool,
}

static EPOCHS: AtomicU64 = AtomicU64::new(1);

impl Catalog {
    /// Builds a snapshot from the results of [`QUERIES`], one per query, in order.
    ///
    /// # Errors
    /// [`CatalogError`] when a result does not have the promised shape: nothing is guessed.
    pub fn from_rows(results: &[Vec<Row>]) -> Result<Self, CatalogError> {
        let [
            info,
            schemas,
            relations,
            columns,
            inherits,
            policies,
            functions,
            types,
            ops,
            casts,
            depends,
        ] = results
        else {
            return Err(CatalogError::Results { want: QUERIES.len(), got: results.len() });
        };
        if results.iter().map(Vec::len).sum::<usize>() > ROWS_MAX {
            return Err(CatalogError::TooLarge { max: ROWS_MAX });
        }
        let mut catalog = Self {
            epoch: EPOCHS.fetch_add(1, Ordering::Relaxed),
            server_version: 0,
            database: "".into(),
            user: "".into(),
            schemas: HashMap::new(),
            relations: Vec::new(),
            relation_by_oid: HashMap::new(),
            relation_by_name: HashMap::new(),
            functions: HashMap::new(),
            function_by_oid: HashMap::new(),
            types: HashMap::new(),
            type_by_name: HashMap::new(),
            operators: HashMap::new(),
            casts: Vec::new(),
            depends: depends::Depends::read(depends)?,
            written_under: SearchPath::new(Vec::<String>::new()),
        };
        catalog.read_info(info)?;
        let by_oid = catalog.read_schemas(schemas)?;
        catalog.read_relations(relations, &by_oid)?;
        catalog.read_columns(columns)?;
        catalog.read_inherits(inherits)?;
        catalog.read_policies(policies)?;
        catalog.read_functions(functions, &by_oid)?;
        catalog.read_types(types, &by_oid)?;
        catalog.read_operators(ops, &by_oid)?;
        catalog.read_casts(casts)?;
        Ok(catalog)
    }

    /// The same, where the connection that ran [`QUERIES`] did not run [`SETUP`] before: the server
    /// leaves out of definitions the schemas that names were found without, under this path.
    #[must_use]
    pub fn written_under(mut self, path: SearchPath) -> Self {
        self.written_under = path;
        self
    }

    /// The path that definitions are read under.
    pub(crate) fn definitions_path(&self) -> &SearchPath {
        &self.written_under
    }

    /// A number that no other snapshot of this process has: the cache's generation.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// `server_version_num`
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The role that loaded the snapshot: what `$user` in a search path means.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// All relations, in no particular order.
    #[must_use]
    pub fn relations(&self) -> &[Relation] {
        &self.relations
    }

    #[must_use]
    pub fn schema(&self, name: &str) -> Option<&Schema> {
        self.schemas.get(name)
    }

    #[must_use]
    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relation_by_oid.get(&oid).and_then(|i| self.relations.get(*i))
    }

    #[must_use]
    pub fn relation_named(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relation_by_name
            .get(name)?
            .iter()
            .filter_map(|i| self.relations.get(*i))
            .find(|r| &*r.schema == schema)
    }

    /// Functions of that name outside the server's own; empty when there is none.
    #[must_use]
    pub fn functions_named(&self, name: &str) -> &[Function] {
        self.functions.get(name).map_or(&[], Vec::as_slice)
    }

    /// A function outside the server's own, by OID.
    #[must_use]
    pub fn function(&self, oid: u32) -> Option<&Function> {
        let (name, at) = self.function_by_oid.get(&oid)?;
        self.functions.get(name)?.get(*at)
    }

    #[must_use]
    pub fn type_of(&self, oid: u32) -> Option<&Type> {
        self.types.get(&oid)
    }

    /// Types of that name, in every schema.
    pub fn types_named(&self, name: &str) -> impl Iterator<Item = &Type> {
        self.type_by_name.get(name).into_iter().flatten().filter_map(|oid| self.types.get(oid))
    }

    /// User-made operators of that name.
    #[must_use]
    pub fn operators_named(&self, name: &str) -> &[Operator] {
        self.operators.get(name).map_or(&[], Vec::as_slice)
    }

    #[must_use]
    pub fn casts(&self) -> &[Cast] {
        &self.casts
    }

    fn read_info(&mut self, rows: &[Row]) -> Result<(), CatalogError> {
        let mut cells = Cells::new("info", rows);
        let Some(row) = cells.next() else { return Err(cells.missing()) };
        self.server_version = row.number(0)?;
        self.database = row.text(1)?.into();
        self.user = row.text(2)?.into();
        Ok(())
    }

    fn read_schemas(&mut self, rows: &[Row]) -> Result<HashMap<u32, Arc<str>>, CatalogError> {
        let mut by_oid = HashMap::new();
        for row in Cells::new("schemas", rows) {
            let (oid, name) = (row.number(0)?, Arc::<str>::from(row.text(1)?));
            let schema = Schema { oid, name: Arc::clone(&name), usable: row.flag(2)? };
            by_oid.insert(oid, Arc::clone(&name));
            self.schemas.insert(name, schema);
        }
        Ok(by_oid)
    }

    fn read_relations(
        &mut self,
        rows: &[Row],
        schemas: &HashMap<u32, Arc<str>>,
    ) -> Result<(), CatalogError> {
        for row in Cells::new("relations", rows) {
            let is_partition = row.flag(4)?;
            let kind = match (row.text(3)?, is_partition) {
                ("r", false) => RelationKind::Table,
                ("r", true) => RelationKind::Partition,
                ("p", _) => RelationKind::PartitionedTable,
                ("v", _) => RelationKind::View,
                ("m", _) => RelationKind::MatView,
                ("f", _) => RelationKind::Foreign,
                ("S", _) => RelationKind::Sequence,
                ("i" | "I", _) => RelationKind::Index,
                ("t", _) => RelationKind::Toast,
                ("c", _) => RelationKind::Composite,
                _ => RelationKind::Other,
            };
            // A schema made after the first query: this row belongs to the next snapshot.
            let Some(schema) = schemas.get(&row.number(1)?) else { continue };
            let relation = Relation {
                oid: row.number(0)?,
                schema: Arc::clone(schema),
                name: row.text(2)?.into(),
                kind,
                columns: Vec::new(),
                definition: row.optional(8)?.map(Into::into),
                has_rules: row.flag(6)?,
                policies: Vec::new(),
                row_security: row.flag(7)?,
                temporary: row.text(5)? == "t",
                divided_by: row.numbers(9)?,
                acts: Acts {
                    runs: row.mark(10)?,
                    deletes: row.numbers(11)?,
                    updates: row.numbers(12)?,
                    keys: row.numbers(13)?,
                },
                parents: Vec::new(),
                children: Vec::new(),
                body: OnceLock::new(),
                guard: OnceLock::new(),
            };
            let at = self.relations.len();
            self.relation_by_oid.insert(relation.oid, at);
            self.relation_by_name.entry(Arc::clone(&relation.name)).or_default().push(at);
            self.relations.push(relation);
        }
        Ok(())
    }

    fn relation_mut(&mut self, oid: u32) -> Option<&mut Relation> {
        let at = *self.relation_by_oid.get(&oid)?;
        self.relations.get_mut(at)
    }

    fn read_columns(&mut self, rows: &[Row]) -> Result<(), CatalogError> {
        // Most names occur many times (`id`, `name`): hold each once.
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        for row in Cells::new("columns", rows) {
            let text = row.text(2)?;
            let name = match names.get(text) {
                Some(name) => Arc::clone(name),
                None => {
                    let name = Arc::<str>::from(text);
                    names.insert(Arc::clone(&name));
                    name
                }
            };
            let column = Column {
                name,
                attnum: row.number(1)?,
                type_oid: row.number(3)?,
                dropped: row.flag(4)?,
                made_of: row.numbers(5)?,
                kept_aside: row.mark(6)?,
            };
            if let Some(relation) = self.relation_mut(row.number(0)?) {
                relation.columns.push(column);
            }
        }
        for relation in &mut self.relations {
            relation.columns.sort_by_key(|c| c.attnum);
        }
        Ok(())
    }

    fn read_inherits(&mut self, rows: &[Row]) -> Result<(), CatalogError> {
        for row in Cells::new("inherits", rows) {
            let (child, parent) = (row.number(0)?, row.number(1)?);
            if let Some(relation) = self.relation_mut(child) {
                relation.parents.push(parent);
            }
            if let Some(relation) = self.relation_mut(parent) {
                relation.children.push(child);
            }
        }
        Ok(())
    }

    fn read_policies(&mut self, rows: &[Row]) -> Result<(), CatalogError> {
        for row in Cells::new("policies", rows) {
            let oid = row.number(0)?;
            let expressions = [row.optional(1)?, row.optional(2)?];
            if let Some(relation) = self.relation_mut(oid) {
                relation.policies.extend(expressions.into_iter().flatten().map(Arc::from));
            }
        }
        Ok(())
    }

    fn read_functions(
        &mut self,
        rows: &[Row],
        schemas: &HashMap<u32, Arc<str>>,
    ) -> Result<(), CatalogError> {
        for row in Cells::new("functions", rows) {
            let Some(schema) = schemas.get(&row.number(1)?) else { continue };
            let name = Arc::<str>::from(row.text(2)?);
            let function = Function {
                oid: row.number(0)?,
                schema: Arc::clone(schema),
                name: Arc::clone(&name),
                kind: match row.text(3)? {
                    "f" => FunctionKind::Function,
                    "a" => FunctionKind::Aggregate,
                    "w" => FunctionKind::Window,
                    "p" => FunctionKind::Procedure,
                    _ => return Err(row.bad(3)),
                },
                volatility: match row.text(4)? {
                    "i" => Volatility::Immutable,
                    "s" => Volatility::Stable,
                    _ => Volatility::Volatile,
                },
                language: row.text(5)?.into(),
                security_definer: row.flag(6)?,
                argtypes: row
                    .text(9)?
                    .split_ascii_whitespace()
                    .map(|t| t.parse().map_err(|_| row.bad(9)))
                    .collect::<Result<_, _>>()?,
                defaults: row.number(7)?,
                variadic: row.flag(8)?,
                returns: row.number(10)?,
                extension: row.optional(11)?.map(Into::into),
            };
            let oid = function.oid;
            let same = self.functions.entry(Arc::clone(&name)).or_default();
            self.function_by_oid.insert(oid, (name, same.len()));
            same.push(function);
        }
        Ok(())
    }

    fn read_types(
        &mut self,
        rows: &[Row],
        schemas: &HashMap<u32, Arc<str>>,
    ) -> Result<(), CatalogError> {
        for row in Cells::new("types", rows) {
            let Some(schema) = schemas.get(&row.number(1)?) else { continue };
            let found = Type {
                oid: row.number(0)?,
                schema: Arc::clone(schema),
                name: row.text(2)?.into(),
                kind: match row.text(3)? {
                    "b" => TypeKind::Base,
                    "c" => TypeKind::Composite,
                    "d" => TypeKind::Domain,
                    "e" => TypeKind::Enum,
                    "p" => TypeKind::Pseudo,
                    "r" => TypeKind::Range,
                    "m" => TypeKind::Multirange,
                    _ => TypeKind::Other,
                },
                element: row.number(4)?,
                base: row.number(5)?,
                checked: row.flag(6)?,
                extension: row.optional(7)?.map(Into::into),
            };
            self.type_by_name.entry(Arc::clone(&found.name)).or_default().push(found.oid);
            self.types.insert(found.oid, found);
        }
        Ok(())
    }

    fn read_operators(
        &mut self,
        rows: &[Row],
        schemas: &HashMap<u32, Arc<str>>,
    ) -> Result<(), CatalogError> {
        for row in Cells::new("operators", rows) {
            let Some(schema) = schemas.get(&row.number(0)?) else { continue };
            let name = Arc::<str>::from(row.text(1)?);
            let operator = Operator {
                schema: Arc::clone(schema),
                name: Arc::clone(&name),
                left: row.number(2)?,
                right: row.number(3)?,
                function: row.number(4)?,
            };
            self.operators.entry(name).or_default().push(operator);
        }
        Ok(())
    }

    fn read_casts(&mut self, rows: &[Row]) -> Result<(), CatalogError> {
        for row in Cells::new("casts", rows) {
            self.casts.push(Cast {
                source: row.number(0)?,
                target: row.number(1)?,
                function: row.number(2)?,
                implicit: row.text(3)? == "i",
            });
        }
        Ok(())
    }
}

/// Schemas whose content the server itself defines.
#[must_use]
pub fn is_system_schema(name: &str) -> bool {
    matches!(name, "pg_catalog" | "information_schema" | "pg_toast")
}

/// The rows of one result, checked cell by cell.
struct Cells<'a> {
    query: &'static str,
    rows: std::iter::Enumerate<std::slice::Iter<'a, Row>>,
}

impl<'a> Cells<'a> {
    fn new(query: &'static str, rows: &'a [Row]) -> Self {
        Self { query, rows: rows.iter().enumerate() }
    }

    fn missing(&self) -> CatalogError {
        CatalogError::Value { query: self.query, row: 0, column: 0 }
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Line<'a>;
    fn next(&mut self) -> Option<Line<'a>> {
        let query = self.query;
        self.rows.next().map(|(at, cells)| Line { query, at, cells })
    }
}

struct Line<'a> {
    query: &'static str,
    at: usize,
    cells: &'a Row,
}

impl<'a> Line<'a> {
    fn bad(&self, column: usize) -> CatalogError {
        CatalogError::Value { query: self.query, row: self.at, column }
    }

    fn optional(&self, column: usize) -> Result<Option<&'a str>, CatalogError> {
        self.cells.get(column).map(Option::as_deref).ok_or_else(|| self.bad(column))
    }

    fn text(&self, column: usize) -> Result<&'a str, CatalogError> {
        self.optional(column)?.ok_or_else(|| self.bad(column))
    }

    /// Numbers with commas between; NULL is none.
    fn numbers<T: std::str::FromStr>(&self, column: usize) -> Result<Vec<T>, CatalogError> {
        let text = self.cells.get(column).and_then(Option::as_deref).unwrap_or_default();
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(|_| self.bad(column))).collect()
    }

    fn number<T: std::str::FromStr>(&self, column: usize) -> Result<T, CatalogError> {
        self.text(column)?.parse().map_err(|_| self.bad(column))
    }

    /// A flag that a snapshot of an older gateway has not.
    fn mark(&self, column: usize) -> Result<bool, CatalogError> {
        match self.cells.get(column) {
            Some(Some(_)) => self.flag(column),
            _ => Ok(false),
        }
    }

    fn flag(&self, column: usize) -> Result<bool, CatalogError> {
        match self.text(column)? {
            "t" => Ok(true),
            "f" => Ok(false),
            _ => Err(self.bad(column)),
        }
    }
}
