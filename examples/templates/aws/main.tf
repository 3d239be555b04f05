# Run it, where AWS credentials and its Terraform provider are at hand: outpost dev examples/templates/aws
#
# The workspace is a virtual machine that is stopped, not deleted, so it keeps its disk; its agent proves who it is by
# the identity document of the instance, and no token is in the user data.

terraform {
  required_version = ">= 1.4"
  required_providers {
    coder = {
      source  = "coder/coder"
      version = ">= 2.4"
    }
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }
}

data "coder_workspace" "me" {}
data "coder_workspace_owner" "me" {}

data "coder_parameter" "region" {
  name         = "region"
  display_name = "Region"
  type         = "string"
  default      = "eu-central-1"

  option {
    name  = "Frankfurt"
    value = "eu-central-1"
  }
  option {
    name  = "Ohio"
    value = "us-east-2"
  }
}

data "coder_parameter" "instance_type" {
  name         = "instance_type"
  display_name = "Instance type"
  type         = "string"
  default      = "t3.large"
  mutable      = true

  option {
    name  = "2 cores, 8 GiB"
    value = "t3.large"
  }
  option {
    name  = "4 cores, 16 GiB"
    value = "t3.xlarge"
  }
}

provider "aws" {
  region = data.coder_parameter.region.value
}

data "aws_ami" "ubuntu" {
  most_recent = true
  owners      = ["099720109477"] # Canonical

  filter {
    name   = "name"
    values = ["ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*"]
  }
}

resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
  auth = "aws-instance-identity"
}

resource "coder_agent_instance" "main" {
  count       = data.coder_workspace.me.start_count
  agent_id    = coder_agent.main.id
  instance_id = aws_instance.workspace.id
}

resource "aws_instance" "workspace" {
  ami           = data.aws_ami.ubuntu.id
  instance_type = data.coder_parameter.instance_type.value

  user_data = <<-EOT
    #!/bin/sh
    sudo -u ubuntu sh -c '${coder_agent.main.init_script}'
  EOT

  root_block_device {
    volume_size = 30
    encrypted   = true
  }
  metadata_options {
    http_tokens = "required"
  }
  tags = {
    Name = "coder-${data.coder_workspace_owner.me.name}-${data.coder_workspace.me.name}"
  }

  lifecycle {
    ignore_changes = [ami] # A newer image must not cost anybody a disk.
  }
}

resource "aws_ec2_instance_state" "workspace" {
  instance_id = aws_instance.workspace.id
  state       = data.coder_workspace.me.transition == "start" ? "running" : "stopped"
}

resource "coder_metadata" "workspace" {
  resource_id = aws_instance.workspace.id
  daily_cost  = data.coder_parameter.instance_type.value == "t3.xlarge" ? 8 : 4

  item {
    key   = "type"
    value = aws_instance.workspace.instance_type
  }
}
