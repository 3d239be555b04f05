//! Files of the store over HTTP: named by their content, so that clients may cache them forever.

use std::{fs::File, ops::RangeInclusive, sync::Arc};

use axum::{
    Extension,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use outpost_net::listener::{FilePart, FileStamp};

use crate::Digest;

/// Media type of files without a more specific one.
pub(super) const OCTETS: &str = "application/octet-stream";

/// Answers with `file`, which has this media type, or with the single range of it that `asked` requests. The answer
/// is cut off if the file no longer matches `stamp`.
pub(super) fn answer(
    file: Arc<File>,
    stamp: FileStamp,
    digest: Digest,
    kind: &'static str,
    asked: &HeaderMap,
) -> std::io::Result<Response> {
    let size = stamp.size();
    let etag = format!("\"{digest}\"");
    let mut headers = HeaderMap::new();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    let immutable = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, immutable);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let text = |name| asked.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, &etag)) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let is_same = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let wanted = text(header::RANGE).filter(|_| is_same);
    let (status, offset, length) =
        match wanted.map_or(Wanted::All, |range| Wanted::parse(range, size)) {
            Wanted::All => (StatusCode::OK, 0, size),
            Wanted::Part(range) => {
                let place = format!("bytes {}-{}/{size}", range.start(), range.end());
                if let Ok(place) = HeaderValue::from_str(&place) {
                    headers.insert(header::CONTENT_RANGE, place);
                }
                let length = range.end() - range.start() + 1;
                (StatusCode::PARTIAL_CONTENT, *range.start(), length)
            }
            Wanted::Nothing => {
                if let Ok(place) = HeaderValue::from_str(&format!("bytes */{size}")) {
                    headers.insert(header::CONTENT_RANGE, place);
                }
                return Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response());
            }
        };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let part = FilePart {
        file,
        stamp,
        offset,
        length,
    };
    let body = part.body();
    Ok((status, headers, Extension(part), body).into_response())
}

/// Returns whether a list of tags, as in `If-None-Match`, contains `etag`.
pub(super) fn matches(tags: &str, etag: &str) -> bool {
    let mut tags = tags.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The part of a file that a `Range` header requests.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// The whole file, also for anything but a single range of bytes, which RFC 9110 allows a server to ignore.
    All,
    Part(RangeInclusive<u64>),
    /// A range beyond the file's end.
    Nothing,
}

impl Wanted {
    fn parse(range: &str, size: u64) -> Self {
        let Some((first, last)) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-'))
        else {
            return Self::All;
        };
        let end = size.saturating_sub(1);
        let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => (first, last.min(end)),
            (Ok(first), Err(_)) if last.is_empty() => (first, end),
            (Err(_), Ok(last)) if first.is_empty() && last > 0 => (size.saturating_sub(last), end),
            (Err(_), Ok(0)) if first.is_empty() => return Self::Nothing,
            _ => return Self::All,
        };
        match first < size {
            true => Self::Part(first..=last),
            false => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_rfc_9110_says() {
        for (asked, expected) in [
            ("bytes=0-0", Wanted::Part(0..=0)),
            ("bytes=2-", Wanted::Part(2..=9)),
            ("bytes=-3", Wanted::Part(7..=9)),
            ("bytes=-30", Wanted::Part(0..=9)),
            ("bytes=8-99", Wanted::Part(8..=9)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::All),
            ("bytes=0-1,4-5", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            assert_eq!(Wanted::parse(asked, 10), expected, "{asked}");
        }
        assert_eq!(Wanted::parse("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn a_list_of_tags_matches_one_of_them() {
        assert!(matches("\"a\", W/\"b\"", "\"b\""));
        assert!(matches("*", "\"b\""));
        assert!(!matches("\"a\"", "\"b\""));
    }
}
