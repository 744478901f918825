//! The wire protocol: framing, requests, errors, encoding. Pure: bytes and values in, values and bytes out.

pub mod answer;
pub mod budget;
pub mod encode;
pub mod envelope;
pub mod fault;
pub mod frame;
pub mod json;
pub mod limits;
pub mod record;
pub mod request;
