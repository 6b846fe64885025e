//! etcd's errors: every text and gRPC code that a client can meet, byte for byte.
//!
//! Invariants:
//! - Clients map errors by text (`etcd api/v3/v3rpc/rpctypes/error.go`), so [`Error::message`] is an interface, not prose.
//! - What the server does not know how to map reaches the client as [`Code::Unknown`] with its raw text; so do the two errors that
//!   etcd maps to its client-side type (`etcd server/etcdserver/api/v3rpc/util.go`).
//! - An error that a log entry causes is the same on every member: it depends on the state alone. The one exception is
//!   [`Error::Storage`], after which the member must stop.

use std::borrow::Cow;
use std::fmt;

/// A gRPC status code, with gRPC's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller gave up.
    Canceled = 1,
    /// No mapping exists for this error.
    Unknown = 2,
    /// The request can never succeed.
    InvalidArgument = 3,
    /// The caller's time ran out.
    DeadlineExceeded = 4,
    /// Something named in the request does not exist.
    NotFound = 5,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A quota is used up.
    ResourceExhausted = 8,
    /// The state does not allow this now.
    FailedPrecondition = 9,
    /// A revision or a lifetime lies outside what is kept.
    OutOfRange = 11,
    /// The call does not exist, or not with these options.
    Unimplemented = 12,
    /// Try again, perhaps elsewhere.
    Unavailable = 14,
    /// Members differ.
    DataLoss = 15,
    /// The token is not valid.
    Unauthenticated = 16,
}

impl Code {
    /// The number that goes over the wire.
    pub fn number(self) -> i32 {
        self as i32
    }
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// What went wrong, in etcd's terms.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Error {
            $($(#[$doc])* $name,)*
            /// Anything that etcd does not map: the raw text, code [`Code::Unknown`].
            Other(String),
            /// The member's own disk or database failed. Fatal: the member must stop, because its state may now differ.
            Storage(String),
        }

        impl Error {
            /// Every error with a fixed text, in the order of the declaration.
            pub const FIXED: &[Error] = &[$(Error::$name,)*];

            /// The text that a client sees.
            pub fn message(&self) -> Cow<'_, str> {
                match self {
                    $(Error::$name => Cow::Borrowed($text),)*
                    Error::Other(text) => Cow::Borrowed(text),
                    Error::Storage(text) => Cow::Owned(format!("etcdserver: storage failed: {text}")),
                }
            }

            /// The status code that goes with the text.
            pub fn code(&self) -> Code {
                match self {
                    $(Error::$name => Code::$code,)*
                    Error::Other(_) | Error::Storage(_) => Code::Unknown,
                }
            }
        }
    };
}

