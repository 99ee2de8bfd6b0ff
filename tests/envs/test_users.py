"""Users whose truth is known: what each knob does to tastes and profiles, and that groups are people of one world."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl_lessons.envs import SURFACES, SessionUsers, join_users, make_users
from recmtl_lessons.envs.users import CATEGORIES

BASE = {"n_users": 40, "seed": 3}


def users(**changed):
    return make_users(**(BASE | changed))


def correlations(tastes):
    """Between two surfaces' tastes for the same category, (pairs of surfaces, C)."""
    centred = tastes - tastes.mean(0)
    unit = centred / centred.norm(dim=0)  # (U, K, C)
    return torch.stack([(unit[:, i] * unit[:, j]).sum(0) for i, j in ((0, 1), (0, 2), (1, 2))])


def mean_and_error(values):
    """Mean over the first dimension's worlds, and its standard error."""
    by_world = torch.stack([v.mean() for v in values])
    return float(by_world.mean()), float(by_world.std() / len(by_world) ** 0.5)


def quadratic(traits):
    """Traits and all their products, (U, F + F (F + 1) / 2), in double precision."""
    z = traits.double()
    i, j = torch.triu_indices(z.shape[1], z.shape[1])
    return torch.cat([z, z[:, i] * z[:, j]], dim=1)


class TestSeed:
    def test_the_same_seed_gives_the_same_users(self):
        one, same, other = users(), users(), users(seed=4)
        assert torch.equal(one.profile, same.profile)
        assert torch.equal(one.tastes, same.tastes)
        assert not torch.equal(one.profile, other.profile)

    def test_torchs_own_generator_is_neither_read_nor_moved(self):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = users()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(users().tastes, one.tastes)

    @given(st.integers(1, 20), st.integers(0, 10**9), st.integers(2, 6), st.integers(1, 12), st.integers(0, 5))
    @settings(max_examples=25)
    def test_shapes(self, n_users, seed, n_categories, profile_dim, group):
        found = make_users(n_users, seed, n_categories=n_categories, profile_dim=profile_dim, group=group)
        assert len(found) == n_users
        assert found.profile.shape == (n_users, profile_dim)
        assert found.tastes.shape == (n_users, 3, n_categories)
        assert found.tasks == SURFACES
        assert found.categories == CATEGORIES[:n_categories]


class TestOneKnobAtATime:
    @pytest.mark.parametrize(
        ("changed", "moves"),
        [
            ({"sharing": 0.4}, {"tastes"}),
            ({"strength": 0.5}, {"tastes"}),
            ({"noise": 0.0}, {"profile"}),
            ({"group": 1}, {"profile", "tastes"}),
        ],
    )
    def test_moves(self, changed, moves):
        one, other = users(), users(**changed)
        assert {n for n in ("profile", "tastes") if not torch.equal(getattr(one, n), getattr(other, n))} == moves

    def test_strength_is_a_factor(self):
        torch.testing.assert_close(users(strength=3.0).tastes, 2 * users(strength=1.5).tastes)
        assert float(users(strength=0.0).tastes.abs().max()) == 0

    def test_noise_is_added_to_the_traits(self):
        truth = users(noise=0.0).profile
        once, twice = (users(noise=n).profile - truth for n in (0.3, 0.6))
        torch.testing.assert_close(twice, 2 * once, rtol=1e-4, atol=1e-6)
        blur = (make_users(2000, 1, noise=1.0).profile - make_users(2000, 1, noise=0.0).profile).flatten()
        assert float(blur.std()) == pytest.approx(1, abs=0.03)  # of 16,000 numbers: a standard error of 0.006
        traits = make_users(2000, 1, noise=0.0).profile.flatten()
        assert float(torch.corrcoef(torch.stack([blur, traits]))[0, 1]) == pytest.approx(0, abs=0.04)

    @pytest.mark.parametrize("sharing", [0.2, 0.7])
    def test_sharing_mixes_what_is_common_and_what_is_not(self, sharing):
        common, own = users(sharing=1.0).tastes, users(sharing=0.0).tastes
        expected = math.sqrt(sharing) * common + math.sqrt(1 - sharing) * own
        torch.testing.assert_close(users(sharing=sharing).tastes, expected)


class TestSharing:
    def test_at_1_the_surfaces_ask_for_one_and_the_same(self):
        tastes = users(sharing=1.0).tastes
        assert torch.equal(tastes, tastes[:, :1].expand_as(tastes))
        assert float(tastes.std()) > 1

    @pytest.mark.parametrize("sharing", [0.0, 0.3, 0.7])
    def test_it_is_the_correlation_on_average_over_worlds(self, sharing):
        found = [correlations(make_users(300, seed, sharing).tastes) for seed in range(150)]
        mean, error = mean_and_error(found)
        assert error < 0.02
        # A mean of ratios is not quite the ratio of means.
        assert mean == pytest.approx(sharing, abs=4 * error + 0.02)

    def test_at_0_a_single_world_is_nearly_uncorrelated_only_in_many_dimensions(self):
        few, many = (make_users(2000, 0, 0.0, profile_dim=d).tastes for d in (8, 400))
        assert float(correlations(many).abs().max()) < 0.15
        assert float(correlations(few).abs().max()) > 0.2

    def test_categories_of_one_surface_are_tastes_apart(self):
        tastes = make_users(2000, 0, profile_dim=400).tastes[:, 0]
        between = torch.corrcoef(tastes.T).fill_diagonal_(0)
        assert float(between.abs().max()) < 0.15


