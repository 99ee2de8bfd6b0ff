"""Your own ratings: any CSV file with a user, an item and a rating in each row."""

import codecs
import csv
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from recmtl_lessons.datasets.ratings import YEAR_1, YEAR_9999, Ratings

_T = TypeVar("_T")
_DELIMITERS = (",", ";", "\t", "|", "::")
_USUAL_NAMES = {  # lower case, without spaces, hyphens and underscores
    "user": ("user", "userid", "uid", "customer", "customerid", "reviewer", "reviewerid"),
    "item": ("item", "itemid", "iid", "movie", "movieid", "film", "filmid", "product", "productid", "asin"),
    "rating": ("rating", "ratings", "score", "stars"),
    "time": ("time", "timestamp", "datetime", "date"),
    "domain": ("domain", "domainid", "domainname", "category"),
}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_TOO_EARLY, _TOO_LATE = 1e8, 1e11  # seconds: March 1973; and 5138, where milliseconds of March 1973 begin
_DATE = r"(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])"
_LOOKS = {
    "a date and time, YYYYMMDDhhmm": _DATE + r"([01][0-9]|2[0-3])[0-5][0-9]([0-5][0-9])?",
    "a date, YYYYMMDD": _DATE,
    "a month, YYYYMM": r"(19|20)[0-9]{2}(0[1-9]|1[0-2])",
    "a year": r"(19|20)[0-9]{2}",
    "a day number of a spreadsheet": r"[2-7][0-9]{4}(\.[0-9]+)?",
    "milliseconds": r"[0-9]{12,13}(\.[0-9]+)?",
    "microseconds": r"[0-9]{15,16}(\.[0-9]+)?",
    "nanoseconds": r"[0-9]{18,19}(\.[0-9]+)?",
}
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_SHOWN = 5


def load_csv(
    path: str | Path,
    user: str = "user",
    item: str = "item",
    rating: str = "rating",
    time: str | Literal[False] | None = None,
    domain: str | Literal[False] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8-sig",
    header: Sequence[str] | None = None,
) -> Ratings:
    """Load ratings from a CSV file with a header, in UTF-8 with or without a byte order mark unless said otherwise.

    Columns are found whatever their case, spaces, hyphens and underscores. Where the default names are left
    as they are, usual ones are found too: ``userId``, ``movie_id``, ``timestamp``, ``category`` and the like.
    Other columns are passed over, and so are empty lines.

    If a user rated an item more than once (in the same domain, where there are domains), the latest rating
    counts: the one with the largest time, and among those of one time, or without times, the one that comes
    last in the file. A warning says how many rows were dropped for it.

    Parameters
    ----------
    path : str or Path
        The file.
    user, item, rating : str
        Names of these columns.
    time : str, False or None
        Name of the column with times: seconds since 1970, or ISO dates such as ``2024-05-01`` or
        ``2024-05-01T18:30:00+02:00`` (UTC where no offset is given). With None a column with a usual name is
        taken if there is one; with False none is. Numbers that would *all* be seconds of 1966 to 1973 are refused:
        they are dates written as numbers (20240501, 202405, 2024), days, or a mere order.
    domain : str, False or None
        Name of the column with the domain of each rating; None and False as for ``time``.
    delimiter : str, optional
        What stands between fields. By default the one among comma, semicolon, tab, ``|`` and ``::`` that cuts the
        first line into the most fields. Where it is more than one character, quotes mean nothing, and each line is
        a row.
    encoding : str
        The file's encoding, by any name that Python knows, such as ``latin-1``, ``cp1252`` or ``utf-16``.
    header : sequence of str, optional
        Names of the columns, for a file whose first line is a rating. The file of MovieLens 1M, ``ratings.dat``,
        is read with ``header=("user", "item", "rating", "time")``.

    Returns
    -------
    Ratings
        Rows in the order of the file. Ids are integers and sorted as such where all of a column are written
        as plain whole numbers ("007" is not), and text otherwise; domain names are text.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty, has another encoding, lacks a column, or has bad rows; of these the first five are
        listed with line, column and the text found, and the others counted. Lines count from 1.
    """
    path = _checked_path(path)
    named = {"user": user, "item": item, "rating": rating, "time": time, "domain": domain}
    _check_arguments(named, delimiter, header)
    table = _read(path, _text(path, encoding), named, delimiter, header)
    texts, lines, problems = table.texts, table.lines, table.problems
    users = _convert(texts["user"], lines, _filled, table.header["user"], problems)
    items = _convert(texts["item"], lines, _filled, table.header["item"], problems)
    values = _convert(texts["rating"], lines, _number, table.header["rating"], problems)
    times = domains = None
    if "time" in texts:
        times = _convert(texts["time"], lines, _seconds, table.header["time"], problems)
        _check_times(texts["time"], lines, table.header["time"], problems)
    if "domain" in texts:
        domains = _convert(texts["domain"], lines, _filled, table.header["domain"], problems)
    _refuse(path, problems)
    if not lines:
        raise ValueError(f"{path.name}: got a header and no rows, expected at least one rating")
    user_ids, user_codes = _codes(users, numbers=True)
    item_ids, item_codes = _codes(items, numbers=True)
    domain_names, domain_codes = _codes(domains or (), numbers=False)
    ratings = Ratings(
        user=user_codes,
        item=item_codes,
        rating=torch.tensor(values, dtype=torch.float32),
        user_ids=user_ids,
        item_ids=item_ids,
        time=None if times is None else torch.tensor(times, dtype=torch.int64),
        domain=None if domains is None else domain_codes,
        domain_names=domain_names,
    )
    return _latest(path, ratings)