errors! {
    /// A request without a key.
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on a key that does not exist; also a transaction operation without a request.
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    /// A transaction beyond `--max-txn-ops`.
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    /// A transaction that may write a key twice.
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// The metadata `client-api-version` is not text.
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    /// A sort order or target that is not in the protocol.
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// The revision lies below the compaction.
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// The revision lies above the newest.
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is used up.
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";

    /// No such lease.
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    /// A grant with an id that is in use.
    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    /// A lifetime above 9,000,000,000 seconds.
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    /// This member is not the one that looks after leases.
    NotPrimary = Unknown, "not a primary lessor";

    /// A watch stream that the client ended.
    WatchCanceled = Canceled, "etcdserver: watch canceled";

    /// A member with this id exists.
    MemberExists = FailedPrecondition, "etcdserver: member ID already exist";
    /// Another member has one of these peer URLs.
    PeerUrlExists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// The change would leave too few started members (etcd sends it without a mapped code).
    MemberNotEnoughStarted = Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// Member URLs that cannot be used.
    MemberBadUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    /// No such member, or one that was removed.
    MemberNotFound = NotFound, "etcdserver: member not found";
    /// A promotion of a member that votes already.
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// A promotion of a learner that lags.
    LearnerNotReady = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// More learners than `--max-learners`.
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A request meant for another cluster.
    ClusterIdMismatch = FailedPrecondition, "etcdserver: cluster ID mismatch";

    /// A proposal above `--max-request-bytes`.
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// More committed entries wait to be applied than is sound (etcd sends it without a mapped code).
    TooManyRequests = Unknown, "etcdserver: too many requests";

    /// Authentication needs a user `root`.
    RootUserNotExist = FailedPrecondition, "etcdserver: root user does not exist";
    /// Authentication needs the user `root` to have the role `root`.
    RootRoleNotExist = FailedPrecondition, "etcdserver: root user does not have root role";
    /// A user of this name exists.
    UserAlreadyExists = FailedPrecondition, "etcdserver: user name already exists";
    /// A user without a name.
    UserEmpty = InvalidArgument, "etcdserver: user name is empty";
    /// No such user.
    UserNotFound = FailedPrecondition, "etcdserver: user name not found";
    /// A role of this name exists.
    RoleAlreadyExists = FailedPrecondition, "etcdserver: role name already exists";
    /// No such role.
    RoleNotFound = FailedPrecondition, "etcdserver: role name not found";
    /// A role without a name.
    RoleEmpty = InvalidArgument, "etcdserver: role name is empty";
    /// A wrong name or password.
    AuthFailed = InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// A user without a password gave one.
    NoPasswordUser = Unknown, "auth: authentication failed, password was given for no password user";
    /// A grant without a permission.
    PermissionNotGiven = InvalidArgument, "etcdserver: permission not given";
    /// The caller's roles do not allow this.
    PermissionDenied = PermissionDenied, "etcdserver: permission denied";
    /// The user does not have the role.
    RoleNotGranted = FailedPrecondition, "etcdserver: role is not granted to the user";
    /// The role does not have the permission.
    PermissionNotGranted = FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// Authentication is off.
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    /// A token that is wrong or has expired.
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    /// A change that would lock everybody out.
    InvalidAuthManagement = InvalidArgument, "etcdserver: invalid auth management";
    /// The rights changed between the check and the execution.
    AuthOldRevision = InvalidArgument, "etcdserver: revision of auth store is old";

    /// There is no leader.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// This member does not lead.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// The leader changed while the request was under way.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    /// The cluster's version does not have this call.
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    /// The member is stopping.
    Stopped = Unavailable, "etcdserver: server stopped";
    /// No answer in time.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// No answer in time, and the leader changed shortly before.
    TimeoutDueToLeaderFail = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// No answer in time, and the links to the others were down.
    TimeoutDueToConnectionLost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// The log is agreed on but this member did not apply it in time.
    TimeoutWaitAppliedIndex = Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    /// The new leader did not take over in time.
    TimeoutLeaderTransfer = Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// Too few members are connected for a change of members.
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    /// An alarm says that members differ.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    /// A learner does not serve this call.
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// Leadership cannot go to this member.
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";

    /// A downgrade target that is not a version.
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// A downgrade target that is not one minor below.
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    /// The cluster version is not known yet.
    ClusterVersionUnavailable = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    /// Another downgrade is under way.
    DowngradeInProcess = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// No downgrade is under way.
    NoInflightDowngrade = FailedPrecondition, "etcdserver: no inflight downgrade job";

    /// The request was cancelled inside the server.
    Canceled = Canceled, "etcdserver: request canceled";
    /// The request's time ran out inside the server.
    DeadlineExceeded = DeadlineExceeded, "etcdserver: context deadline exceeded";

    /// An entry that this version does not know.
    UnknownMethod = Unknown, "etcdserver: unknown method";
    /// A streamed range with a sort order.
    RangeStreamSort = Unimplemented, "RangeStream does not support custom sort orders";
    /// A streamed range with a revision filter.
    RangeStreamFilter = Unimplemented, "RangeStream does not support revision filters";
}

impl Error {
    /// Whether the member must stop: its own storage failed, so its state may no longer equal that of the others.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::Storage(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unique_and_prefixed() {
        let mut texts: Vec<_> = Error::FIXED.iter().map(Error::message).collect();
        let all = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(
            texts.len(),
            all,
            "two errors share a text: clients could not tell them apart"
        );
        for error in Error::FIXED {
            let ours = matches!(error.code(), Code::Unknown | Code::Unimplemented);
            assert!(ours || error.message().starts_with("etcdserver: "), "{error:?}");
        }
    }

    /// Compares with the table of the Go module, where one is on the machine.
    #[test]
    fn texts_and_codes_are_etcds() {
        let cache = std::env::var_os("GOMODCACHE")
            .map(std::path::PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join("go/pkg/mod")));
        let file = cache.map(|dir| dir.join("go.etcd.io/etcd/api/v3@v3.7.3/v3rpc/rpctypes/error.go"));
        let Some(source) = file.and_then(|file| std::fs::read_to_string(file).ok()) else {
            println!("skipped: the Go module go.etcd.io/etcd/api/v3@v3.7.3 is not on this machine");
            return;
        };
        let mut seen = 0;
        for line in source.lines() {
            let Some((_, rest)) = line.split_once("status.Error(codes.") else {
                continue;
            };
            let Some((code, rest)) = rest.split_once(", \"") else {
                continue;
            };
            let text = rest.trim_end_matches("\")");
            let ours = Error::FIXED.iter().find(|error| error.message() == text);
            let ours = ours.unwrap_or_else(|| panic!("no error says {text:?}"));
            // These two lose their code on the way to the client: see the module's invariants.
            if !matches!(ours, Error::MemberNotEnoughStarted | Error::TooManyRequests) {
                assert_eq!(format!("{:?}", ours.code()), code, "{text}");
            }
            seen += 1;
        }
        assert!(seen > 60, "only {seen} errors found: has the file changed its form?");
    }
}
