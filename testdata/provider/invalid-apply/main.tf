# Every mistake that is found when resources are made.
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}

resource "coder_script" "never" {
  agent_id     = "x"
  display_name = "never"
  script       = "true"
}

resource "coder_script" "empty_cron" {
  agent_id     = "x"
  display_name = "never"
  script       = "true"
  cron         = null
  run_on_start = false
}

resource "coder_script" "blocks" {
  agent_id           = "x"
  display_name       = "blocks"
  script             = "true"
  run_on_stop        = true
  start_blocks_login = true
}

resource "coder_ai_task" "nothing" {}
