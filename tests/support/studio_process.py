"""A studio in a process of its own, which a test kills and starts again; so are the acts that it started."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

from support import waiting
from thinktune.files import read_json
from thinktune.run.lock import is_held
from thinktune.studio.act_process import ActFolder

PATIENCE_SECONDS = 60  # the machine may be busy


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


wait_until = partial(waiting.wait_until, seconds=PATIENCE_SECONDS)


class StudioProcess:
    """`thinktune studio` over a folder, at one port, as a context manager; what it started ends with the block."""

    def __init__(self, folder, environment=None):
        self.folder, self.port = folder, free_port()
        self.environment = dict(environment or os.environ)
        self.process = None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        for act in self.acts():
            self.kill_act(act)

    def start(self):
        command = [sys.executable, "-m", "thinktune", "studio", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)
        assert self.address in self.process.stdout.readline()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def acts(self, verb=""):
        """List the folders of acts, the newest first."""
        found = (self.folder / ".thinktune" / "acts").glob(f"*-{verb}*")
        return [ActFolder(path) for path in sorted(found, reverse=True)]

    def living(self, verb):
        """Return the newest act of a verb, once its verb has begun."""
        return wait_until(lambda: next((one for one in self.acts(verb) if one.process.exists()), None))

    def kill_act(self, act):
        """Kill the processes of an act at once: its own, and its verb."""
        if not act.exit.exists() and act.process.exists():
            for number in read_json(act.process).values():
                try:
                    os.kill(number, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            wait_until(lambda: not is_held(act.lock))


@contextmanager
def tab(browser, studio, place=""):
    """Yield a tab with a studio that may die; the page's own code may not fail."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{studio.address}/{place}")
    yield page
    context.close()
    assert not faults
