"""MovieLens ml-latest-small: found on this machine, or fetched once, checked file by file, and read.

The data set is described in F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context",
ACM Transactions on Interactive Intelligent Systems 5(4), 2015. This is its small edition of September 2018.
"""

import csv
import hashlib
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import platformdirs
import pooch
import torch

from recmtl_lessons.datasets.ratings import Ratings

_NO_GENRE = "(no genres listed)"
_YEAR_AT_END = re.compile(r"\((\d{4})(?:[–-]\d{0,4})?\)$")  # "(1995)", and "(2006–2007)" for a series
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 20.0


class DataUnavailable(RuntimeError):
    """Raised when a data set is neither on this machine nor to be had; the message says in one line what to do."""


@dataclass(frozen=True)
class _Release:
    """A published data set: a zip whose folder ``name`` holds the members, each known by its SHA-256."""

    name: str
    url: str
    members: Mapping[str, str]


_ML_LATEST_SMALL = _Release(
    name="ml-latest-small",
    url="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
    members={
        "ratings.csv": "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
        "movies.csv": "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
    },
)


def load_movielens() -> Ratings:
    """Load MovieLens ml-latest-small: 100,836 ratings of 9,742 films by 610 users, 1996 to 2018.

    Where the environment variable ``RECMTL_DATA_DIR`` is set, the files are read from that folder, or from a
    folder ``ml-latest-small`` in it, and from nowhere else. Otherwise they are read from the user's cache
    folder, and fetched into it the first time (about 1 MB). Every file is checked by its SHA-256. A broken
    file in the cache is removed, with a warning that names it, and fetched again; a broken file in
    ``RECMTL_DATA_DIR`` is refused and left as it is.

    Returns
    -------
    Ratings
        Rows in the order of the file; users and items sorted by their MovieLens id; ratings from 0.5 to 5 in
        half stars; times; for each film its title as published, its year (0 where the title has none) and its
        genres. Films that nobody rated are part of the vocabulary.

    Raises
    ------
    DataUnavailable
        If the data is not there and cannot be fetched, or is broken. The message is one line.
    """
    timeout = (_CONNECT_SECONDS, _READ_SECONDS)
    try:
        cache = platformdirs.user_cache_path("recmtl_lessons").expanduser()
    except RuntimeError:  # neither HOME nor a passwd entry, as in some containers
        cache = None
    return _parse(_locate(_ML_LATEST_SMALL, cache, timeout))


def _locate(release: _Release, cache: Path | None, timeout: tuple[float, float]) -> Path:
    """Return the folder that holds the release's members, each of them checked."""
    own = os.environ.get("RECMTL_DATA_DIR")
    return _own_folder(release, Path(os.path.expanduser(own))) if own else _cache_folder(release, cache, timeout)


def _own_folder(release: _Release, root: Path) -> Path:
    """Return the folder that the person named, or the release's inside it; nothing in it is ever changed."""
    for folder in (root, root / release.name):
        if all((folder / member).is_file() for member in release.members):
            faults = _faults(release, folder)
            if faults:
                raise DataUnavailable(
                    f"{'; '.join(faults.values())}. It is in RECMTL_DATA_DIR and was left as it is: "
                    f"replace it by the file in {release.url}, or unset RECMTL_DATA_DIR."
                )
            return folder
    raise DataUnavailable(
        f"RECMTL_DATA_DIR is {root}, which holds no {_listed(release)}, nor does a folder {release.name} in "
        f"it: put the files of {release.url} there, or unset RECMTL_DATA_DIR to have them fetched."
    )


