//! A picture as SVG: a column of boxes for each class, agents inside the resources that they run in.

mod canvas;
mod order;

use outpost_base::job::{Class, Persistence};

use self::canvas::{Canvas, Style, clipped};
use super::{
    groups::{Group, groups},
    mermaid::details,
    picture::{Agent, Basis, Parameter, Picture},
};

/// Space around and between things, and heights of lines, in pixels.
const MARGIN: u32 = 24;
const GAP: u32 = 12;
const PADDING: u32 = 12;
const LINE: u32 = 18;
const COLUMN: u32 = 400;
/// Average width of a letter of small text.
const SMALL_LETTER: u32 = 7;

const COMPUTATIONAL: Palette = Palette {
    fill: "#e8f1fd",
    stroke: "#2b6cb0",
};
const PERIPHERAL: Palette = Palette {
    fill: "#f3f4f6",
    stroke: "#6b7280",
};
const QUESTION: Palette = Palette {
    fill: "#fdf6e3",
    stroke: "#b7791f",
};
const AGENT: Palette = Palette {
    fill: "#ffffff",
    stroke: "#2b6cb0",
};

struct Palette {
    fill: &'static str,
    stroke: &'static str,
}

/// Draws resources in columns by class, and parameters in a third.
///
/// Boxes with dashed lines do not outlive a stop, dotted ones are not known to. Instances of one block that look
/// alike are one box.
pub fn svg(picture: &Picture) -> String {
    let mut canvas = Canvas::default();
    let mut left = MARGIN;
    let mut bottom = MARGIN + LINE;
    let groups = groups(picture);
    for class in [Class::Computational, Class::Peripheral] {
        let members = groups.iter();
        let members: Vec<_> = members
            .filter(|group| group.resource.class == class)
            .collect();
        if members.is_empty() {
            continue;
        }
        let count = members.iter().map(|group| group.count).sum();
        let mut top = heading(&mut canvas, left, &title(class, count));
        for group in members {
            top = draw_group(&mut canvas, left, top, picture, group) + GAP;
        }
        (left, bottom) = (left + COLUMN + MARGIN, bottom.max(top));
    }
    if !picture.parameters.is_empty() {
        let mut top = heading(&mut canvas, left, "Parameters");
        for parameter in &picture.parameters {
            top = draw_parameter(&mut canvas, left, top, parameter) + GAP;
        }
        (left, bottom) = (left + COLUMN + MARGIN, bottom.max(top));
    }
    let width = left.max(MARGIN + COLUMN + MARGIN);
    let fitting = (width / SMALL_LETTER) as usize;
    for line in legend(picture)
        .iter()
        .flat_map(|note| wrapped(note, fitting))
    {
        bottom += LINE;
        canvas.text(MARGIN, bottom, &line, Style::Note);
    }
    canvas.finish(width, bottom + MARGIN)
}

fn title(class: Class, count: usize) -> String {
    let name = match class {
        Class::Computational => "Computational: agents run here",
        Class::Peripheral => "Peripheral",
    };
    format!("{name} ({count})")
}

fn heading(canvas: &mut Canvas, left: u32, text: &str) -> u32 {
    canvas.text(left, MARGIN + LINE, text, Style::Heading);
    MARGIN + LINE + GAP
}

/// Draws a box and returns where it ends.
fn draw_group(
    canvas: &mut Canvas,
    left: u32,
    top: u32,
    picture: &Picture,
    group: &Group<'_>,
) -> u32 {
    let resource = group.resource;
    let agents: Vec<_> = resource
        .agents
        .iter()
        .filter_map(|name| picture.agent(name))
        .collect();
    let details = details(group);
    let lines = 1 + u32::from(!details.is_empty());
    let mut height = 2 * PADDING + lines * LINE;
    height += agents
        .iter()
        .map(|agent| GAP + agent_height(agent))
        .sum::<u32>();
    let palette = match resource.class {
        Class::Computational => COMPUTATIONAL,
        Class::Peripheral => PERIPHERAL,
    };
    let dashes = match resource.persistence {
        Some(Persistence::Persistent) => "",
        Some(Persistence::Ephemeral | Persistence::StopOnly) => "6 4",
        None => "2 3",
    };
    canvas.group(&group.name);
    canvas.rect(
        (left, top, COLUMN, height),
        palette.fill,
        palette.stroke,
        dashes,
    );
    let mut baseline = top + PADDING + LINE - 5;
    canvas.text(left + PADDING, baseline, &group.name, Style::Name);
    if !details.is_empty() {
        baseline += LINE;
        canvas.text(left + PADDING, baseline, &details, Style::Small);
    }
    let mut below = top + PADDING + lines * LINE;
    for agent in agents {
        below = draw_agent(canvas, left + PADDING, below + GAP, agent);
    }
    canvas.end_group();
    top + height
}

