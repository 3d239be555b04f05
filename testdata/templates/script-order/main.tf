# Scripts in an order: by name, by module and by count, at the start and at the stop.

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

resource "terraform_data" "vm" {
  input = coder_agent.main.id
}

resource "coder_script" "clone" {
  agent_id     = coder_agent.main.id
  display_name = "Clone"
  script       = "git clone"
  run_on_start = true
}

resource "coder_script" "install" {
  count        = 2
  agent_id     = coder_agent.main.id
  display_name = "Install ${count.index}"
  script       = "install ${count.index}"
  run_on_start = true
}

resource "coder_script" "greet" {
  agent_id     = coder_agent.main.id
  display_name = "Greet"
  script       = "echo hello"
  run_on_start = true
}

module "tools" {
  for_each = toset(["editor", "shell"])
  source   = "./tools"
  agent_id = coder_agent.main.id
  tool     = each.key
}

resource "coder_script" "save" {
  agent_id     = coder_agent.main.id
  display_name = "Save"
  script       = "save"
  run_on_stop  = true
}

resource "coder_script" "park" {
  agent_id     = coder_agent.main.id
  display_name = "Park"
  script       = "park"
  run_on_stop  = true
}

data "coder_script_order" "startup" {
  rule {
    run   = ["coder_script.install"]
    after = ["coder_script.clone"]
  }
  rule {
    run      = ["module.tools"]
    after    = ["coder_script.install[1]"]
    requires = "completion"
  }
}

data "coder_script_order" "shutdown" {
  rule {
    run   = ["coder_script.park"]
    after = ["coder_script.save"]
    phase = "stop"
  }
}
