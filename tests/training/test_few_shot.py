"""Learners for new users: their rates are chosen among what was tried, and what diverged has lost."""

import math

import pytest

from recmtl_lessons.datasets.few_shot import Shop, shop_users
from recmtl_lessons.training import DivergenceError
from recmtl_lessons.training.few_shot import MAMLLearner, meta_objective, score_rates, train

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def users():
    return shop_users(Shop(ratings=30, query=10, episodes=2, train_users=20, valid_users=6, test_users=4), SEEDS)


def test_a_rate_at_which_training_diverges_has_lost_and_the_others_are_scored(users):
    learner = MAMLLearner(meta_objective, meta_lr=0.003, inner_lr=0.03, rate=0.03)
    with pytest.raises(DivergenceError, match="from model 2"):
        train(learner, users.train, SEEDS, (4,), 2, rates=(0.03, 1e9))
    found = score_rates(learner, users.train, users.valid, SEEDS, (0.003,), (0.03, 1e9), (4,), (0.03, 0.1), 2)
    alone = score_rates(learner, users.train, users.valid, SEEDS, (0.003,), (0.03,), (4,), (0.03, 0.1), 2)
    assert {key: value for key, value in found.items() if key[1] == 0.03} == pytest.approx(alone)
    assert all(math.isfinite(value) for value in alone.values())
    assert [value for key, value in found.items() if key[1] == 1e9] == [math.inf, math.inf]
