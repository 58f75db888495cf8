#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carillon_tests::strangers::answers(data));
