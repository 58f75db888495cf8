//! Model tests. [`lease`] looks at every order in which a few servers can get into each other's way.

mod lease;
