# Parameters of every kind, bounds of zero included, those of a module first; presets with schedules.

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

data "coder_parameter" "size" {
  name      = "size"
  type      = "number"
  default   = 5
  mutable   = true
  order     = 2
  form_type = "slider"
  validation {
    min       = 0
    max       = 10
    monotonic = "increasing"
  }
}

data "coder_parameter" "least" {
  name    = "least"
  type    = "number"
  default = 0
  validation {
    min = 0
  }
}

data "coder_parameter" "most" {
  name    = "most"
  type    = "number"
  default = 0
  validation {
    max = 0
  }
}

data "coder_parameter" "name" {
  name         = "name"
  display_name = "Your name"
  default      = "ann"
  validation {
    regex = "^[a-z]+$"
    error = "lower case"
  }
}

data "coder_parameter" "region" {
  name    = "region"
  default = "eu"
  icon    = "/icon/globe.svg"
  option {
    name  = "Europe"
    value = "eu"
    icon  = "/emojis/1f1ea-1f1fa.png"
  }
  option {
    name        = "America"
    description = "West"
    value       = "us"
  }
}

data "coder_parameter" "tags" {
  name      = "tags"
  type      = "list(string)"
  form_type = "tag-select"
  default   = jsonencode(["a"])
}

data "coder_parameter" "now" {
  name      = "now"
  type      = "bool"
  default   = false
  mutable   = true
  ephemeral = true
}

data "coder_workspace_preset" "large" {
  name    = "Large"
  default = true
  parameters = {
    size   = 9
    region = "us"
    gone   = "x"
  }
  prebuilds {
    instances = 2
    expiration_policy {
      ttl = 86400
    }
    scheduling {
      timezone = "Europe/Berlin"
      schedule {
        cron      = "* 8-18 * * 1-5"
        instances = 4
      }
      schedule {
        cron      = "* 8-14 * * 6"
        instances = 1
      }
    }
  }
}

data "coder_workspace_preset" "small" {
  name       = "Small"
  parameters = { size = 1 }
}

module "more" {
  source = "./more"
}
