//! Configuration of a mirror's clients: a CLI configuration with its environment, and checks of an existing one.
//! Pure: no socket, no file.

use std::{collections::BTreeMap, fmt::Write as _};

use outpost_language::cli_config::{CliConfig, Engine, Installation, Method, MethodKind};
use url::Url;

use super::remote::{Offer, forms};

/// Path of the CLI configuration in snippets.
pub const RC_FILE: &str = "/etc/outpost/terraform.rc";
/// Path of the authorities in snippets.
const CA_FILE: &str = "/etc/outpost/ca.pem";

/// Protocol between engines and a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The mirror stands in for registries: signatures are checked, lock files become complete, plain HTTP is possible. With
    /// https:// it is a network mirror as well, for packages that no publisher signed
    #[value(alias = "R")]
    Registry,
    /// The network mirror protocol, as Coder's documentation has it; modules come as from a registry.
    #[value(alias = "N")]
    Network,
    /// An OCI registry, for OpenTofu 1.10 and newer; modules come as from a registry. Lock files must have digests (`zh`).
    #[value(alias = "O")]
    Oci,
}

/// Configuration for the clients of a mirror.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Address of the mirror, with a slash at its end.
    url: Url,
    mode: Mode,
    /// Registries that the mirror replaces.
    hosts: Vec<String>,
    /// Hosts of git repositories in the mirror.
    repositories: Vec<String>,
    /// Authorities of the mirror's certificate, in PEM.
    authorities: Option<String>,
}

/// Reason why a mirror cannot be used in this mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The text is not the address of a mirror.
    #[error(
        "`{0}` is not a mirror URL: it must begin with https:// or http:// and contain neither credentials nor a query"
    )]
    Url(String),
    /// Engines refuse network mirrors without TLS.
    #[error(
        "engines accept network mirrors over https:// only, and `{0}` is not one: use `--mode registry`, or serve the mirror with TLS"
    )]
    Plain(String),
    /// The address of an OCI registry cannot have a path.
    #[error(
        "an OCI registry must be at the root of an https:// host, and `{0}` is not: use another mode"
    )]
    NoRegistry(String),
}

/// Returns the registries that an engine uses by default, and that of Coder's modules.
pub fn default_hosts(engine: Engine) -> Vec<String> {
    let hosts: &[&str] = match engine {
        Engine::Terraform => &["registry.terraform.io", "registry.coder.com"],
        Engine::OpenTofu => &[
            "registry.opentofu.org",
            "registry.terraform.io",
            "registry.coder.com",
        ],
    };
    hosts.iter().map(|host| (*host).to_owned()).collect()
}

impl Setup {
    /// Checks the address of a mirror and returns its configuration.
    ///
    /// # Errors
    /// [`SetupError`] if the address cannot be used in this mode.
    pub fn new(
        url: &Url,
        mode: Mode,
        hosts: Vec<String>,
        repositories: Vec<String>,
        authorities: Option<String>,
    ) -> Result<Self, SetupError> {
        let mut base = url.clone();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let has_more = url.query().is_some() || url.fragment().is_some();
        let is_anonymous = url.username().is_empty() && url.password().is_none();
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        if !is_web || has_more || !is_anonymous {
            let mut shown = url.clone();
            // These fail only for an address without a host, which has no credentials to hide.
            let _ = (shown.set_username(""), shown.set_password(None));
            return Err(SetupError::Url(shown.into()));
        }
        if mode == Mode::Oci && (url.scheme() != "https" || base.path() != "/") {
            return Err(SetupError::NoRegistry(base.into()));
        }
        if mode == Mode::Network && url.scheme() != "https" {
            return Err(SetupError::Plain(base.into()));
        }
        Ok(Self {
            url: base,
            mode,
            hosts,
            repositories,
            authorities,
        })
    }

    /// Returns whether hosts of git repositories are known.
    pub fn has_repositories(&self) -> bool {
        !self.repositories.is_empty()
    }

    /// Adds contents of a mirror: hosts of git repositories if none are known, and registries if `with_registries`.
    pub fn learn(&mut self, offer: &Offer, with_registries: bool) {
        if self.repositories.is_empty() {
            self.repositories = offer.git_hosts.iter().cloned().collect();
        }
        let known = self.hosts.clone();
        let new = offer.services.keys().filter(|host| !known.contains(host));
        self.hosts.extend(new.filter(|_| with_registries).cloned());
    }

