# An agent that somebody else runs stands on coder_external_agent.

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

resource "coder_external_agent" "main" {
  agent_id = coder_agent.main.id
}
