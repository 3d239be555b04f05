//! Conversion of Terraform's values and graph to the resources, agents and parameters that a server stores.
//! Pure, modules included.
//!
//! The order everywhere is that of addresses by bytes, so that equal input gives equal output.
//!
//! # Source
//! coder `provisioner/terraform/resources.go`, `ConvertState`.

mod agents;
mod apps;
mod decode;
mod external;
mod index;
mod instances;
mod keys;
mod metadata;
mod parameters;
mod presets;
mod script_order;

use std::collections::BTreeMap;

use outpost_base::job::{AiTask, ExternalAuthRequirement, Parameter, Preset, Resource};
use outpost_provision::GraphComplete;

use self::{
    agents::Agents,
    decode::DecodeError,
    index::{Granularity, Index},
    metadata::Facts,
};
pub use self::{
    keys::without_keys,
    script_order::{Phase, RuleProblem, ScriptOrderError, SelectorProblem},
};
use super::{
    configuration::Configuration,
    go_text::quoted,
    graph::Graph,
    plan::{Module, ResourceValues},
};

/// Result of converting a plan or a state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// Managed resources without the helpers of the `coder` provider, sorted by address.
    pub resources: Vec<Resource>,
    /// Parameters; those of a module precede those of its caller.
    pub parameters: Vec<Parameter>,
    /// Presets; those of a module precede those of its caller.
    pub presets: Vec<Preset>,
    /// External services whose tokens are needed, sorted by id.
    pub external_auth: Vec<ExternalAuthRequirement>,
    /// AI tasks; those of a module precede those of its caller.
    pub(crate) ai_tasks: Vec<AiTask>,
    /// `true` if there are any AI tasks.
    pub has_ai_tasks: bool,
    /// `true` if the graph contains external agents, even if their `count` is 0.
    pub has_external_agents: bool,
    /// Warnings for the author, one sentence each.
    pub warnings: Vec<String>,
}

impl From<Converted> for GraphComplete {
    /// Converts to the result of a graph step, without warnings and timings.
    fn from(converted: Converted) -> Self {
        Self {
            timings: Vec::new(),
            resources: converted.resources,
            parameters: converted.parameters,
            external_auth: converted.external_auth,
            presets: converted.presets,
            ai_tasks: converted.ai_tasks,
            has_ai_tasks: converted.has_ai_tasks,
            has_external_agents: converted.has_external_agents,
        }
    }
}

/// Totals over a plan, which need no graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cost in whole units a day.
    pub daily_cost: i32,
    /// Number of AI tasks.
    pub(crate) ai_task_count: i32,
}

