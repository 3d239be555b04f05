# An agent in a module runs where its output leads (coder/coder#13342).

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

module "dev" {
  source = "./dev"
}

resource "terraform_data" "deployment" {
  input = module.dev.os
}
