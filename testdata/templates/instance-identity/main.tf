# An agent that its cloud identifies has no token; the id comes from coder_agent_instance once it is known.

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
  auth = "aws-instance-identity"
}

resource "terraform_data" "vm" {
  input = coder_agent.main.os
}

resource "coder_agent_instance" "main" {
  agent_id    = coder_agent.main.id
  instance_id = terraform_data.vm.id
}
