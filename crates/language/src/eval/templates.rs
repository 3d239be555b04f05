//! Strings with `${…}` and `%{…}` inside.

use hcl_edit::{
    template::Strip,
    template::{Directive, Element, ForDirective, IfDirective, Template},
};
use serde_json::Value;

use super::{EvalError, Evaluated, Scope, entries, operators, text};

/// Evaluates a template. If it consists of one interpolation only, it has the interpolation's value and type.
pub(super) fn evaluate(template: &Template, scope: &Scope<'_>) -> Evaluated {
    if let Some(Element::Interpolation(only)) = template.as_single_element() {
        return super::evaluate(&only.expr, scope);
    }
    let mut out = String::new();
    render(template, false, false, scope, &mut out)?;
    Ok(Value::String(out))
}

/// Renders elements; `trim_start` and `trim_end` tell whether a `~` around them removes white space.
fn render(
    template: &Template,
    trim_start: bool,
    trim_end: bool,
    scope: &Scope<'_>,
    out: &mut String,
) -> Result<(), EvalError> {
    let elements: Vec<&Element> = template.iter().collect();
    for (index, element) in elements.iter().enumerate() {
        match element {
            Element::Literal(literal) => {
                let before = index.checked_sub(1).map(|at| elements[at]);
                let after = elements.get(index + 1);
                let mut literal = literal.value().as_str();
                if before.map_or(trim_start, strips_after) {
                    literal = literal.trim_start();
                }
                if after.map_or(trim_end, |element| strips_before(element)) {
                    literal = literal.trim_end();
                }
                out.push_str(literal);
            }
            Element::Interpolation(interpolation) => {
                let value = super::evaluate(&interpolation.expr, scope)?;
                out.push_str(&text(&value).ok_or_else(not_text)?);
            }
            Element::Directive(directive) => match directive.as_ref() {
                Directive::If(choice) => render_if(choice, scope, out)?,
                Directive::For(each) => render_for(each, scope, out)?,
            },
        }
        scope.spend(1 + out.len() as u64 / 64)?;
    }
    Ok(())
}

fn not_text() -> EvalError {
    let detail = "Cannot include the given value in a string template: string required.";
    EvalError::new("Invalid template interpolation value", detail)
}

fn render_if(choice: &IfDirective, scope: &Scope<'_>, out: &mut String) -> Result<(), EvalError> {
    let condition = super::evaluate(&choice.if_expr.cond_expr, scope)?;
    let end = choice.endif_expr.strip;
    match (operators::to_bool(&condition)?, &choice.else_expr) {
        (true, other) => {
            let next = other.as_ref().map_or(end, |other| other.strip);
            let start = choice.if_expr.strip.strip_end();
            render(
                &choice.if_expr.template,
                start,
                next.strip_start(),
                scope,
                out,
            )
        }
        (false, Some(other)) => render(
            &other.template,
            other.strip.strip_end(),
            end.strip_start(),
            scope,
            out,
        ),
        (false, None) => Ok(()),
    }
}

fn render_for(each: &ForDirective, scope: &Scope<'_>, out: &mut String) -> Result<(), EvalError> {
    let intro = &each.for_expr;
    let key_name = intro.key_var.as_ref().map(|name| name.as_str());
    let (start, end) = (
        intro.strip.strip_end(),
        each.endfor_expr.strip.strip_start(),
    );
    for (key, value) in entries(super::evaluate(&intro.collection_expr, scope)?)? {
        let inner = scope.bind(
            key_name.map(|name| (name, key)),
            (intro.value_var.as_str(), value),
        );
        render(&intro.template, start, end, &inner, out)?;
    }
    Ok(())
}

/// Returns whether an element begins with a `~`.
fn strips_before(element: &Element) -> bool {
    outer_strips(element).0.strip_start()
}

/// Returns whether an element ends with a `~`.
fn strips_after(element: &Element) -> bool {
    outer_strips(element).1.strip_end()
}

fn outer_strips(element: &Element) -> (Strip, Strip) {
    match element {
        Element::Literal(_) => (Strip::None, Strip::None),
        Element::Interpolation(interpolation) => (interpolation.strip, interpolation.strip),
        Element::Directive(directive) => match directive.as_ref() {
            Directive::If(choice) => (choice.if_expr.strip, choice.endif_expr.strip),
            Directive::For(each) => (each.for_expr.strip, each.endfor_expr.strip),
        },
    }
}
