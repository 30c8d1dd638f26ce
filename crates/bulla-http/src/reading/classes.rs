//! What of the answer to a request may not be seen, as a part of its reading.

use std::sync::Arc;

use bulla_core::{ActionName, CLASS_KIND, Columns, Command, Fact, REVEAL, Touch, Touches};
use http::Method;
use serde_json::Value;

use super::{is_graphql, is_grpc};
use crate::{api::Api, graphql, head::Head, json, veil::Plan, wire::Fault};

/// Completes a reading: classes that are shown in the clear are touched; those that are masked are a
/// fact. An error: the answer could not be masked, as far as the request tells.
pub fn complete(
    api: &Api,
    head: &Head,
    body: Option<&[u8]>,
    plan: &Plan,
    command: &mut Command,
) -> Result<(), Fault> {
    let (Touches::Known(touches) | Touches::Unknown { seen: touches, .. }) = &mut command.touches;
    touches.extend(plan.shown.iter().filter_map(shows));
    if !plan.hides() {
        return Ok(());
    }
    command.facts.insert("masked", Fact::Set(plan.hidden.classes()));
    if is_grpc(&head.media_type().unwrap_or_default()) {
        let why = "answers of gRPC cannot be masked, and some of it may not be seen";
        return Err(Fault { status: 403, why });
    }
    if plan.hidden.has_paths() && renames(api, head, body) {
        let why = "an alias would hide what may not be seen; ask for the fields by their own names";
        return Err(Fault { status: 403, why });
    }
    Ok(())
}

/// That values of a class are shown in the clear, as what a command touches.
fn shows(class: &Arc<str>) -> Option<Touch> {
    let action = ActionName::new(REVEAL).ok()?;
    let path = class.clone();
    Some(Touch { action, kind: CLASS_KIND, path, columns: Columns::NotApplicable })
}

/// Whether a GraphQL request gives fields other names, so that places in its answer say nothing.
/// What cannot be read does.
fn renames(api: &Api, head: &Head, body: Option<&[u8]>) -> bool {
    if !is_graphql(api, head) || head.upgrade {
        return false;
    }
    let text = match head.method {
        Method::GET => {
            let found = head.pairs.iter().find(|(name, _)| name == "query");
            found.map(|(_, text)| text.clone())
        }
        _ => {
            let read = body.and_then(|body| json::read(body).ok());
            let text = read.as_ref().and_then(|json| json.get("query")).and_then(Value::as_str);
            text.map(str::to_owned)
        }
    };
    text.is_none_or(|text| graphql::has_aliases(&text))
}
