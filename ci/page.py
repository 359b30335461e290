"""Looks at a real goumemd's page with a real browser: what is drawn, what changes when something
is allocated, keys, themes, a narrow window, and how fast it is with 10 000 blocks.

`ci/page.sh` starts it. The first argument is the directory of the programs.
"""

import http.client
import json
import sys
import tempfile
import urllib.parse

from browser import Browser, Daemon, Failed, eventually

PROGRAMS = sys.argv[1]
BLOCKS = 10_000
checks = 0


def check(what, holds, found=None):
    global checks
    if not holds:
        raise Failed(f"{what}: found {found!r}")
    checks += 1
    print(f"ok  {what}" + (f": {found}" if found is not None else ""))


def text(browser, selector):
    return browser.ask(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")


# How many colours the map has, and a number that is another one when it looks different.
LOOK = """(() => {
  const canvas = document.getElementById("map-canvas");
  if (!canvas.width || !canvas.height) return { colours: 0, sum: 0 };
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const image = copy.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  let sum = 0;
  for (const pixel of pixels) sum = (Math.imul(sum, 31) + pixel) | 0;
  return { colours: new Set(pixels).size, sum };
})()"""

# The times between frames, sorted, while `step(i)` is done before each of them.
FRAMES = """(async (n, step) => {
  const times = [];
  let last = null;
  for (let i = 0; i < n; i += 1) {
    const now = await new Promise(requestAnimationFrame);
    if (last !== null) times.push(now - last);
    last = now;
    step(i);
  }
  times.sort((a, b) => a - b);
  return { median: times[times.length >> 1], p95: times[Math.floor(times.length * 0.95)] };
})"""


def updates(browser):
    return int(browser.ask("document.documentElement.dataset.updates ?? 0"))


def link(browser):
    return browser.ask("document.getElementById('link').dataset.state")


def choose(browser, pool):
    browser.ask(
        "[...document.querySelectorAll('#pools button')]"
        f".find((b) => b.querySelector('.name').firstChild.textContent === {json.dumps(pool)}).click()"
    )
    shown = f"Memory of {pool}"
    eventually(shown, lambda: text(browser, "#map-title") == shown)
    eventually("its map", lambda: not browser.ask("document.getElementById('map-frame').hidden"))


def empty_page(browser, daemon):
    browser.open(daemon.url)
    eventually("the page is told of the daemon", lambda: updates(browser) > 0)
    check("the page says what to type while there is nothing", "goumemctl pool create" in text(browser, "#pools-empty"), None)
    check("and that it is connected", link(browser) == "live", link(browser))
    check("and which daemon it shows", f"pid {daemon.child.pid}" in text(browser, "#daemon"))


def quiet_pool(browser, daemon):
    """A pool in which nothing happens but what this does."""
    daemon.ctl("pool", "create", "quiet", "1MiB")
    eventually("the new pool is listed", lambda: "quiet" in text(browser, "#pools"))
    choose(browser, "quiet")
    before = eventually("the map is drawn", lambda: (l := browser.ask(LOOK))["colours"] > 1 and l)
    daemon.ctl("put", "quiet", "greeting", given="hello")
    after = eventually("the allocation is drawn", lambda: (l := browser.ask(LOOK))["sum"] != before["sum"] and l)
    check("an allocation is seen live, on the map", after["colours"] > before["colours"], after["colours"])
    eventually("the figures say so", lambda: "kept 1" in text(browser, "#pool-figures"))
    check("and in the figures", "kept 1" in text(browser, "#pool-figures"))

    for _ in range(60):
        browser.key("Tab")
        if browser.ask("document.activeElement.id") == "map-frame":
            break
    check("the map is reached with the Tab key", browser.ask("document.activeElement.id") == "map-frame")
    outline = browser.ask("getComputedStyle(document.activeElement).outlineStyle")
    check("what has the focus shows it", outline == "solid", outline)
    browser.key("Home")
    eventually("the cursor tells of a page", lambda: "page 0" in text(browser, "#map-tip"))
    browser.key("End")
    last = text(browser, "#map-tip")
    check("keys move over the map", "page 15" in last, last.split("\n")[-1])
    browser.key("Home")
    browser.key("n")
    tip = text(browser, "#map-tip")
    check("N goes to the next block and tells of it", "greeting" in tip and "kept" in tip, tip.split("\n")[0])
    said = browser.ask("document.getElementById('map-said').textContent")
    check("and says it to screen readers", "greeting" in said)
    browser.key("Escape")
    check("Esc leaves", browser.ask("document.getElementById('map-tip').hidden"))


def many_blocks(browser, daemon):
    def blocks():
        pools = browser.ask("fetch('/api/v1/observation').then((r) => r.json())")["pools"]
        return sum(pool["blocks"] for pool in pools)

    eventually(f"{BLOCKS} blocks are exported", lambda: blocks() >= BLOCKS, 180)
    choose(browser, "index")
    alive = "Number(document.querySelector('#pool-figures div:nth-child(4) dd').firstChild.data.replace(/\\D/g, ''))"
    n = eventually("the page counts them", lambda: (n := browser.ask(alive)) >= BLOCKS * 0.8 and n)
    look = eventually("they are drawn", lambda: (l := browser.ask(LOOK))["colours"] >= 4 and l)
    check("the map of a busy pool is drawn", look["colours"] >= 4, f"{n} blocks, {look['colours']} colours")

    sessions = text(browser, "#sessions tbody")
    check("sessions are listed by label", all(who in sessions for who in ["camera", "trainer", "search"]))
    leased = "[...document.querySelectorAll('#sessions td[data-what=leased]')].map((td) => td.textContent)"
    units = {"": 0, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    of = lambda said: float((said or "0").split()[0]) * units[(said or "0 B").split()[1]]
    sizes = [of(said) for said in browser.ask(leased)]
    check("those that lease most first", sizes == sorted(sizes, reverse=True))
    browser.click("#sessions th:nth-child(3) button")
    sorted_by = browser.ask("document.querySelector('#sessions th:nth-child(3)').getAttribute('aria-sort')")
    check("or as one chooses", sorted_by == "descending", sorted_by)
    held = lambda: browser.ask("document.querySelectorAll('#arenas tbody tr').length")
    eventually("arenas are held", lambda: held() > 0)
    check("arenas are shown with who holds them", "pid" in text(browser, "#arenas tbody"), held())

    for mode in ["class", "age", "holder"]:
        before = browser.ask("document.getElementById('map-legend').innerText")
        browser.click(f"#colour-by input[value={mode}] + span")
        eventually(f"the legend is that of {mode}", lambda: browser.ask("document.getElementById('map-legend').innerText") != before)
    check("colours are by class, age and holder", "search" in text(browser, "#map-legend"))

    box = browser.ask("(() => { const c = document.getElementById('map-canvas'); c.scrollIntoView({block: 'center'}); const b = c.getBoundingClientRect(); return [b.x, b.y]; })()")
    browser.point(box[0] + 12, box[1] + 12)
    eventually("hovering tells what is there", lambda: "page" in text(browser, "#map-tip"))
    tip = text(browser, "#map-tip")
    check("hovering tells what is there", "pid" in tip or "free" in tip, tip.split("\n")[0])

    frames = browser.ask(f"{FRAMES}(150, () => {{}})")
    check("frames while it changes: median and 95 % in ms", frames["median"] < 100, frames)
    move = f"""(i) => document.getElementById('map-frame').dispatchEvent(new PointerEvent('pointermove',
        {{ clientX: {box[0]} + 5 + 5 * i, clientY: {box[1]} + 5 + i }}))"""
    frames = browser.ask(f"{FRAMES}(150, {move})")
    check("frames while a pointer moves over it", frames["median"] < 100, frames)
    browser.ask("for (let i = 0; i < 4; i += 1) document.getElementById('zoom-in').click()")
    scroll = "(i) => { document.getElementById('map-frame').scrollTop = (i * 23) % 900; }"
    frames = browser.ask(f"{FRAMES}(150, {scroll})")
    check("frames while all of it is drawn again, zoomed and scrolled", frames["median"] < 100, frames)
    drawn = browser.ask("document.getElementById('map-canvas').dataset.drawMs")
    check("a drawing takes, median in ms", float(drawn) < 100, drawn)
    browser.ask("for (let i = 0; i < 4; i += 1) document.getElementById('zoom-out').click()")


def looks(browser):
    ground = lambda: browser.ask("getComputedStyle(document.body).backgroundColor")
    browser.scheme("light")
    light, light_map = eventually("light", lambda: ground()), browser.ask(LOOK)["sum"]
    browser.scheme("dark")
    dark = eventually("another ground", lambda: (g := ground()) != light and g)
    check("dark and light follow the system", True, f"{light}, {dark}")
    eventually("the map follows too", lambda: browser.ask(LOOK)["sum"] != light_map)
    browser.click("#theme")
    check("and the switch overrides it", ground() == light, text(browser, "#theme-text"))
    browser.click("#theme")
    check("both ways", ground() == dark, text(browser, "#theme-text"))
    browser.click("#theme")
    browser.scheme("light")

    for width in [400, 320, 1440]:
        browser.resize(width, 900)
        eventually("laid out", lambda: browser.ask("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r))).then(() => true)"))
        needs = browser.ask("document.documentElement.scrollWidth")
        check(f"{width} px wide, nothing is cut off", needs <= width, needs)

    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = ["button", "link", "radio", "application", "img", "image", "canvas", "table"]
    nameless = [
        node for node in tree
        if not node["ignored"] and node.get("role", {}).get("value") in roles and not node.get("name", {}).get("value")
    ]
    check("everything that can be used or read has a name", not nameless, [node["role"]["value"] for node in nameless])


def lost_and_found(browser, daemon, directory):
    daemon.end()
    eventually("the page says that it has lost the daemon", lambda: link(browser) == "lost")
    check("a lost daemon is said", "disconnected" in text(browser, "#link-text"))
    with Daemon(PROGRAMS, directory, daemon.port) as again:
        eventually("it finds the next one", lambda: link(browser) == "live")
        pid = f"pid {again.child.pid}"
        eventually("and shows it", lambda: pid in text(browser, "#daemon"))
        check("the next daemon is found by itself", True)


def ask(daemon, path, host):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    reply = connection.getresponse()
    reply.read()
    return reply.status


def main():
    with tempfile.TemporaryDirectory(prefix="gm") as directory:
        with Daemon(PROGRAMS, directory) as daemon, Browser() as browser:
            browser.scheme("light")
            empty_page(browser, daemon)
            quiet_pool(browser, daemon)
            with daemon.busy(str(BLOCKS)):
                many_blocks(browser, daemon)
                looks(browser)
            check("no complaint on the console", not browser.complaints(), browser.complaints())
            elsewhere = [url for url in browser.requested() if urllib.parse.urlsplit(url).netloc != f"127.0.0.1:{daemon.port}"]
            elsewhere = [url for url in elsewhere if not url.startswith("about:")]
            check("nothing was asked of anybody else", not elsewhere, elsewhere)
            check("a page of another name gets nothing", ask(daemon, "/", "evil.example") == 421)
            lost_and_found(browser, daemon, directory)
    print(f"page: {checks} checks passed")


try:
    main()
except Failed as failed:
    sys.exit(f"page: FAILED: {failed}")
