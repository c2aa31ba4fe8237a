//! The library tried from outside: one module a behaviour.

mod backup;
mod damage;
mod fixtures;
mod interruption;
mod lab;
mod layering;
mod patch;
mod programs;
mod recover;
mod restore;
mod stored;
mod tree;
