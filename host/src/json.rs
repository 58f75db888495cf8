//! Fields that are read from JSON objects only: the derived reader of a struct also takes a list of its values, so that `[]`
//! would do for any struct whose fields have defaults. No I/O.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads a struct from an object; for `deserialize_with`.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    d.deserialize_map(Fields(PhantomData))
}

/// As [`object`], but `null` is none.
pub(crate) fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(d)?.map(|Object(fields)| fields))
}

/// A body that is an object.
#[derive(Debug, Default)]
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        object(d).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::{CampaignSpec, RetryPolicy};

    #[test]
    fn a_list_is_no_object() {
        assert!(serde_json::from_str::<RetryPolicy>("[]").is_ok(), "what this is for");
        assert!(serde_json::from_str::<Object<RetryPolicy>>("[]").is_err());
        assert_eq!(serde_json::from_str::<Object<RetryPolicy>>("{}").unwrap().0, RetryPolicy::default());
        let spec =
            r#"{"name":"x","audience":"a","devices":{"tag":"t"},"template":{"plugin":"p"},"delay":{"plugin":"p"}}"#;
        assert!(serde_json::from_str::<CampaignSpec>(spec).is_ok());
        for (from, to) in [("{\"tag\":\"t\"}", "[\"t\"]"), ("}}", "},\"retry\":[]}"), ("}}", "},\"schedule\":[]}")] {
            let error = serde_json::from_str::<CampaignSpec>(&spec.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains("expected an object"), "{error}");
        }
    }
}
