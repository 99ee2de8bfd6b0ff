"""The transfer network against numpy, a search through the accounts of each person, and hand-written compositions."""

import math
import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from recmtl_lessons.models import CrossDomainTransferNetwork, coral_loss, squared_mmd
from recmtl_lessons.training import ManyModels

SOURCES = {"books": (7, 5), "music": (6, 8)}
TARGETS = {"films": (9, 6), "games": (4, 3)}
SIZES = {**SOURCES, **TARGETS}
SHARED = {
    ("books", "films"): torch.tensor([[0, 3], [2, 0]]),
    ("films", "games"): torch.tensor([[3, 1], [5, 2]]),
    ("games", "music"): torch.tensor([[2, 4]]),
}  # book 0 = film 3 = game 1; book 2 = film 0; film 5 = game 2 = music 4


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(seed=0, **changed):
    arguments = {
        "source_vocab_sizes": SOURCES,
        "target_vocab_sizes": TARGETS,
        "embedding_dim": 3,
        "hidden_dims": (8, 6),
        "shared_dims": (7, 5),
        "shared_users": SHARED,
        **changed,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CrossDomainTransferNetwork(**arguments)


def trained(seed=0, **changed):
    """A network in double precision with every parameter away from its start, so that every part of it counts."""
    model = network(seed, **changed).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.5 * normal(*parameter.shape, seed=1000 * seed + number))
    return model


def rows(domain, n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(size, (n,), generator=generator) for size in SIZES[domain])


def batch(source="books", target="films", n_source=5, n_target=7):
    return source, target, *rows(source, n_source), *rows(target, n_target, seed=1)


def refusal(name, came=""):
    """Pattern of a message that names the argument, what came and what was expected."""
    return rf"^{re.escape(name)}: got .*{came}.*, expected "


def assert_untouched(model, before):
    assert all(module.training for module in model.modules())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def people(sizes, shared_users):
    """The accounts of each person, {(domain, user): frozenset of such}, by walking along the links."""
    links = {(domain, user): set() for domain, (users, _) in sizes.items() for user in range(users)}
    for (first, second), pairs in shared_users.items():
        for one, other in pairs.tolist():
            links[first, one].add((second, other))
            links[second, other].add((first, one))
    found = {}
    for start in links:
        reached, waiting = {start}, [start]
        while waiting:
            for neighbour in links[waiting.pop()] - reached:
                reached.add(neighbour)
                waiting.append(neighbour)
        found[start] = frozenset(reached)
    return found


def user_row(model, domain, user):
    """Row of the user table that moves when this user's embedding is asked to."""
    embedding, _ = model.embed(domain, torch.tensor([user]), torch.tensor([0]))
    moved = torch.autograd.grad(embedding.sum(), model.user_embeddings.weight)[0].abs().sum(1).nonzero()
    assert moved.shape == (1, 1)
    return int(moved)


