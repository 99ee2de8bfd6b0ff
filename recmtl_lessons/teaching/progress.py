"""What a learner has done, kept in one small JSON file on their own disk.

The file lies in the folder that the operating system keeps for a program's user data; the environment
variable ``RECMTL_PROGRESS_DIR`` names another one. It holds plain facts, ``{lesson: {activity: {fact:
value}}}``, and nothing in it leaves the computer.
"""

import copy
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

__all__ = ["Progress", "progress"]

_LOG = logging.getLogger(__name__)
_FILE_NAME = "progress.json"
_STORES: dict[Path | None, "Progress"] = {}
_STORES_LOCK = threading.Lock()
_LOCK_SECONDS = 5.0  # a save takes a few thousandths of a second

State = dict[str, dict[str, dict[str, Any]]]
Change = Callable[[State], None]


class Progress:
    """A small store of facts about what a learner has done.

    Every change reads the file again, adds to it and replaces it in one step, under a lock that other kernels
    wait for. Two open notebooks lose nothing of each other's, and a crash leaves the old file or the new one, never
    half of one. Calls may come from any thread.

    Parameters
    ----------
    path : pathlib.Path or None
        The JSON file. It and its folder are made when something is first recorded; a link is followed to the file
        behind it. None where no folder is known to keep it in.

    Notes
    -----
    Where the file cannot be locked, read or written, it stays as it is. The change is kept in memory, and made to
    the file with the next one that finds it in order. A file that cannot be understood is moved aside to
    ``<name>.broken``, or ``<name>.broken-2`` and so on, and the store starts empty. Each is said in one logged line.
    """

    def __init__(self, path: Path | None):
        self._path = None if path is None else Path(path)
        self._lock = threading.RLock()
        self._seen: State = {}  # what the file held when it was last read or written
        self._waiting: list[Change] = []  # changes that are not in the file yet
        self._refusal_said = False

    @property
    def path(self) -> Path | None:
        """Where progress is kept."""
        return self._path

    def record(self, lesson: str, key: str, **facts: Any) -> None:
        """Add facts about one activity; a fact recorded before under the same name is replaced.

        Parameters
        ----------
        lesson, key : str
            The lesson and the activity in it.
        **facts
            Values that JSON can hold. NumPy scalars and arrays are stored as numbers and lists. A function is given
            the value kept under its name, or None, and returns the new one: what counts up or grows by it misses
            nothing that another kernel recorded in between.
        """
        _require_name("lesson", lesson)
        _require_name("key", key)
        facts = {name: fact if callable(fact) else _as_json(name, fact) for name, fact in facts.items()}

        def add(state: State) -> None:
            kept = state.setdefault(lesson, {}).setdefault(key, {})
            for name, fact in facts.items():
                kept[name] = _as_json(name, fact(kept.get(name))) if callable(fact) else fact

        self._change(add)

    def get(self, lesson: str, key: str) -> dict[str, Any] | None:
        """Return a copy of the facts about one activity, or None where there are none."""
        return self.lesson(lesson).get(key)

    def lesson(self, lesson: str) -> dict[str, dict[str, Any]]:
        """Return a copy of everything known about one lesson, as ``{key: facts}``."""
        return self._known().get(lesson, {})

    def reset(self, lesson: str | None = None) -> None:
        """Forget one lesson, or everything when no lesson is named: what is known of it, and nothing added later."""
        if lesson is not None:
            _require_name("lesson", lesson)
        known = self._known()

        def forget(state: State) -> None:
            for name in known if lesson is None else {lesson} & known.keys():
                for key, facts in known[name].items():
                    if _text(state.get(name, {}).get(key)) == _text(facts):
                        del state[name][key]

        self._change(forget)

    def _known(self) -> State:
        """Return what the file holds, or held when it could last be read, with the changes that wait."""
        with self._lock:
            try:
                try:
                    self._seen = _patiently(_read, self._real_path())
                except ValueError:
                    with self._exclusive_file() as path:
                        self._seen = _read_or_move_aside(path)
            except OSError as error:
                self._say(error)
            return _changed(self._seen, self._waiting)

    def _change(self, change: Change) -> None:
        """Make a change, and those that wait, to what the file holds now; let it wait where the file refuses."""
        with self._lock:
            _changed(self._seen, [change])  # an error in it shows here, before anything is kept
            try:
                with self._exclusive_file() as path:
                    state = _changed(_read_or_move_aside(path), [*self._waiting, change])
                    _replace_text(path, _text(state))
            except OSError as error:
                self._waiting.append(change)
                self._say(error)
            else:
                self._seen, self._waiting, self._refusal_said = state, [], False

    def _real_path(self) -> Path:
        if self._path is None:
            raise OSError("no folder for it is known; RECMTL_PROGRESS_DIR can name one")
        return Path(os.path.realpath(self._path))

    @contextmanager
    def _exclusive_file(self) -> Iterator[Path]:
        """Keep all other kernels from the file; give the path behind links."""
        path = self._real_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS):
            yield path

    def _say(self, error: OSError) -> None:
        if not self._refusal_said:
            _LOG.warning(
                "Progress cannot be kept in %s for now (%s): this kernel remembers it until it stops, and tries again"
                " when something is next recorded.",
                self._path or "a file",
                error.strerror or error,
            )
        self._refusal_said = True


