//! The page for people: contents and use of a mirror. Pure: no socket, no file.
//!
//! It contains no script, requests nothing else, and is bounded whatever the mirror has: the rest is in the JSON.

use jiff::Timestamp;

use super::{
    State,
    contents::{Contents, File, Named, Repository, Version},
    html::{Html, count, size},
};
use crate::{keys::KeyId, serve::Miss};

/// Style sheet inside the page: its digest is in the page's `Content-Security-Policy`.
pub(super) const STYLE: &str = include_str!("style.css");

/// Maximum number of rows of a section: of a thousand providers, or of one with a thousand versions.
const SECTION_ROWS: usize = 2000;
/// Maximum number of versions of one provider, or of references of one repository.
const ITEM_ROWS: usize = 100;
/// Maximum number of misses.
const MISSES: usize = 200;

/// The part above the lists.
pub(super) struct Head<'a> {
    /// Address under which the reader reached the mirror.
    pub(super) url: Option<&'a str>,
    /// Number and time of the generation; `None` if the mirror is empty.
    pub(super) generation: Option<(u64, Timestamp)>,
    pub(super) state: &'a State,
    /// Number and total size of the generation's files.
    pub(super) files: (usize, u64),
    pub(super) misses: &'a [Miss],
    pub(super) usage: Option<Usage<'a>>,
}

/// Instructions for using the mirror.
pub(super) struct Usage<'a> {
    pub(super) url: &'a str,
    /// The CLI configuration for engines.
    pub(super) rc: &'a str,
    /// Hosts of git repositories.
    pub(super) git_hosts: &'a [String],
    /// Limits of this configuration.
    pub(super) limits: &'a [String],
    pub(super) wants_token: bool,
}

/// Returns the whole page. `lists` are those of [`lists`].
pub(super) fn page(head: &Head<'_>, lists: &Html) -> String {
    let mut html = begin(head.url);
    summary(head, &mut html);
    if let Some(usage) = &head.usage {
        how(usage, &mut html);
    }
    html.part(lists);
    missing(head.misses, &mut html);
    html.raw("<p class=quiet>As JSON: <code>curl -H &#39;Accept: application/json&#39; ")
        .text(head.url.unwrap_or("URL"))
        .raw("</code></p>\n</body>\n</html>\n");
    html.into_string()
}

/// Returns a page with the reason for a refusal.
pub(super) fn refusal(why: &str, remedy: &'static str) -> String {
    let mut html = begin(None);
    html.raw("<p>").text(why).raw("</p>\n<p>").raw(remedy);
    html.raw("</p>\n</body>\n</html>\n");
    html.into_string()
}

fn begin(url: Option<&str>) -> Html {
    let mut html = Html::default();
    html.raw("<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n")
        .raw("<meta name=viewport content=\"width=device-width\">\n<title>Outpost mirror</title>\n<style>")
        .raw(STYLE)
        .raw("</style>\n</head>\n<body>\n<h1>Outpost mirror</h1>\n");
    if let Some(url) = url {
        html.raw("<p class=quiet>").text(url).raw("</p>\n");
    }
    html
}

fn summary(head: &Head<'_>, html: &mut Html) {
    html.raw("<dl>\n<dt>Generation</dt><dd>");
    match head.generation {
        None => html.raw("none yet: <code>outpost mirror sync</code> or <code>outpost mirror import</code> makes one"),
        Some((number, made)) => html.text(&format!("{number}, made {made}")),
    };
    html.raw("</dd>\n");
    if head.generation.is_some() {
        html.raw("<dt>Trust</dt><dd>");
        state(head.state, html);
        let (files, bytes) = head.files;
        html.raw("</dd>\n<dt>Size</dt><dd>").text(&format!(
            "{} in {}",
            size(bytes),
            count(files, "file", "files")
        ));
        html.raw("</dd>\n");
    }
    html.raw("<dt>Missing</dt><dd>");
    match head.misses.len() {
        0 => html.raw("nothing was asked for in vain since the server started"),
        missing => html
            .raw("<a href=\"#missing\">")
            .text(&count(missing, "item", "items"))
            .raw("</a>"),
    };
    html.raw("</dd>\n</dl>\n");
}

