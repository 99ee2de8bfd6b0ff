"""Federated training, many seeds at once: in each round some clients take local steps, and the server averages.

A round is one `vmap` over seeds and one batched product over clients. Sources are those of
`recmtl_lessons.models.federated`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.datasets.few_shot import SHOTS, Tasks
from recmtl_lessons.models import FederatedRecommender, federated_average, private_average
from recmtl_lessons.models._checks import (
    check_choice,
    check_count,
    check_number,
    check_positive,
    check_values,
    listed,
)
from recmtl_lessons.training._rows import pick_rows
from recmtl_lessons.training.few_shot import Params
from recmtl_lessons.training.progress import Moment, with_bar
from recmtl_lessons.training.stacked import DivergenceError, Stack


@dataclass(frozen=True)
class Clients:
    """Users whose ratings stay with them: S seeds with N clients each, who have up to R rows of F features.

    Attributes
    ----------
    x : Tensor, (S, N, R, F)
    y : Tensor, (S, N, R)
    known : Tensor, (S, N, R), bool
        False where a row is there to fill up.
    """

    x: Tensor
    y: Tensor
    known: Tensor

    def __post_init__(self):
        shape = tuple(self.x.shape) if isinstance(self.x, Tensor) else type(self.x).__name__
        if not isinstance(self.x, Tensor) or len(shape) != 4 or 0 in shape:
            raise ValueError(f"x: got {shape}, expected a tensor (S, N, R, F), no 0")
        for name, wanted in (("x", shape), ("y", shape[:3]), ("known", shape[:3])):
            check_values(name, getattr(self, name), wanted)
        if self.known.dtype != torch.bool or not self.known.any(2).all():
            raise ValueError("known: got no bool tensor, or a client without a row, expected one or more for each")

    @classmethod
    def of(cls, tasks: Tasks) -> "Clients":
        """Return each user of some tasks as a client, whose support rows come first."""
        if not isinstance(tasks, Tasks):
            raise ValueError(f"tasks: got {type(tasks).__name__}, expected Tasks")
        x, y = (torch.cat([getattr(tasks, f"{k}_{f}") for k in ("support", "query")], dim=2) for f in ("x", "y"))
        return cls(x, y, torch.cat([torch.ones_like(tasks.support_y, dtype=torch.bool), tasks.known], dim=2))

    @property
    def rows(self) -> Tensor:
        """Return the number of each client's rows, (S, N)."""
        return self.known.sum(2)


def draw_clients(n_clients: int, sampling_rate: float, rounds: int, seed: int) -> Tensor:
    """Draw who takes part in each round, each client by a coin of its own (Poisson sampling): (rounds, N), bool."""
    check_count("n_clients", n_clients)
    check_number("sampling_rate", sampling_rate, 0.0, 1.0)
    check_count("rounds", rounds)
    check_count("seed", seed, 0)
    generator = torch.Generator().manual_seed(2_000_003 * (seed + 1))
    return torch.rand(rounds, n_clients, generator=generator) < sampling_rate


