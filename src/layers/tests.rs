//! Layers against git.
