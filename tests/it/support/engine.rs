//! Engines and their sessions as most tests want them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use outpost::{
    job::JobId,
    provision::{Memory, SessionConfig},
    terraform::{EngineConfig, Environment, Registry},
};

/// An engine that is not isolated, shares no plugin cache, and takes providers from where the program takes them.
pub fn engine_config(binary: PathBuf, work_dir: PathBuf, environment: Environment) -> EngineConfig {
    EngineConfig {
        binary,
        work_dir,
        environment,
        exit_timeout: Duration::from_secs(60),
        plugin_cache_dir: None,
        operators_plugin_caches: Vec::new(),
        agent_scripts: BTreeMap::new(),
        isolation: None,
        shim: None,
        providers: Arc::new(Registry),
    }
}

/// The variables of whoever runs the tests, less those that configure an engine: what a test sees depends on the CLI
/// configuration that it writes itself.
pub fn host_environment() -> Environment {
    let all = std::env::vars_os();
    let others = all.filter(|(name, _)| !name.as_encoded_bytes().starts_with(b"TF_"));
    Environment::of_host(others, &[])
}

/// The session of a new job.
pub fn session_config() -> SessionConfig {
    SessionConfig {
        job_id: JobId(uuid::Uuid::new_v4()),
        log_level: None,
        template_id: String::new(),
        template_version_id: String::new(),
        memory: Memory::default(),
    }
}
