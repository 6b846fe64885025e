//! etcdctl and etcdutl compatible commands.
