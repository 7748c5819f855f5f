//! nlm
