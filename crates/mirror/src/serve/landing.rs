//! The start page `/`: contents and use of the mirror, as HTML, or as JSON on request.

mod contents;
mod html;
mod page;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    extract::Request,
    http::{HeaderMap, Uri, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use super::{Answer, Generation, Mirror, Refused, Shared, Store, StoreError, documents};
use crate::{
    bundle::Records,
    keys::KeyId,
    setup::{Mode, Setup},
    tend,
};
use contents::Contents;
use html::Html;
use page::{Head, Usage};

/// Time for which the lists and the state of signatures are cached. Trusted keys may change without a new generation,
/// but a client that reloads the page all the time must not cause a reading of the index each time.
const FRESH: Duration = Duration::from_secs(10);

/// The cached overview of a generation.
#[derive(Default)]
pub(super) struct Landing(Mutex<Option<(Instant, Arc<Overview>)>>);

/// Contents of the page, which do not depend on the client.
struct Overview {
    /// Number and time of the generation; `None` if there is none.
    generation: Option<(u64, Timestamp)>,
    state: State,
    files: (usize, u64),
    /// Registries that the mirror replaces.
    hosts: Vec<String>,
    /// Hosts of its git repositories.
    git_hosts: Vec<String>,
    /// `true` if the mirror has packages that no publisher signed.
    has_unsigned: bool,
    lists: Html,
}

/// Authentication of the generation's index.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
enum State {
    /// Trusted keys signed the index.
    Signed { keys: Vec<KeyId> },
    /// Keys that are not trusted here signed the index.
    Untrusted { keys: Vec<KeyId> },
    /// The index is unchanged since it was written, but not signed.
    Unsigned,
    /// The index was written by an older release, which made no inventory.
    NotRecorded,
    /// The index was changed after it was written.
    Damaged { problems: Vec<String> },
}

/// The JSON form for programs.
#[derive(Serialize)]
struct Document<'a> {
    generation: Option<u64>,
    made: Option<Timestamp>,
    index: &'a State,
    file_count: usize,
    bytes: u64,
    /// Number of items at `/api/missing`.
    missing: usize,
    #[serde(flatten)]
    contents: Contents<'a>,
}

/// Answers requests for `/`.
pub(super) async fn show(
    axum::extract::State(mirror): Shared,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    let is_json = wants_json(&headers);
    match answer(&mirror, &uri, &headers, is_json).await {
        Err(refused) if !is_json => Ok(refuse(&refused)),
        answer => answer,
    }
}

async fn answer(mirror: &Arc<Mirror>, uri: &Uri, headers: &HeaderMap, is_json: bool) -> Answer {
    let overview = overview(mirror).await?;
    match is_json {
        true => document(mirror, overview).await,
        false => Ok(as_page(mirror, &overview, uri, headers)),
    }
}

async fn overview(mirror: &Arc<Mirror>) -> Result<Arc<Overview>, Refused> {
    // Only one overview is made at a time, for all clients.
    let mut known = mirror.landing.0.lock().await;
    let current = mirror.store.current()?;
    if let Some((when, overview)) = &*known
        && when.elapsed() < FRESH
        && overview.generation.map(|(number, _)| number) == current
    {
        return Ok(overview.clone());
    }
    let this = mirror.clone();
    let made = tokio::task::spawn_blocking(move || Overview::of(&this)).await;
    let made = Arc::new(made.unwrap_or(Err(Refused::Broken))?);
    *known = Some((Instant::now(), made.clone()));
    Ok(made)
}

