"""The stacked training against plain PyTorch: one model, one loop, one Adam at a time."""

import math
import re
from itertools import islice

import pytest
import torch
from torch import nn

from recmtl_lessons.models import DomainAdversarialNetwork, domain_loss, lambda_schedule, task_loss
from recmtl_lessons.training import DivergenceError, ManyModels, Moment, Stack
from tests.support.refusals import fingerprint

CPU = torch.device("cpu")
CLICK = {"click": {"task_type": "classification", "output_dim": 1}}
SEEDS = (0, 3, 11)
WIDTH = 6

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Two kinds of training that the tests put on the stack: the course's network, and a plain regression.


def adversarial_network(dtype=torch.float32, dropout_rate=0.0):
    return DomainAdversarialNetwork(WIDTH, (16, 8), 2, CLICK, dropout_rate=dropout_rate).to(dtype)


def adversarial(model, batch, setting, progress):
    """A setting that weighs the loss, one that reverses, and a schedule that follows progress."""
    x = torch.cat([batch["home"]["x"], batch["abroad"]["x"]])
    click, logits = model(x, "click", setting["lam"] * lambda_schedule(progress))
    task = task_loss(click[: len(batch["home"]["x"])], batch["home"]["click"], CLICK["click"])
    domains = torch.arange(2, device=x.device).repeat_interleave(len(batch["home"]["x"]))
    domain = domain_loss(logits, domains)
    return setting["weight"] * task + domain, {"task": task, "domain": domain}


def two_shops(dtype=torch.float32, seeds=SEEDS):
    """Clicks that follow the features at home, and shifted features abroad; every seed has data of its own."""
    n = len(seeds)
    x = normal(n, 200, WIDTH, seed=1, dtype=dtype)
    noise = normal(n, 200, seed=2, dtype=dtype)
    return {
        "home": {"x": x, "click": (x[..., 0] + 0.5 * noise > 0).to(dtype)},
        "abroad": {"x": normal(n, 150, WIDTH, seed=3, dtype=dtype) + 1},
    }


GRID = {"lam": (0.0, 2.0), "weight": (1.0, 0.25)}  # exact in float32, so that they are the same in float64


def regression(model, batch, setting, progress):
    output = model(batch["shop"]["x"]).squeeze(-1)
    loss = (output - setting["slope"] * batch["shop"]["y"]).square().mean()
    return loss, {}


def one_shop(seeds=SEEDS, rows=100):
    x = normal(len(seeds), rows, WIDTH, seed=4)
    return {"shop": {"x": x, "y": x.sum(-1)}}


def stack_of(build=lambda: nn.Linear(WIDTH, 1), settings=None, seeds=SEEDS, objective=regression, data=None, **more):
    settings = {"slope": (1.0, -2.0)} if settings is None else settings
    more = {"batch_size": 16, "learning_rate": 1e-2, "device": CPU, **more}
    return ManyModels(build, objective, data or one_shop(seeds), settings, seeds, **more)


def run(stack, steps, **options):
    """Train to the end; returns the stack."""
    list(stack.train(steps, **options))
    return stack


