"""Where tensors live is decided in one place, and by the learner if they say so."""

import ast
from pathlib import Path

import pytest
import torch

import recmtl_lessons
from recmtl_lessons.training import default_device


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
