//! What log entries do: MVCC, leases, alarms, membership.
