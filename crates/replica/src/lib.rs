//! One member without a machine around it.

mod ids;

pub use ids::RequestIds;
pub use state_machine;
