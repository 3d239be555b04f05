terraform {
  required_providers {
    coder = {
      source = "coder/coder"
    }
  }
}

resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}

resource "coder_env" "path" {
  agent_id = coder_agent.main.id
  name     = "JAVA_HOME"
  value    = "/opt/java"
}

output "os" {
  value = coder_agent.main.os
}
