//! What is normal for a program: learned, persisted, aged.