def one_by_one(stack, build, objective, index, steps, groups, betas=(0.9, 0.999), every=20):
    """What model ``index`` of the stack should come to: returns the model and its history."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stack.seeds[index])
        model = build().train()
    optimizer = torch.optim.Adam(groups(model), betas=betas)
    setting = {name: torch.tensor(value) for name, value in stack.settings[index].items()}
    history = []
    for step, batch in enumerate(stack.draw_batches(index % stack.n_seeds, steps)):
        loss, logs = objective(model, batch, setting, step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == steps:
            history.append({name: float(value.detach()) for name, value in {"loss": loss, **logs}.items()})
    return model.eval(), history


def assert_same_as_one_by_one(stack, build, objective, steps, groups, tolerance, **options):
    for index in range(len(stack)):
        model, history = one_by_one(stack, build, objective, index, steps, groups, **options)
        found = stack.model(index).state_dict()
        for name, expected in model.state_dict().items():
            torch.testing.assert_close(found[name], expected, atol=tolerance, rtol=0, msg=f"{index} {name}")
        for name, values in stack.history.items():
            expected = torch.tensor([column[name] for column in history], dtype=values.dtype)
            torch.testing.assert_close(values[index], expected, atol=tolerance, rtol=0, msg=f"{index} {name}")


class TestSameNumbersAsOneByOne:
    def test_float32(self):
        """Thirty steps, to 1e-5.

        Why not more: rounding differs in the last digit between a stacked and a single matrix product, and where
        that tips a ReLU from one side to the other, the two trajectories part company for good. This is chaos and
        not error, as the next test shows, where rounding is a billion times smaller.
        """
        stack = run(
            stack_of(adversarial_network, GRID, objective=adversarial, data=two_shops(), learning_rate=1e-3), 30
        )
        groups = lambda model: [{"params": model.parameters(), "lr": 1e-3}]  # noqa: E731
        assert_same_as_one_by_one(stack, adversarial_network, adversarial, 30, groups, 1e-5)

    def test_float64_with_rates_and_betas(self):
        """Forty steps in double precision, to 1e-12, with two learning rates and other betas."""

        def build():
            return adversarial_network(torch.float64)

        def groups(model):
            fast = list(model.domain_classifier.parameters())
            slow = [*model.encoder.parameters(), *model.task_heads.parameters()]
            return [{"params": slow, "lr": 1e-3}, {"params": fast, "lr": 5e-3}]

        stack = stack_of(
            build,
            {"lam": (0.0, 1.0), "weight": (1.0,)},
            objective=adversarial,
            data=two_shops(torch.float64),
            learning_rate={"": 1e-3, "domain_classifier": 5e-3},
            betas=(0.5, 0.999),
        )
        run(stack, 40)
        assert stack.model(0).encoder[0].weight.dtype == torch.float64
        assert_same_as_one_by_one(stack, build, adversarial, 40, groups, 1e-12, betas=(0.5, 0.999))

    def test_a_module_with_batch_normalisation(self):
        """Running means and counts are buffers, of which every model has its own.

        No bias before the normalisation: its gradient would be rounding alone, which Adam blows up.
        """

        def build():
            return nn.Sequential(nn.Linear(WIDTH, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

        stack = run(stack_of(build), 60)
        groups = lambda model: [{"params": model.parameters(), "lr": 1e-2}]  # noqa: E731
        assert_same_as_one_by_one(stack, build, regression, 60, groups, 1e-4)
        assert int(stack.model(0)[1].num_batches_tracked) == 60
        assert not torch.equal(stack.model(0)[1].running_mean, stack.model(1)[1].running_mean)

    def test_a_module_with_an_embedding_and_ids(self):
        class Factors(nn.Module):
            def __init__(self):
                super().__init__()
                self.user, self.item = nn.Embedding(12, 4), nn.Embedding(9, 4)

            def forward(self, user, item):
                return (self.user(user) * self.item(item)).sum(-1)

        def objective(model, batch, setting, progress):
            ratings = batch["ratings"]
            return (model(ratings["user"], ratings["item"]) - setting["slope"] * ratings["stars"]).square().mean(), {}

        generator = torch.Generator().manual_seed(5)
        data = {
            "ratings": {
                "user": torch.randint(12, (3, 80), generator=generator),
                "item": torch.randint(9, (3, 80), generator=generator),
                "stars": normal(3, 80, seed=6),
            }
        }
        stack = run(stack_of(Factors, objective=objective, data=data), 60)
        groups = lambda model: [{"params": model.parameters(), "lr": 1e-2}]  # noqa: E731
        assert_same_as_one_by_one(stack, Factors, objective, 60, groups, 1e-4)

    def test_a_module_with_tied_weights(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(WIDTH, WIDTH)
                self.second = nn.Linear(WIDTH, WIDTH)
                self.second.weight = self.first.weight

            def forward(self, x):
                return self.second(self.first(x).tanh()).sum(-1)

        stack = run(stack_of(Tied), 40)
        groups = lambda model: [{"params": model.parameters(), "lr": 1e-2}]  # noqa: E731
        assert_same_as_one_by_one(stack, Tied, regression, 40, groups, 1e-4)
        model = stack.model(2)
        assert model.second.weight is model.first.weight

    @needs_cuda
    def test_on_cuda(self):
        def build():
            return adversarial_network(torch.float64)

        more = {"objective": adversarial, "data": two_shops(torch.float64)}
        here, there = (run(stack_of(build, GRID, device=d, **more), 100) for d in (CPU, torch.device("cuda")))
        for index in range(len(here)):
            for one, other in zip(here.model(index).parameters(), there.model(index).parameters(), strict=True):
                torch.testing.assert_close(one, other, atol=1e-8, rtol=0)

    def test_a_weight_with_two_names_stays_one(self):
        class Tied(nn.Module):
            """There and back through the same matrix."""

            def __init__(self):
                super().__init__()
                self.there, self.back = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
                self.back.weight = self.there.weight

            def forward(self, x):
                return self.back(self.there(x).tanh())[:, :1]

        stack = run(stack_of(Tied), 50)
        groups = lambda model: [{"params": model.parameters(), "lr": 1e-2}]  # noqa: E731
        assert_same_as_one_by_one(stack, Tied, regression, 50, groups, 1e-5)
        assert torch.equal(stack.model(1).back.weight, stack.model(1).there.weight)

    @pytest.mark.parametrize("shared", [True, False])
    def test_how_data_lie_in_memory_changes_nothing(self, shared):
        """Rows that all seeds share are not copied for each; strides are of no consequence."""
        data = one_shop()["shop"]
        plain = {
            name: values[:1].repeat(3, *[1] * (values.ndim - 1)) if shared else values for name, values in data.items()
        }
        if shared:
            other = {name: values[:1].expand_as(values) for name, values in data.items()}
        else:
            other = {name: values.transpose(0, 1).contiguous().transpose(0, 1) for name, values in data.items()}
            assert not any(values.is_contiguous() for values in other.values())
        stacks = [run(stack_of(data={"shop": fields}), 20) for fields in (plain, other)]
        assert_same_models(*stacks)
        if shared:
            assert all(values.stride(0) == 0 for values in stacks[1]._data["shop"].values())


class TestPairing:
    def test_models_of_one_seed_start_equal_and_other_seeds_do_not(self):
        stack = stack_of()
        weights = stack.by_setting(torch.stack([stack.model(i).weight.detach() for i in range(len(stack))]))
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0, 0], weights[0, 1])
        assert stack.seeds == SEEDS * 2
        assert stack.settings == ({"slope": 1.0},) * 3 + ({"slope": -2.0},) * 3

    def test_models_of_one_seed_see_equal_batches(self):
        """Rows carry their number, and the objective reports what it saw."""

        def objective(model, batch, setting, progress):
            numbers = batch["shop"]["number"]
            seen = {"first": numbers[0], "sum": numbers.sum(), "squares": numbers.square().sum()}
            return model(batch["shop"]["x"]).mean(), seen

        number = torch.arange(100.0).expand(3, 100)
        data = {"shop": {"x": normal(3, 100, WIDTH), "number": number}}
        history = run(stack_of(objective=objective, data=data), 30, every=1).history
        for name in ("first", "sum", "squares"):
            assert torch.equal(history[name][:3], history[name][3:])
            assert not torch.equal(history[name][0], history[name][1])

    def test_batches_are_rows_of_the_data_and_their_fields_belong_together(self):
        stack = stack_of(data=one_shop(rows=40))
        data, drawn = one_shop(rows=40)["shop"], []
        for batch in stack.draw_batches(1, 200):
            x, y = batch["shop"]["x"], batch["shop"]["y"]
            assert x.shape == (16, WIDTH)
            assert torch.equal(x.sum(-1), y)
            drawn.append((x[:, None] == data["x"][1][None]).all(-1).nonzero()[:, 1])
        drawn = torch.stack(drawn)
        assert drawn.shape == (200, 16), "every row of every batch is a row of that seed's data"
        counts = torch.bincount(drawn.flatten(), minlength=40)  # 80 each expected, standard deviation 8.8
        assert int(counts.min()) > 40
        assert int(counts.max()) < 130
        assert any(len(batch.unique()) < 16 for batch in drawn), "drawn with replacement"

    def test_streams_are_drawn_apart(self):
        data = {name: {"number": torch.arange(100).expand(3, 100)} for name in ("home", "abroad")}
        stack = stack_of(data=data)
        batch = next(stack.draw_batches(0, 1))
        assert not torch.equal(batch["home"]["number"], batch["abroad"]["number"])

    def test_leaving_a_setting_or_a_seed_out_changes_nothing_for_the_others(self):
        whole = run(stack_of(adversarial_network, GRID, objective=adversarial, data=two_shops()), 40)
        chosen = [{"lam": 2.0, "weight": 1.0}, {"lam": 0.0, "weight": 0.25}]
        fewer = run(stack_of(adversarial_network, chosen, objective=adversarial, data=two_shops()), 40)
        for index, setting in enumerate(chosen):
            for seed in range(3):
                twin = whole.settings.index(setting) + seed
                pairs = zip(whole.model(twin).parameters(), fewer.model(3 * index + seed).parameters(), strict=True)
                for one, other in pairs:
                    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)

        data = {stream: {f: t[1:2] for f, t in fields.items()} for stream, fields in two_shops().items()}
        alone = run(stack_of(adversarial_network, GRID, SEEDS[1:2], adversarial, data), 40)
        for index in range(4):
            pairs = zip(whole.model(3 * index + 1).parameters(), alone.model(index).parameters(), strict=True)
            for one, other in pairs:
                torch.testing.assert_close(one, other, atol=1e-5, rtol=0)

    def test_one_seed_still_gives_each_setting_a_model_of_its_own(self):
        stack = run(stack_of(settings={"slope": (1.0, 0.0, -1.0)}, seeds=(5,)), 300)
        for index, slope in enumerate((1.0, 0.0, -1.0)):
            torch.testing.assert_close(stack.model(index).weight, torch.full((1, WIDTH), slope), atol=0.1, rtol=0)

    def test_one_model_is_a_stack_too(self):
        stack = run(stack_of(settings={"slope": (1.0,)}, seeds=(5,)), 300)
        assert len(stack) == 1
        torch.testing.assert_close(stack.model(0).weight, torch.ones(1, WIDTH), atol=0.1, rtol=0)

    def test_data_and_built_models_are_not_touched(self):
        data, built = one_shop(), []
        before = {name: tensor.clone() for name, tensor in data["shop"].items()}

        def build():
            built.append(nn.Linear(WIDTH, 1))
            return built[-1]

        stack = stack_of(build, data=data)
        start = [model.weight.detach().clone() for model in built]
        run(stack, 10)
        assert len(built) == len(SEEDS)
        assert all(torch.equal(model.weight, weight) for model, weight in zip(built, start, strict=True))
        assert all(torch.equal(data["shop"][name], before[name]) for name in before)


class TestHistory:
    def test_shapes_steps_and_moments(self):
        stack = stack_of(adversarial_network, GRID, objective=adversarial, data=two_shops())
        moments = list(stack.train(25, every=10))
        assert moments == [Moment(10, 25), Moment(20, 25), Moment(25, 25)]
        assert stack.history_steps == [10, 20, 25]
        assert set(stack.history) == {"loss", "task", "domain"}
        assert {values.shape for values in stack.history.values()} == {(12, 3)}
        assert not any(values.requires_grad for values in stack.history.values())

    def test_empty_before_the_first_moment(self):
        stack = stack_of()
        assert stack.history == {}
        assert stack.history_steps == []

    def test_the_loss_is_the_setting_s_own_and_falls(self):
        history = run(stack_of(), 300).history["loss"]
        assert bool((history[:, -1] < 0.1 * history[:, 0]).all())

    def test_progress_runs_from_zero_towards_one(self):
        def objective(model, batch, setting, progress):
            loss = model(batch["shop"]["x"]).mean()
            return loss, {"progress": loss.detach() * 0 + progress}

        history = run(stack_of(objective=objective), 4, every=1).history
        assert history["progress"][0].tolist() == [0.0, 0.25, 0.5, 0.75]

    def test_measure_adds_columns_from_the_stack_as_it_is_then(self):
        held_out = normal(3, 30, WIDTH, seed=9)

        def measure(stack):
            output = stack.each(lambda model, x: model(x).squeeze(-1), held_out)
            return {"error": (output - held_out.sum(-1).repeat(2, 1)).abs().mean(1)}

        stack = run(stack_of(), 200, every=50, measure=measure)
        assert stack.history["error"].shape == (6, 4)
        torch.testing.assert_close(stack.history["error"][:, -1], measure(stack)["error"])
        falling = stack.history["error"][:3].diff(dim=1)  # the setting with slope 1 is asked for this very sum
        assert bool((falling < 0).all())

    def test_measuring_does_not_change_the_training(self):
        def build():
            return nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))

        def measure(stack):
            return {"mean": stack.each(lambda model, x: model(x).mean(), normal(3, 9, WIDTH))}

        plain, measured = run(stack_of(build), 20), run(stack_of(build), 20, every=3, measure=measure)
        assert_same_models(plain, measured)


def assert_same_models(one, other):
    for index in range(len(one)):
        state, twin = one.model(index).state_dict(), other.model(index).state_dict()
        assert all(torch.equal(state[name], twin[name]) for name in state)


class TestALoopOfOnesOwn:
    @staticmethod
    def build():
        return nn.Sequential(nn.Linear(WIDTH, 4), nn.Dropout(0.3), nn.Linear(4, 1))

    def test_updates_on_its_batches_are_the_training(self):
        """Also after a training, and before another."""
        trained, looped = run(run(stack_of(self.build), 3), 20), run(stack_of(self.build), 3)
        objective = lambda model, batch, setting: regression(model, batch, setting, 0.0)  # noqa: E731
        for batch in looped.batches(15):
            assert batch["shop"]["x"].shape == (6, 16, WIDTH)
            looped.update(objective, batch)
        assert_same_models(run(looped, 5), trained)

    def test_a_batch_stays_until_the_update(self):
        stack = stack_of()
        first, second = stack.batches(2)
        own = next(stack.draw_batches(1, 1))
        assert torch.equal(first["shop"]["x"], second["shop"]["x"])
        assert torch.equal(first["shop"]["x"][[1, 4]], own["shop"]["x"].expand(2, 16, WIDTH))


class TestStopping:
    def test_between_two_steps_and_on_again(self):
        """Stopped after 20 of 100 steps and trained for 80 more: the same as 100 at a stretch."""
        whole, stopped = run(stack_of(), 100, every=10), stack_of()
        training = stopped.train(100, every=10)
        assert [moment.step for moment in islice(training, 2)] == [10, 20]
        training.close()
        assert stopped.history_steps == [10, 20]
        assert torch.equal(stopped.history["loss"], whole.history["loss"][:, :2])
        assert_same_models(stopped, run(stack_of(), 20, every=10))

        run(stopped, 80, every=10)
        assert stopped.history_steps == whole.history_steps
        assert torch.equal(stopped.history["loss"], whole.history["loss"])
        assert_same_models(stopped, whole)

    def test_leaving_the_loop_leaves_a_stack_that_answers(self):
        stack = stack_of()
        for moment in stack.train(1000, every=5):
            if moment.step == 10:
                break
        assert stack.history_steps == [5, 10]
        assert stack.each(lambda model, x: model(x), normal(3, 4, WIDTH)).shape == (6, 4, 1)

    @pytest.mark.parametrize("measure", [len, lambda stack: {"mean": 3.0}, lambda stack: {"mean": torch.zeros(5)}])
    def test_a_measure_of_another_form(self, measure):
        with pytest.raises(ValueError, match=r"^measure: got .* expected \{name: a tensor \(n_models=6,\)\}"):
            run(stack_of(), 10, every=5, measure=measure)

    def test_stopping_by_an_error_in_measure(self):
        def measure(stack):
            raise RuntimeError("the score has gone")

        stack = stack_of()
        with pytest.raises(RuntimeError, match="the score has gone"):
            run(stack, 10, every=5, measure=measure)
        assert stack.history == {}
        assert run(stack, 10, every=5).history_steps == [10, 15]

    def test_nothing_happens_before_the_first_moment_is_asked_for(self):
        stack = stack_of()
        stack.train(10)
        assert_same_models(stack, stack_of())


class TestRandomness:
    @staticmethod
    def with_dropout():
        return nn.Sequential(nn.Linear(WIDTH, 32), nn.Dropout(0.5), nn.Linear(32, 1))

    def test_torchs_own_generator_is_neither_read_nor_moved(self):
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            found.append(run(stack_of(self.with_dropout), 10))
            assert torch.equal(torch.get_rng_state(), before)
        assert_same_models(*found)

    def test_dropout_differs_between_models_and_between_steps(self):
        """With learning rate 0 and one seed for the start, only dropout can tell models and steps apart."""
        data = {name: {f: t[:1] for f, t in fields.items()} for name, fields in one_shop(rows=1).items()}
        settings = [{"slope": 1.0}] * 4
        stack = stack_of(self.with_dropout, settings, (0,), data=data, learning_rate=0.0)
        losses = run(stack, 5, every=1).history["loss"]
        assert len(losses.unique()) == 20
        without = stack_of(lambda: nn.Linear(WIDTH, 1), settings, (0,), data=data, learning_rate=0.0)
        assert len(run(without, 5, every=1).history["loss"].unique()) == 1

    def test_who_draws_only_later_draws_from_the_same(self):
        def objective(model, batch, setting, progress):
            noise = torch.randn(()) if progress >= 0.5 else torch.zeros(())
            return model(batch["shop"]["x"]).square().mean(), {"noise": noise}

        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            found.append(run(stack_of(objective=objective), 10, every=1).history["noise"])
            assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(*found)
        assert found[0][:, :5].abs().max() == 0
        assert len(found[0][:, 5:].unique()) == 6 * 5

    def test_buffers_move_once_a_step(self):
        """Dropout is met only after the batch's statistics have moved."""
        stack = stack_of(lambda: nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Dropout(0.3), nn.Linear(WIDTH, 1)))
        run(stack, 7)
        assert [int(stack.model(index)[0].num_batches_tracked) for index in range(6)] == [7] * 6

    def test_other_seeds_draw_other_masks(self):
        class Dropping(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.drop = nn.Linear(WIDTH, 1), nn.Dropout(0.5)

        def objective(model, batch, setting, progress):
            dropped = model.drop(torch.ones(20)) == 0
            return model.layer(batch["shop"]["x"]).mean(), {"mask": (dropped * 2.0 ** torch.arange(20)).sum()}

        one, other = (run(stack_of(Dropping, objective=objective, seeds=(seed,)), 1) for seed in (0, 1))
        assert not torch.equal(one.history["mask"], other.history["mask"])

    def test_each_runs_without_dropout_and_training_goes_on_with_it(self):
        stack = stack_of(self.with_dropout, learning_rate=0.0)
        x = normal(3, 5, WIDTH)
        one, other = (stack.each(lambda model, x: model(x), x) for _ in range(2))
        assert torch.equal(one, other)
        for index in range(6):
            torch.testing.assert_close(one[index], stack.model(index)(x[index % 3]).detach())
        losses = run(stack, 2, every=1).history["loss"]
        assert not torch.equal(losses[:3], losses[3:] / 4)
        with pytest.raises(RuntimeError, match="size"):
            stack.each(lambda model, x: model(x), normal(3, 5, WIDTH + 1))
        assert all(module.training for module in stack._skeleton.modules())


class TestLooking:
    def test_each_and_model_and_by_setting_agree(self):
        stack = run(stack_of(adversarial_network, GRID, objective=adversarial, data=two_shops()), 20)
        x = normal(3, 7, WIDTH, seed=8)
        scores = stack.each(lambda model, x: model.answer(x, "click"), x)
        assert scores.shape == (12, 7)
        assert not scores.requires_grad
        split = stack.by_setting(scores)
        assert split.shape == (4, 3, 7)
        for index in range(12):
            model = stack.model(index)
            assert not model.training
            torch.testing.assert_close(scores[index], model.predict(x[index % 3], "click"))
            assert torch.equal(split[index // 3, index % 3], scores[index])

    def test_each_takes_several_arguments_or_none(self):
        stack = stack_of()
        assert stack.each(lambda model: model.weight).shape == (6, 1, WIDTH)
        weighted = stack.each(lambda model, x, w: (model(x) * w).sum(), normal(3, 4, WIDTH), torch.zeros(3, 4, 1))
        assert torch.equal(weighted, torch.zeros(6))

    def test_a_model_taken_out_is_a_copy(self):
        stack = stack_of()
        nn.init.zeros_(stack.model(0).weight)
        assert float(stack.model(0).weight.detach().abs().max()) > 0
        out = stack.model(0)
        run(stack, 5)
        assert not torch.equal(out.weight, stack.model(0).weight)

    def test_buffers_that_are_not_saved_come_along(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(WIDTH, 1)
                self.register_buffer("scale", torch.rand(()), persistent=False)

            def forward(self, x):
                return self.layer(x) * self.scale

        stack, x = stack_of(Scaled), normal(3, 4, WIDTH)
        scores = stack.each(lambda model, x: model(x), x)
        for index in range(6):
            torch.testing.assert_close(scores[index], stack.model(index)(x[index % 3]).detach())

    def test_fit_shows_a_bar_and_returns_the_stack(self, capsys):
        stack = stack_of()
        assert stack.fit(40, label="lambda", every=10) is stack
        shown = capsys.readouterr().out
        assert "lambda, 6 models" in shown
        assert "40/40" in shown
        assert "100%" in shown
        assert stack.history_steps == [10, 20, 30, 40]
        assert_same_models(stack, run(stack_of(), 40))

    def test_fit_without_a_label_is_quiet_and_trains_alike(self, capfd):
        stack = stack_of()
        assert stack.fit(40, label="", every=10) is stack
        assert capfd.readouterr() == ("", "")
        assert stack.history_steps == [10, 20, 30, 40]
        assert_same_models(stack, run(stack_of(), 40))


class TestLearningRates:
    def test_the_longest_prefix_wins(self):
        rates = {"": 1e-2, "0": 0.0, "0.bias": 1e-2}
        stack = run(stack_of(lambda: nn.Sequential(nn.Linear(WIDTH, 3), nn.Linear(3, 1)), learning_rate=rates), 10)
        for index, (name, moved) in (
            (i, pair) for i in range(6) for pair in (("0.weight", 0), ("0.bias", 1), ("1.weight", 1))
        ):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stack.seeds[index])
                start = nn.Sequential(nn.Linear(WIDTH, 3), nn.Linear(3, 1)).get_parameter(name)
            assert torch.equal(stack.model(index).get_parameter(name), start) is (not moved)

    def test_a_parameter_without_a_rate_is_refused(self):
        with pytest.raises(ValueError, match=r"^learning_rate: got no rate for parameter 'bias', expected one under"):
            stack_of(learning_rate={"weight": 1e-2})

    def test_a_rate_without_a_parameter_is_refused(self):
        with pytest.raises(ValueError, match=r"^learning_rate: got 'encodr', expected how the name of a parameter"):
            stack_of(learning_rate={"": 1e-2, "encodr": 1e-3})
        with pytest.raises(ValueError, match=r"^learning_rate: got -1.0, expected a number of at least 0"):
            stack_of(learning_rate={"": 1e-2, "bias": -1.0})


class TestPlainGradientDescent:
    def test_is_gradient_descent_by_hand(self):
        """Linear models in double precision, against ten steps written out."""
        stack = run(stack_of(lambda: nn.Linear(WIDTH, 1), learning_rate=0.05, optimizer="sgd"), 10)
        other = run(stack_of(lambda: nn.Linear(WIDTH, 1), learning_rate=0.05), 10)
        for index in range(len(stack)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stack.seeds[index])
                alone = nn.Linear(WIDTH, 1)
            setting = {name: torch.tensor(value) for name, value in stack.settings[index].items()}
            for step, batch in enumerate(stack.draw_batches(index % stack.n_seeds, 10)):
                loss, _ = regression(alone, batch, setting, step / 10)
                gradients = torch.autograd.grad(loss, list(alone.parameters()))
                with torch.no_grad():
                    for parameter, gradient in zip(alone.parameters(), gradients, strict=True):
                        parameter -= 0.05 * gradient
            for one, two, adam in zip(
                stack.model(index).parameters(), alone.parameters(), other.model(index).parameters(), strict=True
            ):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
                assert float((one - adam).detach().abs().max()) > 1e-3


def refusal(name):
    return rf"^{re.escape(name)}: got .*, expected "


class TestBadInput:
    def test_refused_before_anything_is_built(self):
        def build():
            raise AssertionError("built although the data are wrong")

        with pytest.raises(ValueError, match=refusal("data['shop']")):
            stack_of(build, data={"shop": {}})

    def test_each_needs_one_row_a_seed(self):
        with pytest.raises(
            ValueError, match=r"^argument 2: got shape \(2, 4\), expected a tensor \(n_seeds=3, \.\.\.\)"
        ):
            stack_of().each(lambda model, x, w: model(x), torch.zeros(3, 4, WIDTH), torch.zeros(2, 4))

    def test_settings_without_a_name_are_one_setting(self):
        stack = stack_of(
            settings={}, objective=lambda model, batch, setting, progress: (model(batch["shop"]["x"]).mean(), {})
        )
        assert len(run(stack, 2)) == 3


# A stack that is handed every model's own batch, instead of drawing it from data.


def bare_stack(build=lambda: nn.Linear(WIDTH, 1), settings=None, seeds=SEEDS, **more):
    settings = {"slope": (1.0, -2.0)} if settings is None else settings
    return Stack(build, settings, seeds, **{"learning_rate": 1e-2, "device": CPU, **more})


def own_batches(number=0, models=6, rows=16):
    """Rows of its own for every model, nested as an objective may want them."""
    x = normal(models, rows, WIDTH, seed=100 + number)
    return {"step": {"x": x}, "y": x.sum(-1)}


def two_layers(second=1, bias=True):
    return nn.Sequential(nn.Linear(WIDTH, 4), nn.Linear(4, second, bias=bias))


def fit_sum(model, batch, setting):
    output = model(batch["step"]["x"]).squeeze(-1)
    loss = (output - setting["slope"] * batch["y"]).square().mean()
    return loss, {"first": output[0], "outputs": output}


def row(batch, index):
    """One model's batch."""
    return {name: row(value, index) if isinstance(value, dict) else value[index] for name, value in batch.items()}


def setting_of(stack, index):
    return {name: torch.tensor(value) for name, value in stack.settings[index].items()}


def norms(gradients):
    """Of each model's whole gradient, (n_models,)."""
    return sum(g.square().flatten(1).sum(1) for g in gradients.values()).sqrt()


class TestOwnBatches:
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_updates_are_those_of_each_model_alone(self, optimizer):
        stack = bare_stack(optimizer=optimizer)
        alone = [stack.model(index).train() for index in range(6)]
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
        optimizers = [kind(model.parameters(), lr=1e-2) for model in alone]
        for number in range(30):
            batch = own_batches(number)
            losses, logs = stack.update(fit_sum, batch)
            assert not losses.requires_grad
            assert not any(value.requires_grad for value in logs.values())
            assert logs["outputs"].shape == (6, 16)
            for index, (model, adam) in enumerate(zip(alone, optimizers, strict=True)):
                loss, said = fit_sum(model, row(batch, index), setting_of(stack, index))
                torch.testing.assert_close(losses[index], loss.detach(), rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(logs["first"][index], said["first"].detach(), rtol=1e-4, atol=1e-5)
                adam.zero_grad()
                loss.backward()
                adam.step()
        for index, model in enumerate(alone):
            torch.testing.assert_close(stack.model(index).weight, model.weight, rtol=1e-4, atol=1e-5)
            assert not torch.equal(model.weight, bare_stack().model(index).weight)

    def test_many_models_takes_the_same_steps(self):
        """`ManyModels` is this stack with batches drawn from data."""
        drawing, handed = stack_of(), bare_stack()
        per_seed = [list(drawing.draw_batches(seed, 10)) for seed in range(3)]
        for step in range(10):
            rows = [per_seed[index % 3][step]["shop"] for index in range(6)]
            batch = {"shop": {name: torch.stack([r[name] for r in rows]) for name in ("x", "y")}}
            handed.update(lambda model, batch, setting: regression(model, batch, setting, 0.0), batch)
        assert_same_models(run(drawing, 10), handed)

    def test_evaluating_changes_nothing_and_says_what_an_update_would(self):
        stack, before = bare_stack(), bare_stack()
        loss, logs = stack.evaluate(fit_sum, own_batches())
        assert_same_models(stack, before)
        updated, same = stack.update(fit_sum, own_batches())
        assert torch.equal(loss.detach(), updated)
        assert torch.equal(logs["outputs"].detach(), same["outputs"])
        assert bool((stack.evaluate(fit_sum, own_batches())[0] < updated).all())

    def test_evaluating_draws_the_dropout_of_the_next_update(self):
        def build():
            return nn.Sequential(nn.Linear(WIDTH, 8), nn.Dropout(0.5), nn.Linear(8, 1))

        stack = bare_stack(build)
        first, again = (stack.evaluate(fit_sum, own_batches())[0].detach() for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(stack.update(fit_sum, own_batches())[0], first)
        still = bare_stack(build, learning_rate=0.0)
        one, other = (still.update(fit_sum, own_batches())[0] for _ in range(2))
        assert not torch.equal(one, other)

    def test_gradients_are_those_of_each_model_alone_and_no_step(self):
        def build():
            return nn.ModuleDict({"used": nn.Linear(WIDTH, 1), "idle": nn.Linear(2, 1)})

        def objective(model, batch, setting):
            return fit_sum(model["used"], batch, setting)

        stack, before = bare_stack(build), bare_stack(build)
        found = stack.gradients(objective, own_batches())
        assert_same_models(stack, before)
        assert {name: g.shape for name, g in found.items()} == {
            "used.weight": (6, 1, WIDTH),
            "used.bias": (6, 1),
            "idle.weight": (6, 1, 2),
            "idle.bias": (6, 1),
        }
        assert float(found["idle.weight"].abs().max()) == 0
        for index in range(6):
            model = stack.model(index).train()
            loss, _ = objective(model, row(own_batches(), index), setting_of(stack, index))
            expected = torch.autograd.grad(loss, list(model["used"].parameters()))
            torch.testing.assert_close(found["used.weight"][index], expected[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found["used.bias"][index], expected[1], rtol=1e-4, atol=1e-5)

    def test_gradients_of_several_losses_are_those_of_each_alone(self):
        """Through dropout that all of them meet; the batch's statistics move once, however many losses there are."""

        def build():
            parts = {"shared": nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 3), nn.Dropout(0.5))}
            return nn.ModuleDict(parts | {head: nn.Linear(3, 1) for head in ("a", "b")})

        def objective(model, batch, setting):
            hidden = model["shared"](batch["step"]["x"])
            a, b = (model[head](hidden).squeeze(1) for head in ("a", "b"))
            losses = {"a": (a - batch["y"]).square().mean(), "b": setting["slope"] * b.mean()}
            return losses["a"] - losses["b"], {**losses, "answers": a}

        stack, alone = bare_stack(build), bare_stack(build)
        losses, gradients = stack.gradients_of(("b", "a"), objective, own_batches())
        assert not losses.requires_grad
        for place, name in enumerate(("b", "a")):
            one = lambda *given, name=name: (objective(*given)[1][name], {})  # noqa: E731
            twin = bare_stack(build)
            assert torch.equal(losses[:, place], twin.evaluate(one, own_batches())[0].detach())
            expected = bare_stack(build).gradients(one, own_batches())
            assert set(gradients) == set(expected)
            for key, gradient in expected.items():
                torch.testing.assert_close(gradients[key][:, place], gradient, rtol=1e-5, atol=1e-6, msg=key)
        assert float(gradients["a.weight"][:, 0].abs().max()) == 0
        alone.evaluate(objective, own_batches())
        assert_same_models(stack, alone)

    @pytest.mark.parametrize(
        "more", [{}, {"optimizer": "sgd"}, {"clip": 0.5}, {"optimizer": "sgd", "clip": 0.5}], ids=str
    )
    @pytest.mark.parametrize("frozen", [False, True])
    def test_a_step_with_the_gradients_of_the_loss_is_an_update(self, frozen, more):
        """Also in turn with updates, whose running means and dropout go on; what is handed in stays as it is."""

        def build():
            model = nn.Sequential(nn.Linear(WIDTH, 4), nn.Dropout(0.3), nn.Linear(4, 1))
            model[0].requires_grad_(not frozen)
            return model

        updated, stepped = bare_stack(build, **more), bare_stack(build, **more)
        for number in range(6):
            updated.update(fit_sum, own_batches(number))
            if number % 3 == 2:
                stepped.update(fit_sum, own_batches(number))
                continue
            gradients = stepped.gradients(fit_sum, own_batches(number))
            before = fingerprint(dict(sorted(gradients.items())))
            stepped.step(dict(sorted(gradients.items())))
            assert fingerprint(dict(sorted(gradients.items()))) == before
        assert held(updated) == held(stepped)

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_a_scale_is_a_learning_rate_of_ones_own(self, optimizer):
        def build():
            return nn.Linear(WIDTH, 1)

        scale = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 10.0])
        scaled = bare_stack(build, optimizer=optimizer, learning_rate=0.01)
        alike = [bare_stack(build, optimizer=optimizer, learning_rate=0.01 * float(s)) for s in scale[1:]]
        start = scaled.model(0).weight.clone()
        for number in range(5):
            for stack, own in ((scaled, {"scale": scale}), *((stack, {}) for stack in alike)):
                stack.step(stack.gradients(fit_sum, own_batches(number)), **own)
        assert torch.equal(scaled.model(0).weight, start)
        for index, stack in enumerate(alike, start=1):
            torch.testing.assert_close(scaled.model(index).weight, stack.model(index).weight, rtol=1e-4, atol=1e-6)

    def test_each_own_answers_every_model_with_its_own_arguments(self):
        def build():
            return nn.Sequential(nn.Linear(WIDTH, 8), nn.Dropout(0.5), nn.Linear(8, 1))

        stack, batch = bare_stack(build), own_batches()
        found = stack.each_own(lambda model, b, k: {"out": model(b["step"]["x"]), "k": 2 * k}, batch, torch.arange(6))
        assert found["out"].shape == (6, 16, 1)
        assert not found["out"].requires_grad
        assert found["k"].tolist() == [0, 2, 4, 6, 8, 10]
        for index in range(6):
            torch.testing.assert_close(found["out"][index], stack.model(index)(batch["step"]["x"][index]).detach())
        shared = normal(3, 5, WIDTH)
        by_seed = stack.each(lambda model, x: model(x), shared)
        assert torch.equal(by_seed, stack.each_own(lambda model, x: model(x), shared.repeat(2, 1, 1)))


def pulled(model, batch, setting, progress):
    """A regression whose weights are held near where each model's own anchor is."""
    loss, _ = regression(model, batch, setting, progress)
    held = sum((w - batch["anchor"][name]).square().sum() for name, w in model.named_parameters())
    return loss + batch["strengths"][0] * held, {"held": held}


def anchors(models=6):
    weights = {"weight": normal(models, 1, WIDTH, seed=7), "bias": normal(models, 1, seed=8)}
    return {"anchor": weights, "strengths": [torch.linspace(0.5, 3, models), torch.arange(models)]}


def its_own(value, index):
    """What one model has of nested dicts and lists."""
    if isinstance(value, dict):
        return {name: its_own(part, index) for name, part in value.items()}
    return [its_own(part, index) for part in value] if isinstance(value, list) else value[index]


class TestWhatEachModelHasForItself:
    def test_comes_with_every_batch(self):
        def build():
            return nn.Linear(WIDTH, 1)

        def groups(model):
            return [{"params": model.parameters(), "lr": 1e-2}]

        stack = run(stack_of(objective=pulled, own=anchors()), 30, every=10)
        for index in range(6):
            own = its_own(anchors(), index)

            def alone(model, batch, setting, progress, own=own):
                return pulled(model, {**batch, **own}, setting, progress)

            model, history = one_by_one(stack, build, alone, index, 30, groups, every=10)
            torch.testing.assert_close(stack.model(index).state_dict(), model.state_dict(), rtol=0, atol=1e-5)
            expected = torch.tensor([column["held"] for column in history])
            torch.testing.assert_close(stack.history["held"][index], expected, rtol=1e-4, atol=1e-5)

    def test_changes_no_batch(self):
        plain, other = stack_of(), stack_of(own=anchors())
        for one, same in zip(plain.draw_batches(1, 3), other.draw_batches(1, 3), strict=True):
            assert fingerprint(one) == fingerprint(same)
        assert_same_models(run(plain, 10), run(other, 10))

    @needs_cuda
    def test_goes_where_the_models_are(self):
        stack = run(stack_of(objective=pulled, own=anchors(), device="cuda"), 10)
        on_cpu = run(stack_of(objective=pulled, own=anchors()), 10)
        torch.testing.assert_close(stack.history["held"], on_cpu.history["held"], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("own", "named", "came"),
        [
            ({"shop": torch.zeros(6)}, "own", "names that are no stream"),
            ({"anchor": {"weight": torch.zeros(3, 2)}}, "own['anchor']['weight']", r"\(n_models=6, "),
            ({"anchor": [torch.full((6,), math.inf)]}, "own['anchor'][0]", "finite numbers"),
            ({"anchor": torch.zeros(6).double()}, "own['anchor']", r"torch\.float32 as the models'"),
        ],
    )
    def test_is_refused_by_its_name(self, own, named, came):
        with pytest.raises(ValueError, match=rf"^{re.escape(named)}: got .*expected .*{came}"):
            stack_of(own=own)


class TestRowsThatAreNotOneAModel:
    """Refused by the name of what does not fit; nothing has changed then."""

    @pytest.mark.parametrize(
        ("batch", "named", "came"),
        [
            ({"step": {"x": torch.zeros(5, 16, WIDTH)}}, "batch['step']['x']", r"\(5, 16, 6\)"),
            ({"step": {"x": torch.zeros(6, 16, WIDTH)}, "y": [torch.zeros(6), 1.0]}, "batch['y'][1]", "float"),
            ({"step": {"x": None}, "y": torch.zeros(6, 16)}, "batch['step']['x']", "NoneType"),
        ],
    )
    def test_batches(self, batch, named, came):
        with pytest.raises(ValueError, match=rf"^{re.escape(named)}: got .*{came}, expected a tensor \(n_models=6, "):
            bare_stack().update(fit_sum, batch)

    def test_each_own(self):
        stack = bare_stack()
        with pytest.raises(ValueError, match=r"^argument 2\['x'\]: got shape \(3, 4\), expected a tensor \(n_models=6"):
            stack.each_own(lambda model, k, b: b["x"], torch.arange(6), {"x": torch.zeros(3, 4)})
        assert all(module.training for module in stack._skeleton.modules())

    def test_an_objectives_own_error_stays_its_own(self):
        def objective(model, batch, setting):
            raise ValueError("the score has gone")

        with pytest.raises(ValueError, match=r"^the score has gone$"):
            bare_stack().update(objective, own_batches())


def held(stack):
    """What a stack holds between two steps, the optimizer's running means among it."""
    moments = getattr(stack._optimizer, "_moments", {})
    return fingerprint([stack._parameters, stack._buffers, [vars(m) for m in moments.values()], stack._done])


class TestWhatIsNotFinite:
    """Models inside cannot look at values: the stack does, outside, and nothing has changed by what it refuses."""

    @staticmethod
    def begun(**more):
        """A stack with running means, of the optimizer and of the batches."""
        stack = bare_stack(lambda: nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1)), **more)
        stack.update(fit_sum, own_batches())
        return stack

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    @pytest.mark.parametrize("wrong", [math.nan, math.inf])
    @pytest.mark.parametrize("way", ["update", "evaluate", "gradients"])
    def test_a_batch(self, way, wrong, optimizer):
        stack, batch = self.begun(optimizer=optimizer), own_batches(1)
        before, batch["step"]["x"][4, 3, 0] = held(stack), wrong
        named = r"model 4 \(setting \{'slope': -2.0\}, seed 3\)"
        with pytest.raises(
            ValueError, match=rf"^batch\['step'\]\['x'\]: got NaN or infinite values for {named}, expected"
        ):
            getattr(stack, way)(fit_sum, batch)
        assert held(stack) == before
        twin = self.begun(optimizer=optimizer)
        for one in (stack, twin):
            one.update(fit_sum, own_batches(1))
        assert held(stack) == held(twin)

    def test_a_loss(self):
        """Of numbers that are all right, by what is done with them; that of the other models is finite."""

        def objective(model, batch, setting):
            return fit_sum(model, batch, setting)[0] / (setting["slope"] - 1), {}

        stack = self.begun()
        before = held(stack)
        with pytest.raises(
            ValueError, match=r"^loss: got inf with .* from model 0 \(setting \{'slope': 1.0\}, seed 0\)"
        ):
            stack.update(objective, own_batches())
        assert held(stack) == before

    @pytest.mark.parametrize(
        ("loss", "came"),
        [
            (lambda output: (0 * output).square().sum().sqrt(), "0 with gradients of up to nan"),
            (lambda output: 1e22 * output.mean(), r".* with gradients of up to 1.*e\+22"),
        ],
    )
    def test_a_gradient(self, loss, came):
        """A square root at 0; and one whose square, which Adam and the norm want, is too large."""
        stack = bare_stack(lambda: nn.Linear(WIDTH, 1), settings={"slope": (1.0,)})
        before = held(stack)
        with pytest.raises(ValueError, match=rf"^loss: got {came} from model \d \(setting .*, expected finite numbers"):
            stack.update(lambda model, batch, setting: (loss(model(batch["step"]["x"])), {}), own_batches(models=3))
        assert held(stack) == before

    @pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e30])
    def test_a_gradient_of_ones_own(self, wrong):
        stack = self.begun()
        gradients, before = stack.gradients(fit_sum, own_batches()), held(stack)
        gradients["1.weight"][4, 0, 2] = wrong
        with pytest.raises(
            DivergenceError, match=r"^gradients: got .* from model 4 \(setting \{'slope': -2.0\}, seed 3\)"
        ):
            stack.step(gradients)
        assert held(stack) == before

    def test_a_loss_among_several(self):
        """Its gradients are finite, and so is the objective's own loss."""

        def objective(model, batch, setting):
            loss, _ = fit_sum(model, batch, setting)
            return loss, {"one": loss, "other": loss + 1e38 / (setting["slope"] - 1)}

        stack = self.begun()
        before = held(stack)
        with pytest.raises(DivergenceError, match=r"^loss: got inf with .* from model 0 \(setting \{'slope': 1.0\}"):
            stack.gradients_of(("one", "other"), objective, own_batches())
        assert held(stack) == before

    def test_what_models_are_asked(self):
        stack, x = bare_stack(), normal(6, 5, WIDTH)
        x[2, 1] = math.nan
        with pytest.raises(ValueError, match=r"^argument 1\['x'\]: got NaN or infinite values for model 2 \(setting"):
            stack.each_own(lambda model, b: model(b["x"]), {"x": x})
        with pytest.raises(ValueError, match=r"^argument 1: got NaN or infinite values for model 2 \(setting"):
            stack.each(lambda model, x: model(x), x[:3])

    def test_what_they_answer_may_be_masked(self):
        found = bare_stack().each_own(
            lambda model, x: model(x).masked_fill(x[:, :1] > 0, -math.inf), normal(6, 5, WIDTH)
        )
        assert bool(found.isneginf().any())

    def test_a_training_that_goes_to_infinity_ends_at_its_last_finite_step(self):
        stack = stack_of(settings={"slope": (1.0,)}, optimizer="sgd", learning_rate=1e3)
        with pytest.raises(ValueError, match=r"^loss: got .* from model \d \(setting \{'slope': 1.0\}, seed \d+\)"):
            run(stack, 100, every=1)
        assert 1 < len(stack.history_steps) < 100
        assert bool(torch.isfinite(stack.history["loss"]).all())
        assert all(bool(torch.isfinite(stack.model(k).weight).all()) for k in range(3))


