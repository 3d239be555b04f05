# Agents in a module with for_each have its keys in their names; the reference does not find them on the graph.

terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "2.20.0"
    }
  }
}

module "machine" {
  source   = "./machine"
  for_each = toset(["east", "west"])
}
