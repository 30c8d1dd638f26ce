//! Files into policies: parse, `@id`, annotations, strict validation, names that do not exist.
//! Every mistake of every file is found before anything is refused.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use aws_lc_rs::digest;
use bulla_core::{ActionName, Digest};
use cedar_policy::{
    Effect, EntityUid, Policy, PolicyId, PolicySet, Template, ValidationMode, Validator,
    ffi::DetailedError,
};
use serde_json::Value;

use crate::{
    duty::{Duties, On},
    problem::{Lines, PolicyProblem, nearest},
    schema::{Model, TIME_CONTEXT},
    scope::{Keys, Scope},
    split::{Piece, split},
};

/// Most files in a bundle.
pub const FILES_MAX: usize = 1_000;
/// Largest file, in bytes.
pub const FILE_BYTES_MAX: usize = 4 << 20;
/// Most policies in a bundle.
pub const POLICIES_MAX: usize = 20_000;
/// Most problems that one load reports.
pub const PROBLEMS_MAX: usize = 1_000;

/// One policy, ready to be asked.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub id: Arc<str>,
    pub effect: Effect,
    /// This policy alone: evaluated on its own, so that its error is its own.
    pub set: PolicySet,
    pub duties: Duties,
    pub scope: Scope,
    /// Nothing in it can change with time alone.
    pub timeless: bool,
    pub file: Arc<str>,
    pub place: (u32, u32),
}

struct Found<'a> {
    /// None when it is missing or bad, which is a problem already.
    id: Option<Arc<str>>,
    policy: Policy,
    duties: Duties,
    file: Arc<str>,
    lines: Rc<Lines<'a>>,
    piece: Piece<'a>,
}

impl Found<'_> {
    fn problem(&self, offset: usize, message: impl Into<String>) -> PolicyProblem {
        let at = self.lines.place(self.piece.offset + offset);
        PolicyProblem::at(&self.file, at, message).of(self.id.as_ref())
    }
}

/// SHA-256 over the files, sorted by name: per file the name's length, the name, the text's length,
/// the text; lengths as 8 bytes, big-endian. The order in which files are given does not matter.
pub(crate) fn bundle_digest(files: &[(String, String)]) -> Digest {
    let mut sorted: Vec<&(String, String)> = files.iter().collect();
    sorted.sort_unstable();
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"bulla policies 1\n");
    for (name, text) in sorted {
        for part in [name, text] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
    }
    let mut out = [0; 32];
    // SHA-256 always gives 32 bytes; a shorter one would leave zeros, never a panic.
    for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    Digest(out)
}

pub(crate) fn load(
    files: &[(String, String)],
    model: &Model,
    keys: &mut Keys,
) -> Result<Vec<Loaded>, Vec<PolicyProblem>> {
    let mut problems = Vec::new();
    check_files(files, &mut problems);
    let mut found = Vec::new();
    if problems.is_empty() {
        let mut files: Vec<&(String, String)> = files.iter().collect();
        files.sort_unstable();
        for (name, text) in files {
            read_file(name, text, &mut found, &mut problems);
        }
        check_ids(&found, &mut problems);
        validate(&found, model, &mut problems);
        for one in &found {
            check_names(one, model, &mut problems);
        }
    }
    if !problems.is_empty() {
        problems.sort();
        problems.dedup();
        problems.truncate(PROBLEMS_MAX);
        return Err(problems);
    }
    let mut loaded = Vec::with_capacity(found.len());
    for one in found {
        match finish(&one, model, keys) {
            Ok(policy) => loaded.push(policy),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(loaded) } else { Err(problems) }
}

fn check_files(files: &[(String, String)], problems: &mut Vec<PolicyProblem>) {
    let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
    if files.len() > FILES_MAX {
        problems.push(PolicyProblem::configuration(format!("more than {FILES_MAX} files")));
    }
    for (name, text) in files {
        let file: Arc<str> = name.as_str().into();
        if seen.insert(name, ()).is_some() {
            problems.push(PolicyProblem::at(&file, (0, 0), "this file is given twice"));
        }
        if text.len() > FILE_BYTES_MAX {
            let message = format!("this file is larger than {FILE_BYTES_MAX} bytes");
            problems.push(PolicyProblem::at(&file, (0, 0), message));
        }
    }
}

fn read_file<'a>(
    name: &str,
    text: &'a str,
    found: &mut Vec<Found<'a>>,
    problems: &mut Vec<PolicyProblem>,
) {
    let file: Arc<str> = name.into();
    let lines = Rc::new(Lines::new(text));
    for piece in split(text) {
        if found.len() >= POLICIES_MAX {
            let message = format!("the bundle has more than {POLICIES_MAX} policies");
            problems.push(PolicyProblem::at(&file, lines.place(piece.offset), message));
            return;
        }
        read_piece(&file, &lines, piece, found, problems);
    }
}

