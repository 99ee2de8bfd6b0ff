"""The attention network against PyTorch's own attention, hand-written compositions, and symmetries it must have."""

import math
import re
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from recmtl_lessons.models import MultiDomainAttentionNetwork, masked_attention
from tests.support.refusals import finite

WIDTHS = {"books": 5, "films and series": 3, "games.pc": 4}
NAMES = tuple(WIDTHS)
ITEM = 6


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(seed=0, **changed):
    sizes = {"embedding_dim": 8, "attention_dim": 4, "hidden_dims": (7, 6), "item_dim": ITEM}
    arguments = {"domain_features": WIDTHS, **sizes, **changed}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiDomainAttentionNetwork(**arguments)


def users(rows, widths=WIDTHS, seed=0, dtype=torch.float32):
    return {name: normal(rows, width, seed=seed + k, dtype=dtype) for k, (name, width) in enumerate(widths.items())}


def some_mask(rows, domains=3, seed=0):
    mask = normal(rows, domains, seed=seed + 50) > 0
    mask[torch.arange(rows), torch.arange(rows) % domains] = True
    return mask


def refusal(name, came=""):
    """Pattern of a message that names the argument, what came and what was expected."""
    return rf"^{re.escape(name)}: got .*{came}.*expected "


class TestMaskedAttention:
    @settings(max_examples=60)
    @given(
        st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.booleans()
    )
    def test_is_pytorchs_attention(self, rows, domains, width, out, seed, masked):
        query, keys = 3 * normal(rows, width, seed=seed), normal(rows, domains, width, seed=seed + 1)
        values = normal(rows, domains, out, seed=seed + 2)
        mask = some_mask(rows, domains, seed) if masked else None
        attended, weights = masked_attention(query, keys, values, mask)
        attn_mask = None if mask is None else mask[:, None]
        expected = F.scaled_dot_product_attention(query[:, None], keys, values, attn_mask)[:, 0]
        assert float((attended - expected).abs().max()) <= 1e-6 * max(1.0, float(values.abs().max()))
        identity = torch.eye(domains).expand(rows, -1, -1)
        shown = F.scaled_dot_product_attention(query[:, None], keys, identity, attn_mask)[:, 0]
        torch.testing.assert_close(weights, shown, rtol=0, atol=1e-6)

    def test_by_hand(self):
        query, keys = torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 3, 4)
        keys[0, :, 0] = torch.tensor([math.log(2), math.log(3), 0.0])  # scores: log 2, log 3, 0
        values = torch.tensor([[[6.0], [12.0], [100.0]]])
        attended, weights = masked_attention(query, keys, values, torch.tensor([[True, True, False]]))
        torch.testing.assert_close(weights, torch.tensor([[0.4, 0.6, 0.0]]))
        torch.testing.assert_close(attended, torch.tensor([[9.6]]))

    @given(st.integers(1, 5), st.integers(0, 99))
    def test_infinite_temperature_is_the_mean_over_what_is_visible(self, rows, seed):
        mask = some_mask(rows, 4, seed)
        query, keys, values = normal(rows, 3, seed=seed), normal(rows, 4, 3, seed=seed), normal(rows, 4, 2, seed=seed)
        for temperature in (math.inf, torch.tensor(math.inf), 1 / torch.tensor(0.0)):
            attended, weights = masked_attention(query, keys, values, mask, temperature)
            torch.testing.assert_close(weights, mask / mask.sum(1, keepdim=True))
            expected = torch.stack([v[m].mean(0) for v, m in zip(values, mask, strict=True)])
            torch.testing.assert_close(attended, expected)

    def test_a_low_temperature_chooses_the_best_match(self):
        query, keys, values = normal(20, 3), normal(20, 4, 3, seed=1), normal(20, 4, 2, seed=2)
        _, weights = masked_attention(query, keys, values, temperature=1e-4)
        best = (keys @ query[:, :, None]).squeeze(2).argmax(1)
        torch.testing.assert_close(weights, F.one_hot(best, 4).float(), rtol=0, atol=1e-4)

    def test_temperature_divides_the_scores(self):
        query, keys, values = normal(5, 3), normal(5, 4, 3, seed=1), normal(5, 4, 2, seed=2)
        warm = masked_attention(query, keys, values, temperature=2.5)[1]
        torch.testing.assert_close(warm, masked_attention(query / 2.5, keys, values)[1])

    def test_gradients_are_finite_beside_masked_scores(self):
        query = normal(6, 3, dtype=torch.float64).requires_grad_()
        keys = normal(6, 4, 3, seed=1, dtype=torch.float64).requires_grad_()
        values = normal(6, 4, 2, seed=2, dtype=torch.float64).requires_grad_()
        mask = some_mask(6, 4)
        assert torch.autograd.gradcheck(lambda *x: masked_attention(*x, mask)[0], (query, keys, values))
        masked_attention(query, keys, values, mask)[0].sum().backward()
        for tensor in (keys, values):
            assert torch.equal(tensor.grad[~mask], torch.zeros_like(tensor.grad[~mask]))
            assert float(tensor.grad[mask].abs().max()) > 0


