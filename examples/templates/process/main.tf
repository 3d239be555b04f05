# Run it: outpost dev examples/templates/process
#
# The workspace is a process on this machine, so nothing but a shell is needed. Its three resources show the two
# ways to tell resources apart:
#
#   terraform_data.home     peripheral     persistent   the directory that stays while the workspace is stopped
#   terraform_data.runtime  peripheral     ephemeral    pid file, log and whatever else goes with a stop
#   terraform_data.process  computational  ephemeral    the process itself, in which the agent runs

terraform {
  required_version = ">= 1.4"
  required_providers {
    coder = {
      source  = "coder/coder"
      version = ">= 2.4"
    }
  }
}

variable "workspaces_directory" {
  type        = string
  description = "Where workspaces keep their files on the machine that runs the provisioner."
  default     = "~/.local/share/outpost/workspaces"
}

data "coder_provisioner" "me" {}
data "coder_workspace" "me" {}
data "coder_workspace_owner" "me" {}

resource "coder_agent" "main" {
  os   = data.coder_provisioner.me.os
  arch = data.coder_provisioner.me.arch
  dir  = "~"

  metadata {
    key          = "load"
    display_name = "Load average"
    script       = "cut -d ' ' -f 1 /proc/loadavg"
    interval     = 10
    timeout      = 1
  }
}

# Neither `home` nor `runtime` has a create-time provisioner: one that is interrupted taints its resource, and
# Terraform skips the destroy-time provisioners of a tainted resource. This way an end always finds its beginning.
resource "terraform_data" "home" {
  input = {
    path = join("/", [
      pathexpand(var.workspaces_directory),
      "${data.coder_workspace_owner.me.name}-${data.coder_workspace.me.name}-${substr(data.coder_workspace.me.id, 0, 8)}",
    ])
  }

  lifecycle {
    ignore_changes = [input] # Files stay where they were made, whatever the variable says later.
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "rm -rf \"$DIRECTORY\""
    environment = { DIRECTORY = self.input.path }
  }
}

resource "terraform_data" "runtime" {
  count = data.coder_workspace.me.start_count

  input = {
    path = "${terraform_data.home.output.path}/run"
    stop = file("${path.module}/stop.sh") # A destroy-time provisioner can look nowhere but here.
  }

  provisioner "local-exec" {
    when    = destroy
    command = "eval \"$STOP\""
    environment = {
      STOP      = self.input.stop
      DIRECTORY = self.input.path
    }
  }
}

resource "terraform_data" "process" {
  count = data.coder_workspace.me.start_count

  triggers_replace = coder_agent.main.token # Every build has a new token, and the old agent cannot learn it.

  provisioner "local-exec" {
    command = "eval \"$STOP\"; eval \"$START\""
    environment = {
      STOP              = terraform_data.runtime[0].output.stop
      START             = file("${path.module}/start.sh")
      DIRECTORY         = terraform_data.runtime[0].output.path
      HOME_DIRECTORY    = terraform_data.home.output.path
      INIT_SCRIPT       = coder_agent.main.init_script
      CODER_AGENT_TOKEN = coder_agent.main.token
    }
  }
}

resource "coder_metadata" "home" {
  resource_id = terraform_data.home.id

  item {
    key   = "path"
    value = terraform_data.home.output.path
  }
}
