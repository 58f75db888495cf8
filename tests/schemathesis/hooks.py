"""What the fuzzer of the API has to know about ours: components are sent as they are."""

import schemathesis

schemathesis.serializer.alias("application/wasm", "application/octet-stream")
