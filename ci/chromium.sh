# need_chromium NAME: makes sure that there is a Chromium, by apt if need be. Sourced by the scripts
# that need one; NAME is the script's, for what it says.
need_chromium() {
    local name
    for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable chrome; do
        [ -n "$name" ] && command -v "$name" >/dev/null && return 0
    done
    echo "$1: no Chromium here: installing it by apt" >&2
    if (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1; then
        return 0
    fi
    echo "$1: SKIPPED, nothing was checked: there is no Chromium, and apt could not install it" >&2
    return 1
}