class TestTables:
    def test_users_and_items_of_one_number_share_nothing(self):
        model = network()
        user, item = model.embed("books", torch.tensor([4]), torch.tensor([4]))
        of_user = torch.autograd.grad(user.sum(), list(model.parameters()), allow_unused=True)
        of_item = torch.autograd.grad(item.sum(), list(model.parameters()), allow_unused=True)
        names = [name for name, _ in model.named_parameters()]
        assert [name for name, g in zip(names, of_user, strict=True) if g is not None] == ["user_embeddings.weight"]
        assert [name for name, g in zip(names, of_item, strict=True) if g is not None] == ["item_embeddings.0.weight"]
        assert not torch.equal(user, item)

    @pytest.mark.parametrize("domain", list(SIZES))
    def test_a_prediction_touches_its_own_rows_alone(self, domain):
        model, (users, items) = trained(), rows(domain, 3)
        model.answer(domain, users, items).sum().backward()
        number = list(SIZES).index(domain)
        own = {user_row(model, domain, user) for user in users.tolist()}
        assert set(model.user_embeddings.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == own
        for other, table in enumerate(model.item_embeddings):
            if other == number:
                assert set(table.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == set(items.tolist())
            else:
                assert table.weight.grad is None
        assert [p.grad is not None for p in (t[0].weight for t in model.towers)] == [d == domain for d in SIZES]

    def test_biases_start_at_zero_and_embeddings_do_not(self):
        model = network(embedding_dim=40)
        for table in (model.user_embeddings, *model.item_embeddings):
            assert not table.weight[:, -1].any()
            assert float(table.weight[:, :-1].detach().std()) == pytest.approx(0.1, rel=0.15)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
    def test_ids_of_every_integer_dtype(self, dtype):
        """Bytes would be taken for a mask, and 300 for 44."""
        model = network(source_vocab_sizes={"books": (300, 1000)}, shared_users=None)
        users, items = torch.tensor([1, 0, 120, 120]), torch.tensor([0, 3, 1, 99])
        for found, expected in zip(
            model.embed("books", users.to(dtype), items.to(dtype)), model.embed("books", users, items), strict=True
        ):
            assert torch.equal(found, expected)


class TestPersons:
    def test_nobody_is_shared_by_default(self):
        model = network(shared_users=None)
        found = {user_row(model, domain, user) for domain, (users, _) in SIZES.items() for user in range(users)}
        assert found == set(range(sum(users for users, _ in SIZES.values())))
        assert len(model.user_embeddings.weight) == len(found)

    def test_a_chain_over_domains_is_one_person(self):
        model = network()
        assert user_row(model, "books", 0) == user_row(model, "films", 3) == user_row(model, "games", 1)
        assert user_row(model, "films", 5) == user_row(model, "games", 2) == user_row(model, "music", 4)
        assert user_row(model, "books", 2) == user_row(model, "films", 0)
        assert user_row(model, "books", 0) != user_row(model, "music", 0)
        assert len(model.user_embeddings.weight) == 7 + 6 + 9 + 4 - 5

    @settings(max_examples=60)
    @given(
        st.lists(
            st.tuples(st.permutations(list(SIZES)).map(lambda d: tuple(d[:2])), st.integers(0, 3), st.integers(0, 3)),
            max_size=8,
        )
    )
    def test_rows_are_the_people_found_by_walking_along_the_links(self, drawn):
        shared = {}
        for domains, one, other in drawn:
            shared.setdefault(domains, []).append([one, other])
        shared = {domains: torch.tensor(pairs) for domains, pairs in shared.items()}
        person = people(SIZES, shared)
        if any(len({domain for domain, _ in accounts}) < len(accounts) for accounts in person.values()):
            with pytest.raises(ValueError, match=refusal("shared_users", "as one person")):
                network(shared_users=shared)
            return
        model = network(shared_users=shared)
        row = {account: user_row(model, *account) for account in person}
        assert set(row.values()) == set(range(len(set(person.values()))))
        assert len(model.user_embeddings.weight) == len(set(person.values()))
        for one in person:
            for other in person:
                assert (row[one] == row[other]) == (person[one] == person[other])

    @pytest.mark.parametrize(
        ("shared", "users", "domain"),
        [
            ({("books", "films"): [[0, 1], [0, 2]]}, "[1, 2]", "films"),
            ({("books", "films"): [[3, 1], [5, 1]]}, "[3, 5]", "books"),
            ({("books", "films"): [[0, 1]], ("films", "games"): [[1, 0]], ("games", "books"): [[0, 4]]}, "[0, 4]", ""),
        ],
    )
    def test_two_users_of_a_domain_are_never_one_person(self, shared, users, domain):
        shared = {domains: torch.tensor(pairs) for domains, pairs in shared.items()}
        with pytest.raises(ValueError, match=refusal("shared_users", rf"users {re.escape(users)} of '{domain}")):
            network(shared_users=shared)

    def test_saying_it_twice_or_the_other_way_round_is_the_same(self):
        pairs = torch.tensor([[0, 3], [2, 0], [0, 3]])
        model = network(shared_users={("books", "films"): pairs, ("films", "books"): pairs.flip(1).to(torch.uint8)})
        assert user_row(model, "books", 0) == user_row(model, "films", 3)
        assert len(model.user_embeddings.weight) == 26 - 2

    def test_no_pairs_are_nobody_in_common(self):
        model = network(shared_users={("books", "films"): torch.zeros(0, 2, dtype=torch.int64)})
        assert len(model.user_embeddings.weight) == 26

    def test_what_a_source_teaches_reaches_a_shared_user_and_nobody_else(self):
        """One step on the user table, from ratings of books alone; everything else stays."""
        model = trained()
        films = torch.arange(9), torch.zeros(9, dtype=torch.int64)
        before = model.answer("films", *films).detach()
        users, items = torch.tensor([0, 1, 2, 4]), torch.tensor([0, 1, 2, 3])
        loss = (model.answer("books", users, items) - 3).square().mean()
        gradient = torch.autograd.grad(loss, model.user_embeddings.weight)[0]
        with torch.no_grad():
            model.user_embeddings.weight.sub_(0.1 * gradient)
        moved = (model.answer("films", *films).detach() - before).abs()
        assert float(moved[[0, 3]].min()) > 1e-3
        assert not moved[[1, 2, 4, 5, 6, 7, 8]].any()


class TestPrediction:
    def expected(self, model, domain, users, items):
        """The whole network in numpy, from its numbers alone."""
        state = {name: value.numpy() for name, value in model.state_dict().items()}
        number = list(SIZES).index(domain)
        user = state["user_embeddings.weight"][[user_row(model, domain, u) for u in users.tolist()]]
        item = state[f"item_embeddings.{number}.weight"][items.numpy()]
        product = np.column_stack([user[:, :3] * item[:, :3], user[:, 3], item[:, 3]])
        hidden = np.column_stack([user, item, product])
        for layer in (0, 2):
            prefix = f"towers.{number}.{layer}."
            hidden = np.maximum(hidden @ state[prefix + "weight"].T + state[prefix + "bias"], 0)
        hidden = np.maximum(hidden @ state["shared_layers.0.weight"].T + state["shared_layers.0.bias"], 0)
        correction = hidden @ state["shared_layers.2.weight"].T + state["shared_layers.2.bias"]
        shared = product @ state["product_layer.weight"].T + correction
        return shared, shared @ state["head.weight"][0] + state["intercepts"][number]

    @pytest.mark.parametrize("domain", list(SIZES))
    def test_against_numpy(self, domain):
        model, (users, items) = trained(), rows(domain, 8)
        shared, prediction = self.expected(model, domain, users, items)
        np.testing.assert_allclose(model.encode_domain(domain, users, items).detach(), shared, atol=1e-12)
        np.testing.assert_allclose(model.answer(domain, users, items).detach(), prediction, atol=1e-12)
        assert prediction.std() > 0.01

    @given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 50))
    def test_it_starts_as_matrix_factorization_with_biases(self, embedding_dim, room, seed):
        """Whatever the embeddings and biases are, while the other parts are as they start."""
        model = network(seed, embedding_dim=embedding_dim, shared_dims=(embedding_dim + 2 + room,)).double()
        with torch.no_grad():
            for number, table in enumerate((model.user_embeddings, *model.item_embeddings)):
                table.weight.copy_(normal(*table.weight.shape, seed=seed + number))
            model.intercepts.copy_(normal(4, seed=seed))
        for number, domain in enumerate(SIZES):
            users, items = rows(domain, 6, seed)
            u = model.user_embeddings.weight.detach()[[user_row(model, domain, user) for user in users.tolist()]]
            v = model.item_embeddings[number].weight.detach()[items]
            expected = [
                float(np.dot(p[:-1], q[:-1]) + p[-1] + q[-1] + model.intercepts[number].item())
                for p, q in zip(u.numpy(), v.numpy(), strict=True)
            ]
            # orthogonal_ is computed in float32 and then cast
            assert model.answer(domain, users, items).tolist() == pytest.approx(expected, abs=2e-5)

    def test_in_a_narrow_representation_it_starts_as_a_projection_of_it(self):
        model = network(embedding_dim=6, shared_dims=(4,), shared_users=None)
        users, items = rows("books")
        u, v = (table.detach() for table in model.embed("books", users, items))
        product = torch.cat([u[:, :-1] * v[:, :-1], u[:, -1:], v[:, -1:]], dim=1)
        basis = torch.linalg.qr(model.product_layer.weight.detach().T)[0]  # (8, 4)
        found = model.answer("books", users, items).detach()
        torch.testing.assert_close(found, (product @ basis @ basis.T).sum(1), rtol=1e-4, atol=1e-6)
        assert float((found - product.sum(1)).abs().max()) > 1e-3

    def test_the_correction_starts_silent_but_learns(self):
        model = network()
        users, items = rows("books", 20)
        (model.answer("books", users, items) - 1).square().mean().backward()
        last = model.shared_layers[-1]
        assert not last.weight.any()
        assert not last.bias.any()
        assert float(last.weight.grad.abs().max()) > 0

    def test_the_shared_layers_are_the_same_for_all_and_the_towers_are_not(self):
        model = trained()
        user, item = normal(4, 4), normal(4, 4, seed=1)
        found = torch.stack([model.encode_embeddings(domain, user, item) for domain in SIZES])
        assert float((found[0] - found[1]).detach().abs().max()) > 0.01
        with torch.no_grad():
            for tower in model.towers[1:]:
                tower.load_state_dict(model.towers[0].state_dict())
        same = torch.stack([model.encode_embeddings(domain, user, item) for domain in SIZES])
        assert torch.equal(same, found[:1].expand(4, -1, -1))

    def test_dropout_leaves_out_its_share_in_training_only(self):
        model = network(hidden_dims=(400,), shared_dims=(300, 5), dropout_rate=0.3)
        with torch.no_grad():
            for layer in (model.towers[0][0], model.shared_layers[0]):
                layer.weight.zero_()
                layer.bias.fill_(1.0)
        for part, width in ((model.towers[0], 16 - 3), (model.shared_layers[:3], 400)):
            x = torch.ones(200, width)
            assert float((part.train()(x) == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
            assert torch.equal(part.eval()(x), torch.ones_like(part(x)))

    def test_dropout_changes_predictions_in_training_only(self):
        model, (users, items) = trained(dropout_rate=0.5), rows("books")
        model.train()
        model.towers[0].eval()  # a part in a mode of its own
        assert not torch.equal(model.answer("books", users, items), model.answer("books", users, items))
        predicted = model.predict("books", users, items)
        assert not predicted.requires_grad
        assert (model.training, model.towers[0].training) == (True, False)
        model.eval()
        assert torch.equal(predicted, model.answer("books", users, items))
        assert torch.equal(model.answer("books", users, items), model.answer("books", users, items))
        plain = trained()
        assert torch.equal(plain.train().answer("books", users, items), plain.eval().answer("books", users, items))

    def test_the_same_seed_builds_the_same_network(self):
        one, same, other = network(3), network(3), network(4)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
        assert not torch.equal(one.user_embeddings.weight, other.user_embeddings.weight)


class TestForward:
    @pytest.mark.parametrize(("n_source", "n_target"), [(5, 7), (7, 2), (1, 1)])
    @pytest.mark.parametrize("target", list(TARGETS))
    @pytest.mark.parametrize("source", list(SOURCES))
    def test_what_comes_back(self, source, target, n_source, n_target, device):
        model = trained().to(device)
        arguments = [
            a.to(device) if isinstance(a, torch.Tensor) else a for a in batch(source, target, n_source, n_target)
        ]
        found = model(*arguments)
        shapes = {
            "target_predictions": (n_target,),
            "source_predictions": (n_source,),
            "source_shared": (n_source, 5),
            "target_shared": (n_target, 5),
            "source_domain_logits": (n_source, 4),
            "target_domain_logits": (n_target, 4),
        }
        assert {name: tuple(value.shape) for name, value in found.items()} == shapes
        for kind, domain, ids in (("source", source, arguments[2:4]), ("target", target, arguments[4:6])):
            shared = model.encode_domain(domain, *ids)
            torch.testing.assert_close(found[f"{kind}_shared"], shared, rtol=0, atol=0)
            torch.testing.assert_close(found[f"{kind}_predictions"], model.answer(domain, *ids), rtol=0, atol=0)
            torch.testing.assert_close(found[f"{kind}_predictions"], model.read(domain, shared))
            torch.testing.assert_close(found[f"{kind}_domain_logits"], model.domain_classifier(shared))

    @settings(max_examples=25)
    @given(
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 4),
        st.lists(st.integers(1, 9), min_size=1, max_size=3),
        st.lists(st.integers(1, 9), min_size=1, max_size=3),
    )
    def test_any_number_of_domains_and_layers(self, n_sources, n_targets, embedding_dim, hidden, shared):
        sources = {f"source {i}.": (2 + i, 3) for i in range(n_sources)}
        targets = {f"target {i}.": (3, 2 + i) for i in range(n_targets)}
        model = CrossDomainTransferNetwork(sources, targets, embedding_dim, hidden, shared, 0.1)
        ids = torch.tensor([0, 1])
        for source in sources:
            for target in targets:
                found = model(source, target, ids, ids, ids[:1], ids[:1])
                assert found["source_shared"].shape == (2, shared[-1])
                assert found["target_domain_logits"].shape == (1, n_sources + n_targets)
        assert model.domains == (*sources, *targets)

    def test_defaults(self):
        model = CrossDomainTransferNetwork(SOURCES, TARGETS)
        assert model.user_embeddings.weight.shape == (26, 65)
        assert [layer.out_features for layer in model.towers[0] if hasattr(layer, "out_features")] == [128, 64]
        assert model.encode_domain("games", *rows("games")).shape == (5, 32)
        assert not any(isinstance(module, torch.nn.Dropout) for module in model.modules())

    def test_logits_are_no_probabilities(self):
        found = trained()(*batch(n_source=40))["source_domain_logits"].detach()
        assert float(found.min()) < 0
        assert float((found.sum(1) - 1).abs().max()) > 0.1


class TestReversal:
    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, torch.tensor(2.5, dtype=torch.float64)])
    def test_the_encoder_meets_minus_alpha_times_the_classifiers_gradient(self, alpha):
        """A plain loss on the shared representation, with no reversal anywhere, says what is right."""
        model, arguments = trained(), batch()
        numbers = [list(SIZES).index(name) for name in arguments[:2]]
        found = model(*arguments, alpha)
        logits = torch.cat([found["source_domain_logits"], found["target_domain_logits"]])
        domains = torch.tensor([numbers[0]] * 5 + [numbers[1]] * 7)
        F.cross_entropy(logits, domains).backward()

        shared = [
            model.encode_domain(name, *arguments[i : i + 2]) for name, i in zip(arguments[:2], (2, 4), strict=True)
        ]
        hidden = torch.cat(shared) @ model.domain_classifier[0].weight.T + model.domain_classifier[0].bias
        plain = hidden.clamp(min=0) @ model.domain_classifier[2].weight.T + model.domain_classifier[2].bias
        loss = (plain.logsumexp(1) - plain[torch.arange(12), domains]).mean()
        names, leaves = zip(*model.named_parameters(), strict=True)
        reached = 0
        for name, leaf, gradient in zip(
            names, leaves, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True
        ):
            if gradient is None:
                assert leaf.grad is None, name
                continue
            strength = 1.0 if name.startswith("domain_classifier") else -alpha
            torch.testing.assert_close(leaf.grad, strength * gradient, rtol=1e-10, atol=1e-14, msg=name)
            reached += float(gradient.abs().max()) > 1e-6
        assert reached > 15

    def test_predictions_and_representations_are_not_reversed(self):
        model, arguments = trained(), batch()
        found = model(*arguments, 3.0)
        one = torch.autograd.grad(found["target_predictions"].sum(), model.user_embeddings.weight)[0]
        own = torch.autograd.grad(model.answer("films", *arguments[4:]).sum(), model.user_embeddings.weight)[0]
        torch.testing.assert_close(one, own)

    def test_alpha_changes_nothing_on_the_way_forward(self):
        model, arguments = trained(), batch()
        one, other = model(*arguments, 0.0), model(*arguments, torch.tensor(7.0))
        assert all(torch.equal(one[name], other[name]) for name in one)