@dataclass(frozen=True)
class _Table:
    """A table as it was read: each role's column and its texts, the line of each row, and the rows that do not fit."""

    header: dict[str, str]
    texts: dict[str, list[str]]
    lines: list[int] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)


def _checked_path(path: str | Path) -> Path:
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(name, str) or "\0" in name:
        came = _short(name) if isinstance(name, str) else type(name).__name__
        raise ValueError(f"path: got {came}, expected the path of a CSV file")
    if Path(name).is_dir():
        raise ValueError(f"path: got the folder {name!r}, expected the path of a CSV file")
    return Path(name)


def _check_arguments(named: dict[str, str | Literal[False] | None], delimiter: object, header: object) -> None:
    for role, name in named.items():
        is_name = isinstance(name, str) and name.strip() != ""
        is_left_open = role in ("time", "domain") and (name is None or name is False)
        if not (is_name or is_left_open):
            raise ValueError(f"{role}: got {name!r}, expected the name of a column")
    fits = delimiter is None or (isinstance(delimiter, str) and re.fullmatch(r'[^"\r\n\0]+', delimiter))
    if not fits:
        raise ValueError(f"delimiter: got {delimiter!r}, expected one or more characters, no quote or line end")
    fits = isinstance(header, Sequence) and not isinstance(header, str) and len(header) > 0
    if header is not None and not (fits and all(isinstance(name, str) for name in header)):
        raise ValueError(f"header: got {header!r}, expected the names of the columns")


def _text(path: Path, encoding: str) -> str:
    """Return the file's text, without a byte order mark."""
    data = path.read_bytes()
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]  # behind the byte order mark
        likely = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin-1"
        raise ValueError(
            f"{path.name}, line {_line(before)}: byte {byte:#x} is not {encoding.upper().removesuffix('-SIG')} text; "
            f"pass its encoding, such as encoding={likely!r}"
        ) from None
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"encoding: got {encoding!r}, expected a text encoding, such as 'latin-1'") from None
    if not text.strip():
        raise ValueError(f"{path.name}: the file is empty, expected a header and ratings")
    if "\0" in text:
        line = _line(text[: text.index("\0")].encode(errors="replace"))
        raise ValueError(f"{path.name}, line {line}: a NUL character is no text; pass its encoding, such as 'utf-16'")
    return text


