"""What an update costs: the three ways for one user as a textbook has them, what autograd keeps, and the time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from recmtl_lessons.datasets.few_shot import SHOTS
from recmtl_lessons.models import MAMLRecommender, ReptileRecommender
from recmtl_lessons.training.few_shot import HIDDEN, INNER_STEPS, USERS, milliseconds_by_turns

RATE = 0.05


def maml_direction(network, support, query, steps, rate, first_order=False):
    """Take MAML's inner steps for one user, and return the gradient of the query loss after them."""
    params = dict(network.named_parameters())
    for _ in range(steps):
        loss = F.mse_loss(functional_call(network, params, support[:1]).squeeze(1), support[1])
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=not first_order)
        params = {name: p - rate * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    loss = F.mse_loss(functional_call(network, params, query[:1]).squeeze(1), query[1])
    return torch.autograd.grad(loss, list(network.parameters()))


def reptile_direction(network, batches, rate):
    """Take Reptile's steps for one user, one per minibatch, and return where it started minus where it came."""
    params = dict(network.named_parameters())
    for x, y in batches:
        loss = F.mse_loss(functional_call(network, params, (x,)).squeeze(1), y)
        gradients = torch.autograd.grad(loss, list(params.values()))
        moved = {name: p - rate * g for (name, p), g in zip(params.items(), gradients, strict=True)}
        params = {name: value.detach().requires_grad_() for name, value in moved.items()}  # no way back
    return [start.detach() - params[name].detach() for name, start in network.named_parameters()]


# Memory.


class _Kept:
    """Counts the bytes that autograd keeps for later, beyond what was there before."""

    def __init__(self, there: Sequence[Tensor]):
        self._there = {t.untyped_storage().data_ptr() for t in there}
        self._uses: dict[int, int] = {}
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> "_Slot | Tensor":
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._there:
            return tensor
        self._uses[storage.data_ptr()] = self._uses.get(storage.data_ptr(), 0) + 1
        if self._uses[storage.data_ptr()] == 1:
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        return _Slot(self, tensor)

    def drop(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._uses[storage.data_ptr()] -= 1
        if not self._uses[storage.data_ptr()]:
            self.now -= storage.nbytes()


class _Slot:
    """A saved tensor; when autograd lets it go, it is taken off."""

    def __init__(self, kept: _Kept, tensor: Tensor):
        self._kept, self.tensor = kept, tensor

    def __del__(self):
        self._kept.drop(self.tensor)


def bytes_kept(work: Callable[[], object], there: Sequence[Tensor]) -> int:
    """Return the most bytes that autograd keeps at any moment of some work, ``there`` not counted."""
    kept = _Kept(there)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda s: s.tensor if isinstance(s, _Slot) else s):
        work()
    return kept.most


def memory_by_gradients(numbers: Sequence[int] = (2, 4, 8, 16)) -> dict[str, list[int]]:
    """Count the bytes kept for one user, by number of gradients: of MAML, one on the query, the others inner steps."""
    torch.manual_seed(0)
    network = MAMLRecommender(16, HIDDEN)
    first, second = ((torch.randn(SHOTS, 16), torch.randn(SHOTS)) for _ in range(2))
    there = [*network.parameters(), *first, *second]
    ways = {
        "MAML": lambda n: maml_direction(network, first, second, n - 1, RATE),
        "first-order MAML": lambda n: maml_direction(network, first, second, n - 1, RATE, first_order=True),
        "Reptile": lambda n: reptile_direction(network, [(first, second)[k % 2] for k in range(n)], RATE),
    }
    return {name: [bytes_kept(lambda n=n, way=way: way(n), there) for n in numbers] for name, way in ways.items()}


# Time.


def ways_of_the_package(
    hidden: Sequence[int] = HIDDEN, users: int = USERS, gradients: int = INNER_STEPS + 1
) -> dict[str, Callable[[], object]]:
    """Return each way's work of one update for some users, with so many gradients of ten ratings per user."""
    torch.manual_seed(0)
    maml = MAMLRecommender(16, hidden, inner_steps=gradients - 1, inner_lr=RATE)
    reptile = ReptileRecommender(16, hidden, inner_steps=gradients, inner_batch_size=SHOTS, inner_lr=RATE)
    x, y = torch.randn(users, 2 * SHOTS, 16), torch.randn(users, 2 * SHOTS)
    tasks = (x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:])

    def gradient(first_order: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(maml.query_losses(tasks, first_order=first_order).mean(), list(maml.parameters()))

    return {
        "MAML": lambda: gradient(False),
        "first-order MAML": lambda: gradient(True),
        "Reptile": lambda: reptile.pseudo_gradient((x, y)),
    }


def time_updates(repeats: int = 30) -> str:
    """Time each way's work of one update: a line each, with the median and the range."""
    ways = ways_of_the_package()
    took = milliseconds_by_turns(list(ways.values()), repeats).sort(dim=0).values.T.tolist()
    return "\n".join(
        f"{name:<17} {values[len(values) // 2]:6.1f} ms   ({values[0]:.1f} to {values[-1]:.1f})"
        for name, values in zip(ways, took, strict=True)
    )
