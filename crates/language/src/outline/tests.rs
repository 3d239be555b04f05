use super::*;

const CONTAINER: &str = r#"
data "coder_workspace" "me" {}
data "coder_parameter" "region" {
  name    = "region"
  default = "eu"
}
locals {
  running = data.coder_workspace.me.start_count
  agent   = coder_agent.main
}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "coder_app" "ide" {
  agent_id = local.agent.id
  slug     = "ide"
}
resource "docker_volume" "home" {
  name = "home-${data.coder_workspace.me.id}"
}
resource "docker_container" "workspace" {
  count = local.running
  env   = ["CODER_AGENT_TOKEN=${local.agent.token}"]
  volumes {
    volume_name = docker_volume.home.name
  }
}
resource "docker_image" "many" {
  for_each = toset(["a", "b"])
  name     = each.value
}
"#;

fn by_address<'a>(outline: &'a Outline, address: &str) -> &'a OutlinedResource {
    let found = outline
        .resources
        .iter()
        .find(|resource| resource.address == address);
    found.unwrap_or_else(|| panic!("no {address} in {outline:#?}"))
}

#[test]
fn what_is_counted_by_the_transition_is_told_apart() {
    let outline = outline_of(Module::parse([("main.tf", CONTAINER)]).unwrap());

    let count = |address| by_address(&outline, address).count;
    assert_eq!(count("docker_container.workspace"), Count::Transition);
    assert_eq!(count("docker_volume.home"), Count::One);
    assert_eq!(count("docker_image.many"), Count::Other);
}

#[test]
fn references_are_followed_through_local_values() {
    let outline = outline_of(Module::parse([("main.tf", CONTAINER)]).unwrap());

    let references = &by_address(&outline, "docker_container.workspace").references;
    assert_eq!(
        references,
        &[
            "coder_agent.main",
            "data.coder_workspace.me",
            "docker_volume.home"
        ]
    );
    assert_eq!(
        by_address(&outline, "coder_app.ide").references,
        ["coder_agent.main"]
    );
}

#[test]
fn agents_apps_and_parameters_show_their_texts() {
    let outline = outline_of(Module::parse([("main.tf", CONTAINER)]).unwrap());

    assert_eq!(outline.agents().next().unwrap().text("os"), Some("linux"));
    assert_eq!(outline.apps().next().unwrap().text("slug"), Some("ide"));
    assert_eq!(
        outline.parameters().next().unwrap().text("default"),
        Some("eu")
    );
    assert_eq!(outline.apps().next().unwrap().text("agent_id"), None);
}

#[test]
fn local_modules_are_part_of_the_picture() {
    let dir = tempfile::tempdir().unwrap();
    let root = r#"
data "coder_workspace" "me" {}
module "agent" {
  source = "./agent"
}
module "vm" {
  source = "./vm"
  token  = module.agent.token
  on     = data.coder_workspace.me.transition == "start"
}
module "counted" {
  source = "./vm"
  count  = data.coder_workspace.me.start_count
}
module "fetched" {
  source = "registry.example.com/a/b/c"
}
"#;
    let agent =
        "resource \"coder_agent\" \"a\" {}\noutput \"token\" {\n value = coder_agent.a.token\n}\n";
    let vm = "variable \"token\" {}\nvariable \"on\" {}\nresource \"cloud_vm\" \"x\" {\n count = var.on ? 1 : 0\n user_data = var.token\n}\nresource \"cloud_disk\" \"y\" {}\n";
    std::fs::write(dir.path().join("main.tf"), root).unwrap();
    for (name, text) in [("agent", agent), ("vm", vm)] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("main.tf"), text).unwrap();
    }

    let outline = outline(dir.path()).unwrap();

    let vm = by_address(&outline, "module.vm.cloud_vm.x");
    assert_eq!(vm.count, Count::Transition);
    assert_eq!(
        vm.references,
        ["data.coder_workspace.me", "module.agent.coder_agent.a"]
    );
    assert_eq!(
        by_address(&outline, "module.vm.cloud_disk.y").count,
        Count::One
    );
    assert_eq!(
        by_address(&outline, "module.counted.cloud_disk.y").count,
        Count::Transition
    );
    let fetched = (
        "module.fetched".to_owned(),
        "registry.example.com/a/b/c".to_owned(),
    );
    assert_eq!(outline.missing_modules, [fetched]);
}

#[test]
fn a_module_that_calls_itself_comes_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let text = "module \"a\" {\n source = \"./\"\n x = local.l\n}\nmodule \"b\" {\n source = \"./\"\n}\nlocals {\n l = local.l\n}\nresource \"r_s\" \"t\" {\n count = local.l\n}\n";
    std::fs::write(dir.path().join("main.tf"), text).unwrap();

    let outline = outline(dir.path()).unwrap();

    assert!(outline.resources.len() > 1 && !outline.missing_modules.is_empty());
}

/// Cubic work would take hours here, and recursion would overflow the stack.
#[test]
fn chains_of_thousands_are_followed_link_by_link() {
    const LINKS: usize = 5000;
    let mut text = String::from("resource \"a_b\" \"r0\" {\n}\nlocals {\n  l0 = a_b.r0.id\n}\n");
    for link in 1..LINKS {
        let before = link - 1;
        text.push_str(&format!(
            "resource \"a_b\" \"r{link}\" {{\n  depends_on = [a_b.r{before}]\n}}\n\
             locals {{\n  l{link} = local.l{before}\n}}\n"
        ));
    }
    text.push_str(&format!(
        "resource \"a_b\" \"end\" {{\n  x = local.l{}\n}}\n",
        LINKS - 1
    ));

    let outline = outline_of(Module::parse([("main.tf", text.as_str())]).unwrap());

    assert_eq!(outline.resources.len(), LINKS + 1);
    let references = |address| by_address(&outline, address).references.clone();
    assert_eq!(references("a_b.r4999"), ["a_b.r4998"]);
    assert_eq!(references("a_b.end"), ["a_b.r0"]);
}
