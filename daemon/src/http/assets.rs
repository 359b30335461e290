//! The files of the page, which are part of the program: nothing is read from a disk and nothing
//! is loaded from elsewhere.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

/// A file of the page.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($path:literal: $file:literal as $content_type:expr;)*) => {
        &[$(Asset {
            path: $path,
            content_type: $content_type,
            text: include_str!(concat!("../../web/", $file)),
        },)*]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const ASSETS: &[Asset] = assets! {
    "/": "index.html" as HTML;
    "/style.css": "style.css" as CSS;
    "/icon.svg": "icon.svg" as SVG;
    "/app.js": "app.js" as JS;
    "/charts.js": "charts.js" as JS;
    "/colours.js": "colours.js" as JS;
    "/format.js": "format.js" as JS;
    "/live.js": "live.js" as JS;
    "/map.js": "map.js" as JS;
    "/tables.js": "tables.js" as JS;
};

/// Returns the routes of all files.
pub(super) fn routes() -> Router {
    ASSETS.iter().fold(Router::new(), |routes, asset| {
        let etag = etag(asset.text);
        let answer = move |headers: HeaderMap| async move { answer(asset, &etag, &headers) };
        routes.route(asset.path, get(answer))
    })
}

/// A browser asks again each time, so that the page and the daemon are of one version, and is told
/// that what it has is still right.
fn answer(asset: &Asset, etag: &str, headers: &HeaderMap) -> Response {
    let marks = [(ETAG, etag), (CACHE_CONTROL, "no-cache")];
    let is_known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|known| known.to_str().ok())
        .flat_map(|known| known.split(','))
        .any(|known| known.trim().trim_start_matches("W/") == etag);
    if is_known {
        return (StatusCode::NOT_MODIFIED, marks).into_response();
    }
    (marks, [(CONTENT_TYPE, asset.content_type)], asset.text).into_response()
}

fn etag(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("\"{hex}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_no_other_site_and_nothing_that_the_policy_forbids() {
        for asset in ASSETS {
            for forbidden in ["https://", "http://", "//cdn", "eval(", "innerHTML"] {
                let harmless = asset.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!harmless.contains(forbidden), "{}: {forbidden}", asset.path);
            }
            if asset.content_type == HTML {
                for inline in ["<style", " style=", " onclick=", "<script>"] {
                    assert!(!asset.text.contains(inline), "{}: {inline}", asset.path);
                }
            }
        }
    }

    #[test]
    fn every_file_that_a_file_names_is_served() {
        let served: Vec<_> = ASSETS.iter().map(|asset| asset.path).collect();
        for asset in ASSETS {
            let quoted = asset.text.split('"').skip(1).step_by(2);
            for name in quoted.filter(|text| text.starts_with("./") && !text.contains(' ')) {
                let path = name.trim_start_matches('.');
                assert!(served.contains(&path), "{}: {name}", asset.path);
            }
        }
    }
}