class TestNetwork:
    @pytest.mark.parametrize("shared", [False, True])
    def test_against_a_composition_by_hand(self, shared):
        widths = dict.fromkeys(NAMES, 5) if shared else WIDTHS
        model = network(domain_features=widths, shared_encoder=shared).double()
        rows, mask = 7, some_mask(7)
        x, item = users(rows, widths, dtype=torch.float64), normal(rows, ITEM, seed=9, dtype=torch.float64)
        query = torch.arange(rows) % 3
        answer = model(query, x, mask, item)
        p = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for k in range(rows):
            a = int(query[k])
            at = [0 if shared else d for d in range(3)]
            e = [
                x[n][k] @ p[f"encoders.{i}.weight"].T + p[f"encoders.{i}.bias"] for n, i in zip(NAMES, at, strict=True)
            ]
            q = (p["tokens"][a] + (e[a] if mask[k, a] else 0)) @ p["to_query.weight"].T
            score = [float(q @ (p["to_key.weight"] @ (p["tokens"][d] + e[d]))) / math.sqrt(4) for d in range(3)]
            total = sum(math.exp(s) for s, m in zip(score, mask[k], strict=True) if m)
            w = [math.exp(s) / total if m else 0.0 for s, m in zip(score, mask[k], strict=True)]
            user = sum(w[d] * (p["to_value.weight"] @ e[d]) for d in range(3))
            c = item[k] @ p["item_encoder.weight"].T + p["item_encoder.bias"]
            hidden = torch.cat([user, p["tokens"][a], c, user * c])
            for layer in (0, 2):
                hidden = (p[f"hidden.{layer}.weight"] @ hidden + p[f"hidden.{layer}.bias"]).clamp(min=0)
            logit = p["output.weight"] @ hidden + p["output.bias"]
            torch.testing.assert_close(answer["attention_weights"][k], torch.tensor(w, dtype=torch.float64))
            torch.testing.assert_close(answer["shared_representation"][k], hidden)
            torch.testing.assert_close(answer["predictions"][k], logit[0])

    def test_the_attention_is_pytorchs_on_the_networks_own_projections(self, device):
        model, x, mask = network().to(device), users(9), some_mask(9).to(device)
        x = {name: value.to(device) for name, value in x.items()}
        attended, weights = model.compute_cross_domain_attention("games.pc", x, mask)
        query, keys, values, kept = model.project("games.pc", x, mask)
        expected = F.scaled_dot_product_attention(query[:, None], keys, values, kept[:, None])[:, 0]
        torch.testing.assert_close(attended, expected, rtol=0, atol=1e-6)
        assert attended.shape == (9, 8)
        assert weights.shape == (9, 3)

    @settings(max_examples=40)
    @given(
        st.lists(st.integers(1, 6), min_size=1, max_size=6),
        st.integers(1, 5),
        st.integers(0, 99),
        st.sampled_from([0, 4]),
        st.booleans(),
    )
    def test_weights_are_weights(self, widths, rows, seed, item_dim, by_row):
        widths = {f"d{k}": width for k, width in enumerate(widths)}
        model = network(domain_features=widths, item_dim=item_dim)
        mask = some_mask(rows, len(widths), seed)
        item = normal(rows, 4, seed=seed) if item_dim else None
        query = torch.arange(rows) % len(widths) if by_row else f"d{len(widths) - 1}"
        answer = model(query, users(rows, widths, seed), mask, item)
        weights = answer["attention_weights"]
        assert answer["predictions"].shape == (rows,)
        assert answer["shared_representation"].shape == (rows, 6)
        assert bool((weights >= 0).all())
        assert torch.equal(weights[~mask], torch.zeros_like(weights[~mask]))
        torch.testing.assert_close(weights.sum(1), torch.ones(rows))

    def test_a_name_for_all_rows_is_its_number_in_each(self):
        model, x, item = network(), users(4), normal(4, ITEM)
        by_name = model("games.pc", x, item_features=item)
        by_number = model(torch.full((4,), 2), x, item_features=item)
        assert all(torch.equal(by_name[key], by_number[key]) for key in by_name)

    def test_users_that_are_permuted_get_permuted_answers(self):
        model, x, mask, item = network(), users(8), some_mask(8), normal(8, ITEM)
        order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
        query = torch.arange(8) % 3
        plain = model(query, x, mask, item)
        moved = model(query[order], {n: v[order] for n, v in x.items()}, mask[order], item[order])
        for key, value in plain.items():
            torch.testing.assert_close(moved[key], value[order])

    def test_one_user_does_not_depend_on_the_others(self):
        model, x, mask, item = network(), users(8), some_mask(8), normal(8, ITEM)
        together = model("books", x, mask, item)
        alone = model("books", {n: v[3:4] for n, v in x.items()}, mask[3:4], item[3:4])
        for key, value in together.items():
            torch.testing.assert_close(alone[key], value[3:4])

    def test_the_order_of_the_mapping_does_not_matter(self):
        model, x, item = network(), users(4), normal(4, ITEM)
        backwards = dict(reversed(x.items()))
        one, other = model("books", x, None, item), model("books", backwards, None, item)
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_what_is_masked_has_no_influence_and_no_gradient(self):
        model, mask, item = network(), some_mask(9), normal(9, ITEM)
        x = {name: value.requires_grad_() for name, value in users(9).items()}
        query = torch.arange(9) % 3
        plain = model(query, x, mask, item)
        plain["predictions"].sum().backward()
        for d, name in enumerate(NAMES):
            assert torch.equal(x[name].grad[~mask[:, d]], torch.zeros_like(x[name].grad[~mask[:, d]]))
            assert float(x[name].grad[mask[:, d]].abs().max()) > 0
        garbage = {n: v.detach().clone() for n, v in x.items()}
        for d, name in enumerate(NAMES):
            garbage[name][~mask[:, d]] = math.nan
        other = model(query, garbage, mask, item)
        assert all(torch.equal(plain[key], other[key]) for key in plain)

    def test_without_history_in_the_domain_asked_about_the_token_asks_alone(self):
        model, x = network(), users(4)
        hidden = torch.tensor([[False, True, True]]).expand(4, 3)
        query, _, _, _ = model.project("books", x, hidden)
        torch.testing.assert_close(query, (model.tokens[0] @ model.to_query.weight.T).expand(4, 4))
        seen, _, _, _ = model.project("books", x)
        assert float((seen - query).detach().abs().min()) > 0

    def test_no_mask_is_all_visible(self):
        model, x, item = network(), users(4), normal(4, ITEM)
        full = torch.ones(4, 3, dtype=torch.bool)
        one, other = model("books", x, None, item), model("books", x, full, item)
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_a_shared_encoder_is_one(self):
        widths = dict.fromkeys(NAMES, 5)
        assert len(network(domain_features=widths, shared_encoder=True).encoders) == 1
        assert len(network(domain_features=widths).encoders) == 3
        model, x = network(domain_features=widths, shared_encoder=True), normal(2, 5)
        _, _, values, _ = model.project("books", dict.fromkeys(NAMES, x))
        torch.testing.assert_close(values[:, 0], values[:, 2])

    def test_a_batch_of_one_trains(self, device):
        model = network(dropout_rate=0.2).to(device).train()
        x = {name: value.to(device) for name, value in users(1).items()}
        answer = model("books", x, None, normal(1, ITEM).to(device))
        F.binary_cross_entropy_with_logits(answer["predictions"], torch.ones(1, device=device)).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())

    def test_every_parameter_learns(self):
        model = network()
        out = model(torch.arange(9) % 3, users(9), some_mask(9), normal(9, ITEM))
        F.binary_cross_entropy_with_logits(out["predictions"], (torch.arange(9) % 2).float()).backward()
        for name, parameter in model.named_parameters():
            assert float(parameter.grad.abs().max()) > 0, name

    def test_predictions_are_logits(self):
        model = network()
        logits = model("books", users(50), None, 100 * normal(50, ITEM))["predictions"].detach()
        assert float(logits.max()) > 1
        assert float(logits.min()) < 0

    def test_dropout_in_training_only_and_predict_without(self):
        model, x, item = network(dropout_rate=0.5).train(), users(6), normal(6, ITEM)
        torch.manual_seed(0)
        one, other = (model("books", x, None, item)["predictions"] for _ in range(2))
        assert not torch.equal(one, other)
        found = model.predict("books", x, None, item)
        assert all(module.training for module in model.modules())
        assert not found.requires_grad
        model.eval()
        torch.testing.assert_close(found, model("books", x, None, item)["predictions"].sigmoid())
        assert torch.equal(found, model.predict("books", x, None, item))


