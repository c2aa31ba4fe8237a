//! What the library does, seen from outside: one binary, a module for each behaviour.

mod gitkv;
mod python;
mod timeline;
