# Counted agents with apps of one slug, and facts about instances: refused by the reference, converted one by one here.

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

resource "terraform_data" "password" {
  count = 3
  input = "secret ${count.index}"
}

resource "coder_metadata" "password" {
  count       = 3
  resource_id = terraform_data.password[count.index].id
  item {
    key   = "number"
    value = count.index
  }
}

resource "coder_agent" "dev" {
  count = 2
  os    = "linux"
  arch  = "amd64"
}

resource "coder_app" "ide" {
  count        = 2
  agent_id     = coder_agent.dev[count.index].id
  slug         = "ide"
  display_name = "Editor ${count.index}"
  url          = "http://localhost:8080"
}

resource "coder_script" "only" {
  agent_id     = coder_agent.dev[0].id
  display_name = "Only the first"
  script       = "true"
  run_on_start = true
}

resource "terraform_data" "vm" {
  count = 2
  input = coder_agent.dev[count.index].os
}
