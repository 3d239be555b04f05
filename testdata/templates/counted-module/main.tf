# An agent in a counted module: the reference does not find it on the graph, here it is converted with its instance.

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
