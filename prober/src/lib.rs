//! The node agent.

pub mod netns;
