//! Checks of a configuration against its schema, in the words of HashiCorp's plugin SDK.
//!
//! Terraform itself has checked types, names and required fields. A value that is not wholly known is checked when
//! Terraform validates it again.

use outpost_value::{Object, Path, Step, Value};

use crate::{Diagnostic, Diagnostics, Field, Nesting, Shape};

/// Checks `config` against its schema.
pub(super) fn validate(fields: &[Field], config: &Object) -> Diagnostics {
    let mut checker = Checker {
        root: config,
        found: Diagnostics::none(),
    };
    checker.object(fields, config, &Path::root());
    checker.found
}

/// Returns errors for nulls in lists, sets and other collections, where they are never valid.
pub(super) fn null_elements(config: &Object) -> Diagnostics {
    let mut found = Diagnostics::none();
    for (name, value) in config.iter() {
        find_nulls(value, &Path::from(name), &mut found);
    }
    found
}

fn find_nulls(value: &Value, path: &Path, found: &mut Diagnostics) {
    match value {
        Value::List(elements) | Value::Set(elements) => {
            for (index, element) in elements.iter().enumerate() {
                let place = match value {
                    Value::List(_) => path.index(index),
                    _ => path.clone(),
                };
                if element.is_null() {
                    let error = Diagnostic::error("Null value found in list");
                    found.push(
                        error
                            .detail("Null values are not allowed for this attribute value.")
                            .at(place),
                    );
                } else {
                    find_nulls(element, &place, found);
                }
            }
        }
        Value::Map(elements) => {
            for (key, element) in elements {
                find_nulls(element, &path.key(key), found);
            }
        }
        Value::Object(object) => {
            for (name, element) in object.iter() {
                find_nulls(element, &path.attribute(name), found);
            }
        }
        Value::Null
        | Value::Unknown
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Dynamic(_) => {}
    }
}

struct Checker<'a> {
    root: &'a Object,
    found: Diagnostics,
}

impl Checker<'_> {
    fn object(&mut self, fields: &[Field], object: &Object, path: &Path) {
        for field in fields {
            let path = path.attribute(field.name.clone());
            self.field(field, object.get(&field.name), &path);
        }
    }

    fn field(&mut self, field: &Field, value: &Value, path: &Path) {
        let is_set = match field.shape {
            Shape::Block(_) => !value.is_zero(),
            _ => !value.is_null(),
        };
        if !is_set || !value.is_wholly_known() {
            return;
        }
        if let Some(other) = field.conflicts.iter().find(|other| self.is_set(other)) {
            let detail = format!("{:?}: conflicts with {other}", dotted(path));
            let error = Diagnostic::error("Conflicting configuration arguments");
            return self.found.push(error.detail(detail).at(path.clone()));
        }
        match &field.shape {
            Shape::Block(block) => self.blocks(block.nesting, &block.fields, value, path),
            Shape::Int if value.as_i64().is_none() => {
                let error = format!("Attribute must be a whole number, got {value}");
                self.found.push(Diagnostic::error(error).at(path.clone()));
            }
            _ => self.run_checks(field, value, path),
        }
        if let Some(why) = &field.deprecated {
            let warning = Diagnostic::warning("Argument is deprecated").detail(why.clone());
            self.found.push(warning.at(path.clone()));
        }
    }

    fn blocks(&mut self, nesting: Nesting, fields: &[Field], blocks: &Value, path: &Path) {
        let before = self.found.0.len();
        for (index, block) in blocks.elements().iter().enumerate() {
            if let Some(block) = block.as_object() {
                self.object(fields, block, &path.index(index));
            }
        }
        if nesting == Nesting::Set {
            // Elements of a set have no path that Terraform understands.
            for diagnostic in &mut self.found.0[before..] {
                diagnostic.path = path.clone();
            }
        }
    }

    fn run_checks(&mut self, field: &Field, value: &Value, path: &Path) {
        for check in &field.checks {
            for mut diagnostic in check(value, path) {
                let below = std::mem::take(&mut diagnostic.path);
                diagnostic.path = Path(path.0.iter().cloned().chain(below.0).collect());
                self.found.push(diagnostic);
            }
        }
    }

    /// Returns whether the root has a known value at a path such as `validation.0.min`.
    fn is_set(&self, path: &str) -> bool {
        let mut names = path.split('.');
        let mut value = self.root.get(names.next().unwrap_or_default());
        for name in names {
            value = match name.parse::<usize>() {
                Ok(index) => value.elements().get(index).unwrap_or(&Value::Null),
                Err(_) => value.get(name),
            };
        }
        match value {
            Value::Null | Value::Unknown => false,
            Value::List(blocks) | Value::Set(blocks) => !blocks.is_empty(),
            _ => true,
        }
    }
}

