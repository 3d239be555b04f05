//! Subject, issuer and expiry of certificates, for messages: nothing here is trusted or verified. Pure.
//!
//! # Source
//! RFC 4514 for the names' text.

use std::fmt::Write as _;

use jiff::Timestamp;
use x509_cert::{
    Certificate,
    der::{
        Decode as _,
        oid::{ObjectIdentifier, db::DB},
    },
    name::Name,
};

/// Names in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Subject of the certificate, such as `CN=coder.example.com`.
    pub subject: String,
    /// Issuer that signed the certificate.
    pub issuer: String,
}

/// Parses the names of a certificate in DER; `None` if it is not one.
pub fn names(der: &[u8]) -> Option<Names> {
    let certificate = Certificate::from_der(der).ok()?.tbs_certificate;
    Some(Names {
        subject: name(&certificate.subject),
        issuer: name(&certificate.issuer),
    })
}

/// Parses when a certificate in DER expires; `None` if it is not one.
pub fn ends(der: &[u8]) -> Option<Timestamp> {
    let certificate = Certificate::from_der(der).ok()?.tbs_certificate;
    let end = certificate.validity.not_after.to_unix_duration();
    Timestamp::from_second(end.as_secs().try_into().ok()?).ok()
}

/// Formats a name as people write it, the most specific part first. An empty name is legal.
fn name(name: &Name) -> String {
    let attributes = name.0.iter().flat_map(|part| part.0.iter());
    let mut parts: Vec<_> = attributes
        .map(|it| format!("{}={}", label(&it.oid), readable(it.value.value())))
        .collect();
    parts.reverse();
    parts.join(",")
}

/// Returns the short name of an attribute, else its number.
fn label(object_id: &ObjectIdentifier) -> String {
    let known = DB
        .find_names_for_oid(*object_id)
        .min_by_key(|name| name.len());
    known.map_or_else(|| object_id.to_string(), str::to_ascii_uppercase)
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
