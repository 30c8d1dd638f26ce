//! What types cannot say about a configuration: files that must be there, names, what goes
//! together.

use std::path::Path;

use super::*;

pub(super) struct Check<'a, 'i> {
    pub config: &'a Config,
    pub parse: &'a Parse<'i>,
    pub problems: Vec<Problem>,
}

impl Check<'_, '_> {
    fn keep(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let at = self.parse.find(key);
        let (file, line) = match at {
            Some(at) => self.parse.place(at),
            None => (self.parse.name.to_owned(), 0),
        };
        let help = Some(help.into()).filter(|help| !help.is_empty());
        self.problems.push(Problem { file, line, key: key.into(), message: message.into(), help });
    }

    /// A file that is needed must be there, readable, and a file.
    fn need(&mut self, key: &str, path: &Path, what: &str) {
        let full = self.config.path(path);
        let opened = std::fs::File::open(&full).and_then(|file| file.metadata());
        let message = match opened {
            Ok(found) if found.is_file() => return,
            Ok(_) => format!("`{}` is no file", full.display()),
            Err(error) => format!("open `{}`: {error}", full.display()),
        };
        self.keep(key, message, format!("it must hold {what}"));
    }

    pub fn all(&mut self, known: &[&str]) {
        let config = self.config;
        self.gateway();
        self.ledger();
        let dir = config.policy_dir();
        if !dir.is_dir() {
            let message = format!("`{}` is no folder", dir.display());
            self.keep("policy.dir", message, "make it, with your rules in *.cedar files");
        }
        if config.resources.is_empty() && self.problems.is_empty() {
            self.keep("resources", "there is none", "add a [resources.NAME] table");
        }
        if config.issuers.is_empty() && config.trust_domains.is_empty() && self.problems.is_empty()
        {
            let help = "add an [issuers.NAME] or a [trust_domains.NAME] table";
            self.keep("issuers", "nobody could log in", help);
        }
        for (name, resource) in &config.resources {
            self.resource(&format!("resources.{name}"), name, resource, known);
        }
        for (key, message, help) in config.masks().err().unwrap_or_default() {
            self.keep(&key, message, help);
        }
        self.listeners();
        self.agents();
        self.identity();
    }

    fn gateway(&mut self) {
        let config = self.config;
        let gateway = &config.gateway;
        if let Err(error) = ResourceName::new(&gateway.name) {
            self.keep("gateway.name", error.to_string(), "");
        }
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if gateway.origin.is_empty() || gateway.origin.len() > 100 || gateway.origin.contains(bad) {
            let message = "must be 1 to 100 characters without blanks or `+`";
            self.keep("gateway.origin", message, "use a host name of yours");
        }
        self.need("gateway.tls.cert", &gateway.tls.cert, "the gateway's certificate, in PEM");
        self.need("gateway.tls.key", &gateway.tls.key, "its key, in PEM");
        if config.path(&gateway.tls.cert).is_file()
            && config.path(&gateway.tls.key).is_file()
            && let Err(error) = crate::tls::server_pair(config)
        {
            self.keep("gateway.tls", format!("{error:#}"), "cert and key must belong together");
        }
        // The longest path that the kernel takes for a socket, with its final zero.
        let socket = config.socket();
        if socket.as_os_str().len() > 107 {
            let message = format!("`{}` is too long for a socket", socket.display());
            self.keep("gateway.admin", message, "set a shorter path in `gateway.admin`");
        }
    }

    fn ledger(&mut self) {
        let ledger = &self.config.ledger;
        let segment = ledger.segment.bytes;
        if !(512 << 10..=1 << 30).contains(&segment) || !segment.is_multiple_of(4_096) {
            self.keep("ledger.segment", "must be whole pages from 512KiB to 1GiB", "use `64MiB`");
        } else if ledger.reserve.bytes > segment / 2 {
            self.keep("ledger.reserve", "exceeds half of `ledger.segment`", "use `4MiB`");
        }
        for (key, time) in [("checkpoint", ledger.checkpoint), ("heartbeat", ledger.heartbeat)] {
            if !(50..=60_000).contains(&time.ms) {
                self.keep(&format!("ledger.{key}"), "must be from `50ms` to `1m`", "");
            }
        }
    }

    fn resource(&mut self, key: &str, name: &str, resource: &file::Resource, known: &[&str]) {
        if let Err(error) = ResourceName::new(name) {
            self.keep(key, error.to_string(), "rename the table");
        }
        if !known.contains(&resource.protocol.as_str()) {
            let message = format!("unknown protocol `{}`", resource.protocol.escape_debug());
            self.keep(&format!("{key}.protocol"), message, format!("use {}", known.join(" or ")));
        }
        let hosted = crate::registry::is_hosted(&resource.protocol);
        if resource.agent.is_empty() {
            self.reached_from_here(key, resource, hosted);
        } else {
            self.reached_by_agents(key, resource);
        }
        for (part, message) in crate::registry::mistakes(self.config, name, resource) {
            self.keep(&format!("{key}.{part}"), message, "");
        }
        if resource.session_max.ms == 0 {
            self.keep(&format!("{key}.session_max"), "must be more than nothing", "use `8h`");
        }
    }

    fn reached_from_here(&mut self, key: &str, resource: &file::Resource, hosted: bool) {
        let config = self.config;
        if resource.target.host.is_none() || resource.target.port.is_none() {
            let help = match hosted {
                true => "write target = { host = \"…\", port = … }",
                false => "write target = { host = \"…\", port = … }, or name the `agent`",
            };
            self.keep(&format!("{key}.target"), "`host` and `port` are missing", help);
        }
        if resource.login.is_none() && !hosted {
            let help = "write login = { user = \"…\", password_file = \"…\" }";
            return self.keep(&format!("{key}.login"), "this table is missing", help);
        }
        let login = &resource.login.clone().unwrap_or_default();
        for (part, message) in super::agent::login(config.base(), &resource.target, login) {
            self.keep(&format!("{key}.{part}"), message.0, message.1);
        }
    }