/// Returns a path in the SDK's notation: `metadata.0.key`.
fn dotted(path: &Path) -> String {
    let word = |step: &Step| match step {
        Step::Attribute(name) | Step::Key(name) => name.clone(),
        Step::Index(index) => index.to_string(),
    };
    path.0.iter().map(word).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{list, optional, required, set};

    fn fields() -> Vec<Field> {
        let even = |value: &Value, path: &Path| match value.as_i64() {
            Some(number) if number % 2 == 1 => vec![Diagnostic::error(format!("{path} is odd"))],
            _ => vec![],
        };
        vec![
            optional("a", Shape::String, "").conflicts(["b", "item.0.n"]),
            optional("b", Shape::String, "").deprecated("use a"),
            list("item", "", vec![optional("n", Shape::Int, "").check(even)]),
            set("pool", "", vec![required("n", Shape::Int, "").check(even)]),
        ]
    }

    fn object<const N: usize>(entries: [(&str, Value); N]) -> Object {
        Object::from(entries)
    }

    fn numbers(numbers: &[f64]) -> Vec<Value> {
        let number = |number: &f64| outpost_value::Number::from_f64(*number);
        let block = |n| Value::Object(object([("n", number(n).into())]));
        numbers.iter().map(block).collect()
    }

    fn shown(config: &Object) -> Vec<String> {
        let shown = |one: Diagnostic| format!("{}: {}{}", one.path, one.summary, one.detail);
        validate(&fields(), config).into_iter().map(shown).collect()
    }

    #[test]
    fn arguments_that_exclude_each_other_are_named() {
        let both = object([("a", "x".into()), ("b", "y".into())]);
        let nested = object([("a", "x".into()), ("item", Value::List(numbers(&[2.0])))]);

        assert_eq!(
            shown(&both),
            [
                r#"a: Conflicting configuration arguments"a": conflicts with b"#,
                "b: Argument is deprecateduse a"
            ]
        );
        assert_eq!(
            shown(&nested),
            [r#"a: Conflicting configuration arguments"a": conflicts with item.0.n"#]
        );
        assert_eq!(
            shown(&object([("a", "x".into()), ("b", Value::Unknown)])),
            [""; 0]
        );
    }

    #[test]
    fn checks_name_the_place_and_a_set_stands_for_its_elements() {
        let config = object([
            ("item", Value::List(numbers(&[2.0, 3.0, 1.5]))),
            ("pool", Value::set(numbers(&[5.0]))),
        ]);

        assert_eq!(
            shown(&config),
            [
                "item[1].n: item[1].n is odd",
                "item[2].n: Attribute must be a whole number, got 1.5",
                "pool: pool[0].n is odd"
            ]
        );
    }

    #[test]
    fn what_is_not_known_yet_is_checked_later() {
        let mut items = numbers(&[3.0]);
        items.push(Value::Object(object([("n", Value::Unknown)])));

        assert_eq!(shown(&object([("item", Value::List(items))])), [""; 0]);
    }

    #[test]
    fn a_null_in_a_list_has_a_place() {
        let config = object([("run", Value::List(vec!["x".into(), Value::Null]))]);

        let found = null_elements(&config);

        assert_eq!(found.0[0].path.to_string(), "run[1]");
        assert!(found.has_errors());
    }
}
