//! Wire protocols: generated protobuf types, and the nouns as Coder's messages.

pub mod messages;
pub mod proto;
