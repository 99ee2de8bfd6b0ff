"""The world's knobs, each against the truth: what it does, that zero turns it off, and that it does nothing else."""

import hashlib
import math
import re
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recmtl_lessons.datasets import WorldSettings, make_world

TENSORS = tuple(f.name for f in fields(make_world(WorldSettings(interactions=1))) if f.name not in ("settings", "seed"))
BASE = WorldSettings(
    n_users=50, n_items=20, interactions=400, overlap=0.5, nuisance=0.5, shift=1.0, new_users=0.2, drift=0.3
)


def fingerprint(world):
    """One hash over every tensor's name, kind and bytes."""
    digest = hashlib.sha256()
    for name in TENSORS:
        tensor = getattr(world, name).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def changed(one, other):
    """Names of the tensors that are not bit for bit the same."""
    return {name for name in TENSORS if not torch.equal(getattr(one, name), getattr(other, name))}


def unmixed(world):
    """Signal and nuisance features, as they were before they were mixed."""
    return (world.features @ world.mixing.T).split([world.settings.taste_dim, world.settings.nuisance_dim], dim=1)


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def taste_correlations(tastes):
    """Correlation between domains over users and coordinates, (D, D)."""
    return torch.corrcoef(tastes.transpose(0, 1).flatten(1))


def products(world):
    """Truth: taste times factor of each row at its time, (N, K)."""
    angle = (world.settings.drift * math.pi / 2 * world.time)[:, None]
    then, end = (t[world.user, world.domain] for t in (world.tastes, world.tastes_at_end))
    return (angle.cos() * then + angle.sin() * end) * world.item_factors[world.domain, world.item]


class TestSeed:
    def test_the_same_seed_gives_the_same_tensors_and_another_does_not(self):
        assert not changed(make_world(BASE, 3), make_world(BASE, 3))
        everything_drawn = set(TENSORS) - {"domain", "relatedness", "leaning"}
        assert changed(make_world(BASE, 3), make_world(BASE, 4)) >= everything_drawn

    def test_the_same_in_fresh_processes(self):
        script = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from test_world import BASE, fingerprint, make_world\n"
            "print(fingerprint(make_world(BASE, 3)))"
        )
        folder = str(__file__).rpartition("test_world.py")[0]
        found = [
            subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True).stdout
            for _ in range(2)
        ]
        assert [line.strip() for line in found] == [fingerprint(make_world(BASE, 3))] * 2

    def test_torchs_own_generator_is_neither_read_nor_moved(self):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = make_world(BASE, 3)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert not changed(one, make_world(BASE, 3))


class TestOneKnobAtATime:
    """Turning one knob moves what it is about, and every other tensor stays as it was, bit for bit."""

    CLICKS = frozenset({"affinity", "click", "wish", "rating", "features"})
    TASTES = frozenset({"tastes", "tastes_at_end"})

    @pytest.mark.parametrize(
        ("knob", "value", "moves"),
        [
            ("nuisance", 0.0, {"features"}),
            ("offset", 0.0, {"features"}),
            ("shift", 0.0, {"features", "leaning"}),
            ("noise", 0.0, {"features", "rating"}),
            ("task_relatedness", 0.0, {"rating", "wish"}),
            ("rating_features", True, {"features", "mixing"}),
            ("new_users", 0.0, {"new"}),
            ("drift", 0.0, CLICKS),
            ("sudden", True, CLICKS),
            ("affinity_scale", 0.0, CLICKS),
            ("taste_spread", 0.0, CLICKS | TASTES | {"rating_tastes"}),
            ("relatedness", 0.0, CLICKS | TASTES | {"rating_tastes", "relatedness"}),
            ("overlap", 0.0, CLICKS | {"active", "user"}),
            ("sparsity", 0.5, CLICKS | {"user", "item", "domain", "time"}),
        ],
    )
    def test_moves(self, knob, value, moves):
        assert changed(make_world(BASE, 1), make_world(replace(BASE, **{knob: value}), 1)) == moves

    def test_without_nuisance_the_clicks_leave_no_trace_in_it(self):
        quiet = replace(BASE, nuisance=0.0)
        for knob in ("shift", "offset"):
            assert changed(make_world(quiet), make_world(replace(quiet, **{knob: 0.0}))) <= {"leaning"}

    def test_sparsity_leaves_the_first_domain_alone(self):
        dense, sparse = make_world(BASE), make_world(replace(BASE, sparsity=0.5))
        for name in ("user", "item", "time"):
            assert torch.equal(getattr(dense, name)[dense.rows("books")], getattr(sparse, name)[sparse.rows("books")])