fn read_piece<'a>(
    file: &Arc<str>,
    lines: &Rc<Lines<'a>>,
    piece: Piece<'a>,
    found: &mut Vec<Found<'a>>,
    problems: &mut Vec<PolicyProblem>,
) {
    let here = lines.place(piece.offset);
    let policy = match Policy::parse(None, piece.text) {
        Ok(policy) => policy,
        Err(errors) => {
            if Template::parse(None, piece.text).is_ok_and(|t| t.slots().next().is_some()) {
                problems.push(
                    PolicyProblem::at(file, here, "templates are not taken")
                        .help("write out one policy instead of `?principal` or `?resource`"),
                );
                return;
            }
            for error in errors.iter() {
                let (offset, message, help) = described(&DetailedError::from(error));
                let problem = PolicyProblem::at(file, lines.place(piece.offset + offset), message);
                problems.push(match help {
                    Some(help) => problem.help(help),
                    None => problem,
                });
            }
            return;
        }
    };
    let mut id = None;
    match policy.annotation("id") {
        None => problems.push(
            PolicyProblem::at(file, here, "this policy has no @id")
                .help("write @id(\"a-name\") before it"),
        ),
        Some(text) => match ActionName::new(text) {
            Ok(_) => id = Some(Arc::<str>::from(text)),
            Err(error) => {
                problems.push(PolicyProblem::at(file, here, format!("bad @id: {error}")));
            }
        },
    }
    let on = match policy.effect() {
        Effect::Permit => On::Permit,
        Effect::Forbid => On::Forbid,
    };
    let duties = Duties::read(on, policy.annotations()).unwrap_or_else(|mistakes| {
        for mistake in mistakes {
            let offset = piece.text.find(&format!("@{}", mistake.annotation)).unwrap_or(0);
            let at = lines.place(piece.offset + offset);
            let problem = PolicyProblem::at(file, at, mistake.message).of(id.as_ref());
            problems.push(match mistake.help {
                Some(help) => problem.help(help),
                None => problem,
            });
        }
        Duties::default()
    });
    found.push(Found { id, policy, duties, file: file.clone(), lines: lines.clone(), piece });
}

/// Where in the source, what, and what to do.
fn described(error: &DetailedError) -> (usize, String, Option<String>) {
    let offset = error.source_locations.first().map_or(0, |label| label.loc.start);
    let mut message = error.message.clone();
    if let Some(label) = error.source_locations.first().and_then(|label| label.label.as_ref())
        && !message.contains(label.as_str())
    {
        message.push_str(": ");
        message.push_str(label);
    }
    (offset, message, error.help.clone())
}