class TestDtypes:
    """What `torch.from_numpy` gives is float64, and is refused by name wherever it comes in."""

    WRONG = r"got dtype torch.float64, expected torch.float32 as the models'"

    @pytest.mark.parametrize("way", ["update", "evaluate", "gradients"])
    def test_a_batch(self, way):
        batch = own_batches() | {"y": torch.zeros(6, 16, dtype=torch.float64)}
        with pytest.raises(ValueError, match=rf"^batch\['y'\]: {self.WRONG}"):
            getattr(bare_stack(), way)(fit_sum, batch)

    def test_data_and_arguments(self):
        shop = one_shop()["shop"]
        with pytest.raises(ValueError, match=rf"^data\['shop'\]\['y'\]: {self.WRONG}"):
            stack_of(data={"shop": shop | {"y": shop["y"].double()}})
        with pytest.raises(ValueError, match=rf"^argument 1: {self.WRONG}"):
            bare_stack().each(lambda model, x: model(x), torch.zeros(3, 4, WIDTH, dtype=torch.float64))

    def test_integers_and_truth_values_come_along(self):
        stack = bare_stack(lambda: nn.Embedding(5, 1))
        rows, chosen = torch.arange(6 * 4).view(6, 4) % 5, torch.ones(6, 4, dtype=torch.bool)
        loss, _ = stack.update(lambda m, b, s: ((m(b[0]).squeeze(1) * b[1]).square().mean(), {}), (rows, chosen))
        assert loss.dtype == torch.float32


