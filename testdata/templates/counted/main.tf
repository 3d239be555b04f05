# All instances of a counted resource have the agents and the facts of their label.

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

data "coder_workspace" "me" {}

resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}

resource "terraform_data" "vm" {
  count = 2 * data.coder_workspace.me.start_count
  input = coder_agent.main.os
}

resource "terraform_data" "disk" {}

resource "coder_metadata" "vm" {
  count       = data.coder_workspace.me.start_count
  resource_id = terraform_data.vm[0].id
  hide        = true
  icon        = "/icon/vm.svg"
  daily_cost  = 12
  item {
    key   = "name"
    value = "vm"
  }
  item {
    key       = "secret"
    value     = "x"
    sensitive = true
  }
  item {
    key = "nothing"
  }
}
