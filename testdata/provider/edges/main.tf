# Values at the edges: empty texts, zeros, nulls, empty collections and blocks, values known only at apply.
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}

data "coder_parameter" "empty" {
  name         = "empty"
  display_name = ""
  description  = ""
  icon         = ""
  default      = ""
  form_type    = null
  styling      = null
  mutable      = null
  order        = 0
  type         = null
}

data "coder_parameter" "unset" {
  name    = "unset"
  default = null
}

data "coder_parameter" "validated" {
  name    = "validated"
  default = "a"
  validation {
    regex = ""
    error = ""
  }
}

data "coder_parameter" "late" {
  name    = "late"
  default = terraform_data.machine.id
}

data "coder_external_auth" "github" {
  id       = "github"
  optional = false
}

data "coder_workspace_tags" "tags" {
  tags = {}
}

data "coder_workspace_preset" "zero" {
  name        = "zero"
  description = ""
  icon        = ""
  default     = false
  parameters  = {}
  prebuilds {
    instances = 0
    expiration_policy {
      ttl = 0
    }
  }
}

resource "terraform_data" "machine" {
  input = "x"
}

resource "coder_agent" "empty" {
  os                  = "darwin"
  arch                = "armv7"
  dir                 = ""
  startup_script      = ""
  shutdown_script     = null
  troubleshooting_url = ""
  motd_file           = ""
  order               = 0
  connection_timeout  = 0
  auth                = null
  env                 = {}
  metadata {
    key      = ""
    script   = ""
    interval = 0
    timeout  = 0
    order    = 0
  }
  display_apps {}
  resources_monitoring {
    memory {
      enabled   = false
      threshold = 0
    }
  }
}

resource "coder_agent" "late" {
  os   = "linux"
  arch = "amd64"
  dir  = terraform_data.machine.id
  env = {
    ID = terraform_data.machine.id
    NO = "1"
  }
  metadata {
    key      = "k"
    script   = terraform_data.machine.id
    interval = 1
  }
  resources_monitoring {
    volume {
      path      = "/${terraform_data.machine.id}"
      enabled   = true
      threshold = 100
    }
  }
}

resource "coder_app" "empty" {
  agent_id     = ""
  slug         = "a"
  display_name = ""
  icon         = ""
  command      = ""
  group        = ""
  order        = 0
  tooltip      = ""
  hidden       = true
  share        = null
  open_in      = null
}

resource "coder_app" "late" {
  agent_id = coder_agent.late.id
  slug     = "late"
  url      = "http://${terraform_data.machine.id}"
  healthcheck {
    url       = "http://${terraform_data.machine.id}"
    interval  = 0
    threshold = 0
  }
}

resource "coder_env" "empty" {
  agent_id       = coder_agent.late.id
  name           = "_"
  value          = ""
  merge_strategy = null
}

resource "coder_script" "empty" {
  agent_id           = coder_agent.late.id
  display_name       = ""
  icon               = ""
  log_path           = ""
  script             = ""
  run_on_start       = null
  run_on_stop        = true
  start_blocks_login = false
}

resource "coder_devcontainer" "empty" {
  agent_id         = coder_agent.late.id
  workspace_folder = "x"
  config_path      = ""
}

resource "coder_metadata" "empty" {
  resource_id = terraform_data.machine.id
  hide        = false
  icon        = ""
  daily_cost  = 0
  item {
    key       = ""
    sensitive = null
  }
  item {
    key   = "late"
    value = terraform_data.machine.id
  }
}
