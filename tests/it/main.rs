//! The library tried from outside: one module a behaviour.

mod patch;
mod tree;
