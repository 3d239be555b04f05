//! Generated protobuf types, one module for each package. `tests/it/proto_fresh.rs` generates them; nobody edits
//! them.
//!
//! They stop at the border: engines and services convert them into the types of [`outpost_base::job`].
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated"
)]

/// Descriptors of the `.proto` files of our own API, as a `FileDescriptorSet`, for reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!("proto/outpost_descriptor.bin");

pub mod provisioner {
    include!("proto/provisioner.rs");
}
pub mod provisionerd {
    include!("proto/provisionerd.rs");
}
pub mod outpost {
    pub mod v1 {
        include!("proto/outpost.v1.rs");
    }
}
pub mod plugin {
    include!("proto/plugin.rs");
}
pub mod tfplugin5 {
    include!("proto/tfplugin5.rs");
}
pub mod coder {
    pub mod agent {
        pub mod v2 {
            include!("proto/coder.agent.v2.rs");
        }
    }
    pub mod agentsocket {
        pub mod v1 {
            include!("proto/coder.agentsocket.v1.rs");
        }
    }
    pub mod tailnet {
        pub mod v2 {
            include!("proto/coder.tailnet.v2.rs");
        }
    }
}
