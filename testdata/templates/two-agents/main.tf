# Each agent has its own environment, scripts and thresholds; one has none.

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

resource "coder_agent" "dev" {
  os   = "linux"
  arch = "amd64"
  dir  = "/home/dev"
  env = {
    EDITOR = "vi"
  }
  startup_script          = "echo hello"
  startup_script_behavior = "blocking"
  shutdown_script         = "echo bye"
  metadata {
    display_name = "Load"
    key          = "load"
    script       = "cat /proc/loadavg"
    interval     = 10
    timeout      = 2
    order        = 3
  }
  resources_monitoring {
    memory {
      enabled   = true
      threshold = 80
    }
    volume {
      path      = "/z"
      enabled   = true
      threshold = 90
    }
    volume {
      path      = "/a"
      enabled   = false
      threshold = 50
    }
  }
}

resource "coder_agent" "build" {
  os            = "linux"
  arch          = "arm64"
  api_key_scope = "no_user_data"
  order         = 2
}

resource "coder_env" "first" {
  agent_id = coder_agent.dev.id
  name     = "PATH"
  value    = "/opt/bin"
}

resource "coder_env" "second" {
  agent_id       = coder_agent.dev.id
  name           = "PATH"
  value          = "/opt/other"
  merge_strategy = "append"
}

resource "coder_script" "install" {
  agent_id     = coder_agent.build.id
  display_name = "Install"
  script       = "make"
  run_on_start = true
  timeout      = 60
}

resource "coder_script" "clean" {
  agent_id     = coder_agent.build.id
  display_name = "Clean"
  script       = "make clean"
  cron         = "0 0 3 * * *"
}

resource "terraform_data" "vm" {
  input = [coder_agent.dev.os, coder_agent.build.os]
}
