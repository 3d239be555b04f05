# Run it: outpost dev examples/templates/devcontainer --parameter repository=https://github.com/coder/coder
#
# A workspace whose tools come from a development container of its repository. The agent runs on the provisioner's
# machine here, as in the `process` example; on a real site it would run in a VM or a container that has Docker.

terraform {
  required_version = ">= 1.4"
  required_providers {
    coder = {
      source  = "coder/coder"
      version = ">= 2.9"
    }
  }
}

data "coder_provisioner" "me" {}
data "coder_workspace" "me" {}

data "coder_parameter" "repository" {
  name         = "repository"
  display_name = "Repository"
  description  = "Git repository with a `.devcontainer` folder."
  type         = "string"
  default      = "https://github.com/coder/coder"
  order        = 1

  validation {
    regex = "^(https://|git@)"
    error = "Enter an https:// or git@ URL."
  }
}

locals {
  folder = "/workspaces/${trimsuffix(basename(data.coder_parameter.repository.value), ".git")}"
}

resource "coder_agent" "main" {
  os   = data.coder_provisioner.me.os
  arch = data.coder_provisioner.me.arch
  dir  = "/workspaces"
}

resource "coder_script" "clone" {
  agent_id           = coder_agent.main.id
  display_name       = "Clone the repository"
  run_on_start       = true
  start_blocks_login = true
  script             = <<-EOT
    set -e
    [ -d '${local.folder}/.git' ] || git clone '${data.coder_parameter.repository.value}' '${local.folder}'
  EOT
}

resource "coder_devcontainer" "repository" {
  agent_id         = coder_agent.main.id
  workspace_folder = local.folder
}

# Stands for the disk that keeps the clone.
resource "terraform_data" "disk" {
  input = { folder = local.folder }

  lifecycle {
    ignore_changes = [input]
  }
}

# Stands for the machine that the agent runs on.
resource "terraform_data" "machine" {
  count            = data.coder_workspace.me.start_count
  input            = { disk = terraform_data.disk.id }
  triggers_replace = coder_agent.main.token
}
