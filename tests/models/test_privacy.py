"""What privacy costs, against dp-accounting, the sum over whole orders, and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, logsumexp, xlog1py
from scipy.stats import norm

from recmtl_lessons.models import privacy_spent

TABLE = [  # sampling rate, noise, rounds, delta; the last is the MNIST tutorial of TensorFlow Privacy
    (0.1, 1.0, 100, 1e-3),
    (0.01, 1.0, 1000, 1e-5),
    (256 / 60000, 1.1, 14062, 1e-5),
]
FEW_AND_MANY = [(0.1, 0.3, 1, 1e-3), (0.01, 0.5, 100, 1e-5), (0.1, 4.0, 100, 1e-3), (0.1, 50.0, 10000, 1e-5)]

tabled = pytest.mark.parametrize("case", TABLE, ids=str)
all_noises = pytest.mark.parametrize("case", TABLE + FEW_AND_MANY, ids=str)


def by_library(kind, sampling_rate, noise_multiplier, rounds, delta):
    """What dp-accounting says, for one client more or less."""
    reason = "the extra `reference` is not installed"
    events = pytest.importorskip("dp_accounting", reason=reason)
    rdp, pld = (pytest.importorskip(f"dp_accounting.{name}", reason=reason) for name in ("rdp", "pld"))
    accountant = rdp.RdpAccountant() if kind == "RDP" else pld.PLDAccountant(value_discretization_interval=1e-3)
    event = events.PoissonSampledDpEvent(sampling_rate, events.GaussianDpEvent(noise_multiplier))
    return accountant.compose(event, rounds).get_epsilon(delta)


def by_whole_orders(sampling_rate, noise_multiplier, rounds, delta):
    """The binomial sum of Mironov, Talwar and Zhang, for orders 2 to 300."""
    spent = []
    for order in range(2, 301):
        k = np.arange(order + 1)
        logs = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1) + xlog1py(order - k, -sampling_rate)
        logs += k * math.log(sampling_rate) + k * (k - 1) / (2 * noise_multiplier**2)
        divergence = logsumexp(logs) / (order - 1)
        spent.append(rounds * divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))
    return max(0.0, min(spent))


@all_noises
def test_is_the_librarys_renyi_accounting(case):
    assert privacy_spent(*case) == pytest.approx(by_library("RDP", *case), rel=0.004)


@all_noises
def test_is_above_what_the_whole_distribution_of_the_loss_gives_and_not_far(case):
    """That one is nearly exact: an answer below it would promise too much."""
    exact = by_library("PLD", *case)
    assert exact <= privacy_spent(*case) <= 1.25 * exact


def test_little_noise_needs_orders_below_two():
    """Where the library's first order, 1.1, is too large as well, this bound lies between both of the library's."""
    case = (0.1, 0.3, 100, 1e-3)
    assert by_library("PLD", *case) <= privacy_spent(*case) <= 0.6 * by_library("RDP", *case)
    assert privacy_spent(*case) < 0.15 * by_whole_orders(*case)


@pytest.mark.parametrize("case", [*TABLE, (0.3, 3.0, 20, 1e-5), (0.1, 50.0, 100, 1e-3), (0.9, 7.0, 1, 1e-6)], ids=str)
def test_is_the_sum_over_whole_orders_where_the_best_order_is_not_small(case):
    assert privacy_spent(*case) == pytest.approx(by_whole_orders(*case), rel=0.007)


noises = st.floats(0.3, 50)
deltas = st.floats(1e-9, 0.1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(noise=noises, rounds=st.integers(1, 500), delta=deltas)
def test_with_all_clients_in_every_round_it_is_the_gaussian_mechanism(noise, rounds, delta):
    """Its divergence is alpha / (2 sigma^2) a round, so that the best order is a matter of one dimension."""

    def spent(log):
        order = 1 + math.exp(log)
        return rounds * order / (2 * noise**2) + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)

    best = minimize_scalar(spent, bounds=(-12, 12), method="bounded", options={"xatol": 1e-9}).fun
    assume(best > 0)
    assert best - 1e-9 <= privacy_spent(1.0, noise, rounds, delta) <= 1.005 * best + 1e-3
    assert privacy_spent(1.0, noise, rounds, delta) >= exact_gaussian(noise / rounds**0.5, delta)


def exact_gaussian(noise, delta):
    """The epsilon of one release with this noise, by Balle and Wang 2018, theorem 8."""

    def chance(epsilon):
        above, below = 0.5 / noise - epsilon * noise, -0.5 / noise - epsilon * noise
        return norm.cdf(above) - math.exp(epsilon + norm.logcdf(below))

    low, high = 0.0, 10 * (1 / noise + 1) ** 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) > delta else (low, middle)
    return low


cases = st.tuples(st.floats(0.001, 1), noises, st.integers(1, 2000), deltas)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases, which=st.integers(0, 3), factor=st.floats(1.05, 20))
def test_moves_one_way_with_each_argument(case, which, factor):
    """More sampling and more rounds cost more; more noise and a larger delta cost less."""
    largest = (1.0, math.inf, math.inf, 0.5)[which]
    more = list(case)
    more[which] = min(case[which] * factor, largest) if which != 2 else math.ceil(case[which] * factor)
    before, after = privacy_spent(*case), privacy_spent(*more)
    if which in (0, 2):
        before, after = after, before
    assert before >= after * (1 - 1e-9)
    assert before > after or before == 0 or more[which] == case[which]


def test_rounds_are_compositions():
    """An epsilon that starts anew with each round says 1.2 of what costs 5.6, and the sum of a hundred of them 118."""
    once, all_rounds = (privacy_spent(0.1, 1.0, rounds, 1e-3) for rounds in (1, 100))
    assert once == pytest.approx(1.18, abs=0.01)
    assert all_rounds == pytest.approx(5.64, abs=0.02)
    doubled = privacy_spent(0.1, 2.0, 400, 1e-3) / privacy_spent(0.1, 2.0, 100, 1e-3)
    assert 2.0 < doubled < 4.0  # between the square root of the rounds and their number


def test_sampling_saves_privacy_and_the_ends_are_as_said():
    assert privacy_spent(0.1, 1.0, 100, 1e-3) < 0.1 * privacy_spent(1.0, 1.0, 100, 1e-3)
    assert privacy_spent(0.0, 1.0, 100, 1e-3) == 0
    assert privacy_spent(0.0, 0.0, 100, 1e-3) == 0
    assert privacy_spent(0.1, 1.0, 0, 1e-3) == 0
    assert privacy_spent(0.1, 0.0, 1, 1e-3) == math.inf
    assert privacy_spent(0.1, 1e-200, 1, 1e-3) == math.inf  # too little for any integral
    assert privacy_spent(0.1, 1e300, 100, 1e-3) == 0
    assert privacy_spent(1e-9, 5.0, 1, 0.5) == 0  # and never below


@pytest.mark.parametrize("noise", [0.001, 0.01, 0.03, 0.1])
def test_almost_no_noise_is_still_a_bound(noise):
    """Who looks whether the sum is above 1 tells a client who is there from one who is not by at least this."""
    least = math.log(0.1 / 2 - 1e-5) - norm.logsf(1 / noise)
    assert least < privacy_spent(0.1, noise, 1, 1e-5) <= min(privacy_spent(1.0, noise, 1, 1e-5), 1.8 * least)
