"""Distances between samples against double loops, closed forms, numpy, scipy and every division of small samples."""

import itertools
import math
import re
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import binom

from recmtl_lessons.models import (
    coral_loss,
    median_bandwidth,
    mmd_permutation_test,
    squared_mmd,
)

DEFAULT_SCALES = (0.5, 1.0, 2.0)
DISTANCES = (squared_mmd, coral_loss)
Z99 = NormalDist().inv_cdf(0.995)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def refusal(name, came=""):
    """Pattern of a message that names the argument, what came and what was expected."""
    return rf"^{re.escape(name)}: got .*{came}.*, expected "


def kernel(a, b, sigma, scales):
    """One number for two rows, in plain Python."""
    squared = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
    return sum(math.exp(-squared / (2 * (s * sigma) ** 2)) for s in scales) / len(scales)


def double_loop(x, y, sigma, scales=(1.0,), unbiased=True):
    """Squared MMD in plain Python, pair by pair."""
    x, y = x.tolist(), y.tolist()

    def within(rows):
        pairs = itertools.permutations(range(len(rows)), 2)
        if not unbiased:
            pairs = itertools.product(range(len(rows)), repeat=2)
        values = [kernel(rows[i], rows[j], sigma, scales) for i, j in pairs]
        return math.fsum(values) / len(values)

    across = [kernel(a, b, sigma, scales) for a in x for b in y]
    return within(x) + within(y) - 2 * math.fsum(across) / len(across)


