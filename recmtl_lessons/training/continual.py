"""Domains learned one after another, by many models at once: what holds them back, and the matrix of their scores."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from recmtl_lessons.datasets.arrivals import Arrivals, Streams
from recmtl_lessons.models._modes import Doer
from recmtl_lessons.models.continual import (
    ContinualFactorization,
    ContinualRecommender,
    fisher_diagonal,
    forgetting_loss,
    quadratic_penalty,
)
from recmtl_lessons.training.metrics import auc
from recmtl_lessons.training.progress import Moment, with_bar
from recmtl_lessons.training.replay import ReservoirBuffer
from recmtl_lessons.training.stacked import ManyModels

Weights = dict[str, Tensor]
TASK = "click"


@dataclass(frozen=True)
class Learner:
    """A kind of model: how it is made with all its parts, how it answers, and how it is trained.

    Attributes
    ----------
    build : callable () -> nn.Module
    answer : callable (model, domain, fields) -> Tensor, (rows,)
        Logits of a click.
    learning_rate : float
    steps : int
        Steps for each domain.
    shared : str
        How the names of the weights begin that all domains share.
    optimizer : {"adam", "sgd"}
    """

    build: Callable[[], nn.Module]
    answer: Callable[[nn.Module, str, Mapping[str, Tensor]], Tensor]
    learning_rate: float
    steps: int
    shared: str = ""
    optimizer: str = "adam"


def factorization(arrivals: Arrivals, users: str, embedding_dim: int, learning_rate: float, steps: int) -> Learner:
    """Return the kind of model that has a vector for each user and each item."""

    def build() -> nn.Module:
        model = ContinualFactorization(arrivals.n_users, embedding_dim, users)
        for domain, n_items in arrivals.n_items.items():
            model.add_domain(domain, n_items)
        return model

    return Learner(build, lambda model, domain, f: model(domain, f["user"], f["item"]), learning_rate, steps)


def network(
    arrivals: Arrivals, hidden_dims: Sequence[int], learning_rate: float, steps: int, heads: str = "shared"
) -> Learner:
    """Return the kind of model that sees features: with one head for all domains, or one head for each."""
    own = heads == "per_domain"

    def build() -> nn.Module:
        fields = next(iter(arrivals.train.values()))
        model = ContinualRecommender(fields["x"].shape[-1], hidden_dims)
        for task in arrivals.domains if own else (TASK,):
            model.add_task(task)
        return model

    def answer(model: nn.Module, domain: str, fields: Mapping[str, Tensor]) -> Tensor:
        return model(fields["x"], domain if own else TASK).squeeze(1)

    return Learner(build, answer, learning_rate, steps, "encoder.")


@dataclass(frozen=True)
class Method:
    """What is done against forgetting. Nothing, unless something is given.

    How strongly is for the settings of the stack to say, under ``ewc`` and ``distil``; ``replay`` is the weight of each
    earlier domain's rows beside the new one's, 1 if no setting says otherwise.

    Attributes
    ----------
    fisher : callable (models, domain, fields) -> {name: Tensor (n_models, ...)}, optional
        How much each weight matters, after a domain has been learned; see `fisher_of`.
    rows : int, optional
        Rows kept of each domain, and seen again in every later step; None keeps none.
    asked : callable (old domain, new fields, generator) -> fields, optional
        What the network before is asked, so that its answers stay: rows without a label, (S, n, ...).
    slower : float
        What the learning rate of the shared weights is multiplied by after the first domain.
    """

    fisher: Callable[[ManyModels, str, Mapping[str, Tensor]], Weights] | None = None
    rows: int | None = None
    asked: Callable[[str, Mapping[str, Tensor], torch.Generator], Mapping[str, Tensor]] | None = None
    slower: float = 1.0


NAIVE = Method()
#: Every row of every domain so far: joint training.
JOINT = Method(rows=10**9)


@dataclass
class _State:
    """What is kept from one domain to the next."""

    memory: Streams = field(default_factory=dict)
    ewc: list[dict[str, Weights]] = field(default_factory=list)
    models: ManyModels | None = None


@dataclass(frozen=True)
class Course:
    """What came of learning the domains one after another, M models.

    Attributes
    ----------
    matrix : Tensor, (M, moments of arrival + 1, domains)
        AUC of each domain before anything was learned, and after each domain.
    curves : Tensor, (M, domains, moments)
        The same while they train.
    steps : tuple of int
        The steps of the moments, over all domains.
    models : ManyModels
        As they are after the last domain.
    """

    matrix: Tensor
    curves: Tensor
    steps: tuple[int, ...]
    models: ManyModels


def in_turn(
    learner: Learner,
    arrivals: Arrivals,
    settings: Mapping[str, Sequence[float]],
    seeds: Sequence[int],
    method: Method = NAIVE,
    every: int | None = None,
    by: str = "test",
) -> Iterator[tuple[Moment, Callable[[], Course]]]:
    """Learn the domains one after another, each with an optimizer of its own; yield where it stands.

    Parameters
    ----------
    learner : Learner
    arrivals : Arrivals
    settings : mapping {name: values}
        The grid of the stack: ``ewc`` and ``distil`` are strengths, ``replay`` a weight; see `Method`.
    seeds : sequence of int
        As many as the arrivals have.
    method : Method
    every : int, optional
        Steps between two moments; after each domain alone if not given.
    by : {"test", "valid"}
        The rows that scores are about: settings are chosen by "valid".

    Yields
    ------
    Moment, callable () -> Course
        Where it stands, and what has come of it so far. An unfinished domain has no row of the matrix yet.
    """
    state, matrix, curves, at = _State(), [], [], []
    rows = getattr(arrivals, by)
    total = learner.steps * len(arrivals.domains)

    def course() -> Course:
        found = torch.stack(curves, dim=2) if curves else matrix[0].unsqueeze(2)[..., :0]
        return Course(torch.stack(matrix, dim=1), found, tuple(at), state.models)

    for number, domain in enumerate(arrivals.domains):
        models = _stack_for(learner, arrivals.train[domain], domain, settings, seeds, method, state)
        if state.models is None:
            matrix.append(scores_of(models, learner, rows))
        else:
            models.load(state.models)
        state.models = models
        for moment in models.train(learner.steps, every=every or learner.steps):
            now = scores_of(models, learner, rows)
            curves.append(now)
            at.append(number * learner.steps + moment.step)
            if moment.step == learner.steps:
                matrix.append(now)
                if domain != arrivals.domains[-1]:
                    _keep(state, arrivals.train[domain], domain, method, seeds)
            yield Moment(at[-1], total), course


def learn_in_turn(
    learner: Learner,
    arrivals: Arrivals,
    settings: Mapping[str, Sequence[float]],
    seeds: Sequence[int],
    method: Method = NAIVE,
    label: str = "in turn",
    **options,
) -> Course:
    """Learn the domains one after another to the end, with a progress bar; arguments and options as for `in_turn`."""
    latest = []

    def moments() -> Iterator[Moment]:
        for moment, course in in_turn(learner, arrivals, settings, seeds, method, **options):
            latest[:] = [course]
            yield moment

    for _ in with_bar(moments(), label, learner.steps * len(arrivals.domains)):
        pass
    return latest[0]()


def scores_of(models: ManyModels, learner: Learner, rows: Streams) -> Tensor:
    """Return the AUC of each domain's rows, (n_models, domains)."""
    found = []
    for domain, fields in rows.items():
        inputs = [t for f, t in fields.items() if f != "click"]
        names = [f for f in fields if f != "click"]

        def logits(model, *values, domain=domain, names=names):
            return learner.answer(model, domain, dict(zip(names, values, strict=True)))

        found.append(auc(models.each(logits, *inputs).cpu(), fields["click"].repeat(models.n_settings, 1)))
    return torch.stack(found, dim=1)


