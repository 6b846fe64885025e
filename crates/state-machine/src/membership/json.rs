//! JSON as Go's encoder writes it.

use serde::Serialize;

/// Compact JSON with what Go's encoding/json escapes beyond the standard: `<`, `>`, `&` and two line separators.
///
/// # Errors
/// When the value has no JSON form, as a map with keys that are no strings.
pub fn to_go_json<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    let plain = serde_json::to_string(value)?;
    let special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
    if !plain.contains(special) {
        return Ok(plain);
    }
    // These characters can stand in strings only, so replacing them everywhere is safe.
    let mut text = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        match c {
            c if special(c) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    Ok(text)
}
