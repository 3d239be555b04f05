# Every resource and data source of the coder provider with nothing but what is required.
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}

data "coder_workspace" "me" {}
data "coder_workspace_owner" "me" {}
data "coder_provisioner" "me" {}
data "coder_task" "me" {}
data "coder_workspace_tags" "tags" {}

data "coder_parameter" "string" {
  name = "string"
}

data "coder_parameter" "optional" {
  name    = "optional"
  default = "x"
}

data "coder_external_auth" "github" {
  id = "github"
}

data "coder_workspace_preset" "small" {
  name = "small"
}

data "coder_script_order" "order" {
  rule {
    run   = ["coder_script.hello"]
    after = ["coder_script.first"]
  }
}

resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}

resource "coder_agent_instance" "main" {
  agent_id    = coder_agent.main.id
  instance_id = "i-123"
}

resource "coder_app" "web" {
  agent_id = coder_agent.main.id
  slug     = "web"
}

resource "coder_devcontainer" "repo" {
  agent_id         = coder_agent.main.id
  workspace_folder = "/repo"
}

resource "coder_env" "path" {
  agent_id = coder_agent.main.id
  name     = "PATH"
}

resource "coder_script" "first" {
  agent_id     = coder_agent.main.id
  display_name = "first"
  script       = "true"
  run_on_start = true
}

resource "coder_script" "hello" {
  agent_id     = coder_agent.main.id
  display_name = "hello"
  script       = "echo hello"
  cron         = "0 0 22 * * *"
}

resource "terraform_data" "machine" {
  input = coder_agent.main.id
}

resource "coder_metadata" "machine" {
  resource_id = terraform_data.machine.id
}

resource "coder_ai_task" "task" {
  app_id = coder_app.web.id
}

resource "coder_external_agent" "outside" {
  agent_id = coder_agent.main.id
}
