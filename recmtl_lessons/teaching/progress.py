"""What a learner has done, kept in one small JSON file on their own disk.

The file lies in the folder that the operating system keeps for a program's user data; the environment
variable ``RECMTL_PROGRESS_DIR`` names another one. It holds plain facts, ``{lesson: {activity: {fact:
value}}}``, and nothing in it leaves the computer.
"""

import copy
import json
import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import platformdirs

__all__ = ["Progress", "progress"]

_LOG = logging.getLogger(__name__)
_FILE_NAME = "progress.json"
_STORES: dict[Path, "Progress"] = {}
_STORES_LOCK = threading.Lock()

State = dict[str, dict[str, dict[str, Any]]]


class Progress:
    """A small store of facts about what a learner has done.

    Every change reads the file again, adds to it and replaces it in one step, so that two open notebooks see
    each other's progress and a crash leaves the old file or the new one, never half of one. Calls may come
    from any thread.

    Parameters
    ----------
    path : pathlib.Path
        The JSON file. It and its folder are made when something is first recorded.

    Notes
    -----
    A file that cannot be understood is moved aside to ``<name>.broken`` and the store starts empty. Where the
    disk cannot be read or written, progress is kept in memory until the kernel stops. Both are said in one
    logged line.
    """

    def __init__(self, path: Path):
        self._path = Path(path)
        self._lock = threading.RLock()
        self._in_memory: State | None = None  # everything known, once the disk has refused

    @property
    def path(self) -> Path:
        """Where progress is kept."""
        return self._path

    def record(self, lesson: str, key: str, **facts: Any) -> None:
        """Add facts about one activity; a fact recorded before under the same name is replaced.

        Parameters
        ----------
        lesson, key : str
            The lesson and the activity in it.
        **facts
            Values that JSON can hold. NumPy scalars and arrays are stored as numbers and lists.

        Raises
        ------
        ValueError
            If a name is empty or a fact cannot be written as JSON. Nothing is recorded then.
        """
        _require_name("lesson", lesson)
        _require_name("key", key)
        plain = {name: _as_json(name, value) for name, value in facts.items()}
        with self._lock:
            state = self._load()
            state.setdefault(lesson, {}).setdefault(key, {}).update(plain)
            self._save(state)

    def get(self, lesson: str, key: str) -> dict[str, Any] | None:
        """Return a copy of the facts about one activity, or None where there are none."""
        return self.lesson(lesson).get(key)

    def lesson(self, lesson: str) -> dict[str, dict[str, Any]]:
        """Return a copy of everything known about one lesson, as ``{key: facts}``."""
        with self._lock:
            return self._load().get(lesson, {})

    def reset(self, lesson: str | None = None) -> None:
        """Forget one lesson, or everything when no lesson is named."""
        if lesson is not None:
            _require_name("lesson", lesson)
        with self._lock:
            state = self._load()
            state = {} if lesson is None else {name: kept for name, kept in state.items() if name != lesson}
            self._save(state)

    def _load(self) -> State:
        if self._in_memory is not None:
            return copy.deepcopy(self._in_memory)
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            if not _is_state(state):
                raise ValueError("not a table of lessons, activities and facts")
        except FileNotFoundError:
            return {}
        except ValueError as error:  # json's and unicode's decoding errors are ValueErrors
            return self._start_afresh(error)
        except OSError as error:
            return self._stay_in_memory({}, error)
        return state

    def _start_afresh(self, error: Exception) -> State:
        aside = self._path.with_name(self._path.name + ".broken")
        try:
            os.replace(self._path, aside)
        except OSError as refusal:
            return self._stay_in_memory({}, refusal)
        _LOG.warning("The progress file could not be read (%s): moved to %s, starting afresh.", error, aside)
        return {}

    def _save(self, state: State) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _replace_text(self._path, json.dumps(state, indent=1, ensure_ascii=False))
        except OSError as error:
            self._stay_in_memory(state, error)
        else:
            self._in_memory = None

    def _stay_in_memory(self, state: State, error: OSError) -> State:
        if self._in_memory is None:
            _LOG.warning(
                "Progress cannot be kept in %s (%s): it lasts until this kernel stops.",
                self._path,
                error.strerror,
            )
        self._in_memory = copy.deepcopy(state)
        return state


def progress() -> Progress:
    """Return the learner's progress store; ``RECMTL_PROGRESS_DIR`` is read at each call."""
    folder = os.environ.get("RECMTL_PROGRESS_DIR") or platformdirs.user_data_dir("recmtl_lessons", appauthor=False)
    path = Path(folder).expanduser() / _FILE_NAME
    with _STORES_LOCK:
        return _STORES.setdefault(path, Progress(path))


def _replace_text(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _as_json(name: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=lambda item: item.tolist()))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"facts: {name} is {type(value).__name__}, expected a value that JSON can hold") from error


def _is_state(state: object) -> bool:
    return isinstance(state, dict) and all(
        isinstance(activities, dict) and all(isinstance(facts, dict) for facts in activities.values())
        for activities in state.values()
    )


def _require_name(argument: str, name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{argument}: got {name!r}, expected a non-empty string")