/// Reason why values cannot be converted. The texts are those that authors know from Coder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// An attribute has another type than expected.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// An agent has no name.
    #[error("agent name cannot be empty")]
    AgentNameEmpty,
    /// An agent name contains underscores, which were allowed long ago.
    #[error(
        "agent name {0} contains underscores which are no longer supported, please use hyphens instead (regex: {1:?})"
    )]
    AgentNameUnderscore(String, &'static str),
    /// An agent name contains other characters.
    #[error("agent name {0} does not match regex {1:?}")]
    AgentName(String, &'static str),
    /// Two agents have the same name, regardless of case.
    #[error("duplicate agent name: {0}")]
    DuplicateAgent(String),
    /// An agent is missing in the graph.
    #[error("couldn't find node on graph: {}", quoted(.0))]
    NotInGraph(String),
    /// An app slug contains characters that are not allowed.
    #[error("app slug {0} does not match regex {1:?}")]
    AppSlug(String, &'static str),
    /// Two apps have the same slug.
    #[error("duplicate app slug, they must be unique per template: {0}")]
    DuplicateAppSlug(String),
    /// Two `coder_metadata` belong to the same resource.
    #[error("duplicate metadata resource: {0}")]
    DuplicateMetadata(String),
    /// A form type does not exist.
    #[error("decode form_type for coder_parameter.{0}: unsupported form type: {1}")]
    FormType(String, String),
    /// Several parameters have the same name.
    #[error("coder_parameter names must be unique but {0}")]
    DuplicateParameters(String),
    /// More than one preset is the default.
    #[error("a maximum of 1 coder_workspace_preset can be marked as default, but {0} are set")]
    DefaultPresets(usize),
    /// An external service has no usable id.
    #[error("external auth id is not a string")]
    ExternalAuthId,
    /// A variable is set twice although it must not be.
    #[error(
        "{second}: duplicate env var {}: merge_strategy is \"error\" but variable is already defined by {first}",
        quoted(name)
    )]
    DuplicateEnv {
        /// Name of the variable.
        name: String,
        /// Origin of the first value.
        first: String,
        /// Address of the resource that forbids a second value.
        second: String,
    },
    /// Scripts cannot be ordered.
    #[error("resolve script order: {0}")]
    ScriptOrder(#[from] ScriptOrderError),
    /// The cost in a `coder_metadata` cannot be read.
    #[error("parse plan: {0}")]
    Totals(String),
}

impl ConvertError {
    /// Returns whether treating all instances of a block as one may be the cause.
    fn is_about_instances(&self) -> bool {
        matches!(
            self,
            Self::DuplicateAgent(_)
                | Self::NotInGraph(_)
                | Self::DuplicateAppSlug(_)
                | Self::DuplicateMetadata(_)
        )
    }
}

/// Types that are parts of agents or of other resources, and not resources themselves.
pub const HELPER_TYPES: [&str; 5] = [
    "coder_script",
    "coder_agent",
    "coder_agent_instance",
    "coder_app",
    "coder_metadata",
];

/// Converts the values of `modules`, of which later ones replace earlier ones, with the graph of dependencies.
/// `configuration` contains the template's declarations; without it, as for a state alone, selectors of scripts are
/// not compared with declarations.
///
/// Returns managed resources except helpers of the `coder` provider. One with agents is *computational*, one without
/// is *peripheral*. An agent that nothing depends on is dropped.
///
/// Like the reference, this assigns agents and metadata to all instances of a block. A template that the reference
/// refuses for that reason, such as one with counted agents, is converted once more, with each instance by itself.
///
/// # Errors
/// The first [`ConvertError`] in the reference's order; there is no partial result.
pub fn convert(
    modules: &[Module],
    graph: &Graph,
    configuration: Option<&Configuration>,
) -> Result<Converted, ConvertError> {
    let by = |granularity| convert_by(granularity, modules, graph, configuration);
    match by(Granularity::Block) {
        Err(error) if error.is_about_instances() => by(Granularity::Instance),
        converted => converted,
    }
}

fn convert_by(
    granularity: Granularity,
    modules: &[Module],
    graph: &Graph,
    configuration: Option<&Configuration>,
) -> Result<Converted, ConvertError> {
    let index = Index::new(modules, granularity);
    let mut agents = Agents::collect(&index, graph)?;
    agents.attach_devcontainers(&index)?;
    agents.set_instance_ids(&index);
    apps::attach(&mut agents, &index)?;
    agents.attach_envs(&index)?;
    let order = script_order::resolve(&index, graph, configuration)?;
    agents.attach_scripts(&index, &order)?;
    let facts = metadata::collect(&index, graph)?;
    let resources = resources(&index, &mut agents, &facts);
    let parameters = parameters::collect(&index)?;
    let mut warnings = std::mem::take(&mut agents.warnings);
    warnings.extend(order.warnings);
    let presets = presets::collect(&index, &parameters, &mut warnings)?;
    let ai_tasks = external::ai_tasks(&index)?;
    Ok(Converted {
        resources,
        parameters,
        presets,
        external_auth: external::auth(&index)?,
        has_ai_tasks: !ai_tasks.is_empty(),
        ai_tasks,
        has_external_agents: external::has_agents(graph),
        warnings,
    })
}

/// Returns the total cost of the modules and their number of AI tasks.
///
/// # Errors
/// [`ConvertError::Totals`] if a `coder_metadata` is malformed.
pub fn totals(modules: &[Module]) -> Result<Totals, ConvertError> {
    let mut totals = Totals::default();
    for module in modules {
        add(module, &mut totals).map_err(ConvertError::Totals)?;
    }
    Ok(totals)
}

/// Adds a module. An error names the modules around it, from the outermost; the innermost is named twice, as in the
/// reference.
fn add(module: &Module, totals: &mut Totals) -> Result<(), String> {
    let within = |module: &Module, error: &dyn std::fmt::Display| {
        format!("in module {}: {error}", module.address)
    };
    for resource in &module.resources {
        match resource.kind.as_str() {
            "coder_metadata" => {
                let cost = metadata::daily_cost(resource);
                let cost = cost.map_err(|error| within(module, &error))?;
                totals.daily_cost = totals.daily_cost.wrapping_add(cost);
            }
            "coder_ai_task" => totals.ai_task_count += 1,
            _ => {}
        }
    }
    for child in &module.child_modules {
        add(child, totals).map_err(|error| within(child, &error))?;
    }
    Ok(())
}

fn resources(
    index: &Index<'_>,
    agents: &mut Agents<'_>,
    facts: &BTreeMap<&str, Facts>,
) -> Vec<Resource> {
    let listed: Vec<_> = index
        .resources()
        .filter(|resource| {
            resource.mode != "data" && !HELPER_TYPES.contains(&resource.kind.as_str())
        })
        .collect();
    for resource in &listed {
        if let Some(id) = instances::instance_id(resource) {
            agents.apply_instance_id(index.place(&resource.address), id);
        }
    }
    let convert = |resource: &&ResourceValues| {
        let place = index.place(&resource.address);
        let facts = facts.get(place).cloned().unwrap_or_default();
        Resource {
            address: resource.address.clone(),
            name: resource.name.clone(),
            kind: resource.kind.clone(),
            module_path: instances::module_path(&resource.address),
            agents: agents.of(place),
            metadata: facts.items,
            hide: facts.hide,
            icon: facts.icon,
            instance_type: instances::instance_type(resource),
            daily_cost: facts.daily_cost,
        }
    };
    listed.iter().map(convert).collect()
}
