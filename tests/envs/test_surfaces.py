"""What each surface can show, by hand for three categories and by its laws for any number of them."""

import pytest
import torch

from recmtl_lessons.envs import SURFACES, make_surface
from recmtl_lessons.envs.surfaces import CATEGORIES

COUNTS = {"home": lambda c: c, "search": lambda c: c * (c - 1), "notify": lambda c: c + 1}


class TestThreeCategories:
    def test_home_shows_one(self):
        home = make_surface("home", 3)
        assert home.actions == ("news", "music", "sport")
        assert home.share.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
        assert home.dose.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
        assert home.lead.tolist() == [0, 1, 2]

    def test_search_shows_a_ranking_of_two(self):
        search = make_surface("search", 3)
        assert search.actions[:2] == ("news, music", "news, sport")
        assert search.actions[-1] == "sport, music"
        torch.testing.assert_close(search.share[[0, 2, 5]], torch.tensor([[0.6, 0.4, 0], [0.4, 0.6, 0], [0, 0.4, 0.6]]))
        assert search.dose[[0, 2, 5]].tolist() == [[1, 1, 0], [1, 1, 0], [0, 1, 1]]
        assert search.lead.tolist() == [0, 0, 1, 1, 2, 2]

    def test_notify_can_keep_quiet(self):
        notify = make_surface("notify", 3)
        assert notify.actions == ("news", "music", "sport", "nothing")
        assert notify.share.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
        assert notify.dose.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2], [0, 0, 0]]
        assert notify.lead.tolist() == [0, 1, 2, -1]
        assert notify.shows.tolist() == [True, True, True, False]


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("categories", range(2, 7))
class TestLaws:
    def test_sizes(self, name, categories):
        surface = make_surface(name, categories)
        count = COUNTS[name](categories)
        assert surface.name == name
        assert len(surface) == len(surface.actions) == len(set(surface.actions)) == count
        assert surface.share.shape == surface.dose.shape == (count, categories)
        assert surface.lead.shape == surface.shows.shape == (count,)
        assert surface.share.dtype == torch.float32
        assert surface.dose.dtype == surface.lead.dtype == torch.int64

    def test_what_is_shown_is_shared_out_and_sates(self, name, categories):
        surface = make_surface(name, categories)
        torch.testing.assert_close(surface.share.sum(1), surface.shows.float())
        assert torch.equal(surface.dose > 0, surface.share > 0)
        assert torch.equal(surface.dose.sum(1), 2 * surface.shows.long()), "the same dose on every surface"
        leading = surface.share.argmax(1)
        assert torch.equal(surface.lead[surface.shows], leading[surface.shows])

    def test_every_category_can_lead_and_labels_name_it_first(self, name, categories):
        surface = make_surface(name, categories)
        assert set(surface.lead[surface.shows].tolist()) == set(range(categories))
        for label, lead in zip(surface.actions, surface.lead.tolist(), strict=True):
            assert label.split(",")[0] == ("nothing" if lead < 0 else CATEGORIES[lead])
