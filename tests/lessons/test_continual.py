"""Lesson 10: what it measures is what it says, an answer of one's own trains, and its settings are found again."""

import os
from collections import deque

import pytest
import torch
from sklearn.metrics import roc_auc_score

from recmtl_lessons.lessons import continual as lesson
from recmtl_lessons.lessons.continual import exercises, experiments, pictures
from recmtl_lessons.models import quadratic_penalty
from recmtl_lessons.teaching.style import new_figure


def test_the_notebook_with_solutions_in_it_passes_its_checks(solved):
    answers = {
        "my_fisher": "p = logits.sigmoid()\nreturn ((p - p**2)[:, None] * slopes.square()).mean(0)",
        "my_penalty": "return sum((fisher[n] / 2 * (weights[n] - anchor[n]) ** 2).sum() for n in fisher)",
        "my_keep": "if len(memory) < capacity:\n    return memory + [row]\n"
        "if draw * (seen + 1) < capacity:\n    memory = list(memory)\n    memory[int(draw * (seen + 1))] = row\n"
        "return memory",
        "my_learn": "import copy, torch\nfrom torch.nn import functional as F\n"
        "old = memory.get('old')\noptimizer = torch.optim.Adam(model.parameters(), lr=0.01)\n"
        "for _ in range(80):\n    loss = F.binary_cross_entropy_with_logits(model(x, domain).squeeze(1), clicks)\n"
        "    for name in memory.get('names', []):\n        with torch.no_grad():\n"
        "            wanted = old(x, name).sigmoid()\n"
        "        loss = loss + F.binary_cross_entropy_with_logits(model(x, name), wanted)\n"
        "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n"
        "memory['old'], memory['names'] = copy.deepcopy(model), [*memory.get('names', []), domain]",
    }
    assert solved("10_continual.ipynb", {"lesson": lesson}, answers) == dict.fromkeys(answers, "right")


class TestYourOwn:
    def test_a_right_penalty_lands_on_the_band_and_wrong_ones_do_not(self, monkeypatch, to_the_end):
        band = lesson.sweep(strengths=(0.0, lesson.STRENGTH))["over training"]
        monkeypatch.setattr(experiments, "SEEDS", lesson.SEEDS[:2])

        def came(answer):
            return to_the_end(experiments.train_with(answer))["books"][:, -1].double()

        torch.testing.assert_close(came(quadratic_penalty), band[lesson.STRENGTH][:2, -1].double(), rtol=0, atol=0.003)
        torch.testing.assert_close(came(lambda *_: 0.0), band[0.0][:2, -1].double(), rtol=0, atol=0.01)
        runaway = came(lambda weights, anchor, fisher: -0.01 * quadratic_penalty(weights, anchor, fisher))
        assert (runaway < band[lesson.STRENGTH][:2, -1] - 0.02).any()

    def test_a_loop_of_ones_own_is_one_of_the_stacks_networks_or_neither(self):
        def learn(penalty):
            def in_turn(model, shop, seed):
                memories = []

                def held(model):
                    here = dict(model.named_parameters())
                    return lesson.STRENGTH * sum(penalty(here, *memory) for memory in memories)

                for domain in shop.domains:
                    for _ in experiments.learn_domain(model, domain, shop, seed, held):
                        pass
                    rows = shop.train[domain]["x"][: experiments.FISHER_ROWS]
                    fisher = experiments.fisher_diagonal(model, lambda m, x, d=domain: m(x, d), [rows])
                    memories.append(({n: w.detach().clone() for n, w in model.named_parameters()}, fisher))

            return lesson.difference_from_the_stack(experiments.make_network, in_turn)

        right, wrong = learn(quadratic_penalty), learn(lambda w, a, f: 2 * quadratic_penalty(w, a, f))
        assert right[lesson.STRENGTH] < 1e-6 < 1e-3 < right[0.0]
        assert min(wrong.values()) > 1e-3

    def test_what_is_drawn_grows_with_the_training(self):
        training = experiments.train_with(quadratic_penalty)
        running = [next(training) for _ in range(experiments.EVERY)][-1]
        assert (running.done, running.total) == (20, 4 * 3 * experiments.STEPS)
        own = running.snapshot()
        assert own.values.shape == (3, 1, 1)
        pictures.draw_own(own, new_figure(8, 4), lesson.course_band())
        assert "Yours, 1 network: AUC of books" in pictures.describe_own(own)
        training.close()


class TestALearnerOfOnesOwn:
    def test_everything_that_is_kept_counts(self):
        network = torch.nn.Linear(3, 2)
        kept = {"a": torch.zeros(4, 5), "b": [1.0, {"c": (torch.zeros(7).numpy(), network)}], "d": 3, "name": "books"}
        assert exercises._numbers_in(kept) == 20 + 1 + 7 + 8 + 1
        hidden = type("Hidden", (), {})()
        hidden.rows = deque([torch.zeros(5)])
        assert exercises._numbers_in({"a": hidden}) == 5

    def test_nothing_can_be_kept_on_the_network(self):
        def learn(model, domain, x, clicks, memory):
            assert not hasattr(model, "kept")
            model.kept = x

        exercises.matrix_of(learn, experiments.open_clues().one(0), 100)

    def test_its_matrix_is_drawn_beside_the_courses(self, to_the_end):
        own = to_the_end(exercises.train_learner(exercises.learn))
        assert own.shape == (3, 3, 3)
        figure = new_figure(8, 4)
        pictures.draw_matrices(own, figure)
        assert "yours" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert "Yours, 3 networks" in pictures.describe_matrices(own)
        bounds = exercises.yardsticks()
        assert bounds[0] < bounds[1]


