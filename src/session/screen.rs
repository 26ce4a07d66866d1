//! x
use crate::record::Size;
use bytes::Bytes;
pub struct Screen(Size);
impl Screen {
    pub fn new(s: Size) -> Self {
        Self(s)
    }
    pub fn restore(s: Size, _: &[u8]) -> Self {
        Self(s)
    }
    pub fn feed(&mut self, _: &[u8]) {}
    pub fn resize(&mut self, s: Size) {
        self.0 = s
    }
    pub fn size(&self) -> Size {
        self.0
    }
    pub fn snapshot(&self) -> Bytes {
        Bytes::new()
    }
}
