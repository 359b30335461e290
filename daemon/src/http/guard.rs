//! What stands before every page: only reading, only for who means this daemon, and with headers
//! that keep a browser from doing more with a page than to show it.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HOST,
    REFERRER_POLICY, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::Hosts;

/// Everything comes from the daemon, and nothing that is written into a page runs.
const CSP: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Lets a request through, or refuses it, and marks the answer.
pub(super) async fn pass(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&hosts, &request) {
        None => next.run(request).await,
        Some(refusal) => refusal,
    };
    let headers = response.headers_mut();
    let mut mark = |name: HeaderName, value| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    mark(CONTENT_SECURITY_POLICY, CSP);
    mark(X_CONTENT_TYPE_OPTIONS, "nosniff");
    mark(X_FRAME_OPTIONS, "DENY");
    mark(REFERRER_POLICY, "no-referrer");
    mark(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn refusal(hosts: &Hosts, request: &Request<Body>) -> Option<Response> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let why = "only GET and HEAD: nothing can be changed here\n";
        let allow = [(ALLOW, "GET, HEAD"), (CONNECTION, "close")];
        return Some((StatusCode::METHOD_NOT_ALLOWED, allow, why).into_response());
    }
    if has_body(request.headers()) {
        let why = "a request here has no body\n";
        let close = [(CONNECTION, "close")];
        return Some((StatusCode::PAYLOAD_TOO_LARGE, close, why).into_response());
    }
    if !hosts.admit(request.uri(), request.headers()) {
        // A page of another site whose name was made to resolve to this machine.
        let why =
            "this daemon goes by localhost, 127.0.0.1, [::1] and the address it was bound to\n";
        return Some((StatusCode::MISDIRECTED_REQUEST, why).into_response());
    }
    let from_elsewhere = request
        .headers()
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site");
    if from_elsewhere && request.uri().path() != "/" {
        // It could not read the answer, but take a place.
        let why = "a page of another site asks for this\n";
        return Some((StatusCode::FORBIDDEN, why).into_response());
    }
    None
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0")
}

impl Hosts {
    /// Returns whether a request is meant for this daemon. With any port: it may come through a
    /// tunnel.
    fn admit(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let Self::Named(bound) = self else {
            return true;
        };
        let is_ours = |authority: &Authority| {
            let host = authority.host();
            let address = host.trim_matches(['[', ']']).parse();
            host.eq_ignore_ascii_case("localhost")
                || ["127.0.0.1", "[::1]"].contains(&host)
                || address.is_ok_and(|address: std::net::IpAddr| address == *bound)
        };
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let host = Authority::try_from(host.as_bytes());
        host.is_ok_and(|host| !host.as_str().contains('@') && is_ours(&host))
            && uri.authority().is_none_or(is_ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        let hosts = Hosts::Named("127.0.0.7".parse().unwrap());
        hosts.admit(&Uri::from_static("/"), &headers)
    }

    #[test]
    fn only_names_of_this_machine_are_admitted() {
        for ours in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.0.0.1:4636",
            "[::1]",
            "[::1]:1",
            "127.0.0.7:4636",
        ] {
            assert!(admits(ours), "{ours}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.2",
            "192.168.1.1",
            "localhost@evil.example",
            "evil@localhost",
            "localhost:80:80",
            "[::2]",
        ] {
            assert!(!admits(other), "{other}");
        }
    }

    #[test]
    fn one_host_is_needed_and_the_target_of_a_proxy_counts_too() {
        let hosts = Hosts::Named("127.0.0.1".parse().unwrap());
        let mut headers = HeaderMap::new();
        let root = Uri::from_static("/");
        assert!(!hosts.admit(&root, &headers), "none");
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert!(hosts.admit(&root, &headers));
        assert!(!hosts.admit(&Uri::from_static("http://evil.example/"), &headers));
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert!(!hosts.admit(&root, &headers), "two");
        assert!(Hosts::Any.admit(&root, &HeaderMap::new()));
    }
}
