mock_data "google_compute_default_service_account" {
  values = { email = "dev@a-project.example" }
}

mock_resource "google_compute_disk" "root" {
  values = { size = 50 }
}

run "start" {
  assert {
    condition     = output.account == "dev@a-project.example" && length(output.address) == 8
    error_message = "values must reach outputs: ${output.account}, ${output.address}"
  }
  assert {
    condition     = resource["google_compute_disk.root"].metadata.size == "50 GiB"
    error_message = "values must reach metadata"
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
