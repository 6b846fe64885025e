//! Parses arguments, chooses the platform, starts.

fn main() {}
