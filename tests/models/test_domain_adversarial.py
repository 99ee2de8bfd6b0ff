"""The domain-adversarial network against closed forms, other libraries and hand-written compositions."""

import math
import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_squared_error
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from recmtl_lessons.models import (
    DomainAdversarialNetwork,
    GradientReversalLayer,
    domain_loss,
    lambda_schedule,
    task_loss,
)

BINARY = {"task_type": "classification", "output_dim": 1}
CLASSES = {"task_type": "classification", "output_dim": 4}
VALUE = {"task_type": "regression", "output_dim": 1}
VALUES = {"task_type": "regression", "output_dim": 3}
TASKS = {"click": BINARY, "genre": CLASSES, "rating": VALUE, "aspects": VALUES}
WIDTH = 5


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(seed=0, **changed):
    arguments = {"feature_dim": WIDTH, "hidden_dims": (8, 6), "n_domains": 3, "task_configs": TASKS, **changed}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DomainAdversarialNetwork(**arguments)


def refusal(name, came=""):
    """Pattern of a message that names the argument, what came and what was expected."""
    return rf"^{re.escape(name)}: got .*{came}.*, expected "


@pytest.fixture
def unchanged():
    """A network in training mode; afterwards its mode and every one of its numbers must be as before."""
    model = network(dropout_rate=0.2).train()
    before = deepcopy(model.state_dict())
    yield model
    assert_untouched(model, before)


def assert_untouched(model, before):
    assert all(module.training for module in model.modules())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


