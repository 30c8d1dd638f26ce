//! Expressions.

use pg_query::NodeEnum;
use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::{
    AExpr, AExprKind, AIndirection, FuncCall, JsonAggConstructor, JsonBehavior, JsonFuncExpr,
    JsonOutput, JsonValueExpr, Node, SubLink, TypeName, WindowDef,
};

use super::names::Arity;
use super::{R, Reader, inner, string, strings};
use crate::facts::{Effects, FunctionClass, FunctionUse, NameUse};
use crate::settings::{SettingAction, SettingRule, SettingScope, SettingUse, SettingValue, rule};

/// A constant of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Literal {
    Null,
    Text(String),
    Bool(bool),
    Number(String),
}

/// The constant that a node is, through casts to `text` and `boolean` only: others may cut it.
pub(super) fn literal(node: &Node) -> Option<Literal> {
    match inner(node)? {
        NodeEnum::AConst(constant) if constant.isnull => Some(Literal::Null),
        NodeEnum::AConst(constant) => Some(match constant.val.as_ref()? {
            Val::Ival(n) => Literal::Number(n.ival.to_string()),
            Val::Fval(n) => Literal::Number(n.fval.clone()),
            Val::Boolval(b) => Literal::Bool(b.boolval),
            Val::Sval(s) => Literal::Text(s.sval.clone()),
            Val::Bsval(_) => return None,
        }),
        NodeEnum::TypeCast(cast) => {
            let name = cast.type_name.as_ref()?;
            let value = literal_leaf(cast.arg.as_deref()?)?;
            match (plain_type(name)?, value) {
                ("text", Literal::Text(text)) => Some(Literal::Text(text)),
                ("bool", Literal::Bool(b)) => Some(Literal::Bool(b)),
                ("bool", Literal::Text(text)) => boolean(&text).map(Literal::Bool),
                (_, Literal::Null) => Some(Literal::Null),
                _ => None,
            }
        }
        _ => None,
    }
}

fn literal_leaf(node: &Node) -> Option<Literal> {
    match inner(node)? {
        NodeEnum::AConst(_) => literal(node),
        _ => None,
    }
}

/// The name of a type without modifiers or array bounds, in `pg_catalog` or unqualified.
fn plain_type(name: &TypeName) -> Option<&str> {
    if !name.typmods.is_empty() || !name.array_bounds.is_empty() || name.setof {
        return None;
    }
    match name.names.as_slice() {
        [name] => string(name),
        [schema, name] if string(schema) == Some("pg_catalog") => string(name),
        _ => None,
    }
}

/// `parse_bool`, without abbreviations that nobody writes.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "true" | "on" | "yes" | "y" | "1" => Some(true),
        "f" | "false" | "off" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

