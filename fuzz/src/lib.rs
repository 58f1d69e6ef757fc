//! What several targets need.

pub mod served;
pub mod whole;
