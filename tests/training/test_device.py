"""Where tensors live is decided in one place, and by the learner if they say so."""

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import recmtl_lessons
from recmtl_lessons.training import ManyModels, default_device, device
from recmtl_lessons.training.device import settle_threads, usable_cores


@pytest.fixture
def wanted(monkeypatch):
    """Set ``RECMTL_DEVICE``, or leave it out."""

    def want(text):
        if text is None:
            monkeypatch.delenv("RECMTL_DEVICE", raising=False)
        else:
            monkeypatch.setenv("RECMTL_DEVICE", text)

    return want


@pytest.mark.parametrize("nothing", [None, "", "  "])
@pytest.mark.parametrize(("present", "expected"), [(True, "cuda"), (False, "cpu")])
def test_cuda_when_present_otherwise_the_cpu(wanted, monkeypatch, nothing, present, expected):
    wanted(nothing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert default_device() == torch.device(expected)


@pytest.mark.parametrize("text", ["cpu", " cpu ", "cpu\n"])
def test_the_variable_overrides(wanted, monkeypatch, text):
    wanted(text)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("text", ["cuda", "cuda:0"])
def test_cuda_by_name(wanted, text):
    wanted(text)
    assert default_device() == torch.device(text)


@pytest.mark.parametrize("text", ["gpu", "toaster", "cpu:cpu", "cuda:9999", "CPU", "meta", "0"])
def test_what_this_machine_does_not_have_is_refused_in_one_line(wanted, text):
    """``meta`` among it: its tensors have shapes and no numbers, so nothing could be trained."""
    wanted(text)
    with pytest.raises(ValueError, match=f"^RECMTL_DEVICE: got '{text}', expected a device of this machine") as caught:
        default_device()
    assert "\n" not in str(caught.value)


def test_no_other_module_decides():
    folder = Path(recmtl_lessons.__file__).parent
    deciding = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "is_available"
    }
    assert deciding == {"training/device.py"}


@pytest.fixture
def threads(monkeypatch):
    """Torch starts with 7 threads, nobody has asked for any, and whatever a test asks for is taken back."""
    monkeypatch.delenv("RECMTL_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(7)
    monkeypatch.setattr(device, "_NOT_ASKED_FOR", {7})
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize(("cores", "expected"), [(None, 1), (1, 1), (2, 1), (4, 3), (5, 4), (64, 4)])
def test_one_core_is_left_to_everything_else(threads, cores, expected):
    threads.delattr(os, "sched_getaffinity", raising=False)
    threads.setattr(os, "cpu_count", lambda: cores)
    assert settle_threads() == expected
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize(("allowed", "expected"), [({5}, 1), ({2, 4}, 1), ({0, 1, 2, 3}, 3)])
def test_only_cores_that_the_process_may_use_are_counted(threads, allowed, expected):
    threads.setattr(os, "cpu_count", lambda: 64)
    threads.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    assert settle_threads() == expected
    assert usable_cores() == len(allowed)


@pytest.mark.parametrize(("cores", "expected"), [(None, 1), (1, 1), (2, 2), (64, 64)])
def test_jobs_may_use_all_cores(threads, cores, expected):
    threads.delattr(os, "sched_getaffinity", raising=False)
    threads.setattr(os, "cpu_count", lambda: cores)
    assert usable_cores() == expected
    settle_threads()
    assert usable_cores() == expected


def test_jobs_get_as_many_cores_as_were_asked_for(threads):
    threads.setenv("RECMTL_THREADS", "3")
    assert usable_cores() == 3
    torch.set_num_threads(5)
    assert usable_cores() == 5
    threads.setenv("RECMTL_THREADS", "many")
    with pytest.raises(ValueError, match="RECMTL_THREADS: got 'many', expected a positive integer"):
        usable_cores()


def test_a_second_threads_own_number_is_nobodys_wish(threads):
    threads.setattr(device, "_cores", lambda: 2)
    found = []
    worker = threading.Thread(target=lambda: found.extend([settle_threads(), usable_cores()]))
    worker.start()
    worker.join()
    assert found == [1, 2]


def test_the_number_of_threads_can_be_set(threads):
    threads.setenv("RECMTL_THREADS", " 2 ")
    assert settle_threads() == 2
    assert torch.get_num_threads() == 2


def test_a_second_thread_computes_alone_and_leaves_the_first_its_team(threads):
    threads.setenv("RECMTL_THREADS", "2")
    settle_threads()
    found = []
    worker = threading.Thread(target=lambda: found.extend([settle_threads(), torch.get_num_threads()]))
    worker.start()
    worker.join()
    assert found == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("variable", [None, "2"])
def test_the_users_own_number_stays(threads, variable):
    if variable:
        threads.setenv("RECMTL_THREADS", variable)
    settle_threads()
    torch.set_num_threads(5)
    assert settle_threads() == 5
    assert torch.get_num_threads() == 5
    torch.set_num_threads(6)
    assert settle_threads() == torch.get_num_threads() == 6


def test_what_was_chosen_here_is_not_taken_for_the_users(threads):
    for variable in ("2", "3", "2"):
        threads.setenv("RECMTL_THREADS", variable)
        assert settle_threads() == torch.get_num_threads() == int(variable)


def test_a_stack_of_models_leaves_the_users_number(threads):
    torch.set_num_threads(5)
    ManyModels(lambda: torch.nn.Linear(1, 1), lambda *_: None, {"a": {"x": torch.ones(1, 2, 1)}}, [{"w": 1.0}], [0])
    assert torch.get_num_threads() == 5


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none_is_refused(threads, text):
    threads.setenv("RECMTL_THREADS", text)
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match=f"^RECMTL_THREADS: got '{text}', expected a positive integer"):
        settle_threads()
    assert torch.get_num_threads() == before


def test_opening_a_lesson_settles_the_number():
    """What a lesson computes before its first stack of models must not wait for a team that is too large."""
    script = "import torch, recmtl_lessons.lessons; print(torch.get_num_threads())"
    environment = {**os.environ, "RECMTL_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "1"