fn check_ids(found: &[Found<'_>], problems: &mut Vec<PolicyProblem>) {
    let mut first: HashMap<&str, &Found<'_>> = HashMap::new();
    for one in found {
        let Some(id) = &one.id else { continue };
        if let Some(other) = first.get(&**id) {
            let (line, _) = other.lines.place(other.piece.offset);
            let message = format!("this @id is taken by {}:{line}", other.file);
            problems.push(one.problem(0, message));
        } else {
            first.insert(id, one);
        }
    }
}

fn validate(found: &[Found<'_>], model: &Model, problems: &mut Vec<PolicyProblem>) {
    let validator = Validator::new(model.schema.clone());
    let mut set = PolicySet::new();
    // Numbered, because an `@id` may be missing or taken.
    for (number, one) in found.iter().enumerate() {
        if let Err(error) = set.add(one.policy.new_id(PolicyId::new(number.to_string()))) {
            problems.push(one.problem(0, error.to_string()));
        }
    }
    let result = validator.validate(&set, ValidationMode::Strict);
    let mut all = Vec::new();
    let mut say = |id: &PolicyId, error: DetailedError| {
        let (offset, message, help) = described(&error);
        // The policy is named apart.
        let prefix = format!("for policy `{id}`, ");
        let message = message.replace(&prefix, "");
        let number: Option<usize> = AsRef::<str>::as_ref(id).parse().ok();
        let problem = match number.and_then(|number| found.get(number)) {
            Some(one) => one.problem(offset, message),
            None => PolicyProblem::configuration(message),
        };
        all.push(match help {
            Some(help) => problem.help(help),
            None => problem,
        });
    };
    for error in result.validation_errors() {
        say(error.policy_id(), DetailedError::from(error));
    }
    // A forbid that can never apply, or a name in look-alike letters, protects nothing. Beside an
    // error a warning is only its echo.
    let wrong: HashSet<&PolicyId> =
        result.validation_errors().map(|error| error.policy_id()).collect();
    let warnings = result.validation_warnings();
    for warning in warnings.filter(|warning| !wrong.contains(warning.policy_id())) {
        say(warning.policy_id(), DetailedError::from(warning));
    }
    // One expression is wrong once per kind of principal, action and resource: say it once.
    all.sort();
    for group in all.chunk_by(|a, b| (&a.file, a.line, a.column) == (&b.file, b.line, b.column)) {
        let Some(first) = group.first() else { continue };
        let mut problem = first.clone();
        if group.len() > 1 {
            let more = group.len() - 1;
            problem.message.push_str(&format!(", and {more} more like it"));
        }
        problems.push(problem);
    }
}

/// Literals that the schema cannot check: resources, their groups and issuers that do not exist.
fn check_names(one: &Found<'_>, model: &Model, problems: &mut Vec<PolicyProblem>) {
    let mut literals = one.policy.entity_literals();
    literals.sort_unstable();
    literals.dedup();
    for literal in &literals {
        if let Err((message, help)) = check_name(literal, model) {
            let quoted = format!("\"{}\"", literal.id().escaped());
            let offset = one.piece.text.find(&quoted).unwrap_or(0);
            let problem = one.problem(offset, message);
            problems.push(match help {
                Some(help) => problem.help(help),
                None => problem,
            });
        }
    }
    let mut keys = Keys::default();
    let scope = Scope::of(&one.policy, model, &mut keys);
    if !scope.names_actions || !scope.covers(model.connect) {
        return;
    }
    if one.duties.hold.is_some() {
        let message = "`connect` cannot be held: only commands can";
        problems.push(one.problem(0, message));
    }
    if let Some(uid) = &scope.resource_uid
        && *uid.type_name() == model.types.resource
        && uid.id().unescaped().contains('/')
    {
        let message = "`connect` is decided on the whole resource, not on a part of it";
        problems.push(one.problem(0, message));
    }
}

fn check_name(literal: &EntityUid, model: &Model) -> Result<(), (String, Option<String>)> {
    let kind = literal.type_name();
    let id = literal.id().unescaped();
    let resources = || model.resources.iter().map(|resource| resource.name.as_str());
    let guess = |near: Option<&str>| near.map(|near| format!("did you mean `{near}`?"));
    if *kind == model.types.resource {
        let name = id.split_once('/').map_or(id, |(name, _)| name);
        if resources().any(|resource| resource == name) {
            return Ok(());
        }
        let message = format!("no resource `{name}` is configured");
        return Err((message, guess(nearest(name, resources()))));
    }
    if *kind == model.types.resource_group {
        let groups = || model.resources.iter().flat_map(|r| r.groups.iter().map(|g| &**g));
        if groups().any(|group| group == id) {
            return Ok(());
        }
        let message = format!("no resource is in a group `{id}`");
        return Err((message, guess(nearest(id, groups()))));
    }
    if *kind == model.types.workload || *kind == model.types.human {
        let issuer = id.split_once('|').map_or("", |(issuer, _)| issuer);
        let issuers = || model.issuers.keys().map(String::as_str);
        if issuers().any(|known| known == issuer) {
            return Ok(());
        }
        let message = format!("no issuer `{issuer}` is configured for principal `{id}`");
        let near = guess(nearest(issuer, issuers()));
        return Err((message, near.or(Some("an id is `issuer|subject`".to_owned()))));
    }
    let declares = |protocol: &str| {
        model.protocol(protocol).is_some_and(|(_, p)| p.touches.values().any(|t| t == kind))
    };
    let is_touch = model.protocols.iter().any(|p| p.touches.values().any(|touch| touch == kind));
    if !is_touch {
        return Ok(());
    }
    let of = model.resources.iter().find(|resource| {
        id.strip_prefix(resource.name.as_str())
            .is_some_and(|rest| rest.starts_with('.') || rest.starts_with('/'))
    });
    match of {
        Some(resource) if declares(&resource.protocol) => Ok(()),
        Some(resource) => Err((
            format!("resource `{}` ({}) has no {kind}", resource.name, resource.protocol),
            None,
        )),
        None => {
            let name = id.split(['.', '/']).next().unwrap_or(id);
            let help = guess(nearest(name, resources()))
                .unwrap_or_else(|| "an id is `resource.path`".to_owned());
            Err((format!("`{id}` is in no configured resource"), Some(help)))
        }
    }
}

fn finish(one: &Found<'_>, model: &Model, keys: &mut Keys) -> Result<Loaded, PolicyProblem> {
    let Some(id) = &one.id else { return Err(one.problem(0, "this policy has no @id")) };
    let scope = Scope::of(&one.policy, model, keys);
    let json = one.policy.to_json().map_err(|error| one.problem(0, error.to_string()))?;
    let set = PolicySet::from_policies([one.policy.new_id(PolicyId::new(id))])
        .map_err(|error| one.problem(0, error.to_string()))?;
    Ok(Loaded {
        id: id.clone(),
        effect: one.policy.effect(),
        set,
        duties: one.duties.clone(),
        scope,
        timeless: json.get("conditions").is_some_and(is_timeless),
        file: one.file.clone(),
        place: one.lines.place(one.piece.offset),
    })
}

/// Whether an expression (Cedar's JSON form) reads the context only by names that do not change
/// with time alone. Whatever is not plainly `context.name` or `context has name` counts as time.
fn is_timeless(expression: &Value) -> bool {
    match expression {
        Value::Array(items) => items.iter().all(is_timeless),
        Value::Object(members) => members.iter().all(|(name, value)| {
            if name == "Var" && value == "context" {
                return false;
            }
            if (name == "." || name == "has")
                && let (Some(left), Some(attribute)) = (value.get("left"), value.get("attr"))
                && left.get("Var").is_some_and(|var| var == "context")
            {
                return attribute.as_str().is_some_and(|name| !TIME_CONTEXT.contains(&name));
            }
            is_timeless(value)
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_found_wherever_it_hides() {
        let check = |condition: &str, expect: bool| {
            let text = format!("permit (principal, action, resource) when {{ {condition} }};");
            let json = Policy::parse(None, text).unwrap().to_json().unwrap();
            assert_eq!(is_timeless(json.get("conditions").unwrap()), expect, "{condition}");
        };
        check("true", true);
        check("context.source.isLoopback()", true);
        check("context has ticket && context.why has reason", true);
        check("principal.now == \"context\"", true);
        check("context.why.tier > 1 && [\"now\"].contains(context.part)", true);
        check("context.now < datetime(\"2026-01-01\")", false);
        check("context[\"hour\"] > 8", false);
        check("1 == 2 || !(if context.weekday > 5 then true else false)", false);
        check("context has now", false);
        check("context has now.x", false);
        check("[context].contains(context)", false);
        check("context == {now: 1}", false);
        check("{\"Var\": context}.Var has hour", false);
        check("(if true then context else context).hour == 1", false);
    }

    #[test]
    fn the_digest_is_of_names_and_texts_in_any_order() {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let (a, b) = (file("a", "1"), file("b", "2"));
        let digest = bundle_digest(&[a.clone(), b.clone()]);
        assert_eq!(digest, bundle_digest(&[b.clone(), a.clone()]));
        assert_eq!(
            bundle_digest(&[]).to_string(),
            digest_hex(b"bulla policies 1\n"),
            "an empty bundle is the prefix alone"
        );
        for other in [
            vec![a.clone()],
            vec![a.clone(), file("b", "3")],
            vec![a.clone(), file("c", "2")],
            vec![file("a", "1b"), file("", "2")],
            vec![file("a", "12"), file("b", "")],
        ] {
            assert_ne!(digest, bundle_digest(&other), "{other:?}");
        }
    }

    fn digest_hex(bytes: &[u8]) -> String {
        let digest = digest::digest(&digest::SHA256, bytes);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
