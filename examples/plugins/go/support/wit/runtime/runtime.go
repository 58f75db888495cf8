// Package runtime gives generated bindings memory that the collector leaves alone while the host reads or writes it.
package runtime

import (
	"runtime"
	"unsafe"
)

// Arguments of the call that is being made: the host writes them before the guest knows of them.
var arguments runtime.Pinner

// Allocate gives memory that stays in its place until the pinner lets go of it, aligned for anything.
func Allocate(pinner *runtime.Pinner, size, _ uintptr) unsafe.Pointer {
	if size == 0 {
		return nil
	}
	at := unsafe.Pointer(unsafe.SliceData(make([]uint64, (size+7)/8)))
	pinner.Pin(at)
	return at
}

// Unpin hands the arguments to the collector: from here on the guest's own references keep them.
func Unpin() {
	arguments.Unpin()
}

// The host asks for the memory of arguments with this.
//
//go:wasmexport cabi_realloc
func realloc(old, oldSize, align, size uintptr) uintptr {
	if size == 0 {
		return align
	}
	at := Allocate(&arguments, size, align)
	if oldSize > 0 {
		copy(unsafe.Slice((*byte)(at), size), unsafe.Slice((*byte)(unsafe.Pointer(old)), oldSize))
	}
	return uintptr(at)
}
