//! The member binary.

fn main() {}
