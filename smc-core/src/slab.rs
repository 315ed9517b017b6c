//! Type-stable memory: objects are reused but never unmapped, so a stale pointer reads another object of the same
//! type, never unmapped memory. Users carry a generation beside the pointer and check it.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::lock::Lock;
use crate::sys;

/// Objects in a chunk.
const CHUNK: usize = 64;
const MAX_CHUNKS: usize = 1 << 14;

/// What a slab needs to know of its objects.
pub trait Slot: Default + Sync {
    /// A word that belongs to the slab while the object is free, and to the object otherwise.
    fn link(&self) -> &AtomicU32;
}

/// Objects of one type; see the module.
pub struct Slab<T: Slot> {
    lock: Lock,
    /// MAP_PRIVATE or MAP_SHARED.
    flags: i32,
    chunks: [AtomicPtr<T>; MAX_CHUNKS],
    /// Under the lock.
    inner: UnsafeCell<Inner>,
}

struct Inner {
    /// Index plus one of the first free object, 0 for none.
    free: u32,
    chunks: usize,
}

// SAFETY: `inner` is only touched with the lock held; objects are Sync.
unsafe impl<T: Slot> Sync for Slab<T> {}

impl<T: Slot> Slab<T> {
    pub const fn new(flags: i32) -> Slab<T> {
        Slab {
            lock: Lock::new(),
            flags: flags | libc::MAP_ANONYMOUS,
            chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CHUNKS],
            inner: UnsafeCell::new(Inner { free: 0, chunks: 0 }),
        }
    }

    /// The lock that guards the free list, for the fork handlers.
    pub fn raw_lock(&self) -> &Lock {
        &self.lock
    }

    /// A free object, in the state in which it was freed, with its index. `reclaim` is asked before the slab grows:
    /// it may name an object that nobody uses any more.
    pub fn alloc(&'static self, reclaim: impl Fn(&T) -> bool) -> Option<(u32, &'static T)> {
        let _held = self.lock.lock().ok()?;
        // SAFETY: the lock is held.
        let inner = unsafe { &mut *self.inner.get() };
        if inner.free == 0 && !self.collect(inner, reclaim) {
            self.grow(inner)?;
        }
        let index = inner.free - 1;
        let object = self.get(index)?;
        inner.free = object.link().load(Ordering::Relaxed);
        Some((index, object))
    }

    /// Gives an object back.
    pub fn free(&'static self, index: u32) {
        if let (Ok(_held), Some(object)) = (self.lock.lock(), self.get(index)) {
            // SAFETY: the lock is held.
            let inner = unsafe { &mut *self.inner.get() };
            object.link().store(inner.free, Ordering::Relaxed);
            inner.free = index + 1;
        }
    }

    /// The object at an index handed out before.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&'static T> {
        let chunk = self.chunks.get(index as usize / CHUNK)?.load(Ordering::Acquire);
        if chunk.is_null() {
            return None;
        }
        // SAFETY: a chunk holds CHUNK initialised objects and is never unmapped.
        Some(unsafe { &*chunk.add(index as usize % CHUNK) })
    }

    /// Forgets all objects without unmapping them: a forked child leaves memory shared with its parent alone.
    pub fn abandon(&self) {
        // SAFETY: called where the process has one thread.
        let inner = unsafe { &mut *self.inner.get() };
        for chunk in &self.chunks[..inner.chunks] {
            chunk.store(core::ptr::null_mut(), Ordering::Release);
        }
        *inner = Inner { free: 0, chunks: 0 };
    }

    fn collect(&'static self, inner: &mut Inner, reclaim: impl Fn(&T) -> bool) -> bool {
        for index in 0..(inner.chunks * CHUNK) as u32 {
            if let Some(object) = self.get(index).filter(|o| reclaim(o)) {
                object.link().store(inner.free, Ordering::Relaxed);
                inner.free = index + 1;
            }
        }
        inner.free != 0
    }

    fn grow(&self, inner: &mut Inner) -> Option<()> {
        let place = self.chunks.get(inner.chunks)?;
        let chunk = sys::map(CHUNK * core::mem::size_of::<T>(), self.flags, -1).ok()? as *mut T;
        for i in (0..CHUNK).rev() {
            // SAFETY: the mapping is page aligned, large enough and ours alone.
            unsafe { chunk.add(i).write(T::default()) };
            // SAFETY: written just now.
            unsafe { &*chunk.add(i) }.link().store(inner.free, Ordering::Relaxed);
            inner.free = (inner.chunks * CHUNK + i) as u32 + 1;
        }
        place.store(chunk, Ordering::Release);
        inner.chunks += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Object(AtomicU32);
    impl Slot for Object {
        fn link(&self) -> &AtomicU32 {
            &self.0
        }
    }

    #[test]
    fn hands_out_distinct_objects_and_reuses_freed_ones() {
        static SLAB: Slab<Object> = Slab::new(libc::MAP_PRIVATE);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            assert!(seen.insert(SLAB.alloc(|_| false).unwrap().0));
        }
        SLAB.free(7);
        assert_eq!(SLAB.alloc(|_| false).unwrap().0, 7);
        assert!(seen.insert(SLAB.alloc(|_| false).unwrap().0));
    }
}