impl Overview {
    /// Reads the overview from the store. Blocks.
    fn of(mirror: &Mirror) -> Result<Self, Refused> {
        let snapshot = match mirror.snapshot() {
            Err(StoreError::Empty { .. }) => None,
            snapshot => Some(snapshot?),
        };
        let nothing = Generation::default();
        let all = snapshot.as_ref().map_or(&nothing, |it| &it.generation);
        let number = snapshot.as_ref().map(|it| it.lease.number);
        let (generation, state) = match number {
            None => (None, State::Unsigned),
            Some(number) => (
                Some((number, mirror.store.made(number)?)),
                state(&mirror.store, number)?,
            ),
        };
        let mut hosts: BTreeSet<_> = documents::services(all).into_keys().collect();
        let upstream = mirror.upstream.iter().flat_map(|it| it.services().keys());
        hosts.extend(upstream.cloned());
        let git = all.git.iter();
        let git: BTreeSet<_> = git
            .filter_map(|git| git.place().split('/').next())
            .collect();
        let size = |digest| size(&mirror.store, digest);
        let files = all.digests();
        Ok(Self {
            generation,
            state,
            files: (files.len(), files.iter().map(|it| size(*it)).sum()),
            hosts: hosts.into_iter().collect(),
            git_hosts: git.into_iter().map(str::to_owned).collect(),
            has_unsigned: all.unsigned().next().is_some(),
            lists: page::lists(&Contents::of(all, size)),
        })
    }
}

/// Returns the length of a file of the store; 0 if it is missing, which is logged when a client requests it.
fn size(store: &Store, digest: super::Digest) -> u64 {
    std::fs::metadata(store.path(digest)).map_or(0, |file| file.len())
}

fn state(store: &Store, number: u64) -> Result<State, StoreError> {
    let trust = Records::of(store)?.trust();
    let (state, problems) = tend::index_state(store, number, &trust)?;
    let keys = |keys: BTreeSet<KeyId>| keys.into_iter().collect();
    let problem = |it: tend::Problem| format!("{}: {}", it.what, it.why);
    Ok(match state {
        _ if !problems.is_empty() => State::Damaged {
            problems: problems.into_iter().map(problem).collect(),
        },
        it if !it.signed_by.is_empty() => State::Signed {
            keys: keys(it.signed_by),
        },
        it if !it.untrusted.is_empty() => State::Untrusted {
            keys: keys(it.untrusted),
        },
        it if it.has_inventory => State::Unsigned,
        _ => State::NotRecorded,
    })
}

async fn document(mirror: &Arc<Mirror>, overview: Arc<Overview>) -> Answer {
    let this = mirror.clone();
    let make = move || {
        let snapshot = overview.generation.map(|_| this.snapshot()).transpose()?;
        let nothing = Generation::default();
        let all = snapshot.as_ref().map_or(&nothing, |it| &it.generation);
        let document = Document {
            generation: overview.generation.map(|(number, _)| number),
            made: overview.generation.map(|(_, made)| made),
            index: &overview.state,
            file_count: overview.files.0,
            bytes: overview.files.1,
            missing: this.misses.count(),
            contents: Contents::of(all, |digest| size(&this.store, digest)),
        };
        serde_json::to_vec(&document).map_err(|error| {
            tracing::error!(%error, "what the mirror has cannot be told");
            Refused::Broken
        })
    };
    let made = tokio::task::spawn_blocking(make).await;
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::VARY, "accept"),
    ];
    Ok((headers, made.unwrap_or(Err(Refused::Broken))?).into_response())
}

fn as_page(mirror: &Mirror, overview: &Overview, uri: &Uri, headers: &HeaderMap) -> Response {
    let is_encrypted = mirror.is_encrypted.get().copied().unwrap_or(false);
    let url = reached_at(uri, headers, is_encrypted);
    let setup = url.as_ref().filter(|_| !overview.hosts.is_empty());
    let setup = setup.and_then(|url| {
        let (hosts, git) = (overview.hosts.clone(), overview.git_hosts.clone());
        Setup::new(url, Mode::Registry, hosts, git, None).ok()
    });
    let url = url.as_ref().map(Url::as_str);
    let limits = |setup: &Setup| match overview.has_unsigned {
        true => setup.limits(),
        false => Vec::new(),
    };
    let parts = setup.map(|it| (it.rc(), limits(&it)));
    let usage = url.zip(parts.as_ref()).map(|(url, (rc, limits))| Usage {
        url,
        rc,
        git_hosts: &overview.git_hosts,
        limits,
        wants_token: mirror.access.wants_token(),
    });
    let misses = mirror.misses.list();
    let head = Head {
        url,
        generation: overview.generation,
        state: &overview.state,
        files: overview.files,
        misses: &misses,
        usage,
    };
    guarded(page::page(&head, &overview.lists))
}

