"""Federated training of many seeds at once: each server is what a loop written out for its seed comes to."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from recmtl_lessons.datasets.few_shot import Shop, Tasks, shop_users
from recmtl_lessons.models import FederatedRecommender, federated_average, private_average
from recmtl_lessons.training import DivergenceError
from recmtl_lessons.training.federated import Clients, FederatedLearner, Federation, draw_clients
from recmtl_lessons.training.few_shot import compare_learners, errors, score_rates, train

METHODS = ("fedavg", "per-fedavg", "per-fedavg-first-order", "reconstruction")
SEEDS, N, ROWS, WIDTH, SHOTS = (3, 8, 5), 12, 7, 4, 3
RATE = 0.25

each_method = pytest.mark.parametrize("method", METHODS)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clients(seeds=SEEDS):
    """From one to four known rows of either part; the data of a seed are its own."""
    x = torch.stack([normal(N, ROWS, WIDTH, seed=seed) for seed in seeds])
    y = torch.stack([normal(N, ROWS, seed=100 + seed) for seed in seeds]) + x.sum(-1)
    known = torch.ones(len(seeds), N, ROWS, dtype=torch.bool)
    for c in range(N):
        known[:, c, 1 + c % SHOTS : SHOTS] = False
        known[:, c, SHOTS + 1 + c % 4 :] = False
    return Clients(x, y, known)


def some_of(all_clients, places):
    return Clients(all_clients.x[places], all_clients.y[places], all_clients.known[places])


def build(method="fedavg", **changed):
    options = {"local_steps": 3, "local_lr": 0.0625, "support_rows": SHOTS, **changed}
    return lambda: FederatedRecommender(WIDTH, (5,), method, **options).double()


def federation(method="fedavg", seeds=SEEDS, data=None, **changed):
    data = clients(seeds) if data is None else data
    return Federation(build(method), data, seeds, **{"sampling_rate": RATE, "device": "cpu", **changed})


def rounds(servers, steps, every=20):
    """Go through rounds; return the servers."""
    list(servers.train(steps, every))
    return servers


def weights_of(servers):
    return dict(servers._parameters)


def by_hand(seed, data, steps, mean, method="fedavg", server_lr=1.0, local_lr=None, own=build):
    """One server of one seed: those who are drawn take local steps, their mean is added."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = own(method)()
    noise = torch.Generator().manual_seed(3_000_017 * (seed + 1))
    for taken in draw_clients(data.x.shape[1], RATE, steps, seed):
        who = taken.nonzero().squeeze(1)
        size = model.update_size
        sent = torch.zeros(1, size, dtype=torch.float64)
        if len(who):
            sent = model.client_updates(data.x[0, who], data.y[0, who], data.known[0, who], local_lr=local_lr)
        move = mean(sent, data.known[0, who].sum(1), torch.randn(size, generator=noise))
        with torch.no_grad():
            for name, way in model.unflatten(server_lr * move).items():
                model.get_parameter(name).add_(way)
    return model


def by_rows(sent, counts, noise):
    return federated_average(sent, counts) if len(counts) else 0 * sent[0]


def uniform(sent, counts, noise):
    return sent.mean(0)


def private(sent, counts, noise):
    return private_average(sent, 0.5, 0.8, RATE * N, noise)


MEANS = {
    "uniform": (uniform, {}),
    "by rows": (by_rows, {"by_rows": True}),
    "private": (private, {"clip": 0.5, "noise_multiplier": 0.8}),
}
each_mean = pytest.mark.parametrize(("mean", "options"), MEANS.values(), ids=MEANS)


def assert_same(servers, number, model, atol=1e-9):
    for name, expected in model.state_dict().items():
        found = servers.model(number).state_dict()[name]
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)


