//! The contract's own words, as one set of types for all senders: what is made here fits each of them.

mod generated {
    wit_bindgen::generate!({
        inline: "
            package carillon:shared;
            world shared {
                import carillon:plugin/types@1.0.0;
                import carillon:plugin/sending@1.0.0;
            }
        ",
        path: "../../wit",
        generate_all,
        generate_unused_types: true,
    });
}

pub use generated::carillon::plugin::{sending, types};
