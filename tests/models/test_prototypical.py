"""Prototypical networks against a loop, scikit-learn, the linear classifier they are, and symmetries they must have."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid
from torch.nn import functional as F

from recmtl_lessons.models import PrototypicalNetworkRecommender
from recmtl_lessons.models.prototypical import squared_distances
from recmtl_lessons.training import ManyModels


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def model(input_dim=3, embedding_dim=4, hidden_dims=(5,), seed=0, dtype=torch.float64, **changed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PrototypicalNetworkRecommender(input_dim, embedding_dim, hidden_dims, **changed).to(dtype)


LABELS = torch.tensor([42, -3, 42, 7, 7, 42, -3])  # classes of 3, 2 and 2 rows
QUERY_LABELS = torch.tensor([7, 42, -3, -3, 42])


def an_episode(seed=0, dtype=torch.float64):
    return normal(7, 3, seed=seed, dtype=dtype), LABELS, normal(5, 3, seed=seed + 100, dtype=dtype), QUERY_LABELS


def some_episodes(count=4):
    """Episodes of the same size, whose labels have other names, in another order."""
    episodes = []
    for t in range(count):
        support_x, labels, query_x, query_y = an_episode(seed=t)
        order = torch.randperm(7, generator=torch.Generator().manual_seed(t))
        episodes.append((support_x, labels[order] * (t + 1) - t, query_x, query_y * (t + 1) - t))
    return tuple(torch.stack(parts) for parts in zip(*episodes, strict=True))


def by_loop(embeddings, labels):
    found = {}
    for row, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        found.setdefault(label, []).append(row)
    means = [[sum(column) / len(rows) for column in zip(*rows, strict=True)] for _, rows in sorted(found.items())]
    return torch.tensor(means, dtype=embeddings.dtype)


class TestPrototypes:
    def test_are_the_means_of_a_loop(self):
        embeddings = normal(7, 4)
        torch.testing.assert_close(
            model().compute_prototypes(embeddings, LABELS), by_loop(embeddings, LABELS), rtol=0, atol=1e-14
        )

    def test_are_scikit_learns_centroids(self):
        embeddings = normal(7, 4)
        reference = NearestCentroid().fit(embeddings.numpy(), LABELS.numpy())
        found = model().compute_prototypes(embeddings, LABELS)
        assert reference.classes_.tolist() == [-3, 7, 42]
        torch.testing.assert_close(found, torch.from_numpy(reference.centroids_), rtol=0, atol=1e-14)
        queries = normal(50, 4, seed=1)
        nearest = torch.tensor([-3, 7, 42])[model().classify(queries, found).argmax(1)]
        assert nearest.tolist() == reference.predict(queries.numpy()).tolist()

    @given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=12))
    @settings(max_examples=50, deadline=None)
    def test_any_integers_will_do(self, names):
        labels, embeddings = torch.tensor(names), normal(len(names), 2)
        found = model().compute_prototypes(embeddings, labels)
        torch.testing.assert_close(found, by_loop(embeddings, labels), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
    def test_labels_of_any_integer_type_will_do(self, dtype):
        labels = torch.tensor([3, 1, 3, 2, 2, 3, 1], dtype=dtype)
        torch.testing.assert_close(
            model().compute_prototypes(normal(7, 4), labels), by_loop(normal(7, 4), labels), rtol=0, atol=1e-14
        )

    def test_do_not_depend_on_the_order_of_rows(self):
        embeddings, order = normal(7, 4), torch.tensor([3, 1, 6, 0, 2, 5, 4])
        one, other = (model().compute_prototypes(embeddings[o], LABELS[o]) for o in (torch.arange(7), order))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)

    def test_one_shot_is_the_row_itself(self):
        embeddings, labels = normal(3, 4), torch.tensor([5, 2, 9])
        assert torch.equal(model().compute_prototypes(embeddings, labels), embeddings[[1, 0, 2]])

    def test_each_episode_has_labels_of_its_own(self):
        network, (support_x, support_y, _, _) = model(), some_episodes()
        embeddings = network(support_x)
        found = network.compute_prototypes(embeddings, support_y)
        for t in range(4):
            torch.testing.assert_close(found[t], by_loop(embeddings[t].detach(), support_y[t]), rtol=0, atol=1e-13)
        assert found.shape == (4, 3, 4)

    def test_a_number_of_classes_says_the_same(self):
        labels, embeddings = torch.tensor([2, 0, 2, 1, 1, 2, 0]), normal(7, 4)
        assert torch.equal(
            model().compute_prototypes(embeddings, labels, 3), model().compute_prototypes(embeddings, labels)
        )

    def test_gradients_flow(self):
        embeddings = normal(7, 4).requires_grad_()
        model().compute_prototypes(embeddings, LABELS).sum().backward()
        expected = torch.tensor([1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 2, 1 / 3, 1 / 2], dtype=torch.float64)
        torch.testing.assert_close(embeddings.grad, expected[:, None].expand(7, 4))


class TestClassify:
    @pytest.mark.parametrize("distance", ["euclidean", "cosine"])
    def test_every_row_sums_to_one(self, distance):
        log_p = model(distance=distance).classify(normal(9, 4), normal(3, 4, seed=1))
        torch.testing.assert_close(log_p.exp().sum(1), torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-12)

    def test_is_the_double_loop(self):
        queries, prototypes = normal(6, 4), normal(3, 4, seed=1)
        found = model().classify(queries, prototypes)
        for q in range(6):
            near = [
                -sum((a - b) ** 2 for a, b in zip(queries[q].tolist(), c, strict=True)) for c in prototypes.tolist()
            ]
            total = math.log(sum(math.exp(x) for x in near))
            assert [x - total for x in near] == pytest.approx(found[q].tolist(), abs=1e-12)

    def test_is_the_linear_classifier_of_section_2_4(self):
        queries, prototypes = normal(6, 4), normal(3, 4, seed=1)
        weight, bias = 2 * prototypes, -prototypes.square().sum(1)
        torch.testing.assert_close(
            model().classify(queries, prototypes), (queries @ weight.T + bias).log_softmax(1), rtol=0, atol=1e-12
        )

    @given(st.integers(0, 10_000))
    @settings(max_examples=30, deadline=None)
    def test_moving_and_turning_the_space_changes_nothing(self, seed):
        queries, prototypes = normal(6, 4, seed=seed), normal(3, 4, seed=seed + 1)
        turn, _ = torch.linalg.qr(normal(4, 4, seed=seed + 2))
        shift = 10 * normal(4, seed=seed + 3)
        expected = model().classify(queries, prototypes)
        found = model().classify(queries @ turn + shift, prototypes @ turn + shift)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        scaled = model(distance="cosine").classify(3 * queries @ turn, 0.5 * prototypes @ turn)
        torch.testing.assert_close(scaled, model(distance="cosine").classify(queries, prototypes), rtol=0, atol=1e-9)

    def test_digits_are_kept_far_from_the_origin(self):
        queries, prototypes = normal(20, 8), normal(5, 8, seed=1)
        far = [(x + 4_096.0).float() for x in (queries, prototypes)]
        exact = model().classify(*(x.double() for x in far))  # of the same numbers, after their rounding
        network = model(dtype=torch.float32)
        torch.testing.assert_close(network.classify(*far), exact.float(), rtol=0, atol=1e-4)
        expanded = far[0].square().sum(1, keepdim=True) - 2 * far[0] @ far[1].T + far[1].square().sum(1)
        lost = (-expanded).log_softmax(1) - exact.float()
        assert float(lost.abs().max()) > 1.0  # the form that must not be used

    @pytest.mark.parametrize("scale", [1e-30, 1e20, 1e38])
    def test_a_cosine_does_not_depend_on_the_scale(self, scale):
        network, queries, prototypes = model(distance="cosine"), normal(6, 4), normal(3, 4, seed=1)
        expected = network.classify(queries, prototypes).float()
        rows = [(scale * x / x.abs().max()).float() for x in (queries, prototypes)]
        torch.testing.assert_close(network.classify(*rows), expected, rtol=0, atol=1e-5)

    def test_far_and_near_are_finite_with_finite_gradients(self):
        queries = torch.tensor([[1e4, -1e4], [0.0, 0.0]], requires_grad=True)
        prototypes = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        log_p = model(2, 2, dtype=torch.float32).classify(queries, prototypes)
        log_p[:, 0].sum().backward()
        assert torch.isfinite(log_p).all()
        assert torch.isfinite(queries.grad).all()  # also where a query lies on a prototype

    def test_cosine_by_hand(self):
        queries, prototypes = normal(6, 4), normal(3, 4, seed=1)
        cosine = F.cosine_similarity(queries[:, None], prototypes[None], dim=-1)
        for temperature in (0.1, 0.5):
            found = model(distance="cosine", temperature=temperature).classify(queries, prototypes)
            torch.testing.assert_close(found, (cosine / temperature).log_softmax(1), rtol=0, atol=1e-12)
        default = model(distance="cosine").classify(queries, prototypes)
        torch.testing.assert_close(default, (cosine / 0.1).log_softmax(1), rtol=0, atol=1e-12)

    def test_cosines_at_temperature_one_are_never_sure(self):
        """The bound of the docstring, reached where one prototype is met and all others are opposite."""
        prototypes = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
        log_p = model(2, 2, distance="cosine", temperature=1.0).classify(prototypes[:1], prototypes)
        assert float(log_p.exp()[0, 0]) == pytest.approx(math.e**2 / (math.e**2 + 2))

    def test_a_temperature_divides_the_distances(self):
        queries, prototypes = normal(6, 4), normal(3, 4, seed=1)
        found = model(temperature=2.0).classify(queries, prototypes)
        expected = (-torch.cdist(queries, prototypes).square() / 2).log_softmax(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)

    def test_squared_distances_are_squared(self):
        queries, prototypes = normal(2, 6, 4), normal(2, 3, 4, seed=1)
        found = squared_distances(queries, prototypes)
        torch.testing.assert_close(found, torch.cdist(queries, prototypes).square(), rtol=0, atol=1e-9)

    def test_many_episodes_are_one_after_another(self):
        queries, prototypes, network = normal(5, 6, 4), normal(5, 3, 4, seed=1), model()
        expected = torch.stack([network.classify(q, c) for q, c in zip(queries, prototypes, strict=True)])
        torch.testing.assert_close(network.classify(queries, prototypes), expected, rtol=0, atol=1e-13)


class TestEpisodes:
    def test_an_episode_is_embedding_prototypes_and_classifying(self):
        network, (support_x, support_y, query_x, _) = model(), an_episode()
        prototypes = network.compute_prototypes(network(support_x), support_y)
        expected = network.classify(network(query_x), prototypes)
        torch.testing.assert_close(network.episode_forward(support_x, support_y, query_x), expected, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("distance", ["euclidean", "cosine"])
    def test_many_are_one_after_another_and_vmap(self, distance, device):
        network = model(distance=distance).to(device)
        episodes = tuple(part.to(device) for part in some_episodes())
        listed = list(zip(*episodes, strict=True))
        together = network.query_losses(episodes)
        torch.testing.assert_close(together, torch.stack([network.query_losses(e) for e in listed]), rtol=0, atol=1e-12)
        codes = tuple(
            part if k in (0, 2) else torch.stack([e[1].unique(return_inverse=True)[1] for e in listed])
            for k, part in enumerate(episodes)
        )
        query_codes = torch.stack([torch.searchsorted(e[1].unique(), e[3]) for e in listed])
        codes = (*codes[:3], query_codes)
        mapped = torch.vmap(lambda *episode: network.query_losses(episode, n_classes=3))(*codes)
        torch.testing.assert_close(mapped, together, rtol=0, atol=1e-12)

    def test_the_loss_is_the_cross_entropy(self):
        network, (support_x, support_y, query_x, query_y) = model(), an_episode()
        log_p = network.episode_forward(support_x, support_y, query_x)
        places = torch.tensor([[-3, 7, 42].index(label) for label in query_y.tolist()])
        expected = F.nll_loss(log_p, places)
        torch.testing.assert_close(network.query_losses(an_episode()), expected, rtol=0, atol=1e-13)

    def test_the_gradient_is_the_slope(self):
        network = model()
        assert torch.autograd.gradcheck(
            lambda sx, qx: network.query_losses((sx, LABELS, qx, QUERY_LABELS)),
            (normal(7, 3).requires_grad_(), normal(5, 3, seed=9).requires_grad_()),
        )
        network.query_losses(an_episode()).backward()
        parameter, h = network.body[0].weight, 1e-6
        found = float(parameter.grad[0, 0])
        with torch.no_grad():
            parameter[0, 0] += h
            above = float(network.query_losses(an_episode()))
            parameter[0, 0] -= 2 * h
            below = float(network.query_losses(an_episode()))
        assert found == pytest.approx((above - below) / (2 * h), abs=1e-7)

    def test_predict_answers_in_the_names_of_the_support(self):
        network, (support_x, support_y, query_x, _) = model(dropout_rate=0.5).train(), an_episode()
        found = network.predict(support_x, support_y, query_x)
        best = network.eval().episode_forward(support_x, support_y, query_x).argmax(1)
        assert found.tolist() == torch.tensor([-3, 7, 42])[best].tolist()
        stacked = some_episodes()
        many = network.predict(*stacked[:3])
        assert many.tolist() == [network.predict(*e).tolist() for e in zip(*stacked[:3], strict=True)]

    def test_predict_leaves_the_mode_as_it_was(self):
        network = model(dropout_rate=0.5).train()
        network.predict(*an_episode()[:3])
        assert all(module.training for module in network.modules())

    def test_labels_far_apart_and_names_swapped_mean_the_same(self):
        network, (support_x, support_y, query_x, query_y) = model(), an_episode()
        renamed = {42: -10, -3: 2**40, 7: 0}
        other = tuple(torch.tensor([renamed[x] for x in y.tolist()]) for y in (support_y, query_y))
        torch.testing.assert_close(
            network.query_losses((support_x, other[0], query_x, other[1])), network.query_losses(an_episode()),
            rtol=0, atol=1e-13,
        )  # fmt: skip

    def test_dropout_acts_in_training_alone(self):
        network = model(dropout_rate=0.5)
        torch.manual_seed(0)
        one, other = network.train()(normal(7, 3)), network(normal(7, 3))
        assert not torch.equal(one, other)
        assert torch.equal(network.eval()(normal(7, 3)), network(normal(7, 3)))

    def test_without_hidden_layers_the_encoder_is_linear(self):
        network, x = model(hidden_dims=()), normal(5, 3)
        torch.testing.assert_close(network(x), x @ network.head.weight.T + network.head.bias)


class TestTraining:
    def test_an_update_is_adam_on_the_mean_loss(self):
        network, episodes = model(meta_lr=0.01), some_episodes()
        twin = copy.deepcopy(network)
        optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
        for _ in range(3):
            loss = twin.query_losses(episodes).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert network.meta_update(episodes) == pytest.approx(float(loss.detach()), abs=1e-12)
        for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)

    def test_listed_and_stacked_episodes_agree(self):
        one, other = model(), model()
        episodes = some_episodes()
        assert one.meta_update(episodes) == pytest.approx(other.meta_update(list(zip(*episodes, strict=True))))
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)

    def test_episodes_of_other_sizes_count_the_same(self):
        small = (normal(2, 3), torch.tensor([1, 0]), normal(3, 3, seed=5), torch.tensor([0, 1, 1]))
        two_ways = (
            normal(7, 3),
            torch.tensor([1, 1, 1, 1, 0, 0, 0]),
            normal(5, 3, seed=5),
            torch.tensor([0, 1, 1, 0, 1]),
        )
        episodes = [an_episode(), small, two_ways, an_episode(seed=3)]
        expected = sum(float(model().query_losses(e).detach()) for e in episodes) / 4
        assert model().meta_update(episodes) == pytest.approx(expected, abs=1e-12)

    def test_it_learns(self):
        network, episodes = model(hidden_dims=(32,), meta_lr=0.02), some_episodes(2)
        first = network.meta_update(episodes)
        for _ in range(100):
            last = network.meta_update(episodes)
        assert last < first / 4

    def test_many_models_train_as_one(self):
        support_x, _, query_x, _ = some_episodes(6)
        support_y = torch.tensor([0, 1, 2, 0, 1, 2, 0]).expand(6, 7)
        query_y = torch.tensor([2, 1, 0, 1, 0]).expand(6, 5)
        fields = {"support_x": support_x, "support_y": support_y, "query_x": query_x, "query_y": query_y}
        data = {"episodes": {name: part.expand(2, *part.shape) for name, part in fields.items()}}

        def objective(network, batch, setting, progress):
            e = batch["episodes"]
            parts = (e["support_x"], e["support_y"], e["query_x"], e["query_y"])
            return network.query_losses(parts, n_classes=3).mean(), {}

        def build():
            return PrototypicalNetworkRecommender(3, 4, (5,)).double()

        stack = ManyModels(build, objective, data, {"rate": (0.0,)}, (3, 4), 2, 0.01)
        batches = {s: list(stack.draw_batches(s, 3)) for s in range(2)}
        start = [stack.model(s) for s in range(2)]
        for _ in stack.train(3):
            pass
        for s in range(2):
            alone = start[s].train()
            optimizer = torch.optim.Adam(alone.parameters(), lr=0.01)
            for batch in batches[s]:
                loss = objective(alone, batch, {}, 0.0)[0]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            for mine, theirs in zip(stack.model(s).parameters(), alone.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def changed(part, value):
    episode = list(an_episode())
    episode[part] = value
    return tuple(episode)


class TestRefuses:
    @pytest.mark.parametrize(
        ("episode", "message"),
        [
            (changed(2, normal(2, 5, 3)), r"^query_x: got shape \(2, 5, 3\), expected \(rows, 3\) as in support_x"),
            (
                changed(3, torch.tensor([7, 42, -3, 8, 42])),
                r"^query_y: got label 8, expected labels that the support has",
            ),
            (changed(3, torch.tensor([7, 42, -3, 43, 42])), r"^query_y: got label 43"),
            (changed(3, torch.tensor([7, 42, -3, -4, 42])), r"^query_y: got label -4"),
        ],
    )
    def test_an_episode_that_does_not_fit_and_nothing_changes(self, episode, message):
        network = model()
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match=message):
            network.query_losses(episode)
        with pytest.raises(ValueError, match=message.split(":")[0].lstrip("^")):
            network.meta_update([an_episode(), episode])
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert network._optimizer is None

    def test_a_label_that_would_fit_after_rounding_to_a_byte(self):
        labels = LABELS.clone().clamp(min=0).to(torch.uint8)  # 42, 0 and 7
        with pytest.raises(ValueError, match=r"^query_y: got label 298"):
            model().query_losses((normal(7, 3), labels, normal(2, 3), torch.tensor([42, 298])))

    def test_episodes_side_by_side_with_other_numbers_of_classes(self):
        support_x, support_y, query_x, _ = some_episodes(2)
        support_y[1] = torch.tensor([0, 0, 0, 1, 1, 1, 1])
        with pytest.raises(ValueError, match=r"^support_y: got episodes of 2 to 3 classes, expected as many in each"):
            model().episode_forward(support_x, support_y, query_x)

    def test_an_empty_class(self):
        labels = torch.tensor([0, 0, 1, 1, 3, 3, 3])
        with pytest.raises(ValueError, match=r"^support_labels: got no row of class 2, expected each of 0 to 3"):
            model().compute_prototypes(normal(7, 4), labels, 4)

    def test_inside_vmap_the_number_of_classes_is_needed(self):
        support_x, support_y, query_x, _ = some_episodes()
        with pytest.raises(ValueError, match=r"^n_classes: got None inside torch\.vmap"):
            torch.vmap(model().episode_forward)(support_x, support_y, query_x)

    @pytest.mark.parametrize(
        ("queries", "prototypes", "message"),
        [
            (normal(5, 4), normal(2, 3, 4), r"^prototypes: got shape \(2, 3, 4\), expected \(n, 4\) as in"),
            (normal(2, 5, 4), normal(3, 4), r"^prototypes: got shape \(3, 4\), expected \(2, n, 4\) as in"),
        ],
    )
    def test_queries_and_prototypes_that_do_not_fit(self, queries, prototypes, message):
        with pytest.raises(ValueError, match=message):
            model().classify(queries, prototypes)

    @pytest.mark.parametrize(
        ("episodes", "message"),
        [
            ([an_episode()[:3]], r"^episodes\[0\]: got tuple of 3"),
            (an_episode(), r"^support_y: got shape \(7,\), expected \(episodes, rows\)"),
            (tuple(part[None][:0] for part in an_episode()), r"^support_y: got shape \(0, 7\), expected"),
        ],
    )
    def test_no_episodes(self, episodes, message):
        with pytest.raises(ValueError, match=message):
            model().meta_update(episodes)

    def test_a_loss_that_is_not_finite(self):
        network = model()
        with torch.no_grad():
            network.head.weight.mul_(1e200)
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match=r"^query_x: got distances too large for torch.float64"):
            network.meta_update([an_episode()])
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    @pytest.mark.parametrize("episode", [an_episode()[:3], an_episode()[0]])
    def test_losses_of_what_is_no_episode(self, episode):
        with pytest.raises(ValueError, match=r"^episodes: got .*, expected four tensors"):
            model().query_losses(episode)

    def test_one_class_is_nothing_to_tell_apart(self):
        x, _, query_x, _ = an_episode()
        one = (x, torch.full((len(x),), 4), query_x, torch.full((len(query_x),), 4))
        with pytest.raises(ValueError, match=r"^support_y: got one class, expected at least two"):
            model().query_losses(one)

    def test_features_too_large_are_refused_and_nothing_changes(self):
        network = PrototypicalNetworkRecommender(3, 4, (5,))
        x, y = 1e12 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(ValueError, match=r"standardise them$|expected features of moderate size"):
            network.meta_update([(x, y, x, y)])
        assert network._optimizer is None
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        with pytest.raises(ValueError, match=r"^query_x: got distances too large for torch.float32"):
            network.predict(1e18 * x, y, x)
