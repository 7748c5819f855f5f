//! nfslab