/// Returns apps, scripts and dev containers of an agent, one line for each kind.
fn offers(agent: &Agent) -> Vec<String> {
    let apps = agent.apps.iter().map(|app| {
        if app.devcontainer.is_empty() {
            app.display_name.clone()
        } else {
            format!("{} (in {})", app.display_name, app.devcontainer)
        }
    });
    let lists = [
        ("apps", apps.collect::<Vec<_>>()),
        ("scripts", agent.scripts.clone()),
        ("dev containers", agent.devcontainers.clone()),
    ];
    let filled = lists.into_iter().filter(|(_, items)| !items.is_empty());
    filled
        .map(|(name, items)| format!("{name}: {}", items.join(", ")))
        .collect()
}

fn agent_height(agent: &Agent) -> u32 {
    let orders = agent.script_orders.iter().map(order::height);
    let lines = 1 + u32::try_from(offers(agent).len()).unwrap_or_default();
    PADDING + LINE * lines + orders.sum::<u32>()
}

fn draw_agent(canvas: &mut Canvas, left: u32, top: u32, agent: &Agent) -> u32 {
    let (width, height) = (COLUMN - 2 * PADDING, agent_height(agent));
    canvas.rect((left, top, width, height), AGENT.fill, AGENT.stroke, "");
    let mut baseline = top + LINE;
    let platform = agent.platform();
    let separator = if platform.is_empty() { "" } else { " · " };
    let name = format!("agent {}{separator}{platform}", agent.name);
    canvas.text(left + PADDING, baseline, &name, Style::Name);
    for offer in offers(agent) {
        baseline += LINE;
        canvas.text(left + PADDING, baseline, &offer, Style::Small);
    }
    let mut below = baseline + 5;
    for order in &agent.script_orders {
        order::draw(canvas, left + PADDING, below, width - 2 * PADDING, order);
        below += order::height(order);
    }
    top + height
}

fn draw_parameter(canvas: &mut Canvas, left: u32, top: u32, parameter: &Parameter) -> u32 {
    let height = 2 * PADDING + 2 * LINE - 6;
    canvas.group(&parameter.name);
    canvas.rect(
        (left, top, COLUMN, height),
        QUESTION.fill,
        QUESTION.stroke,
        "",
    );
    let baseline = top + PADDING + LINE - 5;
    canvas.text(left + PADDING, baseline, &parameter.name, Style::Name);
    let answer = if parameter.required {
        "required".to_owned()
    } else {
        let default = clipped(&parameter.default_value, 40);
        if default.is_empty() {
            "default \"\"".to_owned()
        } else {
            format!("default {default}")
        }
    };
    let change = if parameter.mutable {
        "mutable"
    } else {
        "fixed"
    };
    let text = format!("{} · {answer} · {change}", parameter.kind);
    canvas.text(left + PADDING, baseline + LINE, &text, Style::Small);
    canvas.end_group();
    top + height
}

fn legend(picture: &Picture) -> Vec<String> {
    let lines = match picture.basis {
        Basis::StartAndStop => "solid: persistent · dashed: ephemeral",
        Basis::Source => {
            "solid: probably persistent · dashed: probably ephemeral · dotted: unknown"
        }
        Basis::Plan | Basis::State => "dotted: unknown whether persistent",
    };
    std::iter::once(lines.to_owned())
        .chain(picture.notes.iter().cloned())
        .collect()
}

/// Lines of whole words, each of at most so many letters if its words allow it.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is always a line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= most {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::example;

    #[test]
    fn everything_is_drawn_and_text_is_escaped() {
        let drawn = svg(&example());

        for text in [
            "docker_container.workspace[&quot;a&quot;]",
            "agent main · linux/amd64",
            "apps: Editor &lt;1&gt;",
            "persistent · 3 a day",
            "size &amp; shape",
            "string · default big · fixed",
            "stroke-dasharray=\"6 4\"",
            "order at start, critical path 2 of 2:",
            "<title>coder_script.install</title>",
            "<path d=\"M",
        ] {
            assert!(drawn.contains(text), "{text} is missing in {drawn}");
        }
    }

    #[test]
    fn notes_are_broken_between_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 3), ["unbreakable"]);
    }

    #[test]
    fn tags_are_balanced() {
        let drawn = svg(&example());

        for tag in ["svg", "g", "text", "title"] {
            let opened = drawn.matches(&format!("<{tag} ")).count()
                + drawn.matches(&format!("<{tag}>")).count();
            assert_eq!(opened, drawn.matches(&format!("</{tag}>")).count(), "{tag}");
            assert!(opened > 0, "{tag}");
        }
    }
}
