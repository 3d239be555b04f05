# Two coder_metadata about one resource are an error.

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

resource "terraform_data" "vm" {}

resource "coder_metadata" "a" {
  resource_id = terraform_data.vm.id
}

resource "coder_metadata" "b" {
  resource_id = terraform_data.vm.id
}
