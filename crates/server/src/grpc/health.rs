//! The standard health service (etcd server/etcdserver/api/v3rpc/health.go): the server as a whole, under the empty name.

use std::pin::Pin;

use proto::health::health_check_response::ServingStatus;
use proto::health::health_server::Health;
use proto::health::{HealthCheckRequest, HealthCheckResponse};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::Api;
use crate::listener::stopped;
use crate::metrics::rpc::Method;

impl Api {
    fn serving(&self) -> ServingStatus {
        let defragmenting = self.member.metrics.defrag_inflight.get() > 0;
        match self.member.config.features.stop_grpc_on_defrag && defragmenting {
            true => ServingStatus::NotServing,
            false => ServingStatus::Serving,
        }
    }
}

#[tonic::async_trait]
impl Health for Api {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        self.unary(Method::HealthCheck, request.metadata(), |_| async move {
            Ok(HealthCheckResponse {
                status: self.serving().into(),
            })
        })
        .await
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (call, ..) = self.stream(Method::HealthWatch, request.metadata()).await?;
        call.received();
        let known = request.get_ref().service.is_empty();
        let status = if known {
            self.serving()
        } else {
            ServingStatus::ServiceUnknown
        };
        let (answers, stream) = mpsc::channel(1);
        let mut stop = self.member.stop.clone();
        tokio::spawn(async move {
            if answers
                .send(Ok(HealthCheckResponse { status: status.into() }))
                .await
                .is_ok()
            {
                call.sent();
            }
            tokio::select! {
                () = answers.closed() => call.end(Code::Cancelled),
                () = stopped(&mut stop) => {
                    let over = HealthCheckResponse { status: ServingStatus::NotServing.into() };
                    answers.send(Ok(over)).await.ok();
                    call.end(Code::Ok);
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
