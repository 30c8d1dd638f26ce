//! Relations, functions, operators and types by name.

use std::sync::Arc;

use pg_query::protobuf::{Node, RangeVar, TypeName};

use super::{FoundRelation, Reader, strings};
use crate::catalog::{Found, Function, Operator, Relation, Type, TypeKind};
use crate::facts::{Effects, FunctionClass, FunctionUse, Known, RelationKind, Resolved};
use crate::functions::{builtin, dangerous_name, made, reviewed_extension};

/// How many arguments a call has, as far as the text tells.
#[derive(Clone, Copy)]
pub(super) enum Arity {
    Exactly(usize),
    /// Named arguments, `VARIADIC`, `WITHIN GROUP`.
    Any,
}

impl<'a> Reader<'a> {
    /// Finds the relation that a range variable names. A name that is not found is unknown.
    pub(super) fn relation(&mut self, var: &RangeVar) -> FoundRelation<'a> {
        let found = self.lookup(var);
        if matches!(found.resolved, Resolved::Unresolved) {
            let free = var.schemaname.is_empty();
            let why = if free && self.cx.path.schemas().is_none() {
                "the search path is not known"
            } else if (free || var.schemaname == "pg_temp") && self.cx.path.temp().is_none() {
                "the session may hold temporary relations that nobody followed"
            } else {
                "no such relation in the catalogue snapshot"
            };
            self.unknown(format!("`{}`: {why}", var.relname));
        }
        found
    }

    /// The same, when the relation may well not exist yet (`CREATE`, `IF EXISTS`).
    pub(super) fn lookup(&mut self, var: &RangeVar) -> FoundRelation<'a> {
        let schema = (!var.schemaname.is_empty()).then(|| Arc::<str>::from(&*var.schemaname));
        let foreign = !var.catalogname.is_empty() && var.catalogname != self.cx.catalog.database();
        let found = if foreign {
            Found::Nothing
        } else {
            self.cx.catalog.find_relation(self.cx.path, schema.as_deref(), &var.relname)
        };
        let (resolved, relation) = match found {
            Found::Relation(relation) => (Resolved::Known(known(relation)), Some(relation)),
            Found::Temp => (Resolved::Temp, None),
            Found::Made(schema) => (Resolved::Made(schema), None),
            Found::Nothing => (Resolved::Unresolved, None),
        };
        let name = match relation {
            Some(relation) => Arc::clone(&relation.name),
            None => Arc::from(&*var.relname),
        };
        FoundRelation { schema, name, resolved, relation, children: var.inh }
    }

    /// Where an unqualified new object goes: the first schema of the path that there is.
    pub(super) fn creation_schema(&self) -> Option<String> {
        let schemas = self.cx.path.schemas()?;
        schemas.iter().find(|s| *s == "pg_temp" || self.cx.catalog.usable(s)).cloned()
    }

    /// Writes down a call, or why it could not be resolved.
    pub(super) fn call(&mut self, name: &[&str], arity: Arity) {
        let (schema, name) = match name {
            [name] => (None, *name),
            [schema, name] => (Some(*schema), *name),
            [database, schema, name] if *database == self.cx.catalog.database() => {
                (Some(*schema), *name)
            }
            _ => return self.unknown("a function name of an unknown form"),
        };
        if self.resolve_call(schema, name, arity) {
            return;
        }
        // `name(x)` is a cast when `name` is a type and no function.
        let casts = matches!(arity, Arity::Exactly(1));
        if casts && self.cast_to_named(schema, name) {
            return;
        }
        let (class, effects) =
            dangerous_name(name).unwrap_or((FunctionClass::Unresolved, Effects::NONE));
        let schema = schema.map(Arc::from);
        self.function(FunctionUse { schema, name: name.into(), class, extension: None }, effects);
        self.unknown(format!("`{name}`: no such function in the reviewed lists or the catalogue"));
    }

    /// Writes down the functions of that name that somebody made, if any could be meant.
    pub(super) fn call_made(&mut self, name: &str, arguments: usize) {
        for function in self.candidates(None, name, Arity::Exactly(arguments)) {
            self.write_made(function);
        }
    }

    fn write_made(&mut self, function: &Function) {
        let (class, effects) = made(function);
        self.function(
            FunctionUse {
                schema: Some(Arc::clone(&function.schema)),
                name: Arc::clone(&function.name),
                class,
                extension: function.extension.clone(),
            },
            effects,
        );
    }

    fn resolve_call(&mut self, schema: Option<&str>, name: &str, arity: Arity) -> bool {
        let mut found = false;
        let own = match schema {
            Some(schema) => schema == "pg_catalog",
            None => true,
        };
        if own && let Some((class, effects)) = builtin(name) {
            let schema = Some("pg_catalog".into());
            let extension = None;
            self.function(FunctionUse { schema, name: name.into(), class, extension }, effects);
            found = true;
        }
        for function in self.candidates(schema, name, arity) {
            if let Some(returns) = self.cx.catalog.type_of(function.returns) {
                self.value_of(returns, Depth::Value, 0);
            }
            self.write_made(function);
            found = true;
        }
        found
    }

    /// The functions outside the server's own that a call could mean.
    fn candidates(&self, schema: Option<&str>, name: &str, arity: Arity) -> Vec<&'a Function> {
        let takes = |f: &&Function| match arity {
            Arity::Exactly(n) => f.takes(n),
            Arity::Any => true,
        };
        let all = self.cx.catalog.functions_named(name).iter();
        all.filter(takes).filter(|f| self.reaches(schema, &f.schema)).collect()
    }

    /// Whether a name with this qualification can mean something in that schema.
    fn reaches(&self, written: Option<&str>, schema: &str) -> bool {
        match written {
            Some(written) => written == schema,
            None => match self.cx.path.schemas() {
                Some(path) => {
                    schema == "pg_catalog"
                        || (path.iter().any(|s| s == schema) && self.cx.catalog.usable(schema))
                }
                // The path is not known: any schema may be in it.
                None => true,
            },
        }
    }

    /// `(x).f` or `t.f` where `f` is probably a column: written down only when it would be a
    /// function that spoils something.
    pub(super) fn attribute(&mut self, name: &str) {
        if let Some((class, effects)) = builtin(name)
            && !class.keeps_purity()
        {
            let schema = Some("pg_catalog".into());
            let extension = None;
            self.function(FunctionUse { schema, name: name.into(), class, extension }, effects);
        }
        for function in self.candidates(None, name, Arity::Exactly(1)) {
            if !made(function).0.keeps_purity() {
                self.write_made(function);
            }
        }
    }

    /// `t.f` where `f` is certainly no column. Returns whether such a function exists.
    pub(super) fn attribute_call(&mut self, name: &str) -> bool {
        self.resolve_call(None, name, Arity::Exactly(1))
    }

    /// Writes down the operators that a name could mean.
    pub(super) fn operator(&mut self, name: &[Node]) {
        let parts = strings(name);
        let (schema, name) = match parts.as_slice() {
            [name] => (None, *name),
            [schema, name] => (Some(*schema), *name),
            _ => return self.unknown("an operator name of an unknown form"),
        };
        self.operator_named(schema, name);
    }

    pub(super) fn operator_named(&mut self, schema: Option<&str>, name: &str) {
        let catalog = self.cx.catalog;
        // The server's own are not listed; somebody's own may stand beside them.
        let mut found = schema == Some("pg_catalog");
        for (at, operator) in catalog.operators_named(name).iter().enumerate() {
            if !self.reaches(schema, &operator.schema) {
                continue;
            }
            found = true;
            let (left, right) = (operator.left, operator.right);
            let user = |oid| catalog.type_of(oid).is_some_and(Type::is_user);
            if user(left) || user(right) {
                self.operators.insert((Arc::clone(&operator.name), at));
            } else {
                self.operator_runs(operator);
            }
        }
        if let Some(schema) = schema
            && !found
        {
            self.unknown(format!("no operator `{name}` in schema `{schema}`"));
        }
    }

    /// The function behind a user-made operator.
    pub(super) fn operator_runs(&mut self, operator: &Operator) {
        match self.cx.catalog.function(operator.function) {
            Some(function) => self.write_made(function),
            // One of the server's own, under a name that somebody chose.
            None => self.function(
                FunctionUse {
                    schema: Some(Arc::clone(&operator.schema)),
                    name: Arc::clone(&operator.name),
                    class: FunctionClass::User,
                    extension: None,
                },
                Effects::OPAQUE,
            ),
        }
    }

    /// A cast, a column definition, or anything else that turns values into this type.
    pub(super) fn cast_to(&mut self, name: &TypeName) {
        let parts = strings(&name.names);
        if name.pct_type {
            return self.unknown("a type taken from a column");
        }
        let (schema, last) = match parts.as_slice() {
            [name] => (None, *name),
            [schema, name] => (Some(*schema), *name),
            [database, schema, name] if *database == self.cx.catalog.database() => {
                (Some(*schema), *name)
            }
            _ => return self.unknown("a type name of an unknown form"),
        };
        if !self.cast_to_named(schema, last) {
            self.unknown(format!("no type `{last}` in the catalogue snapshot"));
        }
    }

    fn cast_to_named(&mut self, schema: Option<&str>, name: &str) -> bool {
        let catalog = self.cx.catalog;
        if schema.is_none_or(|s| s == "pg_temp")
            && self.cx.path.temp().is_some_and(|t| t.contains_key(name))
        {
            // The row type of a temporary relation.
            return true;
        }
        let mut found = false;
        let types: Vec<&'a Type> = catalog.types_named(name).collect();
        for candidate in types {
            if !self.reaches(schema, &candidate.schema) {
                continue;
            }
            found = true;
            self.value_of(candidate, Depth::Cast, 0);
        }
        found
    }

    /// A value of this type occurs; `cast` when it is made from something else, which runs the
    /// checks of its domains.
    pub(super) fn value_of(&mut self, of: &'a Type, depth: Depth, level: usize) {
        const LEVELS_MAX: usize = 16;
        if level > LEVELS_MAX {
            return self.unknown("a type that is too deep");
        }
        let catalog = self.cx.catalog;
        if let Some(element) = catalog.type_of(of.element)
            && element.oid != of.oid
        {
            self.value_of(element, depth, level + 1);
        }
        if let Some(base) = catalog.type_of(of.base) {
            self.value_of(base, depth, level + 1);
        }
        if !of.is_user() {
            if depth == Depth::Cast {
                self.cast_targets.insert(of.oid);
            }
            return;
        }
        if !self.types.insert(of.oid) && depth == Depth::Value {
            return;
        }
        let reviewed = of.extension.as_deref().is_some_and(reviewed_extension);
        match of.kind {
            TypeKind::Enum | TypeKind::Pseudo => {}
            TypeKind::Domain if depth == Depth::Cast && of.checked && !reviewed => {
                self.runs_type(of);
            }
            TypeKind::Domain => {}
            TypeKind::Composite => {
                if let Some(relation) = catalog.relation_named(&of.schema, &of.name) {
                    for column in relation.columns.iter().filter(|c| !c.dropped) {
                        if let Some(field) = catalog.type_of(column.type_oid)
                            && field.oid != of.oid
                        {
                            self.value_of(field, depth, level + 1);
                        }
                    }
                }
            }
            // An array does what its element does.
            TypeKind::Base if of.element != 0 && of.name.starts_with('_') => {}
            TypeKind::Base | TypeKind::Range | TypeKind::Multirange | TypeKind::Other => {
                if !reviewed {
                    self.runs_type(of);
                }
            }
        }
    }

    /// The type's own functions run: input, output, comparison, checks.
    fn runs_type(&mut self, of: &Type) {
        self.function(
            FunctionUse {
                schema: Some(Arc::clone(&of.schema)),
                name: Arc::clone(&of.name),
                class: FunctionClass::User,
                extension: of.extension.clone(),
            },
            Effects::OPAQUE,
        );
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// A stored value is read.
    Value,
    /// A value is made.
    Cast,
}

pub(super) fn known(relation: &Relation) -> Known {
    Known {
        schema: Arc::clone(&relation.schema),
        name: Arc::clone(&relation.name),
        oid: relation.oid,
        kind: relation.kind,
    }
}

/// Relations that hold rows and can be read or written by queries.
pub(super) fn is_view(kind: RelationKind) -> bool {
    matches!(kind, RelationKind::View | RelationKind::MatView)
}
