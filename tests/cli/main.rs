//! The program tried as people and scripts use it: one module a kind of use.

mod commands;
mod directories;
mod json;
mod lab;
mod remotes;
mod status;
mod terminal;
