//! Policies out of their folder, and the bundle in force.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bulla_core::{Policies, PolicySource, ResourceName};
use bulla_policy::{AttributeKind, Bundle, PolicyProblem, ResourceInput, SchemaInput};

use crate::{
    config::{Config, file},
    registry::Protocols,
};

/// The bundle in force. A reload swaps it whole; a bad one is not taken. Past its age it is none,
/// so that nothing is allowed.
pub struct Current {
    bundle: ArcSwapOption<(Arc<Bundle>, Instant)>,
    age_max: Option<Duration>,
}

impl Current {
    pub fn new(bundle: Bundle, age_max: Option<Duration>) -> Self {
        let current = Self { bundle: ArcSwapOption::empty(), age_max };
        current.put(bundle);
        current
    }
    pub fn put(&self, bundle: Bundle) {
        self.bundle.store(Some(Arc::new((Arc::new(bundle), Instant::now()))));
    }
    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        let loaded = self.bundle.load_full()?;
        let fresh = self.age_max.is_none_or(|max| loaded.1.elapsed() <= max);
        fresh.then(|| loaded.0.clone())
    }
}

impl PolicySource for Current {
    fn current(&self) -> Option<Arc<dyn Policies>> {
        self.bundle().map(|bundle| bundle as Arc<dyn Policies>)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Vec<PolicyProblem> {
    vec![PolicyProblem {
        file: path.display().to_string().into(),
        line: 0,
        column: 0,
        policy: None,
        message: format!("cannot be read: {error}"),
        help: None,
    }]
}

/// Every `*.cedar` file of the folder, by name. One that cannot be read spoils all.
fn files(dir: &Path) -> Result<Vec<(String, String)>, Vec<PolicyProblem>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| unreadable(dir, &error))? {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        if path.extension().is_none_or(|extension| extension != "cedar") {
            continue;
        }
        let size = std::fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.len();
        if size > bulla_policy::FILE_BYTES_MAX as u64 {
            return Err(unreadable(&path, &io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, text));
    }
    files.sort();
    Ok(files)
}

/// Loads the policies of a configuration, against the schema that it makes.
pub fn load(config: &Config, protocols: &Protocols) -> Result<Bundle, Vec<PolicyProblem>> {
    let dir = config.policy_dir();
    let files = files(&dir)?;
    let descriptors = protocols.descriptors();
    let mut input = SchemaInput { protocols: &descriptors, ..Default::default() };
    for (name, resource) in &config.resources {
        // A name that is none was reported with the configuration.
        let Ok(name) = ResourceName::new(name) else { continue };
        input.resources.push(ResourceInput {
            name,
            protocol: resource.protocol.as_str().into(),
            groups: resource.groups.iter().map(|group| group.as_str().into()).collect(),
        });
    }
    for (alias, issuer) in &config.issuers {
        let attributes = issuer.attributes.iter().map(|(name, attribute)| {
            let kind = match attribute.kind {
                file::AttributeKind::Text => AttributeKind::Text,
                file::AttributeKind::Flag => AttributeKind::Flag,
                file::AttributeKind::Number => AttributeKind::Number,
                file::AttributeKind::Set => AttributeKind::Set,
            };
            (name.clone(), kind)
        });
        input.issuers.insert(alias.clone(), attributes.collect());
    }
    for alias in config.trust_domains.keys() {
        input.issuers.insert(alias.clone(), Default::default());
    }
    let place = |mut problem: PolicyProblem| {
        if !problem.file.is_empty() {
            problem.file = dir.join(&*problem.file).display().to_string().into();
        }
        problem
    };
    Bundle::load(&files, &input).map_err(|all| all.into_iter().map(place).collect())
}
