//! What `CASCADE` reaches: `pg_depend`, walked as the server walks it.
//!
//! The walk may find more than would fall, never less. What it cannot place is doubt, which the
//! caller turns into [`crate::Effects::UNKNOWN`].
//!
//! Source: the manual's page of `pg_depend`; `findDependentObjects` in `dependency.c`;
//! `heap_truncate_find_FKs` in `heap.c`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Catalog, CatalogError, Cells, Row};
use crate::facts::RelationKind;

/// The catalogue that an object is listed in, as far as it matters what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    Relation,
    Schema,
    /// A constraint, default, rule, trigger, policy or extended statistics: of some relation.
    Part,
    /// A type or a function: nothing of it is touched by name.
    Code,
    Other,
}

impl Class {
    fn of(name: &str) -> Self {
        match name {
            "pg_class" => Self::Relation,
            "pg_namespace" => Self::Schema,
            "pg_constraint" | "pg_attrdef" | "pg_rewrite" | "pg_trigger" | "pg_policy"
            | "pg_statistic_ext" => Self::Part,
            "pg_type" | "pg_proc" => Self::Code,
            _ => Self::Other,
        }
    }
}

/// The number of the name of a catalogue, so that OIDs of several do not meet.
type Table = u16;

/// An object, or with a column's number a column of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Object {
    table: Table,
    oid: u32,
    sub: i32,
}

/// How one object depends on another: `pg_depend.deptype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bond {
    Normal,
    /// Goes with it, as an index with its table.
    Auto,
    /// Is a part of it, as a rule of a view: without it there is no view either.
    Internal,
    /// A member of an extension.
    Extension,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    /// At the other end.
    object: Object,
    /// Of the object at this end.
    sub: i32,
    bond: Bond,
}

/// `pg_depend`, both ways.
#[derive(Debug, Default)]
pub(crate) struct Depends {
    tables: Vec<(Box<str>, Class)>,
    /// Who depends on an object.
    above: HashMap<(Table, u32), Vec<Edge>>,
    /// On what an object depends.
    below: HashMap<(Table, u32), Vec<Edge>>,
}

/// What happens to a relation that the text does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It loses a column, a constraint, a default or the like.
    Changes,
    Falls,
}

impl Depends {
    pub(super) fn read(rows: &[Row]) -> Result<Self, CatalogError> {
        let mut depends = Self::default();
        for row in Cells::new("depends", rows) {
            let (number, name) = (row.number(1)?, row.text(0)?);
            let from = Object { table: depends.table(name), oid: number, sub: row.number(2)? };
            let (number, name) = (row.number(4)?, row.text(3)?);
            let on = Object { table: depends.table(name), oid: number, sub: row.number(5)? };
            let bond = match row.text(6)? {
                "n" => Bond::Normal,
                // `P` and `S`: with the parent of a partition's, and with the partition.
                "a" | "x" | "P" | "S" => Bond::Auto,
                "i" => Bond::Internal,
                "e" => Bond::Extension,
                _ => return Err(row.bad(6)),
            };
            let above = depends.above.entry((on.table, on.oid)).or_default();
            above.push(Edge { object: from, sub: on.sub, bond });
            let below = depends.below.entry((from.table, from.oid)).or_default();
            below.push(Edge { object: on, sub: from.sub, bond });
        }
        Ok(depends)
    }

    fn table(&mut self, name: &str) -> Table {
        let known = self.tables.iter().position(|(known, _)| **known == *name);
        let at = known.unwrap_or_else(|| {
            self.tables.push((name.into(), Class::of(name)));
            self.tables.len() - 1
        });
        // The server has some sixty of them.
        Table::try_from(at).unwrap_or(Table::MAX)
    }

    fn class(&self, object: Object) -> (Class, &str) {
        let found = self.tables.get(usize::from(object.table));
        found.map_or((Class::Other, ""), |(name, class)| (*class, name))
    }

    /// An object of a catalogue. None: nothing depends on anything in it.
    pub(crate) fn object(&self, table: &str, oid: u32, sub: i32) -> Option<Object> {
        let at = self.tables.iter().position(|(name, _)| **name == *table)?;
        Some(Object { table: Table::try_from(at).ok()?, oid, sub })
    }

    fn above(&self, object: Object) -> impl Iterator<Item = &Edge> {
        let all = self.above.get(&(object.table, object.oid)).into_iter().flatten();
        all.filter(move |edge| object.sub == 0 || edge.sub == object.sub)
    }

    fn below(&self, object: Object) -> impl Iterator<Item = &Edge> {
        self.below.get(&(object.table, object.oid)).into_iter().flatten()
    }

    /// The relations that an object is a part of.
    fn homes(&self, object: Object) -> impl Iterator<Item = Object> {
        let close = |edge: &&Edge| matches!(edge.bond, Bond::Auto | Bond::Internal);
        let homes = self.below(object).filter(close).map(|edge| edge.object);
        homes.filter(|home| self.class(*home).0 == Class::Relation)
    }

