//! For tests: how often a thread uses malloc.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static USES: Cell<usize> = const { Cell::new(0) };
}

/// What the calling thread has taken and given back so far, in pieces.
pub fn uses() -> usize {
    USES.get()
}

// SAFETY: the system's allocator does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USES.set(USES.get() + 1);
        // SAFETY: the caller's contract is that of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USES.set(USES.get() + 1);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
