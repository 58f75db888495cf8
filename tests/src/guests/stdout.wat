(import "wasi:io/error@0.2.0" (instance $wasi-error (export "error" (type (sub resource)))))
  (alias export $wasi-error "error" (type $wasi-error-type))
  (import "wasi:io/streams@0.2.0" (instance $wasi-streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $wasi-error-type (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $failure-type (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $failure (eq $failure-type)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $failure)))))))
  (alias export $wasi-streams "output-stream" (type $wasi-stream-type))
  (import "wasi:cli/stdout@0.2.0" (instance $wasi-stdout
    (alias outer 1 $wasi-stream-type (type $outer-stream))
    (export "output-stream" (type $stream (eq $outer-stream)))
    (export "get-stdout" (func (result (own $stream))))))
  (alias export $wasi-streams "[method]output-stream.blocking-write-and-flush" (func $wasi-write))
  (alias export $wasi-stdout "get-stdout" (func $wasi-get-stdout))
  ;; A memory of its own holds what is written: that of the guest is there only after it was given these functions.
  (core module $written
    (memory (export "memory") 1)
    (func $fill (local $n i32)
      (loop $l
        (i32.store8 (local.get $n) (i32.const 120))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $n) (i32.const 4095))))
      (i32.store8 (i32.const 4095) (i32.const 10)))
    (start $fill))
  (core instance $written (instantiate $written))
  (alias core export $written "memory" (core memory $written-memory))
  (core func $lowered-write (canon lower (func $wasi-write) (memory $written-memory)))
  (core func $lowered-get-stdout (canon lower (func $wasi-get-stdout)))
  (core instance $wasi (export "write" (func $lowered-write)) (export "get-stdout" (func $lowered-get-stdout)))
  (core instance $main (;0;) (instantiate $main (with "wasi" (instance $wasi))))