class TestTastes:
    MATRIX = ((1.0, 0.9, 0.1), (0.9, 1.0, 0.3), (0.1, 0.3, 1.0))

    @pytest.mark.parametrize("relatedness", [0.0, 0.4, 0.7, MATRIX])
    def test_relatedness_is_the_correlation_between_domains(self, relatedness):
        world = make_world(WorldSettings(n_users=4000, interactions=10, relatedness=relatedness))
        expected = torch.tensor(self.MATRIX) if relatedness is self.MATRIX else torch.full((3, 3), relatedness)
        expected = expected.fill_diagonal_(1.0)
        torch.testing.assert_close(world.relatedness, expected)
        for tastes in (world.tastes, world.tastes_at_end):  # 32,000 values a domain: standard error under 0.006
            torch.testing.assert_close(taste_correlations(tastes), expected, atol=0.03, rtol=0)
            assert float(tastes.std()) == pytest.approx(1.0, abs=0.02)

    @pytest.mark.parametrize("relatedness", [1.0, tuple((1.0,) * 3 for _ in range(3))])
    def test_full_relatedness_is_one_taste_everywhere(self, relatedness):
        """A matrix of ones has no Cholesky factor."""
        world = make_world(WorldSettings(n_users=50, interactions=10, relatedness=relatedness))
        for d in (1, 2):
            torch.testing.assert_close(world.tastes[:, d], world.tastes[:, 0], atol=1e-5, rtol=0)

    def test_a_matrix_with_minus_one(self):
        world = make_world(
            WorldSettings(domains=("a", "b"), n_users=50, interactions=10, relatedness=((1.0, -1.0), (-1.0, 1.0)))
        )
        torch.testing.assert_close(world.tastes[:, 1], -world.tastes[:, 0], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
    def test_spread_is_how_much_is_the_users_own(self, spread):
        world = make_world(WorldSettings(n_users=4000, interactions=10, taste_spread=spread, taste_dim=30))
        among_users = world.tastes.var(0).mean()  # the part that is common to all has no variance among them
        assert float(among_users) == pytest.approx(spread**2, abs=0.02)
        common = world.tastes.mean(0)
        assert float(common.square().mean()) == pytest.approx(1 - spread**2, abs=0.35)

    def test_items_of_two_domains_have_nothing_in_common(self):
        world = make_world(WorldSettings(n_items=4000, interactions=10, relatedness=1.0))
        assert float(world.item_factors.std()) == pytest.approx(1.0, abs=0.02)
        off = taste_correlations(world.item_factors.transpose(0, 1)) - torch.eye(3)
        assert float(off.abs().max()) < 0.03


class TestWhoIsWhere:
    @pytest.mark.parametrize("overlap", [0.0, 0.25, 1.0])
    def test_overlap_counts_users_who_shop_everywhere(self, overlap):
        world = make_world(WorldSettings(n_users=600, interactions=3000, overlap=overlap))
        places = world.active.sum(1)
        assert int((places == 3).sum()) == 600 * overlap
        assert int((places == 1).sum()) == 600 * (1 - overlap)
        assert bool(world.active[world.user, world.domain].all())
        met = torch.zeros(600, 3, dtype=torch.bool)
        met[world.user, world.domain] = True
        assert bool((met.sum(1) > 1).any()) is (overlap > 0)

    def test_homes_are_even(self):
        world = make_world(WorldSettings(n_users=600, interactions=10, overlap=0.0))
        assert world.active.sum(0).tolist() == [200, 200, 200]

    @pytest.mark.parametrize("share", [0.0, 0.2])
    def test_new_users_are_counted_and_spread_over_the_domains(self, share):
        world = make_world(WorldSettings(n_users=600, interactions=6000, new_users=share))
        assert int(world.new.sum()) == 600 * share
        for domain in world.settings.domains:
            rows, new = world.rows(domain), world.rows(domain, new=True)
            assert len(new) / len(rows) == pytest.approx(share, abs=0.03)
            assert sorted([*new.tolist(), *world.rows(domain, new=False).tolist()]) == rows.tolist()
        assert bool(world.new[world.user[world.rows(new=True)]].all())

    @pytest.mark.parametrize(
        ("sparsity", "counts"), [(0.0, [1000] * 3), (0.5, [1000, 500, 250]), (0.999, [1000, 1, 1])]
    )
    def test_sparsity_thins_each_further_domain(self, sparsity, counts):
        world = make_world(WorldSettings(interactions=1000, sparsity=sparsity))
        assert [len(world.rows(domain)) for domain in world.settings.domains] == counts
        assert len(world) == sum(counts)

    def test_rows(self):
        world = make_world(BASE)
        parts = [world.rows(domain) for domain in world.settings.domains]
        for d, part in enumerate(parts):
            assert bool((world.domain[part] == d).all())
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(world)))
        assert torch.equal(world.rows(), torch.arange(len(world)))
        with pytest.raises(ValueError, match=r"^domain: got 'music', expected one of 'books', 'films', 'games'"):
            world.rows("music")

    def test_time_runs_from_zero_to_one_and_rows_follow_it(self):
        world = make_world(WorldSettings(interactions=2000))
        assert bool((world.time.diff() >= 0).all())
        assert 0 <= float(world.time[0]) < 0.01
        assert 0.99 < float(world.time[-1]) < 1
        assert float(world.time.mean()) == pytest.approx(0.5, abs=0.02)


