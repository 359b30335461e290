//! The name in a certificate: its subject's common name, else its first alternative name (DNS,
//! mail address or URI). The certificate has been verified by then, so it is well-formed; what is
//! not all the same has no name.
//!
//! ```text
//! Certificate      = SEQUENCE { tbsCertificate, … }                                 (RFC 5280)
//! tbsCertificate   = SEQUENCE { [0] version?, serial, algorithm, issuer, validity, subject,
//!                               key, [1]?, [2]?, [3] { SEQUENCE of extensions }? }
//! subject          = SEQUENCE of SET of SEQUENCE { OID, text }
//! extension        = SEQUENCE { OID, critical BOOLEAN?, OCTET STRING { value } }
//! subjectAltName   = SEQUENCE of { [1] mail | [2] DNS | [6] URI | … }
//! ```

use goumem_proto::name::Label;

use super::parse_name;

const OID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const MAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Returns the name that a certificate, in DER, is for.
pub(crate) fn name_of(certificate: &[u8]) -> Option<Label> {
    let mut fields = Der(Der(certificate).enter(SEQUENCE)?).inside(SEQUENCE)?;
    if fields.peek() == Some(VERSION) {
        fields.next()?;
    }
    // Serial, algorithm, issuer, validity.
    for _ in 0..4 {
        fields.next()?;
    }
    let subject = fields.inside(SEQUENCE)?;
    common_name(subject).or_else(|| alternative_name(fields))
}

fn common_name(subject: Der<'_>) -> Option<Label> {
    subject
        .filter(|(tag, _)| *tag == SET)
        .flat_map(|(_, set)| Der(set))
        .find_map(|(_, attribute)| {
            let mut attribute = Der(attribute);
            if attribute.enter(OID)? != COMMON_NAME {
                return None;
            }
            match attribute.next()? {
                (UTF8_STRING | PRINTABLE_STRING | IA5_STRING, text) => name(text),
                _ => None,
            }
        })
}

fn alternative_name(mut fields: Der<'_>) -> Option<Label> {
    let (_, extensions) = fields.find(|(tag, _)| *tag == EXTENSIONS)?;
    let names = Der(extensions)
        .inside(SEQUENCE)?
        .find_map(|(_, extension)| {
            let mut extension = Der(extension);
            if extension.enter(OID)? != SUBJECT_ALT_NAME {
                return None;
            }
            let (_, value) = extension.find(|(tag, _)| *tag == OCTET_STRING)?;
            Der(value).inside(SEQUENCE)
        })?;
    names
        .filter(|(tag, _)| [DNS, MAIL, URI].contains(tag))
        .find_map(|(_, text)| name(text))
}

fn name(text: &[u8]) -> Option<Label> {
    parse_name(std::str::from_utf8(text).ok()?).ok()
}