def _cache_folder(release: _Release, cache: Path | None, timeout: tuple[float, float]) -> Path:
    """Return the folder of the release in the cache, with what was missing or broken fetched anew."""
    if cache is None:
        raise _unavailable(release, "no home folder is known to keep it in")
    folder = cache / release.name
    faults = _faults(release, folder)
    for member, fault in faults.items():
        if (folder / member).exists():
            (folder / member).unlink()
            warnings.warn(f"{fault}; it was removed and is fetched again.", stacklevel=4)
    for is_last in (False, True):
        if not faults:
            break
        faults = _fetch(release, folder, timeout)
        if faults and not is_last:
            warnings.warn(
                f"The download was thrown away and is tried once more: {'; '.join(faults.values())}.",
                stacklevel=4,
            )
    if faults:
        raise _unavailable(release, "; ".join(faults.values()))
    return folder


def _fetch(release: _Release, folder: Path, timeout: tuple[float, float]) -> dict[str, str]:
    """Download the release beside ``folder`` and move its members in if all are sound; return the faults."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as scratch, _quiet_pooch():
            pooch.retrieve(
                release.url,
                known_hash=None,  # the members are checked one by one
                fname=f"{release.name}.zip",
                path=scratch,
                processor=pooch.Unzip(members=[f"{release.name}/{m}" for m in release.members], extract_dir="."),
                downloader=pooch.HTTPDownloader(timeout=timeout),
            )
            unpacked = Path(scratch, release.name)
            faults = _faults(release, unpacked)
            for member in () if faults else release.members:
                os.replace(unpacked / member, folder / member)
    except (OSError, zipfile.BadZipFile) as error:  # every error of requests is an OSError
        raise _unavailable(release, _reason(error)) from None
    return faults


def _faults(release: _Release, folder: Path) -> dict[str, str]:
    """Return what is wrong with each member that is missing or whose hash is another."""
    faults = {}
    for member, expected in release.members.items():
        path = folder / member
        if not path.is_file():
            faults[member] = f"{member} is missing"
            continue
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            faults[member] = f"{path} is broken: its sha256 is {found}, expected {expected}"
    return faults


def _unavailable(release: _Release, reason: str) -> DataUnavailable:
    return DataUnavailable(
        f"MovieLens {release.name} could not be fetched ({reason}): get {release.url} by hand, unzip it, and "
        f"set RECMTL_DATA_DIR to the folder that holds {_listed(release)}."
    )


def _listed(release: _Release) -> str:
    return " and ".join(release.members)


def _reason(error: Exception) -> str:
    """Say in a few words why a download failed."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    if isinstance(error, zipfile.BadZipFile):
        return "what came is no zip file"
    return getattr(error, "strerror", None) or f"no connection, {type(error).__name__}"


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keep pooch from logging hashes and temporary paths while it works."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _parse(folder: Path) -> Ratings:
    """Read the two files of a checked folder."""
    with open(folder / "movies.csv", encoding="utf-8", newline="") as file:
        films = sorted(csv.DictReader(file), key=lambda film: int(film["movieId"]))
    item_ids = np.array([int(film["movieId"]) for film in films])
    titles = tuple(film["title"].strip() for film in films)
    of_film = [set(film["genres"].split("|")) - {_NO_GENRE} for film in films]
    genre_names = tuple(sorted(set().union(*of_film)))
    table = np.loadtxt(folder / "ratings.csv", delimiter=",", skiprows=1, ndmin=2)  # user, film, rating, time
    user_ids, user = np.unique(table[:, 0].astype(np.int64), return_inverse=True)
    return Ratings(
        user=torch.from_numpy(user),
        item=torch.from_numpy(np.searchsorted(item_ids, table[:, 1].astype(np.int64))),
        rating=torch.from_numpy(table[:, 2].astype(np.float32)),
        time=torch.from_numpy(table[:, 3].astype(np.int64)),
        user_ids=tuple(user_ids.tolist()),
        item_ids=tuple(item_ids.tolist()),
        titles=titles,
        years=torch.tensor([int(found[1]) if (found := _YEAR_AT_END.search(t)) else 0 for t in titles]),
        genres=torch.tensor([[name in genres for name in genre_names] for genres in of_film]),
        genre_names=genre_names,
    )
