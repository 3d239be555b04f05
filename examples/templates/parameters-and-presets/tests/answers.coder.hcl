# Run it: outpost template test examples/templates/parameters-and-presets

variables = { largest_disk = 50 }

run "defaults" {
  assert {
    condition     = parameter.cores.value == "2" && parameter.region.default == "eu" && preset.Small.default
    error_message = "the small machine in Europe must be the default"
  }
}

run "disk_grows" {
  parameters = { disk = 40, tools = ["go"] }
  assert {
    condition     = resource["terraform_data.disk"].change == "update" && resource["terraform_data.disk"].daily_cost == 2
    error_message = "the disk must grow in its place"
  }
  assert {
    condition     = agent.main.env.TOOLS == "go"
    error_message = "the agent must know the tools"
  }
}

run "answers_stay" {
  assert {
    condition     = parameter.disk.value == "40"
    error_message = "a restart must keep the answers"
  }
}

run "disk_cannot_shrink" {
  parameters   = { disk = 20 }
  expect_error = "previous value: 40"
}

run "region_cannot_change" {
  parameters   = { region = "us" }
  expect_error = "region"
}

run "preset_is_too_large" {
  preset       = "Large, in Europe"
  expect_error = "disk"
}
