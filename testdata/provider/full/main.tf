# Every attribute of the coder provider, set.
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}

provider "coder" {
  url = "https://coder.example.com:8443/some/path"
}

data "coder_workspace" "me" {}
data "coder_workspace_owner" "me" {}

data "coder_workspace_tags" "tags" {
  tags = {
    zone = data.coder_parameter.region.value
    env  = "test"
  }
}

data "coder_parameter" "region" {
  name         = "region"
  display_name = "Region"
  description  = "Where it runs"
  type         = "string"
  form_type    = "dropdown"
  styling      = jsonencode({ placeholder = "somewhere" })
  mutable      = true
  default      = "eu"
  icon         = "/icon/map.svg"
  order        = 3
  option {
    name        = "Europe"
    value       = "eu"
    description = "There"
    icon        = "/emojis/1f1ea-1f1fa.png"
  }
  option {
    name  = "America"
    value = "us"
  }
}

data "coder_parameter" "cores" {
  name      = "cores"
  type      = "number"
  form_type = "slider"
  default   = 4
  mutable   = true
  ephemeral = true
  validation {
    min       = 1
    max       = 8
    monotonic = "increasing"
    error     = "{value} is not in {min}..{max}"
  }
}

data "coder_parameter" "max_only" {
  name    = "max only"
  type    = "number"
  default = 0
  validation {
    max = 0
  }
}

data "coder_parameter" "name" {
  name    = "name"
  default = "abc"
  validation {
    regex = "^[a-z]+$"
    error = "lower case only"
  }
}

data "coder_parameter" "flag" {
  name    = "flag"
  type    = "bool"
  default = "true"
}

data "coder_parameter" "list" {
  name      = "list"
  type      = "list(string)"
  form_type = "multi-select"
  default   = jsonencode(["a", "b"])
  option {
    name  = "A"
    value = "a"
  }
  option {
    name  = "B"
    value = "b"
  }
}

data "coder_external_auth" "gitlab" {
  id       = "gitlab"
  optional = true
}

data "coder_workspace_preset" "big" {
  name        = "big"
  description = "A big one"
  icon        = "/icon/memory.svg"
  default     = true
  parameters = {
    region = "us"
    cores  = 8
  }
  prebuilds {
    instances = 2
    expiration_policy {
      ttl = 86400
    }
    scheduling {
      timezone = "Europe/Berlin"
      schedule {
        cron      = "* 8-17 * * 1-5"
        instances = 3
      }
      schedule {
        cron      = "* 9-12 * * 6,0"
        instances = 1
      }
    }
  }
}

data "coder_script_order" "order" {
  rule {
    run      = ["coder_script.all", "module.x"]
    after    = ["coder_script.other[0]"]
    requires = "completion"
    phase    = "start"
  }
  rule {
    run   = ["coder_script.other"]
    after = ["module.y"]
  }
}

resource "coder_agent" "main" {
  os                      = "linux"
  arch                    = "arm64"
  auth                    = "aws-instance-identity"
  api_key_scope           = "no_user_data"
  dir                     = "/home/coder"
  startup_script          = "echo start"
  shutdown_script         = "echo stop"
  startup_script_behavior = "blocking"
  connection_timeout      = 30
  troubleshooting_url     = "https://example.com/help"
  motd_file               = "/etc/motd"
  order                   = 7
  env = {
    A = "1"
    B = data.coder_workspace.me.name
  }
  metadata {
    key          = "cpu"
    display_name = "CPU"
    script       = "uptime"
    timeout      = 3
    interval     = 10
    order        = 2
  }
  metadata {
    key      = "mem"
    script   = "free"
    interval = 20
  }
  display_apps {
    vscode       = false
    web_terminal = false
  }
  resources_monitoring {
    memory {
      enabled   = true
      threshold = 80
    }
    volume {
      path      = "/a"
      enabled   = true
      threshold = 50
    }
    volume {
      path      = "/b"
      enabled   = false
      threshold = 60
    }
  }
}

resource "coder_agent" "none" {
  os   = "windows"
  arch = "amd64"
  display_apps {
    vscode                 = false
    vscode_insiders        = false
    web_terminal           = false
    port_forwarding_helper = false
    ssh_helper             = false
  }
}

resource "coder_app" "web" {
  agent_id     = coder_agent.main.id
  slug         = "web-1"
  display_name = "Web"
  icon         = "/icon/code.svg"
  url          = "http://localhost:8080"
  subdomain    = true
  share        = "public"
  group        = "Tools"
  order        = 4
  open_in      = "tab"
  tooltip      = "**hi**"
  healthcheck {
    url       = "http://localhost:8080/healthz"
    interval  = 5
    threshold = 6
  }
}

resource "coder_app" "hidden" {
  agent_id     = coder_agent.main.id
  slug         = "hidden"
  display_name = "Hidden"
  icon         = "/icon/code.svg"
  order        = 1
  command      = "htop"
  hidden       = true
}

resource "coder_app" "external" {
  agent_id = coder_agent.main.id
  slug     = "docs"
  url      = "https://example.com/docs"
  external = true
}

resource "coder_devcontainer" "repo" {
  agent_id         = coder_agent.main.id
  workspace_folder = "/repo"
  config_path      = "/repo/devcontainer.json"
}

resource "coder_env" "path" {
  agent_id       = coder_agent.main.id
  name           = "PATH"
  value          = "/opt/bin"
  merge_strategy = "prepend"
}

resource "coder_script" "all" {
  agent_id           = coder_agent.main.id
  display_name       = "all"
  icon               = "/icon/x.svg"
  log_path           = "all.log"
  script             = "echo all"
  cron               = "0 0 22 * * *"
  start_blocks_login = true
  run_on_start       = true
  run_on_stop        = true
  timeout            = 60
}

resource "terraform_data" "machine" {
  input = coder_agent.main.id
}

resource "coder_metadata" "machine" {
  resource_id = terraform_data.machine.id
  hide        = true
  icon        = "/icon/server.svg"
  daily_cost  = 29
  item {
    key   = "hello"
    value = "world"
  }
  item {
    key = "null"
  }
  item {
    key   = "empty"
    value = ""
  }
  item {
    key       = "secret"
    value     = "squirrel"
    sensitive = true
  }
}

resource "coder_ai_task" "task" {
  sidebar_app {
    id = coder_app.web.id
  }
}
