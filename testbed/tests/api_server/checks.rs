//! The Check resource and those who run it, on real API servers: the oldest that is supported and a current
//! one.
//!
//! * `ground`: a server with the definition of Checks, and a namespace of a test's own
//! * `fakes`: agents that see what a test wants
//! * `schema`: what the servers accept, fill in and refuse
//! * `running`: the life of Checks
//! * `trouble`: what is in the way of running them

mod fakes;
mod ground;
mod running;
mod schema;
mod trouble;
