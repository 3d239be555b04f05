//! Documents that an authority signs: its own certificate, those of services, and the list of revoked ones.
//!
//! Only keys and signatures are random here; times and serial numbers are arguments.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CidrSubnet,
    DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, NameConstraints, RevocationReason, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

use super::{CaError, Entry, Ledger, Role};

/// Time by which the clocks of a site without a time server may be behind.
const SKEW: Duration = Duration::from_secs(60 * 60);

/// Validity of a list of revoked certificates. Some clients refuse everything once it is older, so it must outlive
/// the certificates by far.
const LIST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Domain that is reserved by RFC 2606: nothing ever has this name.
const NOBODY: &str = "invalid";

pub(super) type Signer = Issuer<'static, KeyPair>;

/// Parameters of the authority's certificate that do not depend on its key.
fn root_params(ledger: &Ledger) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, ledger.name.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(ledger.created) - SKEW;
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(ledger.ends);
    params.serial_number = Some(serial(&ledger.serial)?);
    params.name_constraints = constraints(&ledger.permitted);
    Ok(params)
}

/// Returns the name constraints of the authority. A kind of name that is not constrained would be unlimited, so it is
/// forbidden.
fn constraints(permitted: &[String]) -> Option<NameConstraints> {
    if permitted.is_empty() {
        return None;
    }
    let (mut subtrees, mut excluded) = (Vec::new(), Vec::new());
    let (mut has_name, mut has_v4, mut has_v6) = (false, false, false);
    for one in permitted {
        subtrees.push(match one.parse::<IpNet>() {
            Ok(net) => {
                has_v4 |= net.addr().is_ipv4();
                has_v6 |= net.addr().is_ipv6();
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                    net.network(),
                    net.prefix_len(),
                ))
            }
            Err(_) => {
                has_name = true;
                GeneralSubtree::DnsName(one.clone())
            }
        });
    }
    if !has_name {
        subtrees.push(GeneralSubtree::DnsName(NOBODY.to_owned()));
    }
    if !has_v4 {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
    }
    if !has_v6 {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    Some(NameConstraints {
        permitted_subtrees: subtrees,
        excluded_subtrees: excluded,
    })
}

/// Returns the certificate that clients must trust.
pub(super) fn root(ledger: &Ledger, key: &KeyPair) -> Result<Certificate, CaError> {
    Ok(root_params(ledger)?.self_signed(key)?)
}

/// Returns the signer of all other documents.
pub(super) fn signer(ledger: &Ledger, key: KeyPair) -> Result<Signer, CaError> {
    Ok(Issuer::new(root_params(ledger)?, key))
}

/// Returns the certificate of a service.
pub(super) fn leaf(entry: &Entry, key: &KeyPair, signer: &Signer) -> Result<Certificate, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, entry.name.as_str());
    for host in &entry.hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(host.as_str().try_into()?),
        });
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match entry.role {
        Role::Mirror | Role::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Role::Daemon => vec![ExtendedKeyUsagePurpose::ClientAuth],
        // Relays are clients of each other, so they need both uses.
        Role::Relay => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
    };
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(entry.issued) - SKEW;
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(entry.ends);
    params.serial_number = Some(serial(&entry.serial)?);
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(key, signer)?)
}

/// Returns the list of revoked certificates in PEM. Expired ones are left out.
pub(super) fn revoked(ledger: &Ledger, signer: &Signer, now: Timestamp) -> Result<String, CaError> {
    let mut revoked_certs = Vec::new();
    for entry in ledger.certificates.iter().filter(|entry| entry.ends > now) {
        if let Some(at) = entry.revoked {
            revoked_certs.push(RevokedCertParams {
                serial_number: serial(&entry.serial)?,
                revocation_time: date_time_ymd(1970, 1, 1) + since_1970(at),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            });
        }
    }
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(1970, 1, 1) + since_1970(now) - SKEW,
        next_update: date_time_ymd(1970, 1, 1) + since_1970(now) + LIST,
        crl_number: SerialNumber::from(ledger.list_number),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(signer)?.pem()?)
}

fn serial(hexadecimal: &str) -> Result<SerialNumber, CaError> {
    let bytes = hex::decode(hexadecimal);
    let bytes = bytes.map_err(|_| CaError::Serial(hexadecimal.to_owned()))?;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Converts a time to seconds since 1970. rcgen's own times belong to a crate that we do not otherwise need, so they
/// are counted from there.
fn since_1970(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
}
