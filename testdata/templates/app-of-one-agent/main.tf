# An app belongs to the one agent that it names, though local values lead to both (coder/coder#12949).

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

resource "coder_agent" "master" {
  os   = "linux"
  arch = "amd64"
}

resource "coder_agent" "ad" {
  os   = "windows"
  arch = "amd64"
}

locals {
  agent_master = coder_agent.master.init_script
  agent_ad     = coder_agent.ad.init_script
}

resource "coder_app" "studio" {
  agent_id     = coder_agent.master.id
  slug         = "studio"
  display_name = "Studio"
  url          = "http://localhost:13337"
}

resource "terraform_data" "master" {
  input = { script = local.agent_master, other = sha256(local.agent_ad) }
}

resource "terraform_data" "ad" {
  input = { script = local.agent_ad, other = sha256(local.agent_master) }
}