class TestFrozen:
    """``requires_grad_(False)``: such parameters stay as they were built, as in plain PyTorch."""

    @staticmethod
    def build():
        model = two_layers()
        model[0].requires_grad_(False)
        return model

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_they_stay_and_have_no_running_means(self, optimizer):
        stack, free = bare_stack(self.build, optimizer=optimizer), bare_stack(two_layers, optimizer=optimizer)
        start = [stack.model(k) for k in range(6)]
        for number in range(5):
            stack.update(fit_sum, own_batches(number))
        for k in range(6):
            model = stack.model(k)
            assert torch.equal(model[0].weight, start[k][0].weight)
            assert torch.equal(model[0].bias, start[k][0].bias)
            assert not torch.equal(model[1].weight, start[k][1].weight)
            assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
        assert [len(members) for members, _ in stack._optimizer.groups] == [2]
        assert len(getattr(stack._optimizer, "_moments", "12")) == 2
        assert set(stack.gradients(fit_sum, own_batches())) == {"1.weight", "1.bias"}
        assert len(free.gradients(fit_sum, own_batches())) == 4

    def test_the_rest_learns_as_in_plain_pytorch(self):
        stack = run(stack_of(self.build), 40)
        groups = lambda model: [{"params": [p for p in model.parameters() if p.requires_grad], "lr": 1e-2}]  # noqa: E731
        assert_same_as_one_by_one(stack, self.build, regression, 40, groups, 1e-5)

    def test_all_frozen_is_nothing_to_train(self):
        with pytest.raises(ValueError, match=r"^build: got models without a parameter to train, expected one"):
            stack_of(lambda: two_layers().requires_grad_(False))

    def test_a_rate_for_what_is_frozen(self):
        with pytest.raises(
            ValueError, match=r"^learning_rate: got '0.', expected how the name of a parameter to train"
        ):
            bare_stack(self.build, learning_rate={"": 1e-2, "0.": 1e-3})


