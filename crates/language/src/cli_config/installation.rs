//! The block `provider_installation`: installation methods of providers.

use super::{CliConfigError, Entry, Node};

/// Installation methods, in the order in which they are written. An engine asks all that apply and uses the newest
/// version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installation {
    /// All methods in their order.
    pub methods: Vec<Method>,
}

/// An installation method: a source of providers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Kind and location of the source.
    pub kind: MethodKind,
    /// Patterns of addresses that it applies to, such as `registry.terraform.io/coder/*`; empty for all.
    pub include: Vec<String>,
    /// Patterns of addresses that it does not apply to.
    pub exclude: Vec<String>,
}

/// The kinds of installation methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// The registry of each provider.
    Direct,
    /// A directory on this machine.
    FilesystemMirror {
        /// Path of the directory.
        path: String,
    },
    /// A server of the provider network mirror protocol.
    NetworkMirror {
        /// URL of the server, which ends in a slash.
        url: String,
    },
    /// An OCI registry, which only OpenTofu supports.
    OciMirror {
        /// Repository, with symbols such as `${namespace}`.
        repository_template: String,
    },
    /// Executables for single addresses, which are used without installation. Must come first.
    DevOverrides {
        /// Addresses with their directories.
        paths: Vec<(String, String)>,
    },
}

impl Method {
    /// Returns a filesystem mirror that applies to these addresses only.
    pub fn filesystem_mirror(path: &str, include: Vec<String>) -> Self {
        Self {
            kind: MethodKind::FilesystemMirror {
                path: path.to_owned(),
            },
            include,
            exclude: Vec::new(),
        }
    }

    /// Returns a network mirror that applies to these addresses only. Its URL ends in a slash.
    pub fn network_mirror(url: String, include: Vec<String>) -> Self {
        Self {
            kind: MethodKind::NetworkMirror { url },
            include,
            exclude: Vec::new(),
        }
    }

    /// Returns the registries, which apply to these addresses only.
    pub fn direct(include: Vec<String>) -> Self {
        Self {
            kind: MethodKind::Direct,
            include,
            exclude: Vec::new(),
        }
    }

    /// Returns the registries, which apply to all but these addresses.
    pub fn direct_except(exclude: Vec<String>) -> Self {
        Self {
            kind: MethodKind::Direct,
            include: Vec::new(),
            exclude,
        }
    }
}

impl Installation {
    /// Puts a method first, and excludes its addresses from all others. This is necessary because an engine asks all
    /// methods that apply, and fails if one fails.
    pub fn prefer(&mut self, method: Method) {
        for other in &mut self.methods {
            if !matches!(other.kind, MethodKind::DevOverrides { .. }) {
                other.exclude.extend(method.include.iter().cloned());
            }
        }
        let is_override = |method: &Method| matches!(method.kind, MethodKind::DevOverrides { .. });
        let first = self.methods.iter().position(|method| !is_override(method));
        self.methods
            .insert(first.unwrap_or(self.methods.len()), method);
    }

    pub(super) fn read(node: &Node) -> Result<Self, CliConfigError> {
        let Node::Block(entries) = node else {
            return Err(invalid("it must be a block"));
        };
        let methods = entries.iter().map(read_method);
        Ok(Self {
            methods: methods.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn write(&self) -> Entry {
        block(
            "provider_installation",
            self.methods.iter().map(write_method).collect(),
        )
    }
}

fn invalid(reason: impl Into<String>) -> CliConfigError {
    CliConfigError::Installation(reason.into())
}

fn read_method(entry: &Entry) -> Result<Method, CliConfigError> {
    let name = entry.keys[0].as_str();
    let Node::Block(entries) = &entry.value else {
        return Err(invalid(format!("{name} must be a block")));
    };
    let text = |wanted: &str| {
        let found = entries.iter().find(|entry| entry.keys[0] == wanted);
        let text = found.and_then(|entry| entry.value.as_text());
        text.map(str::to_owned)
            .ok_or_else(|| invalid(format!("{name} needs {wanted}")))
    };
    let kind = match name {
        "direct" => MethodKind::Direct,
        "filesystem_mirror" => MethodKind::FilesystemMirror {
            path: text("path")?,
        },
        "network_mirror" => MethodKind::NetworkMirror { url: text("url")? },
        "oci_mirror" => MethodKind::OciMirror {
            repository_template: text("repository_template")?,
        },
        "dev_overrides" => {
            return Ok(Method {
                kind: MethodKind::DevOverrides {
                    paths: entries
                        .iter()
                        .map(read_override)
                        .collect::<Result<_, _>>()?,
                },
                include: Vec::new(),
                exclude: Vec::new(),
            });
        }
        other => return Err(invalid(format!("unknown method {other:?}"))),
    };
    Ok(Method {
        kind,
        include: patterns(entries, "include")?,
        exclude: patterns(entries, "exclude")?,
    })
}

fn read_override(entry: &Entry) -> Result<(String, String), CliConfigError> {
    match entry.value.as_text() {
        Some(path) => Ok((entry.keys[0].clone(), path.to_owned())),
        None => Err(invalid("dev_overrides maps addresses to directories")),
    }
}

fn patterns(entries: &[Entry], name: &str) -> Result<Vec<String>, CliConfigError> {
    let Some(entry) = entries.iter().find(|entry| entry.keys[0] == name) else {
        return Ok(Vec::new());
    };
    let wrong = || invalid(format!("{name} must be a list of addresses"));
    let Node::List(items) = &entry.value else {
        return Err(wrong());
    };
    let texts = items.iter().map(|item| item.as_text().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(wrong)
}

fn block(name: &str, entries: Vec<Entry>) -> Entry {
    Entry {
        keys: vec![name.to_owned()],
        is_assigned: false,
        value: Node::Block(entries),
    }
}

fn argument(name: &str, value: Node) -> Entry {
    Entry {
        keys: vec![name.to_owned()],
        is_assigned: true,
        value,
    }
}

fn write_method(method: &Method) -> Entry {
    let text = |name: &str, value: &str| argument(name, Node::Text(value.to_owned()));
    let (name, mut entries) = match &method.kind {
        MethodKind::Direct => ("direct", Vec::new()),
        MethodKind::FilesystemMirror { path } => ("filesystem_mirror", vec![text("path", path)]),
        MethodKind::NetworkMirror { url } => ("network_mirror", vec![text("url", url)]),
        MethodKind::OciMirror {
            repository_template,
        } => (
            "oci_mirror",
            vec![text("repository_template", repository_template)],
        ),
        MethodKind::DevOverrides { paths } => {
            let paths = paths.iter().map(|(addr, path)| text(addr, path));
            ("dev_overrides", paths.collect())
        }
    };
    for (name, patterns) in [("include", &method.include), ("exclude", &method.exclude)] {
        if !patterns.is_empty() {
            let list = patterns.iter().cloned().map(Node::Text).collect();
            entries.push(argument(name, Node::List(list)));
        }
    }
    block(name, entries)
}
