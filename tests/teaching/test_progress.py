import json
import logging
import os
import threading

import numpy as np
import pytest

from recmtl_lessons.teaching.progress import Progress, progress


def test_facts_are_kept_and_merged(progress_folder):
    progress().record("maml", "predict", choice="yes")
    progress().record("maml", "predict", tries=2)
    progress().record("reptile", "quiz", choice="no")
    assert progress().get("maml", "predict") == {"choice": "yes", "tries": 2}
    assert progress().lesson("maml") == {"predict": {"choice": "yes", "tries": 2}}
    on_disk = json.loads((progress_folder / "progress.json").read_text())
    assert on_disk["reptile"] == {"quiz": {"choice": "no"}}


def test_nothing_known_is_none_and_empty_and_makes_no_file(progress_folder):
    assert progress().get("maml", "predict") is None
    assert progress().lesson("maml") == {}
    assert not progress_folder.exists()


def test_what_is_returned_is_a_copy():
    progress().record("maml", "predict", choice="yes")
    progress().get("maml", "predict")["choice"] = "changed"
    assert progress().get("maml", "predict") == {"choice": "yes"}


def test_the_folder_is_read_from_the_environment_at_each_call(tmp_path, monkeypatch):
    progress().record("maml", "predict", choice="yes")
    monkeypatch.setenv("RECMTL_PROGRESS_DIR", str(tmp_path / "elsewhere"))
    assert progress().path == tmp_path / "elsewhere" / "progress.json"
    assert progress().get("maml", "predict") is None


def test_without_the_variable_the_users_data_folder_is_used(monkeypatch):
    monkeypatch.delenv("RECMTL_PROGRESS_DIR")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name, appauthor: f"/data/of/{name}")
    assert progress().path.as_posix() == "/data/of/recmtl_lessons/progress.json"


def test_reset_forgets_one_lesson_or_all():
    progress().record("maml", "predict", choice="yes")
    progress().record("reptile", "quiz", choice="no")
    progress().reset("maml")
    assert progress().get("maml", "predict") is None
    assert progress().get("reptile", "quiz") == {"choice": "no"}
    progress().reset()
    assert progress().lesson("reptile") == {}


def test_two_stores_of_one_file_see_each_other(tmp_path):
    here, there = Progress(tmp_path / "p.json"), Progress(tmp_path / "p.json")
    here.record("maml", "predict", choice="yes")
    there.record("maml", "quiz", choice="no")
    assert here.lesson("maml") == {"predict": {"choice": "yes"}, "quiz": {"choice": "no"}}


@pytest.mark.parametrize("content", [b"{ half", b"[1, 2]", b'{"maml": 3}', b'{"maml": {"a": 3}}', b"\xff\xfe\x00"])
def test_an_unreadable_file_is_moved_aside_and_said_in_one_line(progress_folder, caplog, content):
    progress_folder.mkdir()
    (progress_folder / "progress.json").write_bytes(content)
    progress().record("maml", "predict", choice="yes")
    assert (progress_folder / "progress.json.broken").read_bytes() == content
    assert progress().get("maml", "predict") == {"choice": "yes"}
    assert len(caplog.messages) == 1
    assert "progress.json.broken" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_a_disk_that_refuses_is_said_once_and_memory_keeps_everything(tmp_path, monkeypatch, caplog):
    store = Progress(tmp_path / "progress.json")
    store.record("maml", "predict", choice="yes")

    def refuse(*args):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING):
        broken.setattr(os, "replace", refuse)
        store.record("maml", "quiz", choice="no")
        store.record("maml", "study", first="text")
        store.reset("other")
    assert len(caplog.messages) == 1
    assert "Read-only file system" in caplog.messages[0]
    assert set(store.lesson("maml")) == {"predict", "quiz", "study"}
    assert set(Progress(store.path).lesson("maml")) == {"predict"}
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".new"] == []
    store.record("maml", "late", done=True)  # the disk works again
    assert set(Progress(store.path).lesson("maml")) == {"predict", "quiz", "study", "late"}


def test_a_folder_that_cannot_be_made_keeps_progress_in_memory(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    store = Progress(tmp_path / "file" / "progress.json")
    store.record("maml", "predict", choice="yes")
    assert store.get("maml", "predict") == {"choice": "yes"}
    assert len(caplog.messages) == 1


def test_threads_lose_nothing():
    def work(k):
        for i in range(10):
            progress().record("maml", f"{k}-{i}", done=True)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(progress().lesson("maml")) == 60


def test_numpy_values_are_stored_as_plain_ones():
    progress().record("maml", "quiz", number=np.float32(0.5), history=np.arange(3), flag=np.bool_(True))
    assert progress().get("maml", "quiz") == {"number": 0.5, "history": [0, 1, 2], "flag": True}


def test_a_fact_that_is_no_json_is_refused_and_nothing_changes():
    progress().record("maml", "quiz", choice="yes")
    with pytest.raises(ValueError, match=r"facts: bad is object, expected a value that JSON can hold"):
        progress().record("maml", "quiz", choice="no", bad=object())
    assert progress().get("maml", "quiz") == {"choice": "yes"}


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_names_must_be_texts(name):
    with pytest.raises(ValueError, match=r"lesson: got .*, expected a non-empty string"):
        progress().record(name, "quiz")
    with pytest.raises(ValueError, match=r"key: got .*, expected a non-empty string"):
        progress().record("maml", name)