/// What is left of a series of elements: tag, length, contents.
#[derive(Debug, Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Returns the contents of the next element, if it has that tag.
    fn enter(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(found, _)| *found == tag)
            .map(|(_, contents)| contents)
    }

    /// The same, as a series.
    fn inside(&mut self, tag: u8) -> Option<Self> {
        self.enter(tag).map(Self)
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    /// Returns the next element; none at the end, or where it makes no sense.
    fn next(&mut self) -> Option<Self::Item> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Four bytes of length are more than a certificate has; 0x80 is not in DER.
            0x81..=0x84 => {
                let (len, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                let len = len
                    .iter()
                    .fold(0, |len, &byte| len << 8 | usize::from(byte));
                (len, rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, contents))
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;

    use super::*;

    /// Made by `openssl req -x509` with `/O=Goumem/CN=alice` and DNS:other.example.
    const COMMON: &str = "\
-----BEGIN CERTIFICATE-----
MIIBsDCCAVegAwIBAgIURavlHIpstYtifWb2DmbS1hOi8mowCgYIKoZIzj0EAwIw
ITEPMA0GA1UECgwGR291bWVtMQ4wDAYDVQQDDAVhbGljZTAeFw0yNjExMjYyMTMz
MjhaFw0yNjExMjcyMTMzMjhaMCExDzANBgNVBAoMBkdvdW1lbTEOMAwGA1UEAwwF
YWxpY2UwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATK+ANqd/YNoGxO3qTNATCX
8d5elKtcc0kR5fU6p11pg28sHXWG8uLvh/g2opofO6dImJg9Q9QdtXMj8J9oerV+
o20wazAdBgNVHQ4EFgQUWTayVDVAgvmYEY4Q6DO3pzBLdkowHwYDVR0jBBgwFoAU
WTayVDVAgvmYEY4Q6DO3pzBLdkowDwYDVR0TAQH/BAUwAwEB/zAYBgNVHREEETAP
gg1vdGhlci5leGFtcGxlMAoGCCqGSM49BAMCA0cAMEQCIC7eo2KhzKyHAQufz7US
b3t5UOP0TeKcnxAkHgooWuxwAiA8uDfJ96zkP8IXjx5CQgC89ZTuw/i8b6pb2sLJ
DnmF0A==
-----END CERTIFICATE-----
";
    /// With `/O=Goumem`, IP:192.0.2.1 and URI:spiffe://goumem/bob.
    const ALTERNATIVE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBnDCCAUOgAwIBAgIUAaDm313/piekWLOewDbh57lK1iEwCgYIKoZIzj0EAwIw
ETEPMA0GA1UECgwGR291bWVtMB4XDTI2MTEyNjIxMzMyOFoXDTI2MTEyNzIxMzMy
OFowETEPMA0GA1UECgwGR291bWVtMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
JAML2FNNZYaRrDO0p8UhWuDAZChMon3a7n1wQeqgO+PbR7eLianVTHJGuNphapez
H+QoxQsg/el/RkgPUi0Ha6N5MHcwHQYDVR0OBBYEFJX+VNzttN76xbNJqLn2Y/OS
Pu4JMB8GA1UdIwQYMBaAFJX+VNzttN76xbNJqLn2Y/OSPu4JMA8GA1UdEwEB/wQF
MAMBAf8wJAYDVR0RBB0wG4cEwAACAYYTc3BpZmZlOi8vZ291bWVtL2JvYjAKBggq
hkjOPQQDAgNHADBEAiAqtDWrTzeFveH20CTL0F5FKC0PsDOgE5TFdcK/Cwq8SwIg
MTLeMeCONypkU2S3GPMzrJuxcw+/MpLq5r2DLzyYWpM=
-----END CERTIFICATE-----
";
    /// With `/O=Goumem` alone.
    const NAMELESS: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdzCCAR2gAwIBAgIUfQJcDPddJJEev0OO9MYVTuuLNWowCgYIKoZIzj0EAwIw
ETEPMA0GA1UECgwGR291bWVtMB4XDTI2MTEyNjIxMzMyOFoXDTI2MTEyNzIxMzMy
OFowETEPMA0GA1UECgwGR291bWVtMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
ddHeTQr46dxv04bpV8DvQSNSH2YjcD3e7jBq9oKFPYlzQZwTfLoU0TCloep/4oEe
heL4kEadwdo9lKJ2fZ47LqNTMFEwHQYDVR0OBBYEFAEIc4NLdRam5qqwsYa2teya
LRXYMB8GA1UdIwQYMBaAFAEIc4NLdRam5qqwsYa2teyaLRXYMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgctekBdlz8kh15QUM2DwKP1VUo4AkwEfF
NJKO9S36wTQCIQD8chfwdR4Y45gCZRFZgasucHwPSGaUzvi+X+4j5ha+KA==
-----END CERTIFICATE-----
";

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn name_is_the_common_one_else_an_alternative_one_else_none() {
        let name = |pem| name_of(&der(pem)).map(String::from);
        assert_eq!(name(COMMON).as_deref(), Some("alice"));
        assert_eq!(name(ALTERNATIVE).as_deref(), Some("spiffe://goumem/bob"));
        assert_eq!(name(NAMELESS), None);
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_name_and_do_no_harm() {
        for pem in [COMMON, ALTERNATIVE] {
            let whole = der(pem);
            for len in 0..whole.len() {
                assert_eq!(name_of(&whole[..len]), None, "cut at {len}");
                let mut spoilt = whole.to_vec();
                for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                    spoilt[len] = byte;
                    // Whatever it is, it is found or not found, and nothing panics.
                    let _ = name_of(&spoilt);
                }
            }
        }
    }
}