    /// Where it is and how to log in stands in the agents' own configuration.
    fn reached_by_agents(&mut self, key: &str, resource: &file::Resource) {
        let target = &resource.target;
        let set = [
            ("target.host", target.host.is_some()),
            ("target.port", target.port.is_some()),
            ("target.ca", target.ca.is_some()),
            ("login", resource.login.is_some()),
        ];
        for (part, _) in set.into_iter().filter(|(_, set)| *set) {
            let help = "move it to the agent's configuration: address and secret stay there";
            self.keep(&format!("{key}.{part}"), "is for targets without `agent`", help);
        }
        if self.config.agents.is_none() {
            let help = "add an [agents] table, with `listen`";
            self.keep(&format!("{key}.agent"), "agents have no door", help);
        }
        for name in resource.agent.iter() {
            if let Err(error) = ResourceName::new(name) {
                self.keep(&format!("{key}.agent"), error.to_string(), "");
            }
        }
    }

    fn agents(&mut self) {
        let config = self.config;
        let Some(agents) = &config.agents else { return };
        let day = u64::try_from(bulla_tunnel::CERTIFICATE_TTL_MAX.as_millis()).unwrap_or(u64::MAX);
        if !(2_000..=day).contains(&agents.certificate.ms) {
            self.keep("agents.certificate", "must be from `2s` to `24h`", "use `24h`");
        }
        if !(100..=300_000).contains(&agents.keepalive.ms) {
            self.keep("agents.keepalive", "must be from `100ms` to `5m`", "use `10s`");
        }
        let listens = config.resources.values().map(|resource| resource.listen);
        if listens.chain([config.gateway.http]).any(|other| other == agents.listen) {
            self.keep("agents.listen", "something else listens there", "use another port");
        }
        for (name, enrol) in &agents.enrol {
            let key = format!("agents.enrol.{name}");
            if let Err(error) = ResourceName::new(name) {
                self.keep(&key, error.to_string(), "rename the table");
            }
            let known = enrol.principal.split_once('|').map(|(issuer, _)| issuer);
            let known = known.is_some_and(|issuer| {
                config.issuers.contains_key(issuer) || config.trust_domains.contains_key(issuer)
            });
            if !known {
                let help = "write it whole, as in the log: `issuer|subject`";
                self.keep(&format!("{key}.principal"), "names no issuer of ours", help);
            }
            for resource in &enrol.resources {
                let found = config.resources.get(resource);
                if !found.is_some_and(|found| found.agent.iter().any(|agent| agent == name)) {
                    let message = format!("`{}` has no such agent", resource.escape_debug());
                    let help = format!("set `agent = \"{name}\"` on it");
                    self.keep(&format!("{key}.resources"), message, help);
                }
            }
        }
    }

    /// One address, one protocol.
    fn listeners(&mut self) {
        for (name, message) in crate::registry::clashes(self.config) {
            self.keep(&format!("resources.{name}"), message, "give it a host or path of its own");
        }
        let mut seen: BTreeMap<_, (&String, &String)> = BTreeMap::new();
        let config = self.config;
        for (name, resource) in &config.resources {
            match seen.get(&resource.listen) {
                Some((other, protocol)) if **protocol != resource.protocol => {
                    let message = format!("`{other}` listens there with another protocol");
                    self.keep(&format!("resources.{name}.listen"), message, "use another port");
                }
                Some(_) => {}
                None => {
                    seen.insert(resource.listen, (name, &resource.protocol));
                }
            }
            if resource.listen == config.gateway.http {
                let message = "is `gateway.http` too";
                self.keep(&format!("resources.{name}.listen"), message, "use another port");
            }
        }
    }

    fn identity(&mut self) {
        let config = self.config;
        for (alias, issuer) in &config.issuers {
            let key = format!("issuers.{alias}");
            for algorithm in &issuer.algorithms {
                if identity::Algorithm::parse(algorithm).is_none() {
                    let message = format!("unknown algorithm `{}`", algorithm.escape_debug());
                    self.keep(
                        &format!("{key}.algorithms"),
                        message,
                        "use RS256, ES256, EdDSA, ...",
                    );
                }
            }
            let sources = [
                issuer.jwks_file.is_some(),
                issuer.jwks_url.is_some(),
                issuer.discovery_url.is_some(),
            ];
            if sources.into_iter().filter(|set| *set).count() > 1 {
                let message = "`jwks_file`, `jwks_url` and `discovery_url` exclude each other";
                self.keep(&key, message, "keep one");
            }
            if let Some(path) = &issuer.jwks_file {
                self.need(&format!("{key}.jwks_file"), path, "a JSON Web Key Set");
            }
            if let Some(path) = &issuer.ca {
                self.need(&format!("{key}.ca"), path, "the issuer's authority, in PEM");
            }
        }
        for (alias, domain) in &config.trust_domains {
            let key = format!("trust_domains.{alias}.bundle");
            self.need(&key, &domain.bundle, "the trust domain's authorities, in PEM");
            if config.issuers.contains_key(alias) {
                let message = "an issuer has the same name";
                self.keep(&format!("trust_domains.{alias}"), message, "rename one");
            }
        }
        let identity = config.identity();
        let found = identity.validate();
        for problem in found {
            self.keep(&problem.path, problem.what, "");
        }
    }
}
