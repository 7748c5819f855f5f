//! nsm
