"""The lesson's arms and controls, and what is measured of them."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call, grad

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import (
    SHOTS,
    ColdStart,
    Shop,
    Tasks,
    film_mean_and_offset,
    film_users,
    own_mean,
    shop_users,
)
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.models import (
    FederatedRecommender,
    SecureAggregation,
    clip_updates,
    dequantize,
    federated_average,
    pairwise_mask,
    privacy_spent,
    quantize,
)
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import Scores
from recmtl_lessons.training.federated import Clients, FederatedLearner, Federation, draw_clients
from recmtl_lessons.training.few_shot import (
    ERROR,
    INNER_STEPS,
    FewShotLearner,
    MAMLLearner,
    errors,
    joint_objective,
    mean_error,
    over_seeds,
    score_rates,
)
from recmtl_lessons.training.jobs import concurrently_for
from recmtl_lessons.training.progress import Moment, with_bar
from recmtl_lessons.training.stacked import Stack

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
HIDDEN, ROUNDS, PEOPLE = tuple(SETTINGS["hidden_dims"]), SETTINGS["rounds"], SETTINGS["people"]
RATE, PRIVATE = SETTINGS["sampling_rate"], SETTINGS["private"]
LOCAL_STEPS = {"one step": 1, "five steps": 5, "twenty steps": 20}
EVERY = 10  # rounds between two looks


def open_shop(seeds: Sequence[int] = SEEDS, taste_spread: float = 0.7, people: int = PEOPLE) -> ColdStart:
    """Return lesson 04's shop, in which each person has twenty ratings, and no more are anywhere."""
    return shop_users(Shop(taste_spread=taste_spread, episodes=1, train_users=people), tuple(seeds))


def dealt_anew(users: ColdStart, seeds: Sequence[int]) -> ColdStart:
    """Return the same people, but for those who train: all their ratings are shuffled over them, within each seed."""
    train, rows = users.train, SHOTS
    x, y = (torch.cat([getattr(train, f"{k}_{f}") for k in ("support", "query")], dim=2) for f in ("x", "y"))
    for k, seed in enumerate(seeds):
        order = torch.randperm(y[k].numel(), generator=torch.Generator().manual_seed(seed))
        x[k], y[k] = x[k].flatten(0, 1)[order].view_as(x[k]), y[k].flatten()[order].view_as(y[k])
    fields = {
        "support_x": x[:, :, :rows],
        "query_x": x[:, :, rows:],
        "support_y": y[..., :rows],
        "query_y": y[..., rows:],
    }
    return replace(users, train=replace(train, **fields))


def learner_of(arm: str, shop: str = "chosen") -> FewShotLearner:
    """Return an arm with what was chosen for it, in the usual shop or in that of ``"one_taste"``."""
    return _learner(arm, *SETTINGS[shop][arm])


def _learner(arm: str, outer: float, rate: float) -> FewShotLearner:
    if arm == "central":
        return MAMLLearner(joint_objective, outer, rate)
    return FederatedLearner(local_steps=LOCAL_STEPS[arm], inner_lr=outer, rate=rate, sampling_rate=RATE)


def _steps(arm: str) -> int:
    return SETTINGS["central_steps"] if arm == "central" else ROUNDS


def score_arm(arm: str, users: ColdStart) -> dict[tuple[float, float], float]:
    """Score an arm's tries by the error of validation users of the design seeds: {(rate, rate): error}."""
    tries = SETTINGS["tried"][arm]
    outer, inner = (tries, None) if arm == "central" else ((1.0,), tries)
    learner, valid = _learner(arm, tries[0], 0.05), users.valid.shots(SHOTS)
    scores = score_rates(
        learner,
        users.train,
        valid,
        DESIGN_SEEDS,
        outer,
        inner,
        HIDDEN,
        SETTINGS["tried"]["for a person"],
        _steps(arm),
    )
    return {((key[0] if arm == "central" else key[1]), key[2]): value for key, value in scores.items()}


def score_thirty_steps(arm: str) -> dict[float, float]:
    """Score an arm's rates for a new person who takes thirty steps: {rate: error}."""
    users, learner = open_shop(DESIGN_SEEDS), learner_of(arm)
    stack, valid = _trained(learner, users, DESIGN_SEEDS, _steps(arm), ""), users.valid.shots(SHOTS)
    tried = SETTINGS["tried"]["for a person"]
    return dict(zip(tried, (over_seeds(errors(learner, stack, valid, r, (30,))[0])[0] for r in tried), strict=True))


