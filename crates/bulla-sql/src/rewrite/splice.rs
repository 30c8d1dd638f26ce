//! What is put where: the edits that a text needs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use pg_query::protobuf::{Node, ScanToken};

use super::outputs::Stray;
use super::shape;
use super::stars::Stars;
use super::text::{Text, is_comment};
use super::{
    Cover, Edit, Fault, Hidden, Kept, Put, apply, null_of, quoted, reaches, refused, torn,
};
use crate::analyzer::{Limits, ReadError};
use crate::catalog::{Catalog, Relation, SearchPath};
use crate::facts::{Columns, Effects, Kind, RelationKind};
use crate::parse;
use crate::reading::marks::{Copy, Marks, Read, Region, Scan, Target};
use crate::reading::{self, Context};

/// Views inside views that are unfolded.
const VIEWS_MAX: usize = 16;
/// `pg_type.oid` of `json`, which cannot be grouped by.
const JSON_OID: u32 = 114;
/// OIDs of types from here on were made by somebody.
const FIRST_MADE_OID: u32 = 16_384;

/// The columns of every table that no sub-select has.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

pub(super) struct Splice<'a> {
    pub catalog: &'a Catalog,
    pub limits: &'a Limits,
    pub hidden: &'a Hidden,
    pub classes: BTreeSet<Arc<str>>,
    pub views: Vec<u32>,
    /// Which values may come out of each statement, and which do.
    kept: &'a [Kept],
    pub granted: Vec<Stray>,
    /// What is let out of the statement at hand: columns of its scans, and references that are
    /// whole entries of its `RETURNING`.
    scans_out: bool,
    returned_out: HashSet<usize>,
}

impl<'a> Splice<'a> {
    pub fn new(
        catalog: &'a Catalog,
        limits: &'a Limits,
        hidden: &'a Hidden,
        kept: &'a [Kept],
    ) -> Self {
        Self {
            catalog,
            limits,
            hidden,
            classes: BTreeSet::new(),
            views: Vec::new(),
            kept,
            granted: Vec::new(),
            scans_out: false,
            returned_out: HashSet::new(),
        }
    }

    /// Whether the values of a column may come out of the statement at hand; they do then.
    fn lets_out(&mut self, oid: u32, name: &Arc<str>) -> bool {
        let kept = self.granted.len().checked_sub(1).and_then(|at| self.kept.get(at));
        let out = kept.is_some_and(|kept| kept.is_late(oid, name));
        if out && let Some(granted) = self.granted.last_mut() {
            granted.insert((oid, name.clone()));
        }
        out
    }
}

