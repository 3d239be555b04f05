//! Subject, issuer and expiry of certificates, for messages: nothing here is trusted or verified. Pure.
//!
//! # Source
//! RFC 5280 §4.1 for the order of fields and the forms of time, RFC 4514 for the names' text.

use std::fmt::Write as _;

use jiff::{Timestamp, civil, tz::TimeZone};

/// Names in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Subject of the certificate, such as `CN=coder.example.com`.
    pub subject: String,
    /// Issuer that signed the certificate.
    pub issuer: String,
}

// Tags of DER, X.690.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_VERSION: u8 = 0xa0;

/// Parses the names of a certificate in DER; `None` if it is not one.
pub fn names(der: &[u8]) -> Option<Names> {
    let (issuer, fields) = value(issuer_and_rest(der)?, SEQUENCE)?;
    let (_validity, fields) = any(fields)?;
    let (subject, _) = value(fields, SEQUENCE)?;
    Some(Names {
        subject: name(subject)?,
        issuer: name(issuer)?,
    })
}

/// Parses when a certificate in DER expires; `None` if it is not one.
pub fn ends(der: &[u8]) -> Option<Timestamp> {
    let (_issuer, fields) = any(issuer_and_rest(der)?)?;
    let (validity, _) = value(fields, SEQUENCE)?;
    let (_begins, validity) = any(validity)?;
    let ((kind, text), _) = any(validity)?;
    let text = std::str::from_utf8(text).ok()?;
    let text = match kind {
        // UTCTime has years of two digits, from 1950 to 2049.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Returns the fields of a certificate from its issuer on.
fn issuer_and_rest(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = value(der, SEQUENCE)?;
    let (mut fields, _) = value(certificate, SEQUENCE)?;
    if let Some((_, rest)) = value(fields, EXPLICIT_VERSION) {
        fields = rest;
    }
    let (_serial, fields) = any(fields)?;
    let (_algorithm, fields) = any(fields)?;
    Some(fields)
}

/// Formats a name as people write it, the most specific part first. An empty name is legal.
fn name(mut der: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let (mut attributes, rest) = value(der, SET)?;
        der = rest;
        while !attributes.is_empty() {
            let (attribute, rest) = value(attributes, SEQUENCE)?;
            attributes = rest;
            let (kind, attribute) = value(attribute, OBJECT_ID)?;
            let ((_, text), _) = any(attribute)?;
            parts.push(format!("{}={}", label(kind), readable(text)));
        }
    }
    parts.reverse();
    Some(parts.join(","))
}

/// Returns the short name of an attribute, else its number in hexadecimal digits.
fn label(object_id: &[u8]) -> String {
    let known = match object_id {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        _ => return hex::encode(object_id),
    };
    known.to_owned()
}

/// Makes a text from an untrusted source fit for a line of a log.
fn readable(text: &[u8]) -> String {
    let mut shown = String::new();
    for character in String::from_utf8_lossy(text).chars().take(200) {
        if character.is_control() || character == ',' {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Returns the content of the element with this tag, and what follows it.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let ((found, content), rest) = any(der)?;
    (found == tag).then_some((content, rest))
}

/// A tag and its content.
type Element<'a> = (u8, &'a [u8]);

/// Returns the first element, and what follows it.
fn any(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let digits = usize::from(first & 0x7f);
        let (bytes, after) = rest.split_at_checked(digits)?;
        if digits > 3 {
            return None; // No certificate has 16 MiB.
        }
        length = bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some(((tag, content), rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(parts: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in parts {
            params.distinguished_name.push(kind.clone(), *text);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_tells_its_names() {
        let der = certificate(&[
            (DnType::OrganizationName, "Example, Inc"),
            (DnType::CommonName, "coder.example.com"),
        ]);

        let expected = "CN=coder.example.com,O=Example\\u{2c} Inc";
        let names = names(&der).unwrap();
        assert_eq!(
            (names.subject, names.issuer),
            (expected.into(), expected.into())
        );
    }

    #[test]
    fn a_certificate_tells_when_it_ends() {
        for (year, expected) in [
            (2031, "2031-02-03T00:00:00Z"),
            (1999, "1999-02-03T00:00:00Z"),
            (2112, "2112-02-03T00:00:00Z"),
        ] {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 2, 3);
            let key = KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap().der().to_vec();

            assert_eq!(ends(&der).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn no_cut_or_changed_certificate_makes_it_panic() {
        let der = certificate(&[(DnType::CommonName, "a")]);
        for length in 0..der.len() {
            assert_eq!(names(&der[..length]), None);
        }
        for place in 0..der.len() {
            for byte in [0, 0x7f, 0x80, 0x83, 0x84, 0xff] {
                let mut changed = der.clone();
                changed[place] = byte;
                names(&changed);
                ends(&changed);
            }
        }
    }

    #[test]
    fn names_cannot_forge_a_line_of_a_log() {
        let der = certificate(&[(DnType::CommonName, "a\nERROR all is lost")]);

        assert!(!names(&der).unwrap().subject.contains('\n'));
    }
}