class TestAlignment:
    def test_mmd_and_coral(self):
        model, x, y = trained(), normal(6, 5), 1.5 * normal(9, 5, seed=1) + 1
        assert torch.equal(model.compute_domain_alignment_loss(x, y), squared_mmd(x, y))
        assert torch.equal(model.compute_domain_alignment_loss(x, y, "mmd", 0.7), squared_mmd(x, y, 0.7))
        assert torch.equal(model.compute_domain_alignment_loss(x, y, "coral"), coral_loss(x, y))
        assert torch.isfinite(model.compute_domain_alignment_loss(1e300 * x, 1e300 * y))
        assert (
            len({float(model.compute_domain_alignment_loss(x, y, *more)) for more in ((), ("mmd", 0.7), ("coral",))})
            == 3
        )

    def test_it_may_be_negative(self):
        x = normal(30, 5)
        values = [float(trained().compute_domain_alignment_loss(normal(9, 5, seed=s), x)) for s in range(20)]
        assert min(values) < 0 < max(values)

    @pytest.mark.parametrize("method", ["mmd", "coral"])
    def test_descent_on_it_brings_the_domains_together(self, method):
        model, arguments = trained(), batch(n_source=40, n_target=40)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

        def distance():
            found = model(*arguments)
            return model.compute_domain_alignment_loss(found["source_shared"], found["target_shared"], method)

        before = float(distance().detach())
        for _ in range(60):
            optimizer.zero_grad()
            distance().backward()
            optimizer.step()
        assert before > 0.01
        assert float(distance().detach()) < before / 4


