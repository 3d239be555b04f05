# An agent is found through the input of a module; the app beside it belongs to it, the one in the module only in a state.

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

resource "coder_app" "outside" {
  agent_id = coder_agent.main.id
  slug     = "outside"
  url      = "http://localhost:8080"
}

module "machine" {
  source = "./machine"
  agent  = coder_agent.main
}
