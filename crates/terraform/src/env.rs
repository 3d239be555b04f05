//! The environment of an engine: the host's variables except our own, and those that the `coder` provider reads.
//!
//! # Source
//! coder `provisioner/terraform/{provision,safeenv}.go`; unlike there, apply gets everything that plan gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    path::Path,
};

use outpost_base::job::{LogLevel, Metadata, PrebuiltStage};
use outpost_language::cli_config::host_for_comparison;
use outpost_provision::PlanRequest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Variables of the host that would move files to other places, or change the command line.
const HIDDEN: [&str; 2] = ["TF_DATA_DIR", "TF_WORKSPACE"];

/// Variables that begin with `TF_` and whose values may be logged.
const PUBLIC: [&str; 10] = [
    "TF_LOG",
    "TF_LOG_PATH",
    "TF_INPUT",
    "TF_DATA_DIR",
    "TF_WORKSPACE",
    "TF_IN_AUTOMATION",
    "TF_REGISTRY_DISCOVERY_RETRY",
    "TF_REGISTRY_CLIENT_TIMEOUT",
    "TF_CLI_CONFIG_FILE",
    "TF_IGNORE",
];

/// Variables with the authorities that git, curl, Python and Node trust; Go and OpenSSL read `SSL_CERT_FILE`.
const TRUST: [&str; 4] = [
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
];

/// User agent for AWS, with the reference's value, so that AWS counts both as the same.
const AWS_USER_AGENT: (&str, &str) = ("AWS_SDK_UA_APP_ID", "APN_1.1/pc_cdfmjwn8i6u8l9fwz8h82e4w3$");

