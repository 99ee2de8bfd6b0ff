import builtins
import errno
import io
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from filelock import FileLock

from recmtl_lessons.teaching import Lesson
from recmtl_lessons.teaching import progress as module
from recmtl_lessons.teaching.progress import Progress, progress

needs_posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no modes, no fork and no limit of sizes")
KEPT_FOR_NOW = "this kernel remembers it until it stops, and tries again when something is next recorded."


@pytest.fixture
def store(tmp_path):
    """A store whose file holds one answer."""
    store = Progress(tmp_path / "progress.json")
    store.record("maml", "predict", choice="yes")
    return store


def on_disk(store):
    return json.loads(store.path.read_text())


@contextmanager
def unreadable():
    """Let the system refuse to open a progress file for reading."""
    opened = io.open

    def refuse(file, mode="r", *args, **kwargs):
        if "r" in mode and str(file).endswith("progress.json"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(file, mode, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", refuse)
        patch.setattr(builtins, "open", refuse)
        yield


@contextmanager
def replaced(target, name, call):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, call)
        yield


def raising(error):
    def call(*args, **kwargs):
        raise error

    return call


def started(script, *arguments, prefix=()):
    """A new process that runs a script which knows `Progress`, and imports nothing else of the course."""
    begin = "import runpy, sys\nProgress = runpy.run_path(sys.argv[1])['Progress']\n"
    command = [*prefix, sys.executable, "-c", begin + script, module.__file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def output(process):
    text, _ = process.communicate()
    assert process.returncode == 0
    return text


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


def test_each_broken_file_is_kept(store):
    for content in ("{ first", "{ second", "[" * 100_000):
        store.path.write_text(content)
        store.record("maml", "quiz", choice="no")
        assert store.lesson("maml") == {"quiz": {"choice": "no"}}
    kept = [store.path.with_name(f"progress.json.broken{end}").read_text() for end in ("", "-2", "-3")]
    assert kept == ["{ first", "{ second", "[" * 100_000]


def test_a_look_at_a_broken_file_moves_it_aside_too(store, caplog):
    store.path.write_text("{ half")
    assert store.lesson("maml") == {}
    assert store.path.with_name("progress.json.broken").read_text() == "{ half"
    assert len(caplog.messages) == 1


def test_a_byte_order_mark_is_read(store, caplog):
    store.path.write_text('{"maml": {"predict": {"choice": "b"}}}', encoding="utf-8-sig")
    assert store.get("maml", "predict") == {"choice": "b"}
    store.record("maml", "quiz", choice="no")
    assert on_disk(store) == {"maml": {"predict": {"choice": "b"}, "quiz": {"choice": "no"}}}
    assert not caplog.messages


def test_a_file_that_somebody_is_writing_is_waited_for(store, monkeypatch, caplog):
    whole = store.path.read_text()
    store.path.write_text(whole[:20])
    monkeypatch.setattr(time, "sleep", lambda seconds: store.path.write_text(whole))
    store.record("maml", "quiz", choice="no")
    assert on_disk(store)["maml"] == {"predict": {"choice": "yes"}, "quiz": {"choice": "no"}}
    assert not caplog.messages


def test_a_file_that_cannot_be_read_is_not_written_over(store, caplog):
    content = store.path.read_bytes()
    fresh = Progress(store.path)  # as in a kernel that has just started
    with unreadable():
        fresh.record("maml", "quiz", choice="no", attempts=lambda kept: (kept or 0) + 1)
        fresh.record("reptile", "quiz", choice="a")
        assert fresh.lesson("maml") == {"quiz": {"choice": "no", "attempts": 1}}
        assert store.lesson("maml") == {"predict": {"choice": "yes"}}  # what it last saw
    assert store.path.read_bytes() == content
    assert len(caplog.messages) == 2  # one of each kernel
    assert all("Permission denied" in message and KEPT_FOR_NOW in message for message in caplog.messages)
    store.record("maml", "quiz", choice="yes", attempts=4)
    fresh.record("maml", "study", first="text")
    assert on_disk(fresh) == {
        "maml": {
            "predict": {"choice": "yes"},
            "quiz": {"choice": "no", "attempts": 5},
            "study": {"first": "text"},
        },
        "reptile": {"quiz": {"choice": "a"}},
    }


def test_what_is_done_stays_done_where_it_could_not_be_read():
    lesson = Lesson("maml", {"quiz": "A quiz"})
    lesson.record("quiz", "done")
    with replaced(module, "_STORES", {}):
        with unreadable():
            lesson.record("quiz", "started", choice="no")
        lesson.record("quiz", "started", tries=2)
    assert lesson.recall("quiz") == {"state": "done", "choice": "no", "tries": 2}


def test_what_waits_for_the_disk_leaves_what_others_record_meanwhile(store):
    other = Progress(store.path)
    with replaced(os, "replace", raising(OSError(errno.EROFS, "Read-only file system"))):
        store.record("maml", "quiz", choice="no")
        store.reset("maml")
        store.record("maml", "study", first="text")
    other.record("maml", "late", done=True)
    other.record("reptile", "quiz", choice="a")
    assert store.lesson("maml") == {"study": {"first": "text"}, "late": {"done": True}}
    store.record("maml", "end", done=True)
    expected = {"study": {"first": "text"}, "late": {"done": True}, "end": {"done": True}}
    assert on_disk(store) == {"maml": expected, "reptile": {"quiz": {"choice": "a"}}}


def test_reset_leaves_what_cannot_be_read(store):
    with unreadable():
        Progress(store.path).reset()
    assert on_disk(store) == {"maml": {"predict": {"choice": "yes"}}}


def test_each_failure_is_said_once_and_again_after_a_success(store, caplog):
    for _ in range(2):
        with replaced(os, "replace", raising(OSError(errno.ENOSPC, "No space left on device"))):
            store.record("maml", "quiz", choice="no")
            store.record("maml", "quiz", choice="yes")
        store.record("maml", "quiz", choice="maybe")
    assert len(caplog.messages) == 2
    assert all("No space left on device" in message and KEPT_FOR_NOW in message for message in caplog.messages)


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


def test_a_lock_that_another_program_keeps_loses_nothing(store, monkeypatch, caplog):
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.05)
    with FileLock(f"{store.path}.lock"):
        store.record("maml", "quiz", choice="no")
        assert set(store.lesson("maml")) == {"predict", "quiz"}
    assert len(caplog.messages) == 1
    assert "progress.json.lock" in caplog.messages[0]
    store.record("maml", "late", done=True)
    assert set(on_disk(store)["maml"]) == {"predict", "quiz", "late"}


def test_a_disk_without_locks_loses_nothing(store, caplog):
    with replaced(FileLock, "acquire", raising(OSError(errno.ENOLCK, "No locks available"))):
        store.record("maml", "quiz", choice="no")
        assert set(store.lesson("maml")) == {"predict", "quiz"}
    assert set(on_disk(store)["maml"]) == {"predict"}
    assert len(caplog.messages) == 1
    assert "No locks available" in caplog.messages[0]


@pytest.mark.parametrize("error", [KeyError("uid not found: 1000"), RuntimeError("no home directory")])
def test_without_a_home_progress_is_kept_in_memory(tmp_path, monkeypatch, caplog, error):
    monkeypatch.setattr(module, "_STORES", {})
    monkeypatch.delenv("RECMTL_PROGRESS_DIR")
    monkeypatch.setattr("platformdirs.user_data_dir", raising(error))
    assert progress().path is None
    assert progress().lesson("maml") == {}
    progress().record("maml", "predict", choice="yes")
    progress().record("maml", "quiz", choice="no")
    progress().reset("reptile")
    assert set(progress().lesson("maml")) == {"predict", "quiz"}
    assert len(caplog.messages) == 1
    assert "RECMTL_PROGRESS_DIR can name one" in caplog.messages[0]
    assert KEPT_FOR_NOW in caplog.messages[0]
    monkeypatch.setenv("RECMTL_PROGRESS_DIR", str(tmp_path))
    progress().record("maml", "late", done=True)
    assert set(on_disk(progress())["maml"]) == {"predict", "quiz", "late"}


def test_a_home_that_does_not_exist_is_no_error(monkeypatch, caplog):
    monkeypatch.setattr(module, "_STORES", {})
    monkeypatch.setenv("RECMTL_PROGRESS_DIR", "~nobody-of-this-name/progress")
    progress().record("maml", "predict", choice="yes")
    assert progress().get("maml", "predict") == {"choice": "yes"}
    assert len(caplog.messages) == 1


def linked(link, target):
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("links cannot be made here")
    return Progress(link)


def test_a_link_stays_one_and_its_target_is_written(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = linked(tmp_path / "elsewhere" / "progress.json", store.path)
    other.record("maml", "quiz", choice="no")
    assert other.path.is_symlink()
    assert store.path.is_file()
    assert set(on_disk(store)["maml"]) == {"predict", "quiz"}
    assert list(other.path.parent.iterdir()) == [other.path]


def test_a_link_to_a_file_to_come_makes_it(tmp_path):
    store = linked(tmp_path / "progress.json", tmp_path / "synced" / "progress.json")
    store.record("maml", "predict", choice="yes")
    assert store.path.is_symlink()
    assert (tmp_path / "synced" / "progress.json").is_file()


def test_a_link_to_itself_keeps_progress_in_memory(tmp_path, caplog):
    store = linked(tmp_path / "progress.json", tmp_path / "progress.json")
    store.record("maml", "predict", choice="yes")
    assert store.get("maml", "predict") == {"choice": "yes"}
    assert len(caplog.messages) == 1


@needs_posix
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_the_file_keeps_its_mode(store, mode):
    store.path.chmod(mode)
    store.record("maml", "quiz", choice="no")
    store.reset("maml")
    assert stat.S_IMODE(store.path.stat().st_mode) == mode


@needs_posix
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_the_mode_that_the_mask_leaves(tmp_path, mask, mode):
    store, before = Progress(tmp_path / "progress.json"), os.umask(mask)
    try:
        store.record("maml", "predict", choice="yes")
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.path.stat().st_mode) == mode


def test_a_file_that_is_open_elsewhere_is_waited_for(store, monkeypatch, caplog):
    """Windows does not replace a file that another program reads at the moment."""
    replace, answers = os.replace, [PermissionError(errno.EACCES, "Access is denied")] * 2

    def replace_later(*names):
        if answers:
            raise answers.pop()
        return replace(*names)

    monkeypatch.setattr(os, "replace", replace_later)
    store.record("maml", "quiz", choice="no")
    assert set(on_disk(store)["maml"]) == {"predict", "quiz"}
    assert not caplog.messages


@pytest.mark.parametrize("is_late", [False, True], ids=["before the file is replaced", "after it"])
def test_an_interrupt_leaves_the_old_state_or_the_new(store, is_late):
    replace = os.replace

    def interrupted(*names):
        if is_late:
            replace(*names)
        raise KeyboardInterrupt

    with replaced(os, "replace", interrupted), pytest.raises(KeyboardInterrupt):
        store.record("maml", "quiz", choice="no")
    expected = {"predict": {"choice": "yes"}} | ({"quiz": {"choice": "no"}} if is_late else {})
    assert store.lesson("maml") == on_disk(store)["maml"] == expected
    assert not store.path.with_name("progress.json.new").exists()
    store.record("maml", "late", done=True)
    assert on_disk(store)["maml"] == expected | {"late": {"done": True}}


# One dies before the first call of the system that can change something, one before the second, until one comes to its
# end. What only looks leaves nothing else than the call before it; a kill loses nothing that was not synced yet.
DYING = """
import itertools, json, os, signal, time
from pathlib import Path

LOOKS = {"_path_normpath", "close", "fspath", "fstat", "getpid", "lstat", "read", "readlink", "stat"}
time.sleep = os.fsync = lambda what: None

def die_at(left):
    def watch(frame, event, function):
        nonlocal left
        module = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
        if event == "c_call" and module in ("posix", "fcntl", "io", "_io") and function.__name__ not in LOOKS:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(watch)

def save(path, left):
    child = os.fork()
    if not child:
        die_at(left)
        Progress(path).record("maml", "quiz", choice="no")
        sys.setprofile(None)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0

folder, before = Path(sys.argv[2]), sys.argv[3]
for left in itertools.count(1):
    path = folder / str(left) / "progress.json"
    path.parent.mkdir()
    if before:
        path.write_text(before)
    is_over = save(path, left)
    after = {file.name: file.read_text() for file in path.parent.iterdir() if file.suffix not in (".lock", ".new")}
    Progress(path).record("maml", "late", done=True)
    print(json.dumps([after, json.loads(path.read_text())["maml"], sorted(os.listdir(path.parent))]))
    if is_over:
        break
"""


@needs_posix
@pytest.mark.parametrize("before", ["", '{"maml": {"predict": {"choice": "yes"}}}', "{ broken"])
def test_a_process_killed_at_any_stage_of_a_save_leaves_the_old_state_or_the_new(tmp_path, before):
    old = {"maml": {"predict": {"choice": "yes"}}} if "predict" in before else {}
    new = {"maml": old.get("maml", {}) | {"quiz": {"choice": "no"}}}
    seen = []
    for line in output(started(DYING, tmp_path, before)).splitlines():
        after, later, files = json.loads(line)
        kept = after.get("progress.json", "{}")
        seen.append(kept != before and json.loads(kept) == new)
        assert seen[-1] or kept in (before, "{}")
        assert before in ("", *after.values()) or (seen[-1] and old)
        assert later == (new if seen[-1] else old).get("maml", {}) | {"late": {"done": True}}
        assert set(files) <= {"progress.json", "progress.json.lock", "progress.json.broken"}
    assert seen == sorted(seen)
    assert seen.count(False) > 8
    assert seen.count(True) > 1


FULL = """
import contextlib, json, os, resource
from pathlib import Path

folder, kind = Path(sys.argv[2]), sys.argv[3]

def fill():
    if kind == "limit":
        return resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(256))

def free():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    (folder / "filler").unlink(missing_ok=True)

store = Progress(folder / "progress.json")
store.record("maml", "predict", choice="yes")
before = store.path.read_text()
fill()
store.record("maml", "study", first="text " * 2000)
store.record("maml", "quiz", choice="no")
assert store.path.read_text() == before
assert set(os.listdir(folder)) <= {"progress.json", "progress.json.lock", "filler"}, os.listdir(folder)
assert set(store.lesson("maml")) == {"predict", "study", "quiz"}
free()
store.record("maml", "late", done=True)
print(sorted(json.loads(store.path.read_text())["maml"]))
"""


@needs_posix
@pytest.mark.parametrize("kind", ["limit", "disk"])
def test_a_full_disk_leaves_the_old_state(tmp_path, kind):
    mount = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"', str(tmp_path))
    if kind == "disk" and (
        not shutil.which(mount[0]) or subprocess.run([*mount, "true"], capture_output=True).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    process = started(FULL, tmp_path, kind, prefix=mount if kind == "disk" else ())
    assert output(process) == "['late', 'predict', 'quiz', 'study']\n"


BOTH = """
import time
from pathlib import Path
store, k = Progress(Path(sys.argv[2])), sys.argv[3]
store.path.with_name(f"{k} is ready").touch()
while not store.path.with_name("go").exists():
    time.sleep(0.001)
for i in range(100):
    store.record("maml", f"{k}-{i}", done=True)
    store.record("maml", "both", count=lambda kept: (kept or 0) + 1)
"""


def test_two_processes_lose_nothing(tmp_path):
    store = Progress(tmp_path / "progress.json")
    processes = [started(BOTH, store.path, k) for k in "ab"]
    while len(list(tmp_path.glob("* is ready"))) < 2:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    for process in processes:
        output(process)
    assert on_disk(store)["maml"].pop("both") == {"count": 200}
    assert set(on_disk(store)["maml"]) == {"both", *(f"{k}-{i}" for k in "ab" for i in range(100))}


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


def test_half_a_character_is_kept_as_it_came():
    progress().record("maml", "study", first="\ud83d, caf\xe9")
    assert progress().get("maml", "study") == {"first": "\ud83d, caf\xe9"}


def test_a_function_gets_what_is_kept():
    progress().record("maml", "quiz", attempts=lambda kept: (kept or 0) + 1)
    progress().record("maml", "quiz", attempts=lambda kept: kept + 1)
    assert progress().get("maml", "quiz") == {"attempts": 2}


def test_a_function_that_returns_no_json_is_refused_and_nothing_changes(store):
    with unreadable(), pytest.raises(ValueError, match=r"facts: bad is object, expected a value that JSON can hold"):
        store.record("maml", "quiz", bad=lambda kept: object())
    store.record("maml", "late", done=True)
    assert set(on_disk(store)["maml"]) == {"predict", "late"}
