"""MovieLens: where it is looked for, what happens to broken files, and what is in it."""

import hashlib
import io
import threading
import warnings
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_server

import pytest
import torch

from recmtl_lessons.datasets.movielens import DataUnavailable, _locate, _parse, _Release, load_movielens
from recmtl_lessons.datasets.own_csv import load_csv
from recmtl_lessons.datasets.ratings import by_year, genre_domains
from tests.support.films import FOLDER, needs_films

_RATINGS = b"userId,movieId,rating,timestamp\r\n9,30,4.5,964982703\r\n2,10,0.5,964981247\r\n9,10,3.0,1537799250\r\n"
_MOVIES = (
    "movieId,title,genres\r\n"
    '30,"Règle du jeu, La (1939) ",Comedy|Drama\r\n'
    "10,Babylon 5,Sci-Fi\r\n"
    "20,Nobody (2006–2007),(no genres listed)\r\n"
).encode()

_CONTENTS = {"ratings.csv": _RATINGS, "movies.csv": _MOVIES}
_TIMEOUT = (5.0, 5.0)


def release(url="http://127.0.0.1:9/tiny.zip"):
    """A data set of three ratings under the hashes of its true files."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in _CONTENTS.items()}
    return _Release(name="tiny", url=url, members=hashes)


def write(folder, **changed):
    """Put the two files into a folder, with other contents where asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (_CONTENTS | changed).items():
        (folder / name).write_bytes(data)
    return folder


