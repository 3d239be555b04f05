//! Trusted authorities as a file, for programs that read one.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Length of a line of PEM in characters.
const LINE: usize = 64;

/// Returns the system's authorities, and those in `further`, as PEM. Unreadable ones of the system are left out.
///
/// The system's are those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, if they are set.
pub fn bundle(further: &[u8]) -> Vec<u8> {
    let mut bundle = Vec::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        bundle.extend_from_slice(pem(&certificate).as_bytes());
    }
    bundle.extend_from_slice(further);
    if !bundle.ends_with(b"\n") {
        bundle.push(b'\n');
    }
    bundle
}

fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = behind;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};

    use super::*;

    #[test]
    fn a_bundle_ends_with_what_was_added_and_all_of_it_can_be_read() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();

        let bundle = bundle(own.cert.pem().as_bytes());

        let read = CertificateDer::pem_slice_iter(&bundle).collect::<Result<Vec<_>, _>>();
        assert_eq!(read.unwrap().last(), Some(own.cert.der()));
    }

    #[test]
    fn a_certificate_survives_its_text() {
        let bytes: Vec<u8> = (0..=255).collect();

        let read = CertificateDer::from_pem_slice(pem(&bytes).as_bytes()).unwrap();

        assert_eq!(read.as_ref(), bytes);
    }
}