class TestTasteFunction:
    """With no noise the profile is the traits, and the taste a polynomial of them that can be recovered exactly."""

    @staticmethod
    def fitted(world, surface=0):
        x, y = quadratic(world.profile), world.tastes[:, surface].double()
        return torch.linalg.lstsq(x, y).solution  # (features, C)

    @pytest.mark.parametrize("sharing", [0.0, 0.6, 1.0])
    def test_groups_are_other_people_of_the_same_world(self, sharing):
        learned = make_users(400, 5, sharing, noise=0.0, group=0)
        others = make_users(100, 5, sharing, noise=0.0, group=1)
        for surface in range(3):
            said = quadratic(others.profile) @ self.fitted(learned, surface)
            torch.testing.assert_close(said, others.tastes[:, surface].double(), rtol=0, atol=1e-4)
        nearest = torch.cdist(others.profile, learned.profile).min()
        assert float(nearest) > 0.5, "nobody is in both groups"

    def test_another_world_has_another_function(self):
        learned, elsewhere = make_users(400, 5, noise=0.0), make_users(100, 6, noise=0.0)
        missed = quadratic(elsewhere.profile) @ self.fitted(learned) - elsewhere.tastes[:, 0].double()
        assert float(missed.std()) > 1

    def test_it_has_the_form_that_is_written(self):
        """A unit vector's worth of linear terms, and a product of two unit vectors: that matrix has rank 2."""
        strength = 2.0
        fit = self.fitted(make_users(400, 5, strength=strength, noise=0.0)) * math.sqrt(2) / strength
        i, j = torch.triu_indices(8, 8)
        for c in range(3):
            assert float(fit[:8, c].norm()) == pytest.approx(1, abs=1e-4)
            product = torch.zeros(8, 8, dtype=torch.float64)
            product[i, j] = fit[8:, c]
            spectrum = torch.linalg.eigvalsh((product + product.T) / 2)
            assert float(spectrum[-1] - spectrum[0]) == pytest.approx(1, abs=1e-4)  # (b.d + 1) / 2 - (b.d - 1) / 2
            assert float(spectrum[1:-1].abs().max()) < 1e-4

    @pytest.mark.parametrize("strength", [0.7, 1.5])
    def test_variance(self, strength):
        """On average over worlds 1 + 1 / (2 F) times the squared strength."""
        found = [make_users(200, seed, 0.5, strength).tastes.var(0) for seed in range(200)]
        mean, error = mean_and_error(found)
        expected = strength**2 * (1 + 1 / 16)
        assert error < 0.03 * expected
        assert mean == pytest.approx(expected, abs=4 * error)


class TestTable:
    def test_some_of_the_users(self):
        everybody = users()
        chosen = torch.tensor([5, 0, 5])
        for rows in (chosen, chosen.tolist(), slice(3, 6), torch.arange(40) % 2 == 0):
            some = everybody[rows]
            assert torch.equal(some.profile, everybody.profile[rows])
            assert torch.equal(some.tastes, everybody.tastes[rows])
            assert (some.tasks, some.categories) == (everybody.tasks, everybody.categories)
        for rows in ([], 3, [40], None, torch.ones(7).bool()):
            with pytest.raises(ValueError, match=r"^rows: got .*, expected some of 40 users"):
                everybody[rows]

    def test_tastes_on_a_surface(self):
        found = users(sharing=0.0)
        for k, task in enumerate(SURFACES):
            assert torch.equal(found.on(task), found.tastes[:, k])

    def test_joining(self):
        groups = [users(seed=s, n_users=n) for s, n in ((1, 3), (2, 5), (1, 3))]
        joined = join_users(groups)
        assert len(joined) == 11
        for group, rows in zip(groups, (slice(0, 3), slice(3, 8), slice(8, 11)), strict=True):
            assert torch.equal(joined.profile[rows], group.profile)
            assert torch.equal(joined.tastes[rows], group.tastes)

    @pytest.mark.parametrize(
        "other",
        [
            users(n_categories=4),
            users(profile_dim=5),
            SessionUsers(users().profile, users().tastes, ("search", "home", "notify")),
            SessionUsers(users().profile, users().tastes, categories=("a", "b", "c")),
        ],
    )
    def test_only_users_of_one_kind_can_be_joined(self, other):
        with pytest.raises(ValueError, match=r"^groups: got 2 kinds of users, expected one"):
            join_users([users(), other])