class TestDrift:
    def test_tastes_turn_by_a_right_angle(self):
        world = make_world(WorldSettings(interactions=20000, drift=1.0))
        static = (world.tastes[world.user, world.domain] * world.item_factors[world.domain, world.item]).sum(1)
        first, last = slice(None, 3000), slice(-3000, None)  # time below 0.05, and above 0.95
        assert correlation(world.affinity[first], static[first]) > 0.98
        assert abs(correlation(world.affinity[last], static[last])) < 0.12
        assert float(world.affinity[last].std() / world.affinity[first].std()) == pytest.approx(1, abs=0.1)

    def test_half_of_it_turns_by_half(self):
        world = make_world(WorldSettings(interactions=20000, drift=0.5))
        static = (world.tastes[world.user, world.domain] * world.item_factors[world.domain, world.item]).sum(1)
        last = slice(-3000, None)
        assert correlation(world.affinity[last], static[last]) == pytest.approx(math.cos(math.pi / 4), abs=0.08)

    def test_zero_keeps_tastes(self):
        world = make_world(WorldSettings(interactions=2000, affinity_scale=1.0))
        static = (world.tastes[world.user, world.domain] * world.item_factors[world.domain, world.item]).sum(1)
        torch.testing.assert_close(world.affinity, static / math.sqrt(8))


class TestClicksAndRatings:
    @pytest.mark.parametrize("scale", [0.5, 3.0])
    def test_affinity_is_the_logit_of_the_click(self, scale):
        world = make_world(WorldSettings(interactions=20000, affinity_scale=scale, drift=0.5))
        torch.testing.assert_close(world.affinity, scale / math.sqrt(8) * products(world).sum(1), atol=1e-4, rtol=1e-4)
        assert float(world.affinity.std()) == pytest.approx(scale, rel=0.1)
        for part in world.affinity.argsort().split(10000):  # calibrated, from the least wanted to the most
            expected = world.affinity[part].sigmoid().mean()
            assert float(world.click[part].mean()) == pytest.approx(float(expected), abs=0.02)

    def test_decided_users_are_easier_to_predict(self):
        found = []
        for scale in (0.5, 1.5, 3.0):
            world = make_world(WorldSettings(interactions=5000, affinity_scale=scale))
            found.append(roc_auc_score(world.click.numpy(), world.affinity.numpy()))
        assert found[0] < 0.68 < found[1] < 0.82 < found[2]

    def test_scale_zero_is_a_coin(self):
        world = make_world(WorldSettings(interactions=5000, affinity_scale=0.0, noise=0.5))
        assert not world.affinity.any()
        assert float(world.click.mean()) == pytest.approx(0.5, abs=0.02)
        liked = products(world).sum(1)
        assert abs(correlation(world.click, liked)) < 0.04
        assert abs(correlation(world.rating, liked)) < 0.04
        assert float(world.rating.std()) == pytest.approx(0.5, abs=0.02)

    @pytest.mark.parametrize("shared", [-1.0, 0.0, 0.6, 1.0])
    def test_task_relatedness_is_the_correlation_of_the_two_tasks(self, shared):
        """Ratings end at 1 and 5, which takes a little off the correlation."""
        world = make_world(WorldSettings(interactions=20000, n_users=3000, task_relatedness=shared, noise=0.0))
        assert correlation(world.affinity, world.rating) == pytest.approx(shared, abs=0.06)
        if abs(shared) == 1:
            expected = (3 + shared * world.affinity / world.settings.affinity_scale).clamp(1, 5)
            torch.testing.assert_close(world.rating, expected, atol=1e-5, rtol=0)

    def test_ratings_stay_on_their_scale(self):
        world = make_world(WorldSettings(interactions=3000, noise=5.0))
        assert (float(world.rating.min()), float(world.rating.max())) == (1.0, 5.0)
        assert set(world.click.tolist()) == {0.0, 1.0}

    @pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
    def test_noise_is_added_to_each_signal_feature(self, noise):
        world = make_world(WorldSettings(interactions=5000, noise=noise, drift=0.5))
        rest = unmixed(world)[0] - products(world)
        assert float(rest.std()) == pytest.approx(noise, rel=0.02, abs=1e-4)
        assert float(rest.mean()) == pytest.approx(0, abs=0.02 * noise + 1e-4)

    def test_a_wish_is_the_rating_before_noise_and_limits(self):
        world = make_world(WorldSettings(interactions=5000, affinity_scale=0.5, noise=0.0, drift=0.5))
        torch.testing.assert_close(world.rating, (3 + world.wish).clamp(1, 5))
        noisy = make_world(replace(world.settings, noise=0.4))
        assert torch.equal(noisy.wish, world.wish)
        rest = (noisy.rating - 3 - noisy.wish)[(noisy.rating - 3).abs() < 1.99]
        assert float(rest.std()) == pytest.approx(0.4, rel=0.05)


