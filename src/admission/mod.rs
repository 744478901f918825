//! Who may have how much, decided before anything starts. Pure: values in, decisions out.

pub mod slots;
