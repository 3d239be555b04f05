# Run it: outpost template test examples/templates/process
#
# The life of a workspace from its first start to its deletion. Nothing runs: provisioners are left out.

run "first_start" {
  assert {
    condition     = resource["terraform_data.process[0]"].class == "computational"
    error_message = "the agent must belong to the process"
  }
  assert {
    condition     = contains(agent.main.token_reaches, "terraform_data.process[0]")
    error_message = "the process must get the agent's token"
  }
  golden = "start.txt"
}

run "stop" {
  transition = "stop"
  assert {
    condition     = resource["terraform_data.home"].change == "no-op"
    error_message = "the home directory must outlive a stop"
  }
  assert {
    condition     = resource["terraform_data.process[0]"].change == "delete"
    error_message = "the process must end"
  }
}

run "second_start" {
  assert {
    condition     = resource["terraform_data.home"].change == "no-op"
    error_message = "the home directory must be the same as before"
  }
}

run "delete" {
  transition = "delete"
  assert {
    condition     = resource["terraform_data.home"].change == "delete"
    error_message = "nothing may stay behind"
  }
}
