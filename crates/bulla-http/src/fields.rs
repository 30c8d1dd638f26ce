//! Header fields of a message: their names in lower case, in their order, in one text. Pure.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::{Fault, header_value};

/// Where a field stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    from: usize,
    /// Behind the name, before the colon.
    name: usize,
    /// Behind the value, before CR LF.
    value: usize,
}

const COLON: &str = ": ";
const LINE_END: &str = "\r\n";

impl Place {
    fn name(self) -> Range<usize> {
        self.from..self.name
    }
    fn value(self) -> Range<usize> {
        self.name + COLON.len()..self.value
    }
}

/// The fields of one head, as HTTP/1.1 writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    text: String,
    places: Vec<Place>,
}

impl Headers {
    /// With room for so much text in so many fields.
    pub fn with_capacity(bytes: usize, count: usize) -> Self {
        let each = COLON.len() + LINE_END.len();
        Self {
            text: String::with_capacity(bytes + count * each),
            places: Vec::with_capacity(count),
        }
    }

    /// Names and values must have been read by [`crate::wire`], or be the gateway's own.
    pub fn push(&mut self, name: &str, value: &str) {
        let from = self.text.len();
        self.text.push_str(name);
        if let Some(name) = self.text.get_mut(from..) {
            name.make_ascii_lowercase();
        }
        let name = self.text.len();
        self.text.push_str(COLON);
        self.text.push_str(value);
        let value = self.text.len();
        self.text.push_str(LINE_END);
        self.places.push(Place { from, name, value });
    }

    fn part(&self, place: Range<usize>) -> &str {
        self.text.get(place).unwrap_or_default()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.places.iter().map(|place| (self.part(place.name()), self.part(place.value())))
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The value of a name that stands once.
    pub fn only(&self, name: &str) -> Option<&str> {
        let mut all = self.iter().filter(|(own, _)| *own == name);
        let first = all.next();
        first.filter(|_| all.next().is_none()).map(|(_, value)| value)
    }

    /// Takes out what is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        if !self.iter().all(|(name, value)| keep(name, value)) {
            let mut left = Self::with_capacity(self.text.len(), self.places.len());
            for (name, value) in self.iter().filter(|(name, value)| keep(name, value)) {
                left.push(name, value);
            }
            *self = left;
        }
    }

    /// In place of all that the name had.
    pub fn set(&mut self, name: &str, value: &str) {
        self.retain(|own, _| own != name);
        self.push(name, value);
    }

    /// As HTTP/1.1 writes them, without the empty line behind them.
    pub fn as_text(&self) -> &str {
        &self.text
    }

    /// What a library has read.
    pub fn from_map(map: &HeaderMap) -> Result<Self, Fault> {
        let bytes = map.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let mut headers = Self::with_capacity(bytes, map.len());
        for (name, value) in map {
            headers.push(name.as_str(), header_value(value.as_bytes())?);
        }
        Ok(headers)
    }

    /// For a library: the names, and the values as parts of one text.
    pub fn into_map(self) -> Result<HeaderMap, Fault> {
        let odd = Fault { status: 502, why: "a header of the answer is odd" };
        let text = Bytes::from(self.text);
        let mut headers = HeaderMap::with_capacity(self.places.len());
        for place in self.places {
            let name = HeaderName::from_bytes(text.get(place.name()).unwrap_or_default());
            let value = HeaderValue::from_maybe_shared(text.slice(place.value()));
            headers.append(name.map_err(|_| odd)?, value.map_err(|_| odd)?);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_taken_out_and_replaced() {
        let mut headers = Headers::default();
        for (name, value) in [("Host", "a"), ("x-a", "1"), ("x-b", ""), ("X-A", "2")] {
            headers.push(name, value);
        }
        assert_eq!(headers.as_text(), "host: a\r\nx-a: 1\r\nx-b: \r\nx-a: 2\r\n");
        assert_eq!(headers.all("x-a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((headers.get("x-a"), headers.get("x-b")), (Some("1"), Some("")));
        assert_eq!((headers.only("x-a"), headers.only("host")), (None, Some("a")));
        assert_eq!(headers.get("X-A"), None, "names are in lower case");
        let map = headers.clone().into_map().unwrap();
        assert_eq!(Headers::from_map(&map).unwrap().iter().count(), 4);
        headers.set("x-a", "3");
        assert_eq!(headers.as_text(), "host: a\r\nx-b: \r\nx-a: 3\r\n");
        headers.retain(|name, _| name != "host");
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("x-b", ""), ("x-a", "3")]);
    }
}