class TestNamesInTheState:
    """Parts with names are numbered inside: a stack that has them in another order has other numbers."""

    @staticmethod
    def of(*tasks, seeds=SEEDS):
        kinds = dict.fromkeys(tasks, CLICK["click"])
        return bare_stack(lambda: DomainAdversarialNetwork(WIDTH, (8,), 2, kinds), seeds=seeds)

    @pytest.mark.parametrize("way", ["load", "copy_from"])
    def test_taken_over_only_in_the_same_order(self, way):
        stack, same, other = self.of("a", "b"), self.of("a", "b", seeds=(5, 6, 7)), self.of("b", "a", seeds=(5, 6, 7))
        with pytest.raises(ValueError, match=r"^other: got another 'names' in the models' states, expected the same"):
            getattr(stack, way)(other)
        assert_same_models(stack, self.of("a", "b"))
        getattr(stack, way)(same)
        assert_same_models(stack, same)
        assert stack.model(0).tasks == same.model(0).tasks


class TestSettingOfAStack:
    def test_one_a_model(self):
        stack = bare_stack(settings={"slope": (1.0, -2.0), "discount": (0.5, 0.9)}, seeds=(0, 3))
        assert stack.setting("slope").tolist() == [1, 1, 1, 1, -2, -2, -2, -2]
        assert torch.equal(stack.setting("discount", 0.1), torch.tensor([0.5, 0.5, 0.9, 0.9] * 2))

    def test_a_default_where_there_is_none(self):
        stack = bare_stack()
        assert stack.setting("entropy", 0).tolist() == [0.0] * 6
        with pytest.raises(ValueError, match=r"^name: got 'entropy', expected one of 'slope'$"):
            stack.setting("entropy")


