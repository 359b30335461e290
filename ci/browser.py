"""A headless Chromium and a goumemd to look at, for ci/page.py and ci/screenshots.sh.

Chromium is spoken to by its DevTools protocol over a pair of pipes, which needs nothing but Python.
"""

import base64
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

PATIENCE = 60.0  # longer than anything takes, also on a loaded machine


class Failed(Exception):
    pass


def eventually(what, is_so, patience=PATIENCE):
    """Waits until `is_so()` is true; returns what it returned."""
    end = time.monotonic() + patience
    while True:
        found = is_so()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"not within {patience:.0f} s, but should be: {what}")
        time.sleep(0.02)


def chromium():
    """Finds the browser, or None."""
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Process:
    """A process that ends with this one, and that is all it ends."""

    def __init__(self, command, **how):
        self.child = subprocess.Popen(command, **how)

    def end(self, by=signal.SIGTERM, patience=20):
        if self.child.poll() is None:
            self.child.send_signal(by)
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        return self.child.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Daemon(Process):
    """A goumemd with its files in a directory, and its page on a port of 127.0.0.1."""

    def __init__(self, programs, directory, port=0, *args):
        self.socket = os.path.join(directory, "goumemd.sock")
        self.programs = programs
        log = os.path.join(directory, f"log.{time.monotonic_ns()}")
        command = [
            os.path.join(programs, "goumemd"), "--listen", self.socket, "--keeper", "none",
            "--http", f"127.0.0.1:{port}", "--data-dir", os.path.join(directory, "data"),
            "--log-format", "json", *args,
        ]
        with open(log, "wb") as errors:
            super().__init__(command, stderr=errors)

        def served():
            if self.child.poll() is not None:
                raise Failed(f"goumemd ended: {open(log).read()}")
            return re.search(r"http://127\.0\.0\.1:\d+", open(log).read())

        self.url = eventually("goumemd serves its page", served).group()
        self.port = int(self.url.rsplit(":", 1)[1])

    def environment(self):
        return {**os.environ, "GOUMEM_SOCKET": self.socket}

    def ctl(self, *args, given=""):
        command = [os.path.join(self.programs, "goumemctl"), *args]
        done = subprocess.run(
            command, input=given, env=self.environment(), text=True, capture_output=True, timeout=PATIENCE
        )
        if done.returncode != 0:
            raise Failed(f"goumemctl {' '.join(args)}: {done.stderr}")
        return done.stdout

    def busy(self, *args):
        """Starts the example that has something to show."""
        command = [os.path.join(self.programs, "examples", "busy"), *args]
        how = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "env": self.environment()}
        return Busy(command, **how)


class Busy(Process):
    def end(self, *_):
        self.child.stdin.close()
        try:
            return self.child.wait(20)
        except subprocess.TimeoutExpired:
            return super().end()


class Browser:
    """Chromium with one page."""

    def __init__(self, size=(1440, 1000)):
        program = chromium()
        if program is None:
            raise Failed("there is no Chromium")
        self.profile = tempfile.TemporaryDirectory(prefix="gm-chromium")
        down, up = os.pipe(), os.pipe()
        flags = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}",
            f"--window-size={size[0]},{size[1]}", "--no-first-run", "--no-default-browser-check",
            "--disable-extensions", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu",
            "--force-color-profile=srgb",
        ]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # which root cannot have

        def pipes():
            # 3 and 4 are where Chromium looks for them; the ends may lie there already.
            read, write = os.dup(down[0]), os.dup(up[1])
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.child = subprocess.Popen(
            [program, *flags, "about:blank"], preexec_fn=pipes, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(down[0])
        os.close(up[1])
        self.down, self.up = os.fdopen(down[1], "wb"), os.fdopen(up[0], "rb")
        self.sent, self.replies, self.events, self.session = 0, queue.Queue(), [], None
        threading.Thread(target=self.listen, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network", "DOM", "Accessibility"]:
            self.call(f"{domain}.enable")

    def listen(self):
        text = b""
        while True:
            piece = os.read(self.up.fileno(), 1 << 20)
            if not piece:
                self.replies.put(None)
                return
            *messages, text = (text + piece).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.replies.put(message)
                else:
                    self.events.append(message)

    def call(self, method, **params):
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.down.write(json.dumps(message).encode() + b"\0")
        self.down.flush()
        while True:
            reply = self.replies.get(timeout=2 * PATIENCE)
            if reply is None:
                raise Failed("Chromium ended")
            if reply["id"] == self.sent:
                if "error" in reply:
                    raise Failed(f"{method}: {reply['error']}")
                return reply["result"]

    def ask(self, expression):
        """Evaluates JavaScript in the page, promises too."""
        reply = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise Failed(f"{expression}: {reply['exceptionDetails']}")
        return reply["result"].get("value")

    def open(self, url):
        self.call("Page.navigate", url=url)
        eventually(f"{url} is loaded", lambda: self.ask("document.readyState") == "complete")

    def resize(self, width, height, scale=1):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def key(self, key):
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        what = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        if len(key) == 1:
            what["text"] = key
        if key == "Enter":
            what["text"] = "\r"
        self.call("Input.dispatchKeyEvent", type="keyDown", **what)
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def point(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector):
        middle = f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        x, y = self.ask(middle)
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path, whole=False):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))

    def complaints(self):
        """What the console shows in red."""
        found = []
        for event in self.events:
            method, params = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("exception", {}).get("description", str(params)))
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
                found.append(str([arg.get("value") for arg in params["args"]]))
            if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def requested(self):
        """Every address that the page has asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.session = None
            self.call("Browser.close")
            self.child.wait(20)
        except Exception:  # whatever it is, it ends
            self.child.kill()
            self.child.wait()
        # Chromium may write into it to the last.
        shutil.rmtree(self.profile.name, ignore_errors=True)
