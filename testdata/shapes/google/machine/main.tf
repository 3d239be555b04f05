variable "running" {}
variable "disk" {}
variable "script" {}
variable "account" {}

resource "google_compute_instance" "dev" {
  count        = var.running
  name         = "coder-dev"
  machine_type = "e2-medium"
  boot_disk {
    auto_delete = false
    source      = var.disk
  }
  network_interface {
    network = "default"
    access_config {
    }
  }
  service_account {
    email  = var.account
    scopes = ["cloud-platform"]
  }
  metadata_startup_script = var.script
}

output "id" {
  value = one(google_compute_instance.dev[*].instance_id)
}

output "address" {
  value = try(google_compute_instance.dev[0].network_interface[0].access_config[0].nat_ip, "")
}
