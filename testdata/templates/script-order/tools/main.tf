terraform {
  required_providers {
    coder = {
      source = "coder/coder"
    }
  }
}

variable "agent_id" {
  type = string
}

variable "tool" {
  type = string
}

resource "coder_script" "setup" {
  agent_id     = var.agent_id
  display_name = "Set up ${var.tool}"
  script       = "setup ${var.tool}"
  run_on_start = true
}
