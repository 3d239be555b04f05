//! The path of a value in a resource.

use std::fmt;

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Name of an attribute or block of an object.
    Attribute(String),
    /// Key of an element of a map.
    Key(String),
    /// Index of an element of a list, counted from 0.
    Index(usize),
}

/// The path from a resource to a value in it. Elements of a set have no path: it ends at the set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// Returns the path of the resource itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Returns the path of an attribute below this one.
    pub fn attribute(&self, name: impl Into<String>) -> Self {
        self.then(Step::Attribute(name.into()))
    }

    /// Returns the path of the element `key` of a map.
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.then(Step::Key(key.into()))
    }

    /// Returns the path of the element `index` of a list.
    pub fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl From<&str> for Path {
    /// Returns the path of an attribute of the resource.
    fn from(attribute: &str) -> Self {
        Self::root().attribute(attribute)
    }
}

/// Writes the path in an author's notation: `metadata[0].key`, `env["A"]`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Attribute(name) if position == 0 => f.write_str(name)?,
                Step::Attribute(name) => write!(f, ".{name}")?,
                Step::Key(key) => write!(f, "[{key:?}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_a_reference() {
        let path = Path::from("a").index(0).attribute("b").key("c\"d");

        assert_eq!(path.to_string(), r#"a[0].b["c\"d"]"#);
        assert_eq!(Path::root().to_string(), "");
    }
}