fn state(state: &State, html: &mut Html) {
    let names = |keys: &[KeyId]| {
        let names: Vec<_> = keys.iter().map(KeyId::to_string).collect();
        names.join(", ")
    };
    match state {
        State::Signed { keys } => html
            .raw("<span class=good>trusted</span>: its index is signed by ")
            .text(&names(keys)),
        State::Untrusted { keys } => html
            .raw("<span class=warn>not trusted here</span>: its index is signed by ")
            .text(&names(keys)),
        State::Unsigned => html.raw("<span class=warn>not signed</span>: its index is as it was made, and nobody signed it"),
        State::NotRecorded => {
            html.raw("<span class=warn>not authenticated</span>: an older release made it; the next sync records it")
        }
        State::Damaged { problems } => html
            .raw("<span class=bad>damaged</span>: ")
            .text(&problems.join("; ")),
    };
}

fn how(usage: &Usage<'_>, html: &mut Html) {
    html.raw("<h2>Use</h2>\n<p>Provisioner daemons, and templates at a desk:</p>\n<pre>");
    for command in ["outpost provisioner start", "outpost dev TEMPLATE"] {
        html.raw(command)
            .raw(" --mirror ")
            .whole(usage.url)
            .raw(if usage.wants_token {
                " --mirror-token-file FILE\n"
            } else {
                "\n"
            });
    }
    html.raw("</pre>\n<details><summary>Terraform and OpenTofu by themselves</summary><div class=body>\n")
        .raw("<p>The CLI configuration, in a file that <code>TF_CLI_CONFIG_FILE</code> names:</p>\n<pre>")
        .whole(usage.rc.trim_end())
        .raw("</pre>\n");
    if usage.wants_token {
        html.raw("<p>It also needs the token, in a <code>credentials</code> block for each of these hosts.</p>\n");
    }
    for limit in usage.limits {
        html.raw("<p class=warn>").text(limit).raw("</p>\n");
    }
    html.raw("<p>With variables for git, or as lines of a Dockerfile or values of Coder’s chart:</p>\n<pre>outpost mirror config ")
        .whole(usage.url);
    for host in usage.git_hosts {
        html.raw(" --git-host ").whole(host);
    }
    html.raw(" --for env|dockerfile|helm</pre>\n</div></details>\n");
}

/// Returns the mirror's contents, section by section.
pub(super) fn lists(contents: &Contents<'_>) -> Html {
    let mut html = Html::default();
    named("Providers", &contents.providers, &mut html);
    named("Modules", &contents.modules, &mut html);
    named("Engines and programs", &contents.tools, &mut html);
    repositories(&contents.git, &mut html);
    files("Files", &contents.files, &mut html);
    files("Container images", &contents.images, &mut html);
    html
}

fn heading(title: &'static str, number: usize, html: &mut Html) {
    html.raw("<h2>")
        .raw(title)
        .raw(" <span class=count>")
        .text(&number.to_string())
        .raw("</span></h2>\n");
}

/// Adds a note about omitted rows.
fn more(number: usize, html: &mut Html) {
    if number > 0 {
        html.raw("<p class=quiet>").text(&format!("… and {number}"));
        html.raw(" more, which the JSON has.</p>\n");
    }
}

/// Takes up to `wanted` rows from `left`.
fn take(left: &mut usize, wanted: usize) -> usize {
    let taken = wanted.min(*left);
    *left -= taken;
    taken
}

fn named(title: &'static str, all: &[Named<'_>], html: &mut Html) {
    if all.is_empty() {
        return;
    }
    heading(title, all.len(), html);
    let (mut left, mut shown) = (SECTION_ROWS, 0);
    for item in all {
        if take(&mut left, 1) == 0 {
            break;
        }
        shown += 1;
        let rows = take(&mut left, item.versions.len().min(ITEM_ROWS));
        html.raw("<details><summary>").text(&item.name);
        html.raw(" <span class=note>").text(&note(&item.versions));
        html.raw("</span></summary><div class=body><table>\n");
        versions(&item.versions[..rows], html);
        html.raw("</table>\n");
        more(item.versions.len() - rows, html);
        html.raw("</div></details>\n");
    }
    more(all.len() - shown, html);
}

