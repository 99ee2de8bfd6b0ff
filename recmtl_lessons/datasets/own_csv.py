"""Your own ratings: any CSV file with a user, an item and a rating in each row."""

import csv
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from recmtl_lessons.datasets.ratings import Ratings

_T = TypeVar("_T")
_DELIMITERS = (",", ";", "\t", "|")
_USUAL_NAMES = {  # lower case, without spaces, hyphens and underscores
    "user": ("user", "userid", "uid", "customer", "customerid", "reviewer", "reviewerid"),
    "item": ("item", "itemid", "iid", "movie", "movieid", "film", "filmid", "product", "productid", "asin"),
    "rating": ("rating", "ratings", "score", "stars"),
    "time": ("time", "timestamp", "datetime", "date"),
    "domain": ("domain", "domainid", "domainname", "category"),
}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_YEAR_1, _YEAR_9999 = -62_135_596_800, 253_402_300_799  # seconds since 1970
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
) -> Ratings:
    """Load ratings from a CSV file with a header, in UTF-8 with or without a byte order mark.

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
        taken if there is one; with False none is.
    domain : str, False or None
        Name of the column with the domain of each rating; None and False as for ``time``.
    delimiter : str, optional
        The character between fields. By default the one among comma, semicolon, tab and ``|`` that cuts the
        header into the most fields.

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
        If the file is empty, is not UTF-8, lacks a column, or has bad rows; of these the first five are
        listed with line, column and the text found, and the others counted. Lines count from 1, the header.
    """
    path = Path(path)
    named = {"user": user, "item": item, "rating": rating, "time": time, "domain": domain}
    _check_arguments(named, delimiter)
    table = _read(path, _text(path), named, delimiter)
    texts, lines, problems = table.texts, table.lines, table.problems
    users = _convert(texts["user"], lines, _filled, table.header["user"], problems)
    items = _convert(texts["item"], lines, _filled, table.header["item"], problems)
    values = _convert(texts["rating"], lines, _number, table.header["rating"], problems)
    times = domains = None
    if "time" in texts:
        times = _convert(texts["time"], lines, _seconds, table.header["time"], problems)
    if "domain" in texts:
        domains = _convert(texts["domain"], lines, _filled, table.header["domain"], problems)
    _refuse(path, problems)
    if not lines:
        raise ValueError(f"{path.name}: it has a header and no rows, expected at least one rating")
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
    """What was read: each role's column and its texts, the line of each row, and the rows that do not fit."""

    header: dict[str, str]
    texts: dict[str, list[str]]
    lines: list[int] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)


def _check_arguments(named: dict[str, str | Literal[False] | None], delimiter: str | None) -> None:
    for role, name in named.items():
        is_name = isinstance(name, str) and name.strip() != ""
        is_left_open = role in ("time", "domain") and (name is None or name is False)
        if not (is_name or is_left_open):
            raise ValueError(f"{role}: {name!r} came, expected the name of a column")
    fits = delimiter is None or (isinstance(delimiter, str) and re.fullmatch(r'[^"\r\n]', delimiter))
    if not fits:
        raise ValueError(f"delimiter: {delimiter!r} came, expected one character, no quote or line end")


def _text(path: Path) -> str:
    """Return the file's text, without a byte order mark."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]  # behind the byte order mark
        line = before.count(b"\n") + 1
        raise ValueError(f"{path.name}, line {line}: byte {byte:#x} is not UTF-8 text") from None
    if not text.strip():
        raise ValueError(f"{path.name}: the file is empty, expected a header and ratings")
    return text


def _read(path: Path, text: str, named: dict, delimiter: str | None) -> _Table:
    """Cut the text into the columns that the roles ask for."""
    if delimiter is None:
        first = next(line for line in io.StringIO(text) if line.strip())
        delimiter = max(_DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), ())))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        header = [name.strip() for name in next((row for row in reader if "".join(row).strip()), [])]
        columns = _columns(path, header, named, delimiter)
        table = _Table({role: header[k] for role, k in columns.items()}, {role: [] for role in columns})
        taken = [(k, table.texts[role].append) for role, k in columns.items()]
        start = reader.line_num + 1
        for row in reader:
            if len(row) == len(header):
                for k, append in taken:
                    append(row[k])
                table.lines.append(start)
            elif len(row) > 1 or "".join(row).strip():
                table.problems.append((start, f"line {start}: {len(row)} fields, expected {len(header)}"))
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path.name}, line {start}: the row cannot be read ({error})") from None
    return table


def _columns(path: Path, header: list[str], named: dict, delimiter: str) -> dict[str, int]:
    """Position of each role's column; time and domain only where there is one."""
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
                f"{', '.join(map(repr, header))} (delimiter {delimiter!r})"
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
    """Positions of the columns of that name: as written, or else whatever the case and the marks."""
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


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{_short(text)} is not a number") from None
    if not abs(value) <= _FLOAT32_MAX:
        raise ValueError(f"{_short(text)} is not a finite number")
    return value


def _seconds(text: str) -> int:
    """Whole seconds since 1970 of a number or an ISO date."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = _iso_seconds(text.strip())
    if not _YEAR_1 <= seconds <= _YEAR_9999:
        raise ValueError(f"{_short(text)} is no time in seconds since 1970 (milliseconds?)")
    return math.floor(seconds)


def _iso_seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{_short(text)} is neither seconds since 1970 nor an ISO date (time=False leaves the column out)"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


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
    """Sorted vocabulary of a column and the code of each entry."""
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
