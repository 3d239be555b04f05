# Run it: outpost dev examples/templates/multi-agent
#
# Two machines of one workspace, each with an agent of its own: a small one for the editor that always has the same
# home directory, and a build machine that is there only while the workspace runs.

terraform {
  required_version = ">= 1.4"
  required_providers {
    coder = {
      source  = "coder/coder"
      version = ">= 2.4"
    }
  }
}

data "coder_provisioner" "me" {}
data "coder_workspace" "me" {}

resource "coder_agent" "editor" {
  os    = data.coder_provisioner.me.os
  arch  = data.coder_provisioner.me.arch
  order = 1

  display_apps {
    vscode                 = true
    web_terminal           = true
    ssh_helper             = true
    port_forwarding_helper = false
  }
}

resource "coder_agent" "builder" {
  os                      = data.coder_provisioner.me.os
  arch                    = data.coder_provisioner.me.arch
  order                   = 2
  startup_script_behavior = "blocking"

  env = {
    JOBS = "16"
  }

  resources_monitoring {
    memory {
      enabled   = true
      threshold = 90
    }
    volume {
      path      = "/build"
      enabled   = true
      threshold = 80
    }
  }
}

resource "coder_app" "docs" {
  agent_id     = coder_agent.editor.id
  slug         = "docs"
  display_name = "Documentation"
  url          = "http://localhost:8000"
  share        = "authenticated"

  healthcheck {
    url       = "http://localhost:8000/health"
    interval  = 5
    threshold = 6
  }
}

resource "coder_app" "top" {
  agent_id     = coder_agent.builder.id
  slug         = "top"
  display_name = "Processes"
  command      = "top"
}

resource "coder_env" "cache" {
  agent_id = coder_agent.builder.id
  name     = "CACHE_DIR"
  value    = "/build/cache"
}

resource "coder_script" "warm_up" {
  agent_id     = coder_agent.builder.id
  display_name = "Warm up the cache"
  run_on_start = true
  script       = "mkdir -p \"$CACHE_DIR\""
}

# `terraform_data` stands for the machines and disks of a cloud, so that this example applies anywhere.
resource "terraform_data" "home" {
  input = "20 GiB"
}

resource "terraform_data" "editor" {
  count            = data.coder_workspace.me.start_count
  input            = { home = terraform_data.home.id }
  triggers_replace = coder_agent.editor.token
}

resource "terraform_data" "builder" {
  count            = data.coder_workspace.me.start_count
  input            = { size = "large" }
  triggers_replace = coder_agent.builder.token
}

resource "coder_metadata" "builder" {
  count       = data.coder_workspace.me.start_count
  resource_id = terraform_data.builder[0].id
  daily_cost  = 4

  item {
    key   = "size"
    value = "large"
  }
}

resource "coder_metadata" "home" {
  resource_id = terraform_data.home.id
  daily_cost  = 1

  item {
    key   = "capacity"
    value = "20 GiB"
  }
}
