//! The plugin `jinja`, compiled for this machine so that the fuzzer sees its inside.
#![no_main]

use carillon_plugin::{Device, Job, MessageRef, Recipient};
use template::Compiled;

#[path = "../../../plugins/jinja/src/template.rs"]
mod template;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for config in carillon_tests::strangers::template_configs(data) {
        let Ok(compiled) = carillon_plugin::parse::<Compiled>("it", &config) else { continue };
        compiled.columns();
        let message = MessageRef { id: "1".into(), campaign: "c-1".into(), sequence_step: None, attempt: 2 };
        let recipient = Recipient {
            address: "+39055123".into(),
            locale: Some("it-IT".into()),
            zone: None,
            variables: vec![("name".into(), "Ada".into()), ("city".into(), "Prato".into())],
        };
        let device = Device { id: "d".into(), channel: "sms".into(), adapter: "{}".into(), attributes: Vec::new() };
        let _faults_are_fine = compiled.message(Job { message, recipient, device, random: 7 });
    }
});