class TestReversal:
    @given(st.lists(st.integers(0, 4), max_size=4), st.floats(0, 20), st.booleans())
    def test_forward_is_the_identity_and_backward_minus_alpha(self, shape, alpha, as_tensor):
        x = normal(*shape, dtype=torch.float64).requires_grad_()
        arriving = normal(*shape, seed=1, dtype=torch.float64)
        out = GradientReversalLayer.apply(x, torch.tensor(alpha, dtype=torch.float64) if as_tensor else alpha)
        assert torch.equal(out, x)
        out.backward(arriving)
        torch.testing.assert_close(x.grad, -alpha * arriving, rtol=1e-15, atol=0)

    def test_with_minus_one_it_is_a_true_identity(self):
        x = normal(3, 2, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: GradientReversalLayer.apply(x, -1.0), x)

    @pytest.mark.parametrize("alpha", [0.0, 0.3, torch.tensor(2.0, dtype=torch.float64)])
    def test_its_backward_can_be_differentiated(self, alpha):
        x = normal(3, 2, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradgradcheck(lambda x: GradientReversalLayer.apply(x.sin(), alpha), x)

    @pytest.mark.parametrize(
        "alpha", [3, torch.tensor(3), torch.tensor(3, dtype=torch.uint8), torch.tensor(3.0).half()]
    )
    def test_numbers_of_every_kind(self, alpha):
        x = normal(3).requires_grad_()
        GradientReversalLayer.apply(x, alpha).sum().backward()
        assert torch.equal(x.grad, torch.full((3,), -3.0))

    @pytest.mark.parametrize("shape", [(1,), (3,), (2,), (3, 1)])
    def test_one_alpha_a_row_or_a_feature_is_refused_before_it_crashes_or_is_broadcast(self, shape):
        x, alpha = normal(3, 2).requires_grad_(), torch.full(shape, 0.5)
        with pytest.raises(ValueError, match=refusal("alpha", "a tensor of shape")):
            GradientReversalLayer.apply(x, alpha)
        model = network()
        with pytest.raises(ValueError, match=refusal("alpha", "a tensor of shape")):
            model(normal(3, WIDTH), "click", alpha)

    def test_alpha_receives_no_gradient(self):
        x, alpha = normal(3).requires_grad_(), torch.tensor(2.0, requires_grad=True)
        GradientReversalLayer.apply(x, alpha).sum().backward()
        assert alpha.grad is None
        assert torch.equal(x.grad, torch.full((3,), -2.0))

    def test_twice_multiplies_the_strengths(self):
        x = normal(3).requires_grad_()
        GradientReversalLayer.apply(GradientReversalLayer.apply(x, 2.0), 3.0).sum().backward()
        assert torch.equal(x.grad, torch.full((3,), 6.0))

    @pytest.mark.parametrize("alpha", [0.7, torch.tensor(0.7)])
    def test_torch_func_grad(self, alpha, device):
        x = normal(4).to(device)
        found = torch.func.grad(lambda x: GradientReversalLayer.apply(x, alpha).square().sum())(x)
        torch.testing.assert_close(found, -0.7 * 2 * x)

    def test_vmap_with_one_alpha_a_model(self, device):
        x, alphas = normal(5, 3, 2).to(device), torch.arange(5.0, device=device)

        def loss(x, alpha):
            return GradientReversalLayer.apply(x, alpha).square().sum()

        found = torch.vmap(torch.func.grad(loss))(x, alphas)
        torch.testing.assert_close(found, -alphas[:, None, None] * 2 * x)
        shared = torch.vmap(torch.func.grad(loss), in_dims=(0, None))(x, torch.tensor(0.5, device=device))
        torch.testing.assert_close(shared, -x)

    def test_backward_through_vmap(self):
        x, alphas = normal(4, 3).requires_grad_(), torch.arange(4.0)
        torch.vmap(GradientReversalLayer.apply)(x, alphas).sum().backward()
        assert torch.equal(x.grad, -alphas[:, None].expand(4, 3))


class TestGradients:
    @pytest.mark.parametrize(("alpha", "lambda_domain"), [(1.0, 1.0), (0.3, 2.5), (0.0, 1.0), (1.0, 0.0)])
    @pytest.mark.parametrize("task", ["click", "genre", "rating"])
    def test_who_learns_what(self, task, alpha, lambda_domain):
        """Two plain losses, differentiated one at a time with no reversal anywhere, say what is right."""
        model = network(lambda_domain=lambda_domain).double()
        x, domains = normal(12, WIDTH, dtype=torch.float64), torch.arange(12) % 3
        target = torch.arange(12) % 2
        output, domain_logits = model(x, task, alpha)
        (task_loss(output, target, TASKS[task]) + domain_loss(domain_logits, domains)).backward()

        parameters = dict(model.named_parameters())
        features = x
        for layer in (0, 2):
            weight, bias = parameters[f"encoder.{layer}.weight"], parameters[f"encoder.{layer}.bias"]
            features = (features @ weight.T + bias).clamp(min=0)

        def head(prefix):
            hidden = (features @ parameters[f"{prefix}.0.weight"].T + parameters[f"{prefix}.0.bias"]).clamp(min=0)
            return hidden @ parameters[f"{prefix}.2.weight"].T + parameters[f"{prefix}.2.bias"]

        answer = head(f"task_heads.{list(TASKS).index(task)}")
        if task == "click":
            p = 1 / (1 + (-answer[:, 0]).exp())
            alone = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
        elif task == "genre":
            alone = (answer.exp().sum(1).log() - answer[torch.arange(12), target]).mean()
        else:
            alone = (answer[:, 0] - target).square().mean()
        logits = head("domain_classifier")
        adversary = (logits.exp().sum(1).log() - logits[torch.arange(12), domains]).mean()

        names, leaves = list(parameters), list(parameters.values())
        of_task = torch.autograd.grad(alone, leaves, retain_graph=True, allow_unused=True)
        of_domain = torch.autograd.grad(adversary, leaves, allow_unused=True)
        for name, from_task, from_domain in zip(names, of_task, of_domain, strict=True):
            expected = {
                "encoder": lambda t, d: t - alpha * lambda_domain * d,
                "domain_classifier": lambda t, d: d,
                "task_heads": lambda t, d: t,
            }[name.split(".")[0]](from_task, from_domain)
            if expected is None:  # another task's head
                assert parameters[name].grad is None
            else:
                torch.testing.assert_close(parameters[name].grad, expected, rtol=1e-10, atol=1e-14, msg=name)

    def test_the_classifier_meets_its_own_gradient_whatever_the_strength(self):
        x, domains, found = normal(9, WIDTH), torch.arange(9) % 3, []
        for alpha in (0.0, 0.1, 10.0):
            model = network()
            domain_loss(model(x, "click", alpha)[1], domains).backward()
            found.append([p.grad for p in model.domain_classifier.parameters()])
        for gradients in zip(*found, strict=True):
            assert torch.equal(gradients[0], gradients[1])
            assert torch.equal(gradients[0], gradients[2])
            assert float(gradients[0].abs().max()) > 0

    def test_torch_func_grad_of_the_whole_network(self, device):
        model = network().to(device)
        x, domains = normal(9, WIDTH).to(device), (torch.arange(9) % 3).to(device)

        def loss(parameters):
            output, domain_logits = functional_call(model, parameters, (x, "rating", 0.4))
            return task_loss(output, x[:, 0], VALUE) + domain_loss(domain_logits, domains)

        parameters = {name: p.detach() for name, p in model.named_parameters()}
        functional = torch.func.grad(loss)(parameters)
        loss(dict(model.named_parameters())).backward()
        for name, parameter in model.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(functional[name], expected)

    def test_vmap_over_stacked_networks_is_one_after_another(self, device):
        models = [network(seed=seed).to(device) for seed in range(4)]
        parameters, buffers = stack_module_state(models)
        x, alphas = normal(4, 7, WIDTH).to(device), torch.tensor([0.0, 0.1, 1.0, 3.0], device=device)
        click = (normal(4, 7, seed=1) > 0).float().to(device)
        domains = (torch.arange(28) % 3).view(4, 7).to(device)

        def loss(model, x, click, domains, alpha):
            output, domain_logits = model(x, "click", alpha)
            return task_loss(output, click, BINARY) + domain_loss(domain_logits, domains)

        def stacked(parameters, buffers, *arguments):
            return loss(lambda *a: functional_call(models[0], (parameters, buffers), a), *arguments)

        losses = torch.vmap(stacked)(parameters, buffers, x, click, domains, alphas)
        losses.sum().backward()
        for i, model in enumerate(models):
            alone = loss(model, x[i], click[i], domains[i], float(alphas[i]))
            alone.backward()
            torch.testing.assert_close(losses[i], alone)
            for name, parameter in model.named_parameters():
                if parameter.grad is None:  # another task's head
                    assert parameters[name].grad is None
                else:
                    torch.testing.assert_close(parameters[name].grad[i], parameter.grad, rtol=1e-4, atol=1e-6)


class TestForward:
    @settings(max_examples=30)
    @given(
        st.integers(1, 6),
        st.lists(st.integers(1, 9), min_size=1, max_size=3),
        st.integers(2, 5),
        st.lists(st.tuples(st.sampled_from(["classification", "regression"]), st.integers(1, 4)), min_size=1),
        st.integers(1, 4),
    )
    def test_any_number_of_domains_and_tasks(self, width, hidden, n_domains, kinds, rows):
        tasks = {f"task {i}.{kind}": {"task_type": kind, "output_dim": n} for i, (kind, n) in enumerate(kinds)}
        model = DomainAdversarialNetwork(width, hidden, n_domains, tasks, dropout_rate=0.1).train()
        for name, config in tasks.items():
            output, domain_logits = model(normal(rows, width), name)
            assert output.shape == (rows, config["output_dim"])
            assert domain_logits.shape == (rows, n_domains)
        assert model.encode(normal(rows, width)).shape == (rows, hidden[-1])

    def test_a_batch_of_one_trains(self, device):
        model = network(dropout_rate=0.2).to(device).train()
        output, domain_logits = model(normal(1, WIDTH).to(device), "click")
        loss = task_loss(output, torch.ones(1, device=device), BINARY)
        (loss + domain_loss(domain_logits, torch.tensor([2], device=device))).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.encoder.parameters())

    @pytest.mark.parametrize("task", ["click", "genre"])
    def test_outputs_are_logits(self, task):
        model = network().eval()
        for logits in model(100 * normal(50, WIDTH), task):
            assert float(logits.detach().max()) > 1
            assert float(logits.detach().min()) < 0

    def test_alpha_changes_nothing_on_the_way_forward(self):
        model, x = network().eval(), normal(4, WIDTH)
        for one, other in zip(model(x, "click", 0.0), model(x, "click", torch.tensor(7.0)), strict=True):
            assert torch.equal(one, other)

    def test_dropout_leaves_out_its_share_in_training_only(self):
        model = network(hidden_dims=(400,), dropout_rate=0.3)
        with torch.no_grad():
            model.encoder[0].weight.zero_()
            model.encoder[0].bias.fill_(1.0)
        x = normal(200, WIDTH)
        dropped = (model.train().encode(x) == 0).float().mean()
        assert float(dropped) == pytest.approx(0.3, abs=0.02)
        assert torch.equal(model.eval().encode(x), torch.ones(200, 400))

    def test_without_dropout_training_mode_is_evaluation_mode(self):
        model, x = network(), normal(4, WIDTH)
        assert torch.equal(model.train()(x, "click")[0], model.eval()(x, "click")[0])


