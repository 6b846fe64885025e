//! Why a call failed, in the words of etcd's client.

use std::fmt;
use std::time::Instant;

use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The server's or the transport's answer.
    Status {
        code: Code,
        message: String,
    },
    /// The command's own time is up.
    Deadline,
    Other(String),
}

/// What etcd says of itself begins so; such texts stand alone, others behind their code.
const OWN: &str = "etcdserver: ";

/// Texts of etcd's that its client does not know, and so shows as gRPC's errors.
const UNKNOWN_TO_THE_CLIENT: &[&str] = &[
    "etcdserver: invalid client api version",
    "etcdserver: watch canceled",
    "etcdserver: permission not given",
    "etcdserver: request timed out, waiting for the applied index took too long",
    "etcdserver: request canceled",
    "etcdserver: context deadline exceeded",
];

impl Failure {
    /// What a status means, given when the caller wanted the answer.
    pub(super) fn of(status: Status, deadline: Option<Instant>) -> Failure {
        let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let from_transport = std::error::Error::source(&status).is_some();
        let (mut code, mut message) = (status.code(), status.message().to_owned());
        if late && (code == Code::DeadlineExceeded || code == Code::Cancelled || from_transport) {
            return Failure::Deadline;
        }
        if deadline.is_some() && from_transport && super::dial::describe(&status).contains("Timeout expired") {
            // The same timer within the transport, a moment earlier.
            return Failure::Deadline;
        }
        if from_transport {
            // A connection that broke: gRPC has one code for it, tonic several.
            code = Code::Unavailable;
            message = super::dial::describe(&status);
        }
        Failure::Status { code, message }
    }

    /// Why a server ended a watch.
    pub(crate) fn precondition(message: &str) -> Failure {
        Failure::Status {
            code: Code::FailedPrecondition,
            message: message.to_owned(),
        }
    }

    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Failure::Status { code, .. } => Some(*code),
            Failure::Deadline => Some(Code::DeadlineExceeded),
            Failure::Other(_) => None,
        }
    }

    /// Whether it is this error of etcd's.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self, Failure::Status { message, .. } if message == text)
    }

    /// The error as gRPC prints it.
    pub(super) fn rpc_text(&self) -> String {
        match self {
            Failure::Status { code, message } => format!("rpc error: code = {} desc = {message}", code_name(*code)),
            Failure::Deadline => "rpc error: code = DeadlineExceeded desc = context deadline exceeded".into(),
            Failure::Other(text) => text.clone(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status { message, .. }
                if message.starts_with(OWN) && !UNKNOWN_TO_THE_CLIENT.contains(&message.as_str()) =>
            {
                f.write_str(message)
            }
            Failure::Deadline => f.write_str("context deadline exceeded"),
            other => f.write_str(&other.rpc_text()),
        }
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_etcds_client_prints_them() {
        for (code, message, text) in [
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                "etcdserver: requested lease not found",
            ),
            (
                Code::Unimplemented,
                "unknown method X",
                "rpc error: code = Unimplemented desc = unknown method X",
            ),
            (
                Code::Cancelled,
                "etcdserver: request canceled",
                "rpc error: code = Canceled desc = etcdserver: request canceled",
            ),
        ] {
            let failure = Failure::of(Status::new(code, message), None);
            assert_eq!(failure.to_string(), text);
        }
        let past = Some(Instant::now());
        let late = Failure::of(Status::deadline_exceeded("x"), past);
        assert_eq!(late.to_string(), "context deadline exceeded");
    }
}
