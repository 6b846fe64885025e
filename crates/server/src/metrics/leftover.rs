//! Families that etcd's program exposes with nothing in it that would count: those of its gRPC proxy, which another sub-command runs, and of the
//! store of API version 2, which clients cannot reach since 3.6. They are 0 in etcd as well, and here so that no query finds them missing.

use super::text::{Kind, Text};

const LEFTOVER: &[(&str, Kind, &str)] = &[
    (
        "etcd_debugging_store_expires_total",
        Kind::Counter,
        "Total number of expired keys.",
    ),
    (
        "etcd_debugging_store_watch_requests_total",
        Kind::Counter,
        "Total number of incoming watch requests (new or reestablished).",
    ),
    (
        "etcd_debugging_store_watchers",
        Kind::Gauge,
        "Count of currently active watchers.",
    ),
    (
        "etcd_grpc_proxy_cache_hits_total",
        Kind::Gauge,
        "Total number of cache hits",
    ),
    (
        "etcd_grpc_proxy_cache_keys_total",
        Kind::Gauge,
        "Total number of keys/ranges cached",
    ),
    (
        "etcd_grpc_proxy_cache_misses_total",
        Kind::Gauge,
        "Total number of cache misses",
    ),
    (
        "etcd_grpc_proxy_events_coalescing_total",
        Kind::Counter,
        "Total number of events coalescing",
    ),
    (
        "etcd_grpc_proxy_watchers_coalescing_total",
        Kind::Gauge,
        "Total number of current watchers coalescing",
    ),
];

pub(super) fn write(text: &mut Text) {
    for (name, kind, help) in LEFTOVER {
        text.single(name, *kind, help, 0.0);
    }
}
