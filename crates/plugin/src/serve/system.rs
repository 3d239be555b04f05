//! The services of HashiCorp's plugin system: one ends the plugin, the others accept streams and stay silent.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use outpost_wire::proto::plugin::{
    ConnInfo, Empty, StdioData, grpc_broker_server::GrpcBroker,
    grpc_controller_server::GrpcController, grpc_stdio_server::GrpcStdio,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// A stream without messages until the plugin ends.
type Silence<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn silence<T: Send + 'static>(done: &CancellationToken) -> Response<Silence<T>> {
    let end = done.clone().cancelled_owned();
    Response::new(stream::pending().take_until(end).boxed())
}

/// Ends the plugin on Terraform's request.
pub(super) struct Controller(pub(super) CancellationToken);

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.0.cancel();
        Ok(Response::new(Empty {}))
    }
}

/// Offers no additional connections.
pub(super) struct Broker(pub(super) CancellationToken);

#[tonic::async_trait]
impl GrpcBroker for Broker {
    type StartStreamStream = Silence<ConnInfo>;

    async fn start_stream(
        &self,
        _: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        Ok(silence(&self.0))
    }
}

/// Forwards no output to Terraform.
pub(super) struct Stdio(pub(super) CancellationToken);

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    type StreamStdioStream = Silence<StdioData>;

    async fn stream_stdio(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(silence(&self.0))
    }
}