class TestStacked:
    def test_vmap_is_one_after_another(self, device):
        models = [network(seed=seed).to(device) for seed in range(4)]
        parameters, buffers = stack_module_state(models)
        x = {name: normal(4, 7, width, seed=k).to(device) for k, (name, width) in enumerate(WIDTHS.items())}
        mask = torch.stack([some_mask(7, seed=k) for k in range(4)]).to(device)
        query = (torch.arange(28) % 3).view(4, 7).to(device)
        item = normal(4, 7, ITEM, seed=5).to(device)
        click = (normal(4, 7, seed=6) > 0).float().to(device)
        focus = torch.tensor([0.0, 0.5, 1.0, 3.0], device=device)

        def loss(model, query, x, mask, item, click, focus):
            answer = model(query, x, mask, item, 1 / focus)
            return F.binary_cross_entropy_with_logits(answer["predictions"], click)

        def stacked(parameters, buffers, *arguments):
            return loss(lambda *a: functional_call(models[0], (parameters, buffers), a), *arguments)

        losses = torch.vmap(stacked)(parameters, buffers, query, x, mask, item, click, focus)
        losses.sum().backward()
        for i, model in enumerate(models):
            temperature = 1 / float(focus[i]) if float(focus[i]) else math.inf
            rows = {name: value[i] for name, value in x.items()}
            answer = model(query[i], rows, mask[i], item[i], temperature)
            alone = F.binary_cross_entropy_with_logits(answer["predictions"], click[i])
            alone.backward()
            torch.testing.assert_close(losses[i], alone)
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(parameters[name].grad[i], parameter.grad, rtol=1e-4, atol=1e-6)

    def test_with_equal_weights_queries_and_keys_learn_nothing(self):
        model = network()
        model("books", users(6), some_mask(6), normal(6, ITEM), math.inf)["predictions"].sum().backward()
        for name in ("to_query", "to_key"):
            gradient = getattr(model, name).weight.grad
            assert torch.equal(gradient, torch.zeros_like(gradient))
        assert float(model.to_value.weight.grad.abs().max()) > 0