def _line(before: bytes) -> int:
    """Return the number of the line that comes after this text, or goes on from it."""
    return len((before + b".").splitlines())


def _read(path: Path, text: str, named: dict, delimiter: str | None, header: Sequence[str] | None) -> _Table:
    """Cut the text into the columns that the roles ask for."""
    delimiter = delimiter or _likely_delimiter(text)
    rows = _rows(path, text, delimiter)
    names = [name.strip() for name in header or next((row for _, row in rows if "".join(row).strip()), [])]
    columns = _columns(path, names, named, delimiter)
    table = _Table({role: names[k] for role, k in columns.items()}, {role: [] for role in columns})
    taken = [(k, table.texts[role].append) for role, k in columns.items()]
    for line, row in rows:
        if len(row) == len(names):
            for k, append in taken:
                append(row[k])
            table.lines.append(line)
        elif len(row) > 1 or "".join(row).strip():
            table.problems.append((line, f"line {line}: {len(row)} fields, expected {len(names)}"))
    return table


def _likely_delimiter(text: str) -> str:
    """Return the one that cuts the first line into the most fields."""
    first = next(line for line in io.StringIO(text, newline="") if line.strip())[:100_000]  # csv's limit of a field

    def fields(mark: str) -> int:
        return len(first.split(mark) if len(mark) > 1 else next(csv.reader([first], delimiter=mark), ()))

    return max(_DELIMITERS, key=fields)


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the fields of each row; a line ends with CR, LF or both."""
    lines = io.StringIO(text, newline="")
    if len(delimiter) > 1:
        yield from enumerate((line.rstrip("\r\n").split(delimiter) for line in lines), 1)
        return
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path.name}, line {start}: the row cannot be read ({error}; a quote not closed?)") from None


def _columns(path: Path, header: list[str], named: dict, delimiter: str) -> dict[str, int]:
    """Return the position of each role's column; time and domain only where there is one."""
    columns: dict[str, int] = {}
    for role, name in named.items():
        if name is False:
            continue
        spellings = _USUAL_NAMES[role] if name in (None, role) else (name,)
        hits = next((found for s in spellings if (found := _positions(header, s))), [])
        if not hits and name is None:
            continue
        if not hits:
            raise ValueError(
                f"{path.name}: no column {name!r} for {role}; its columns are "
                f"{', '.join(map(_short, header[:20]))}{' ...' * (len(header) > 20)} (delimiter {delimiter!r}; "
                "header=('user', 'item', ...) names them where the file does not)"
            )
        if len(hits) > 1:
            same = ", ".join(repr(header[k]) for k in hits)
            raise ValueError(f"{path.name}: {len(hits)} columns could be the {role}: {same}, expected one")
        if hits[0] in columns.values():
            other = next(r for r, k in columns.items() if k == hits[0])
            raise ValueError(f"{path.name}: column {header[hits[0]]!r} would be both {other} and {role}")
        columns[role] = hits[0]
    return columns


def _positions(header: list[str], name: str) -> list[int]:
    """Return the positions of the columns of that name: as written, or else whatever the case and the marks."""
    exact = [k for k, column in enumerate(header) if column == name.strip()]
    return exact or [k for k, column in enumerate(header) if _plain(column) == _plain(name)]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _convert(
    texts: Iterable[str],
    lines: Iterable[int],
    convert: Callable[[str], _T],
    column: str,
    problems: list[tuple[int, str]],
) -> list[_T]:
    """Convert a column text by text; what cannot be converted goes to ``problems`` with its line."""
    values = []
    for line, text in zip(lines, texts, strict=True):
        try:
            values.append(convert(text))
        except ValueError as error:
            problems.append((line, f"line {line}, column {column!r}: {error}"))
    return values


