"""For tests of models: each test with a ``device`` runs on the CPU, and on a CUDA device where there is one."""

import pytest
import torch

_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=_CUDA)])
def device(request):
    return torch.device(request.param)
