"""Metrics against scikit-learn's and scipy's, row by row and in batches."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from recmtl_lessons.training.metrics import (
    _balanced_halves,
    _fit_logistic,
    accuracy,
    auc,
    mae,
    proxy_a_distance,
    rmse,
)

NAN, INF = float("nan"), float("inf")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestAuc:
    @settings(deadline=None, max_examples=150)
    @given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**31))
    def test_against_scikit_learn_with_ties(self, n, levels, seed):
        draw = np.random.default_rng(seed)
        scores, labels = draw.integers(0, levels, n) / 7, draw.integers(0, 2, n)
        assume(0 < labels.sum() < n)
        found = auc(torch.tensor(scores), torch.tensor(labels))
        assert found.item() == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)

    def test_batches_are_their_rows(self):
        scores = (normal(3, 4, 50) * 2).round()
        labels = (normal(3, 4, 50, seed=1) > 0).float()
        found = auc(scores, labels)
        assert found.shape == (3, 4)
        assert found.dtype == torch.float64
        for i in range(3):
            for j in range(4):
                assert found[i, j] == pytest.approx(sk.roc_auc_score(labels[i, j], scores[i, j]), abs=1e-12)

    def test_known_values(self):
        labels = torch.tensor([False, False, True, True])
        scores = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1], [5, 5, 5, 5], [1, 2, 2, 3]])
        assert auc(scores, labels.expand(4, 4)).tolist() == [1.0, 0.0, 0.5, 0.875]
        assert auc(torch.tensor([-INF, INF]), torch.tensor([0, 1])) == 1.0

    def test_small_differences_of_float32_scores_are_kept(self):
        scores = torch.tensor([1.0, 1.0 + 2**-23])
        assert auc(scores, torch.tensor([0, 1])) == 1.0

    @pytest.mark.parametrize(
        ("scores", "labels", "message"),
        [
            (
                torch.ones(2, 3),
                torch.tensor([[0, 1, 0], [1, 1, 1]]),
                r"labels: got one class only in row \(1,\)",
            ),
            (torch.ones(3), torch.zeros(3), r"labels: got one class only in row \(\), expected both 0 and 1"),
        ],
    )
    def test_bad_input(self, scores, labels, message):
        with pytest.raises(ValueError, match=message):
            auc(scores, labels)


@pytest.mark.parametrize(("metric", "reference"), [(mae, sk.mean_absolute_error), (rmse, sk.root_mean_squared_error)])
class TestErrors:
    def test_against_scikit_learn(self, metric, reference):
        predictions, targets = normal(5, 2, 30), normal(5, 2, 30, seed=1)
        found = metric(predictions, targets)
        assert found.shape == (5, 2)
        expected = [[reference(targets[i, j], predictions[i, j]) for j in range(2)] for i in range(5)]
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)

    def test_integers_and_half_precision_are_counted_in_float64(self, metric, reference):
        found = metric(torch.tensor([1, 2]), torch.tensor([2.0, 3.0], dtype=torch.bfloat16))
        assert found.dtype == torch.float64
        assert found == 1.0

    @settings(deadline=None, max_examples=50)
    @given(*[hnp.array_shapes(min_dims=1, max_dims=3, max_side=3)] * 2)
    def test_shapes_are_never_broadcast(self, metric, reference, one, other):
        if one == other:
            assert metric(torch.ones(one), torch.zeros(other)).eq(1.0).all()
        else:
            with pytest.raises(ValueError, match=r"^targets: got shape .* expected that of predictions"):
                metric(torch.ones(one), torch.zeros(other))

    def test_no_gradient_is_carried(self, metric, reference):
        assert not metric(torch.ones(3, requires_grad=True), torch.zeros(3)).requires_grad

    def test_what_float64_cannot_hold_is_refused(self, metric, reference):
        huge = torch.tensor([1e308, 1.0], dtype=torch.float64)
        with pytest.raises(ValueError, match=r"^predictions: got numbers of up to 1e\+308, expected moderate ones"):
            metric(huge, -huge)


class TestAccuracy:
    def test_against_scikit_learn(self):
        logits, labels = normal(3, 40, 5), normal(3, 40, seed=1).abs().long()
        found = accuracy(logits, labels)
        expected = [sk.accuracy_score(labels[i], logits[i].argmax(-1)) for i in range(3)]
        assert found.tolist() == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("logits", "labels", "message"),
        [
            (torch.ones(3, 1), torch.zeros(3).long(), r"logits: got shape \(3, 1\), .* C at least 2"),
        ],
    )
    def test_bad_input(self, logits, labels, message):
        with pytest.raises(ValueError, match=message):
            accuracy(logits, labels)


def reference_distance(features, domains, seed):
    """The same splits, with scikit-learn's scaler and logistic regression; one model, features (n, d)."""
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for pair in combinations(sorted(set(domains.tolist())), 2):
        train, held_out = _balanced_halves(domains, *pair, generator)
        scaler = StandardScaler().fit(features[train])
        model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        model.fit(scaler.transform(features[train]), domains[train])
        score = model.score(scaler.transform(features[held_out]), domains[held_out])
        distances.append(2 * (1 - 2 * (1 - score)))
    return np.mean(distances)