def score_clips(users: ColdStart, shop: str = "chosen") -> dict[float, float]:
    """Score the lengths to which updates are clipped, with the smaller noise, on validation users: {clip: error}."""
    five, valid, noise = learner_of("five steps", shop), users.valid.shots(SHOTS), PRIVATE["noise"][0]
    found = {}
    for clip in PRIVATE["tried"]:
        stack = _trained(replace(five, clip=clip, noise_multiplier=noise), users, DESIGN_SEEDS, ROUNDS, "")
        found[clip] = float(errors(five, stack, valid, five.rate, (INNER_STEPS,)).mean())
    return found


def _trained(learner: FewShotLearner, users: ColdStart, seeds: Sequence[int], steps: int, label: str) -> Stack:
    return learner.stack(users.train, seeds, HIDDEN).fit(steps, label, every=steps)


# Central and federated training.


@dataclass(frozen=True)
class Compared:
    """Mean absolute error of new people, in stars: as the network is, after three steps, and after thirty."""

    before: Scores
    after: Scores
    longer: Scores


@dataclass(frozen=True)
class Followed:
    """Eight servers, and the errors of new people at every tenth round: a list of (2, S), before and after."""

    stack: Stack
    kept: list[Tensor]


@lru_cache(maxsize=4)
def _followed(arm: str, rounds: int = ROUNDS) -> Followed:
    for _, stack, kept in follow(learner_of(arm), open_shop(), SEEDS, rounds, label=f"{arm}, 8 models"):
        last = Followed(stack, kept)
    return last


def follow(
    learner: FewShotLearner, users: ColdStart, seeds: Sequence[int], rounds: int, every: int = EVERY, label: str = ""
) -> Iterator[tuple[Moment, Stack, list[Tensor]]]:
    """Train, and yield the moment, the servers, and the errors of new people so far, a list of (2, S)."""
    stack, test, kept = learner.stack(users.train, seeds, HIDDEN), users.test.shots(SHOTS), []
    for moment in with_bar(stack.train(rounds, every), label, rounds, "rounds"):
        kept.append(errors(learner, stack, test, learner.rate, (0, INNER_STEPS))[:, 0])
        yield moment, stack, kept


def _judged(stacks: Mapping[str, Stack], learners: Mapping[str, FewShotLearner], users: ColdStart) -> Compared:
    """Judge every arm by the same new people; and answer with their own mean."""
    test, found, longer = users.test.shots(SHOTS), {}, {}
    for arm, stack in stacks.items():
        found[arm] = errors(learners[arm], stack, test, learners[arm].rate, (0, INNER_STEPS))[:, 0]
        if arm in SETTINGS["thirty_steps"]:
            longer[arm] = errors(learners[arm], stack, test, SETTINGS["thirty_steps"][arm], (30,))[0, 0]
    before, after = ({arm: own[k] for arm, own in found.items()} for k in (0, 1))
    after["own mean"] = mean_error(own_mean(test), test)
    return Compared(*(Scores.of(ERROR, own) for own in (before, after, longer)))


@lru_cache(maxsize=1)
def compare() -> Compared:
    """Train central, one and five local steps, each with what was chosen for it.

    "dealt" takes five local steps on phones to which all ratings were dealt at random.
    """
    users, learners = open_shop(), {arm: learner_of(arm) for arm in ("central", "one step", "five steps")}
    learners["dealt"] = learner_of("five steps", "dealt")

    def learn(arm: str) -> Stack:
        if arm in LOCAL_STEPS:
            return _followed(arm).stack
        own = dealt_anew(users, SEEDS) if arm == "dealt" else users
        return _trained(learners[arm], own, SEEDS, _steps(arm), arm)

    return _judged(concurrently_for(learners, learn), learners, users)


def compare_one_taste() -> Compared:
    """Train central training and five local steps where all have one taste, with what was chosen for that."""
    users = open_shop(taste_spread=0.0)
    learners = {arm: learner_of(arm, "one_taste") for arm in SETTINGS["one_taste"]}

    def learn(arm: str) -> Stack:
        return _trained(learners[arm], users, SEEDS, _steps(arm), f"{arm}, one taste")

    return _judged(concurrently_for(learners, learn), learners, users)


