"""For tests of models: each test with a ``device`` runs on the CPU, and on a CUDA device where there is one."""

import pytest
import torch

from recmtl_lessons.training.device import settle_threads

_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=_CUDA)])
def device(request):
    return torch.device(request.param)


@pytest.fixture(scope="session", autouse=True)
def one_core_left_alone():
    """As in a lesson: a full team of threads becomes many times slower as soon as anything else runs."""
    settle_threads()
