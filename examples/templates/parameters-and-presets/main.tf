# Run it: outpost dev examples/templates/parameters-and-presets --preset "Large, in Europe"
#
# Every kind of question that a template can ask, and sets of answers to pick from.

terraform {
  required_version = ">= 1.4"
  required_providers {
    coder = {
      source  = "coder/coder"
      version = ">= 2.8"
    }
  }
}

variable "largest_disk" {
  type        = number
  description = "The largest disk that people may ask for, in GiB."
  default     = 100
}

data "coder_provisioner" "me" {}
data "coder_workspace" "me" {}

data "coder_parameter" "region" {
  name         = "region"
  display_name = "Region"
  description  = "Where the workspace runs. It cannot move later."
  type         = "string"
  form_type    = "radio"
  default      = "eu"
  order        = 1

  option {
    name        = "Europe"
    description = "Frankfurt"
    value       = "eu"
    icon        = "/emojis/1f1ea-1f1fa.png"
  }
  option {
    name        = "United States"
    description = "Ohio"
    value       = "us"
    icon        = "/emojis/1f1fa-1f1f8.png"
  }
}

data "coder_parameter" "cores" {
  name         = "cores"
  display_name = "Cores"
  type         = "number"
  form_type    = "slider"
  default      = 2
  mutable      = true
  order        = 2

  validation {
    min = 1
    max = 16
  }
}

data "coder_parameter" "disk" {
  name         = "disk"
  display_name = "Disk"
  description  = "Size in GiB. It can grow, and never shrinks."
  type         = "number"
  default      = 20
  mutable      = true
  order        = 3

  validation {
    min       = 10
    max       = var.largest_disk
    monotonic = "increasing"
    error     = "The disk has {min} to {max} GiB and cannot shrink."
  }
}

data "coder_parameter" "tools" {
  name         = "tools"
  display_name = "Tools"
  type         = "list(string)"
  form_type    = "multi-select"
  default      = jsonencode(["git"])
  mutable      = true
  order        = 4

  option {
    name  = "Git"
    value = "git"
  }
  option {
    name  = "Go"
    value = "go"
  }
  option {
    name  = "Rust"
    value = "rust"
  }
}

data "coder_parameter" "dotfiles" {
  name         = "dotfiles"
  display_name = "Dotfiles"
  description  = "Git repository with your own settings, or nothing."
  type         = "string"
  default      = ""
  mutable      = true
  order        = 5

  validation {
    regex = "^$|^https://"
    error = "Enter an https:// URL, or nothing."
  }
}

data "coder_parameter" "clean" {
  name         = "clean"
  display_name = "Clean caches"
  description  = "Counts for one start only."
  type         = "bool"
  default      = false
  mutable      = true
  ephemeral    = true
  order        = 6
}

data "coder_workspace_preset" "small" {
  name    = "Small"
  default = true
  parameters = {
    (data.coder_parameter.cores.name) = 2
    (data.coder_parameter.disk.name)  = 20
  }
}

data "coder_workspace_preset" "large" {
  name        = "Large, in Europe"
  description = "For builds of everything."
  parameters = {
    (data.coder_parameter.region.name) = "eu"
    (data.coder_parameter.cores.name)  = 16
    (data.coder_parameter.disk.name)   = 80
    (data.coder_parameter.tools.name)  = jsonencode(["git", "rust"])
  }
}

resource "coder_agent" "main" {
  os   = data.coder_provisioner.me.os
  arch = data.coder_provisioner.me.arch

  env = {
    TOOLS    = join(" ", jsondecode(data.coder_parameter.tools.value))
    DOTFILES = data.coder_parameter.dotfiles.value
  }
}

# `terraform_data` stands for the disk and the machine of a cloud, so that this example applies anywhere.
resource "terraform_data" "disk" {
  input = "${data.coder_parameter.disk.value} GiB in ${data.coder_parameter.region.value}"
}

resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count

  input = {
    cores = data.coder_parameter.cores.value
    disk  = terraform_data.disk.id
    clean = data.coder_parameter.clean.value
  }
  triggers_replace = coder_agent.main.token
}

resource "coder_metadata" "disk" {
  resource_id = terraform_data.disk.id
  daily_cost  = ceil(data.coder_parameter.disk.value / 20)

  item {
    key   = "capacity"
    value = terraform_data.disk.output
  }
}