class TestProxyADistance:
    @pytest.mark.parametrize("n_domains", [2, 3])
    @pytest.mark.parametrize("seed", [0, 7])
    def test_against_scikit_learn(self, n_domains, seed):
        domains = normal(400, seed=1).abs().mul(1.5).long().clamp(max=n_domains - 1)
        shift = torch.tensor([0.0, 0.3, 1.0, 3.0])  # one model each
        features = normal(4, 400, 6, seed=2) + shift[:, None, None] * domains[:, None] * torch.tensor(
            [1.0, 0, 0, 0, 0, 0]
        )
        features = features * torch.tensor([1.0, 50.0, 0.01, 1.0, 1.0, 1.0]) + 20
        found = proxy_a_distance(features, domains, seed)
        assert found.shape == (4,)
        expected = [reference_distance(model, domains, seed) for model in features]
        assert found.tolist() == pytest.approx(expected, abs=1e-12)
        assert found[0] < found[3]

    @pytest.mark.parametrize("scale", [1.0, 30.0])
    def test_the_classifier_is_scikit_learns(self, scale):
        x = normal(3, 60, 4) * scale  # at the larger scale, and labels that x[0] separates, plain Newton overshoots
        labels = (x[0, :, 0] > 0).double()  # the first model can separate them, the others cannot
        found = _fit_logistic(x, labels)
        for row in range(3):
            model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=10_000).fit(x[row], labels)
            expected = np.append(model.coef_[0], model.intercept_)
            assert found[row].numpy() == pytest.approx(expected, abs=1e-6)

    def test_wide_features_with_many_threads(self):
        before, domains = torch.get_num_threads(), torch.tensor([0, 1]).repeat(200)
        features = normal(4, 400, 160) + 0.1 * domains[:, None]
        expected = [reference_distance(model, domains, 0) for model in features]
        try:
            torch.set_num_threads(4)
            found = proxy_a_distance(features, domains)
        finally:
            torch.set_num_threads(before)
        assert found.tolist() == pytest.approx(expected, abs=1e-12)

    def test_separable_and_identical_domains(self):
        domains = torch.tensor([0, 1]).repeat(200)
        apart = normal(400, 3) + 20 * domains[:, None]
        assert proxy_a_distance(apart, domains) == 2.0
        assert proxy_a_distance(torch.ones(400, 3), domains) == 0.0
        alike = proxy_a_distance(normal(60, 400, 3), domains)
        assert alike.min() < 0 < alike.max()
        assert abs(alike.mean()) < 0.05

    def test_the_scale_of_the_features_does_not_matter(self):
        domains = torch.tensor([0, 1]).repeat(100)
        features = normal(200, 3) + 0.5 * domains[:, None]
        assert proxy_a_distance(features * 1e-4 - 3, domains) == proxy_a_distance(features, domains)

    def test_a_constant_feature_changes_nothing(self):
        domains = torch.tensor([0, 1]).repeat(100)
        features = normal(200, 3) + domains[:, None]
        with_constant = torch.cat([features, torch.full((200, 1), 0.1)], dim=1)
        assert proxy_a_distance(with_constant, domains) == proxy_a_distance(features, domains) > 0.5

    def test_names_and_balance_of_the_domains_do_not_matter(self):
        domains = torch.tensor([0] * 150 + [1] * 50)
        features = normal(200, 3) * 1e-9  # nothing to learn: an unbalanced classifier would be right in 3 of 4
        found = proxy_a_distance(normal(40, 200, 3), domains)
        assert abs(found.mean()) < 0.1
        assert torch.equal(proxy_a_distance(features, domains), proxy_a_distance(features, domains * 9 - 4))

    def test_the_seed_decides(self):
        domains = torch.tensor([0, 1]).repeat(100)
        features = normal(200, 3) + 0.5 * domains[:, None]
        values = [proxy_a_distance(features, domains, seed).item() for seed in (0, 0, 1, 2, 3)]
        assert values[0] == values[1]
        assert len(set(values)) > 1

    def test_halves_are_balanced_and_disjoint(self):
        domains = torch.tensor([0] * 7 + [1] * 20 + [2] * 5)
        halves = _balanced_halves(domains, 0, 1, torch.Generator().manual_seed(0))
        assert [domains[rows].tolist() for rows in halves] == [[0] * 3 + [1] * 3] * 2
        assert not set(halves[0].tolist()) & set(halves[1].tolist())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"domains": torch.zeros(6).long()}, r"domains: got \{0: 6\} rows a domain, expected two domains"),
            ({"domains": torch.tensor([0, 0, 0, 0, 0, 1])}, r"domains: got \{0: 5, 1: 1\} rows a domain"),
            ({"features": 1e200 * normal(6, 2)}, r"features: got numbers of up to .*, expected moderate ones"),
        ],
    )
    def test_bad_input(self, change, message):
        values = {"features": torch.ones(6, 2), "domains": torch.tensor([0, 1] * 3), "seed": 0}
        with pytest.raises(ValueError, match=message):
            proxy_a_distance(**(values | change))
