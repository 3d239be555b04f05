//! The provider's context: the environment of its process and its configuration.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::go::{Url, parse_url};

/// URL of the server if neither the template nor the environment has one.
const DEFAULT_URL: &str = "https://mydeployment.coder.com";

/// Source of the values of resources and data sources.
#[derive(Clone, Debug)]
pub struct Context {
    environment: BTreeMap<String, String>,
    /// URL of the server as given, and its parts.
    pub(super) url: (String, Url),
}

impl Context {
    /// Reads the configuration: `url` is the URL in the template's `provider` block.
    ///
    /// # Errors
    /// If the URL is empty or not valid.
    pub(super) fn new(
        environment: BTreeMap<String, String>,
        url: Option<&str>,
    ) -> Result<Self, String> {
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let url = match (url, set("CODER_AGENT_URL")) {
            (Some(url), _) => url.to_owned(),
            (None, Some(url)) => url.clone(),
            (None, None) => DEFAULT_URL.to_owned(),
        };
        if url.is_empty() {
            return Err(format!("CODER_AGENT_URL must not be empty; got {url:?}"));
        }
        let parsed = parse_url(&url)?;
        Ok(Self {
            environment,
            url: (url, parsed),
        })
    }

    /// Returns an environment variable, even if it is empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// Returns an environment variable, empty if it is not set.
    pub(super) fn text(&self, name: &str) -> &str {
        self.variable(name).unwrap_or_default()
    }

    /// Returns an environment variable if it is set and not empty.
    pub(super) fn non_empty(&self, name: &str) -> Option<&str> {
        self.variable(name).filter(|value| !value.is_empty())
    }

    /// Returns a variable that must be set in a build. Without a build, as in a plan by hand, it may be missing.
    ///
    /// # Errors
    /// The message for the author.
    pub(super) fn required(&self, name: &str) -> Result<&str, String> {
        match self.text(name) {
            "" if self.is_build() => Err(format!("{name} is required")),
            value => Ok(value),
        }
    }

    /// Returns whether a workspace is being built.
    pub(super) fn is_build(&self) -> bool {
        self.non_empty("CODER_WORKSPACE_BUILD_ID").is_some()
    }

    /// Returns the user's value of the parameter `name`, if there is one.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.variable(&format!("CODER_PARAMETER_{}", hash(name)))
    }

    /// Returns the value of the parameter in the previous build.
    pub(super) fn previous_parameter(&self, name: &str) -> Option<&str> {
        self.variable(&format!("CODER_PARAMETER_PREVIOUS_{}", hash(name)))
    }

    /// Returns the token that the agent of a claimed prebuilt workspace already has. All agents get the same, as in
    /// the original.
    pub(super) fn running_agent_token(&self) -> Option<String> {
        let name = format!("CODER_RUNNING_WORKSPACE_AGENT_TOKEN_{}", hash(""));
        self.non_empty(&name).map(str::to_owned)
    }

    /// Returns the script that starts an agent, empty if the platform has none.
    pub(super) fn agent_script(&self, os: &str, arch: &str, auth: &str) -> String {
        self.text(&format!("CODER_AGENT_SCRIPT_{os}_{arch}"))
            .replace("${ACCESS_URL}", &self.url.1.root())
            .replace("${AUTH_TYPE}", auth)
    }
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
pub(super) mod tests {
    use outpost_plugin::{self as plugin, Diagnostics};
    use outpost_value::Object;

    use super::*;
    use crate::resource::{Call, DataSource, Resource};

    /// Returns a resource after its creation from `config`, or the summary of the first error.
    pub(crate) fn created(
        resource: &Resource,
        config: Object,
        context: &Context,
    ) -> Result<Object, String> {
        let mut state = config.clone();
        let call = Call {
            config: &config,
            context,
        };
        let outcome = plugin::Resource::create(resource, &mut state, &call);
        outcome.map(|_| state).map_err(first_summary)
    }

    /// Returns the summaries of the warnings at its creation.
    pub(crate) fn warnings(resource: &Resource, config: Object, context: &Context) -> Vec<String> {
        let call = Call {
            config: &config,
            context,
        };
        let outcome = plugin::Resource::create(resource, &mut config.clone(), &call);
        outcome
            .unwrap()
            .into_iter()
            .map(|warning| warning.summary)
            .collect()
    }

    /// Returns the values that a data source reads for `config`, or the summary of its error.
    pub(crate) fn read(
        source: &DataSource,
        config: Object,
        context: &Context,
    ) -> Result<Object, String> {
        let mut state = config.clone();
        let call = Call {
            config: &config,
            context,
        };
        let outcome = plugin::DataSource::read(source, &mut state, &call);
        outcome.map(|_| state).map_err(first_summary)
    }

    fn first_summary(diagnostics: Diagnostics) -> String {
        diagnostics.into_iter().next().unwrap().summary
    }

    /// Returns a context with these variables and no configuration.
    pub(crate) fn context(variables: &[(&str, &str)]) -> Context {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Context::new(variables.iter().map(owned).collect(), None).unwrap()
    }

    #[test]
    fn the_templates_url_wins_over_the_environments() {
        let environment = || BTreeMap::from([("CODER_AGENT_URL".into(), "http://env:3000".into())]);
        let url = |environment, url| Context::new(environment, url).unwrap().url.0;

        assert_eq!(url(environment(), Some("https://a.b")), "https://a.b");
        assert_eq!(url(environment(), None), "http://env:3000");
        assert_eq!(url(BTreeMap::new(), None), DEFAULT_URL);
    }

    #[test]
    fn a_url_must_be_one() {
        let error = |url| Context::new(BTreeMap::new(), Some(url)).unwrap_err();

        assert_eq!(error(""), "CODER_AGENT_URL must not be empty; got \"\"");
        assert!(error("http://a b").contains("invalid character"));
    }

    #[test]
    fn the_agents_script_gets_the_servers_root_and_the_kind_of_login() {
        let script = (
            "CODER_AGENT_SCRIPT_linux_amd64",
            "${ACCESS_URL}bin ${AUTH_TYPE} ${AUTH_TYPE}",
        );
        let context = context(&[
            script,
            ("CODER_AGENT_URL", "https://coder.example.com:8443/path"),
        ]);

        assert_eq!(
            context.agent_script("linux", "amd64", "token"),
            "https://coder.example.com:8443/bin token token"
        );
        assert_eq!(context.agent_script("linux", "arm64", "token"), "");
    }

    #[test]
    fn names_of_parameters_are_hashed() {
        let name =
            "CODER_PARAMETER_6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090";
        let context = context(&[(name, "value")]);

        assert_eq!(context.parameter("abc123"), Some("value"));
        assert_eq!(context.parameter("abc"), None);
    }

    #[test]
    fn what_a_build_needs_may_be_missing_without_a_build() {
        let build = context(&[("CODER_WORKSPACE_BUILD_ID", "1"), ("SET", "x")]);

        assert_eq!(build.required("SET"), Ok("x"));
        assert_eq!(build.required("UNSET"), Err("UNSET is required".to_owned()));
        assert_eq!(context(&[]).required("UNSET"), Ok(""));
    }
}
