//! `outpost template policy`.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    cli::{
        exit::{PoliciesFailed, UsageError},
        output::{Output, Row},
    },
    template::policy::{Policies, Tested},
};

/// Exit codes of `policy test`.
const TEST_HELP: &str =
    "Exit codes: 0 all tests passed, 1 one failed, 2 wrong usage or a mistake in a policy.";

/// Test policies for templates, which are written in Rego
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Policy {
    /// Run the tests of policies: rules `test_…` in the files `*.rego` of a directory
    #[command(after_help = TEST_HELP)]
    Test {
        /// Directory with the policies and their tests
        #[arg(value_name = "DIR", default_value = ".")]
        directory: PathBuf,
    },
}

#[derive(Serialize)]
struct TestRow {
    name: String,
    outcome: &'static str,
    failure: Option<String>,
}

impl Row for TestRow {
    const COLUMNS: &'static [&'static str] = &["Test", "Outcome", "Reason"];

    fn cells(&self) -> Vec<String> {
        let reason = self.failure.clone().unwrap_or_default();
        vec![self.name.clone(), self.outcome.to_owned(), reason]
    }
}

impl From<Tested> for TestRow {
    fn from(tested: Tested) -> Self {
        Self {
            name: tested.name,
            outcome: if tested.failure.is_none() {
                "passed"
            } else {
                "failed"
            },
            failure: tested.failure,
        }
    }
}

impl Policy {
    pub(in crate::cli) fn exec(self, output: Output) -> anyhow::Result<()> {
        let Self::Test { directory } = self;
        let mut policies =
            Policies::read(&directory).map_err(|error| UsageError(error.to_string()))?;
        let tested = policies
            .test()
            .map_err(|error| UsageError(error.to_string()))?;
        let failed = tested.iter().filter(|it| it.failure.is_some()).count();
        let rows: Vec<_> = tested.into_iter().map(TestRow::from).collect();
        output.list(&rows)?;
        match failed {
            0 => Ok(()),
            count => Err(PoliciesFailed(count).into()),
        }
    }
}
