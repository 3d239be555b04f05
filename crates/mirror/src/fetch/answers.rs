//! Answers of origins that can be validated, so that an unchanged document or archive is not downloaded again.
//!
//! ```text
//! MIRROR/answers/DIGEST     a line of JSON, then the body; its modification time is the last use
//! ```
//!
//! An answer is only ever used after its origin has said that it is still valid (304), and what it contains is verified
//! like anything that is downloaded. Answers to requests with credentials are not kept.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::fmt::rfc2822::DateTimeParser;
use outpost_files::{self as files, beneath::Dir};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Answer, MAX_ANSWER_BYTES, registry::LOCATION};
use crate::{Digest, Store, store::LEFTOVER};

/// Name of the directory in a store.
pub(crate) const NAME: &str = "answers";
/// Maximum length of the first line in bytes; it has two validators.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Time after which an answer that no run has used is removed.
const UNUSED: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// Maximum size of all answers together in bytes after a run. Registries that sign addresses name each archive by a
/// new one.
const MAX_BYTES: u64 = 1 << 30;
/// Size that the smallest answer counts for, so that their number is limited too.
const MIN_BYTES: u64 = 16 << 10;
/// Age at which a modification time tells two versions apart, although both may be of the same second.
const SETTLED_SECONDS: i64 = 60;

/// The answers of one mirror. Clones use the same files.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    dir: PathBuf,
    /// `true` to keep nothing new, as in a dry run.
    is_read_only: bool,
    /// Size of the answers at the beginning of the run and of those kept since then.
    bytes: Arc<AtomicU64>,
}

/// An answer that its origin may call unchanged.
pub(super) struct Kept {
    head: Head,
    body: Vec<u8>,
}

#[derive(Deserialize, Serialize)]
struct Head {
    /// Name of the file: a copy under another name is no answer to the other request.
    request: Digest,
    /// Digest of the final address: validators of another address mean something else.
    place: Digest,
    #[serde(flatten)]
    validators: Validators,
    /// Digest of the body.
    body: Digest,
}

/// Headers by which an origin recognizes a version of a file.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
}

impl Answers {
    /// Blocks.
    pub(super) fn of(store: &Store, is_read_only: bool) -> Self {
        let dir = store.dir().join(NAME);
        let bytes = list(&dir).iter().map(|entry| entry.bytes).sum::<u64>();
        Self {
            dir,
            is_read_only,
            bytes: Arc::new(bytes.into()),
        }
    }

    /// Returns the answer to an earlier request; `None` if there is none that can be used. Blocks.
    pub(super) fn find(&self, url: &Url, headers: &HeaderMap) -> Option<Kept> {
        let request = request(url, headers);
        let limit = MAX_HEAD_BYTES + 1 + MAX_ANSWER_BYTES;
        let dir = Dir::open(&self.dir).ok()?;
        let content = dir.read(request.to_string(), limit as u64);
        let mut content = content.ok().flatten()?;
        let end = content.iter().position(|byte| *byte == b'\n')?;
        let head: Head = serde_json::from_slice(content.get(..end)?).ok()?;
        let body = content.split_off(end + 1);
        let is_sound = head.request == request
            && body.len() <= MAX_ANSWER_BYTES
            && head.body == Digest::of(&body);
        is_sound.then_some(Kept { head, body })
    }

    /// Keeps an answer that can be validated later, or records that a kept one was used. Blocks.
    pub(super) fn keep(&self, url: &Url, headers: &HeaderMap, answer: &Answer) {
        let request = request(url, headers);
        let path = self.dir.join(request.to_string());
        if self.is_read_only {
            return;
        }
        if answer.is_unchanged {
            return touch(&path);
        }
        let Some(validators) = validators(answer.status, &answer.headers) else {
            return;
        };
        let head = Head {
            request,
            place: place(&answer.place, &validators),
            validators,
            body: Digest::of(&answer.body),
        };
        let written = serde_json::to_vec(&head).map_err(io::Error::from);
        let written = written.and_then(|mut content| {
            if content.len() > MAX_HEAD_BYTES || !self.has_room(answer.body.len()) {
                return Ok(());
            }
            content.push(b'\n');
            content.extend_from_slice(&answer.body);
            files::create_private_dir(&self.dir)?;
            // What an address with a secret leads to is for its owner only.
            files::write_private(&path, &content)
        });
        if let Err(error) = written {
            // The answer itself is good; the next run downloads it again.
            tracing::debug!(%error, path = %path.display(), "cannot keep an answer");
        }
    }