def _filled(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("it is empty")
    return text


def _float(text: str) -> float | None:
    """Return the number that is written with digits from 0 to 9, as other programs read them, or None."""
    text = text.strip()
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _number(text: str) -> float:
    value = _float(text)
    if value is None:
        raise ValueError(f"{_short(text)} is not a number")
    if not abs(value) <= _FLOAT32_MAX:
        raise ValueError(f"{_short(text)} is not a finite number")
    return value


def _seconds(text: str) -> int:
    """Return the whole seconds since 1970 of a number or an ISO date."""
    number = _float(text)
    seconds, latest = (_iso_seconds(text.strip()), YEAR_9999) if number is None else (number, _TOO_LATE)
    if not YEAR_1 <= seconds <= latest:
        raise ValueError(_no_seconds(text, [text]))
    return math.floor(seconds)


def _iso_seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{_short(text)} is neither seconds since 1970 nor an ISO date (time=False leaves the column out)"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _check_times(texts: list[str], lines: list[int], column: str, problems: list[tuple[int, str]]) -> None:
    """Refuse a column whose numbers would all be seconds of 1966 to 1973, when nobody rated yet."""
    if not all(number is None or abs(number) < _TOO_EARLY for number in map(_float, texts)):
        return
    numbers = [(line, text) for line, text in zip(lines, texts, strict=True) if _float(text) is not None]
    if numbers:
        line, text = numbers[0]
        what = _no_seconds(text, [text for _, text in numbers])
        reason = "all numbers of the column would lie from 1966 to 1973, expected seconds, or ISO dates"
        problem = f"{what}; {reason} such as 2024-05-01 (time=False leaves the column out)"
        problems.append((line, f"line {line}, column {column!r}: {problem}"))


def _no_seconds(text: str, texts: Iterable[str]) -> str:
    """Say that a number is no time in seconds, and what it and the others look like."""
    plain = [re.sub(r"\.0*$", "", text.strip()) for text in texts]
    look = next((look for look, form in _LOOKS.items() if all(re.fullmatch(form, text) for text in plain)), None)
    return f"{_short(text)} is no time in seconds since 1970" + (f" ({look}?)" if look else "")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _refuse(path: Path, problems: list[tuple[int, str]]) -> None:
    """Raise if there are problems: the first few in the order of the file, and the number of the others."""
    if not problems:
        return
    problems.sort(key=lambda problem: problem[0])
    listed = [f"{path.name}, {problem}" for _, problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        listed.append(f"and {len(problems) - _SHOWN:,} more")
    raise ValueError("\n".join(listed))


def _codes(entries: Iterable[str], numbers: bool) -> tuple[tuple, torch.Tensor]:
    """Return the sorted vocabulary of a column and the code of each entry."""
    different = set(entries)
    if numbers and all(_WHOLE_NUMBER.fullmatch(entry) for entry in different):
        ordered = sorted(different, key=int)
        vocabulary = tuple(map(int, ordered))
    else:
        vocabulary = ordered = tuple(sorted(different))
    code = {entry: k for k, entry in enumerate(ordered)}
    return vocabulary, torch.tensor([code[entry] for entry in entries], dtype=torch.int64)


def _latest(path: Path, ratings: Ratings) -> Ratings:
    """Keep the latest rating of each user, item and domain."""
    keys = [ratings.user, ratings.item]
    keys += [] if ratings.domain is None else [ratings.domain]
    order = np.arange(len(ratings))
    time = order if ratings.time is None else ratings.time.numpy()
    by_key = np.lexsort((order, time, *(key.numpy() for key in keys)))
    arranged = torch.stack(keys)[:, by_key]  # (2 or 3, N)
    is_last = np.append((arranged[:, 1:] != arranged[:, :-1]).any(dim=0).numpy(), True)
    dropped = len(ratings) - int(is_last.sum())
    if not dropped:
        return ratings
    mask = torch.zeros(len(ratings), dtype=torch.bool)
    mask[torch.from_numpy(by_key[is_last])] = True
    what = "user and item" if ratings.domain is None else "user, item and domain"
    warnings.warn(
        f"{path.name}: {dropped:,} rows rate the same {what} as a later one; the latest of each was kept.",
        stacklevel=3,
    )
    return ratings.select(mask)
