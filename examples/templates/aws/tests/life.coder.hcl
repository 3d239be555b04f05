# Run it: outpost template test examples/templates/aws
#
# The life of a workspace from its first start to its deletion, without credentials: the provider is replaced by a mock.

mock_data "aws_ami" "ubuntu" {
  values = { id = "ami-0123456789abcdef0" }
}

run "first_start" {
  assert {
    condition     = resource["aws_instance.workspace"].class == "computational" && resource["aws_instance.workspace"].metadata.type == "t3.large"
    error_message = "the machine must run the agent and show its type"
  }
  golden = "start.txt"
}

run "stop" {
  transition = "stop"
  assert {
    condition     = resource["aws_instance.workspace"].change == "no-op" && resource["aws_ec2_instance_state.workspace"].change == "update"
    error_message = "the machine must be stopped, and must keep its disk"
  }
}

run "larger" {
  parameters = { instance_type = "t3.xlarge" }
  assert {
    condition     = resource["aws_instance.workspace"].change == "update" && daily_cost == 8
    error_message = "a larger machine must keep the disk, and costs more"
  }
}

run "other_region" {
  parameters   = { region = "us-east-2" }
  expect_error = "region.*cannot change"
}

run "delete" {
  transition = "delete"
  assert {
    condition     = resource["aws_instance.workspace"].change == "delete"
    error_message = "nothing may stay behind"
  }
}
