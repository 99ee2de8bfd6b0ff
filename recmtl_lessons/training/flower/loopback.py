"""Flower on this machine alone: its processes talk over loopback, and end with the block that began them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

APP = Path(__file__).parent  # the folder whose pyproject.toml describes the app
_PROGRAMS = Path(sys.executable).parent
_OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # or the SuperLink installs packages for each run
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too, Ray then keeps to loopback
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
}

# Ray ends its start after 15 seconds (ray-project/ray issue 65983), and each of its processes would spend some of them
# on a grammar of web addresses that JupyterLab's jsonschema brings along and can do without. And it starts none of its
# workers if the path of Python holds a space (ray-project/ray issue 5288), which the path of a link does not.
_FIRST = 'import sys\nsys.modules["rfc3987_syntax"] = None\nsys.executable = {python!r}\n'

_MARK = "RECMTL_FLOWER"


def app_settings() -> dict[str, bool | int | float | str]:
    """Return the settings that the app's ``pyproject.toml`` gives."""
    return tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]


class Started:
    """A program of Flower's, and all that it starts: found by a mark in their environment, and by their sessions.

    They lead sessions of their own, and Ray's processes overwrite their environment: neither alone finds all.
    """

    def __init__(self, command: list[str], env: dict[str, str], log: Path):
        self._mark, self._sessions, self.log = str(log), set(), log
        env = {**env, _MARK: self._mark}
        with open(log, "wb") as out:
            self.head = subprocess.Popen(
                command, env=env, cwd=log.parent, stdout=out, stderr=out, start_new_session=True
            )

    def processes(self) -> list[psutil.Process]:
        """Return those that run."""
        self.head.poll()  # takes note of its end, if it has ended
        running = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # it has ended meanwhile, or is somebody else's
                if process.status() != psutil.STATUS_ZOMBIE:
                    running[process] = os.getsid(process.pid)
                    if process.environ().get(_MARK) == self._mark:
                        self._sessions.add(running[process])
        return [process for process, session in running.items() if session in self._sessions]

    def end(self, gently: bool = False) -> None:
        """End all of them, at once unless gently."""
        for number in [signal.SIGTERM] * gently + [signal.SIGKILL]:
            for process in self.processes():
                with suppress(psutil.Error):
                    process.send_signal(number)
            _wait(lambda: not self.processes(), 5)


class Loopback:
    """A SuperLink on a free port, its nodes, and runs of the app, one after another; for Linux and macOS.

    Parameters
    ----------
    simulation : bool
        Whether nodes are simulated. If not, each is a SuperNode, which `start_node` starts.
    first : str
        Python code that each process runs before anything else.

    Examples
    --------
    >>> with Loopback(simulation=True) as flower:  # doctest: +SKIP
    ...     flower.submit({"nodes": 5, "rounds": 3})
    ...     flower.result(timeout=120)["errors"]
    """

    def __init__(self, simulation: bool = False, first: str = ""):
        self.simulation, self._started = simulation, []
        self.home = Path(tempfile.mkdtemp(prefix="flower-"))  # a short name, as Ray's sockets lie in it
        self._address = ("127.0.0.1", _free_port())
        self._env = {**os.environ, **_OFFLINE, "FLWR_HOME": str(self.home), "RAY_TMPDIR": str(self.home)}
        # Flower's programs start each other by name.
        self._env["PATH"] = os.pathsep.join([str(_PROGRAMS), os.environ.get("PATH", os.defpath)])
        self._env["PYTHONPATH"] = os.pathsep.join([str(self.home / "first"), os.environ.get("PYTHONPATH", "")])
        self._first = _FIRST.format(python=str(self.home / "env" / "bin" / Path(sys.executable).name)) + first

    def __enter__(self) -> "Loopback":
        host, port = self._address
        try:
            (self.home / "env").symlink_to(_PROGRAMS.parent)
            (self.home / "first").mkdir()
            (self.home / "first" / "sitecustomize.py").write_text(self._first, encoding="utf-8")
            connection = f'[superlink.here]\naddress = "{host}:{port}"\ninsecure = true\n'
            (self.home / "config.toml").write_text(connection, encoding="utf-8")
            options = ["--simulation"] if self.simulation else []
            link = self._start("flower-superlink", "--insecure", "--host", host, "--port", str(port), *options)
            self._wait_until(lambda: _listens(self._address), link, 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for started in reversed(self._started):
            started.end(gently=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def start_node(self, partition: int, partitions: int) -> Started:
        """Start a SuperNode that holds one of so many parts of the users."""
        link, port = ":".join(map(str, self._address)), str(_free_port())
        node = f"partition-id={partition} num-partitions={partitions}"
        return self._start("flower-supernode", "--insecure", "--superlink", link, "--port", port, "--node-config", node)

    def submit(self, settings: dict[str, object]) -> None:
        """Start a run, with these settings in place of the app's own."""
        self._out = self.home / f"{len(self._started)}.json"
        self.settings = {**app_settings(), **settings, "out": str(self._out)}
        config = " ".join(f"{name}={json.dumps(value)}" for name, value in self.settings.items())  # TOML reads these
        nodes = f"num-supernodes={self.settings['nodes']} client-resources-num-cpus=1"
        options = ["--federation-config", nodes] if self.simulation else []
        self._run = self._start("flwr", "run", str(APP), "here", "--stream", "--run-config", config, *options)

    def result(self, timeout: float) -> dict:
        """Wait for the run, so many seconds at most, and return what the server wrote."""
        self._wait_until(self._out.exists, self._run, timeout)
        return json.loads(self._out.read_text(encoding="utf-8"))

    def _start(self, program: str, *arguments: str) -> Started:
        log = self.home / f"{len(self._started)}.log"
        self._started.append(Started([str(_PROGRAMS / program), *arguments], self._env, log))
        return self._started[-1]

    def _wait_until(self, done: Callable[[], bool], started: Started, timeout: float) -> None:
        """Wait for what a program is to bring about; if it ends without, or takes too long, show its last words."""
        _wait(lambda: done() or started.head.poll() is not None, timeout)
        if not done():  # flwr returns 0 also if the run has failed
            program, code = Path(started.head.args[0]).name, started.head.poll()
            what = f"goes on after {timeout:g} seconds" if code is None else f"ended with {code}"
            log = started.log.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{program} {what}, without a result:\n{log[-3000:]}")


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True