def zipped(**changed):
    """Bytes of a zip as it is published: a folder with the files and one more."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in ({"README.txt": b"read me"} | _CONTENTS | changed).items():
            archive.writestr(f"tiny/{name}", data)
    return target.getvalue()


@contextmanager
def served(*answers):
    """Serve the answers one after another (the last again and again); yields URL and paths asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = answers[min(len(asked), len(answers)) - 1]
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/tiny.zip", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_folder_of_the_persons_own(monkeypatch):
    monkeypatch.delenv("RECMTL_DATA_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def own(monkeypatch, tmp_path):
    """A folder that RECMTL_DATA_DIR names."""
    folder = tmp_path / "my data"
    monkeypatch.setenv("RECMTL_DATA_DIR", str(folder))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestOwnFolder:
    @pytest.mark.parametrize("inside", [".", "tiny"])
    def test_the_folder_or_the_one_inside_it(self, own, tmp_path, inside):
        written = write(own / inside)
        assert _locate(release(), tmp_path / "cache", _TIMEOUT) == written
        assert not (tmp_path / "cache").exists()

    def test_a_broken_file_is_refused_and_left_alone(self, own, tmp_path):
        folder = write(own, **{"movies.csv": b"not these"})
        before = contents(folder)
        with pytest.raises(DataUnavailable, match="was left as it is") as caught:
            _locate(release(), tmp_path / "cache", _TIMEOUT)
        message = str(caught.value)
        assert str(folder / "movies.csv") in message
        assert hashlib.sha256(b"not these").hexdigest() in message
        assert hashlib.sha256(_MOVIES).hexdigest() in message
        assert "ratings.csv" not in message
        assert "\n" not in message
        assert contents(folder) == before

    def test_a_folder_without_the_files_is_said_and_not_passed_over(self, own, tmp_path):
        write(tmp_path / "cache" / "tiny")
        own.mkdir()
        with pytest.raises(DataUnavailable, match=r"holds no ratings.csv and movies.csv") as caught:
            _locate(release(), tmp_path / "cache", _TIMEOUT)
        assert str(own) in str(caught.value)
        assert "\n" not in str(caught.value)


class TestNoHome:
    """Neither HOME nor a passwd entry, as in some containers."""

    @pytest.fixture(autouse=True)
    def _no_home(self, monkeypatch):
        def unknown(*args, **kwargs):
            raise RuntimeError("could not determine the home directory")

        monkeypatch.setattr("platformdirs.user_cache_path", unknown)

    def test_it_is_said(self):
        with pytest.raises(
            DataUnavailable, match=r"no home folder is known to keep it in\): get .* set RECMTL_DATA_DIR"
        ):
            load_movielens()

    def test_the_persons_own_folder_needs_none(self, own):
        write(own)
        with pytest.raises(DataUnavailable, match="was left as it is"):
            load_movielens()

    def test_nor_does_one_that_would_lie_in_it(self, monkeypatch):
        monkeypatch.setenv("RECMTL_DATA_DIR", "~nobody-of-this-name/films")
        with pytest.raises(DataUnavailable, match=r"~nobody-of-this-name.films, which holds no ratings\.csv"):
            load_movielens()


@pytest.mark.enable_socket
class TestCache:
    def test_downloaded_once_and_then_found(self, tmp_path):
        with served(zipped()) as (url, asked), warnings.catch_warnings():
            warnings.simplefilter("error")
            folder = _locate(release(url), tmp_path, _TIMEOUT)
            again = _locate(release(url), tmp_path, _TIMEOUT)
        assert folder == again == tmp_path / "tiny"
        assert contents(folder) == _CONTENTS
        assert asked == ["/tiny.zip"]
        assert list(tmp_path.iterdir()) == [folder]  # no zip, no temporary folder

    def test_a_broken_file_is_removed_named_and_fetched_again(self, tmp_path):
        folder = write(tmp_path / "tiny", **{"ratings.csv": b"cut off"})
        with served(zipped()) as (url, asked), pytest.warns(UserWarning, match="removed") as warned:
            _locate(release(url), tmp_path, _TIMEOUT)
        (message,) = [str(w.message) for w in warned]
        assert str(folder / "ratings.csv") in message
        assert hashlib.sha256(b"cut off").hexdigest() in message
        assert hashlib.sha256(_RATINGS).hexdigest() in message
        assert contents(folder) == _CONTENTS
        assert len(asked) == 1

    def test_a_broken_file_is_removed_even_when_nothing_can_be_fetched(self, tmp_path):
        folder = write(tmp_path / "tiny", **{"ratings.csv": b"cut off"})
        with (
            served(None) as (url, _),
            pytest.warns(UserWarning, match="removed"),
            pytest.raises(DataUnavailable, match="the server answered 404"),
        ):
            _locate(release(url), tmp_path, _TIMEOUT)
        assert contents(folder) == {"movies.csv": _MOVIES}

    def test_a_broken_download_is_tried_once_more(self, tmp_path):
        broken = zipped(**{"movies.csv": b"another edition"})
        with served(broken, zipped()) as (url, asked), pytest.warns(UserWarning, match="tried once more"):
            folder = _locate(release(url), tmp_path, _TIMEOUT)
        assert contents(folder) == _CONTENTS
        assert len(asked) == 2

    def test_a_download_that_stays_broken_is_refused(self, tmp_path):
        broken = zipped(**{"movies.csv": b"another edition"})
        with (
            served(broken) as (url, asked),
            pytest.warns(UserWarning, match="tried once more"),
            pytest.raises(DataUnavailable, match="is broken") as caught,
        ):
            _locate(release(url), tmp_path, _TIMEOUT)
        assert hashlib.sha256(b"another edition").hexdigest() in str(caught.value)
        assert hashlib.sha256(_MOVIES).hexdigest() in str(caught.value)
        assert "RECMTL_DATA_DIR" in str(caught.value)
        assert len(asked) == 2
        assert contents(tmp_path / "tiny") == {}

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [(b"<html>a login page</html>", "no zip file"), (None, "the server answered 404")],
    )
    def test_another_answer_is_one_clear_line(self, tmp_path, answer, reason):
        with served(answer) as (url, _), pytest.raises(DataUnavailable, match=reason) as caught:
            _locate(release(url), tmp_path, _TIMEOUT)
        message = str(caught.value)
        assert url in message
        assert "set RECMTL_DATA_DIR to the folder that holds ratings.csv and movies.csv" in message
        assert "\n" not in message

    def test_a_zip_without_the_files(self, tmp_path):
        empty = io.BytesIO()
        with zipfile.ZipFile(empty, "w") as archive:
            archive.writestr("other/ratings.csv", b"1")
        with (
            served(empty.getvalue()) as (url, _),
            pytest.warns(UserWarning, match="tried once more"),
            pytest.raises(DataUnavailable, match=r"ratings\.csv is missing; movies\.csv is missing"),
        ):
            _locate(release(url), tmp_path, _TIMEOUT)

    def test_no_connection(self, tmp_path):
        with served(b"") as (url, _):
            pass  # the port is closed again
        with pytest.raises(DataUnavailable, match=r"could not be fetched \(no connection") as caught:
            _locate(release(url), tmp_path, _TIMEOUT)
        assert "\n" not in str(caught.value)

    def test_a_server_that_never_answers(self, tmp_path):
        with create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/tiny.zip"
            with pytest.raises(DataUnavailable, match=r"could not be fetched \(no connection, .*Timeout"):
                _locate(release(url), tmp_path, (5.0, 0.05))

    def test_a_cache_that_cannot_be_written(self, tmp_path):
        (tmp_path / "cache").write_text("a file where a folder should be")
        with pytest.raises(DataUnavailable, match="could not be fetched"):
            _locate(release(), tmp_path / "cache", _TIMEOUT)


