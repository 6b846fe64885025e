//! The Raft algorithm alone: messages in, messages and entries out.