@pytest.fixture
def unchanged():
    """A network in training mode; afterwards its mode and every one of its numbers must be as before."""
    model = network(dropout_rate=0.2).train()
    before = deepcopy(model.state_dict())
    yield model
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TestBadInput:
    @pytest.mark.parametrize("method", ["forward", "predict"])
    @pytest.mark.parametrize(
        ("features", "came"),
        [
            ({name: value for name, value in users(4).items() if name != "books"}, "films and series"),
            ({**users(4), "music": normal(4, 2)}, "music"),
            ({**users(4), "books": normal(3, 5)}, "'books': 3"),
            (users(0), "'books': 0"),
        ],
    )
    def test_features(self, unchanged, method, features, came):
        with pytest.raises(ValueError, match=refusal("domain_features", came)):
            getattr(unchanged, method)("films and series", features, None, normal(4, ITEM))

    def test_a_user_without_any_history(self, unchanged):
        mask = torch.tensor([[True] * 3, [False] * 3, [True] * 3, [False] * 3])
        for call in (unchanged.compute_cross_domain_attention, unchanged.project):
            with pytest.raises(ValueError, match=refusal("mask", "no history in any domain for row 1")):
                call("books", users(4), mask)
        with pytest.raises(ValueError, match=refusal("mask", "no history in any domain for row 1")):
            masked_attention(normal(4, 2), normal(4, 3, 2), normal(4, 3, 2), mask)

    def test_items_where_none_are_expected(self):
        model = network(item_dim=0)
        with pytest.raises(ValueError, match=r"^item_features: got a value, expected None"):
            model("books", users(4), None, normal(4, ITEM))
        assert model("books", users(4))["predictions"].shape == (4,)

    @pytest.mark.parametrize("shape", [(1,), (3,), (4,), (4, 1), (4, 3)])
    def test_one_temperature_a_row_or_a_domain_is_refused(self, shape):
        """A row's would be right for the weights, and a domain's would be none of a softmax."""
        with pytest.raises(
            ValueError, match=r"^temperature: got a tensor of shape .*expected a positive number or inf"
        ):
            network().compute_cross_domain_attention("books", users(4), None, torch.ones(shape))

    @pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan, -math.inf])
    def test_temperatures_as_tensors_are_numbers(self, temperature):
        for value in (temperature, torch.tensor(temperature)):
            with pytest.raises(ValueError, match=refusal("temperature")):
                masked_attention(normal(4, 2), normal(4, 3, 2), normal(4, 3, 2), None, value)
            with pytest.raises(ValueError, match=refusal("temperature")):
                network()("books", users(2), None, normal(2, ITEM), value)

    def test_domains_of_several_widths_cannot_share_an_encoder(self):
        with pytest.raises(ValueError, match=r"^shared_encoder: got True with widths \(5, 3, 4\)"):
            network(shared_encoder=True)

    def test_the_callers_mapping_is_copied(self):
        widths = dict(WIDTHS)
        model = network(domain_features=widths)
        widths["books"] = 1
        assert model.predict("books", users(2), None, normal(2, ITEM)).shape == (2,)