class TestNothingSilent:
    @pytest.mark.parametrize("method", ["encode", "answer", "predict", "forward"])
    def test_features_of_another_dtype_or_too_large(self, method):
        model = network()
        ask, more = getattr(model, method), () if method == "encode" else ("rating",)
        with pytest.raises(ValueError, match=r"^x: got dtype torch.float64, expected torch.float32 as the network's"):
            ask(normal(4, WIDTH).double(), *more)
        with torch.no_grad():
            model.encoder[0].weight.fill_(1.0)
        with pytest.raises(ValueError, match=refusal("x", r"numbers of up to 3e\+38")):
            ask(torch.full((2, WIDTH), 3e38), *more)

    @pytest.mark.parametrize("part", ["encoder", "task_heads", "domain_classifier"])
    def test_weights_that_are_not_finite(self, part):
        model, x = network(), normal(4, WIDTH)
        with torch.no_grad():
            next(getattr(model, part).parameters())[0, 0] = math.nan
        broken = rf"^weights: got NaN or infinite values, expected finite numbers in {part}"
        with pytest.raises(ValueError, match=broken):
            model(x, "click")
        if part != "domain_classifier":
            for method in (model.answer, model.predict):
                with pytest.raises(ValueError, match=broken):
                    method(x, "click")
        if part == "task_heads":
            with pytest.raises(ValueError, match=broken):
                model.read(model.encode(x), "click")

    def test_losses_that_are_not_finite(self):
        huge = torch.full((2, 1), 1e30)
        with pytest.raises(ValueError, match=refusal("output", r"numbers of up to 1e\+30")):
            task_loss(huge, torch.zeros(2), VALUE)
        with pytest.raises(ValueError, match=refusal("target", r"numbers of up to 1e\+30")):
            task_loss(torch.zeros(2, 1), huge[:, 0], VALUE)
        assert float(task_loss(huge, torch.ones(2), BINARY)) == 0.0
        with pytest.raises(ValueError, match=refusal("domain_logits", r"numbers of up to 3e\+38")):
            domain_loss(torch.tensor([[-3e38, 3e38]]), torch.tensor([0]))

    def test_a_task_is_one_value_unless_it_says_otherwise(self):
        model, x = (
            network(
                task_configs={"rating": {}, "aspects": {"output_dim": 3}, "click": {"task_type": BINARY["task_type"]}}
            ),
            normal(4, WIDTH),
        )
        full = network(task_configs={"rating": VALUE, "aspects": VALUES, "click": BINARY})
        full.load_state_dict(model.state_dict())
        for task in model.tasks:
            assert torch.equal(model.predict(x, task), full.predict(x, task))
        output, target = normal(4, 1), (normal(4, seed=1) > 0).float()
        for short, whole in (({}, VALUE), ({"task_type": "classification"}, BINARY)):
            assert torch.equal(task_loss(output, target, short), task_loss(output, target, whole))


