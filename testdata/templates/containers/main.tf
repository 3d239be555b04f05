# Apps, scripts and environment that name a container's agent belong to the container.

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

resource "coder_devcontainer" "web" {
  agent_id         = coder_agent.main.id
  workspace_folder = "/home/dev/web"
  config_path      = "/home/dev/web/devcontainer.json"
}

resource "coder_app" "inside" {
  agent_id     = coder_devcontainer.web.subagent_id
  slug         = "inside"
  display_name = "Inside"
  url          = "http://localhost:3000"
  share        = "public"
  open_in      = "tab"
  subdomain    = true
  healthcheck {
    url       = "http://localhost:3000/health"
    interval  = 5
    threshold = 3
  }
}

resource "coder_script" "inside" {
  agent_id     = coder_devcontainer.web.subagent_id
  display_name = "Prepare"
  script       = "npm ci"
  run_on_start = true
}

resource "coder_env" "inside" {
  agent_id = coder_devcontainer.web.subagent_id
  name     = "MODE"
  value    = "dev"
}

resource "coder_app" "outside" {
  agent_id = coder_agent.main.id
  slug     = "outside"
  command  = "htop"
}

resource "terraform_data" "vm" {
  input = coder_agent.main.os
}
