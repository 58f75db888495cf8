//! A campaign's configuration comes with every call; it is read once.

use std::cell::RefCell;
use std::rc::Rc;

/// Keeps what was made from a text, by that text.
pub struct Cache<T> {
    entries: RefCell<Vec<(String, Rc<T>)>>,
}

/// One instance serves the campaigns of a moment; more entries only cost memory.
const ENTRIES: usize = 8;

impl<T> Cache<T> {
    /// An empty cache.
    pub const fn new() -> Self {
        Self { entries: RefCell::new(Vec::new()) }
    }

    /// What was made from `text`, or what `make` makes of it now. Errors are not kept.
    pub fn get<E>(&self, text: &str, make: impl FnOnce(&str) -> Result<T, E>) -> Result<Rc<T>, E> {
        let mut entries = self.entries.borrow_mut();
        if let Some(at) = entries.iter().position(|(key, _)| key == text) {
            // The latest goes first, so that what is not used any more falls off the end.
            if at > 0 {
                let entry = entries.remove(at);
                entries.insert(0, entry);
            }
            if let Some((_, value)) = entries.first() {
                return Ok(Rc::clone(value));
            }
        }
        let value = Rc::new(make(text)?);
        entries.insert(0, (text.to_owned(), Rc::clone(&value)));
        entries.truncate(ENTRIES);
        Ok(value)
    }
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self::new()
    }
}