/// Returns whether a request is a browser's request for the page.
pub(super) fn is_page(request: &Request) -> bool {
    request.uri().path() == "/" && !wants_json(request.headers())
}

/// Returns a page with the reason for a refusal.
pub(super) fn refuse(refused: &Refused) -> Response {
    let (status, why) = refused.words();
    let (why, remedy) = match refused {
        Refused::Unknown => (
            "This mirror wants a token.",
            "Reload the page, enter any name, and the token as the password. <code>outpost provisioner start</code> \
             takes it with <code>--mirror-token-file</code>, an engine from a <code>credentials</code> block of its CLI \
             configuration.",
        ),
        _ => (why, "The server’s log says more."),
    };
    let mut response = guarded(page::refusal(why, remedy));
    *response.status_mut() = status;
    refused.challenge(&mut response);
    response
}

/// Returns a page with headers that forbid everything but showing it.
fn guarded(page: String) -> Response {
    let style = STANDARD.encode(digest(&SHA256, page::STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::VARY, "accept"),
    ];
    (headers, page).into_response()
}

/// Returns the address under which the browser or a proxy before us reached the mirror. Only this reader sees it.
fn reached_at(uri: &Uri, headers: &HeaderMap, is_encrypted: bool) -> Option<Url> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let first = |name: &str| Some(text(name)?.split(',').next()?.trim());
    let authority = first("x-forwarded-host").or(text("host"));
    let authority = authority.or(uri.authority().map(http::uri::Authority::as_str))?;
    let scheme = match first("x-forwarded-proto") {
        Some(scheme @ ("http" | "https")) => scheme,
        _ if is_encrypted => "https",
        _ => "http",
    };
    let url = Url::parse(&format!("{scheme}://{authority}/")).ok()?;
    (url.path() == "/" && url.query().is_none() && url.fragment().is_none()).then_some(url)
}

/// Returns whether a client prefers JSON to a page. A client that accepts both equally gets the page.
fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter();
    let ranges: Vec<_> = accept
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(range)
        .collect();
    // The most specific range counts.
    let quality = |kind: &str| {
        let main = kind.split('/').next().unwrap_or_default();
        let names = [kind.to_owned(), format!("{main}/*"), "*/*".to_owned()];
        let of = |name: &String| ranges.iter().find(|(range, _)| range == name);
        let found = names
            .iter()
            .enumerate()
            .find_map(|(rank, name)| Some((rank, of(name)?.1)));
        found.map_or((0, 0), |(rank, quality)| (quality, 3 - rank))
    };
    quality("application/json") > quality("text/html")
}

/// Parses a range of `Accept`, with its quality in thousandths.
fn range(text: &str) -> Option<(String, u32)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?.to_ascii_lowercase();
    let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
    let quality = quality.unwrap_or(1.0).clamp(0.0, 1.0);
    let thousandths = (quality * 1000.0).round() as u32;
    (!name.is_empty()).then_some((name, thousandths))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(headers: &[(&'static str, &str)], is_encrypted: bool) -> Option<String> {
        let pairs = headers.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_str(value).unwrap())
        });
        let uri = Uri::from_static("/");
        let url = reached_at(&uri, &pairs.collect(), is_encrypted);
        url.map(String::from)
    }

    #[test]
    fn the_mirror_is_where_the_reader_found_it() {
        for (headers, is_encrypted, url) in [
            (
                &[("host", "m.example:7081")][..],
                false,
                Some("http://m.example:7081/"),
            ),
            (&[("host", "m.example")], true, Some("https://m.example/")),
            (
                &[
                    ("host", "10.0.0.1:7081"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-host", "m.example, inner"),
                ],
                false,
                Some("https://m.example/"),
            ),
            (&[("host", "m.example/evil?x=\"")], false, None),
            (&[("host", "<b>")], false, None),
            (&[], false, None),
        ] {
            assert_eq!(
                reached(headers, is_encrypted).as_deref(),
                url,
                "{headers:?}"
            );
        }
        let of_http2 = Uri::from_static("https://m.example/");
        let url = reached_at(&of_http2, &HeaderMap::new(), true).map(String::from);
        assert_eq!(url.as_deref(), Some("https://m.example/"));
    }
}