impl Splice<'_> {
    pub fn edits(&mut self, text: &str, path: &SearchPath) -> Result<Vec<Edit>, Fault> {
        let tree = parse::parse(text, self.limits)?;
        let tokens: Vec<&ScanToken> = tree.tokens.iter().filter(|t| !is_comment(t)).collect();
        let context =
            Context { tokens: &tree.tokens, catalog: self.catalog, path, limits: self.limits };
        let mut edits = Vec::new();
        for raw in &tree.parsed.stmts {
            let Some(node) = raw.stmt.as_deref() else { continue };
            // What stands in a view belongs to the statement that reads it.
            if self.views.is_empty() {
                self.granted.push(Stray::new());
                let core = shape::core(node);
                self.returned_out =
                    core.as_ref().map(|core| shape::returned(core.node)).unwrap_or_default();
                self.scans_out = core.is_some_and(|core| shape::is_query(core.node));
            }
            self.statement(context, node, text, &tokens, &mut edits)?;
        }
        edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
        edits.dedup();
        let overlap = edits.windows(2).any(|w| match w {
            [a, b] => a.span.end > b.span.start,
            _ => false,
        });
        if overlap { torn() } else { Ok(edits) }
    }

    fn statement(
        &mut self,
        context: Context<'_>,
        node: &Node,
        text: &str,
        tokens: &[&ScanToken],
        edits: &mut Vec<Edit>,
    ) -> Result<(), Fault> {
        let (statement, marks) = reading::marked(context, node, 0..text.len())?;
        let at = Text { text, tokens };
        let keeps = statement.effects.contains(Effects::WRITE) || statement.kind == Kind::Ddl;
        let explains = matches!(statement.kind, Kind::Explain { .. });
        for scan in &marks.scans {
            if !reaches(self.catalog, self.hidden, &statement, scan.oid) {
                continue;
            }
            let Some(relation) = self.catalog.relation(scan.oid) else { return torn() };
            let wanted = wanted(scan, &marks);
            if keeps || explains {
                self.keeps_nothing(relation, &wanted, explains)?;
            }
            let (asked, conditions) = self.asked(scan, relation, &marks, &at);
            edits.push(self.scan(scan, relation, &wanted, &conditions, &at)?);
            self.unqualify(scan, &marks, &asked, &at, edits);
            self.group(scan, relation, &wanted, &marks, &at, edits);
            edits.extend(asked.into_iter().map(|span| Edit::new(span, "TRUE")));
        }
        if self.views.is_empty()
            && self.scans_out
            && let Some(core) = shape::core(node)
        {
            let stars =
                Stars { catalog: self.catalog, hidden: self.hidden, marks: &marks, at: &at };
            let all = self.granted.last().is_some_and(|granted| !granted.is_empty());
            edits.extend(all.then(|| stars.edits(core.node)).into_iter().flatten());
        }
        for target in &marks.targets {
            if reaches(self.catalog, self.hidden, &statement, target.oid) {
                self.target(target, &marks, &at, edits)?;
            }
        }
        for copy in marks.copies.iter().filter(|copy| !copy.from) {
            if reaches(self.catalog, self.hidden, &statement, copy.oid) {
                edits.push(self.copy(copy, &at)?);
            }
        }
        Ok(())
    }

    /// A masked value must not be kept as if it were a value, and plans tell of the values.
    fn keeps_nothing(
        &self,
        relation: &Relation,
        wanted: &Columns,
        explains: bool,
    ) -> Result<(), Fault> {
        let covers = self.hidden.relations.get(&relation.oid);
        let hit = match (covers, wanted) {
            (Some(covers), Columns::Known(names)) => {
                names.iter().find(|n| covers.contains_key(*n)).cloned()
            }
            (Some(_), Columns::All | Columns::Unknown) => Some("*".into()),
            // A view: which of its columns hold what is not told.
            (None, _) => Some("*".into()),
        };
        let Some(name) = hit else { return Ok(()) };
        let from = relation.qualified();
        if explains {
            return refused(
                format!("explains how `{name}` of `{from}` is found, which tells of its values"),
                format!("leave `{name}` out"),
            );
        }
        refused(
            format!("would keep or use the masked `{name}` of `{from}` in a write"),
            format!("leave `{name}` out, or name the columns one by one"),
        )
    }

    fn scan(
        &mut self,
        scan: &Scan,
        relation: &Relation,
        wanted: &Columns,
        conditions: &[String],
        at: &Text<'_>,
    ) -> Result<Edit, Fault> {
        if scan.sampled {
            return refused(
                format!("samples `{}`, which has masked columns", relation.name),
                "leave TABLESAMPLE out",
            );
        }
        if let Columns::Known(names) = wanted
            && let Some(name) = names.iter().find(|n| SYSTEM_COLUMNS.contains(&&***n))
        {
            return refused(
                format!("reads `{name}` of `{}`, which has masked columns", relation.name),
                format!("leave `{name}` out"),
            );
        }
        let mut select = self.select(relation, wanted, scan.children)?;
        if !conditions.is_empty() {
            select.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
        }
        let (span, table) = at.relation(scan.location).ok_or_else(fault)?;
        let mut new = format!("({select})");
        if !scan.alias {
            new.push_str(&format!(" AS {}", quoted(&relation.name)));
        }
        if table {
            new = format!("SELECT * FROM {new}");
        }
        Ok(Edit::new(span, new))
    }

    /// What gives the rows of a relation with masks for what is hidden.
    fn select(
        &mut self,
        relation: &Relation,
        wanted: &Columns,
        children: bool,
    ) -> Result<String, Fault> {
        let unfolds = relation.kind == RelationKind::View;
        let blank;
        let covers = match self.hidden.relations.get(&relation.oid) {
            Some(covers) => Some(covers),
            None if unfolds => None,
            // A materialized view keeps what it was made of; nobody said what its columns are.
            None => {
                blank = self.blank(relation);
                Some(&blank)
            }
        };
        let from = if unfolds {
            let body = self.unfold(relation)?;
            if covers.is_none() {
                return Ok(body);
            }
            format!("({body}) AS {}", quoted(&relation.name))
        } else {
            let only = if children { "" } else { "ONLY " };
            format!("{only}{}.{}", quoted(&relation.schema), quoted(&relation.name))
        };
        let is_wanted = |name: &str| match wanted {
            Columns::Known(names) => names.contains(name),
            Columns::All | Columns::Unknown => true,
        };
        let mut columns = Vec::new();
        for column in relation.columns.iter().filter(|c| !c.dropped && is_wanted(&c.name)) {
            let name = quoted(&column.name);
            match covers.and_then(|covers| covers.get(&column.name)) {
                Some(cover) => {
                    self.classes.insert(cover.class.clone());
                    // What a view gives is followed to the tables behind it, and masked there.
                    let late = cover.late.is_some() && !unfolds && self.scans_out;
                    if late && self.lets_out(relation.oid, &column.name) {
                        columns.push(name);
                        continue;
                    }
                    columns.push(format!("{} AS {name}", cover.of(&name)));
                }
                None => columns.push(name),
            }
        }
        Ok(format!("SELECT {} FROM {from}", columns.join(", ")))
    }

    fn blank(&self, relation: &Relation) -> BTreeMap<Arc<str>, Cover> {
        let cover = |oid| Cover {
            class: "derived".into(),
            form: null_of(self.catalog, oid).into(),
            equality: false,
            late: None,
        };
        let live = relation.columns.iter().filter(|c| !c.dropped);
        live.map(|c| (c.name.clone(), cover(c.type_oid))).collect()
    }

    /// The definition of a view, with masks in it.
    fn unfold(&mut self, view: &Relation) -> Result<String, Fault> {
        let Some(definition) = &view.definition else { return torn() };
        if self.views.contains(&view.oid) || self.views.len() >= VIEWS_MAX {
            return torn();
        }
        let body = definition.trim_end().trim_end_matches(';');
        self.views.push(view.oid);
        let edits = self.edits(body, &SearchPath::new(Vec::<String>::new()));
        self.views.pop();
        apply(body, &edits?)
    }

    /// `GROUP BY` of a key lets a query name the table's other columns. A sub-select has no key, so
    /// they are added: where the statement was valid they follow from the key and change no group.
    fn group(
        &self,
        scan: &Scan,
        relation: &Relation,
        wanted: &Columns,
        marks: &Marks,
        at: &Text<'_>,
        edits: &mut Vec<Edit>,
    ) {
        for group in marks.groups.iter().filter(|group| group.level == scan.level) {
            let of = |places: &[usize]| -> Vec<Option<Arc<str>>> {
                let here = marks.reads.iter().filter(|read| {
                    marks.relation(read) == Some(scan.oid)
                        && read.spot.as_ref().is_some_and(|s| places.contains(&s.location))
                });
                here.map(|read| read.column.clone()).collect()
            };
            let (grouped, named) = (of(&group.columns), of(&group.targets));
            if grouped.is_empty() || named.iter().all(|name| grouped.contains(name)) {
                continue;
            }
            let Some(place) = at.group_by(group.first) else { continue };
            let mut text = String::new();
            for column in relation.columns.iter().filter(|c| !c.dropped && c.type_oid != JSON_OID) {
                let known = match wanted {
                    Columns::Known(names) => names.contains(&column.name),
                    Columns::All | Columns::Unknown => true,
                };
                if known && !grouped.contains(&Some(column.name.clone())) {
                    text.push_str(&format!("{}.{}, ", quoted(&scan.name), quoted(&column.name)));
                }
            }
            edits.push(Edit::new(place..place, text));
        }
    }

    /// Conditions `column = value` that may see the values: their places, and what the sub-select
    /// asks instead. Only where it is certain that the sub-select may ask it: of the one scan of a
    /// table, in the `WHERE` of its own query, and not where an outer join may leave it empty.
    fn asked(
        &self,
        scan: &Scan,
        relation: &Relation,
        marks: &Marks,
        at: &Text<'_>,
    ) -> (Vec<Range<usize>>, Vec<String>) {
        let (mut spans, mut conditions) = (Vec::new(), Vec::new());
        let Some(covers) = self.hidden.relations.get(&scan.oid) else { return (spans, conditions) };
        let only = marks.scans.iter().filter(|other| other.oid == scan.oid).count() == 1;
        if !only || scan.nullable || scan.renamed || relation.kind == RelationKind::View {
            return (spans, conditions);
        }
        for equal in marks.equals.iter().filter(|equal| equal.level == scan.level) {
            let mut of = marks.reads.iter().filter(|read| {
                read.spot.as_ref().is_some_and(|spot| spot.location == equal.column)
            });
            let (Some(read), None) = (of.next(), of.next()) else { continue };
            let named = read.column.as_ref().filter(|_| marks.relation(read) == Some(scan.oid));
            let Some(name) = named else { continue };
            let built_in = relation.column(name).is_some_and(|c| c.type_oid < FIRST_MADE_OID);
            if !built_in || !covers.get(name).is_some_and(|cover| cover.equality) {
                continue;
            }
            let Some(end) = at.value_end(equal.value) else { continue };
            let Some(value) = at.text.get(equal.value..end) else { continue };
            spans.push(equal.column..end);
            conditions.push(format!("{} OPERATOR(pg_catalog.=) {value}", quoted(name)));
        }
        (spans, conditions)
    }

    /// `schema.table.column` of a table that is a sub-select now is `table.column`.
    fn unqualify(
        &self,
        scan: &Scan,
        marks: &Marks,
        asked: &[Range<usize>],
        at: &Text<'_>,
        edits: &mut Vec<Edit>,
    ) {
        if marks.targets.iter().any(|target| target.oid == scan.oid) {
            return;
        }
        for read in marks.reads.iter().filter(|r| marks.relation(r) == Some(scan.oid)) {
            if let Some(spot) = read.spot.as_ref().filter(|spot| spot.schema)
                && !asked.iter().any(|span| span.contains(&spot.location))
                && let Some(span) = at.names(spot.location, spot.parts.saturating_sub(2))
            {
                edits.push(Edit::new(span, ""));
            }
        }
    }

    fn target(
        &mut self,
        target: &Target,
        marks: &Marks,
        at: &Text<'_>,
        edits: &mut Vec<Edit>,
    ) -> Result<(), Fault> {
        let Some(relation) = self.catalog.relation(target.oid) else { return torn() };
        let Some(covers) = self.hidden.relations.get(&target.oid) else {
            return refused(
                format!(
                    "writes through the view `{}`, behind which are masked columns",
                    relation.name
                ),
                "write to the table itself",
            );
        };
        if relation.kind == RelationKind::View {
            return refused(
                format!("writes to `{}` in a way that could read masked columns", relation.name),
                "use INSERT, UPDATE or DELETE on the table itself",
            );
        }
        for read in marks.reads.iter().filter(|r| marks.relation(r) == Some(target.oid)) {
            let named = read.column.as_ref();
            if named.is_some_and(|name| &**name == "tableoid")
                && self.hidden.divided.contains(&target.oid)
            {
                return refused(
                    format!(
                        "reads `tableoid` of `{}`, which a masked column divides",
                        relation.name
                    ),
                    "leave `tableoid` out",
                );
            }
            if named.is_some_and(|name| !covers.contains_key(name)) {
                continue;
            }
            let excluded = read.region == Region::Conflict
                && read.spot.as_ref().and_then(|s| s.qualifier.as_deref()) == Some("excluded");
            if excluded || read.region == Region::Infer {
                continue;
            }
            if read.region == Region::Returning {
                edits.push(self.returned(read, target, relation, covers, at)?);
                continue;
            }
            let name = named.map_or("*", |n| n);
            return refused(
                format!("uses the masked `{name}` of `{}` in a write", relation.qualified()),
                format!("find the rows by other columns than `{name}`"),
            );
        }
        Ok(())
    }

    fn returned(
        &mut self,
        read: &Read,
        target: &Target,
        relation: &Relation,
        covers: &BTreeMap<Arc<str>, Cover>,
        at: &Text<'_>,
    ) -> Result<Edit, Fault> {
        let Some(spot) = &read.spot else { return torn() };
        let whole = at.names(spot.location, spot.parts).ok_or_else(fault)?;
        let written = at.text.get(whole.clone()).unwrap_or_default();
        let own = quoted(&target.alias);
        let plain = self.returned_out.contains(&spot.location);
        match &read.column {
            Some(name) => {
                let Some(cover) = covers.get(name) else { return torn() };
                let column =
                    if spot.parts == 1 { format!("{own}.{written}") } else { written.to_owned() };
                let mut edit = Edit::new(whole.clone(), "");
                edit.text = self.shown(cover, name, target.oid, &column, plain, &mut edit.puts);
                if at.is_target(&whole) {
                    edit.text.push_str(&format!(" AS {}", quoted(name)));
                }
                Ok(edit)
            }
            None if spot.star && (spot.parts > 1 || !target.beside) => {
                let qualifier = match written.rsplit_once('.') {
                    Some((qualifier, _)) => qualifier.trim_end().to_owned(),
                    None => own,
                };
                let mut edit = Edit::new(whole, "");
                for column in relation.columns.iter().filter(|c| !c.dropped) {
                    if !edit.text.is_empty() {
                        edit.text.push_str(", ");
                    }
                    let full = format!("{qualifier}.{}", quoted(&column.name));
                    let Some(cover) = covers.get(&column.name) else {
                        edit.text.push_str(&full);
                        continue;
                    };
                    let (name, start) = (&column.name, edit.text.len());
                    let mut puts = Vec::new();
                    let shown = self.shown(cover, name, target.oid, &full, plain, &mut puts);
                    edit.puts.extend(puts.into_iter().map(|(at, put)| (start + at, put)));
                    edit.text.push_str(&format!("{shown} AS {}", quoted(name)));
                }
                Ok(edit)
            }
            None => refused(
                format!("returns whole rows of `{}`, which has masked columns", relation.name),
                "name the columns in RETURNING",
            ),
        }
    }

    /// What stands for a hidden column in a `RETURNING`: its mask, or the column itself where the
    /// gateway masks the cell.
    fn shown(
        &mut self,
        cover: &Cover,
        name: &Arc<str>,
        oid: u32,
        column: &str,
        plain: bool,
        puts: &mut Vec<(usize, Put)>,
    ) -> String {
        self.classes.insert(cover.class.clone());
        if plain && cover.late.is_some() && self.lets_out(oid, name) {
            return column.to_owned();
        }
        if plain {
            puts.push((0, Put { oid, column: name.clone() }));
        }
        cover.of(column)
    }

    fn copy(&mut self, copy: &Copy, at: &Text<'_>) -> Result<Edit, Fault> {
        let Some(relation) = self.catalog.relation(copy.oid) else { return torn() };
        if matches!(relation.kind, RelationKind::View | RelationKind::MatView) {
            return refused(
                format!("copies `{}`, which has masked columns", relation.name),
                "use COPY (SELECT …) TO",
            );
        }
        let wanted = match copy.columns.is_empty() {
            true => Columns::All,
            false => Columns::Known(copy.columns.iter().cloned().collect()),
        };
        let select = self.select(relation, &wanted, false)?;
        let (mut span, _) = at.relation(copy.location).ok_or_else(fault)?;
        let mut text = format!("({select})");
        if !copy.columns.is_empty() {
            span.end = at.closing(span.end).ok_or_else(fault)?;
            let order: Vec<String> = copy.columns.iter().map(|c| quoted(c)).collect();
            text =
                format!("(SELECT {} FROM {text} AS {})", order.join(", "), quoted(&relation.name));
        }
        Ok(Edit::new(span, text))
    }
}

fn fault() -> Fault {
    match torn::<()>() {
        Err(fault) => fault,
        Ok(()) => Fault::Read(ReadError::Internal),
    }
}

/// The columns of a scan that the statement can name. Which read belongs to which scan of the same
/// relation is not told apart.
fn wanted(scan: &Scan, marks: &Marks) -> Columns {
    if scan.renamed || marks.natural {
        return Columns::All;
    }
    let mut names = BTreeSet::new();
    // What a write returns is of the relations at its own level.
    let elsewhere = |read: &Read| {
        let writes = |target: &Target| target.oid == scan.oid && target.level == read.level;
        read.region == Region::Returning
            && read.level != scan.level
            && marks.targets.iter().any(writes)
    };
    let of = marks.reads.iter().filter(|r| marks.relation(r) == Some(scan.oid));
    for read in of.filter(|read| !elsewhere(read)) {
        match &read.column {
            Some(name) => {
                names.insert(name.clone());
            }
            None => return Columns::All,
        }
    }
    Columns::Known(names)
}
