//! Where in a resource a value is.

use std::fmt;

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into an attribute or block of an object.
    Attribute(String),
    /// Into the element of a map.
    Key(String),
    /// Into the element of a list, from zero on.
    Index(usize),
}

/// The way from the root of a resource to a value. Elements of a set have no path: it ends at the set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The resource itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// An attribute of what this leads to.
    pub fn attribute(&self, name: impl Into<String>) -> Self {
        self.then(Step::Attribute(name.into()))
    }

    /// The element `key` of the map that this leads to.
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.then(Step::Key(key.into()))
    }

    /// The element `index` of the list that this leads to.
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
    /// An attribute of the root.
    fn from(attribute: &str) -> Self {
        Self::root().attribute(attribute)
    }
}

/// As an author would write it: `metadata[0].key`, `env["A"]`.
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
