# Run it: outpost template test examples/templates/docker
#
# The life of a workspace from its first start to its deletion, without Docker: its provider is replaced by a mock.

run "first_start" {
  assert {
    condition     = contains(agent.main.token_reaches, "docker_container.workspace[0]")
    error_message = "the container must get the agent's token"
  }
  golden = "start.txt"
}

run "stop" {
  transition = "stop"
  assert {
    condition     = resource["docker_volume.home"].change == "no-op"
    error_message = "the home directory must outlive a stop"
  }
  assert {
    condition     = resource["docker_container.workspace[0]"].change == "delete"
    error_message = "the container must end"
  }
}

run "second_start" {
  assert {
    condition     = resource["docker_volume.home"].change == "no-op"
    error_message = "the home directory must be the same as before"
  }
}

run "another_image" {
  parameters = { image = "codercom/enterprise-node:ubuntu" }
  assert {
    condition     = resource["docker_container.workspace[0]"].change == "replace" && resource["docker_volume.home"].change == "no-op"
    error_message = "another image must replace the container, and nothing else"
  }
}

run "delete" {
  transition = "delete"
  assert {
    condition     = resource["docker_volume.home"].change == "delete"
    error_message = "nothing may stay behind"
  }
}
