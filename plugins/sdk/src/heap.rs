//! The heap of the first-party plugins. A call brings some fifty short texts and gives them back at its end, so what counts is how
//! quickly small blocks come and go. Each size (a power of two) has its own list of free blocks; what is larger goes to the
//! standard heap. Blocks stay with their size, which an instance's limited number of calls bounds well enough.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

/// The smallest block, in bytes: room for the link to the next free one.
const SMALLEST: usize = 16;
/// 16, 32 … 1024 bytes.
const SIZES: usize = 7;
const LARGEST: usize = SMALLEST << (SIZES - 1);
/// What is taken from the standard heap at a time, in bytes.
const CHUNK: usize = 4096;

struct Free {
    next: *mut Free,
}

struct Lists {
    free: [*mut Free; SIZES],
    /// What is left of the latest chunk.
    at: *mut u8,
    left: usize,
}

struct Heap(UnsafeCell<Lists>);

// SAFETY: a plugin's instance has one thread.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Lists { free: [null_mut(); SIZES], at: null_mut(), left: 0 }));

/// Which list a block of this layout belongs to; `None` for the standard heap.
const fn size_class(layout: Layout) -> Option<usize> {
    if layout.size() > LARGEST || layout.align() > SMALLEST {
        return None;
    }
    let above = layout.size().saturating_sub(1) / SMALLEST;
    Some((usize::BITS - above.leading_zeros()) as usize)
}

impl Lists {
    fn take(&mut self, class: usize) -> *mut u8 {
        let Some(head) = self.free.get_mut(class) else { return null_mut() };
        if !head.is_null() {
            let block = *head;
            // SAFETY: a block in the list is ours and holds its link.
            *head = unsafe { (*block).next };
            return block.cast();
        }
        let size = SMALLEST << class;
        if self.left < size {
            // The rest of the chunk before is given up: less than the largest block.
            // SAFETY: the layout is a constant of non-zero size.
            let chunk = unsafe { System.alloc(Layout::from_size_align_unchecked(CHUNK, SMALLEST)) };
            if chunk.is_null() {
                return null_mut();
            }
            (self.at, self.left) = (chunk, CHUNK);
        }
        let block = self.at;
        // SAFETY: at least `size` bytes of the chunk are left.
        self.at = unsafe { block.add(size) };
        self.left -= size;
        block
    }
}

// SAFETY: a block is given out once until it is given back, is as large as its class, and chunks and all classes keep the
// alignment of 16; whatever is larger or more aligned is the standard heap's, by the layout alone.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match size_class(layout) {
            // SAFETY: one thread, and nothing in `take` comes back here.
            Some(class) => unsafe { (*self.0.get()).take(class) },
            // SAFETY: the caller's promise is ours.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match size_class(layout) {
            Some(class) => {
                // SAFETY: as in `alloc`; the block came from this class and nobody uses it any more.
                unsafe {
                    if let Some(head) = (*self.0.get()).free.get_mut(class) {
                        let free: *mut Free = block.cast();
                        (*free).next = *head;
                        *head = free;
                    }
                }
            }
            // SAFETY: as in `alloc`.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size fits the alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (size_class(layout), size_class(new_layout)) {
            (Some(old), Some(new)) if old == new => block,
            // SAFETY: both layouts are the standard heap's.
            (None, None) => unsafe { System.realloc(block, layout, new_size) },
            // SAFETY: the new block does not overlap the old one, which is given back once.
            _ => unsafe {
                let new = self.alloc(new_layout);
                if !new.is_null() {
                    new.copy_from_nonoverlapping(block, layout.size().min(new_size));
                    self.dealloc(block, layout);
                }
                new
            },
        }
    }
}
