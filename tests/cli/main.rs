//! The program tried as people and scripts use it: one module a kind of use.

mod blob;
mod commands;
mod directories;
mod encryption;
mod json;
mod kills;
mod kv;
mod lab;
#[path = "../it/programs.rs"]
mod programs;
mod prune;
#[path = "../it/python.rs"]
mod python;
mod remotes;
mod restore;
mod schedule;
mod status;
mod store;
mod terminal;
