"""Takes the picture of `goumemctl top` for the docs: the program itself, in a terminal of its own,
against a daemon under load. It writes the last frame that it drew.

The arguments are the directory of the programs and the file of the picture.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

PROGRAMS, PICTURE = sys.argv[1:]
COLUMNS, ROWS = 112, 26
# Long enough for the curves to have a shape.
WATCHED_S = float(os.environ.get("WATCHED_S", "75"))
PATIENCE_S = 30


def main():
    with tempfile.TemporaryDirectory(prefix="gm") as directory:
        socket = f"{directory}/goumemd.sock"
        daemon = start("goumemd", "--listen", socket, "--data-dir", f"{directory}/data",
                       "--log-level", "warn", "--keeper", "none", "--budget", "2GiB")
        load = None
        try:
            wait_until(lambda: ctl(socket, "ping").returncode == 0, "the daemon answers")
            must(ctl(socket, "pool", "create", "models", "192MiB"))
            for n, kib in enumerate((900, 14_000, 7_500, 21_000)):
                must(ctl(socket, "put", "models", f"model-{n}", given=b"x" * (kib << 10)))
            environment = {**os.environ, "GOUMEM_SOCKET": socket}
            load = start("examples/busy", "1500", stdin=subprocess.PIPE, env=environment)
            picture(socket)
        finally:
            # It ends with its standard input.
            end(load, lambda: load.stdin.close())
            end(daemon, lambda: daemon.send_signal(signal.SIGINT))


def picture(socket):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.environ.pop("NO_COLOR", None)
        # The size first, or the program might have drawn at another one.
        time.sleep(0.5)
        os.execv(f"{PROGRAMS}/goumemctl", ["goumemctl", "--socket", socket, "top",
                                            "--interval", "500ms", "--picture", PICTURE])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    try:
        shown = read_for(terminal, WATCHED_S)
        if b"frames" not in shown:
            sys.exit(f"top: nothing to see: {shown[-2000:]!r}")
        # Who holds most of the first one.
        os.write(terminal, b"\r")
        read_for(terminal, 2)
        os.write(terminal, b"q")
        read_for(terminal, PATIENCE_S)
    finally:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        sys.exit(f"top: ended with status {status}")


def read_for(terminal, seconds):
    """Reads what is shown, until the time is up or the program has ended."""
    shown = b""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            break
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    return shown


def start(program, *args, **streams):
    return subprocess.Popen([f"{PROGRAMS}/{program}", *args], **streams)


def ctl(socket, *args, given=b""):
    return subprocess.run([f"{PROGRAMS}/goumemctl", "--socket", socket, *args], input=given,
                          capture_output=True)


def must(outcome):
    if outcome.returncode != 0:
        sys.exit(f"top: {outcome.args}: {outcome.stderr.decode()}")


def wait_until(is_so, what):
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > until:
            sys.exit(f"top: not within {PATIENCE_S} s: {what}")
        time.sleep(0.05)


def end(process, ask):
    if process is None:
        return
    ask()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


main()
