//! `bulla classify`: proposes classes for columns, for a person to confirm.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use bulla_engine::Connector;
use bulla_wire::ScoutStep;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{config::Config, gateway, judge, print, roads::Roads, say::line};

/// Looks at names and samples of a resource's columns. Prints what to put into the configuration:
/// where, which class, and why; never a value.
pub fn run(config: &Config, asked: &str, json: bool) -> Result<()> {
    let protocols = config.protocols()?;
    let (name, part) = match asked.split_once('/') {
        Some((name, part)) => (name, Some(part)),
        None => (asked, None),
    };
    let found = config.resources.get(name);
    let found = found.with_context(|| format!("no resource `{}` is configured", line(name)))?;
    let resource = gateway::resource(config, name, found)?;
    let connector = Roads::new(config, &protocols, None)?;
    let place = connector.place(&resource, part);
    let place =
        place.with_context(|| format!("`{}` is no part that may be asked for", line(asked)))?;
    let protocol = connector.protocol(name).context("the resource has no protocol")?;
    let proposed = crate::runtime()?.block_on(async {
        judge::learn(&connector, &*protocol, &place).await.context("learn the catalogue")?;
        let mut survey =
            protocol.survey(&place).ok_or_else(|| anyhow!("`{name}` has nothing to classify"))?;
        let connected = connector.connect(&place, Vec::new()).await?;
        let (mut stream, mut input) = (connected.stream, connected.rest);
        loop {
            match survey.input(&mut input)? {
                ScoutStep::Done { .. } => return Ok::<_, anyhow::Error>(survey.found()),
                ScoutStep::Send(bytes) => {
                    stream.write_all(&bytes).await?;
                    stream.flush().await?;
                }
                ScoutStep::More => {
                    if stream.read_buf(&mut input).await? == 0 {
                        bail!("the target closed the connection");
                    }
                }
            }
        }
    })?;
    if json {
        let all: Vec<_> = proposed
            .iter()
            .map(|p| json!({ "column": p.path, "class": &*p.class, "why": p.why }))
            .collect();
        return Ok(print(&serde_json::to_string_pretty(&all)?)?);
    }
    let known: BTreeMap<&str, &str> =
        found.classes.columns.iter().map(|(path, class)| (path.as_str(), class.as_str())).collect();
    print(&format!("[resources.{name}.classes.columns]"))?;
    for proposal in &proposed {
        let (path, why) = (line(&proposal.path), line(&proposal.why));
        match known.get(proposal.path.as_str()) {
            Some(class) => print(&format!("# {path:?} is {class:?} already; {why}"))?,
            None => print(&format!("{path:?} = {:?}  # {why}", &*proposal.class))?,
        }
    }
    Ok(())
}