class TestNothingSilent:
    def test_scores_that_are_not_finite(self):
        query, keys, values = torch.full((4, 2), 1e20), torch.full((4, 3, 2), 1e19), normal(4, 3, 2)
        with pytest.raises(ValueError, match=refusal("query", r"numbers of up to 1e\+20")):
            masked_attention(query, keys, values)
        with pytest.raises(ValueError, match=refusal("keys", r"numbers of up to 1e\+21")):
            masked_attention(query, 100 * keys, values)
        with pytest.raises(ValueError, match=refusal("temperature", "numbers of up to 2.5e-39")):
            masked_attention(query / 1e20, keys / 1e19, values, None, 1e-38 / 4)

    def test_weights_of_large_scores_that_are_finite_are_right(self):
        query, keys, values = 1e15 * normal(20, 3), 1e15 * normal(20, 4, 3, seed=1), normal(20, 4, 2, seed=2)
        best = (keys @ query[:, :, None]).squeeze(2).argmax(1)
        assert torch.equal(masked_attention(query, keys, values)[1], F.one_hot(best, 4).float())

    @pytest.mark.parametrize("size", [1e15, 1e20, 1e38])
    @pytest.mark.parametrize("temperature", [1.0, math.inf])
    def test_features_are_answered_or_are_too_large(self, unchanged, size, temperature):
        """In the domain asked about, a feature is in the query as well as in a key: their product is a square."""
        features, item = {**users(4), "books": size * users(4)["books"]}, normal(4, ITEM)
        unseen = torch.tensor([[False, True, True]]).expand(4, 3)
        plain, other = (unchanged.eval()("books", x, unseen, item, temperature) for x in (features, users(4)))
        assert all(torch.equal(plain[key], other[key]) for key in plain)
        for call in (unchanged.compute_cross_domain_attention, unchanged, unchanged.predict):
            more = () if call == unchanged.compute_cross_domain_attention else (item,)
            if size == 1e15:
                assert finite(call("books", features, None, *more, temperature=temperature))
            elif size == 1e38 or temperature == 1:
                with pytest.raises(ValueError, match=refusal("domain_features['books']", "numbers of up to")):
                    call("books", features, None, *more, temperature=temperature)
        unchanged.train()

    def test_items_so_large_that_the_answer_is_not_finite(self, unchanged):
        with pytest.raises(ValueError, match=refusal("item_features", "numbers of up to")):
            unchanged("books", users(4), None, 3e38 * torch.ones(4, ITEM))

    def test_features_of_another_dtype(self, unchanged):
        """What `torch.from_numpy` gives."""
        double = {name: value.double() for name, value in users(4).items()}
        with pytest.raises(ValueError, match=refusal("domain_features['books']", "torch.float64")):
            unchanged("books", double, None, normal(4, ITEM))
        with pytest.raises(ValueError, match=r"^item_features: got dtype torch.float64, expected torch.float32"):
            unchanged("books", users(4), None, normal(4, ITEM).double())

    @pytest.mark.parametrize(
        "part", ["tokens", "encoders.1.weight", "to_query.weight", "to_key.weight", "to_value.weight"]
    )
    def test_weights_that_are_not_finite(self, part):
        model = network()
        with torch.no_grad():
            model.get_parameter(part)[-1, -1] = math.nan
        broken = rf"^weights: got NaN or infinite values, expected finite numbers in {re.escape(part)}"
        query = torch.arange(4) % 3
        for call in (model.project, model.compute_cross_domain_attention):
            with pytest.raises(ValueError, match=broken):
                call(query, users(4))
        for call in (model, model.predict):
            with pytest.raises(ValueError, match=broken):
                call(query, users(4), None, normal(4, ITEM))