def middle_distance(x, y):
    """Lower median of the pooled distances, by scipy."""
    distances = np.sort(pdist(torch.cat([x, y]).double().numpy()))
    return distances[(len(distances) - 1) // 2]


SIZES = st.integers(2, 7)


class TestSquaredMMD:
    @settings(max_examples=60)
    @given(
        SIZES,
        SIZES,
        st.integers(1, 4),
        st.floats(0.2, 5),
        st.lists(st.floats(0.25, 4), min_size=1, max_size=4),
        st.booleans(),
        st.integers(0, 99),
    )
    def test_against_a_double_loop(self, m, n, width, sigma, scales, unbiased, seed):
        x, y = normal(m, width, seed=seed), normal(n, width, seed=seed + 100) + 0.5
        expected = double_loop(x, y, sigma, scales, unbiased)
        assert float(squared_mmd(x, y, sigma, scales, unbiased)) == pytest.approx(expected, abs=1e-12)

    @given(SIZES, SIZES, st.booleans())
    def test_by_default_three_scales_around_the_median(self, m, n, unbiased):
        x, y = normal(m, 3), normal(n, 3, seed=1) + 0.5
        expected = double_loop(x, y, middle_distance(x, y), DEFAULT_SCALES, unbiased)
        assert float(squared_mmd(x, y, unbiased=unbiased)) == pytest.approx(expected, abs=1e-12)

    def test_a_bandwidth_keeps_the_digits_of_the_samples(self):
        """A Python number and a tensor of either dtype are the same bandwidth."""
        x, y = normal(5, 3), normal(7, 3, seed=1)
        as_number = squared_mmd(x, y, 0.7)
        assert as_number.dtype == torch.float64
        assert torch.equal(as_number, squared_mmd(x, y, torch.tensor(0.7, dtype=torch.float64)))
        single = squared_mmd(x.float(), y.float(), torch.tensor(0.7, dtype=torch.float64))
        assert single.dtype == torch.float32
        assert float(single) == pytest.approx(float(as_number), abs=1e-6)

    def test_symmetric_and_blind_to_the_order_of_rows(self):
        x, y = normal(9, 3), normal(6, 3, seed=1) + 1
        value = float(squared_mmd(x, y))
        assert value > 0.05
        assert float(squared_mmd(y, x)) == pytest.approx(value, abs=1e-14)
        shuffled = x[torch.randperm(9, generator=seeded())], y[torch.randperm(6, generator=seeded())]
        assert float(squared_mmd(*shuffled)) == pytest.approx(value, abs=1e-14)

    @given(st.floats(1e-3, 1e3), st.integers(0, 50))
    def test_with_the_median_it_does_not_depend_on_units_or_axes(self, unit, seed):
        x, y = normal(6, 3, seed=seed), normal(8, 3, seed=seed + 100) + 1
        turn = torch.linalg.qr(normal(3, 3, seed=seed + 200))[0]
        assert float(squared_mmd(unit * x @ turn, unit * y @ turn)) == pytest.approx(
            float(squared_mmd(x, y)), abs=1e-12
        )

    @given(SIZES, SIZES, st.integers(0, 99), st.floats(0.1, 10))
    def test_biased_is_never_negative_and_zero_for_the_same_rows(self, m, n, seed, sigma):
        x, y = normal(m, 2, seed=seed), normal(n, 2, seed=seed + 100)
        assert float(squared_mmd(x, y, sigma, unbiased=False)) > 0
        assert abs(float(squared_mmd(x, x.flip(0), sigma, unbiased=False))) < 1e-14

    def test_biased_takes_single_rows(self):
        x, y = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[3.0, 4.0]]).double()
        expected = 2 - 2 * math.exp(-25 / 8)
        assert float(squared_mmd(x, y, 2.0, (1.0,), unbiased=False)) == pytest.approx(expected, abs=1e-14)

    @pytest.mark.parametrize("bandwidth", [None, 1.3])
    def test_unbiased_averages_zero_for_one_distribution_and_is_often_negative(self, bandwidth):
        """Where the biased form averages something else: 99 % intervals of 4000 draws."""
        x, y = normal(4000, 10, 3), normal(4000, 7, 3, seed=1)
        found = {}
        for unbiased in (True, False):
            values = torch.vmap(lambda a, b, u=unbiased: squared_mmd(a, b, bandwidth, unbiased=u))(x, y)
            found[unbiased] = float(values.mean()), Z99 * float(values.std()) / math.sqrt(len(values)), values
        mean, reach, values = found[True]
        assert abs(mean) < reach < 0.01
        assert 0.4 < float((values < 0).double().mean()) < 0.8
        mean, reach, values = found[False]
        assert mean - reach > 0.1
        assert float(values.min()) > 0

    def test_its_mean_is_the_closed_form_of_two_gaussians(self):
        """The 99 % interval of 4000 draws."""
        sigma, shift, spread, width = 1.2, 0.8, 1.5, 2

        def expected_kernel(variance, distance):
            total = sigma**2 + variance
            return (sigma**2 / total) ** (width / 2) * math.exp(-(distance**2) / (2 * total))

        truth = expected_kernel(2, 0) + expected_kernel(2 * spread**2, 0) - 2 * expected_kernel(1 + spread**2, shift)
        x, y = normal(4000, 12, width), spread * normal(4000, 12, width, seed=1)
        y[..., 0] += shift
        values = torch.vmap(lambda a, b: squared_mmd(a, b, sigma, (1.0,)))(x, y)
        reach = Z99 * float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean()) - truth) < reach < truth / 5

    @pytest.mark.parametrize("size", [1.0, 100.0])
    def test_far_from_the_origin_single_precision_keeps_its_digits(self, size, device):
        """All rows stay exact in float32 when moved; squares of their coordinates do not."""
        x, y = ((normal(n, 4, seed=n) * 512).round().clamp(-2048, 2048) / 512 for n in (40, 30))
        far_x, far_y = (x + 4096 * size).float(), (y + 4096 * size).float()
        if size == 1:
            assert torch.equal(far_x.double(), x + 4096)
        x, y = far_x.double(), far_y.double()
        expected = double_loop(x, y, 1.5)
        assert float(squared_mmd(far_x.to(device), far_y.to(device), 1.5, (1.0,))) == pytest.approx(expected, abs=2e-6)
        assert float(median_bandwidth(far_x, far_y)) == pytest.approx(middle_distance(x, y), rel=1e-5)
        plain = (far_x.square().sum(1)[:, None] + far_x.square().sum(1) - 2 * far_x @ far_x.T).double()
        assert float((plain - torch.cdist(x, x).square()).abs().max()) > 1  # what the plain formula makes of it

    def test_far_from_each_other_single_precision_keeps_the_digits_within(self):
        x, y = normal(30, 4, dtype=torch.float32), normal(40, 4, seed=1, dtype=torch.float32) + 4096
        expected = double_loop(x.double(), y.double(), 1.0)
        assert expected > 0.1
        assert float(squared_mmd(x, y, 1.0, (1.0,))) == pytest.approx(expected, abs=2e-6)

    def test_rows_that_coincide_do_not_blow_up_the_gradient(self):
        """Most pairs at distance 0: the median would be 0, and its kernel all rounding."""
        x, y = torch.full((6, 4), 0.1), torch.full((9, 4), 0.1)
        y[0] += 1
        x.requires_grad_()
        value = squared_mmd(x, y)
        value.backward()
        assert abs(float(value.detach())) < 1e-3  # 1 + 56/72 - 2 * 8/9
        assert float(x.grad.abs().max()) < 1

    @pytest.mark.parametrize("level", [0.0, 0.1, 3.3, 1e4])
    def test_samples_without_any_spread_are_at_distance_zero(self, level):
        x = torch.full((6, 4), level, requires_grad=True)
        value = squared_mmd(x, torch.full((9, 4), level))
        value.backward()
        assert abs(float(value.detach())) < 1e-6
        assert bool(torch.isfinite(x.grad).all())