    /// Returns the CLI configuration. Everything in it leads to the mirror.
    pub fn rc(&self) -> String {
        let mut config = CliConfig::default();
        config.set_bool("disable_checkpoint", true);
        let hosts = self.hosts.iter().map(|host| format!("{host}/*/*"));
        let registries = Method::direct(hosts.collect());
        let network = Method::network_mirror(format!("{}mirror/", self.url), Vec::new());
        let methods = match self.mode {
            // An engine asks both for versions, and the registry first for a package.
            Mode::Registry if self.is_encrypted() => vec![registries, network],
            Mode::Registry => vec![registries],
            Mode::Network => vec![network],
            Mode::Oci => vec![Method {
                kind: MethodKind::OciMirror {
                    repository_template: format!(
                        "{}/${{hostname}}/${{namespace}}/${{type}}",
                        self.authority()
                    ),
                },
                include: Vec::new(),
                exclude: Vec::new(),
            }],
        };
        config.set_installation(&Installation { methods });
        for host in &self.hosts {
            // Such a block replaces all services of a host, so it must name all that the mirror has.
            let service = |kind: &str| {
                (
                    format!("{kind}.v1"),
                    format!("{}v1/{kind}/{host}/", self.url),
                )
            };
            config.set_services(host, &BTreeMap::from(["modules", "providers"].map(service)));
        }
        config.to_string()
    }

    fn is_encrypted(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Returns what engines will not get with this configuration, and a remedy, one sentence each.
    pub fn limits(&self) -> Vec<String> {
        match self.mode {
            Mode::Registry if !self.is_encrypted() => vec![format!(
                "packages that no publisher signed (imported, from a network mirror, or of an unsigned namespace) cannot be \
                 installed from {}: registries serve signed packages only, and engines accept network mirrors over https:// only; give `outpost mirror serve` a certificate (`--tls-cert-file`)",
                self.url
            )],
            Mode::Registry | Mode::Network | Mode::Oci => Vec::new(),
        }
    }

    /// Returns the host, with the port if it is not the default one.
    fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Returns environment variables for engines, with the configuration in `rc_file`.
    pub fn variables(&self, rc_file: &str) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut all = vec![
            pair("TF_CLI_CONFIG_FILE", rc_file),
            pair("CHECKPOINT_DISABLE", "1"),
        ];
        if self.authorities.is_some() {
            all.extend(["SSL_CERT_FILE", "GIT_SSL_CAINFO"].map(|name| pair(name, CA_FILE)));
        }
        let of_host = |host: &String| {
            let key = format!("url.{}git/{host}/.insteadOf", self.url);
            forms(host, "")
                .into_iter()
                .map(move |from| (key.clone(), from))
        };
        let rules: Vec<_> = self.repositories.iter().flat_map(of_host).collect();
        if !rules.is_empty() {
            all.push(pair("GIT_CONFIG_COUNT", &rules.len().to_string()));
        }
        for (number, (key, from)) in rules.into_iter().enumerate() {
            all.push((format!("GIT_CONFIG_KEY_{number}"), key));
            all.push((format!("GIT_CONFIG_VALUE_{number}"), from));
        }
        all
    }

    /// Returns lines for a shell.
    pub fn env(&self, rc_file: &str) -> String {
        let line = |(name, value): (String, String)| {
            format!("export {name}='{}'\n", value.replace('\'', r"'\''"))
        };
        self.variables(rc_file).into_iter().map(line).collect()
    }

    /// Returns lines for the Dockerfile of an image with an engine.
    pub fn dockerfile(&self) -> String {
        let file = |text: &str, path: &str| {
            format!(
                "COPY --chmod=0644 <<'END' {path}\n{}\nEND\n",
                text.trim_end()
            )
        };
        let mut lines = file(&self.rc(), RC_FILE);
        if let Some(authorities) = &self.authorities {
            lines += &file(authorities, CA_FILE);
        }
        for (name, value) in self.variables(RC_FILE) {
            // A write to a string does not fail.
            let _ = writeln!(lines, "ENV {name}={}", quoted(&value));
        }
        lines
    }