class TestPredict:
    def test_binary_is_the_probability_of_one(self, device):
        model, x = network().to(device).eval(), normal(6, WIDTH).to(device)
        found = model.predict(x, "click")
        assert found.shape == (6,)
        assert bool(((found > 0) & (found < 1)).all())
        torch.testing.assert_close(found, torch.sigmoid(model(x, "click")[0][:, 0]))

    def test_classes_have_probabilities_that_sum_to_one(self):
        model, x = network().eval(), normal(6, WIDTH)
        found = model.predict(x, "genre")
        assert found.shape == (6, 4)
        assert bool(((found > 0) & (found < 1)).all())
        torch.testing.assert_close(found.sum(1), torch.ones(6))
        logits = model(x, "genre")[0]
        torch.testing.assert_close(found, logits.exp() / logits.exp().sum(1, keepdim=True))

    @pytest.mark.parametrize(("task", "shape"), [("rating", (6,)), ("aspects", (6, 3))])
    def test_regression_gives_values(self, task, shape):
        model, x = network().eval(), normal(6, WIDTH)
        assert model.predict(x, task).shape == shape
        assert torch.equal(model.predict(x, task), model(x, task)[0].reshape(shape))

    def test_a_batch_of_one_keeps_its_dimension(self):
        assert network().predict(normal(1, WIDTH), "click").shape == (1,)

    def test_no_dropout_no_gradient_and_the_mode_comes_back(self):
        model, x = network(dropout_rate=0.5).train(), normal(6, WIDTH)
        found = model.predict(x, "click")
        assert all(module.training for module in model.modules())
        assert not found.requires_grad
        assert torch.equal(found, model.predict(x, "click"))
        assert torch.equal(found, model.eval().predict(x, "click"))
        assert not model.training

    def test_answer_keeps_mode_and_gradient(self):
        model, x = network(dropout_rate=0.5), normal(6, WIDTH)
        assert torch.equal(model.eval().answer(x, "genre"), model.predict(x, "genre"))
        assert model.answer(x, "click").requires_grad
        model.train()
        assert not torch.equal(model.answer(x, "click"), model.answer(x, "click"))


