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
