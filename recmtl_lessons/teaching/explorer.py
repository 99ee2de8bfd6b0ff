"""The explorer: controls on one side, a computation on the other, a picture between them.

What is computed and what is drawn are plain functions, testable without a screen. The explorer only joins them:
it computes in a thread of its own, so that the page stays alive and a button can stop a training; the latest
move wins; what was computed once is shown again from memory.
"""

import base64
import inspect
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import anywidget
import traitlets

from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.lesson import Lesson

_HERE = Path(__file__).parent
_REMEMBERED = 128  # pictures kept, the oldest go first
_QUIET = 0.12  # seconds a computation may take before it shows that it runs
_REDRAW = 0.25  # seconds between two pictures of one training, at least
_DRAWING = 0.3  # share of a training's time that its pictures may take, at most


@dataclass(frozen=True)
class Slider:
    """A number, on a slider and in a field beside it.

    Attributes
    ----------
    name : str
        The argument of ``compute``.
    label : str
        What a learner reads.
    stops : sequence of float
        The values on the slider, increasing; a typed number may lie anywhere between the first and the last.
    value : float
        Where it starts.
    unit : str
        Shown behind the number.
    """

    name: str
    label: str
    stops: Sequence[float]
    value: float
    unit: str = ""

    def __post_init__(self):
        stops = tuple(self.stops)
        numbers = all(_is_number(stop) for stop in stops)
        if len(stops) < 2 or not numbers or not all(a < b for a, b in pairwise(stops)):
            raise ValueError(f"stops: got {stops}, expected at least two increasing numbers")
        object.__setattr__(self, "stops", stops)
        self.accept(self.value)

    @property
    def whole(self) -> bool:
        """Whether all stops are integers, so that typed numbers must be too."""
        return all(isinstance(stop, int) for stop in self.stops)

    def accept(self, value: object) -> float:
        """Return the value, as int or float; refuse what is no number of the slider's range."""
        inside = _is_number(value) and self.stops[0] <= value <= self.stops[-1]
        if not inside or (self.whole and value != int(value)):
            kind = "a whole number" if self.whole else "a number"
            raise ValueError(f"{self.name}: got {value!r}, expected {kind} from {self.stops[0]} to {self.stops[-1]}")
        return int(value) if self.whole else float(value)

    def spec(self) -> dict:
        """What the browser needs to know."""
        return {
            "kind": "slider", "name": self.name, "label": self.label, "unit": self.unit,
            "stops": self.stops, "value": self.value, "whole": self.whole,
        }  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One of several names."""

    name: str
    label: str
    options: Sequence[str]
    value: str

    def __post_init__(self):
        object.__setattr__(self, "options", tuple(self.options))
        self.accept(self.value)

    def accept(self, value: object) -> str:
        """Return the value; refuse what is not an option."""
        if value not in self.options:
            raise ValueError(f"{self.name}: got {value!r}, expected one of {', '.join(map(repr, self.options))}")
        return value

    def spec(self) -> dict:
        """What the browser needs to know."""
        return {
            "kind": "choice", "name": self.name, "label": self.label,
            "options": self.options, "value": self.value,
        }  # fmt: skip


@dataclass(frozen=True)
class Toggle:
    """Yes or no."""

    name: str
    label: str
    value: bool = False

    def __post_init__(self):
        self.accept(self.value)

    def accept(self, value: object) -> bool:
        """Return the value; refuse what is neither True nor False."""
        if not isinstance(value, bool):
            raise ValueError(f"{self.name}: got {value!r}, expected True or False")
        return value

    def spec(self) -> dict:
        """What the browser needs to know."""
        return {"kind": "toggle", "name": self.name, "label": self.label, "value": self.value}


@dataclass(frozen=True)
class Running:
    """What a computation that takes its time yields while it runs.

    Attributes
    ----------
    done, total : int
        How far it is.
    snapshot : callable () -> result
        Makes a result of what there is so far; called only when a picture of it is wanted.
    unit : str
        What is counted.
    """

    done: int
    total: int
    snapshot: Callable[[], object]
    unit: str = "step"


@dataclass(frozen=True)
class _Shown:
    png: bytes
    text: str


class _View(anywidget.AnyWidget):
    _esm = _HERE / "explorer.js"
    _css = _HERE / "explorer.css"
    title = traitlets.Unicode().tag(sync=True)
    controls = traitlets.List().tag(sync=True)
    seeded = traitlets.Bool().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)


_IDLE = {"state": "idle", "done": 0, "total": 0, "message": ""}


class Explorer:
    """Join ``compute`` and ``draw`` to controls that a learner moves.

    Parameters
    ----------
    lesson, key : Lesson, str
        Where the learner's first move is recorded. An earlier explorer of the same lesson and key is closed.
    title : str
        Stands above the controls.
    controls : sequence of Slider, Choice or Toggle
        Their names are the arguments of ``compute``.
    compute : callable (**controls) -> result
        A plain function, or a generator that yields `Running` and returns the result; a generator can be
        stopped wherever it yields. Gets ``seed`` too if ``seeded``.
    draw : callable (result, figure, controls)
        Draws on a figure that holds the last picture; `style.panels` gives its axes, wiped. ``controls`` is a dict of
        where the controls stood, so that a result need not repeat it.
    describe : callable (result, controls) -> str
        The picture in one or two sentences, for the summary beside it and for those who cannot see it.
    seeded : bool
        Whether there is a seed to change.
    size : (float, float)
        The figure's width and height in inches.

    Attributes
    ----------
    history : list of (dict, str)
        What was tried, and the picture in words: every finished move and every `run`, the last 200. Showing the
        explorer is not among them, nor is what was stopped, overtaken or failed.

    Notes
    -----
    Moves and runs may come from several threads: a cell, the browser's messages, the explorer's own. Each takes the
    next turn as it arrives, and the picture and the controls end with the latest turn, whatever is computed first.
    """

    _open: ClassVar[dict[tuple[str, str], "Explorer"]] = {}

    def __init__(
        self,
        *,
        lesson: Lesson,
        key: str,
        title: str,
        controls: Sequence[Slider | Choice | Toggle],
        compute: Callable[..., object],
        draw: Callable[[object, object, dict], None],
        describe: Callable[[object, dict], str],
        seeded: bool = False,
        size: tuple[float, float] = (9.0, 4.2),
    ):
        lesson.require(key)  # refuses a key that the lesson has not declared
        self.lesson, self.key, self.title = lesson, key, title
        self.history: list[tuple[dict, str]] = []
        self._controls = {control.name: control for control in controls}
        self._start = {name: control.value for name, control in self._controls.items()}
        if seeded:
            self._start["seed"] = 0
        self._compute, self._draw, self._describe = compute, draw, describe
        self._figure = style.new_figure(*size)
        self._seen: OrderedDict[tuple, _Shown] = OrderedDict()
        self._values = dict(self._start)
        self._view = _View(
            title=title,
            controls=[control.spec() for control in controls],
            seeded=seeded,
            values=self._start,
            status=_IDLE,
        )
        self._view.observe(self._on_values, names="values")
        self._view.on_msg(self._on_press)

        self._working = threading.RLock()  # held by whoever computes and draws; taken before _changed, never after
        self._changed = threading.Condition()  # guards where the controls stand, and the next seven
        self._turn = 0  # of the latest move or run
        self._stopped = 0  # the turn that the stop button was pressed in
        self._wanted: dict | None = None  # what the latest turn asks of the thread, until the thread takes it up
        self._serving = self._closed = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

        earlier = self._open.pop((lesson.name, key), None)
        if earlier is not None:
            earlier.close()
        self._open[lesson.name, key] = self

    @property
    def values(self) -> dict:
        """Where the controls stand, with the seed if there is one."""
        return dict(self._values)

    def run(self, **values) -> object:
        """Compute and draw here and now, whatever it takes, and return the result; errors are raised.

        A training that a hand began before ends. A hand that moves a control meanwhile has the last word: the
        result is returned all the same, and the picture is that of the move.

        A run is something that was tried, so it goes into ``history``, from where a study question takes its
        evidence. It does not count as progress: a notebook's own cell may run an explorer, and a learner who runs
        all cells has not explored anything yet.

        Parameters
        ----------
        **values
            Controls to set; the others stay where they are.
        """
        with self._changed:
            wanted = self._accept(values)
            turn = self._take_turn(wanted)
        with self._working:
            try:
                result = _to_the_end(self._compute(**wanted))
                overtaken = turn != self._turn
                text = self._describe(result, wanted) if overtaken else self._publish(wanted, result, final=True)
            except Exception as error:
                if turn == self._turn:
                    self._say_error(error)
                raise
            self._remember(wanted, text)
            if not overtaken:
                self._say("idle", "")
        return result

    def move(self, **values) -> None:
        """Move controls as a hand does: returns at once, the picture follows; the latest move wins."""
        with self._changed:
            self._want(self._accept(values))

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until the last move is served; raise what went wrong with it.

        Raises
        ------
        TimeoutError
            If it takes longer.
        """
        with self._changed:
            if not self._changed.wait_for(self._at_rest, timeout):
                raise TimeoutError(f"{self.title}: still busy after {timeout} s")
            error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Stop a running computation; its picture stays as far as it came."""
        with self._changed:
            self._stopped = self._turn

    def reset(self) -> None:
        """Go back to where the controls, and the seed, were at the start."""
        self.move(**self._start)

    def new_seed(self) -> None:
        """Run again with the next seed."""
        if "seed" in self._start:
            with self._changed:  # two clicks are two seeds
                self.move(seed=self._values["seed"] + 1)

    def close(self) -> None:
        """End the thread and the widget."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._view.close()

    def _repr_mimebundle_(self, **_) -> dict:
        with self._working:  # a picture that is being made is waited for
            if not self._view.frame:
                wanted = self.values
                self._publish(wanted, _to_the_end(self._compute(**wanted)), final=True)
        frame = self._view.frame
        return {
            "text/plain": f"{self.title}\n{frame['text']}",
            "image/png": base64.b64encode(frame["png"]).decode(),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 1,
                "model_id": self._view.model_id,
            },
        }

    # What the browser says.

    def _on_values(self, change) -> None:
        with self._changed:
            try:
                wanted = self._accept(change["new"])
            except ValueError as error:
                self._say("error", str(error))
                return
            if wanted != self._values:
                # The browser knows, and its hand may be further on by now; unless code moved before this was heard.
                self._want(wanted, tell=self._view.values != change["new"])

    def _on_press(self, _, content, __) -> None:
        press = content.get("press")
        if press in ("stop", "reset", "new_seed"):
            getattr(self, press)()

    # What the controls hold.

    def _accept(self, values: Mapping) -> dict:
        accepted = dict(self._values)
        for name, value in values.items():
            if name == "seed" and "seed" in self._start:
                accepted["seed"] = _accept_seed(value)
            elif name in self._controls:
                accepted[name] = self._controls[name].accept(value)
            else:
                raise ValueError(f"{name}: no such control, expected one of {', '.join(self._start)}")
        return accepted

    def _take_turn(self, wanted: dict, tell: bool = True) -> int:
        """Make this the latest turn; what earlier ones wanted is dropped. The caller holds ``_changed``."""
        self._values, self._wanted, self._error = wanted, None, None
        self._turn += 1
        if tell:
            self._view.values = wanted
        self._changed.notify_all()  # whoever waits for a move that will not be served now
        return self._turn

    # The thread that computes.

    def _want(self, wanted: dict, tell: bool = True) -> None:
        """Take a turn, and leave it to the thread. The caller holds ``_changed``."""
        self._take_turn(wanted, tell)
        if self._closed:
            return
        self._wanted = wanted
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self.title, daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None or self._closed)
                if self._closed:
                    return
            with self._working:
                with self._changed:
                    wanted, self._wanted, turn = self._wanted, None, self._turn
                    self._serving = wanted is not None
                if wanted is not None:
                    self._answer(wanted, turn)
            with self._changed:
                self._serving = False
                self._changed.notify_all()

    def _at_rest(self) -> bool:
        return not self._serving and (self._wanted is None or self._closed)

    def _answer(self, wanted: dict, turn: int) -> None:
        """Serve one move; whatever goes wrong becomes one line in place, and the next move works again."""
        try:
            seen = self._seen.get(_key(wanted))
            if seen is not None:
                self._show(wanted, seen, final=True)
            elif not self._advance(wanted, turn):
                return
            self._remember(wanted, self._view.frame["text"])
            self.lesson.record(self.key, state="done")
            if self._view.status != _IDLE:
                self._view.status = _IDLE
        except Exception as error:
            with self._changed:
                if turn == self._turn:
                    self._error = error
            self._say_error(error)

    def _remember(self, wanted: dict, text: str) -> None:
        self.history.append((wanted, text))
        del self.history[:-200]

    def _advance(self, wanted: dict, turn: int) -> bool:
        """Compute and draw; False if a later move or the stop button ended it."""
        with self._saying_if_long():
            computing = self._compute(**wanted)
        if inspect.isgenerator(computing):
            with closing(computing):
                return self._watch(wanted, turn, computing)
        self._publish(wanted, computing, final=True)
        return True

    def _watch(self, wanted: dict, turn: int, computing: Generator[Running, None, object]) -> bool:
        """Run a generator on, with its progress and its picture so far; False if it was ended."""
        started = said = time.monotonic()
        next_picture = started + _REDRAW
        while True:
            try:
                now_at = next(computing)
            except StopIteration as end:
                self._publish(wanted, end.value, final=True)
                return True
            with self._changed:
                overtaken, stopped = turn != self._turn or self._closed, turn == self._stopped
            if overtaken:
                return False
            if stopped:
                self._publish(wanted, now_at.snapshot(), final=False)
                self._say("idle", f"stopped at {now_at.unit} {now_at.done} of {now_at.total}")
                return False
            now = time.monotonic()
            if now - started > _QUIET and now - said > _QUIET:
                said = now
                message = f"{now_at.unit} {now_at.done} of {now_at.total}"
                self._say("running", message, now_at.done, now_at.total)
            if now >= next_picture:
                self._publish(wanted, now_at.snapshot(), final=False)
                took = time.monotonic() - now
                next_picture = time.monotonic() + max(_REDRAW, took * (1 - _DRAWING) / _DRAWING)

    @contextmanager
    def _saying_if_long(self) -> Iterator[None]:
        """Say that something runs when a plain function takes its time; it cannot say how far it is."""
        timer = threading.Timer(_QUIET, self._say, ("running", "computing"))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _publish(self, wanted: dict, result: object, final: bool) -> str:
        self._draw(result, self._figure, wanted)
        shown = _Shown(style.png(self._figure), self._describe(result, wanted))
        if final:
            self._seen[_key(wanted)] = shown
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        self._show(wanted, shown, final)
        return shown.text

    def _show(self, wanted: dict, shown: _Shown, final: bool) -> None:
        self._view.frame = {"png": shown.png, "text": shown.text, "values": wanted, "final": final}

    def _say(self, state: str, message: str, done: int = 0, total: int = 0) -> None:
        self._view.status = {"state": state, "done": done, "total": total, "message": message}

    def _say_error(self, error: Exception) -> None:
        self._say("error", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def log_stops(low: float, high: float, per_decade: int = 10, zero: bool = False) -> tuple[float, ...]:
    """Slider stops at even ratios from ``low`` to ``high``, rounded to three figures, after a 0 if asked for."""
    if not 0 < low < high:
        raise ValueError(f"low, high: got {low}, {high}, expected 0 < low < high")
    count = round(math.log10(high / low) * per_decade)
    stops = [float(f"{low * (high / low) ** (i / count):.3g}") for i in range(count + 1)]
    return (0.0, *stops) if zero else tuple(stops)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _accept_seed(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"seed: got {value!r}, expected a whole number, 0 or more")
    return value


def _key(values: dict) -> tuple:
    return tuple(sorted(values.items()))


def _to_the_end(computing: object) -> object:
    """Return the result of a plain function's answer, or of a generator run to its end."""
    if not inspect.isgenerator(computing):
        return computing
    while True:
        try:
            next(computing)
        except StopIteration as end:
            return end.value
