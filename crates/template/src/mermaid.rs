//! A picture as a Mermaid flowchart, which many places that show Markdown draw.

use std::fmt::Write;

use outpost_base::job::{Class, Persistence, ScriptRequirement};

use super::{
    groups::{Group, groups},
    picture::{Agent, Picture, ScriptOrder},
};

/// Draws boxes for resources, grouped by class, and leads from each agent to where it runs.
///
/// Boxes with dashed lines do not outlive a stop. Instances of one block that look alike are one box.
pub fn mermaid(picture: &Picture) -> String {
    let mut text = String::from("flowchart LR\n");
    let groups = groups(picture);
    for class in [Class::Computational, Class::Peripheral] {
        let members: Vec<_> = groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.resource.class == class)
            .collect();
        if members.is_empty() {
            continue;
        }
        let name = class.as_str();
        line(&mut text, format_args!("  subgraph {name}"));
        for (index, group) in members {
            let label = label(&[&group.name, &details(group)]);
            let style = style(group.resource.persistence);
            line(
                &mut text,
                format_args!("    r{index}[\"{label}\"]:::{style}"),
            );
        }
        line(&mut text, format_args!("  end"));
    }
    for (index, agent) in picture.agents.iter().enumerate() {
        draw_agent(&mut text, &groups, index, agent);
    }
    for style in [
        "persistent stroke-width:2px",
        "ephemeral stroke-dasharray:6 4",
        "unknown stroke-dasharray:1 3",
    ] {
        line(&mut text, format_args!("  classDef {style}"));
    }
    text
}

fn draw_agent(text: &mut String, groups: &[Group<'_>], index: usize, agent: &Agent) {
    let label = label(&[&format!("agent {}", agent.name), &agent.platform()]);
    line(text, format_args!("  a{index}([\"{label}\"])"));
    for (nested, app) in agent.apps.iter().enumerate() {
        let label = self::label(&[&app.display_name]);
        line(
            text,
            format_args!("  a{index} --- a{index}p{nested}>\"{label}\"]"),
        );
    }
    for (nested, order) in agent.script_orders.iter().enumerate() {
        draw_order(text, &format!("a{index}o{nested}"), order);
        line(text, format_args!("  a{index} --- a{index}o{nested}"));
    }
    let hosts = groups.iter().enumerate();
    for (host, _) in hosts.filter(|(_, group)| group.resource.agents.contains(&agent.name)) {
        line(text, format_args!("  a{index} -->|runs in| r{host}"));
    }
}

/// Draws scripts in their order. Thick arrows are the longest chain, dotted ones lead on whatever happened.
fn draw_order(text: &mut String, id: &str, order: &ScriptOrder) {
    let inside = match order.devcontainer.as_str() {
        "" => String::new(),
        container => format!(" in {container}"),
    };
    let title = label(&[&format!("scripts at {}{inside}", order.phase.as_str())]);
    line(text, format_args!("  subgraph {id}[\"{title}\"]"));
    for (at, script) in order.scripts.iter().enumerate() {
        let label = label(&[&script.name]);
        line(text, format_args!("    {id}n{at}[\"{label}\"]"));
    }
    for (at, script) in order.scripts.iter().enumerate() {
        for before in &script.after {
            let mut all = order.scripts.iter();
            let Some(from) = all.position(|it| it.address == before.address) else {
                continue;
            };
            let is_critical = order.is_critical(&before.address, &script.address);
            let arrow = match (before.requires, is_critical) {
                (ScriptRequirement::Completion, true) => "==>|completion|",
                (ScriptRequirement::Completion, false) => "-.->|completion|",
                (_, true) => "==>",
                (_, false) => "-->",
            };
            line(text, format_args!("    {id}n{from} {arrow} {id}n{at}"));
        }
    }
    line(text, format_args!("  end"));
}

/// Lines below the address of a group.
pub(super) fn details(group: &Group<'_>) -> String {
    let (resource, instances) = (group.resource, group.instances());
    let persistence = resource.persistence.map(Persistence::as_str);
    let cost = (resource.daily_cost != 0).then(|| format!("{} a day", resource.daily_cost));
    let parts = [
        instances.as_str(),
        persistence.unwrap_or_default(),
        &resource.instance_type,
    ];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    let parts: Vec<_> = parts.chain(cost.as_deref()).collect();
    parts.join(" · ")
}

fn style(persistence: Option<Persistence>) -> &'static str {
    match persistence {
        Some(Persistence::Persistent) => "persistent",
        Some(Persistence::Ephemeral | Persistence::StopOnly) => "ephemeral",
        None => "unknown",
    }
}

/// Lines of a label. What Mermaid or HTML would understand otherwise is written by its number.
fn label(lines: &[&str]) -> String {
    let lines = lines.iter().filter(|line| !line.is_empty());
    let escaped = lines.map(|line| {
        let mut escaped = String::new();
        for letter in line.chars() {
            match letter {
                '"' | '#' | '<' | '>' | '&' | ';' | '`' | '\\' => {
                    // Writing into a String does not fail.
                    let _ = write!(escaped, "#{};", u32::from(letter));
                }
                letter if letter.is_control() => escaped.push(' '),
                letter => escaped.push(letter),
            }
        }
        escaped
    });
    escaped.collect::<Vec<_>>().join("<br/>")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a String does not fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::example;

    #[test]
    fn agents_lead_to_their_resources_and_labels_are_escaped() {
        let text = mermaid(&example());

        let expected = r##"flowchart LR
  subgraph computational
    r0["docker_container.workspace[#34;a#34;]<br/>ephemeral"]:::ephemeral
  end
  subgraph peripheral
    r1["docker_volume.home<br/>persistent · 3 a day"]:::persistent
  end
  a0(["agent main<br/>linux/amd64"])
  a0 --- a0p0>"Editor #60;1#62;"]
  subgraph a0o0["scripts at start"]
    a0o0n0["clone"]
    a0o0n1["install"]
    a0o0n0 ==> a0o0n1
  end
  a0 --- a0o0
  a0 -->|runs in| r0
  classDef persistent stroke-width:2px
  classDef ephemeral stroke-dasharray:6 4
  classDef unknown stroke-dasharray:1 3
"##;
        assert_eq!(text, expected);
    }
}
