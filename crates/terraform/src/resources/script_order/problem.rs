//! What can be wrong with a rule, in the texts that authors know from Coder.

use std::fmt;

use super::{Phase, selector::SelectorProblem, shown};

/// Which list of a rule a selector is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Scripts that wait.
    Run,
    /// Scripts that they wait for.
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

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// A word that is no requirement.
    #[error("requires must be \"success\" or \"completion\", got {}", shown(.0))]
    Requires(String),
    /// A word that is no phase.
    #[error("phase must be \"start\" or \"stop\", got {}", shown(.0))]
    Phase(String),
    /// An empty list.
    #[error("{0} must contain at least one selector")]
    NoSelector(Field),
    /// A text that selects nothing.
    #[error("invalid {field} selector {}: {problem}", shown(selector))]
    Selector {
        /// The list.
        field: Field,
        /// The text.
        selector: String,
        /// Why.
        problem: SelectorProblem,
    },
    /// More scripts than all rules together may select.
    #[error(
        "resolve {field} selector {}: script order selectors are limited to {limit} expanded script addresses in total",
        shown(selector)
    )]
    TooMany {
        /// The list.
        field: Field,
        /// The text.
        selector: String,
        /// How many there may be.
        limit: usize,
    },
    /// An instance that does not exist.
    #[error("{} selector {} expanded to no coder_script resources", .0, shown(.1))]
    NoInstance(Field, String),
    /// A script that the template does not have.
    #[error("{} selector {} does not name a declared coder_script resource", .0, shown(.1))]
    NoScript(Field, String),
    /// A module that the template does not call.
    #[error("{} selector {} does not name a declared child module call", .0, shown(.1))]
    NoModule(Field, String),
    /// A script that runs in both phases, or in none.
    #[error(
        "{} selector {} expanded to [{expanded}], but script {} {reason}",
        .pick.field, shown(&.pick.selector), shown(&.pick.script)
    )]
    Lifecycle {
        /// The script.
        pick: Pick,
        /// All scripts of the selector.
        expanded: String,
        /// What it does.
        reason: &'static str,
    },
    /// Scripts of both phases, named themselves.
    #[error("{}; coder_script resource selectors cannot mix start and stop scripts", both(.0))]
    MixedPhases(Box<[(Pick, Phase); 2]>),
    /// Modules with scripts of both phases, and nothing that says which is meant.
    #[error(
        "{}; phase cannot be inferred from module selectors that expand to both start and stop scripts; set phase to \
         \"start\" or \"stop\"",
        both(.0)
    )]
    UnclearPhase(Box<[(Pick, Phase); 2]>),
    /// A script of another phase than the rule's.
    #[error(
        "{} selector {} selects {actual} script {}, but the rule phase is \"{phase}\"",
        .pick.field, shown(&.pick.selector), shown(&.pick.script)
    )]
    WrongPhase {
        /// The script.
        pick: Pick,
        /// Its phase.
        actual: Phase,
        /// The rule's.
        phase: Phase,
    },
    /// A script whose `agent_id` is nobody's.
    #[error(
        "{} selector {} selects script {}, but it could not be associated with an agent or devcontainer subagent",
        .0.field, shown(&.0.selector), shown(&.0.script)
    )]
    NoAgent(Pick),
    /// Scripts of different agents.
    #[error(
        "selector {} expands to script {} executed by {}, but selector {} expands to script {} executed by {}; \
         scripts can be ordered only within the same agent or devcontainer subagent",
        shown(&.0[0].0.selector), shown(&.0[0].0.script), shown(&.0[0].1),
        shown(&.0[1].0.selector), shown(&.0[1].0.script), shown(&.0[1].1)
    )]
    Agents(Box<[(Pick, String); 2]>),
    /// A script that waits for itself.
    #[error(
        "run selector {} and after selector {} both select script {}; a script cannot depend on itself",
        shown(run),
        shown(after),
        shown(script)
    )]
    Itself {
        /// The selector in one list.
        run: String,
        /// The selector in the other.
        after: String,
        /// The script.
        script: String,
    },
    /// Two requirements for one pair of scripts.
    #[error("{0}")]
    Conflict(String),
    /// More pairs than all rules together may have.
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