def everything(model, source_users, source_items, target_users, target_items, weight):
    """A loss in which every part of the network has its share."""
    found = model("books", "films", source_users, source_items, target_users, target_items, weight)
    guess = found["source_domain_logits"].log_softmax(1)[:, 0] + found["target_domain_logits"].log_softmax(1)[:, 2]
    errors = (found["source_predictions"] - 1).square() + (found["target_predictions"] + 1).square()
    return (errors - guess).mean() + weight * squared_mmd(found["source_shared"], found["target_shared"])


class TestManyAtOnce:
    def ids(self, *leading):
        generator = torch.Generator().manual_seed(0)
        sizes = (*SOURCES["books"], *TARGETS["films"])
        return [torch.randint(size, (*leading, 6), generator=generator) for size in sizes]

    def test_vmap_over_stacked_networks_is_one_after_another(self, device):
        models = [trained(seed).to(device) for seed in range(3)]
        parameters, buffers = stack_module_state(models)
        ids = [i.to(device) for i in self.ids(3)]
        weights = torch.tensor([0.0, 0.5, 2.0], device=device, dtype=torch.float64)

        def stacked(parameters, buffers, *arguments):
            return everything(lambda *a: functional_call(models[0], (parameters, buffers), a), *arguments)

        losses = torch.vmap(stacked)(parameters, buffers, *ids, weights)
        losses.sum().backward()
        for i, model in enumerate(models):
            alone = everything(model, *(part[i] for part in ids), weights[i])
            alone.backward()
            torch.testing.assert_close(losses[i], alone, rtol=1e-10, atol=1e-12)
            for name, parameter in model.named_parameters():
                if parameter.grad is None:  # a domain that was not asked
                    assert parameters[name].grad is None
                else:
                    torch.testing.assert_close(parameters[name].grad[i], parameter.grad, rtol=1e-9, atol=1e-12)

    def test_torch_func_grad(self):
        model, ids = trained(), self.ids()
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        weight = torch.tensor(0.5, dtype=torch.float64)
        found = torch.func.grad(lambda p: everything(lambda *a: functional_call(model, p, a), *ids, weight))(parameters)
        everything(model, *ids, weight).backward()
        for name, parameter in model.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)

    def test_a_stack_trains_like_a_loop(self):
        """Two settings times two seeds, four steps of Adam: the same networks, trained alone on the same batches."""
        generator = torch.Generator().manual_seed(0)
        fields = ("source_user", "source_item", "target_user", "target_item")
        sizes = (*SOURCES["books"], *TARGETS["films"])
        data = {
            "rows": {
                name: torch.randint(size, (2, 50), generator=generator)
                for name, size in zip(fields, sizes, strict=True)
            }
        }

        def objective(model, batch, setting, progress):
            return everything(model, *(batch["rows"][name] for name in fields), setting["weight"]), {}

        many = ManyModels(
            self.build,
            objective,
            data,
            settings={"weight": (0.0, 1.0)},
            seeds=(3, 5),
            batch_size=12,
            learning_rate=0.02,
            device=torch.device("cpu"),
        )
        for _ in many.train(4):
            pass
        for index, (seed, setting) in enumerate(zip(many.seeds, many.settings, strict=True)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                alone = self.build()
            started = deepcopy(alone.state_dict())
            optimizer = torch.optim.Adam(alone.parameters(), lr=0.02)
            weight = torch.tensor(setting["weight"], dtype=torch.float64)
            for drawn in many.draw_batches(index % 2, 4):
                optimizer.zero_grad()
                everything(alone, *(drawn["rows"][name] for name in fields), weight).backward()
                optimizer.step()
            stacked = many.model(index).state_dict()
            assert list(stacked) == list(started)
            for name, value in alone.state_dict().items():
                torch.testing.assert_close(stacked[name], value, rtol=1e-6, atol=1e-9, msg=name)
            assert not torch.equal(stacked["user_embeddings.weight"], started["user_embeddings.weight"])

    @staticmethod
    def build():
        return CrossDomainTransferNetwork(SOURCES, TARGETS, 3, (8, 6), (7, 5), shared_users=SHARED).double()


class TestState:
    def test_a_round_trip_keeps_numbers_and_persons(self, tmp_path):
        """The other network has other people in common, as many of them."""
        other_people = {
            ("books", "films"): torch.tensor([[1, 1], [3, 2], [4, 4]]),
            ("music", "games"): torch.tensor([[0, 0], [1, 3]]),
        }
        model, other = trained(), network(9, shared_users=other_people).double()
        users, items = torch.arange(9), torch.arange(9) % 6
        assert not torch.equal(model.answer("films", users, items), other.answer("films", users, items))
        torch.save(model.state_dict(), tmp_path / "state.pt")
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for domain in SIZES:
            ids = rows(domain, 20)
            assert torch.equal(model.answer(domain, *ids), other.answer(domain, *ids))
        assert user_row(other, "books", 0) == user_row(other, "films", 3) == user_row(other, "games", 1)
        assert user_row(other, "books", 1) != user_row(other, "films", 1)

    def test_another_number_of_persons_does_not_load(self):
        with pytest.raises(RuntimeError, match=r"size mismatch for user_embeddings.weight"):
            network(shared_users=None).load_state_dict(network().state_dict())

    def test_the_callers_map_is_copied(self):
        pairs = torch.tensor([[0, 3]])
        model = network(shared_users={("books", "films"): pairs})
        pairs[0, 1] = 5
        assert user_row(model, "books", 0) == user_row(model, "films", 3)

    def test_two_networks_share_nothing(self):
        one, other = network(), network()
        with torch.no_grad():
            for value in one.state_dict().values():
                value.zero_()
        assert float(other.user_embeddings.weight.detach().abs().max()) > 0
        assert int(other.person_1.max()) > 0


class TestBadInput:
    def test_not_even_dropout_has_drawn_a_number(self):
        model = network(dropout_rate=0.3).train()
        before, state = deepcopy(model.state_dict()), torch.get_rng_state()
        good, wrong = torch.tensor([0, 1]), torch.tensor([0, 6])
        with pytest.raises(ValueError, match=r"^target_item_ids: got ids from 0 to 6, expected 0 to 5"):
            model("books", "films", good, good, good, wrong)
        assert torch.equal(torch.get_rng_state(), state)
        assert_untouched(model, before)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
    def test_ids_in_bytes_out_of_a_small_vocabulary(self, dtype):
        with pytest.raises(ValueError, match=r"^user_ids: got ids from 7 to 7, expected 0 to 6"):
            network().answer("books", torch.tensor([7], dtype=dtype), torch.tensor([0]))

    def test_as_many_users_as_items(self):
        three, two = torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
        with pytest.raises(ValueError, match=r"^item_ids: got shape \(2,\), expected \(3,\)"):
            network().answer("books", three, two)
        with pytest.raises(ValueError, match=r"^target_item_ids: got shape \(3,\), expected \(2,\)"):
            network()("books", "films", three, three, two, three)

    def test_sources_and_targets_have_their_places(self):
        model, ids = network(), torch.tensor([0])
        with pytest.raises(ValueError, match=r"^source_domain: got 'films', expected one of 'books', 'music'$"):
            model("films", "games", ids, ids, ids, ids)
        with pytest.raises(ValueError, match=r"^target_domain: got 'music', expected one of 'films', 'games'$"):
            model("books", "music", ids, ids, ids, ids)

    def test_one_number_for_users_and_items_is_refused_with_what_to_write(self):
        told = r"expected \(n_users, n_items\), each counted by itself: users and items have tables of their own"
        with pytest.raises(ValueError, match=rf"^source_vocab_sizes\['books'\]: got 1000, {told}"):
            network(source_vocab_sizes={"books": 1000})

    def test_a_domain_is_a_source_or_a_target(self):
        with pytest.raises(ValueError, match=refusal("source_vocab_sizes, target_vocab_sizes", "'music' in both")):
            network(target_vocab_sizes={"music": (3, 3)}, shared_users=None)

    def test_pairs_of_shared_users(self):
        for pairs, column, came in (
            ([[7, 0]], 0, "7 to 7, expected 0 to 6"),
            ([[0, 0], [1, -1]], 1, "-1 to 0, expected 0 to 8"),
        ):
            named = re.escape(f"shared_users[('books', 'films')][:, {column}]")
            with pytest.raises(ValueError, match=rf"^{named}: got ids from {came}"):
                network(shared_users={("books", "films"): torch.tensor(pairs)})


class TestNothingSilent:
    @pytest.mark.parametrize("part", ["user_embeddings", "item_embeddings", "towers", "product_layer", "head"])
    def test_weights_that_are_not_finite(self, part):
        model, ids = network(), rows("books")
        with torch.no_grad():
            next(getattr(model, part).parameters()).fill_(math.nan)
        for method, arguments in ((model.answer, ("books", *ids)), (model.predict, ("books", *ids)), (model, batch())):
            with pytest.raises(ValueError, match=f"^weights: got NaN or infinite values, expected .* in {part}"):
                method(*arguments)

    def test_weights_so_large_that_the_answer_is_not_finite(self):
        model = network()
        with torch.no_grad():
            model.user_embeddings.weight.fill_(3e38)
            model.item_embeddings[0].weight.fill_(3e38)
        with pytest.raises(ValueError, match=r"^weights: got numbers of up to 3e\+38, expected moderate ones"):
            model.predict("books", *rows("books"))

    def test_a_classifier_that_is_not_finite(self):
        model = network()
        with torch.no_grad():
            model.domain_classifier[2].bias[0] = math.inf
        with pytest.raises(
            ValueError, match=r"^weights: got NaN or infinite values, expected finite numbers in domain_c"
        ):
            model(*batch())

    def test_representations_of_another_dtype_width_or_size(self):
        model, shared = network(), normal(4, 5)
        with pytest.raises(ValueError, match=r"^shared: got dtype torch.float64, expected torch.float32"):
            model.read("books", shared)
        with pytest.raises(ValueError, match=r"^shared: got shape \(4, 4\), expected \(batch, 5\)"):
            model.read("books", shared[:, :4].float())
        with pytest.raises(ValueError, match=r"^item: got 3 rows, expected 4"):
            model.encode_embeddings("books", normal(4, 4).float(), normal(3, 4).float())
        with pytest.raises(ValueError, match=r"^target_shared: got numbers of up to .*, expected moderate ones"):
            model.compute_domain_alignment_loss(shared, 1e200 * shared, "coral")
