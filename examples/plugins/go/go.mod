module wit_component

go 1.25

require go.bytecodealliance.org/pkg v0.4.0

// What generated bindings need of it is in this folder.
replace go.bytecodealliance.org/pkg => ./support
