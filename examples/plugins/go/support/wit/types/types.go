// Package types has the generic types that generated bindings speak of.
package types

// Tuple2 is a pair.
type Tuple2[A, B any] struct {
	F0 A
	F1 B
}

// The tags of options and results.
const (
	OptionNone = iota
	OptionSome
)
const (
	ResultOk = iota
	ResultErr
)

// Option is a value or none.
type Option[T any] struct {
	some  bool
	value T
}

// None is no value.
func None[T any]() Option[T] { return Option[T]{} }

// Some is a value.
func Some[T any](value T) Option[T] { return Option[T]{true, value} }

// Tag is OptionNone or OptionSome.
func (o Option[T]) Tag() int {
	if o.some {
		return OptionSome
	}
	return OptionNone
}

// Some is the value; it panics when there is none.
func (o Option[T]) Some() T {
	if !o.some {
		panic("there is no value")
	}
	return o.value
}

// Result is what a function answers, or why it does not.
type Result[T, E any] struct {
	failed bool
	value  T
	err    E
}

// Ok is an answer.
func Ok[T, E any](value T) Result[T, E] { return Result[T, E]{value: value} }

// Err is why there is no answer.
func Err[T, E any](err E) Result[T, E] { return Result[T, E]{failed: true, err: err} }

// Tag is ResultOk or ResultErr.
func (r Result[T, E]) Tag() int {
	if r.failed {
		return ResultErr
	}
	return ResultOk
}

// Ok is the answer; it panics when there is none.
func (r Result[T, E]) Ok() T {
	if r.failed {
		panic("there is no answer")
	}
	return r.value
}

// Err is why there is no answer; it panics when there is one.
func (r Result[T, E]) Err() E {
	if !r.failed {
		panic("there is no error")
	}
	return r.err
}
