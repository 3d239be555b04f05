terraform {
  required_providers {
    coder = {
      source = "coder/coder"
    }
  }
}

variable "agent" {
  type = any
}

locals {
  script = var.agent.os
}

resource "coder_app" "inside" {
  agent_id = var.agent.id
  slug     = "inside"
  url      = "http://localhost:8081"
}

resource "terraform_data" "vm" {
  for_each = toset(["a.b", "c\"d"])
  input    = local.script
}