class TestClip:
    @staticmethod
    def build():
        return nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, 1))

    def test_each_models_gradient_as_pytorchs_own_for_one(self):
        """Three are shortened, three are not; with plain descent the step shows the gradient."""
        free = bare_stack(self.build, optimizer="sgd")
        lengths = norms(free.gradients(fit_sum, own_batches()))
        limit = float(lengths.median())
        clipped = bare_stack(self.build, optimizer="sgd", clip=limit)
        clipped.update(fit_sum, own_batches())
        for index in range(6):
            model = free.model(index).train()
            loss, _ = fit_sum(model, row(own_batches(), index), setting_of(free, index))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), limit)
            torch.optim.SGD(model.parameters(), lr=1e-2).step()
            for one, two in zip(clipped.model(index).parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        assert float(lengths.min()) < limit < float(lengths.max()) / 2

    def test_a_wide_limit_changes_nothing(self):
        free, wide = bare_stack(self.build), bare_stack(self.build, clip=1e6)
        for stack in (free, wide):
            stack.update(fit_sum, own_batches())
        assert_same_models(free, wide)

    def test_without_a_gradient_there_is_nothing_to_shorten(self):
        stack = bare_stack(clip=0.5, optimizer="sgd")
        stack.update(lambda model, batch, setting: (0 * fit_sum(model, batch, setting)[0], {}), own_batches())
        assert_same_models(stack, bare_stack())


class TestTakingOver:
    @staticmethod
    def pair():
        """Two stacks of the same shape that have nothing else in common."""
        return bare_stack(), bare_stack(seeds=(5, 6, 7))

    @pytest.mark.parametrize("tau", [0.0, 0.25, 1.0, 1])
    def test_a_share_of_the_way(self, tau):
        target, online = self.pair()
        before = [target.model(index).weight for index in range(6)]
        target.copy_from(online, tau)
        for index, old in enumerate(before):
            expected = (1 - tau) * old + tau * online.model(index).weight
            torch.testing.assert_close(target.model(index).weight, expected)
            assert not torch.equal(old, online.model(index).weight)

    def test_a_copy_is_nobodys_view(self):
        target, online = self.pair()
        target.copy_from(online)
        assert_same_models(target, online)
        kept = [target.model(index).weight for index in range(6)]
        online.update(fit_sum, own_batches())
        assert all(torch.equal(target.model(k).weight, w) for k, w in enumerate(kept))
        target.update(fit_sum, own_batches())  # and it can be trained on
        assert not torch.equal(target.model(0).weight, kept[0])

    def test_part_of_another_stack(self):
        whole = bare_stack(lambda: nn.ModuleDict({"policy": nn.Linear(WIDTH, 1), "value": nn.Linear(WIDTH, 1)}))
        part = bare_stack(seeds=(5, 6, 7))
        part.load(whole, "policy.")
        for index in range(6):
            assert torch.equal(part.model(index).weight, whole.model(index)["policy"].weight)
            assert torch.equal(part.model(index).bias, whole.model(index)["policy"].bias)

    def test_another_stack_without_a_prefix(self):
        one, other = self.pair()
        one.load(other)
        assert_same_models(one, other)

    @pytest.mark.parametrize("way", ["load", "copy_from"])
    @pytest.mark.parametrize(
        ("build", "more", "came"),
        [
            pytest.param(two_layers, {"seeds": (5, 6)}, "4 models", id="fewer models"),
            pytest.param(two_layers, {"seeds": (5,), "settings": {"slope": (1.0,)}}, "1 models", id="one model"),
            pytest.param(
                lambda: two_layers(second=5), {}, r".* \(6, 5, 4\) for '1.weight'", id="the second layer wider"
            ),
            pytest.param(lambda: two_layers(bias=False), {}, "no parameter for '1.bias'", id="no bias in the second"),
        ],
    )
    def test_another_shape_of_stack(self, way, build, more, came):
        """The first parameters would fit: they are not taken over either."""
        stack, other = bare_stack(two_layers), bare_stack(build, **{"seeds": (5, 6, 7), **more})
        with pytest.raises(ValueError, match=rf"^other: got {came}, expected "):
            getattr(stack, way)(other)
        assert_same_models(stack, bare_stack(two_layers))

    def test_a_part_is_no_target_network(self):
        """What the other stack has besides would be left behind."""
        part, whole = bare_stack(lambda: two_layers(bias=False)), bare_stack(two_layers, seeds=(5, 6, 7))
        with pytest.raises(ValueError, match=r"^other: got '1.bias' as well, expected "):
            part.copy_from(whole)
        assert_same_models(part, bare_stack(lambda: two_layers(bias=False)))
        part.load(whole)
        assert torch.equal(part.model(0)[1].weight, whole.model(0)[1].weight)