    /// Everything that goes with `starts`, and whether it only goes along, as it would without
    /// `CASCADE`.
    fn closure(&self, starts: &[Object]) -> Result<BTreeMap<Object, bool>, String> {
        let mut found: BTreeMap<Object, bool> = starts.iter().map(|o| (*o, false)).collect();
        let mut queue: Vec<Object> = starts.to_vec();
        while let Some(object) = queue.pop() {
            let falls = self.above(object).map(|edge| (edge.object, edge.bond != Bond::Normal));
            // Without its rule no view: the whole goes with its part.
            let whole = self.below(object).filter(|edge| edge.bond == Bond::Internal);
            let more: Vec<_> = falls.chain(whole.map(|edge| (edge.object, false))).collect();
            for (next, along) in more {
                let (class, name) = self.class(next);
                let member = self.below(next).any(|edge| edge.bond == Bond::Extension);
                if (class == Class::Other && !along) || member {
                    return Err(format!("CASCADE reaches an object of `{name}`"));
                }
                match found.get_mut(&next) {
                    Some(known) => *known &= along,
                    None => {
                        found.insert(next, along);
                        queue.push(next);
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Catalog {
    pub(crate) fn depends(&self) -> &Depends {
        &self.depends
    }

    /// What `DROP … CASCADE` of these does to relations beside them, by OID.
    ///
    /// # Errors
    /// The words of a doubt: something falls that cannot be placed.
    pub(crate) fn falls(&self, starts: &[Object]) -> Result<BTreeMap<u32, Fate>, String> {
        let depends = &self.depends;
        let found = depends.closure(starts)?;
        let gone = |home: &Object| found.contains_key(&Object { sub: 0, ..*home });
        let mut fates = BTreeMap::new();
        let mut is = |oid: u32, fate: Fate| {
            let known: &mut Fate = fates.entry(oid).or_insert(fate);
            *known = fate.max(*known);
        };
        for (object, along) in &found {
            match depends.class(*object).0 {
                Class::Relation if object.sub != 0 => {
                    if !gone(object) {
                        is(object.oid, Fate::Changes);
                    }
                }
                Class::Relation => {
                    let Some(relation) = self.relation(object.oid) else {
                        return Err("CASCADE reaches a relation that is not known".into());
                    };
                    match relation.kind {
                        // Its table loses it, or is gone.
                        RelationKind::Index | RelationKind::Toast => {
                            let homes = depends.homes(*object).filter(|home| !gone(home));
                            homes.for_each(|home| is(home.oid, Fate::Changes));
                        }
                        RelationKind::Composite => {}
                        // It goes with the column that it counts for, or with the whole.
                        RelationKind::Sequence | RelationKind::Partition if *along => {}
                        _ => is(object.oid, Fate::Falls),
                    }
                }
                Class::Part => {
                    let homes = depends.homes(*object).filter(|home| !gone(home));
                    homes.for_each(|home| is(home.oid, Fate::Changes));
                }
                Class::Schema | Class::Code | Class::Other => {}
            }
        }
        starts.iter().filter(|o| depends.class(**o).0 == Class::Relation).for_each(|o| {
            fates.remove(&o.oid);
        });
        Ok(fates)
    }

    /// What `TRUNCATE … CASCADE` of these empties beside them and their children: whoever has a
    /// foreign key to one of all those.
    ///
    /// # Errors
    /// The words of a doubt: such a relation is not known.
    pub(crate) fn empties(&self, starts: &[u32]) -> Result<BTreeSet<u32>, String> {
        let depends = &self.depends;
        let mut found: BTreeSet<u32> = starts.iter().copied().collect();
        let mut named = BTreeSet::new();
        let mut queue: Vec<u32> = starts.to_vec();
        while let Some(oid) = queue.pop() {
            let Some(relation) = self.relation(oid) else {
                return Err("CASCADE reaches a relation that is not known".into());
            };
            let on = depends.object("pg_class", oid, 0).into_iter().flat_map(|o| depends.above(o));
            // Constraints that depend on a relation which they are not a part of.
            let keys = on.filter(|edge| {
                edge.bond == Bond::Normal && depends.class(edge.object).1 == "pg_constraint"
            });
            let homes = keys.flat_map(|key| depends.homes(key.object)).map(|home| home.oid);
            let homes: BTreeSet<u32> = homes.collect();
            let new = relation.children.iter().chain(&homes).filter(|oid| found.insert(**oid));
            queue.extend(new);
            named.extend(homes);
        }
        starts.iter().for_each(|start| {
            named.remove(start);
        });
        Ok(named)
    }

    /// Whether a relation is one that `is` names, or a view that stands on one, or on code that
    /// somebody made and that belongs to no extension.
    pub(crate) fn stands_on(&self, oid: u32, is: &dyn Fn(u32) -> bool) -> bool {
        let depends = &self.depends;
        let (mut queue, mut seen) = (vec![oid], BTreeSet::new());
        while let Some(oid) = queue.pop() {
            if is(oid) {
                return true;
            }
            let Some(relation) = self.relation(oid) else { return true };
            let is_view = matches!(relation.kind, RelationKind::View | RelationKind::MatView);
            if !is_view || !seen.insert(oid) {
                continue;
            }
            let own = depends.object("pg_class", oid, 0).into_iter().flat_map(|o| depends.above(o));
            let rules = own.filter(|edge| {
                edge.bond == Bond::Internal && depends.class(edge.object).1 == "pg_rewrite"
            });
            for edge in rules.flat_map(|rule| depends.below(rule.object)) {
                let member = || depends.below(edge.object).any(|e| e.bond == Bond::Extension);
                match depends.class(edge.object).1 {
                    "pg_class" => queue.push(edge.object.oid),
                    "pg_proc" | "pg_operator" if !member() => return true,
                    _ => {}
                }
            }
        }
        false
    }

    /// The constraints of a relation: which of them a name means is not in the snapshot.
    pub(crate) fn constraints(&self, oid: u32) -> Vec<Object> {
        let depends = &self.depends;
        let of = depends.object("pg_class", oid, 0).into_iter().flat_map(|o| depends.above(o));
        let parts = of.filter(|edge| {
            edge.bond == Bond::Auto && depends.class(edge.object).1 == "pg_constraint"
        });
        parts.map(|edge| edge.object).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
