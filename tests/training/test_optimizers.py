"""A stack's optimizers, held against the classes of `torch.optim`."""

import subprocess
import sys

import pytest
import torch

from recmtl_lessons.training import Stack
from recmtl_lessons.training._optimizers import Adam, GradientDescent

BETAS = (0.5, 0.99)
KINDS = {
    "adam": (lambda groups: Adam(groups, BETAS), lambda groups: torch.optim.Adam(groups, betas=BETAS, fused=True)),
    "sgd": (GradientDescent, torch.optim.SGD),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((4, 3, 2), (4, 3), (4, 5))]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_torch_to_the_last_bit(kind):
    """Two rates; and a parameter that has no gradient in the first five steps and in every third after them."""
    ours, theirs = KINDS[kind]
    mine, other = parameters(), parameters()
    one = ours([(mine[:2], 0.1), (mine[2:], 0.01)])
    two = theirs([{"params": other[:2], "lr": 0.1}, {"params": other[2:], "lr": 0.01}])
    for step in range(20):
        left_out = step < 5 or step % 3 == 0
        for optimizer, values in ((one, mine), (two, other)):
            optimizer.zero_grad()
            used = values[:2] if left_out else values
            sum((v.sin() * (step + 1)).square().sum() for v in used).backward()
            assert (values[2].grad is None) is left_out
            optimizer.step()
        for a, b, start in zip(mine, other, parameters(), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, start) is (a is mine[2] and step < 5)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1), (float("nan"), 0.9)])
def test_betas_out_of_range_are_refused(betas):
    with pytest.raises(ValueError, match=r"^betas: got \(.*\), expected two numbers in \[0, 1\)"):
        Stack(lambda: torch.nn.Linear(2, 1), [{"a": 0.0}], (0,), betas=betas)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), {"": 0.1, "bias": -1.0}])
@pytest.mark.parametrize("kind", KINDS)
def test_rates_out_of_range_are_refused(kind, rate):
    with pytest.raises(ValueError, match=r"^learning_rate: got .*, expected a finite number of at least 0"):
        Stack(lambda: torch.nn.Linear(2, 1), [{"a": 0.0}], (0,), rate, optimizer=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_does_not_wait_for_the_compiler(kind):
    """In a process of its own: here, other tests have long imported it.

    The last line is why `_optimizers` exists; where it fails one day, torch's classes will do.
    """
    program = f"""
import sys, torch
from recmtl_lessons.training import Stack
stack = Stack(lambda: torch.nn.Linear(2, 1), [{{"a": 0.0}}], (0, 1), optimizer={kind!r}, device=torch.device("cpu"))
stack.update(lambda model, x, setting: (model(x).square().mean(), {{}}), torch.ones(2, 5, 2))
assert "torch._dynamo" not in sys.modules
torch.optim.Adam(torch.nn.Linear(2, 1).parameters())
print("torch's classes import it:", "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "torch's classes import it: True\n", "")
