# Run it: outpost template test examples/templates/kubernetes
#
# The life of a workspace from its first start to its deletion, without a cluster: its provider is replaced by a mock.

variables = { namespace = "team-a" }

run "first_start" {
  assert {
    condition     = contains(agent.main.token_reaches, "kubernetes_pod.workspace[0]")
    error_message = "the pod must get the agent's token"
  }
  golden = "start.txt"
}

run "stop" {
  transition = "stop"
  assert {
    condition     = resource["kubernetes_persistent_volume_claim.home"].change == "no-op"
    error_message = "the claim must outlive a stop"
  }
}

run "second_start" {
  parameters = { memory = 8 }
  assert {
    condition     = resource["kubernetes_persistent_volume_claim.home"].change == "no-op" && resource["kubernetes_pod.workspace[0]"].change == "create"
    error_message = "more memory must not touch the claim"
  }
}

run "too_much" {
  parameters   = { memory = 65 }
  expect_error = "memory"
}

run "delete" {
  transition = "delete"
  assert {
    condition     = resource["kubernetes_persistent_volume_claim.home"].change == "delete"
    error_message = "nothing may stay behind"
  }
}