def test_parsing_a_small_copy(tmp_path):
    ratings = _parse(write(tmp_path))
    assert ratings.user_ids == (2, 9)
    assert ratings.item_ids == (10, 20, 30)
    assert ratings.user.tolist() == [1, 0, 1]
    assert ratings.item.tolist() == [2, 0, 0]
    assert ratings.rating.tolist() == [4.5, 0.5, 3.0]
    assert ratings.time.tolist() == [964982703, 964981247, 1537799250]
    assert ratings.titles == ("Babylon 5", "Nobody (2006–2007)", "Règle du jeu, La (1939)")
    assert ratings.years.tolist() == [0, 2006, 1939]
    assert ratings.genre_names == ("Comedy", "Drama", "Sci-Fi")
    assert ratings.genres.tolist() == [[False, False, True], [False] * 3, [True, True, False]]


@needs_films
class TestRealData:
    def test_the_published_counts(self, movielens):
        assert movielens.describe() == ("100,836 ratings by 610 users of 9,724 items, 0.5 to 5, 1996 to 2018")
        assert (movielens.n_users, movielens.n_items) == (610, 9742)
        assert torch.bincount(movielens.user).min() >= 20  # as its README promises
        assert movielens.rating.unique().tolist() == [k / 2 for k in range(1, 11)]

    def test_films(self, movielens):
        assert len(movielens.genre_names) == 19
        assert {"IMAX", "Film-Noir", "Sci-Fi"} < set(movielens.genre_names)
        toy_story = movielens.item_ids.index(1)
        assert movielens.titles[toy_story] == "Toy Story (1995)"
        assert movielens.years[toy_story] == 1995
        genres = [n for n, flag in zip(movielens.genre_names, movielens.genres[toy_story], strict=True) if flag]
        assert genres == ["Adventure", "Animation", "Children", "Comedy", "Fantasy"]
        assert int((~movielens.genres.any(dim=1)).sum()) == 34
        unknown = movielens.years == 0
        assert int(unknown.sum()) == 12
        assert "Babylon 5" in [movielens.titles[k] for k in unknown.nonzero().flatten()]
        assert movielens.years[~unknown].min() >= 1900
        assert movielens.years.max() <= 2018

    def test_the_csv_reader_reads_the_same(self, movielens):
        table = load_csv(FOLDER / "ratings.csv")
        assert table.user_ids == movielens.user_ids
        assert [movielens.item_ids[k] for k in movielens.item] == [table.item_ids[k] for k in table.item]
        assert torch.equal(table.user, movielens.user)
        assert torch.equal(table.rating, movielens.rating)
        assert torch.equal(table.time, movielens.time)

    def test_the_views(self, movielens):
        domains = genre_domains(movielens, ("Drama", "Comedy"), min_user_ratings=0)
        assert torch.bincount(domains.domain).tolist() == [32_220, 29_345]
        slices = by_year(movielens)
        assert [year for year, _ in slices] == list(range(1996, 2019))
        assert sum(len(part) for _, part in slices) == len(movielens)
