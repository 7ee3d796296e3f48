"""Commands in forked processes: each begins where PyTorch, Hydra and all of darts are imported already.

A command in a process of its own spends four seconds on imports; a fork of one that has them spends none. It is still a
process: its folder, arguments, standard streams and exit code are its own, and it ends by running what would run at
exit. What a fork cannot show is run by `python` as before: what is imported when, other environments, torchrun.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Pictures:
    """Whether commands draw them: they take longer than the rest of a tiny run."""

    drawn = False


class ForkServer:
    """A process that forks for every command that it is given, one at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, command: list[str], folder: Path, timeout: float, pictures: bool, path: str | None
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)`."""
        with tempfile.TemporaryDirectory() as place:
            streams = [Path(place) / name for name in ("stdout", "stderr")]
            files = [str(file) for file in streams]
            question = {"command": command, "folder": str(folder), "streams": files, "pictures": pictures, "path": path}
            child = self._ask(question)
            killer = threading.Timer(timeout, _kill_group, [child])
            killer.start()
            code = json.loads(self.process.stdout.readline())
            expired = not killer.is_alive()
            killer.cancel()
            out, error = (file.read_bytes().decode() for file in streams)
        if expired:
            raise subprocess.TimeoutExpired(command, timeout, out, error)
        return subprocess.CompletedProcess([sys.executable, *command], code, out, error)

    def _ask(self, question: dict) -> int:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def serve() -> None:
    """Answer questions from standard input: first with the number of the forked process, then with its exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm()
    for line in sys.stdin:
        question = json.loads(line)
        child = os.fork()
        if not child:
            answers.close()
            _become(**question)
        print(json.dumps(child), file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), file=answers, flush=True)


def _warm() -> None:
    """Import what commands import, and compose once, so that Hydra has found its plug-ins and warmed its parser."""
    import pkgutil

    import hydra
    import matplotlib.pyplot
    import sklearn
    import torchvision

    import darts
    from darts.config.compose import CONF

    for module in pkgutil.walk_packages(darts.__path__, "darts."):
        if module.name.startswith("darts.models.kernels."):
            continue  # they need Triton, which is not everywhere, and are imported where a GPU runs them
        found = importlib.util.find_spec(module.name)
        if '__name__ == "__main__"' not in Path(found.origin).read_text():  # such a one runs as the main module
            __import__(module.name)
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        hydra.compose("search", ["seed=0"])
    del matplotlib, sklearn, torchvision


def leave_out_pictures(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Nothing of a run is drawn from now on; `replace` sets an attribute."""
    from darts.loop import plotting
    from darts.loop.tracking import Tracker
    from darts.search import ending

    replace(Tracker, "picture", lambda *_: None)
    for name in ("save_figure", "save_cells", "draw_curves", "draw_diagnostics"):
        replace(plotting, name, lambda *_: [])
    for name in ("draw_changes", "draw_mixtures"):
        replace(ending, name, lambda *_: None)


def _become(command: list[str], folder: str, streams: list[str], pictures: bool, path: str | None) -> None:
    """Run a command as `python` would, and exit; `path` is the PYTHONPATH, if it is another than the server's."""
    code = 1
    try:
        if not pictures:
            leave_out_pictures()
        os.setsid()
        os.chdir(folder)
        if path is not None:
            os.environ["PYTHONPATH"] = path
            sys.path[:0] = path.split(":")
        for number, target in enumerate([os.devnull, *streams]):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
            os.dup2(os.open(target, flags), number)
        code = _exit_code(command)
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(command: list[str]) -> int:
    sys.orig_argv = [sys.executable, *command]
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).absolute().parent))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return (ended.code or 0) & 0xFF
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # python put the folder of this file there
    serve()
