# Run it: outpost template test examples/templates/multi-agent

run "start" {
  assert {
    condition     = agent.editor.resource == "terraform_data.editor[0]" && agent.builder.resource == "terraform_data.builder[0]"
    error_message = "each agent must run in a machine of its own"
  }
  assert {
    condition     = agent.editor.apps.docs.share == "authenticated" && agent.editor.apps.docs.healthcheck != null
    error_message = "colleagues must reach the documentation"
  }
  assert {
    condition     = agent.builder.env == { JOBS = "16", CACHE_DIR = "/build/cache" }
    error_message = "the build machine must know its cache"
  }
  assert {
    condition     = daily_cost == 5
    error_message = "a running workspace costs ${daily_cost} a day"
  }
  golden = "start.txt"
}

run "stop" {
  transition = "stop"
  assert {
    condition     = daily_cost == 1
    error_message = "a stopped workspace costs ${daily_cost} a day"
  }
}
