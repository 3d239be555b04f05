# Run it: outpost template test examples/templates/devcontainer

parameters = { repository = "https://git.example.com/team/tool.git" }

run "start" {
  assert {
    condition     = strcontains(agent.main.scripts["Clone the repository"].script, "'/workspaces/tool'")
    error_message = "the folder must have the repository's name"
  }
  assert {
    condition     = agent.main.scripts["Clone the repository"].start_blocks_login
    error_message = "nobody may log in before the repository is there"
  }
}

run "not_a_repository" {
  parameters   = { repository = "ftp://git.example.com/team/tool" }
  expect_error = "https:// or git@"
}