class TestSchedule:
    @given(st.floats(0, 1), st.floats(0, 100))
    def test_against_the_hyperbolic_tangent(self, progress, gamma):
        assert lambda_schedule(progress, gamma) == pytest.approx(math.tanh(gamma * progress / 2), abs=1e-14)
        as_tensor = lambda_schedule(progress, torch.tensor(gamma, dtype=torch.float64))
        assert float(as_tensor) == pytest.approx(math.tanh(gamma * progress / 2), abs=1e-14)

    def test_end_points(self):
        assert lambda_schedule(0.0) == 0.0
        assert lambda_schedule(1.0) == pytest.approx(0.9999092, abs=1e-7)
        assert lambda_schedule(0.7, 0.0) == 0.0

    def test_under_vmap(self):
        gammas = torch.tensor([0.0, 1.0, 10.0])
        found = torch.vmap(lambda gamma: lambda_schedule(0.5, gamma))(gammas)
        torch.testing.assert_close(found, torch.tanh(gammas / 4))

    def test_a_progress_as_a_tensor(self):
        found = torch.vmap(lambda_schedule)(torch.tensor([0.0, 0.5, 1.0]))
        torch.testing.assert_close(found, torch.tanh(torch.tensor([0.0, 2.5, 5.0])))

    @pytest.mark.parametrize("gamma", [torch.tensor(10, dtype=torch.uint8), torch.tensor(10.0).half(), 10])
    def test_numbers_of_every_kind(self, gamma):
        assert float(lambda_schedule(0.5, gamma)) == pytest.approx(math.tanh(2.5), abs=1e-3)


class TestLosses:
    def test_binary_against_scikit_learn(self, device):
        logits, target = 3 * normal(40, 1, dtype=torch.float64), normal(40, seed=1) > 0
        probability = 1 / (1 + np.exp(-logits[:, 0].numpy()))
        for kind in (torch.bool, torch.int64, torch.float32):
            found = task_loss(logits.to(device), target.to(device, kind), BINARY)
            assert float(found) == pytest.approx(log_loss(target.numpy(), probability), abs=1e-10)

    def test_classes_against_scikit_learn(self, device):
        logits, target = 3 * normal(40, 4, dtype=torch.float64), torch.arange(40) % 4
        probability = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
        for kind in (torch.uint8, torch.int32, torch.int64):
            found = task_loss(logits.to(device), target.to(device, kind), CLASSES)
            assert float(found) == pytest.approx(log_loss(target.numpy(), probability), abs=1e-10)

    def test_values_against_scikit_learn(self):
        output, target = normal(40, 3, dtype=torch.float64), normal(40, 3, seed=1, dtype=torch.float64)
        expected = mean_squared_error(target.numpy(), output.numpy())
        assert float(task_loss(output, target, VALUES)) == pytest.approx(expected, abs=1e-12)
        one = mean_squared_error(target[:, 0].numpy(), output[:, 0].numpy())
        assert float(task_loss(output[:, :1], target[:, 0], VALUE)) == pytest.approx(one, abs=1e-12)

    def test_domains_against_scikit_learn(self):
        logits, domains = 3 * normal(40, 5, dtype=torch.float64), torch.arange(40) % 5
        probability = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
        assert float(domain_loss(logits, domains)) == pytest.approx(log_loss(domains, probability), abs=1e-10)
        assert float(domain_loss(logits, domains.int())) == pytest.approx(log_loss(domains, probability), abs=1e-10)

    @given(st.integers(2, 12), st.integers(1, 9), st.floats(-50, 50))
    def test_log_n_when_the_classifier_knows_nothing(self, n, rows, level):
        found = domain_loss(torch.full((rows, n), level, dtype=torch.float64), torch.arange(rows) % n)
        assert float(found) == pytest.approx(math.log(n), abs=1e-12)

    def test_a_sure_classifier_reaches_zero(self):
        """Where a softmax inside the network would leave log(e + n - 1) - 1."""
        domains = torch.arange(6) % 3
        assert float(domain_loss(40.0 * F.one_hot(domains, 3), domains)) < 1e-12


