//! The order of an agent's scripts: a line for each script, further to the right the more must run before it, and an
//! edge from each to what waits for it.

use outpost_base::job::ScriptRequirement;

use super::{AGENT, LINE, PADDING, canvas::Canvas, canvas::Style};
use crate::picture::ScriptOrder;

/// Scripts that are drawn; of a longer order the rest is only counted.
const MAX_SCRIPTS: usize = 40;
/// Distance of a script to the right of what it waits for.
const STEP: u32 = 16;
/// Steps beyond this would leave no room for names.
const MAX_STEPS: u32 = 10;
const ROW: u32 = 22;
const ROW_GAP: u32 = 4;
const CRITICAL: &str = "#c05621";

/// The height of an order, with its heading.
pub(super) fn height(order: &ScriptOrder) -> u32 {
    let rows = u32::try_from(order.scripts.len().min(MAX_SCRIPTS)).unwrap_or_default();
    let rest = u32::from(order.scripts.len() > MAX_SCRIPTS);
    LINE * (1 + rest) + rows * (ROW + ROW_GAP) + PADDING / 2
}

/// Draws an order below `top`.
pub(super) fn draw(canvas: &mut Canvas, left: u32, top: u32, width: u32, order: &ScriptOrder) {
    canvas.text(left, top + LINE - 5, &heading(order), Style::Small);
    let shown = &order.scripts[..order.scripts.len().min(MAX_SCRIPTS)];
    let top = top + LINE;
    let place = |row: usize| {
        let steps = u32::try_from(shown[row].depth.saturating_sub(1)).unwrap_or(MAX_STEPS);
        let row = u32::try_from(row).unwrap_or_default();
        let x = left + steps.min(MAX_STEPS) * STEP;
        (x, top + row * (ROW + ROW_GAP))
    };
    for (row, script) in shown.iter().enumerate() {
        for before in &script.after {
            let Some(from) = shown.iter().position(|it| it.address == before.address) else {
                continue;
            };
            let ((x, y), (to_x, to_y)) = (place(from), place(row));
            let line = format!("M{} {}V{}H{}", x + STEP / 2, y + ROW, to_y + ROW / 2, to_x);
            let is_critical = order.is_critical(&before.address, &script.address);
            let (stroke, weight) = match is_critical {
                true => (CRITICAL, 2),
                false => (AGENT.stroke, 1),
            };
            let dashes = match before.requires {
                ScriptRequirement::Completion => "4 3",
                ScriptRequirement::Success | ScriptRequirement::Unspecified => "",
            };
            canvas.path(&line, stroke, weight, dashes);
        }
    }
    // Boxes lie above the edges that pass behind them.
    for (row, script) in shown.iter().enumerate() {
        let (x, y) = place(row);
        let stroke = match order.critical_path.contains(&script.address) {
            true => CRITICAL,
            false => AGENT.stroke,
        };
        canvas.group(&script.address);
        canvas.rect((x, y, left + width - x, ROW), AGENT.fill, stroke, "");
        canvas.text(x + PADDING / 2, y + ROW - 7, &script.name, Style::Small);
        canvas.end_group();
    }
    let rest = order.scripts.len() - shown.len();
    if rest > 0 {
        let below = top + u32::try_from(shown.len()).unwrap_or_default() * (ROW + ROW_GAP);
        canvas.text(
            left,
            below + LINE - 5,
            &format!("and {rest} more"),
            Style::Small,
        );
    }
}

fn heading(order: &ScriptOrder) -> String {
    let inside = match order.devcontainer.as_str() {
        "" => String::new(),
        container => format!(" in {container}"),
    };
    let phase = order.phase.as_str();
    let (longest, all) = (order.critical_path.len(), order.scripts.len());
    format!("order at {phase}{inside}, critical path {longest} of {all}:")
}
