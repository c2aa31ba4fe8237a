//! The library tried from outside: one module a behaviour.

mod backup;
mod cold;
mod cold_damage;
mod cold_removal;
mod damage;
mod deep;
mod encryption;
mod fixtures;
mod gitkv;
mod hostile;
mod interruption;
mod lab;
mod layering;
mod neighbour;
mod patch;
mod programs;
mod prune;
mod python;
mod recover;
mod remote;
mod restore;
mod schedule;
mod store;
mod stored;
mod timeline;
mod tree;
