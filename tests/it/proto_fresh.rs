//! The committed protobuf code is what our `.proto` files give.
//!
//! `UPDATE_PROTO=1 cargo test proto_fresh` writes it anew. No `protoc` is needed.

use std::{collections::BTreeMap, fs, path::Path};

/// Everything that is generated; imports are found by themselves.
const FILES: [&str; 2] = ["outpost/v1/control.proto", "outpost/v1/daemon.proto"];
/// Generated too, but not described to clients of our API: what Terraform speaks with providers.
const PLUGIN_FILES: [&str; 2] = ["plugin.proto", "tfplugin5.proto"];
/// Generated too, likewise not described: what agents speak with a Coder server, and programs in a workspace with them.
const AGENT_FILES: [&str; 2] = ["agent.proto", "agentsocket.proto"];

#[test]
fn committed_protobuf_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(FILES, [root.join("proto")]).unwrap();
    fs::write(
        out.path().join("outpost_descriptor.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )
    .unwrap();
    let plugin_files = protox::compile(PLUGIN_FILES, [root.join("proto")]).unwrap();
    let agent_files = protox::compile(AGENT_FILES, [root.join("proto")]).unwrap();
    for descriptors in [descriptors, plugin_files, agent_files] {
        tonic_prost_build::configure()
            .build_transport(false)
            .bytes(".")
            .btree_map(".")
            .out_dir(out.path())
            .emit_rerun_if_changed(false)
            .compile_fds(descriptors)
            .unwrap();
    }

    let (made, committed) = (
        read_all(out.path()),
        read_all(&root.join("crates/wire/src/proto")),
    );
    if std::env::var_os("UPDATE_PROTO").is_some() {
        for (name, content) in &made {
            fs::write(root.join("crates/wire/src/proto").join(name), content).unwrap();
        }
        return;
    }
    let stale: Vec<_> = made
        .keys()
        .chain(committed.keys())
        .filter(|name| made.get(*name) != committed.get(*name))
        .collect();
    assert!(
        stale.is_empty(),
        "stale in crates/wire/src/proto: {stale:?}; run UPDATE_PROTO=1 cargo test proto_fresh"
    );
}

fn read_all(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}
