//! Commands at agents that answer what a test says.

use outpost_base::job::Agent;
use regex::Regex;

use super::*;

/// Agents that print the command itself, and exit with 3 if it says so. `gone` never connects.
struct Echo;

#[async_trait]
impl Agents for Echo {
    fn url(&self) -> String {
        String::new()
    }

    async fn announce(&self, _: &[Resource]) -> Result<(), String> {
        Ok(())
    }

    async fn run(&self, agent: &str, command: &str) -> Result<CommandOutput, String> {
        match agent {
            "gone" => Err("it is not there".to_owned()),
            _ => Ok(CommandOutput {
                stdout: command.as_bytes().to_vec(),
                status: if command == "exit 3" { 3 } else { 0 },
            }),
        }
    }

    async fn end(&self) {}
}

fn ssh(agent: Option<&str>, command: &str, stdout: &str, status: i64) -> Ssh {
    Ssh {
        agent: agent.map(str::to_owned),
        command: command.to_owned(),
        stdout: Some(Regex::new(stdout).unwrap()),
        status,
        place: Place::default(),
    }
}

async fn failures(names: &[&str], ssh: Vec<Ssh>) -> Vec<String> {
    let agent = |name: &&str| Agent {
        name: (*name).to_owned(),
        ..Agent::default()
    };
    let resource = Resource {
        agents: names.iter().map(agent).collect(),
        ..Resource::default()
    };
    let run = Run {
        ssh,
        ..Run::default()
    };
    let failures = connect(&Echo, (&run, &Place::default()), &[resource], &Stop::new()).await;
    failures.into_iter().map(|it| it.message).collect()
}

#[tokio::test]
async fn a_command_must_exit_with_its_status_and_print_what_matches() {
    let good = vec![
        ssh(None, "echo a", "^echo", 0),
        ssh(Some("main"), "exit 3", "", 3),
    ];
    assert_eq!(failures(&["main"], good).await, [""; 0]);

    let bad = vec![ssh(None, "echo a", "^b", 0), ssh(None, "exit 3", "", 0)];
    let found = failures(&["main"], bad).await;
    assert!(
        found[0].contains("printed nothing that matches `^b`"),
        "{found:?}"
    );
    assert!(found[1].contains("exited with 3, not 0"), "{found:?}");
}

#[tokio::test]
async fn an_agent_that_is_not_there_not_named_or_unknown_is_said() {
    let one = |agent| vec![ssh(agent, "x", "", 0)];

    assert!(
        failures(&["gone"], one(None)).await[0].contains("`gone` did not connect: it is not there")
    );
    assert!(failures(&["a", "b"], one(None)).await[0].contains("name one with `agent`: a, b"));
    assert!(failures(&["main"], one(Some("mian"))).await[0].contains("did you mean `main`"));
    assert!(failures(&[], one(None)).await[0].contains("no agent that could connect"));
}