def progress() -> Progress:
    """Return the learner's progress store; ``RECMTL_PROGRESS_DIR`` is read at each call."""
    try:
        folder = os.environ.get("RECMTL_PROGRESS_DIR") or platformdirs.user_data_dir("recmtl_lessons", appauthor=False)
        path = Path(folder).expanduser() / _FILE_NAME
    except (KeyError, RuntimeError):  # neither HOME nor a passwd entry, as in some containers
        path = None
    with _STORES_LOCK:
        store = _STORES.setdefault(path, Progress(path))
        if path is not None and None in _STORES:
            store._waiting += _STORES.pop(None)._waiting
        return store


def _text(value: object) -> str:
    return json.dumps(value, indent=1)


def _changed(state: State, changes: Iterable[Change]) -> State:
    state = copy.deepcopy(state)
    for change in changes:
        change(state)
    return state


def _read(path: Path) -> State:
    try:
        state = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not _is_state(state):
        raise ValueError("not a table of lessons, activities and facts")
    return state


def _read_or_move_aside(path: Path) -> State:
    try:
        return _patiently(_read, path)
    except ValueError as error:  # json's and unicode's decoding errors are ValueErrors
        aside, number = path.with_name(f"{path.name}.broken"), 1
        while os.path.lexists(aside):
            number += 1
            aside = path.with_name(f"{path.name}.broken-{number}")
        _patiently(os.replace, path, aside)
        _LOG.warning("The progress file could not be understood (%s): moved to %s, starting afresh.", error, aside)
        return {}


def _replace_text(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # from a process that was killed
    try:
        with open(new, "x", encoding="utf-8") as file:
            with suppress(OSError):  # there is no old file, or its disk knows no modes
                shutil.copymode(path, new)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _patiently(os.replace, new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _patiently(call: Callable[..., Any], *args: Any) -> Any:
    """Try again for a moment: Windows refuses a file that is open elsewhere, and a sync client may be halfway."""
    for pause in (0.01, 0.03, 0.1):
        try:
            return call(*args)
        except (PermissionError, ValueError):
            time.sleep(pause)
    return call(*args)


def _as_json(name: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=lambda item: item.tolist()))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"facts: {name} is {type(value).__name__}, expected a value that JSON can hold") from error


def _is_state(state: object) -> bool:
    return isinstance(state, dict) and all(
        isinstance(activities, dict) and all(isinstance(facts, dict) for facts in activities.values())
        for activities in state.values()
    )


def _require_name(argument: str, name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{argument}: got {name!r}, expected a non-empty string")
