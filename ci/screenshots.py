"""Takes the pictures of the live page for the docs: dark, light, and on a phone.

The arguments are the directory of the programs and that of the pictures.
"""

import os
import sys
import tempfile
import time

from browser import Browser, Daemon, Failed, eventually

PROGRAMS, IMAGES = sys.argv[1:]
# Long enough for the charts to have a shape.
WATCHED_S = float(os.environ.get("WATCHED_S", "100"))


def main():
    with tempfile.TemporaryDirectory(prefix="gm") as directory:
        budget = ["--budget", "512MiB"]
        with Daemon(PROGRAMS, directory, 0, *budget) as daemon, daemon.busy("1500"), Browser() as browser:
            browser.resize(1440, 1480)
            browser.scheme("dark")
            # A pool that looks the same in each picture's list.
            daemon.ctl("pool", "create", "models", "48MiB")
            for name in ["resnet", "whisper", "vocabulary"]:
                daemon.ctl("put", "models", name, given=name * 400_000)
            browser.open(daemon.url + "/#frames")
            arenas = "document.querySelectorAll('#arenas tbody tr').length > 3"
            eventually("there is something to show", lambda: browser.ask(arenas))
            time.sleep(WATCHED_S)
            middle = browser.ask("(() => { const b = document.getElementById('map-canvas').getBoundingClientRect(); return [b.x + b.width * 0.3, b.y + b.height * 0.3]; })()")
            browser.point(*middle)
            browser.picture(f"{IMAGES}/page-dark.png")
            browser.scheme("light")
            browser.click("#colour-by input[value=class] + span")
            browser.ask("window.scrollTo(0, 0)")
            browser.point(*middle)
            time.sleep(1)
            browser.picture(f"{IMAGES}/page-light.png")
            browser.click("#colour-by input[value=holder] + span")
            browser.point(0, 0)
            browser.scheme("dark")
            browser.resize(400, 1500)
            browser.ask("window.scrollTo(0, 0)")
            time.sleep(1)
            browser.picture(f"{IMAGES}/page-narrow.png")


try:
    main()
except Failed as failed:
    sys.exit(f"screenshots: FAILED: {failed}")
