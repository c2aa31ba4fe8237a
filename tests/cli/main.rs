//! The program tried as people and scripts use it: one module a kind of use.

mod access;
mod blob;
mod clones;
mod commands;
#[path = "../it/commits.rs"]
mod commits;
#[path = "../it/deep.rs"]
mod deep;
mod directories;
mod docs;
mod durable;
mod encryption;
mod full_disk;
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
mod removals;
mod restore;
#[allow(dead_code, reason = "some of it is for the other binary of tests")]
#[path = "../it/store/s3_server.rs"]
mod s3_server;
mod schedule;
mod secrets;
mod selection;
mod states;
mod status;
mod store;
mod terminal;
mod trust;
