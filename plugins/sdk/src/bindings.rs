//! What `wit-bindgen` makes of the contract. The words that interfaces share are there once; each interface that a plugin may have
//! is a world of its own, so that a plugin exports those that it has and no others.
#![allow(missing_docs)]

pub mod contract {
    wit_bindgen::generate!({
        inline: "
            package carillon:sdk-contract;
            world contract {
                import carillon:plugin/types@1.0.0;
                import carillon:plugin/sending@1.0.0;
            }
        ",
        path: "wit",
        generate_all,
        generate_unused_types: true,
        pub_export_macro: true,
    });
}

macro_rules! interface {
    ($name:ident $world:tt $($with:tt)*) => {
        pub mod $name {
            wit_bindgen::generate!({
                inline: $world,
                path: "wit",
                with: { $($with)* },
                generate_all,
                pub_export_macro: true,
            });
        }
    };
}

interface! {
    describe "package carillon:sdk-describe; world describe { export carillon:plugin/describe@1.0.0; }"
}
interface! {
    delay "package carillon:sdk-delay; world delay { export carillon:plugin/delay@1.0.0; }"
    "carillon:plugin/types@1.0.0": crate::bindings::contract::carillon::plugin::types,
}
interface! {
    template "package carillon:sdk-template; world template { export carillon:plugin/template@1.0.0; }"
    "carillon:plugin/types@1.0.0": crate::bindings::contract::carillon::plugin::types,
}
interface! {
    sender "package carillon:sdk-sender; world sender { export carillon:plugin/sender@1.0.0; }"
    "carillon:plugin/types@1.0.0": crate::bindings::contract::carillon::plugin::types,
    "carillon:plugin/sending@1.0.0": crate::bindings::contract::carillon::plugin::sending,
}
interface! {
    lookup "package carillon:sdk-lookup; world lookup { export carillon:plugin/lookup@1.0.0; }"
    "carillon:plugin/types@1.0.0": crate::bindings::contract::carillon::plugin::types,
    "carillon:plugin/sending@1.0.0": crate::bindings::contract::carillon::plugin::sending,
}
interface! {
    receipts "package carillon:sdk-receipts; world receipts { export carillon:plugin/receipts@1.0.0; }"
    "carillon:plugin/types@1.0.0": crate::bindings::contract::carillon::plugin::types,
    "carillon:plugin/sending@1.0.0": crate::bindings::contract::carillon::plugin::sending,
}
interface! {
    health "package carillon:sdk-health; world health { export carillon:plugin/health@1.0.0; }"
    "carillon:plugin/types@1.0.0": crate::bindings::contract::carillon::plugin::types,
    "carillon:plugin/sending@1.0.0": crate::bindings::contract::carillon::plugin::sending,
}
