#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nfslab_tests::fuzz::lock_service(data));
