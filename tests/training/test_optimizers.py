"""A stack's optimizers, held against the classes of `torch.optim`."""

import subprocess
import sys

import pytest
import torch

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


def test_a_training_does_not_wait_for_the_compiler():
    """In a process of its own: here, other tests have long imported it.

    The last lines are why `_optimizers` exists; where they fail one day, torch's classes will do.
    """
    program = """
import sys
class Seen:
    def find_spec(self, name, *_):
        if name == "torch._dynamo":
            raise ImportError("the compiler")
sys.meta_path.insert(0, Seen())
import torch
from recmtl_lessons.training import Stack
for kind in ("adam", "sgd"):
    stack = Stack(lambda: torch.nn.Linear(2, 1), [{"a": 0.0}], (0, 1), optimizer=kind, device="cpu")
    stack.update(lambda model, x, setting: (model(x).square().mean(), {}), torch.ones(2, 5, 2))
try:
    torch.optim.Adam(torch.nn.Linear(2, 1).parameters())
except ImportError as error:
    print("torch's classes import", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "torch's classes import the compiler\n", "")
