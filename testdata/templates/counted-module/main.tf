# An agent in a counted module is an error, as in the reference.

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

module "machine" {
  source = "./machine"
  count  = 1
}