    /// Returns whether another answer may be kept before the next removal of old ones.
    fn has_room(&self, bytes: usize) -> bool {
        let bytes = counted(bytes as u64);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) <= 2 * MAX_BYTES
    }

    /// Removes answers that no run has used for long, and the least recently used of too many. Blocks.
    pub(super) fn tidy(&self, now: SystemTime) {
        if self.is_read_only {
            return;
        }
        let mut known = list(&self.dir);
        known.sort_by_key(|entry| std::cmp::Reverse(entry.used));
        let mut total = 0;
        for Entry { used, bytes, path } in known {
            total += bytes;
            let age = now.duration_since(used).unwrap_or_default();
            if (is_abandoned(&path, age) || total > MAX_BYTES)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::debug!(%error, path = %path.display(), "cannot remove an answer");
            }
        }
    }
}

/// A file in the directory of answers.
struct Entry {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

fn list(dir: &Path) -> Vec<Entry> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let found = entry.metadata().ok()?;
            Some(Entry {
                used: found.modified().ok()?,
                bytes: counted(found.len()),
                path: entry.path(),
            })
        })
        .collect()
}

fn counted(bytes: u64) -> u64 {
    bytes.max(MIN_BYTES)
}

/// Returns whether a file in the directory is an answer that no run has used for long, or was left by a killed process.
pub(crate) fn is_abandoned(path: &Path, age: Duration) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let is_answer = name.is_some_and(|name| name.parse::<Digest>().is_ok());
    age > if is_answer { UNUSED } else { LEFTOVER }
}

/// Returns the name of a request. The address may contain secrets, so only its digest is in the name.
fn request(url: &Url, headers: &HeaderMap) -> Digest {
    let accepted = headers.get(header::ACCEPT);
    let accepted = accepted.map(HeaderValue::as_bytes).unwrap_or_default();
    Digest::of(&[url.as_str().as_bytes(), b"\0", accepted].concat())
}

impl Kept {
    /// Returns the headers of a request that asks whether the answer is unchanged.
    pub(super) fn conditions(&self, headers: &HeaderMap) -> HeaderMap {
        let Validators {
            etag,
            last_modified,
        } = &self.head.validators;
        let mut headers = headers.clone();
        let (name, value) = match etag {
            Some(_) => (header::IF_NONE_MATCH, etag),
            None => (header::IF_MODIFIED_SINCE, last_modified),
        };
        let value = value
            .as_deref()
            .and_then(|value| HeaderValue::from_str(value).ok());
        headers.extend(value.map(|value| (name, value)));
        headers
    }

    /// Returns the complete answer for a 304 from `from` with these headers; `None` if that is about another address or
    /// another version.
    pub(super) fn into_answer(self, from: &Url, headers: &HeaderMap) -> Option<Answer> {
        let validators = &self.head.validators;
        if place(from, validators) != self.head.place || !validators.fit(headers) {
            return None;
        }
        Some(Answer {
            place: from.clone(),
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: self.body,
            is_unchanged: true,
        })
    }
}

impl Validators {
    /// Returns whether a 304 names this version, or none. A file that was replaced by an older one is called unchanged
    /// by servers that only compare whether it is newer.
    fn fit(&self, headers: &HeaderMap) -> bool {
        let weak = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
        match &self.etag {
            Some(known) => text(headers, &header::ETAG).is_none_or(|tag| weak(&tag) == weak(known)),
            None => {
                let named = text(headers, &header::LAST_MODIFIED);
                named.is_none() || named == self.last_modified
            }
        }
    }
}

/// Records that an answer was used.
fn touch(path: &Path) {
    let file = OpenOptions::new().append(true).open(path);
    if let Err(error) = file.and_then(|file| file.set_modified(SystemTime::now())) {
        tracing::debug!(%error, path = %path.display(), "cannot record the use of an answer");
    }
}

/// Returns the validators of an answer; `None` if it must not be kept, or has none that distinguish versions.
fn validators(status: StatusCode, headers: &HeaderMap) -> Option<Validators> {
    let control = text(headers, &header::CACHE_CONTROL).unwrap_or_default();
    let is_private = control.to_ascii_lowercase().contains("no-store");
    // The address of a module is short, and may be signed for a few minutes only.
    if status != StatusCode::OK || is_private || headers.contains_key(&LOCATION) {
        return None;
    }
    let validators = Validators {
        etag: text(headers, &header::ETAG),
        last_modified: text(headers, &header::LAST_MODIFIED).filter(|_| is_settled(headers)),
    };
    (validators != Validators::default()).then_some(validators)
}

