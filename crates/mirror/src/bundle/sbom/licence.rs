//! Licences by their texts. Pure: no socket, no file.
//!
//! A text is recognized only if all of its words agree; nothing is concluded from a similarity.

use std::sync::LazyLock;

use regex::Regex;

use crate::Digest;

/// SHA-256 of the words of licence texts, with the licences' identifiers.
///
/// # Source
/// The texts of SPDX's list of licences, and Apache's without its appendix, as packages often have it.
const TEXTS: [(&str, &str); 13] = [
    (
        "3508d278c429703a4d7ba8f784e4c7eeed334b49ef5fd51ab114ecd6dfdafaf5",
        "Apache-2.0",
    ),
    (
        "50fd11b39b27dc300215ad446547e2346e3a72503bb776c9434590911fc7778e",
        "Apache-2.0",
    ),
    (
        "25a274d52b3014d9bd64e0f3362fd279ac1655f163d5c518f6b9f6c43354802c",
        "0BSD",
    ),
    (
        "4d52bd2fd70a985e50b6a2ba41a5461b26af707491ac02030eee28d7c9a4a87b",
        "BSD-2-Clause",
    ),
    (
        "9777664ec23d66ee4b7e5e892e5302edfb5e88f0a2224c3b1850817d26a9b167",
        "BSD-3-Clause",
    ),
    (
        "3526da9192efbbc65b8bd7a2bdc96f9802ce41a9cd4eb6d0dd23a36169d4265e",
        "BSL-1.0",
    ),
    (
        "7e2131e1aaa1f4bf67f729aa7ab1fd5c2acb181eeea60f5ecc83a2a11f1ffb47",
        "CC0-1.0",
    ),
    (
        "217da0747cec63a2e734185db11cbaa819bcd9e5b83cd12f812128fffe66e26a",
        "ISC",
    ),
    (
        "665911f4cdf349a3b809575e146d5c2655eb8e0d19e05b67fd7af174b4bf3b78",
        "MIT",
    ),
    (
        "36e055e4c83e669a998a7be78d9b70edd5674b0f0450266f32ae0ff532307d5a",
        "MIT-0",
    ),
    (
        "c50564a2d3131b67328077816ad2a824e5dd6074a8fa462d0a1f3c2490af6827",
        "MPL-2.0",
    ),
    (
        "0e717768fb4e9beef6be7c44011301c437890a1ffdcf3d27026c76e3f74a47ae",
        "Unlicense",
    ),
    (
        "7da1878dc17cdc42e4522ffdd1b457f280f3c121ee5ccd52d1d781e16e1dd633",
        "Zlib",
    ),
];

/// Lines that name the copyright holder, which differ in each package.
static NOTICE: LazyLock<Regex> = LazyLock::new(|| {
    let notice = r"^(copyright|\(c\)|©)\s*(\(c\)|©|[0-9<\[{])|^copyright.*[12][0-9]{3}|^all rights reserved|^spdx-license-identifier";
    Regex::new(notice).expect("the expression is constant")
});

/// The place in the third clause of a BSD licence that names the copyright holder.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    let named = "neither the name of .{0,60}? ?nor the names of its contributors";
    Regex::new(named).expect("the expression is constant")
});

/// Titles that some copies of a text have.
const TITLES: [&str; 9] = [
    "the mit license mit ",
    "the mit license ",
    "mit license ",
    "bsd clause license ",
    "isc license ",
    "the bsd license ",
    "bsd license ",
    "new bsd license ",
    "license ",
];

/// Returns whether a file with this name contains a licence.
pub(super) fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let stem = name.split(['.', '-', '_']).next().unwrap_or_default();
    matches!(stem, "license" | "licence" | "copying" | "unlicense")
}

/// Returns SPDX's identifier of a licence if this is exactly its text.
pub(super) fn name(text: &str) -> Option<&'static str> {
    let digest = Digest::of(words(text).as_bytes()).to_string();
    let known = TEXTS.iter().find(|(of_text, _)| *of_text == digest);
    known.map(|(_, name)| *name)
}

/// Returns the words of a text, without those in which copies of it differ.
///
/// # Source
/// SPDX's guidelines for matching: case, white space, punctuation, bullets and numbers of lists, titles, copyright
/// notices and names of holders do not count, and `http` is `https`.
fn words(text: &str) -> String {
    let mut all = String::new();
    for line in text.lines().map(|line| line.trim().to_lowercase()) {
        if NOTICE.is_match(&line) {
            continue;
        }
        let words = line.split(|c: char| !c.is_ascii_alphanumeric());
        for word in words.filter(|word| !is_number(word)) {
            all.push_str(match word {
                "https" => "http",
                "owner" | "holders" => "holder",
                word => word,
            });
            all.push(' ');
        }
    }
    let all = all.trim_end();
    let title = TITLES.iter().find_map(|title| all.strip_prefix(title));
    let all = title.unwrap_or(all);
    let without_name = "neither the name of nor the names of its contributors";
    NAMED.replace_all(all, without_name).into_owned()
}

/// Returns whether a word is empty, or the number or letter of a list item.
fn is_number(word: &str) -> bool {
    let roman = ["ii", "iii", "iv", "vi", "vii", "viii", "ix"];
    word.len() < 2 || roman.contains(&word) || word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIT: &str = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and \
        associated documentation files (the \"Software\"), to deal in the Software without restriction, including without \
        limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the \
        Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:\n\n\
        The above copyright notice and this permission notice shall be included in all copies or substantial portions of \
        the Software.\n\nTHE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT \
        NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT \
        SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF \
        CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN \
        THE SOFTWARE.\n";

    #[test]
    fn a_text_is_known_whoever_holds_the_copyright_and_however_it_is_set() {
        assert_eq!(name(MIT), Some("MIT"));
        let titled =
            format!("The MIT License (MIT)\r\n\r\nCopyright (c) 2020-2026 Acme, Inc.\r\n\r\n{MIT}");
        assert_eq!(name(&titled), Some("MIT"));
        let wrapped = MIT.replace(' ', "\n  ").replace('"', "“");
        assert_eq!(name(&wrapped), Some("MIT"));
        assert_eq!(
            name(include_str!("../../../../../LICENSE")),
            Some("Apache-2.0")
        );
    }

    #[test]
    fn a_text_with_more_or_less_in_it_is_not_concluded_from() {
        let more = format!("{MIT}\nThe Software shall be used for Good, not Evil.\n");
        let less = MIT.replace("sublicense, ", "");
        let of_another = "Licensed under the MIT license.\n";
        let apache = format!(
            "{}\nCommons Clause\n",
            include_str!("../../../../../LICENSE")
        );
        for text in [&more, &less, of_another, &apache, ""] {
            assert_eq!(name(text), None, "{text}");
        }
    }

    #[test]
    fn files_are_known_by_their_names() {
        for good in [
            "LICENSE",
            "LICENSE.txt",
            "LICENSE-MIT",
            "licence.md",
            "COPYING",
        ] {
            assert!(is_licence(good), "{good}");
        }
        for bad in ["licenses", "NOTICE", "main.tf"] {
            assert!(!is_licence(bad), "{bad}");
        }
    }
}
