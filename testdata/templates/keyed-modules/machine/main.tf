terraform {
  required_providers {
    coder = {
      source = "coder/coder"
    }
  }
}

resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}

resource "coder_app" "ide" {
  agent_id = coder_agent.main.id
  slug     = "ide"
  url      = "http://localhost:8080"
}

resource "terraform_data" "vm" {
  input = coder_agent.main.os
}

resource "coder_metadata" "vm" {
  resource_id = terraform_data.vm.id
  item {
    key   = "kind"
    value = "machine"
  }
}