class TestALoopOfOneSeed:
    @each_mean
    def test_comes_to_the_same(self, mean, options):
        data, servers = clients(), rounds(federation(**options), 12)
        for number, seed in enumerate(SEEDS):
            assert_same(servers, number, by_hand(seed, some_of(data, [number]), 12, mean))

    @each_method
    def test_with_any_method(self, method):
        """A reconstructed head is never the server's: it stays where it began."""
        data, servers = clients(), rounds(federation(method, by_rows=True), 8)
        for number, seed in enumerate(SEEDS):
            model = by_hand(seed, some_of(data, [number]), 8, by_rows, method)
            assert_same(servers, number, model)
            start = by_hand(seed, some_of(data, [number]), 1, lambda sent, *_: 0 * sent[0], method)
            before, after = start.state_dict(), servers.model(number).state_dict()
            moved = {name for name in before if not torch.equal(before[name], after[name])}
            heads = set() if method == "reconstruction" else {"head.weight", "head.bias"}
            assert moved == {"body.0.weight", "body.0.bias"} | heads

    @each_mean
    def test_with_rates_of_its_own(self, mean, options):
        data, rates = clients(), (0.03125, 0.125)
        servers = rounds(federation(server_lr=0.5, local_lrs=rates, **options), 6)
        assert [setting["local_lr"] for setting in servers.settings] == [0.03125] * 3 + [0.125] * 3
        for index in range(6):
            own, seed = [index % 3], SEEDS[index % 3]
            model = by_hand(seed, some_of(data, own), 6, mean, server_lr=0.5, local_lr=rates[index // 3])
            assert_same(servers, index, model)

    def test_in_float32(self):
        data = clients()
        data = Clients(data.x.float(), data.y.float(), data.known)

        def own(method="fedavg"):
            return lambda: FederatedRecommender(WIDTH, (5,), method, local_steps=3, support_rows=SHOTS)

        servers = rounds(Federation(own(), data, SEEDS, RATE, by_rows=True, device="cpu"), 10)
        for number, seed in enumerate(SEEDS):
            assert_same(servers, number, by_hand(seed, some_of(data, [number]), 10, by_rows, own=own), 1e-6)

    def test_frozen_weights_stay(self):
        def frozen():
            model = build()()
            model.body.requires_grad_(False)
            return model

        servers = Federation(frozen, clients(), SEEDS, RATE, device="cpu")
        before = {name: value.clone() for name, value in weights_of(servers).items()}
        for name, value in weights_of(rounds(servers, 5)).items():
            assert torch.equal(value, before[name]) == name.startswith("model.body."), name


@each_mean
def test_what_stands_beside_does_not_matter(mean, options):
    """Neither other seeds nor other settings; also where others have fewer or more clients in a round."""
    together = rounds(federation(local_lrs=(0.02, 0.1), **options), 10)
    for number, seed in enumerate(SEEDS):
        for place, rate in enumerate((0.02, 0.1)):
            alone = federation(seeds=(seed,), data=some_of(clients(), [number]), local_lrs=(rate,), **options)
            assert_same(together, 3 * place + number, rounds(alone, 10).model(0))


def test_who_is_not_drawn_does_not_matter():
    """Not even if their steps diverge beside those of another seed who has more clients in that round."""
    data = clients()
    drawn = torch.stack([draw_clients(N, RATE, 1, seed)[0] for seed in SEEDS])
    fewest = int(drawn.sum(1).argmin())
    assert drawn.sum(1).max() > drawn[fewest].sum()
    x = data.x.clone()
    x[fewest][~drawn[fewest]] = 1e200
    expected = rounds(federation(), 1)
    found = rounds(federation(data=replace(data, x=x)), 1)
    for number in range(3):
        assert_same(found, number, expected.model(number))


class TestWhoIsDrawn:
    def test_each_at_the_rate_whatever_others_do_and_did(self):
        """Poisson sampling: counts are binomial, clients and rounds do not hang together."""
        drawn = draw_clients(50, 0.2, 4000, seed=1).double()
        assert drawn.shape == (4000, 50)
        share = 0.2 * 0.8
        assert abs(float(drawn.mean()) - 0.2) < 4 * (share / 200_000) ** 0.5
        assert float((drawn.mean(0) - 0.2).abs().max()) < 4.5 * (share / 4000) ** 0.5
        counts = drawn.sum(1)
        assert float(counts.var()) == pytest.approx(50 * share, rel=4 * (2 / 4000) ** 0.5)
        z = (drawn - 0.2) / share**0.5
        off = (z.T @ z / 4000).fill_diagonal_(0)
        assert float(off.abs().max()) < 5.5 / 4000**0.5  # of 1,225 pairs
        for lag in (1, 2, 5):
            assert abs(float((z[lag:] * z[:-lag]).mean())) < 4 / (4000 * 50) ** 0.5

    def test_everyone_or_nobody(self):
        assert draw_clients(5, 1.0, 20, 0).all()
        assert not draw_clients(5, 0.0, 20, 0).any()

    def test_by_the_seed_and_round_alone(self):
        drawn = draw_clients(9, 0.4, 30, 7)
        assert torch.equal(drawn, draw_clients(9, 0.4, 30, 7))
        assert not torch.equal(drawn, draw_clients(9, 0.4, 30, 8))
        for fewer in (1, 2, 17):
            assert torch.equal(drawn[:fewer], draw_clients(9, 0.4, fewer, 7))
        luck = torch.random.get_rng_state()
        draw_clients(9, 0.4, 30, 7)
        assert torch.equal(torch.random.get_rng_state(), luck)


class TestARoundWithoutClients:
    """At a rate so low that nobody comes in the first rounds."""

    LOW = 1e-6

    def empty(self, **options):
        assert not any(draw_clients(N, self.LOW, 3, seed).any() for seed in SEEDS)
        return federation(sampling_rate=self.LOW, **options)

    @pytest.mark.parametrize("options", [{}, {"by_rows": True}, {"clip": 0.5}])
    def test_leaves_the_server_where_it_was(self, options):
        servers = self.empty(**options)
        before = {name: value.clone() for name, value in weights_of(servers).items()}
        for name, value in weights_of(rounds(servers, 3)).items():
            assert torch.equal(value, before[name])

    def test_adds_noise_alone_if_there_is_any(self):
        servers, expected = self.empty(clip=0.5, noise_multiplier=0.01), self.LOW * N
        before = [servers.model(number) for number in range(3)]
        rounds(servers, 3)
        for number, seed in enumerate(SEEDS):
            generator, total = torch.Generator().manual_seed(3_000_017 * (seed + 1)), 0.0
            for _ in range(3):
                total = total + torch.randn(before[number].update_size, generator=generator).double()
            for name, way in before[number].unflatten(0.01 * 0.5 * total / expected).items():
                found = servers.model(number).get_parameter(name)
                torch.testing.assert_close(found, before[number].get_parameter(name) + way, atol=1e-6, rtol=1e-9)

    def test_beside_seeds_who_have_some(self):
        data, servers = clients(), rounds(federation(), 30)
        empty = [not draw_clients(N, RATE, 30, seed).any(1).all() for seed in SEEDS]
        assert any(empty)
        for number, seed in enumerate(SEEDS):
            model = by_hand(seed, some_of(data, [number]), 30, uniform)
            assert_same(servers, number, model, 1e-8)


class TestTraining:
    @each_mean
    def test_twice_is_once(self, mean, options):
        once, twice = rounds(federation(**options), 20), rounds(rounds(federation(**options), 10), 10)
        for name, value in weights_of(once).items():
            assert torch.equal(weights_of(twice)[name], value)

    @each_mean
    def test_knows_nothing_of_the_future(self, mean, options):
        """To leave the loop is to have trained no longer; clients who come later have no part."""
        left, short = federation(**options), rounds(federation(**options), 4)
        for moment in left.train(50, every=4):
            assert (moment.step, moment.steps) == (4, 50)
            break
        drawn = torch.stack([draw_clients(N, RATE, 4, seed).any(0) for seed in SEEDS])  # (S, N)
        assert not drawn.all()
        data = clients()
        other = replace(data, y=torch.where(drawn.unsqueeze(2), data.y, 50 + data.y))
        for servers in (left, rounds(federation(data=other, **options), 4)):
            for name, value in weights_of(short).items():
                assert torch.equal(weights_of(servers)[name], value)

    def test_from_the_same_start_whatever_the_setting(self):
        servers = federation(local_lrs=(0.02, 0.1))
        for value in weights_of(servers).values():
            assert torch.equal(value[:3], value[3:])

    def test_moments_come_as_often_as_asked(self):
        assert [(m.step, m.steps) for m in federation().train(7, every=3)] == [(3, 7), (6, 7), (7, 7)]

    def test_with_a_bar_or_without(self, capfd):
        shown = federation().fit(3, "shop", every=1)
        assert "shop, 3 models" in "".join(capfd.readouterr())
        quiet = federation().fit(3, "", every=3)
        assert capfd.readouterr() == ("", "")
        for name, value in weights_of(shown).items():
            assert torch.equal(weights_of(quiet)[name], value)

    def test_torchs_generator_and_the_clients_stay(self):
        data = clients()
        before, luck = copy.deepcopy(data), torch.random.get_rng_state()
        rounds(federation(data=data, clip=1.0, noise_multiplier=1.0), 3)
        assert torch.equal(torch.random.get_rng_state(), luck)
        assert all(torch.equal(getattr(data, f), getattr(before, f)) for f in ("x", "y", "known"))


class TestDivergence:
    @each_method
    def test_of_local_steps_changes_nothing(self, method):
        """A first round in which somebody comes; the noise of a round that failed is that of the next."""
        servers = federation(method, sampling_rate=1.0, local_lrs=(0.0625, 1e38), clip=1.0, noise_multiplier=1.0)
        before = {name: value.clone() for name, value in weights_of(servers).items()}
        noise = [generator.get_state() for generator in servers._noise]
        with pytest.raises(DivergenceError, match=r"^local_lr: got local steps that diverge, expected a lower rate"):
            rounds(servers, 2)
        assert all(torch.equal(value, before[name]) for name, value in weights_of(servers).items())
        assert all(torch.equal(g.get_state(), state) for g, state in zip(servers._noise, noise, strict=True))
        assert servers._done == 0

    def test_of_the_server(self):
        servers = federation(sampling_rate=1.0, server_lr=1e6)
        with pytest.raises(DivergenceError):
            rounds(servers, 200)
        assert all(torch.isfinite(value).all() for value in weights_of(servers).values())
        assert 0 < servers._done < 200


def some_tasks(users=6, query=5):
    known = torch.arange(query) < torch.tensor([1, 2, 3, 4, 5, 5])[:, None]
    return Tasks(
        torch.arange(users).expand(2, users),
        normal(2, users, 3, WIDTH),
        normal(2, users, 3, seed=1),
        normal(2, users, query, WIDTH, seed=2),
        normal(2, users, query, seed=3),
        known.expand(2, users, query),
    )


class TestClients:
    def test_of_tasks_have_their_support_rows_first(self):
        tasks = some_tasks()
        found = Clients.of(tasks)
        assert torch.equal(found.x[:, :, :3], tasks.support_x)
        assert torch.equal(found.x[:, :, 3:], tasks.query_x)
        assert torch.equal(found.y[:, :, :3], tasks.support_y)
        assert torch.equal(found.y[:, :, 3:], tasks.query_y)
        assert found.known[:, :, :3].all()
        assert torch.equal(found.known[:, :, 3:], tasks.known)

    def test_count_their_known_rows(self):
        assert Clients.of(some_tasks()).rows.tolist() == [[4, 5, 6, 7, 8, 8]] * 2
        assert torch.equal(clients().rows, clients().known.sum(2))


HIDDEN = (4,)
LEARNERS = {
    "FedAvg": FederatedLearner(sampling_rate=0.4),
    "Per-FedAvg": FederatedLearner("per-fedavg", local_steps=2, rate=0.02, sampling_rate=0.4),
    "reconstruction": FederatedLearner("reconstruction", ridge=2.0, sampling_rate=0.4),
    "private": FederatedLearner(clip=0.1, noise_multiplier=1.0, sampling_rate=0.4),
}


@pytest.fixture(scope="module")
def users():
    return shop_users(Shop(ratings=30, query=10, episodes=1, train_users=20, valid_users=6, test_users=4), (0, 1))


class TestLearners:
    def test_are_federations_with_their_settings(self, users):
        learner = FederatedLearner(
            "per-fedavg", local_steps=2, meta_lr=0.5, inner_lr=0.02, rate=0.03, sampling_rate=0.3, ridge=4.0
        )

        def own():
            options = {"local_steps": 2, "local_lr": 0.02, "inner_lr": 0.03, "support_rows": 10, "ridge": 4.0}
            return FederatedRecommender(16, HIDDEN, "per-fedavg", **options)

        found = train(learner, users.train, (0, 1), HIDDEN, 5)
        expected = rounds(Federation(own, Clients.of(users.train), (0, 1), 0.3, 0.5), 5)
        for name, value in weights_of(expected).items():
            assert torch.equal(weights_of(found)[name], value)
        model = found.model(0)
        assert (model.ridge, model.support_rows, model.inner_lr, model.local_lr) == (4.0, 10, 0.03, 0.02)
        noisy = replace(learner, clip=0.2, noise_multiplier=2.0)
        found = train(noisy, users.train, (0, 1), HIDDEN, 5)
        expected = Federation(own, Clients.of(users.train), (0, 1), 0.3, 0.5, clip=0.2, noise_multiplier=2.0)
        for name, value in weights_of(rounds(expected, 5)).items():
            assert torch.equal(weights_of(found)[name], value)

    @pytest.mark.parametrize("name", LEARNERS)
    def test_their_error_is_that_of_each_user_alone(self, users, name):
        learner, test = LEARNERS[name], users.test.shots(10)
        servers = train(learner, users.train, (0, 1), HIDDEN, 5)
        found = errors(learner, servers, test, 0.04, (0, 3))  # (steps, settings, seeds)
        for number in range(2):
            model = servers.model(number)
            for place, steps in enumerate((0, 3)):
                off = []
                for c in range(test.support_y.shape[1]):
                    params = model.personalise(test.support_x[number, c], test.support_y[number, c], steps, None, 0.04)
                    off.append((model.predict(test.query_x[number, c], params) - test.query_y[number, c]).abs().mean())
                torch.testing.assert_close(found[place, 0, number], torch.stack(off).mean(), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("name", LEARNERS)
    def test_rates_are_scored_and_one_that_diverges_has_lost(self, users, name):
        learner = LEARNERS[name]
        found = score_rates(learner, users.train, users.valid, (0, 1), (0.5, 1.0), (0.03, 1e30), HIDDEN, (0.03, 0.1), 3)
        assert len(found) == 8
        for (meta_lr, inner, rate), value in found.items():
            if inner == 1e30:
                assert value == math.inf
            else:
                servers = train(replace(learner, meta_lr=meta_lr, inner_lr=inner), users.train, (0, 1), HIDDEN, 3)
                expected = float(errors(learner, servers, users.valid, rate, (3,)).mean())
                assert value == pytest.approx(expected, abs=1e-5)

    def test_are_compared(self, users):
        found = compare_learners(LEARNERS, users, (0, 1), HIDDEN, 4)
        assert found.after.arms == tuple(LEARNERS)
        assert torch.isfinite(found.by_step.values).all()
        for name, learner in LEARNERS.items():
            own = errors(learner, found.models[name], users.test.shots(10), learner.rate, (3,))[0, 0]
            torch.testing.assert_close(found.after.only(name).values[0], own)
