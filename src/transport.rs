//! How jobs travel: in memory and over gRPC.
