//! Schemas that cannot be derived.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Flags: a bounded map of bounded strings, so that the API server can bound the cost of the rule over its keys.
pub(super) fn extra_args(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 4096 },
    })
}

/// Labels or annotations of an object that the operator keeps: any but its own.
pub(super) fn foreign_keys(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 65536 },
        "x-kubernetes-validations": [{
            "rule": "self.all(k, !k.startsWith('quorate.dev/'))",
            "message": FOREIGN_KEYS_MESSAGE,
        }],
    })
}

/// Why a key below `quorate.dev/` is refused.
pub(super) const FOREIGN_KEYS_MESSAGE: &str =
    "keys that begin with quorate.dev/ are the operator's own: give yours another prefix";
