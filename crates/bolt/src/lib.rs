//! The bbolt file format: a single-file B+tree with atomic commits.
