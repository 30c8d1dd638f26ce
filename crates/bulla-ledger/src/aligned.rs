//! Memory aligned to a page, as direct disk access wants it.

/// The unit of the journal: frames start and end on it, and direct transfers are multiples of it.
pub(crate) const PAGE: usize = 4096;

pub(crate) fn is_aligned(n: usize) -> bool {
    n.is_multiple_of(PAGE)
}

/// `n` rounded up to whole pages.
pub(crate) fn page_up(n: usize) -> usize {
    n.div_ceil(PAGE).saturating_mul(PAGE)
}

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

const ZERO: Page = Page([0; PAGE]);

/// A growable run of pages. All of it is initialised; `len` is the part in use.
pub(crate) struct AlignedBuf {
    pages: Vec<Page>,
    len: usize,
}

impl AlignedBuf {
    pub(crate) fn new() -> Self {
        Self { pages: vec![], len: 0 }
    }

    pub(crate) fn zeroed(len: usize) -> Self {
        Self { pages: vec![ZERO; len.div_ceil(PAGE)], len }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    fn memory(&self) -> &[u8] {
        // SAFETY: `Page` is `PAGE` plain bytes without padding, so the vector's initialised pages
        // are that many initialised bytes at one address, borrowed for as long as `self` is.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.pages.len() * PAGE) }
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        let len = self.pages.len() * PAGE;
        // SAFETY: as in `memory`; the borrow is exclusive, and any byte is a valid `u8`.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), len) }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.memory().get(..self.len).unwrap_or_default()
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len;
        self.memory_mut().get_mut(..len).unwrap_or_default()
    }

    /// Grows or shrinks; new bytes are zero.
    pub(crate) fn resize(&mut self, len: usize) {
        let pages = len.div_ceil(PAGE);
        if pages > self.pages.len() {
            self.pages.resize(pages, ZERO);
        }
        let from = self.len;
        self.len = len;
        if let Some(fresh) = self.memory_mut().get_mut(from..len) {
            fresh.fill(0);
        }
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let (from, to) = (self.len, self.len + bytes.len());
        let pages = to.div_ceil(PAGE);
        if pages > self.pages.len() {
            self.pages.resize(pages.max(self.pages.len() * 2), ZERO);
        }
        self.len = to;
        if let Some(room) = self.memory_mut().get_mut(from..to) {
            room.copy_from_slice(bytes);
        }
    }

    /// Pads with zeros to a whole page.
    pub(crate) fn pad(&mut self) {
        self.resize(page_up(self.len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_pads_and_never_shows_old_bytes() {
        let mut buf = AlignedBuf::new();
        buf.extend(&[7; 5000]);
        buf.pad();
        assert_eq!(buf.len(), 8192);
        assert_eq!(buf.as_slice().as_ptr() as usize % PAGE, 0);
        assert!(buf.as_slice()[..5000].iter().all(|b| *b == 7));
        assert!(buf.as_slice()[5000..].iter().all(|b| *b == 0));
        buf.clear();
        buf.extend(&[9; 3]);
        buf.pad();
        assert_eq!((buf.len(), &buf.as_slice()[..4]), (PAGE, &[9, 9, 9, 0][..]));
        assert!(buf.as_slice()[3..].iter().all(|b| *b == 0));
    }
}
