# Every mistake that is found when data sources are read and resources are planned.
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}

resource "coder_agent" "metadata" {
  os   = "linux"
  arch = "amd64"
  metadata {
    key      = "twice"
    script   = "a"
    interval = 1
  }
  metadata {
    key      = "twice"
    script   = "b"
    interval = 1
  }
}

resource "coder_agent" "volumes" {
  os   = "linux"
  arch = "amd64"
  resources_monitoring {
    volume {
      path      = "/a"
      enabled   = true
      threshold = 1
    }
    volume {
      path      = "/a"
      enabled   = true
      threshold = 2
    }
  }
}

resource "coder_app" "external" {
  for_each = toset(["", "localhost:8080", "my-repo", "tel:555", "//example.com"])
  agent_id = "x"
  slug     = "docs"
  url      = each.value
  external = true
}

resource "coder_app" "external_without_url" {
  agent_id = "x"
  slug     = "docs"
  external = true
}

resource "coder_metadata" "twice" {
  resource_id = "x"
  item {
    key = "twice"
  }
  item {
    key = "twice"
  }
}

data "coder_external_auth" "empty" {
  id = ""
}

data "coder_workspace_preset" "overlap" {
  name = "overlap"
  prebuilds {
    instances = 1
    scheduling {
      timezone = "UTC"
      schedule {
        cron      = "* 8-12 * * 1-5"
        instances = 1
      }
      schedule {
        cron      = "* 12-18 * * 1-5"
        instances = 1
      }
    }
  }
}

data "coder_workspace_preset" "names" {
  name = "names"
  prebuilds {
    instances = 1
    scheduling {
      timezone = "UTC"
      schedule {
        cron      = "* 8 * * mon"
        instances = 1
      }
      schedule {
        cron      = "* 9 * * tue"
        instances = 1
      }
    }
  }
}

data "coder_parameter" "immutable_ephemeral" {
  name      = "a"
  default   = "x"
  ephemeral = true
}

data "coder_parameter" "ephemeral_required" {
  name      = "a"
  mutable   = true
  ephemeral = true
}

data "coder_parameter" "same_names" {
  name = "a"
  option {
    name  = "a"
    value = "1"
  }
  option {
    name  = "a"
    value = "2"
  }
}

data "coder_parameter" "same_values" {
  name = "a"
  option {
    name  = "a"
    value = "1"
  }
  option {
    name  = "b"
    value = "1"
  }
}

data "coder_parameter" "option_type" {
  for_each = { number = "x", bool = "maybe", "list(string)" = "a" }
  name     = "a"
  type     = each.key
  option {
    name  = "a"
    value = each.value
  }
}

data "coder_parameter" "not_an_option" {
  name    = "a"
  default = "c"
  option {
    name  = "a"
    value = "a"
  }
}

data "coder_parameter" "multi_select_elements" {
  name      = "a"
  type      = "list(string)"
  form_type = "multi-select"
  default   = jsonencode(["a", "x", "y"])
  option {
    name  = "a"
    value = "a"
  }
}

data "coder_parameter" "multi_select_text" {
  name      = "a"
  type      = "list(string)"
  form_type = "multi-select"
  default   = "a"
  option {
    name  = "a"
    value = "a"
  }
}

data "coder_parameter" "type" {
  for_each = { number = "x", bool = "yes", "list(string)" = "a" }
  name     = "a"
  type     = each.key
  default  = each.value
}

data "coder_parameter" "below" {
  name    = "a"
  type    = "number"
  default = 0
  validation {
    min = 1
  }
}

data "coder_parameter" "above" {
  name    = "a"
  type    = "number"
  default = 9
  validation {
    max   = 8
    error = "{value} is over {max}, not over {min}"
  }
}

data "coder_parameter" "fraction" {
  name    = "a"
  type    = "number"
  default = 1.5
  validation {
    min = 1
  }
}

data "coder_parameter" "monotonic" {
  name    = "a"
  type    = "number"
  default = 1
  validation {
    monotonic = "sideways"
  }
}

data "coder_parameter" "min_of_a_string" {
  name    = "a"
  default = "x"
  validation {
    min = 0
  }
}

data "coder_parameter" "max_of_a_bool" {
  name    = "a"
  type    = "bool"
  default = "true"
  validation {
    max = 0
  }
}

data "coder_parameter" "monotonic_list" {
  name    = "a"
  type    = "list(string)"
  default = "[]"
  validation {
    monotonic = "increasing"
  }
}

data "coder_parameter" "regex_of_a_number" {
  name    = "a"
  type    = "number"
  default = 1
  validation {
    regex = "1"
  }
}

data "coder_parameter" "regex_without_error" {
  name    = "a"
  default = "x"
  validation {
    regex = "^x$"
  }
}

data "coder_parameter" "regex_mismatch" {
  name    = "a"
  default = "X"
  validation {
    regex = "^x$"
    error = "lower case"
  }
}

data "coder_parameter" "regex_broken" {
  name    = "a"
  default = "X"
  validation {
    regex = "("
    error = "lower case"
  }
}

data "coder_parameter" "validated_bool" {
  name    = "a"
  type    = "bool"
  default = "1"
  validation {
    error = "x"
  }
}

data "coder_parameter" "validated_list" {
  name    = "a"
  type    = "list(string)"
  default = "x"
  validation {
    error = "x"
  }
}

data "coder_parameter" "validated_but_missing" {
  name = "a"
  type = "number"
  validation {
    min = 1
  }
}
