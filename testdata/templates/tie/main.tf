# Of two resources at the same distance the first by name gets the agent, here early.

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
}

resource "terraform_data" "late" {
  input = coder_agent.main.os
}

resource "terraform_data" "early" {
  input = coder_agent.main.os
}
