mock_resource "azurerm_managed_disk" "home[\"home\"]" {
  values = { id = "/disks/home" }
}

run "start" {
  assert {
    condition     = output.disk == "/disks/home"
    error_message = "the disk's id is ${output.disk}"
  }
  golden = "start.txt"
}

run "stop" {
  transition = "stop"
  golden     = "stop.txt"
}

run "start_again" {
  golden = "start_again.txt"
}

run "delete" {
  transition = "delete"
  golden     = "delete.txt"
}
