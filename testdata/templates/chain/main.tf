# An agent belongs to the nearest resource that depends on it, here to b.

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

resource "terraform_data" "b" {
  input = coder_agent.main.os
}

resource "terraform_data" "a" {
  input = terraform_data.b.input
}