class TestGradients:
    @pytest.mark.parametrize("unbiased", [True, False])
    def test_squared_mmd(self, unbiased):
        x, y = normal(5, 3).requires_grad_(), (normal(4, 3, seed=1) + 0.3).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, y: squared_mmd(x, y, 0.9, unbiased=unbiased), (x, y))

    def test_coral(self):
        x, y = normal(5, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(coral_loss, (x, y))

    def test_the_median_is_a_constant_of_the_gradient(self):
        x, y = normal(6, 3).requires_grad_(), normal(6, 3, seed=1) + 0.3
        sigma = middle_distance(x.detach(), y)
        found = torch.autograd.grad(squared_mmd(x, y), x)[0]
        fixed = torch.autograd.grad(squared_mmd(x, y, float(sigma)), x)[0]
        torch.testing.assert_close(found, fixed, rtol=1e-10, atol=1e-14)
        assert float(found.abs().max()) > 1e-3

    def test_a_bandwidth_that_wants_a_gradient_gets_none(self):
        x, y, sigma = normal(5, 3).requires_grad_(), normal(4, 3), torch.tensor(1.0).double().requires_grad_()
        squared_mmd(x, y, sigma).backward()
        assert sigma.grad is None
        assert float(x.grad.abs().max()) > 0

    def test_descent_brings_two_samples_together(self):
        x, y = (normal(40, 2) + 2).requires_grad_(), normal(30, 2, seed=1)
        before, apart = float(squared_mmd(x, y).detach()), float((x.detach().mean(0) - y.mean(0)).norm())
        optimizer = torch.optim.Adam([x], lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            squared_mmd(x, y).backward()
            optimizer.step()
        assert before > 0.2
        assert float(squared_mmd(x, y).detach()) < 0.02
        assert float((x.detach().mean(0) - y.mean(0)).norm()) < apart / 4


class TestManyAtOnce:
    @pytest.mark.parametrize("distance", DISTANCES)
    def test_vmap_is_one_after_another(self, distance, device):
        x, y = normal(5, 8, 3).to(device), normal(5, 6, 3, seed=1).to(device)
        found = torch.vmap(distance)(x, y)
        gradients = torch.vmap(torch.func.grad(distance))(x, y)
        for i in range(5):
            torch.testing.assert_close(found[i], distance(x[i], y[i]), rtol=0, atol=1e-13)
            leaf = x[i].clone().requires_grad_()
            distance(leaf, y[i]).backward()
            torch.testing.assert_close(gradients[i], leaf.grad, rtol=1e-10, atol=1e-13)
        assert float(gradients.abs().min(0).values.max()) > 0

    def test_one_bandwidth_a_model(self):
        x, y, sigmas = normal(5, 8, 3), normal(5, 6, 3, seed=1), torch.linspace(0.3, 3, 5).double()
        found = torch.vmap(squared_mmd)(x, y, sigmas)
        one = torch.stack([squared_mmd(x[i], y[i], float(sigmas[i])) for i in range(5)])
        torch.testing.assert_close(found, one, rtol=0, atol=1e-13)

    def test_median(self):
        x, y = normal(5, 8, 3), normal(5, 6, 3, seed=1)
        found = torch.vmap(median_bandwidth)(x, y)
        assert found.tolist() == pytest.approx([middle_distance(x[i], y[i]) for i in range(5)], abs=1e-12)

    def test_shapes_are_still_checked(self):
        with pytest.raises(ValueError, match=refusal("x", "1 rows")):
            torch.vmap(squared_mmd)(normal(3, 1, 2), normal(3, 4, 2))


class TestMedian:
    @given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.integers(0, 99))
    def test_against_scipy(self, m, n, width, seed):
        x, y = normal(m, width, seed=seed), normal(n, width, seed=seed + 100)
        assert float(median_bandwidth(x, y)) == pytest.approx(middle_distance(x, y), abs=1e-12)

    def test_of_an_odd_number_of_pairs_it_is_numpys_median(self):
        x, y = normal(4, 3), normal(3, 3, seed=1)  # 21 pairs
        assert float(median_bandwidth(x, y)) == pytest.approx(np.median(pdist(torch.cat([x, y]).numpy())), abs=1e-12)

    def test_without_a_gradient(self):
        assert not median_bandwidth(normal(4, 3).requires_grad_(), normal(3, 3).requires_grad_()).requires_grad

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_never_zero_and_never_below_what_rounding_leaves_visible(self, dtype):
        same = torch.ones(5, 2, dtype=dtype)
        assert 0 < float(median_bandwidth(same, same)) < 1e-10
        spread = torch.cat([same, same[:1] + 1])
        assert 1e-8 < float(median_bandwidth(same, spread)) < 1e-2

    @pytest.mark.parametrize("unit", [1e-10, 1e-4, 1e4, 1e10])
    def test_small_and_large_units_in_single_precision(self, unit):
        x, y = normal(6, 3, dtype=torch.float32), normal(5, 3, seed=1, dtype=torch.float32)
        assert float(median_bandwidth(unit * x, unit * y)) == pytest.approx(unit * middle_distance(x, y), rel=1e-5)


class TestCoral:
    @given(SIZES, SIZES, st.integers(1, 5), st.integers(0, 99))
    def test_against_numpy(self, m, n, width, seed):
        x, y = normal(m, width, seed=seed), 2 * normal(n, width, seed=seed + 100)
        gap = np.cov(x.numpy(), rowvar=False) - np.cov(y.numpy(), rowvar=False)
        assert float(coral_loss(x, y)) == pytest.approx(np.square(gap).sum() / (4 * width**2), abs=1e-12)

    def test_blind_to_a_shift_that_mmd_sees(self):
        x = normal(30, 3)
        shifted = x + torch.tensor([5.0, -2.0, 0.0])
        assert float(coral_loss(x, shifted)) < 1e-28
        assert float(squared_mmd(x, shifted)) > 0.5
        assert float(coral_loss(x, 2 * shifted)) > 0.1

    def test_far_from_the_origin(self):
        x, y = normal(30, 3), 2 * normal(40, 3, seed=1)
        far = coral_loss((x + 1e4).float(), (y - 1e4).float())
        assert float(far) == pytest.approx(float(coral_loss(x, y)), rel=1e-2)


def every_division(x, y, sigma, scales=DEFAULT_SCALES):
    """Squared MMD of each way to divide the pooled rows in two of the same sizes."""
    pooled, m = torch.cat([x, y]), len(x)
    for chosen in itertools.combinations(range(len(pooled)), m):
        others = [row for row in range(len(pooled)) if row not in chosen]
        yield double_loop(pooled[list(chosen)], pooled[others], sigma, scales)


class TestPermutationTest:
    @given(SIZES, SIZES, st.integers(0, 50), st.sampled_from([None, 0.6]))
    def test_the_statistic_is_squared_mmd(self, m, n, seed, bandwidth):
        x, y = normal(m, 3, seed=seed), normal(n, 3, seed=seed + 100) + 0.5
        test = mmd_permutation_test(x, y, seeded(seed), 19, bandwidth)
        assert test.statistic == pytest.approx(float(squared_mmd(x, y, bandwidth)), abs=1e-12)
        single = mmd_permutation_test(x.float(), y.float(), seeded(seed), 19, bandwidth)
        assert single.statistic == pytest.approx(test.statistic, abs=1e-5)

    @pytest.mark.parametrize(("m", "n"), [(7, 7), (9, 4), (2, 6)])
    def test_against_a_naive_loop_over_the_same_permutations(self, m, n):
        x, y = normal(m, 2), normal(n, 2, seed=1) + 0.7
        test = mmd_permutation_test(x, y, seeded(5), 99)
        pooled, sigma, generator, found = torch.cat([x, y]), float(median_bandwidth(x, y)), seeded(5), []
        for _ in range(99):
            plays_x = torch.randperm(m + n, generator=generator) < m
            found.append(float(squared_mmd(pooled[plays_x], pooled[~plays_x], sigma)))
        assert test.permuted.tolist() == pytest.approx(found, abs=1e-12)
        at_least = sum(value >= test.statistic - 1e-12 for value in found)
        assert test.p_value == (1 + at_least) / 100

    @pytest.mark.parametrize("case", range(6))
    def test_against_every_division_of_small_samples(self, case):
        """All 20 divisions of 6 rows by hand; half of the cases have a negative statistic, and all have ties."""
        x, y = normal(3, 2, seed=case), normal(3, 2, seed=case + 100) + (1.0 if case % 2 else 0.0)
        statistics = np.array(list(every_division(x, y, middle_distance(x, y))))
        assert statistics[0] == pytest.approx(float(squared_mmd(x, y)), abs=1e-12)
        exact = np.mean(statistics >= statistics[0] - 1e-12)
        test = mmd_permutation_test(x, y, seeded(case), 4000)
        low, high = binom.interval(0.999, 4000, exact)
        assert low <= 4001 * test.p_value - 1 <= high
        values, counts = np.unique(np.round(statistics, 10), return_counts=True)
        drawn, times = np.unique(np.round(test.permuted.numpy(), 10), return_counts=True)
        np.testing.assert_allclose(drawn, values, atol=1e-9)
        for count, time in zip(counts, times, strict=True):
            low, high = binom.interval(0.9999, 4000, count / 20)
            assert low <= time <= high

    def test_ties_count_where_the_statistic_is_negative(self):
        """Of the three divisions of these four rows into twos, two have at least the statistic that came."""
        x, y = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.2], [0.8]]).double()
        test = mmd_permutation_test(x, y, seeded(), 999)
        assert test.statistic < -0.4
        low, high = binom.interval(0.99, 999, 2 / 3)
        assert low <= 1000 * test.p_value - 1 <= high

    def test_rows_that_are_all_the_same_say_nothing(self):
        assert mmd_permutation_test(torch.ones(5, 2), torch.ones(4, 2), seeded(), 19).p_value == 1.0

    @pytest.mark.parametrize(("m", "n", "kind"), [(8, 6, "normal"), (3, 12, "heavy")])
    def test_the_level_is_exact_where_nothing_differs(self, m, n, kind):
        """Share of p-values of at most alpha: binomial 99 % interval around alpha itself, of 1000 tests."""
        pooled, found = normal(1000, m + n, 2, seed=m), []
        if kind == "heavy":
            pooled = pooled.pow(3)
        generator = seeded(3)
        for rows in pooled:
            found.append(mmd_permutation_test(rows[:m], rows[m:], generator, 19).p_value)
        for alpha in (0.05, 0.25, 0.5):
            low, high = binom.interval(0.99, len(found), alpha)
            assert low <= sum(p <= alpha + 1e-9 for p in found) <= high

    def test_never_zero_and_smallest_where_samples_lie_apart(self):
        for permutations in (19, 199):
            test = mmd_permutation_test(normal(20, 2), normal(20, 2, seed=1) + 10, seeded(), permutations)
            assert test.p_value == 1 / (1 + permutations)
            assert test.permuted.shape == (permutations,)

    def test_it_finds_a_difference_that_means_do_not_show(self):
        x, y = normal(60, 2), 2.5 * normal(60, 2, seed=1)
        assert mmd_permutation_test(x, y, seeded()).p_value < 0.02

    def test_the_order_of_rows_does_not_matter(self):
        """The statistic is the same; the p-value is, up to the drawing of permutations."""
        x, y, found = normal(6, 2), normal(5, 2, seed=1) + 0.6, []
        for seed in range(2):
            order = torch.randperm(6, generator=seeded(seed)), torch.randperm(5, generator=seeded(seed))
            found.append(mmd_permutation_test(x[order[0]], y[order[1]], seeded(seed), 4000))
        assert found[0].statistic == pytest.approx(found[1].statistic, abs=1e-14)
        exact = np.mean([value >= found[0].statistic - 1e-12 for value in every_division(x, y, middle_distance(x, y))])
        assert 0.02 < exact < 0.5
        for test in found:
            low, high = binom.interval(0.99, 4000, exact)
            assert low <= 4001 * test.p_value - 1 <= high

    def test_the_generator_decides_and_the_global_one_is_left_alone(self, device):
        x, y = normal(6, 2).to(device), normal(5, 2, seed=1).to(device).requires_grad_()
        state = torch.get_rng_state()
        one, same, other = (mmd_permutation_test(x, y, seeded(seed), 50) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(one.permuted, same.permuted)
        assert not torch.equal(one.permuted, other.permuted)
        assert not one.permuted.requires_grad


class TestLargeSmallAndHalf:
    """What fits into a dtype is answered in it, right; what does not is refused by name."""

    UNITS = (
        (torch.float32, 2.0**-100),
        (torch.float32, 2.0**124),
        (torch.float64, 2.0**-900),
        (torch.float64, 2.0**1020),
    )

    @pytest.mark.parametrize(("dtype", "unit"), UNITS)
    @pytest.mark.parametrize("bandwidth", [None, 1.5])
    def test_units_at_the_ends_of_what_numbers_can_hold(self, dtype, unit, bandwidth):
        x, y = normal(6, 3, dtype=dtype), normal(8, 3, seed=1, dtype=dtype) + 0.5
        in_unit = None if bandwidth is None else bandwidth * unit
        leaf = (unit * x).requires_grad_()
        found = squared_mmd(leaf, unit * y, in_unit)
        assert float(found.detach()) == pytest.approx(float(squared_mmd(x, y, bandwidth)), rel=1e-5)
        found.backward()
        plain = torch.func.grad(squared_mmd)(x, y, bandwidth)
        torch.testing.assert_close(leaf.grad * unit, plain, rtol=1e-4, atol=1e-6)
        test, plain = (mmd_permutation_test(u * x, u * y, seeded(), 19) for u in (unit, 1))
        assert test.p_value == plain.p_value
        torch.testing.assert_close(test.permuted, plain.permuted)
        assert float(median_bandwidth(unit * x, unit * y) / unit) == pytest.approx(float(median_bandwidth(x, y)))

    @pytest.mark.parametrize("bandwidth", [1e-300, 1e-30, 1e-10, 1e10, 1e30, 1e300])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_bandwidth_far_from_all_distances(self, dtype, bandwidth):
        """No two rows are alike for a narrow kernel, but those that coincide, and all are for a wide one."""
        x, y = normal(6, 3, dtype=dtype), normal(8, 3, seed=1, dtype=dtype)
        leaf = x.clone().requires_grad_()
        found = squared_mmd(leaf, y, bandwidth)
        found.backward()
        assert float(found.detach()) == pytest.approx(0, abs=1e-6)
        assert bool(torch.isfinite(leaf.grad).all())
        biased = squared_mmd(x, y, bandwidth, unbiased=False)
        assert float(biased) == pytest.approx(1 / 6 + 1 / 8 if bandwidth < 1 else 0, abs=1e-6)
        assert abs(mmd_permutation_test(x, y, seeded(), 19, bandwidth).statistic) < 1e-6

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 1.0), (torch.float16, 1e4), (torch.bfloat16, 1e37)])
    def test_half_precision(self, dtype, size):
        """As exact as the samples, which keep three digits or two."""
        x, y = (size * normal(12, 3)).to(dtype), (size * (normal(14, 3, seed=1) + 0.5)).to(dtype)
        digits = 2 * torch.finfo(dtype).eps
        found = squared_mmd(x.requires_grad_(), y)
        assert found.dtype == dtype
        assert float(found.detach()) == pytest.approx(float(squared_mmd(x.detach().double(), y.double())), rel=digits)
        gradient = torch.autograd.grad(found, x)[0]
        assert gradient.dtype == dtype
        assert bool(torch.isfinite(gradient).all())
        median = median_bandwidth(x, y)
        assert median.dtype == dtype
        assert float(median) == pytest.approx(middle_distance(x.detach(), y), rel=digits)
        test = mmd_permutation_test(x, y, seeded(), 19)
        assert test.permuted.dtype == dtype
        assert test.statistic == pytest.approx(float(squared_mmd(x.detach().double(), y.double())), abs=1e-12)

    def test_coral_in_half_precision(self):
        x, y = (20 * normal(12, 3)).half(), (10 * normal(14, 3, seed=1)).half()
        expected = float(coral_loss(x.double(), y.double()))
        assert 1e3 < expected < 6e4
        assert float(coral_loss(x, y)) == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize(
        ("dtype", "size"), [(torch.float16, 1e3), (torch.float32, 1e15), (torch.float32, 5e37), (torch.float64, 1e200)]
    )
    @pytest.mark.parametrize("larger", ["x", "y"])
    def test_a_coral_loss_that_the_dtype_cannot_hold_is_refused(self, dtype, size, larger):
        samples = {"x": normal(5, 3).to(dtype), "y": normal(6, 3, seed=1).to(dtype)}
        samples[larger] = size * samples[larger]
        with pytest.raises(ValueError, match=rf"^{larger}: got numbers of up to .*, expected moderate ones"):
            coral_loss(**samples)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_a_median_that_the_dtype_cannot_hold_is_refused(self, dtype):
        x = torch.full((3, 2), torch.finfo(dtype).max, dtype=dtype)
        with pytest.raises(ValueError, match=r"^x: got numbers of up to .*, expected moderate ones"):
            median_bandwidth(x, -x)
        assert float(squared_mmd(x, -x)) == pytest.approx(
            2 - 2 / 3 * sum(math.exp(-0.5 / s**2) for s in DEFAULT_SCALES), abs=1e-3
        )

    def test_many_at_once(self):
        x, y = normal(3, 6, 3, dtype=torch.float32), normal(3, 8, 3, seed=1, dtype=torch.float32) + 0.5
        units = torch.tensor([1e-30, 1.0, 1e38])[:, None, None]
        found = torch.vmap(squared_mmd)(units * x, units * y)
        torch.testing.assert_close(found, torch.vmap(squared_mmd)(x, y), rtol=1e-4, atol=1e-6)


class TestBadInput:
    @pytest.mark.parametrize("distance", [*DISTANCES, lambda x, y: mmd_permutation_test(x, y, seeded(), 19)])
    def test_too_few_rows(self, distance):
        x = normal(4, 3)
        with pytest.raises(ValueError, match=r"^x: got 1 rows, expected at least 2"):
            distance(x[:1], x)
        with pytest.raises(ValueError, match=r"^y: got 1 rows, expected at least 2"):
            distance(x, x[:1])

    def test_a_width_of_nothing(self):
        with pytest.raises(ValueError, match=refusal("x", r"shape \(4, 0\)")):
            squared_mmd(normal(4, 0), normal(4, 0))

    def test_a_refusal_draws_nothing(self):
        generator, x = seeded(), normal(4, 3)
        before = generator.get_state()
        for wrong in ({"n_permutations": 3}, {"bandwidth": -1.0}, {"scales": ()}):
            with pytest.raises(ValueError, match="got"):
                mmd_permutation_test(x, x, generator, **wrong)
        assert torch.equal(generator.get_state(), before)