def fisher_of(learner: Learner, kind: str = "exact", rows: int = 600, batch_size: int = 32) -> Callable:
    """Return how a stack's Fisher is computed, from the first rows of a domain: a `Method.fisher`."""

    def fisher(models: ManyModels, domain: str, fields: Mapping[str, Tensor]) -> Weights:
        first = {name: values[:, :rows].to(models.device) for name, values in fields.items()}
        own = {name: t.repeat(models.n_settings, *[1] * (t.ndim - 1)) for name, t in first.items()}
        names = [name for name in own if name != "click"]

        def one(model, labels, *inputs):
            def answer(model, *values):
                return learner.answer(model, domain, dict(zip(names, values, strict=True)))

            return fisher_diagonal(model, answer, inputs, labels, kind, batch_size=batch_size)

        return models.each_own(one, own["click"], *(own[name] for name in names))

    return fisher


def objective_of(learner: Learner, domain: str, earlier: Sequence[str]) -> Callable:
    """Return the loss of one domain's step: the weighted mean over it and those seen again, and what holds it back."""

    def objective(model, batch, setting, progress):
        loss, total = 0.0, 0.0
        for name in (domain, *(name for name in earlier if name in batch)):
            weight = 1.0 if name == domain else setting.get("replay", 1.0)
            logits = learner.answer(model, name, batch[name])
            loss = loss + weight * F.binary_cross_entropy_with_logits(logits, batch[name]["click"])
            total = total + weight
        loss = loss / total
        if "ewc" in batch:
            weights = dict(model.named_parameters())
            held = [quadratic_penalty(weights, **memory) for memory in batch["ewc"].values()]
            loss = loss + setting["ewc"] * torch.stack(held).sum()
        if "old" in batch:
            before = {f"model.{name}": value for name, value in batch["old"].items()}
            for name in earlier:
                fields = batch[f"asked {name}"]
                old = functional_call(Doer(model), before, (learner.answer, name, fields))
                loss = loss + setting["distil"] * forgetting_loss(learner.answer(model, name, fields), old)
        return loss, {}

    return objective