def over_rounds(kept: Mapping[Hashable, Sequence[Tensor]], every: int = EVERY) -> dict[str, Scores]:
    """Return the ``before`` and ``after`` of arms at every so many rounds, from lists of (2, S)."""
    found = {name: torch.stack(list(own), dim=2) for name, own in kept.items()}  # (2, S, moments)
    steps = tuple(every * (k + 1) for k in range(next(iter(found.values())).shape[2]))
    return {
        part: Scores.of(ERROR, {name: own[k] for name, own in found.items()}, steps)
        for k, part in enumerate(("before", "after"))
    }


@lru_cache(maxsize=1)
def band() -> dict[str, Scores]:
    """Train eight servers with one local step, and eight with five, both at the rate of five; error over the rounds."""
    five = learner_of("five steps")

    def learn(arm: str) -> list[Tensor]:
        if arm == "five steps":
            return _followed(arm).kept
        one = replace(five, local_steps=1)
        return [kept for _, _, kept in follow(one, open_shop(), SEEDS, ROUNDS, label=f"{arm}, 8 models")][-1]

    return over_rounds(concurrently_for(("one step", "five steps"), learn))


def local_steps(rounds: int = 30) -> Scores:
    """Return the error after three steps, over the rounds, of one, five and twenty local steps, each at its best."""

    def learn(arm: str) -> list[Tensor]:
        own = _followed(arm, rounds) if arm == "twenty steps" else _followed(arm)  # the others are trained already
        return own.kept[: rounds // EVERY]

    found = concurrently_for(LOCAL_STEPS, learn)
    return over_rounds(found)["after"]


# One server in the notebook.


@dataclass(frozen=True)
class Phones:
    """The clients of one seed, and who takes part.

    Attributes
    ----------
    x, y, known : Tensor, (N, R, F), (N, R) and (N, R)
        As in `Clients`.
    taken : Tensor, (rounds, N), bool
    """

    x: Tensor
    y: Tensor
    known: Tensor
    taken: Tensor


def one_shop(seed: int, dtype: torch.dtype = torch.float32) -> Phones:
    """Return the clients of one seed, and who takes part in each round."""
    users = Clients.of(open_shop((seed,)).train)
    taken = draw_clients(users.x.shape[1], RATE, ROUNDS, seed)
    return Phones(users.x[0].to(dtype), users.y[0].to(dtype), users.known[0], taken)


def make_network(seed: int) -> FederatedRecommender:
    """Return the network of a seed as it begins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FederatedRecommender(16, HIDDEN, local_lr=SETTINGS["chosen"]["five steps"][0])


def held_out(params: Mapping[str, Tensor], seed: int) -> tuple[float, float]:
    """Return the error of a seed's new people by these parameters, as they are and after three steps, in stars."""
    test, rate = open_shop((seed,)).test.shots(SHOTS), SETTINGS["chosen"]["five steps"][1]
    return tuple(float(e) for e in _errors_of(dict(params), test, rate))


def _errors_of(params: dict[str, Tensor], tasks: Tasks, rate: float) -> list[Tensor]:
    network = make_network(0)
    params = {name: value.detach().float() for name, value in params.items()}

    def answer(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        own = network.personalise(support_x, support_y, INNER_STEPS, params, rate)
        return torch.stack([network(query_x, p).squeeze(1) for p in (params, own)])

    answers = torch.vmap(answer)(tasks.support_x[0], tasks.support_y[0], tasks.query_x[0])  # (T, 2, Q)
    return [mean_error(answers[:, k][None], tasks) for k in (0, 1)]


def own_scores(curves: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Scores]:
    """Return the curves of one's own servers, each a list of `held_out` at every tenth round."""
    values = torch.tensor(curves)  # (servers, moments, 2)
    return over_rounds({"yours": values.permute(1, 2, 0)})


def difference_from_the_stack(train: Callable) -> dict[str, float]:
    """Return by how much one's own server differs at most from the stack's, in any weight: {arm: difference}.

    Parameters
    ----------
    train : callable (phi, phones) -> phi
        As the notebook writes it; phones and parameters come in double precision.
    """
    seeds = SEEDS[:2]
    phi = {name: value.detach().double() for name, value in make_network(seeds[0]).named_weights().items()}
    mine = train(phi, one_shop(seeds[0], torch.float64))
    both = Clients.of(open_shop(seeds).train)
    double = Clients(both.x.double(), both.y.double(), both.known)
    found = {}
    for arm, steps in (("one step", 1), ("five steps", 5)):
        stack = Federation(partial(_in_double, steps), double, seeds, RATE).fit(ROUNDS, "", every=ROUNDS)
        theirs = dict(stack.model(0).named_weights())
        found[arm] = max(float((mine[name] - theirs[name]).detach().abs().max()) for name in theirs)
    return found


def _in_double(steps: int) -> FederatedRecommender:
    rate = SETTINGS["chosen"]["five steps"][0]
    return FederatedRecommender(16, HIDDEN, local_steps=steps, local_lr=rate).double()


# Privacy.


def epsilon(people: int, noise: float, rounds: int = ROUNDS, expected: float = RATE * PEOPLE) -> float:
    """Return epsilon at the lesson's delta, when so many people are expected in each round."""
    return privacy_spent(expected / people, noise, rounds, PRIVATE["delta"])


def private_rounds() -> tuple[Scores, dict[Hashable, float]]:
    """Train five local steps with clipping and noise, thirty expected people a round, of 300 people and of 3,000.

    Returns
    -------
    Scores, {arm: epsilon}
        The arms are ``("open", 300)``, ``("clipped", 300)`` and ``(noise, people)``; error after three steps.
    """
    five, arms = learner_of("five steps"), {}
    for people in (PEOPLE, 10 * PEOPLE):
        clipped = replace(five, sampling_rate=RATE * PEOPLE / people, clip=PRIVATE["clip"])
        tried = PRIVATE["noise"] if people == PEOPLE else PRIVATE["noise"][:1]
        arms |= {(noise, people): replace(clipped, noise_multiplier=noise) for noise in tried}
    arms["clipped", PEOPLE] = replace(five, clip=PRIVATE["clip"])

    def learn(arm: tuple) -> Tensor:
        users = open_shop(people=arm[1])
        stack = _trained(arms[arm], users, SEEDS, ROUNDS, f"{arm[1]} people, noise {arm[0]}")
        return errors(five, stack, users.test.shots(SHOTS), five.rate, (INNER_STEPS,))[0, 0]

    found = {("open", PEOPLE): compare().after["five steps"], **concurrently_for(arms, learn)}
    spent = {(n, people): epsilon(people, 0.0 if isinstance(n, str) else n) for n, people in found}
    return Scores.of(ERROR, found), spent


@dataclass(frozen=True)
class Masked:
    """What five clients send, and what the server makes of it.

    Attributes
    ----------
    updates : Tensor, (5, P)
        What they would have sent without masks.
    messages : Tensor, (5, P)
        What they send: whole numbers below 2^32, or floats.
    here : tuple of int
        Who answered.
    total : Tensor, (P,)
        What the server reads as the sum of the updates.
    """

    updates: Tensor
    messages: Tensor
    here: tuple[int, ...]
    total: Tensor

    @property
    def off(self) -> float:
        """Return the largest error of the sum."""
        return float((self.total - self.updates[list(self.here)].double().sum(0)).abs().max())


MASKED_CLIENTS, MASKED_SIZE, _FLOAT_MASK = 5, 24, 1e4


@lru_cache(maxsize=8)
def client_updates(seed: int = 0) -> Tensor:
    """Return some of the numbers that five clients of one seed send in the first round, (5, P)."""
    phones = one_shop(SEEDS[seed])
    updates = make_network(SEEDS[seed]).client_updates(phones.x[:MASKED_CLIENTS], phones.y[:MASKED_CLIENTS])
    return updates[:, -MASKED_SIZE:]  # the head's


def send_masked(dropped: str, shares: bool, masks: str, seed: int = 0) -> Masked:
    """Let five clients mask their updates in pairs, by whole numbers or by floats; one of them may drop out.

    With shares of the lost one's key the others help the server to the masks that did not cancel.
    """
    updates, generator = client_updates(seed), torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**32, (MASKED_CLIENTS, MASKED_CLIENTS), generator=generator).triu(1)
    pairs = [pairwise_mask(seeds + seeds.T, k, MASKED_SIZE) for k in range(MASKED_CLIENTS)]
    here = [k for k in range(MASKED_CLIENTS) if str(k + 1) != dropped]
    lost = [k for k in range(MASKED_CLIENTS) if k not in here] if shares else []
    if masks == "floats":
        messages, added = _float_messages(updates, generator)
        total = sum((messages[k] for k in here), torch.zeros(MASKED_SIZE)) + sum(added[k] for k in lost)
    else:
        messages = torch.stack([(quantize(u) + m) % 2**32 for u, m in zip(updates, pairs, strict=True)])
        total = (messages[here].sum(0) + sum(pairs[k] for k in lost)) % 2**32
        total = dequantize(total, len(here))
    return Masked(updates, messages, tuple(here), total.double())


def _float_messages(updates: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mask by floats of size 10,000, in single precision: the messages and the masks, (C, P) each."""
    clients, size = updates.shape
    noise = _FLOAT_MASK * torch.randn(clients, clients, size, generator=generator)
    pair = torch.stack(
        [torch.stack([noise[min(i, j), max(i, j)] * _sign(i, j) for j in range(clients)]) for i in range(clients)]
    )
    messages = updates
    for j in range(clients):
        messages = messages + pair[:, j]
    return messages, pair.sum(1)


def _sign(i: int, j: int) -> int:
    return (j > i) - (j < i)


def float_masks_off(clients: int = 20, size: int = 1000) -> tuple[float, float]:
    """Return the largest error of a sum of masked updates, by float masks and by whole numbers, twenty clients."""
    generator = torch.Generator().manual_seed(0)
    updates = 0.1 * torch.randn(clients, size, generator=generator)
    messages, _ = _float_messages(updates, generator)
    aggregation = SecureAggregation(clients, clients // 2 + 1, 0)
    whole = aggregation.sum({k: aggregation.message(k, u) for k, u in enumerate(updates)})
    truth = updates.double().sum(0)
    return float((messages.sum(0) - truth).abs().max()), float((whole - truth).abs().max())


# Where it breaks.


def weights_forgotten(heavy: int = 18, light: int = 4, rounds: int = ROUNDS) -> dict[str, Scores]:
    """Let the more generous half give many ratings and the others few; average by rows, and with equal weights.

    Returns
    -------
    dict {"promise", "people": Scores}
        The mean prediction for those who gave few ratings, less their ratings; and the squared error over people. Both
        as the network is.
    """
    everyone, five = Clients.of(open_shop().train), learner_of("five steps")
    own = everyone.y.mean(2)  # (S, N)
    generous = own > own.median(1, keepdim=True).values
    known = torch.arange(everyone.y.shape[2]) < torch.where(generous, heavy, light).unsqueeze(2)
    clients = Clients(everyone.x, everyone.y, known)

    def learn(by_rows: bool) -> Tensor:
        def build() -> FederatedRecommender:
            return FederatedRecommender(16, HIDDEN, local_lr=five.inner_lr)

        label = "by rows" if by_rows else "equal weights"
        stack = Federation(build, clients, SEEDS, RATE, by_rows=by_rows).fit(rounds, label, every=rounds)
        x = clients.x.flatten(1, 2)
        return stack.each(lambda model, x: model(x).squeeze(1), x).cpu().view_as(clients.y) - clients.y

    found = {("by rows" if by else "equal"): off for by, off in concurrently_for((True, False), learn).items()}
    few = ~generous.unsqueeze(2) & known
    promise = {name: (off * few).sum((1, 2)) / few.sum((1, 2)) for name, off in found.items()}
    people = {name: ((off.square() * known).sum(2) / known.sum(2)).mean(1) for name, off in found.items()}
    return {
        "promise": Scores.of("prediction minus rating, stars", promise),
        "people": Scores.of("squared error over people", people),
    }


def peeking() -> Scores:
    """Return the error after three steps: on the ten ratings given, and on the very ratings that are judged."""
    stack, five, test = _followed("five steps").stack, learner_of("five steps"), open_shop().test.shots(SHOTS)
    both = {"honest": test, "peeked": replace(test, support_x=test.query_x, support_y=test.query_y)}
    return Scores.of(ERROR, {k: errors(five, stack, t, five.rate, (INNER_STEPS,))[0, 0] for k, t in both.items()})


def heavy_client(rows: float = 100.0, clients: int = 10) -> dict[str, float]:
    """Return how far one client moves the mean of ten, clipped at 1: weighed by so many times the rows, and alike."""
    updates = torch.zeros(clients, 3)
    updates[0, 0] = 50.0
    clipped = clip_updates(updates, 1.0)
    weights = torch.ones(clients)
    weights[0] = rows
    found = {"by rows": weights, "uniform": torch.ones(clients)}
    return {name: float(federated_average(clipped, own).norm()) for name, own in found.items()}


# Films.


def films(ratings: Ratings) -> Scores:
    """Return the error on films: simple answers, central and federated training, and the latter in private.

    Each was chosen among 36 tries on validation users of other splits, and the clip among six.
    """
    users, five = film_users(ratings, SEEDS, episodes=1), learner_of("five steps", "films")
    private = replace(five, clip=PRIVATE["films"], noise_multiplier=PRIVATE["noise"][0])
    learners = {"central": learner_of("central", "films"), "five steps": five, "private": private}
    test = users.test

    def learn(arm: str) -> Tensor:
        stack = _trained(learners[arm], users, SEEDS, _steps(arm), f"films, {arm}")
        return errors(learners[arm], stack, test, learners[arm].rate, (INNER_STEPS,))[0, 0]

    answers = {"own mean": own_mean, "film mean and offset": film_mean_and_offset}
    simple = {name: mean_error(answer(test), test) for name, answer in answers.items()}
    return Scores.of(ERROR, {**simple, **concurrently_for(learners, learn)})


# Live.


@dataclass(frozen=True)
class LiveRounds:
    """Four servers on their way.

    Attributes
    ----------
    over_rounds : dict {"before", "after": Scores}
    spent : list of float
        Epsilon after as many rounds; infinite without noise.
    own_mean : float
        The error of answering with a person's own mean.
    """

    over_rounds: dict[str, Scores]
    spent: list[float]
    own_mean: float


LIVE_ROUNDS, _LIVE_SEEDS = 100, 4


def train_live(
    local_steps: int, clients: int, spread: float, noise: float, clip: float, seed: int
) -> Iterator[Running]:
    """Train four servers with these settings; ``seed`` k takes the k-th four shops."""
    seeds = tuple(SEEDS[0] + _LIVE_SEEDS * seed + k for k in range(_LIVE_SEEDS))
    users, five = open_shop(seeds, spread), learner_of("five steps")
    learner = replace(five, local_steps=local_steps, sampling_rate=clients / PEOPLE, clip=clip, noise_multiplier=noise)
    test = users.test.shots(SHOTS)
    alone = float(mean_error(own_mean(test), test).mean())

    def snapshot(kept: list[Tensor]) -> LiveRounds:
        found = over_rounds({"live": kept}, 10)
        spent = [epsilon(PEOPLE, noise, rounds, clients) for rounds in found["after"].steps]
        return LiveRounds(found, spent, alone)

    for moment, _, kept in follow(learner, users, seeds, LIVE_ROUNDS, 10):
        yield Running(moment.step, moment.steps, partial(snapshot, list(kept)))
    return snapshot(kept)


# A round of the learner's own.

OWN_ROUNDS, _OWN_SEEDS = 60, 2


def train_with(answer: Callable[[Tensor, Callable, Tensor], Tensor]) -> Iterator[Running]:
    """Train the servers of the claims' first two seeds by rounds that a learner wrote: (w, gradient, rows) -> w."""
    curves: list[list[tuple[float, float]]] = []
    for k in range(_OWN_SEEDS):
        curves.append([])
        phones, network = one_shop(SEEDS[k]), make_network(SEEDS[k])
        w = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
        rows = phones.known.sum(1).float()
        for number, here in enumerate(phones.taken[:OWN_ROUNDS], start=1):
            x, y = phones.x[here], phones.y[here]
            w = answer(w.clone(), partial(_slope, network, x, y), rows[here])
            if number % EVERY == 0:
                curves[-1].append(held_out(network.unflatten(w), SEEDS[k]))
                whole = [list(curve) for curve in curves if len(curve) == len(curves[0])]
                yield Running(k * OWN_ROUNDS + number, _OWN_SEEDS * OWN_ROUNDS, partial(own_scores, whole))
    return own_scores(curves)


def _slope(network: FederatedRecommender, x: Tensor, y: Tensor, w: Tensor, client: int) -> Tensor:
    """Return the gradient of one client's loss at weights w, (P,)."""

    def loss(own: Tensor) -> Tensor:
        return (functional_call(network, network.unflatten(own), (x[client],)).squeeze(1) - y[client]).square().mean()

    return grad(loss)(w)