    /// Returns values for the Helm chart of Coder's provisioner.
    pub fn helm(&self) -> String {
        let mut text =
            "extraTemplates:\n  - apiVersion: v1\n    kind: ConfigMap\n    metadata:\n      \
             name: outpost-mirror\n    data:\n"
                .to_owned();
        let mut file = |name: &str, content: &str| {
            let _ = writeln!(text, "      {name}: |");
            for line in content.trim_end().lines() {
                let _ = writeln!(text, "        {line}");
            }
        };
        file("terraform.rc", &self.rc());
        if let Some(authorities) = &self.authorities {
            file("ca.pem", authorities);
        }
        text += "coder:\n  env:\n";
        for (name, value) in self.variables(RC_FILE) {
            let _ = writeln!(text, "    - name: {name}\n      value: {}", quoted(&value));
        }
        text += "  volumes:\n    - name: outpost-mirror\n      configMap:\n        name: outpost-mirror\n  \
                 volumeMounts:\n    - name: outpost-mirror\n      mountPath: /etc/outpost\n      readOnly: true\n";
        text
    }
}

/// Quotes a text in JSON, which is also valid in YAML and in a Dockerfile.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns problems of a CLI configuration, one sentence each. `is_there` returns whether a directory exists.
pub fn complaints(config: &CliConfig, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let mut all = Vec::new();
    let installation = match config.installation() {
        Ok(installation) => installation.unwrap_or_default(),
        Err(error) => return vec![error.to_string()],
    };
    for method in &installation.methods {
        complain_about(method, &is_there, &mut all);
    }
    let is_free = |method: &&Method| method.include.is_empty() && method.exclude.is_empty();
    let free: Vec<_> = installation.methods.iter().filter(is_free).collect();
    let is_direct = |method: &&&Method| matches!(method.kind, MethodKind::Direct);
    if free.iter().any(|method| is_direct(&method)) && free.len() > 1 {
        all.push(
            "`direct` and a mirror both apply to every provider: the engine takes the newest version from either, and \
             fails if one of them fails; give `direct` an `exclude`"
                .to_owned(),
        );
    }
    for (host, services) in config.services() {
        for (service, url) in &services {
            if !url.ends_with('/') {
                all.push(format!(
                    "`{service}` of `{host}` does not end in a slash: the last part of its path would be dropped"
                ));
            }
        }
        for (service, what) in [("modules.v1", "modules"), ("providers.v1", "providers")] {
            if !services.contains_key(service) {
                all.push(format!(
                    "the block of `{host}` replaces all its services but has no `{service}`: its {what} cannot be found"
                ));
            }
        }
    }
    all
}