class TestBadInput:
    def test_the_first_wrong_argument_is_named_and_nothing_has_happened(self, unchanged):
        x = torch.full((2, WIDTH), math.nan)
        for method in (unchanged, unchanged.predict, unchanged.answer):
            with pytest.raises(ValueError, match=r"^task_name: got 'buy', expected one of 'click', 'genre'"):
                method(x, "buy")
            with pytest.raises(ValueError, match=refusal("x", "NaN")):
                method(x, "click")

    @given(st.integers(1, 6), st.data())
    def test_a_target_of_another_shape_is_never_broadcast(self, rows, data):
        task = data.draw(st.sampled_from([BINARY, VALUE, VALUES, CLASSES]))
        width = task["output_dim"]
        right = (rows, width) if task is VALUES else (rows,)
        shapes = [(), (1,), (rows,), (rows, 1), (1, rows), (rows, width), (rows + 1,)]
        shape = data.draw(st.sampled_from([shape for shape in shapes if shape != right]))
        dtype = torch.int64 if task is CLASSES else torch.float32
        with pytest.raises(ValueError, match=refusal("target")):
            task_loss(torch.zeros(rows, width), torch.zeros(shape, dtype=dtype), task)

    @pytest.mark.parametrize(
        ("target", "task", "came"),
        [
            (torch.tensor([0.0, 2.0]), BINARY, "values from 0 to 2"),
            (torch.tensor([-1, 1]), BINARY, "values from -1 to 1"),
            (torch.tensor([0, 4]), CLASSES, "labels from 0 to 4"),
            (torch.tensor([0.0, 1.0]), CLASSES, r"torch.float32 \(2,\)"),
        ],
    )
    def test_values_of_targets(self, target, task, came):
        with pytest.raises(ValueError, match=refusal("target", came)):
            task_loss(torch.zeros(2, task["output_dim"]), target, task)

    @pytest.mark.parametrize(
        ("config", "named", "came"),
        [
            ({"task_type": "clasification"}, "['task_type']", "'clasification'.*expected one of 'classification', "),
            ({"task_type": "classification", "outputs": 2}, "", "outputs"),
            ({"output_dim": 0}, "['output_dim']", "0"),
        ],
    )
    def test_a_misspelt_configuration_is_no_squared_error(self, config, named, came):
        with pytest.raises(ValueError, match=rf"^{re.escape(f'task_config{named}')}: got .*{came}"):
            task_loss(torch.zeros(2, 1), torch.zeros(2), config)
        with pytest.raises(
            ValueError, match=rf"^{re.escape(f'task_configs[{chr(39)}click{chr(39)}]{named}')}: got .*{came}"
        ):
            network(task_configs={"click": config})

    def test_the_callers_configuration_is_copied(self):
        tasks = {"click": dict(BINARY)}
        model = network(task_configs=tasks)
        tasks["click"]["output_dim"] = 7
        del tasks["click"]["task_type"]
        assert model.predict(normal(2, WIDTH), "click").shape == (2,)


def test_two_networks_share_nothing():
    one, other = network(), network()
    nn.init.zeros_(one.encoder[0].weight)
    assert float(other.encoder[0].weight.detach().abs().max()) > 0
