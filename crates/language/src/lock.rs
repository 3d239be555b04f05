//! The file `.terraform.lock.hcl`: selected versions of providers, and their checksums.

use std::{collections::BTreeMap, fmt};

use hcl_edit::{
    expr::Expression,
    structure::{Block, Body},
};
use outpost_base::registry::{AddrError, Hash, HashError, ProviderAddr};
use semver::Version;

use super::quote;

/// Name of the file, in the root of the template.
pub const FILE_NAME: &str = ".terraform.lock.hcl";

/// The first lines of the file, as Terraform writes them.
const HEADER: &str = "# This file is maintained automatically by \"terraform init\".\n\
                      # Manual edits may be lost in future updates.\n";

/// The content of a lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Locked providers by address.
    pub providers: BTreeMap<ProviderAddr, LockedProvider>,
}

/// A provider's version that must be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedProvider {
    /// Version of the provider.
    pub version: Version,
    /// Constraints at the time of the selection, as written; empty for none. Terraform does not read them.
    pub constraints: String,
    /// Checksums, one of which the package must have. Empty to accept any package.
    pub hashes: Vec<Hash>,
}

impl Lock {
    /// Parses a lock file.
    ///
    /// # Errors
    /// [`LockError`] names the entry that is not valid.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let body: Body = hcl_edit::parser::parse_body(text).map_err(|error| LockError::Syntax {
            line: error.location().line(),
            message: error.message().to_owned(),
        })?;
        let mut lock = Self::default();
        for block in body.get_blocks("provider") {
            let (addr, provider) = parse_provider(block)?;
            if lock.providers.insert(addr.clone(), provider).is_some() {
                return Err(LockError::Repeated { addr });
            }
        }
        Ok(lock)
    }
}

fn parse_provider(block: &Block) -> Result<(ProviderAddr, LockedProvider), LockError> {
    let label = block.labels.first().map_or("", |label| label.as_str());
    let addr: ProviderAddr = label.parse()?;
    let invalid = |what| LockError::Invalid {
        addr: addr.clone(),
        what,
    };
    let attribute = |name| {
        block
            .body
            .get_attribute(name)
            .map(|attribute| &attribute.value)
    };
    let text = |name| attribute(name).and_then(Expression::as_str);
    let version = text("version").and_then(|version| version.parse().ok());
    let hashes = match attribute("hashes") {
        None => Vec::new(),
        Some(Expression::Array(items)) => items
            .iter()
            .map(|item| Ok(item.as_str().ok_or_else(|| invalid("hashes"))?.parse()?))
            .collect::<Result<_, LockError>>()?,
        Some(_) => return Err(invalid("hashes")),
    };
    let provider = LockedProvider {
        version: version.ok_or_else(|| invalid("version"))?,
        constraints: text("constraints").unwrap_or_default().to_owned(),
        hashes,
    };
    Ok((addr, provider))
}

impl fmt::Display for Lock {
    /// Writes the file exactly as Terraform does: entries and hashes are sorted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        for (addr, provider) in &self.providers {
            writeln!(f, "\nprovider {} {{", quote::quote(&addr.to_string()))?;
            provider.fmt(f)?;
            f.write_str("}\n")?;
        }
        Ok(())
    }
}

impl fmt::Display for LockedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = quote::quote(&self.version.to_string());
        if self.constraints.is_empty() {
            writeln!(f, "  version = {version}")?;
        } else {
            writeln!(f, "  version     = {version}")?;
            writeln!(f, "  constraints = {}", quote::quote(&self.constraints))?;
        }
        if self.hashes.is_empty() {
            return Ok(());
        }
        let mut hashes = self.hashes.clone();
        hashes.sort();
        hashes.dedup();
        f.write_str("  hashes = [\n")?;
        for hash in hashes {
            writeln!(f, "    {},", quote::quote(&hash.to_string()))?;
        }
        f.write_str("  ]\n")
    }
}

/// Reason why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The text is not valid in Terraform's language.
    #[error("invalid syntax in {FILE_NAME} line {line}: {message}")]
    Syntax {
        /// Number of the line, counted from 1.
        line: usize,
        /// Error from the parser.
        message: String,
    },
    /// The address of an entry is not valid.
    #[error("invalid entry in {FILE_NAME}")]
    Addr(#[from] AddrError),
    /// A checksum of an entry is not valid.
    #[error("invalid checksum in {FILE_NAME}")]
    Hash(#[from] HashError),
    /// A part of an entry is missing or not valid.
    #[error("invalid {what} of {addr} in {FILE_NAME}")]
    Invalid {
        /// Address of the entry.
        addr: ProviderAddr,
        /// Name of the part.
        what: &'static str,
    },
    /// A provider has two entries.
    #[error("{addr} appears twice in {FILE_NAME}")]
    Repeated {
        /// Address of the provider.
        addr: ProviderAddr,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Written by Terraform 1.11.4 from a filesystem mirror.
    const WRITTEN: &str = r#"# This file is maintained automatically by "terraform init".
# Manual edits may be lost in future updates.

provider "registry.terraform.io/coder/coder" {
  version     = "2.1.0"
  constraints = ">= 1.0.0, ~> 2.1"
  hashes = [
    "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
  ]
}

provider "registry.terraform.io/hashicorp/null" {
  version = "3.2.4"
}
"#;

    #[test]
    fn a_file_of_terraform_is_written_as_it_was_read() {
        let lock = Lock::parse(WRITTEN).unwrap();

        let coder = &lock.providers[&"coder/coder".parse().unwrap()];
        assert_eq!(coder.version, Version::new(2, 1, 0));
        assert_eq!(coder.hashes.len(), 1);
        assert_eq!(lock.to_string(), WRITTEN);
    }

    #[test]
    fn an_empty_file_locks_nothing() {
        assert_eq!(Lock::parse("").unwrap(), Lock::default());
        assert_eq!(Lock::default().to_string(), HEADER);
    }

    #[test]
    fn hashes_are_sorted_and_unknown_schemes_are_kept() {
        let text = "provider \"coder/coder\" {\n  version = \"2.1.0\"\n  hashes = [\"zz:b\", \"aa:c\", \"zz:b\"]\n}\n";

        let written = Lock::parse(text).unwrap().to_string();

        assert!(
            written.contains("  hashes = [\n    \"aa:c\",\n    \"zz:b\",\n  ]\n"),
            "{written}"
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let entry = |body: &str| format!("provider \"coder/coder\" {{\n{body}\n}}\n");
        let twice = entry("version = \"1.0.0\"").repeat(2);
        let cases = [
            ("provider {", "invalid syntax in .terraform.lock.hcl line 1"),
            ("provider \"a/b/c/d\" {\n}\n", "invalid entry"),
            (
                &entry(""),
                "invalid version of registry.terraform.io/coder/coder",
            ),
            (&entry("version = \"1.x\""), "invalid version"),
            (
                &entry("version = \"1.0.0\"\nhashes = [1]"),
                "invalid hashes",
            ),
            (
                &entry("version = \"1.0.0\"\nhashes = [\"h1:x\"]"),
                "invalid checksum",
            ),
            (&twice, "registry.terraform.io/coder/coder appears twice"),
        ];
        for (text, expected) in cases {
            let error = Lock::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_survives_a_round_trip(text in "\\PC{0,80}|(provider \"[a-z/]{1,9}\" \\{\n version = \"[0-9.]{1,6}\"\n\\}\n){0,2}") {
            if let Ok(lock) = Lock::parse(&text) {
                prop_assert_eq!(Lock::parse(&lock.to_string()).unwrap(), lock);
            }
        }
    }
}