impl Reader<'_> {
    pub(super) fn exprs(&mut self, nodes: &[Node]) -> R {
        nodes.iter().try_for_each(|node| self.expr(node))
    }

    pub(super) fn expr_of(&mut self, node: Option<&Node>) -> R {
        node.map_or(Ok(()), |node| self.expr(node))
    }

    pub(super) fn expr(&mut self, node: &Node) -> R {
        self.deeper(|r| r.any_expr(node))
    }

    fn any_expr(&mut self, node: &Node) -> R {
        let Some(node) = inner(node) else { return Ok(()) };
        match node {
            NodeEnum::AConst(_)
            | NodeEnum::AStar(_)
            | NodeEnum::SetToDefault(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::MergeSupportFunc(_)
            | NodeEnum::Integer(_)
            | NodeEnum::Float(_)
            | NodeEnum::Boolean(_)
            | NodeEnum::String(_)
            | NodeEnum::BitString(_)
            | NodeEnum::JsonTablePathSpec(_) => Ok(()),
            NodeEnum::ParamRef(param) => {
                self.out.params = self.out.params.max(u32::try_from(param.number).unwrap_or(0));
                Ok(())
            }
            NodeEnum::ColumnRef(column) => self.column(column),
            NodeEnum::AExpr(e) => self.operation(e),
            NodeEnum::BoolExpr(e) => self.exprs(&e.args),
            NodeEnum::FuncCall(call) => self.func_call(call, false),
            NodeEnum::TypeCast(cast) => {
                self.expr_of(cast.arg.as_deref())?;
                self.cast_of(cast.type_name.as_ref());
                Ok(())
            }
            NodeEnum::CollateClause(collate) => self.expr_of(collate.arg.as_deref()),
            NodeEnum::SubLink(link) => self.sub_link(link),
            NodeEnum::CaseExpr(case) => {
                self.expr_of(case.arg.as_deref())?;
                self.exprs(&case.args)?;
                if case.arg.is_some() {
                    self.operator_named(None, "=");
                }
                self.expr_of(case.defresult.as_deref())
            }
            NodeEnum::CaseWhen(when) => {
                self.expr_of(when.expr.as_deref())?;
                self.expr_of(when.result.as_deref())
            }
            NodeEnum::AArrayExpr(array) => self.exprs(&array.elements),
            NodeEnum::RowExpr(row) => self.exprs(&row.args),
            NodeEnum::CoalesceExpr(e) => self.exprs(&e.args),
            NodeEnum::MinMaxExpr(e) => self.exprs(&e.args),
            NodeEnum::NullTest(test) => self.expr_of(test.arg.as_deref()),
            NodeEnum::BooleanTest(test) => self.expr_of(test.arg.as_deref()),
            NodeEnum::AIndirection(e) => self.indirection(e),
            NodeEnum::AIndices(e) => {
                self.expr_of(e.lidx.as_deref())?;
                self.expr_of(e.uidx.as_deref())
            }
            NodeEnum::GroupingFunc(e) => self.exprs(&e.args),
            NodeEnum::GroupingSet(e) => self.exprs(&e.content),
            NodeEnum::NamedArgExpr(e) => self.expr_of(e.arg.as_deref()),
            NodeEnum::MultiAssignRef(e) => self.expr_of(e.source.as_deref()),
            NodeEnum::List(list) => self.exprs(&list.items),
            NodeEnum::ResTarget(target) => {
                self.exprs(&target.indirection)?;
                self.expr_of(target.val.as_deref())
            }
            NodeEnum::SortBy(sort) => {
                if !sort.use_op.is_empty() {
                    self.operator(&sort.use_op);
                }
                self.expr_of(sort.node.as_deref())
            }
            NodeEnum::WindowDef(window) => self.window(window),
            NodeEnum::CurrentOfExpr(e) => {
                if e.cursor_name.is_empty() {
                    self.unknown("a cursor without a name");
                } else {
                    self.name_use(NameUse::CurrentOf { name: e.cursor_name.clone() });
                }
                Ok(())
            }
            NodeEnum::XmlExpr(e) => {
                self.exprs(&e.named_args)?;
                self.exprs(&e.args)
            }
            NodeEnum::XmlSerialize(e) => {
                self.expr_of(e.expr.as_deref())?;
                self.cast_of(e.type_name.as_ref());
                Ok(())
            }
            other => self.json_expr(other),
        }
    }

    fn json_expr(&mut self, node: &NodeEnum) -> R {
        match node {
            NodeEnum::JsonIsPredicate(e) => self.expr_of(e.expr.as_deref()),
            NodeEnum::JsonValueExpr(e) => self.json_value(Some(e)),
            NodeEnum::JsonArgument(e) => self.json_value(e.val.as_deref()),
            NodeEnum::JsonKeyValue(e) => {
                self.expr_of(e.key.as_deref())?;
                self.json_value(e.value.as_deref())
            }
            NodeEnum::JsonFuncExpr(e) => self.json_func(e),
            NodeEnum::JsonParseExpr(e) => {
                self.json_output(e.output.as_ref());
                self.json_value(e.expr.as_deref())
            }
            NodeEnum::JsonScalarExpr(e) => {
                self.json_output(e.output.as_ref());
                self.expr_of(e.expr.as_deref())
            }
            NodeEnum::JsonSerializeExpr(e) => {
                self.json_output(e.output.as_ref());
                self.json_value(e.expr.as_deref())
            }
            NodeEnum::JsonObjectConstructor(e) => {
                self.json_output(e.output.as_ref());
                self.exprs(&e.exprs)
            }
            NodeEnum::JsonArrayConstructor(e) => {
                self.json_output(e.output.as_ref());
                self.exprs(&e.exprs)
            }
            NodeEnum::JsonArrayQueryConstructor(e) => {
                self.json_output(e.output.as_ref());
                e.query.as_deref().map_or(Ok(()), |q| self.sub_query(q).map(|_| ()))
            }
            NodeEnum::JsonObjectAgg(e) => {
                self.json_agg(e.constructor.as_deref())?;
                let Some(arg) = e.arg.as_deref() else { return Ok(()) };
                self.expr_of(arg.key.as_deref())?;
                self.json_value(arg.value.as_deref())
            }
            NodeEnum::JsonArrayAgg(e) => {
                self.json_agg(e.constructor.as_deref())?;
                self.json_value(e.arg.as_deref())
            }
            _ => {
                self.unknown("an expression of an unknown kind");
                Ok(())
            }
        }
    }

    pub(super) fn json_value(&mut self, value: Option<&JsonValueExpr>) -> R {
        let Some(value) = value else { return Ok(()) };
        self.expr_of(value.raw_expr.as_deref())?;
        self.expr_of(value.formatted_expr.as_deref())
    }

    fn json_func(&mut self, e: &JsonFuncExpr) -> R {
        self.json_output(e.output.as_ref());
        self.json_value(e.context_item.as_deref())?;
        self.expr_of(e.pathspec.as_deref())?;
        self.exprs(&e.passing)?;
        self.json_behavior(e.on_empty.as_deref())?;
        self.json_behavior(e.on_error.as_deref())
    }

    pub(super) fn json_behavior(&mut self, behavior: Option<&JsonBehavior>) -> R {
        behavior.map_or(Ok(()), |b| self.expr_of(b.expr.as_deref()))
    }

    fn json_output(&mut self, output: Option<&JsonOutput>) {
        if let Some(output) = output {
            self.cast_of(output.type_name.as_ref());
        }
    }

    fn json_agg(&mut self, constructor: Option<&JsonAggConstructor>) -> R {
        let Some(constructor) = constructor else { return Ok(()) };
        self.json_output(constructor.output.as_ref());
        self.expr_of(constructor.agg_filter.as_deref())?;
        self.exprs(&constructor.agg_order)?;
        constructor.over.as_deref().map_or(Ok(()), |w| self.window(w))
    }

    pub(super) fn cast_of(&mut self, name: Option<&TypeName>) {
        if let Some(name) = name {
            self.cast_to(name);
        }
    }

    fn operation(&mut self, e: &AExpr) -> R {
        match AExprKind::try_from(e.kind) {
            Ok(
                AExprKind::AexprBetween
                | AExprKind::AexprNotBetween
                | AExprKind::AexprBetweenSym
                | AExprKind::AexprNotBetweenSym,
            ) => {
                for name in ["<", "<=", ">", ">="] {
                    self.operator_named(None, name);
                }
            }
            Ok(AExprKind::Undefined) | Err(_) => self.unknown("an operation of an unknown kind"),
            Ok(_) => self.operator(&e.name),
        }
        self.expr_of(e.lexpr.as_deref())?;
        self.expr_of(e.rexpr.as_deref())
    }

    fn sub_link(&mut self, link: &SubLink) -> R {
        self.expr_of(link.testexpr.as_deref())?;
        if !link.oper_name.is_empty() {
            self.operator(&link.oper_name);
        } else if link.testexpr.is_some() {
            self.operator_named(None, "=");
        }
        link.subselect.as_deref().map_or(Ok(()), |q| self.sub_query(q).map(|_| ()))
    }

    fn indirection(&mut self, e: &AIndirection) -> R {
        self.expr_of(e.arg.as_deref())?;
        for step in &e.indirection {
            match string(step) {
                Some(field) => {
                    // `(t).f`: a whole row was written down for `t` above, which covers a column.
                    self.attribute(field);
                }
                None => self.expr(step)?,
            }
        }
        Ok(())
    }

    pub(super) fn window(&mut self, window: &WindowDef) -> R {
        self.exprs(&window.partition_clause)?;
        self.exprs(&window.order_clause)?;
        self.expr_of(window.start_offset.as_deref())?;
        self.expr_of(window.end_offset.as_deref())
    }

    /// `always`: the call is a target of the statement itself, so that it runs exactly once.
    pub(super) fn func_call(&mut self, call: &FuncCall, always: bool) -> R {
        self.deeper(|r| r.any_func_call(call, always))
    }

    fn any_func_call(&mut self, call: &FuncCall, always: bool) -> R {
        self.exprs(&call.args)?;
        self.exprs(&call.agg_order)?;
        self.expr_of(call.agg_filter.as_deref())?;
        if let Some(window) = call.over.as_deref() {
            self.window(window)?;
        }
        let name = strings(&call.funcname);
        if matches!(name.as_slice(), ["set_config"] | ["pg_catalog", "set_config"]) {
            self.set_config(&call.args, always);
            if name.len() == 1 {
                // Somebody's own function of that name may be meant as well.
                self.call_made("set_config", call.args.len());
            }
            return Ok(());
        }
        let named = call.args.iter().any(|a| matches!(inner(a), Some(NodeEnum::NamedArgExpr(_))));
        let arity = if named || call.func_variadic || call.agg_within_group {
            Arity::Any
        } else {
            Arity::Exactly(call.args.len())
        };
        self.call(&name, arity);
        Ok(())
    }

    fn set_config(&mut self, args: &[Node], mut always: bool) {
        let mut class = FunctionClass::Volatile;
        let mut dangerous = || {
            class = FunctionClass::Dangerous("sets a setting whose name or value is computed");
        };
        let [name, value, local] = args else {
            return self.unknown("`set_config` without three plain arguments");
        };
        let name = match literal(name) {
            Some(Literal::Text(name)) => Some(name),
            _ => self.settings_row_name(name),
        };
        if name.is_none() {
            dangerous();
        }
        let scope = match literal(local) {
            Some(Literal::Bool(true)) => SettingScope::Local,
            Some(Literal::Bool(false)) => SettingScope::Session,
            // For how long is not told.
            _ => {
                always = false;
                SettingScope::Session
            }
        };
        let (action, value) = match literal(value) {
            _ if !always => (SettingAction::Set, SettingValue::Unknown),
            Some(Literal::Text(text)) => (SettingAction::Set, SettingValue::Literal(text)),
            Some(Literal::Null) => (SettingAction::Reset, SettingValue::Default),
            _ => (SettingAction::Set, SettingValue::Unknown),
        };
        let any_value = name.as_deref().is_some_and(|name| rule(name) == SettingRule::Harmless);
        if value == SettingValue::Unknown && !any_value {
            dangerous();
        }
        let known = name.is_some();
        self.out.settings.push(SettingUse::new(name.as_deref(), action, scope, value));
        self.function(
            FunctionUse {
                schema: Some("pg_catalog".into()),
                name: "set_config".into(),
                class,
                extension: None,
            },
            Effects::SETTINGS,
        );
        if !known {
            self.unknown("`set_config` with a computed name");
        }
    }

    /// `set_config(name, …) FROM pg_settings WHERE name = 'x'`
    fn settings_row_name(&self, node: &Node) -> Option<String> {
        match inner(node)? {
            NodeEnum::ColumnRef(column) => match strings(&column.fields).as_slice() {
                ["name"] | [_, "name"] => self.settings_row.clone(),
                _ => None,
            },
            _ => None,
        }
    }
}
