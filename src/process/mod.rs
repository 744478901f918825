//! Processes: how a command is started, whom it runs as, what its tree is and how that is ended.

pub mod background;
pub mod census;
pub mod child;
pub mod errands;
pub mod fifos;
pub mod identity;
pub mod launch;
pub mod living;
pub mod pool;
pub mod proc;
pub mod removal;
pub mod residue;
pub mod spawn;
pub mod tree;
pub mod workspace;