fn complain_about(method: &Method, is_there: &impl Fn(&str) -> bool, all: &mut Vec<String>) {
    match &method.kind {
        MethodKind::NetworkMirror { url } => {
            if !url.starts_with("https://") {
                all.push(
                    "a network mirror must begin with https://: engines refuse it otherwise"
                        .to_owned(),
                );
            }
            if !url.ends_with('/') {
                all.push(
                    "the network mirror's address does not end in a slash: its last part would be dropped".to_owned(),
                );
            }
        }
        MethodKind::FilesystemMirror { path } if !is_there(path) => {
            all.push(format!("the filesystem mirror `{path}` is not a directory"));
        }
        MethodKind::FilesystemMirror { .. }
        | MethodKind::Direct
        | MethodKind::OciMirror { .. }
        | MethodKind::DevOverrides { .. } => {}
    }
    for pattern in method.include.iter().chain(&method.exclude) {
        if pattern.split('/').count() != 3 {
            all.push(format!(
                "`{pattern}` has no host, so it means the engine's own registry: write HOST/NAMESPACE/TYPE"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(url: &str, mode: Mode) -> Result<Setup, SetupError> {
        let hosts = default_hosts(Engine::Terraform);
        let git = vec!["github.com".to_owned()];
        let authorities = Some("-----BEGIN CERTIFICATE-----\n".to_owned());
        Setup::new(&url.parse().unwrap(), mode, hosts, git, authorities)
    }

    #[test]
    fn nothing_is_wrong_with_what_we_write() {
        for mode in [Mode::Registry, Mode::Network, Mode::Oci] {
            let base = if mode == Mode::Oci { "" } else { "base/" };
            let rc = setup(&format!("https://mirror.example/{base}"), mode);
            let rc = rc.unwrap().rc();
            let config = CliConfig::parse(&rc).unwrap();

            assert_eq!(complaints(&config, |_| false), [""; 0], "{rc}");
            assert!(
                rc.contains(&format!(
                    "https://mirror.example/{base}v1/modules/registry.coder.com/"
                )),
                "{rc}"
            );
            assert_eq!(rc.contains("direct"), mode == Mode::Registry, "{rc}");
            assert_eq!(rc.contains("/base/mirror/"), mode != Mode::Oci, "{rc}");
        }
    }

    #[test]
    fn an_address_that_engines_would_not_take_is_refused() {
        assert!(setup("http://127.0.0.1:7081", Mode::Registry).is_ok());
        for place in ["http://127.0.0.1:7081", "https://mirror.example/base"] {
            let error = setup(place, Mode::Oci).unwrap_err();
            assert!(matches!(error, SetupError::NoRegistry(_)), "{error}");
        }
        let plain = setup("http://127.0.0.1:7081", Mode::Network).unwrap_err();
        assert!(matches!(plain, SetupError::Plain(_)), "{plain}");
        for bad in [
            "ftp://mirror.example",
            "https://a.example/?x",
            "https://me:s3cret@a.example",
        ] {
            let error = setup(bad, Mode::Registry).unwrap_err();
            assert!(matches!(error, SetupError::Url(_)), "{error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn without_tls_there_is_no_network_mirror_and_that_is_said() {
        let plain = setup("http://127.0.0.1:7081", Mode::Registry).unwrap();
        let encrypted = setup("https://mirror.example", Mode::Registry).unwrap();

        assert!(!plain.rc().contains("network_mirror"), "{}", plain.rc());
        let limits = plain.limits().join("\n");
        assert!(limits.contains("--tls-cert-file"), "{limits}");
        assert!(encrypted.limits().is_empty());
    }

    #[test]
    fn each_form_carries_configuration_variables_and_authorities() {
        let setup = setup("https://mirror.example", Mode::Registry).unwrap();

        let env = setup.env("/home/me/my rc");
        assert!(
            env.contains("export TF_CLI_CONFIG_FILE='/home/me/my rc'\n"),
            "{env}"
        );
        let git =
            "export GIT_CONFIG_KEY_0='url.https://mirror.example/git/github.com/.insteadOf'\n";
        assert!(env.contains(git), "{env}");
        for from in [
            "https://github.com/",
            "http://github.com/",
            "ssh://git@github.com/",
            "ssh://github.com/",
            "git@github.com:",
        ] {
            assert!(env.contains(&format!("='{from}'\n")), "{env}");
        }
        for text in [setup.dockerfile(), setup.helm()] {
            for part in [
                "host \"registry.terraform.io\"",
                "BEGIN CERTIFICATE",
                "SSL_CERT_FILE",
                RC_FILE,
            ] {
                assert!(text.contains(part), "{part} is not in {text}");
            }
        }
        let values = yaml_rust2::YamlLoader::load_from_str(&setup.helm()).unwrap();
        let data = &values[0]["extraTemplates"][0]["data"]["terraform.rc"];
        assert_eq!(data.as_str().unwrap().trim(), setup.rc().trim());
        assert_eq!(values[0]["coder"]["env"][1]["value"].as_str(), Some("1"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = r#"
            provider_installation {
              network_mirror { url = "http://mirror.example/providers" }
              filesystem_mirror { path = "/nowhere", include = ["coder/coder"] }
              direct {}
            }
            host "registry.terraform.io" { services = { "providers.v1" = "https://mirror.example/v1" } }
        "#;
        let complaints = complaints(&CliConfig::parse(text).unwrap(), |_| false);

        for part in [
            "must begin with https://",
            "network mirror's address does not end in a slash",
            "`/nowhere` is not a directory",
            "`coder/coder` has no host",
            "give `direct` an `exclude`",
            "`providers.v1` of `registry.terraform.io` does not end in a slash",
            "has no `modules.v1`: its modules cannot be found",
        ] {
            let found = complaints
                .iter()
                .filter(|complaint| complaint.contains(part));
            assert_eq!(found.count(), 1, "{part}: {complaints:#?}");
        }
        assert_eq!(complaints.len(), 7, "{complaints:#?}");
    }
}
