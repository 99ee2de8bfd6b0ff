"""Users' ratings in order of time: in the shop, where tastes may turn, and in MovieLens."""

import pytest
import torch

from recmtl_lessons.datasets.few_shot import catalogue_of
from recmtl_lessons.datasets.streams import Streams, StreamShop, _settings, film_streams, shop_streams, shuffled
from recmtl_lessons.datasets.world import make_world
from tests.support.films import needs_films

SMALL = {"length": 40, "train_users": 12, "valid_users": 6, "test_users": 8}
SEED = 3
STILL = StreamShop(**SMALL)
TURNING = {"steadily": StreamShop(drift=1.0, **SMALL), "at once": StreamShop(drift=1.0, sudden=True, **SMALL)}


def rows_of(world, streams, seed):
    """The world's row of each rating, found by the user, and by what is known of the item."""
    known = catalogue_of(world, 16, seed)
    rows = torch.zeros(streams.y.shape[1:], dtype=torch.long)
    for k, user in enumerate(streams.user[0]):
        mine = (world.user == user).nonzero().squeeze(1)
        alike = (known[world.item[mine]][None] == streams.x[0, k][:, None]).all(2)  # (N, mine)
        assert alike.any(1).all()
        rows[k] = mine[alike.float().argmax(1)]  # the first time this item was rated
    return rows


class TestShop:
    def test_a_stream_is_in_order_of_time_and_its_turn_in_the_middle(self):
        users, world = shop_streams(STILL, (SEED,)), make_world(_settings(STILL), SEED)
        for streams in (users.valid, users.test):
            times = world.time[rows_of(world, streams, SEED)]
            assert (times.diff(dim=1) >= 0).all()
            assert (times[:, :20] < 0.5).all()
            assert (times[:, 20:] >= 0.5).all()

    @pytest.mark.parametrize("how", TURNING)
    def test_ratings_are_the_worlds_less_three(self, how):
        users, world = shop_streams(TURNING[how], (SEED,)), make_world(_settings(TURNING[how]), SEED)
        torch.testing.assert_close(users.test.y[0], world.rating[rows_of(world, users.test, SEED)] - 3)

    @pytest.mark.parametrize("how", TURNING)
    def test_shops_with_and_without_drift_have_the_same_users_and_items(self, how):
        still, turned = (shop_streams(shop, (SEED, 5)) for shop in (STILL, TURNING[how]))
        for part in ("valid", "test"):
            one, other = getattr(still, part), getattr(turned, part)
            assert torch.equal(one.user, other.user)
            assert torch.equal(one.x, other.x)
            assert not torch.equal(one.y, other.y)

    def test_a_turn_at_once_leaves_the_first_half_as_it_was(self):
        still, turned = (shop_streams(shop, (SEED,)).test.y for shop in (STILL, TURNING["at once"]))
        assert torch.equal(still[..., :20], turned[..., :20])
        assert (still[..., 20:] != turned[..., 20:]).float().mean() > 0.9

    @pytest.mark.parametrize("how", TURNING)
    def test_tastes_of_users_to_train_on_stand_still(self, how):
        still, turned = (shop_streams(shop, (SEED,)).train for shop in (STILL, TURNING[how]))
        for field in ("user", "support_x", "support_y", "query_x", "query_y"):
            assert torch.equal(getattr(still, field), getattr(turned, field)), field

    def test_nobody_is_in_two_parts(self):
        users = shop_streams(STILL, (SEED,))
        parts = [set(users.train.user.flatten().tolist())]
        parts += [set(part.user.flatten().tolist()) for part in (users.valid, users.test)]
        assert [len(part) for part in parts] == [12, 6, 8]
        assert len(set.union(*parts)) == 26

    def test_no_item_comes_twice(self):
        x = shop_streams(STILL, (SEED,)).test.x[0]
        assert all(len({tuple(row) for row in one.tolist()}) == 40 for one in x)


def test_another_order_has_the_same_ratings_of_the_same_items():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, 3, 30, generator=generator)
    known = torch.arange(30).expand(2, 3, 30) < torch.tensor([30, 20, 1])[:, None]
    streams = Streams(torch.zeros(2, 3), torch.stack([y, -y], dim=3), y, known)
    mixed = shuffled(streams, 1)
    torch.testing.assert_close(mixed.x, torch.stack([mixed.y, -mixed.y], dim=3))
    assert torch.equal(mixed.known, known)
    for s in range(2):
        for k, n in enumerate((30, 20, 1)):
            assert torch.equal(mixed.y[s, k, :n].sort().values, y[s, k, :n].sort().values)
    assert not torch.equal(mixed.y[:, 0], y[:, 0])
    assert torch.equal(shuffled(streams, 1).y, mixed.y)


@needs_films
def test_films_come_in_order_of_time(movielens):
    users = film_streams(movielens, (0, 1), length=30)
    for streams in (users.valid, users.test):
        assert streams.known[..., 0].all()
        assert (streams.known.long().diff(dim=2) <= 0).all()
    user = users.test.user[0, 0]
    mine = (movielens.user == user).nonzero().squeeze(1)
    rated = movielens.rating[mine[movielens.time[mine].argsort(stable=True)]][:30]
    found = users.test.y[0, 0][users.test.known[0, 0]]
    torch.testing.assert_close(found - found[0], rated - rated[0])
    shared = set(users.train.user[0].tolist()) & set(users.test.user[0].tolist())
    assert not shared
