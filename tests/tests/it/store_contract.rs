//! What every store does, whatever it is made of: one set of tests, written against the trait, run on each backend.

mod audiences;
mod campaigns;
mod consent;
mod deletion;
mod devices;
mod housekeeping;
mod messages;
mod plugins;
mod receipts;
mod retention;
mod rollouts;
mod sequences;
mod settling;
mod taking;
mod turning;
mod unknown;

/// Makes a test of each named function for every backend.
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(carillon_tests::stores::postgres().await).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(carillon_tests::stores::sqlite().await).await;
            })*
        }
    };
}
use on_every_store;