/// Returns whether a file was changed long enough before the answer.
fn is_settled(headers: &HeaderMap) -> bool {
    let time = |name: &HeaderName| {
        let text = text(headers, name)?;
        DateTimeParser::new().parse_timestamp(text).ok()
    };
    let (modified, now) = (time(&header::LAST_MODIFIED), time(&header::DATE));
    let age = modified.zip(now);
    age.is_some_and(|(modified, now)| now.as_second() - modified.as_second() >= SETTLED_SECONDS)
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// Returns the name of a final address. A tag distinguishes versions whatever the query is, which is another one for each
/// request if addresses are signed; a time does not.
fn place(url: &Url, validators: &Validators) -> Digest {
    let mut url = outpost_net::http::without_credentials(url);
    if validators.etag.is_some() {
        url.set_query(None);
    }
    Digest::of(url.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const URL: &str = "https://user:secret@files.example/a.zip?token=secret";

    fn url() -> Url {
        URL.parse().unwrap()
    }

    fn answer(body: &[u8], headers: &[(HeaderName, &str)]) -> Answer {
        Answer {
            place: url(),
            status: StatusCode::OK,
            headers: map(headers),
            body: body.to_vec(),
            is_unchanged: false,
        }
    }

    fn map(headers: &[(HeaderName, &str)]) -> HeaderMap {
        let headers = headers.iter();
        headers
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn answers() -> (tempfile::TempDir, Answers) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let answers = Answers::of(&store, false);
        (dir, answers)
    }

    fn files(answers: &Answers) -> Vec<PathBuf> {
        let entries = fs::read_dir(&answers.dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn an_answer_comes_back_if_its_origin_says_that_it_is_unchanged() {
        let (_dir, answers) = answers();
        let none = HeaderMap::new();
        let tag = answer(b"body\n", &[(header::ETAG, "\"1\"")]);
        answers.keep(&url(), &none, &tag);
        let kept = || answers.find(&url(), &none).unwrap();

        assert_eq!(kept().conditions(&none)[header::IF_NONE_MATCH], "\"1\"");
        let again = "https://files.example/a.zip?token=another";
        let again = again.parse().unwrap();
        let weak = map(&[(header::ETAG, "W/\"1\"")]);
        for headers in [&none, &weak] {
            let got = kept().into_answer(&again, headers).unwrap();
            assert_eq!(
                (got.body.as_slice(), got.is_unchanged),
                (&b"body\n"[..], true)
            );
        }
        let other = map(&[(header::ETAG, "\"2\"")]);
        assert!(kept().into_answer(&again, &other).is_none());
        let elsewhere = "https://other.example/a.zip".parse().unwrap();
        assert!(kept().into_answer(&elsewhere, &none).is_none());
        let json = map(&[(header::ACCEPT, "application/json")]);
        assert!(answers.find(&url(), &json).is_none());
        let text = fs::read(&files(&answers)[0]).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("secret"));
    }

    #[test]
    fn a_time_tells_versions_apart_only_at_the_same_address() {
        let (_dir, answers) = answers();
        let none = HeaderMap::new();
        let modified = (header::LAST_MODIFIED, "Tue, 15 Nov 1994 12:45:26 GMT");
        let date = (header::DATE, "Tue, 15 Nov 1994 13:45:26 GMT");
        answers.keep(&url(), &none, &answer(b"body", &[modified.clone(), date]));
        let kept = || answers.find(&url(), &none).unwrap();

        let conditions = kept().conditions(&none);
        assert_eq!(conditions[header::IF_MODIFIED_SINCE], modified.1);
        assert!(kept().into_answer(&url(), &none).is_some());
        assert!(kept().into_answer(&url(), &map(&[modified])).is_some());
        let older = map(&[(header::LAST_MODIFIED, "Mon, 14 Nov 1994 12:45:26 GMT")]);
        assert!(kept().into_answer(&url(), &older).is_none());
        let again = "https://files.example/a.zip?token=another";
        assert!(kept().into_answer(&again.parse().unwrap(), &none).is_none());
    }

    #[test]
    fn only_validators_that_distinguish_versions_are_kept() {
        let modified = (header::LAST_MODIFIED, "Tue, 15 Nov 1994 12:45:26 GMT");
        let at = |date: &'static str| map(&[modified.clone(), (header::DATE, date)]);
        let of = |headers: &HeaderMap| validators(StatusCode::OK, headers);

        let settled = of(&at("Tue, 15 Nov 1994 12:46:26 GMT")).unwrap();
        assert_eq!(settled.etag, None);
        assert!(settled.last_modified.is_some());
        assert_eq!(of(&at("Tue, 15 Nov 1994 12:46:25 GMT")), None);
        assert_eq!(of(&map(&[modified])), None, "nobody knows how old it is");
        assert_eq!(of(&HeaderMap::new()), None);
        let tag = (header::ETAG, "W/\"1\"");
        assert!(of(&map(std::slice::from_ref(&tag))).is_some());
        let secret = (header::CACHE_CONTROL, "private, No-Store");
        assert_eq!(of(&map(&[tag.clone(), secret])), None);
        assert_eq!(of(&map(&[tag.clone(), (LOCATION, "./x.zip?key=1")])), None);
        assert_eq!(validators(StatusCode::PARTIAL_CONTENT, &map(&[tag])), None);
    }

    #[test]
    fn a_damaged_answer_is_not_used_and_a_dry_run_keeps_none() {
        let (_dir, answers) = answers();
        let tag = answer(b"body", &[(header::ETAG, "\"1\"")]);
        let dry = Answers {
            is_read_only: true,
            ..answers.clone()
        };
        dry.keep(&url(), &HeaderMap::new(), &tag);
        assert!(files(&answers).is_empty());
        answers.keep(&url(), &HeaderMap::new(), &tag);
        let file = files(&answers).remove(0);
        let mut text = fs::read(&file).unwrap();

        let whole = text.clone();
        let is_used = || answers.find(&url(), &HeaderMap::new()).is_some();
        assert!(is_used());
        *text.last_mut().unwrap() ^= 1;
        fs::write(&file, &text).unwrap();
        assert!(!is_used());
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert!(!is_used());
        fs::write(&file, b"rubbish").unwrap();
        assert!(!is_used());
        // A link, although to a sound copy, a pipe without a writer, and a file of any length.
        let copy = answers.dir.join("copy");
        fs::write(&copy, &whole).unwrap();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("copy", &file).unwrap();
        assert!(!is_used());
        fs::remove_file(&file).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&file).status();
        assert!(made.unwrap().success());
        assert!(!is_used());
        fs::remove_file(&file).unwrap();
        File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert!(!is_used());
        // The answer to another request.
        let other: Url = "https://files.example/a.zip?of=another".parse().unwrap();
        let name = request(&other, &HeaderMap::new()).to_string();
        fs::rename(&copy, answers.dir.join(name)).unwrap();
        assert!(answers.find(&other, &HeaderMap::new()).is_none());
    }

    #[test]
    fn too_many_answers_are_not_kept_and_the_least_recently_used_are_removed() {
        let (_dir, answers) = answers();
        let tag = answer(b"body", &[(header::ETAG, "\"1\"")]);
        let now = SystemTime::now();
        for (name, age) in [("a", 2), ("b", 1)] {
            let url = url().join(name).unwrap();
            answers.keep(&url, &HeaderMap::new(), &tag);
            let path = answers
                .dir
                .join(request(&url, &HeaderMap::new()).to_string());
            let file = OpenOptions::new().append(true).open(path).unwrap();
            // Sparse: both together are too large.
            file.set_len(MAX_BYTES * 2 / 3).unwrap();
            let used = now - Duration::from_secs(age);
            file.set_modified(used).unwrap();
        }
        let full = Answers {
            bytes: Arc::new((2 * MAX_BYTES).into()),
            ..answers.clone()
        };
        full.keep(&url(), &HeaderMap::new(), &tag);
        assert_eq!(files(&answers).len(), 2);

        answers.tidy(now);

        let newer = request(&url().join("b").unwrap(), &HeaderMap::new());
        assert_eq!(
            files(&answers),
            [answers.dir.join(newer.to_string())].to_vec()
        );
    }

    #[test]
    fn what_no_run_has_used_for_long_is_removed() {
        let (_dir, answers) = answers();
        let tag = answer(b"body", &[(header::ETAG, "\"1\"")]);
        answers.keep(&url(), &HeaderMap::new(), &tag);
        let now = SystemTime::now();

        answers.tidy(now);
        assert_eq!(files(&answers).len(), 1);
        let used = Answer {
            is_unchanged: true,
            ..answer(b"body", &[])
        };
        let leftover = answers.dir.join(".tmp");
        fs::write(&leftover, "").unwrap();
        answers.tidy(now);
        assert!(leftover.exists(), "it may be being written");
        answers.tidy(now + LEFTOVER * 2);
        assert!(!leftover.exists());
        let old = File::open(&files(&answers)[0]).unwrap();
        old.set_modified(now - UNUSED * 2).unwrap();
        answers.keep(&url(), &HeaderMap::new(), &used);
        answers.tidy(now);
        assert_eq!(files(&answers).len(), 1, "it was used");
        answers.tidy(now + UNUSED * 2);

        assert!(files(&answers).is_empty());
    }
}