class TestTheExplorers:
    @pytest.mark.parametrize("method", experiments.METHODS)
    def test_domains_arrive_one_after_another(self, monkeypatch, method):
        monkeypatch.setitem(experiments.SETTINGS, "table", {**experiments.SETTINGS["table"], "steps": 25})
        controls = {"method": method, "strength": 0.3, "rows": 100, "relatedness": 0.5, "order": "games, films, books"}
        runs = experiments.train_live(**controls, seed=0)
        results = [run.snapshot() for run in runs]
        assert [r.matrix.shape for r in results] == [(8, k + 2, 3) for k in range(3)]
        assert results[-1].domains == ("games", "films", "books")
        assert torch.equal(results[-1].matrix[:, -1], results[-1].curves.values[..., -1].T)
        pictures.draw_live(results[0], new_figure(11, 4.4), controls)
        said = pictures.describe_live(results[-1], controls)
        assert method in said and "3 of 3 domains" in said  # noqa: PT018

    def test_a_weight_is_held_by_its_importance(self):
        first = experiments.look_at_weight(0, "exact", 0)
        last = experiments.look_at_weight(100, "exact", 0)
        assert first.importances[first.rank] == first.importances.max()
        assert last.importances[last.rank] == last.importances.min()
        assert (first.importances.diff() <= 0).all()
        strong = list(pictures.LOOK_STRENGTHS).index(100.0)
        share = first.moved[strong] / first.moved[0].clamp(min=1e-9)  # of the way that it goes without a penalty
        assert share[:50].median() < 0.5 * share[400:600].median()
        assert abs(first.after[strong] - first.before) == pytest.approx(float(first.moved[strong, 0]))
        pictures.draw_weight(first, new_figure(11, 4.2), {})
        assert "number 1 of" in pictures.describe_weight(first, {})

    def test_shuffled_importances_hold_other_weights(self):
        exact, dealt = (experiments.look_at_weight(0, kind, 0) for kind in ("exact", "shuffled"))
        assert exact.name != dealt.name


def test_the_dip_is_how_far_it_falls_below_where_it_ends():
    curve = torch.tensor([[0.9, 0.9, 0.9, 0.9, 0.5, 0.7], [0.9, 0.9, 0.9, 0.9, 0.8, 0.7]])
    assert lesson.dip(curve).tolist() == pytest.approx([-0.2, 0.0])


def test_three_splits_leave_out_what_they_say(small_movielens):
    from dataclasses import replace

    generator = torch.Generator().manual_seed(1)
    ratings = replace(small_movielens, time=torch.randint(10**9, (len(small_movielens),), generator=generator))
    found = lesson.three_splits(ratings)
    assert set(found) == {"at random", "the last of all", "the last of each"}
    assert all(0.8 < split["known"] <= 1 for split in found.values())
    fresh = replace(ratings, time=ratings.user * 10**6)  # the last of all are people nobody has seen
    assert lesson.three_splits(fresh)["the last of all"]["known"] < 0.1


def test_scores_are_those_of_the_networks():
    arrivals = experiments.open_clues(seeds=(0, 1))
    learner = experiments.on_features(arrivals)
    course = experiments.learn_in_turn(learner, arrivals, {"ewc": (0.0,)}, (0, 1), label="")
    found = experiments.measured(course, (0.0,), 2)
    for number in range(2):
        model = course.models.model(number)
        expected = [
            roc_auc_score(fields["click"][number], model.predict(fields["x"][number], domain))
            for domain, fields in arrivals.test.items()
        ]
        assert found["average"][0.0][number].item() == pytest.approx(sum(expected) / 3, abs=1e-5)
        assert found[0][0.0][number].item() == pytest.approx(expected[0], abs=1e-5)


SLOW = pytest.mark.skipif(not os.environ.get("RECMTL_SLOW_TESTS"), reason="minutes: set RECMTL_SLOW_TESTS=1")


@SLOW
@pytest.mark.parametrize("kind", experiments.KINDS)
def test_the_strength_of_each_importance_is_found_again(kind):
    assert experiments.strength_of(kind) == lesson.CHOSEN[kind]


@SLOW
@pytest.mark.parametrize("name", ["ewc", "distil", "replay"])
def test_the_other_strengths_are_found_again(name):
    assert experiments.best_of_one_head(name) == experiments.ONE_HEAD[name]["chosen"]
    assert experiments.best_on_table(name) == experiments.ON_TABLE[name]["chosen"]


@SLOW
def test_the_controls_are_found_again():
    for heads in ("per_domain", "shared"):
        assert experiments.best_slower(heads) == experiments.SLOWER[heads]
    assert experiments.best_of_one_head("distil", "per_domain") == experiments.SETTINGS["heads_distil"]
    plain = experiments.PLAIN
    assert experiments.best_by_plain_descent() == (plain["rate"]["chosen"], plain["replay"]["chosen"])
