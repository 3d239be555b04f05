# Every mistake that is found before anything is planned.
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}

resource "coder_agent" "enums" {
  os                      = "plan9"
  arch                    = "i386"
  auth                    = "password"
  api_key_scope           = "some"
  startup_script_behavior = "sometimes"
  connection_timeout      = -1
}

resource "coder_agent" "monitors" {
  os    = "linux"
  arch  = "amd64"
  order = 1.5
  resources_monitoring {
    memory {
      enabled   = true
      threshold = 101
    }
    volume {
      path      = ""
      enabled   = true
      threshold = -1
    }
    volume {
      path      = "relative"
      enabled   = true
      threshold = 50
    }
  }
}

resource "coder_agent" "id" {
  id   = "mine"
  os   = "linux"
  arch = "amd64"
}

resource "coder_app" "slug" {
  agent_id = "x"
  slug     = "Bad--slug"
  share    = "everyone"
  open_in  = "window"
  icon     = "http://exa mple.com"
}

resource "coder_app" "long" {
  agent_id     = "x"
  slug         = "long"
  display_name = join("", [for i in range(65) : "x"])
  group        = join("", [for i in range(65) : "x"])
  tooltip      = join("", [for i in range(1024) : "xxx"])
}

resource "coder_app" "command" {
  agent_id  = "x"
  slug      = "command"
  command   = "htop"
  url       = "http://localhost"
  subdomain = false
  healthcheck {
    url       = "http://localhost"
    interval  = 1
    threshold = 1
  }
}

resource "coder_app" "external" {
  agent_id  = "x"
  slug      = "external"
  url       = "https://example.com"
  external  = false
  share     = "owner"
  subdomain = true
  healthcheck {
    url       = "http://localhost"
    interval  = 1
    threshold = 1
  }
}

resource "coder_devcontainer" "empty" {
  agent_id         = "x"
  workspace_folder = ""
}

resource "coder_env" "name" {
  agent_id       = "x"
  name           = "1A"
  merge_strategy = "mix"
}

resource "coder_script" "cron_0" {
  agent_id     = "x"
  display_name = "cron"
  script       = "true"
  cron         = "x"
}

resource "coder_script" "cron_1" {
  agent_id     = "x"
  display_name = "cron"
  script       = "true"
  cron         = "* * * *"
}

resource "coder_script" "cron_2" {
  agent_id     = "x"
  display_name = "cron"
  script       = "true"
  cron         = "60 * * * * *"
}

resource "coder_script" "cron_3" {
  agent_id     = "x"
  display_name = "cron"
  script       = "true"
  cron         = "@never"
}

resource "coder_script" "cron_4" {
  agent_id     = "x"
  display_name = "cron"
  script       = "true"
  cron         = "0 0 22 * * 7"
}

resource "coder_script" "cron_5" {
  agent_id     = "x"
  display_name = "cron"
  script       = "true"
  cron         = ""
}

resource "coder_script" "unix" {
  agent_id     = "x"
  display_name = "unix"
  script       = "true"
  cron         = "0 22 * * 0"
  timeout      = 0
}

resource "coder_script" "unix_that_fits" {
  agent_id     = "x"
  display_name = "unix"
  script       = "true"
  cron         = "0 22 * * *"
}

resource "coder_metadata" "icon" {
  resource_id = "x"
  icon        = "%zz"
  daily_cost  = 0.5
}

resource "coder_ai_task" "both" {
  app_id = "no uuid"
  sidebar_app {
    id = "no uuid either"
  }
}

data "coder_parameter" "enums" {
  name      = "enums"
  type      = "object"
  form_type = "guess"
  icon      = ":"
  option {
    name  = "a"
    value = "a"
    icon  = "http://[::1"
  }
}

data "coder_parameter" "conflict" {
  name = "conflict"
  validation {
    regex     = "a"
    min       = 1
    max       = 2
    monotonic = "increasing"
  }
}

data "coder_workspace_preset" "texts" {
  name        = ""
  description = join("", [for i in range(129) : "x"])
  icon        = join("", [for i in range(257) : "x"])
  parameters = {
    empty = ""
  }
}

data "coder_workspace_preset" "prebuilds" {
  name = "prebuilds"
  prebuilds {
    instances = -1
    expiration_policy {
      ttl = 3599
    }
    scheduling {
      timezone = "Mars/Base"
      schedule {
        cron      = "30 8-18 * * 1-5"
        instances = 1
      }
      schedule {
        cron      = "* 8-18 * *"
        instances = 1
      }
      schedule {
        cron      = "* 25 * * *"
        instances = 1
      }
    }
  }
}

data "coder_script_order" "empty" {
  rule {
    run      = [""]
    after    = []
    requires = "luck"
    phase    = "middle"
  }
}

data "coder_external_auth" "optional" {
  id       = "x"
  optional = true
}
