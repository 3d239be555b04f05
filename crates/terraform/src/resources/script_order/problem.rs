//! Problems of a rule, in the texts that authors know from Coder.

use std::fmt;

use super::{Phase, selector::SelectorProblem, shown};

/// List of a rule that a selector is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The list of scripts that wait.
    Run,
    /// The list of scripts that they wait for.
    After,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "run",
            Self::After => "after",
        })
    }
}

/// A selector and one script of it, for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    pub(super) field: Field,
    pub(super) selector: String,
    pub(super) script: String,
}

/// Problem of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// A word is not a requirement.
    #[error("requires must be \"success\" or \"completion\", got {}", shown(.0))]
    Requires(String),
    /// A word is not a phase.
    #[error("phase must be \"start\" or \"stop\", got {}", shown(.0))]
    Phase(String),
    /// A list has no selectors.
    #[error("{0} must contain at least one selector")]
    NoSelector(Field),
    /// A selector is not valid.
    #[error("invalid {field} selector {}: {problem}", shown(selector))]
    Selector {
        /// List that contains the selector.
        field: Field,
        /// Text of the selector.
        selector: String,
        /// Problem of the selector.
        problem: SelectorProblem,
    },
    /// The selectors of all rules exceed their limit of scripts.
    #[error(
        "resolve {field} selector {}: script order selectors are limited to {limit} expanded script addresses in total",
        shown(selector)
    )]
    TooMany {
        /// List that contains the selector.
        field: Field,
        /// Text of the selector.
        selector: String,
        /// Maximum number of scripts.
        limit: usize,
    },
    /// An instance does not exist.
    #[error("{} selector {} expanded to no coder_script resources", .0, shown(.1))]
    NoInstance(Field, String),
    /// The template does not declare a script.
    #[error("{} selector {} does not name a declared coder_script resource", .0, shown(.1))]
    NoScript(Field, String),
    /// The template does not call a module.
    #[error("{} selector {} does not name a declared child module call", .0, shown(.1))]
    NoModule(Field, String),
    /// A script runs in both phases, or in none.
    #[error(
        "{} selector {} expanded to [{expanded}], but script {} {reason}",
        .pick.field, shown(&.pick.selector), shown(&.pick.script)
    )]
    Lifecycle {
        /// Selector and script that do not fit.
        pick: Pick,
        /// All scripts of the selector.
        expanded: String,
        /// Phases in which the script runs.
        reason: &'static str,
    },
    /// The rule names scripts of both phases.
    #[error("{}; coder_script resource selectors cannot mix start and stop scripts", both(.0))]
    MixedPhases(Box<[(Pick, Phase); 2]>),
    /// The rule selects modules with scripts of both phases, and does not name a phase.
    #[error(
        "{}; phase cannot be inferred from module selectors that expand to both start and stop scripts; set phase to \
         \"start\" or \"stop\"",
        both(.0)
    )]
    UnclearPhase(Box<[(Pick, Phase); 2]>),
    /// A script runs in another phase than the rule's.
    #[error(
        "{} selector {} selects {actual} script {}, but the rule phase is \"{phase}\"",
        .pick.field, shown(&.pick.selector), shown(&.pick.script)
    )]
    WrongPhase {
        /// Selector and script that do not match.
        pick: Pick,
        /// Phase of the script.
        actual: Phase,
        /// Phase of the rule.
        phase: Phase,
    },
    /// The `agent_id` of a script is not that of any agent.
    #[error(
        "{} selector {} selects script {}, but it could not be associated with an agent or devcontainer subagent",
        .0.field, shown(&.0.selector), shown(&.0.script)
    )]
    NoAgent(Pick),
    /// The scripts belong to different agents.
    #[error(
        "selector {} expands to script {} executed by {}, but selector {} expands to script {} executed by {}; \
         scripts can be ordered only within the same agent or devcontainer subagent",
        shown(&.0[0].0.selector), shown(&.0[0].0.script), shown(&.0[0].1),
        shown(&.0[1].0.selector), shown(&.0[1].0.script), shown(&.0[1].1)
    )]
    Agents(Box<[(Pick, String); 2]>),
    /// A script waits for itself.
    #[error(
        "run selector {} and after selector {} both select script {}; a script cannot depend on itself",
        shown(run),
        shown(after),
        shown(script)
    )]
    Itself {
        /// Selector in the list `run`.
        run: String,
        /// Selector in the list `after`.
        after: String,
        /// Address of the script.
        script: String,
    },
    /// A pair of scripts has two different requirements.
    #[error("{0}")]
    Conflict(String),
    /// All rules together have too many pairs.
    #[error("{0}")]
    TooManyPairs(String),
}

fn both(picks: &[(Pick, Phase); 2]) -> String {
    let one = |(pick, phase): &(Pick, Phase)| {
        let (selector, script) = (shown(&pick.selector), shown(&pick.script));
        format!(
            "{} selector {selector} selects {phase} script {script}",
            pick.field
        )
    };
    format!("{}, but {}", one(&picks[0]), one(&picks[1]))
}
