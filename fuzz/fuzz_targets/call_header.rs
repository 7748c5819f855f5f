#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nfslab_tests::fuzz::call_header(data));
