//! Masks: what is put in place of values that may not be seen, and how such values are found.
//!
//! It is *not* a policy (whether somebody may see a class is asked elsewhere) and knows no
//! protocol: it takes values and texts, and gives masked ones.
//!
//! Invariants:
//! - **No mask gives its value back**, and none fails open: where a type cannot carry a mask, or a
//!   key is missing, the result is NULL.
//! - **Deterministic masks are keyed.** Nobody without the key can try values.
//! - **Nothing is found twice or half**: findings do not overlap, and a text in pieces is masked as
//!   it would be in one, with a stated bound on what is held back.
//! - **Linear.** Every detector looks at a bounded stretch around a candidate.
//!
//! | file | holds |
//! |---|---|
//! | `function` | the masks, their keys and their spelling |
//! | `date`, `json` | what they need to know of dates and documents |
//! | `classes` | which column is of which class |
//! | `detect` | detectors, by content |
//! | `normal` | one form for many spellings, with a way back |
//! | `stream` | masking a text in pieces |
//! | `document` | masking a JSON document in pieces |

pub mod classes;
pub mod date;
pub mod detect;
pub mod document;
pub mod function;
pub mod json;
pub mod normal;
pub mod stream;

pub use classes::{CLEAR, Class, ClassError, Classes, Inference};
pub use detect::{ALL, Finding, Kind, Own, OwnError, Scanner, What};
pub use document::{Counts, Document, DocumentError, Hidden, Rule};
pub use function::{Key, Mask, MaskError, Masked, Value, With};
pub use stream::Stream;
