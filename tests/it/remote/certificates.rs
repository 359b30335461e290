//! Certificates for tests: made anew for each.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// A CA.
pub(super) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub(super) struct Certified {
    certificate: String,
    key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name = named("a CA of goumem's tests");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes its certificate to a file.
    pub(super) fn write(&self, path: &Path) {
        std::fs::write(path, &self.certificate).unwrap();
    }

    /// Certifies a daemon on this machine.
    pub(super) fn server(&self) -> Certified {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        self.certify(CertificateParams::new(names).unwrap())
    }

    /// Certifies a client.
    pub(super) fn client(&self, name: &str) -> Certified {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        self.certify(params)
    }

    /// Certifies a client that has no common name.
    pub(super) fn client_by_alternative_name(&self, dns: &str) -> Certified {
        let mut params = CertificateParams::new([dns.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        self.certify(params)
    }

    /// Certifies a client as it was in 2001.
    pub(super) fn expired_client(&self, name: &str) -> Certified {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2001, 12, 31);
        self.certify(params)
    }

    fn certify(&self, params: CertificateParams) -> Certified {
        let key = KeyPair::generate().unwrap();
        Certified {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Certified {
    /// Writes both to files; returns their paths.
    pub(super) fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        std::fs::write(&certificate, &self.certificate).unwrap();
        super::write_secret(&key, &self.key);
        (certificate, key)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