fn note(versions: &[Version<'_>]) -> String {
    let bytes = versions.iter().map(|it| it.bytes).sum();
    let newest = versions.first().map(|it| it.version.to_string());
    let number = count(versions.len(), "version", "versions");
    let newest = newest.unwrap_or_default();
    format!("{newest} · {number} · {}", size(bytes))
}

fn versions(all: &[Version<'_>], html: &mut Html) {
    html.raw("<tr><th>Version");
    let has_platforms = all.iter().any(|it| !it.platforms.is_empty());
    if has_platforms {
        html.raw("<th>Platforms<th>Publisher’s signature");
    }
    html.raw("<th class=number>Size</tr>\n");
    for it in all {
        html.raw("<tr><td class=version>")
            .text(&it.version.to_string());
        if has_platforms {
            let platforms: Vec<_> = it
                .platforms
                .iter()
                .map(|it| it.platform.to_string())
                .collect();
            html.raw("<td>").text(&platforms.join(" ")).raw("<td>");
            html.raw(match it.signed {
                Some(true) => "yes",
                _ => "<span class=warn>no</span>",
            });
        }
        html.raw("<td class=number>")
            .text(&size(it.bytes))
            .raw("</tr>\n");
    }
}

fn repositories(all: &[Repository<'_>], html: &mut Html) {
    if all.is_empty() {
        return;
    }
    heading("Git repositories", all.len(), html);
    let (mut left, mut shown) = (SECTION_ROWS, 0);
    for git in all {
        if take(&mut left, 1) == 0 {
            break;
        }
        shown += 1;
        let rows = take(&mut left, git.references.len().min(ITEM_ROWS));
        let number = count(git.references.len(), "reference", "references");
        html.raw("<details><summary>").text(git.url);
        html.raw(" <span class=note>")
            .text(&format!("{number} · {}", size(git.bytes)));
        html.raw("</span></summary><div class=body><table>\n<tr><th>Reference<th>Commit</tr>\n");
        for (name, commit) in git.references.iter().take(rows) {
            html.raw("<tr><td>").text(short(name)).raw("<td><code>");
            html.text(commit).raw("</code></tr>\n");
        }
        html.raw("</table>\n");
        more(git.references.len() - rows, html);
        html.raw("</div></details>\n");
    }
    more(all.len() - shown, html);
}

/// Returns a branch or a tag by its short name: `main`, `v1.0.0`.
fn short(name: &str) -> &str {
    let ends = ["refs/heads/", "refs/tags/"];
    ends.iter()
        .find_map(|end| name.strip_prefix(end))
        .unwrap_or(name)
}

fn files(title: &'static str, all: &[File<'_>], html: &mut Html) {
    if all.is_empty() {
        return;
    }
    heading(title, all.len(), html);
    html.raw("<details><summary>Show all <span class=note>");
    html.text(&size(all.iter().map(|file| file.bytes).sum()));
    html.raw("</span></summary><div class=body><table>\n");
    for file in all.iter().take(SECTION_ROWS) {
        html.raw("<tr><td>")
            .text(file.name)
            .raw("<td class=number>");
        html.text(&size(file.bytes)).raw("</tr>\n");
    }
    html.raw("</table>\n");
    more(all.len().saturating_sub(SECTION_ROWS), html);
    html.raw("</div></details>\n");
}

fn missing(all: &[Miss], html: &mut Html) {
    if all.is_empty() {
        return;
    }
    html.raw("<h2 id=missing>Missing <span class=count>")
        .text(&all.len().to_string());
    html.raw("</span></h2>\n<p class=quiet>Asked for in vain since the server started; <code>outpost mirror sync --misses FILE</code> ")
        .raw("fetches what <a href=\"api/missing\">/api/missing</a> lists.</p>\n<details open><summary>Show all</summary>")
        .raw("<div class=body><table>\n<tr><th>Kind<th>Name<th>Version<th>Platform<th>Times<th>Last</tr>\n");
    for miss in all.iter().take(MISSES) {
        let item = &miss.item;
        let cells = [item.version.as_deref(), item.platform.as_deref()];
        html.raw("<tr><td>")
            .text(item.kind)
            .raw("<td>")
            .text(&item.name);
        for cell in cells {
            html.raw("<td>").text(cell.unwrap_or_default());
        }
        html.raw("<td>").text(&miss.count.to_string());
        html.raw("<td class=version>")
            .text(&format!("{:.0}", miss.last))
            .raw("</tr>\n");
    }
    html.raw("</table>\n");
    more(all.len().saturating_sub(MISSES), html);
    html.raw("</div></details>\n");
}