/// An environment that is being built. Later values replace earlier ones; names are sorted by bytes.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Returns the host's variables for every process of an engine: all but `CODER_*`, the names in `secrets`, and
    /// those that would move files or change the command line.
    pub fn of_host(
        host: impl IntoIterator<Item = (OsString, OsString)>,
        secrets: &[OsString],
    ) -> Self {
        let is_passed = |name: &OsStr| {
            let bytes = name.as_encoded_bytes();
            let is_hidden = HIDDEN.iter().any(|hidden| bytes == hidden.as_bytes());
            !bytes.starts_with(b"CODER_")
                && !bytes.starts_with(b"TF_CLI_ARGS")
                && !is_hidden
                && !secrets.iter().any(|secret| secret == name)
        };
        let mut environment = Self(
            host.into_iter()
                .filter(|(name, _)| is_passed(name))
                .collect(),
        );
        environment.set("CHECKPOINT_DISABLE", "1"); // Prevents update checks, which take time and call home.
        environment.drop_missing_cli_config();
        environment
    }

    /// Sets a variable, and replaces an earlier value.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.0.insert(name.into(), value.into());
    }

    /// Removes a variable, if it is set.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(OsStr::new(name));
    }

    /// Removes the tokens that an engine would send to these hosts, whose names are in the engine's normal form.
    ///
    /// # Source
    /// <https://developer.hashicorp.com/terraform/cli/config/config-file#environment-variable-credentials>
    pub(crate) fn remove_tokens(&mut self, hosts: &BTreeSet<String>) {
        let is_for_one = |name: &OsString| {
            let host = name.to_str().and_then(token_host);
            host.is_some_and(|host| hosts.contains(&host))
        };
        self.0.retain(|name, _| !is_for_one(name));
    }

    /// Makes the engine, its providers, and programs that templates start trust the authorities in the file `bundle`,
    /// which includes the host's. An operator's own setting for a tool is kept.
    pub fn trust(&mut self, bundle: &Path) {
        self.set("SSL_CERT_FILE", bundle);
        for name in TRUST {
            self.0.entry(name.into()).or_insert_with(|| bundle.into());
        }
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Returns all variables, sorted by name.
    pub fn to_vec(&self) -> Vec<(OsString, OsString)> {
        self.0
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// Returns lines for the log about `TF_` variables of the host, without values that may be secret.
    pub(crate) fn terraform_lines(&self) -> Vec<String> {
        let line = |(name, value): (&OsString, &OsString)| {
            let name = name.to_str().filter(|name| name.starts_with("TF_"))?;
            let value = if PUBLIC.contains(&name) {
                value.to_string_lossy()
            } else {
                "<value redacted>".into()
            };
            Some(format!("terraform environment variable: {name}={value}"))
        };
        self.0.iter().filter_map(line).collect()
    }

    /// Adds what the `coder` provider reads: facts about the workspace, parameters and tokens.
    pub(crate) fn add_job(
        &mut self,
        request: &PlanRequest,
        agent_scripts: &BTreeMap<String, String>,
    ) {
        self.add_metadata(&request.metadata);
        for (platform, script) in agent_scripts {
            self.set(format!("CODER_AGENT_SCRIPT_{platform}"), script);
        }
        for parameter in &request.previous_parameters {
            self.set(
                format!("CODER_PARAMETER_PREVIOUS_{}", digest(&parameter.name)),
                &parameter.value,
            );
        }
        for parameter in &request.parameters {
            self.set(
                format!("CODER_PARAMETER_{}", digest(&parameter.name)),
                &parameter.value,
            );
        }
        for auth in &request.external_auth {
            let token = auth.access_token.expose();
            // The name that old versions of the provider read.
            self.set(format!("CODER_GIT_AUTH_ACCESS_TOKEN_{}", auth.id), token);
            self.set(
                format!("CODER_EXTERNAL_AUTH_ACCESS_TOKEN_{}", auth.id),
                token,
            );
        }
    }

    /// Makes the engine log in JSON if a log level is requested.
    pub(crate) fn add_log_level(&mut self, level: Option<LogLevel>) {
        if level.is_some() {
            self.set("TF_LOG", "JSON");
        }
    }

    fn add_metadata(&mut self, metadata: &Metadata) {
        let groups = json!(metadata.owner_groups);
        let roles: Vec<Value> = metadata
            .owner_roles
            .iter()
            .map(|role| role_json(&role.name, &role.organization_id))
            .collect();
        let texts: [(&str, &str); 19] = [
            ("CODER_AGENT_URL", &metadata.coder_url),
            ("CODER_WORKSPACE_TRANSITION", metadata.transition.as_str()),
            ("CODER_WORKSPACE_NAME", &metadata.workspace_name),
            ("CODER_WORKSPACE_OWNER", &metadata.workspace_owner),
            (
                "CODER_WORKSPACE_OWNER_EMAIL",
                &metadata.workspace_owner_email,
            ),
            ("CODER_WORKSPACE_OWNER_NAME", &metadata.workspace_owner_name),
            (
                "CODER_WORKSPACE_OWNER_OIDC_ACCESS_TOKEN",
                metadata.owner_oidc_access_token.expose(),
            ),
            (
                "CODER_WORKSPACE_OWNER_SSH_PUBLIC_KEY",
                &metadata.owner_ssh_public_key,
            ),
            (
                "CODER_WORKSPACE_OWNER_SSH_PRIVATE_KEY",
                metadata.owner_ssh_private_key.expose(),
            ),
            (
                "CODER_WORKSPACE_OWNER_LOGIN_TYPE",
                &metadata.owner_login_type,
            ),
            ("CODER_WORKSPACE_ID", &metadata.workspace_id),
            ("CODER_WORKSPACE_OWNER_ID", &metadata.workspace_owner_id),
            (
                "CODER_WORKSPACE_OWNER_SESSION_TOKEN",
                metadata.owner_session_token.expose(),
            ),
            ("CODER_WORKSPACE_TEMPLATE_ID", &metadata.template_id),
            ("CODER_WORKSPACE_TEMPLATE_NAME", &metadata.template_name),
            (
                "CODER_WORKSPACE_TEMPLATE_VERSION",
                &metadata.template_version,
            ),
            ("CODER_WORKSPACE_BUILD_ID", &metadata.build_id),
            ("CODER_TASK_ID", &metadata.task_id),
            ("CODER_TASK_PROMPT", &metadata.task_prompt),
        ];
        for (name, value) in texts {
            self.set(name, value);
        }
        // An empty list is `null`, as in the reference.
        let list = |list: Value, is_empty: bool| {
            if is_empty {
                "null".to_owned()
            } else {
                list.to_string()
            }
        };
        self.set(
            "CODER_WORKSPACE_OWNER_GROUPS",
            list(groups, metadata.owner_groups.is_empty()),
        );
        self.set(
            "CODER_WORKSPACE_OWNER_RBAC_ROLES",
            list(json!(roles), roles.is_empty()),
        );
        self.add_aws_user_agent();
        match metadata.prebuilt_stage {
            PrebuiltStage::None => {}
            PrebuiltStage::Create => self.set("CODER_WORKSPACE_IS_PREBUILD", "true"),
            PrebuiltStage::Claim => self.set("CODER_WORKSPACE_IS_PREBUILD_CLAIM", "true"),
        }
        let tokens = &metadata.running_agent_tokens;
        for token in tokens {
            // The token of a single agent has no agent id in its name, as in the reference.
            let key = if tokens.len() == 1 {
                ""
            } else {
                &token.agent_id
            };
            self.set(
                format!("CODER_RUNNING_WORKSPACE_AGENT_TOKEN_{}", digest(key)),
                token.token.expose(),
            );
        }
    }

    fn add_aws_user_agent(&mut self) {
        let (name, ours) = AWS_USER_AGENT;
        let value = match self.get(name).filter(|value| !value.is_empty()) {
            Some(theirs) => format!("{} {ours}", theirs.to_string_lossy()),
            None => ours.to_owned(),
        };
        self.set(name, value);
    }

    /// Removes the name of a CLI configuration that does not exist, because engines refuse to start with one.
    fn drop_missing_cli_config(&mut self) {
        let is_missing = self
            .get("TF_CLI_CONFIG_FILE")
            .is_some_and(|path| !Path::new(path).exists());
        if is_missing {
            self.0.remove(OsStr::new("TF_CLI_CONFIG_FILE"));
        }
    }
}

fn role_json(name: &str, organization: &str) -> Value {
    let mut role = serde_json::Map::new();
    for (key, value) in [("name", name), ("org_id", organization)] {
        if !value.is_empty() {
            role.insert(key.to_owned(), value.into());
        }
    }
    Value::Object(role)
}

/// Returns a hash in place of a parameter's name, which may contain characters that names of variables cannot.
fn digest(name: &str) -> String {
    hex::encode(Sha256::digest(name))
}

/// Returns the host that a variable has a token for, in the engine's normal form; `None` if it is not such a
/// variable.
fn token_host(name: &str) -> Option<String> {
    let host = name.strip_prefix("TF_TOKEN_")?;
    // In most shells names of variables cannot contain dashes or dots.
    host_for_comparison(&host.replace("__", "-").replace('_', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_replaced_hosts_go_however_their_variables_are_written() {
        let names = [
            "TF_TOKEN_registry_example",
            "TF_TOKEN_Registry.Example",
            "TF_TOKEN_my__registry_example",
            "TF_TOKEN_xn--bcher-kva_example",
            "TF_TOKEN_other_example",
            "TF_TOKEN_",
        ];
        let host = names.map(|name| (name.into(), "hunter2".into()));
        let mut environment = Environment::of_host(host, &[]);
        let replaced = [
            "registry.example",
            "my-registry.example",
            "xn--bcher-kva.example",
        ];

        environment.remove_tokens(&replaced.map(str::to_owned).into());

        let left = environment.to_vec().into_iter().map(|(name, _)| name);
        let left: Vec<_> = left.filter(|name| name != "CHECKPOINT_DISABLE").collect();
        assert_eq!(left, ["TF_TOKEN_", "TF_TOKEN_other_example"]);
    }
    use outpost_base::job::{ExternalAuth, ParameterValue, Role, RunningAgentToken};

    fn host(pairs: &[(&str, &str)]) -> Environment {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Environment::of_host(pairs, &["MY_PSK".into()])
    }

    fn names(environment: &Environment) -> Vec<String> {
        environment
            .to_vec()
            .into_iter()
            .map(|(name, _)| name.into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_host_passes_everything_but_ours() {
        let environment = host(&[
            ("PATH", "/bin"),
            ("CODER_SECRET", "x"),
            ("MY_PSK", "x"),
            ("TF_DATA_DIR", "/x"),
            ("TF_WORKSPACE", "x"),
            ("TF_CLI_ARGS", "-x"),
            ("TF_CLI_ARGS_plan", "-x"),
            ("TF_CLI_CONFIG_FILE", "/no/such/file"),
            ("TF_LOG", "TRACE"),
            ("AWS_PROFILE", "x"),
        ]);

        assert_eq!(
            names(&environment),
            ["AWS_PROFILE", "CHECKPOINT_DISABLE", "PATH", "TF_LOG"]
        );
    }

    #[test]
    fn every_tool_trusts_the_bundle_but_one_for_which_the_operator_chose() {
        let mut environment = host(&[("SSL_CERT_FILE", "/old"), ("CURL_CA_BUNDLE", "/curl")]);

        environment.trust(Path::new("/bundle"));

        let get = |name: &str| environment.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(get("SSL_CERT_FILE"), "/bundle");
        assert_eq!(get("GIT_SSL_CAINFO"), "/bundle");
        assert_eq!(get("CURL_CA_BUNDLE"), "/curl");
    }

    #[test]
    fn terraform_variables_are_said_without_their_secrets() {
        let environment = host(&[
            ("TF_LOG", "TRACE"),
            ("TF_TOKEN_example_com", "hunter2"),
            ("HOME", "/root"),
        ]);

        let expected = [
            "terraform environment variable: TF_LOG=TRACE",
            "terraform environment variable: TF_TOKEN_example_com=<value redacted>",
        ];
        assert_eq!(environment.terraform_lines(), expected);
    }

    #[test]
    fn a_job_sets_what_the_provider_reads() {
        let metadata = Metadata {
            owner_roles: vec![Role {
                name: "member".to_owned(),
                organization_id: String::new(),
            }],
            running_agent_tokens: vec![RunningAgentToken {
                agent_id: "a".to_owned(),
                token: "t".to_owned().into(),
            }],
            prebuilt_stage: PrebuiltStage::Claim,
            ..Metadata::default()
        };
        let request = PlanRequest {
            metadata,
            parameters: vec![ParameterValue {
                name: "region".to_owned(),
                value: "eu".to_owned(),
            }],
            external_auth: vec![ExternalAuth {
                id: "github".to_owned(),
                access_token: "tok".to_owned().into(),
            }],
            ..PlanRequest::default()
        };
        let mut environment = host(&[("AWS_SDK_UA_APP_ID", "mine")]);
        environment.add_job(
            &request,
            &[("linux_amd64".to_owned(), "#!/bin/sh".to_owned())].into(),
        );

        let get = |name: &str| environment.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(get("CODER_WORKSPACE_OWNER_GROUPS"), "null");
        assert_eq!(
            get("CODER_WORKSPACE_OWNER_RBAC_ROLES"),
            r#"[{"name":"member"}]"#
        );
        assert_eq!(get("CODER_WORKSPACE_TRANSITION"), "start");
        assert_eq!(get(&format!("CODER_PARAMETER_{}", digest("region"))), "eu");
        assert_eq!(get("CODER_EXTERNAL_AUTH_ACCESS_TOKEN_github"), "tok");
        assert_eq!(get("CODER_AGENT_SCRIPT_linux_amd64"), "#!/bin/sh");
        assert_eq!(
            get("AWS_SDK_UA_APP_ID"),
            "mine APN_1.1/pc_cdfmjwn8i6u8l9fwz8h82e4w3$"
        );
        assert_eq!(get("CODER_WORKSPACE_IS_PREBUILD_CLAIM"), "true");
        let lone = "CODER_RUNNING_WORKSPACE_AGENT_TOKEN_\
                    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(get(lone), "t");
    }
}