class TestRatingFeatures:
    """Columns that show the tastes that ratings alone go by, between those of clicks and the nuisance."""

    SETTINGS = WorldSettings(
        n_users=300,
        interactions=5000,
        rating_features=True,
        task_relatedness=0.6,
        drift=0.5,
        nuisance=0.8,
        nuisance_dim=5,
    )

    @staticmethod
    def blocks(world):
        return (world.features @ world.mixing.T).split([8, 8, 5], dim=1)

    @staticmethod
    def own_products(world):
        return world.rating_tastes[world.user, world.domain] * world.item_factors[world.domain, world.item]

    def test_mixing_undoes_them(self):
        world = make_world(self.SETTINGS)
        assert world.features.shape == (len(world), 21)
        torch.testing.assert_close(world.mixing @ world.mixing.T, torch.eye(21), atol=1e-5, rtol=0)
        (clicks, _, nuisance), without = self.blocks(world), replace(self.SETTINGS, rating_features=False)
        for found, expected in zip((clicks, nuisance), unmixed(make_world(without)), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("noise", [0.0, 0.5])
    def test_they_are_the_ratings_own_products_and_noise(self, noise):
        world = make_world(replace(self.SETTINGS, noise=noise))
        clicks, ratings, _ = self.blocks(world)
        rest = ratings - self.own_products(world)
        assert float(rest.std()) == pytest.approx(noise, rel=0.02, abs=1e-4)
        assert abs(correlation(rest, clicks - products(world))) < 0.02 or noise == 0  # a noise of their own
        assert abs(correlation(ratings, clicks)) < 0.05

    def test_both_signals_together_are_the_wish(self):
        world = make_world(replace(self.SETTINGS, noise=0.0, affinity_scale=1.0))
        clicks, ratings, _ = self.blocks(world)
        found = (0.6 * clicks + 0.8 * ratings).sum(1) / math.sqrt(8)
        torch.testing.assert_close(found, world.wish, atol=1e-4, rtol=0)
        assert correlation(ratings.sum(1), world.wish) == pytest.approx(0.8, abs=0.05)
        assert abs(correlation(ratings.sum(1), world.affinity)) < 0.05


class TestNuisance:
    @pytest.mark.parametrize(
        ("nuisance", "shift", "offset"),
        [(0.0, 2.0, 1.0), (0.8, 0.0, 1.0), (0.8, 1.0, 0.0), (0.8, 1.0, 1.5), (0.8, 2.0, 0.5)],
    )
    def test_means_given_the_click(self, nuisance, shift, offset):
        world = make_world(WorldSettings(interactions=20000, nuisance=nuisance, shift=shift, offset=offset))
        _, features = unmixed(world)
        for d, place in enumerate((0.0, 0.5, 1.0)):
            leaning = 1 - shift * place
            assert float(world.leaning[d]) == pytest.approx(leaning)
            for click in (0, 1):
                group = features[(world.domain == d) & (world.click == click)]  # about 10,000 rows of 8
                expected = nuisance * (leaning * (2 * click - 1) + offset * shift * place)
                assert float(group.mean()) == pytest.approx(expected, abs=0.03)
                assert float(group.std()) == pytest.approx(1.0, abs=0.02)
                assert float((group.mean(0) - expected).abs().max()) < 0.06  # every one of the eight

    def test_domains_lie_nuisance_times_offset_apart(self):
        world = make_world(WorldSettings(domains=("a", "b"), interactions=20000, nuisance=0.5, shift=1.0, offset=3.0))
        _, features = unmixed(world)
        apart = features[world.rows("b")].mean() - features[world.rows("a")].mean()
        assert float(apart) == pytest.approx(1.5, abs=0.03)

    def test_mixing_is_a_rotation_that_leaves_no_column_pure(self):
        world = make_world(WorldSettings(interactions=10))
        torch.testing.assert_close(world.mixing @ world.mixing.T, torch.eye(16), atol=1e-5, rtol=0)
        assert float(world.mixing.abs().max()) < 0.99

    def test_no_nuisance_features_at_all(self):
        world = make_world(WorldSettings(interactions=100, nuisance_dim=0, nuisance=1.0))
        assert world.features.shape == (300, 8)

    def test_one_domain_leans_with_the_click(self):
        world = make_world(WorldSettings(domains=("shop",), interactions=100, shift=2.0))
        assert world.leaning.tolist() == [1.0]


def refusal(name):
    return rf"^{re.escape(name)}: got .*, expected "


LIMITS = {
    **dict.fromkeys(("overlap", "taste_spread", "drift", "relatedness"), (0.0, 1.0)),
    **dict.fromkeys(("sparsity", "new_users"), (0.0, 1 - 1e-9)),
    **dict.fromkeys(("nuisance", "offset", "affinity_scale", "noise"), (0.0, 1e6)),
    "shift": (0.0, 2.0),
    "task_relatedness": (-1.0, 1.0),
}


class TestBadSettings:
    @given(st.data(), st.sampled_from(sorted(LIMITS)))
    def test_numbers(self, data, name):
        low, high = LIMITS[name]
        outside = st.floats(max_value=low, exclude_max=True) | st.floats(min_value=high, exclude_min=True)
        with pytest.raises(ValueError, match=refusal(name)):
            WorldSettings(**{name: data.draw(outside)})

    @pytest.mark.parametrize(
        "matrix",
        [
            ((1.0, 0.5), (0.5, 1.0)),
            ((1.0, 0.5, 0.5), (0.4, 1.0, 0.5), (0.5, 0.5, 1.0)),
            ((2.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0)),
            ((1.0, 0.9, -0.9), (0.9, 1.0, 0.9), (-0.9, 0.9, 1.0)),
            ((1.0, math.nan, 0.5), (math.nan, 1.0, 0.5), (0.5, 0.5, 1.0)),
            ((1.0, 0.5), (0.5,), (1.0,)),
            ("abc", "abc", "abc"),
            (1.0, 1.0, 1.0),
            (),
        ],
    )
    def test_relatedness_that_is_no_correlation_matrix(self, matrix):
        with pytest.raises(ValueError, match=refusal("relatedness") + ".*correlation matrix"):
            WorldSettings(relatedness=matrix)

    @pytest.mark.parametrize("wrong", [None, 1, "yes", torch.tensor(True)])
    def test_rating_features_are_on_or_off(self, wrong):
        with pytest.raises(ValueError, match=refusal("rating_features")):
            WorldSettings(rating_features=wrong)

    def test_a_domain_that_nobody_is_left_for(self):
        with pytest.raises(ValueError, match=r"^n_users: got 1, expected enough to have one in domain"):
            make_world(WorldSettings(n_users=1, overlap=0.0))

    def test_limits_themselves_are_fine(self):
        edge = {name: low for name, (low, _) in LIMITS.items()}
        world = make_world(WorldSettings(n_users=6, n_items=1, interactions=5, **edge))
        assert np.isfinite(world.features.numpy()).all()
        edge = {name: high for name, (_, high) in LIMITS.items()}
        world = make_world(WorldSettings(n_users=6, n_items=1, interactions=5, **edge))
        assert np.isfinite(world.features.numpy()).all()


def test_scalar_tensors_lists_and_numbers_are_the_same_settings():
    matrix = ((1.0, 0.5), (0.5, 1.0))
    plain = WorldSettings(("a", "b"), 9, 5, interactions=30, relatedness=matrix, drift=0.5, noise=2.0)
    other = replace(
        plain,
        domains=["a", "b"],
        relatedness=[[1, torch.tensor(0.5)], [0.5, 1]],
        drift=torch.tensor(0.5, requires_grad=True),
        noise=torch.tensor(2),
    )
    assert other == plain
    assert hash(other) == hash(plain)
    assert not changed(make_world(plain), make_world(other))
    assert not make_world(other).features.requires_grad