class Federation(Stack):
    """Servers side by side, one for each setting and seed, each with the clients of its seed.

    Parameters
    ----------
    build : callable () -> FederatedRecommender
    clients : Clients
    seeds : sequence of int
        As many as the clients have; models of one seed begin alike and meet the same clients.
    sampling_rate : float in (0, 1]
        The chance of each client to take part in a round.
    server_lr : float
        What the mean of the updates is multiplied by.
    by_rows : bool
        Whether a client counts by its number of rows; all count the same unless given.
    clip : float, optional
        With it the mean is `private_average`: updates are clipped to this length, all count the same, and the
        denominator is the expected number of clients.
    noise_multiplier : float
        The noise of the private mean.
    local_lrs : sequence of float, optional
        One setting for each of these local rates; the model's own unless given.
    device : torch.device or str, optional
    """

    def __init__(
        self,
        build: Callable[[], FederatedRecommender],
        clients: Clients,
        seeds: Sequence[int],
        sampling_rate: float = 0.1,
        server_lr: float = 1.0,
        *,
        by_rows: bool = False,
        clip: float | None = None,
        noise_multiplier: float = 0.0,
        local_lrs: Sequence[float] | None = None,
        device: torch.device | str | None = None,
    ):
        if not isinstance(clients, Clients):
            raise ValueError(f"clients: got {type(clients).__name__}, expected Clients")
        check_number("sampling_rate", sampling_rate, 0.0, 1.0, above=True)
        check_positive("server_lr", server_lr)
        check_choice("by_rows", by_rows, (False, True))
        check_number("noise_multiplier", noise_multiplier, 0.0)
        if clip is not None:
            check_positive("clip", clip)
        if clip is None and noise_multiplier:
            raise ValueError(f"clip: got None, expected a length, as noise_multiplier is {noise_multiplier}")
        for rate in [] if local_lrs is None else listed("local_lrs", local_lrs) or [0.0]:
            check_positive("local_lrs", rate)
        if clip is not None and by_rows:
            raise ValueError("by_rows: got True, expected False with clip: the noise is made for equal weights")
        rates = (0.0,) if local_lrs is None else tuple(local_lrs)
        super().__init__(build, {"local_lr": rates}, seeds, server_lr, device=device, optimizer="sgd")
        if not isinstance(self._judged.model, FederatedRecommender):
            raise ValueError(f"build: got {type(self._judged.model).__name__}, expected a FederatedRecommender from it")
        if len(clients.x) != self.n_seeds:
            raise ValueError(f"clients: got {len(clients.x)} seeds, expected {self.n_seeds}")
        for name in ("x", "y"):
            self._check_dtype(f"clients.{name}", getattr(clients, name))
        self._own_rates = local_lrs is not None
        self._clients = {f: getattr(clients, f).to(self.device) for f in ("x", "y", "known")}
        self.n_clients, self.sampling_rate = clients.x.shape[1], float(sampling_rate)
        self._by_rows, self._private = by_rows, None if clip is None else (float(clip), float(noise_multiplier))
        self._noise = [torch.Generator().manual_seed(3_000_017 * (s + 1)) for s in self.seeds[: self.n_seeds]]

    def train(self, steps: int, every: int = 20) -> Iterator[Moment]:
        """Go through rounds; leave the loop to stop between two. Training again goes on from there.

        Parameters
        ----------
        steps : int
            Rounds.
        every : int
            The caller gets a `Moment` each ``every`` rounds and at the end.

        Yields
        ------
        Moment
        """
        check_count("steps", steps)
        check_count("every", every)
        drawn = [
            draw_clients(self.n_clients, self.sampling_rate, self._done + steps, seed)[self._done :]
            for seed in self.seeds[: self.n_seeds]
        ]
        for step, taken in enumerate(torch.stack(drawn, dim=1), start=1):  # (S, N)
            self._round(taken)
            if step % every == 0 or step == steps:
                yield Moment(step, steps)

    def fit(self, steps: int, label: str = "training", every: int = 20) -> "Federation":
        """Train to the end with a progress bar, or without one if the label is empty; return itself."""
        check_count("steps", steps)
        if not isinstance(label, str):
            raise ValueError(f"label: got {label!r}, expected a str")
        named = label and f"{label}, {len(self)} models"
        for _ in with_bar(self.train(steps, every), named, steps, "rounds"):
            pass
        return self

    def _round(self, taken: Tensor) -> None:
        """Let those take part who were drawn, (S, N), and move each server by the mean of what they send."""
        most = max(int(taken.sum(1).max()), 1)
        order = taken.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]  # those drawn come first
        here = taken.gather(1, order).to(self.device).repeat(self.n_settings, 1)  # (n_models, M)
        rows = pick_rows(self._clients, order.to(self.device).repeat(self.n_settings, 1), self.n_seeds)
        rate = [self.setting("local_lr").to(rows["x"])] if self._own_rates else []

        def send(model, x, y, known, *rate):
            return model.client_updates(x, y, known, local_lr=rate[0] if rate else None)

        updates = self.each_own(send, rows["x"], rows["y"], rows["known"], *rate)  # (n_models, M, P)
        updates = torch.where(here.unsqueeze(2), updates, 0.0)
        if not torch.isfinite(updates).all():
            raise DivergenceError("local_lr: got local steps that diverge, expected a lower rate")
        if self._private is None:
            weight = here * rows["known"].sum(2) if self._by_rows else here.to(updates)
            nobody = weight.sum(1, keepdim=True) == 0
            move = federated_average(updates, torch.where(nobody, torch.ones_like(weight), weight))
        else:
            size = updates.shape[-1]
            noise = torch.stack([torch.randn(size, generator=g) for g in self._noise]).to(self.device)
            expected = self.sampling_rate * self.n_clients
            move = private_average(updates, *self._private, expected, noise.repeat(self.n_settings, 1))
        moved = self._judged.model.unflatten(-move)
        trained = {n.removeprefix("model."): v for n, v in self._parameters.items() if v.requires_grad}
        self.step({name: moved.get(name, torch.zeros_like(value)) for name, value in trained.items()})


@dataclass(frozen=True)
class FederatedLearner:
    """A `FederatedRecommender` with its settings, as a learner for new users.

    Attributes
    ----------
    method, local_steps, clip, noise_multiplier, sampling_rate
        As of the network and the `Federation`.
    meta_lr : float
        The server's rate.
    inner_lr : float
        The rate of local steps.
    rate : float
        The rate of the steps for a new user, and of Per-FedAvg's step within the loss.
    ridge : float
        Of the reconstructed head.
    """

    method: str = "fedavg"
    local_steps: int = 5
    meta_lr: float = 1.0
    inner_lr: float = 0.05
    rate: float = 0.05
    sampling_rate: float = 0.1
    clip: float | None = None
    noise_multiplier: float = 0.0
    ridge: float = 1.0

    def stack(
        self, tasks: Tasks, seeds: Sequence[int], hidden: Sequence[int], rates: Sequence[float] | None = None
    ) -> Federation:
        """Return servers to train, as `FewShotLearner` has it; rates are local ones."""
        clients = Clients.of(tasks)

        def build() -> FederatedRecommender:
            return FederatedRecommender(
                clients.x.shape[-1],
                hidden,
                self.method,
                local_steps=self.local_steps,
                local_lr=self.inner_lr,
                inner_lr=self.rate,
                support_rows=SHOTS,
                ridge=self.ridge,
            )

        return Federation(
            build,
            clients,
            seeds,
            self.sampling_rate,
            self.meta_lr,
            clip=self.clip,
            noise_multiplier=self.noise_multiplier,
            local_lrs=rates,
        )

    def adapt(
        self,
        model: FederatedRecommender,
        x: Tensor,
        y: Tensor,
        num_steps: int,
        params: Params | None,
        rate: float | None,
    ) -> Params:
        """Take steps on one user's rows, as `FewShotLearner` has it."""
        return model.personalise(x, y, num_steps, params, inner_lr=rate)
