//! One member without a machine around it.
