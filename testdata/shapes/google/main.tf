# A virtual machine of Google's: its boot disk outlives a stop, and people see its address.

terraform {
  required_providers {
    coder  = { source = "coder/coder" }
    google = { source = "hashicorp/google" }
  }
}

variable "project" {
  default = "a-project"
}

provider "google" {
  zone    = data.coder_parameter.zone.value
  project = var.project
}

data "coder_workspace" "me" {}

data "coder_parameter" "zone" {
  name    = "zone"
  default = "europe-west3-b"
}

data "google_compute_default_service_account" "default" {}

resource "google_compute_disk" "root" {
  name  = "coder-${data.coder_workspace.me.id}-root"
  type  = "pd-ssd"
  zone  = data.coder_parameter.zone.value
  image = "debian-cloud/debian-12"

  lifecycle {
    ignore_changes = all
  }
}

resource "coder_agent" "main" {
  auth = "google-instance-identity"
  os   = "linux"
  arch = "amd64"
}

module "machine" {
  source  = "./machine"
  running = data.coder_workspace.me.start_count
  disk    = google_compute_disk.root.self_link
  script  = coder_agent.main.init_script
  account = data.google_compute_default_service_account.default.email
}

resource "coder_agent_instance" "main" {
  count       = data.coder_workspace.me.start_count
  agent_id    = coder_agent.main.id
  instance_id = module.machine.id
}

resource "coder_metadata" "disk" {
  resource_id = google_compute_disk.root.id

  item {
    key   = "size"
    value = "${google_compute_disk.root.size} GiB"
  }
}

output "address" {
  value = module.machine.address
}

output "account" {
  value = data.google_compute_default_service_account.default.email
}