def _stack_for(learner, fields, domain, settings, seeds, method, state) -> ManyModels:
    earlier = list(state.memory)
    streams = {domain: fields}
    own: dict[str, object] = {}
    if method.rows is not None:
        streams |= state.memory
    if method.fisher is not None and state.ewc:
        own["ewc"] = {str(k): memory for k, memory in enumerate(state.ewc)}
    if method.asked is not None and earlier:
        generator = torch.Generator().manual_seed(int(seeds[0]))
        streams |= {f"asked {name}": method.asked(name, fields, generator) for name in earlier}
        own["old"] = weights_of(state.models)
    rate = {"": learner.learning_rate}
    if earlier and method.slower != 1.0:
        rate[learner.shared] = method.slower * learner.learning_rate
    return ManyModels(
        learner.build,
        objective_of(learner, domain, earlier),
        streams,
        settings,
        seeds,
        learning_rate=rate,
        own=own,
        optimizer=learner.optimizer,
    )


def _keep(state: _State, fields: Mapping[str, Tensor], domain: str, method: Method, seeds: Sequence[int]) -> None:
    if method.fisher is not None:
        state.ewc.append({"anchor": weights_of(state.models), "fisher": method.fisher(state.models, domain, fields)})
    kept = ReservoirBuffer(min(method.rows or 1, fields["click"].shape[1]), len(fields["click"]))
    kept.add(torch.Generator().manual_seed(int(seeds[0])), **fields)
    state.memory[domain] = kept.rows()


def weights_of(models: ManyModels) -> Weights:
    """Return all weights of a stack, by the names that one model has for them: (n_models, ...) each."""
    return {name: w.clone() for name, w in models.each_own(lambda model: dict(model.named_parameters())).items()}


def shuffled(fisher: Callable) -> Callable:
    """Return a Fisher whose numbers are dealt anew among the weights that the domain touched, model by model."""

    def dealt(models: ManyModels, domain: str, fields: Mapping[str, Tensor]) -> Weights:
        found = fisher(models, domain, fields)
        flat = torch.cat([value.flatten(1) for value in found.values()], dim=1)  # (M, P)
        generator = torch.Generator().manual_seed(0)
        for row in flat:
            touched = row.nonzero().squeeze(1)
            row[touched] = row[touched[torch.randperm(len(touched), generator=generator).to(row.device)]]
        parts = flat.split([value[0].numel() for value in found.values()], dim=1)
        return {name: part.view_as(value) for (name, value), part in zip(found.items(), parts, strict=True)}

    return dealt


def flat(fisher: Callable) -> Callable:
    """Return importance 1 for each weight that the domain touched, and 0 for the others."""
    return lambda *about: {name: (value > 0).to(value.dtype) for name, value in fisher(*about).items()}


def all_ones(models: ManyModels, domain: str, fields: Mapping[str, Tensor]) -> Weights:
    """Return importance 1 for every weight, also for those that the domain did not touch: broken on purpose."""
    return {name: torch.ones_like(value) for name, value in weights_of(models).items()}


def random_pairs(arrivals: Arrivals, n: int = 5000) -> Callable:
    """Return a `Method.asked`: users and items of an old domain at random, none of which needs to be kept."""

    def asked(old: str, fields: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        shape = (len(fields["click"]), n)
        return {
            "user": torch.randint(arrivals.n_users, shape, generator=generator),
            "item": torch.randint(arrivals.n_items[old], shape, generator=generator),
        }

    return asked


def new_rows(old: str, fields: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
    """Ask the network before about the new domain's rows, as learning without forgetting does: a `Method.asked`."""
    return {name: values for name, values in fields.items() if name != "click"}
