"""What tests of lessons share: each exercise is held against its solution and the wrong answers kept beside it."""

import nbformat
import pytest
import torch

from recmtl_lessons.datasets import Ratings


@pytest.fixture
def verdict(capsys):
    """Check an answer quietly, as a learner's cell does."""

    def check(exercise, answer):
        outcome = exercise.check(answer)
        capsys.readouterr()
        return outcome

    return check


@pytest.fixture
def solved(request):
    """Run a notebook's exercise cells with the learner's placeholder replaced by a solution, and return what came out.

    The cell keeps everything the notebook wrote, but for the lines that hold the placeholder.
    """

    def run(notebook, names: dict, answers: dict[str, str]) -> dict[str, str]:
        cells = nbformat.read(request.config.rootpath / "notebooks" / notebook, 4).cells
        placeholders = [c.source for c in cells if c.cell_type == "code" and "return NotImplemented" in c.source]
        kinds = {}
        for source in placeholders:
            line = next(line for line in source.splitlines() if "return NotImplemented" in line)
            key = next(key for key in answers if key in source)
            indent = line[: len(line) - len(line.lstrip())]
            body = "\n".join(indent + text for text in answers[key].splitlines())
            *work, last = source.replace(line, body).strip().splitlines()
            space = dict(names)
            exec("\n".join(work), space)
            kinds[key] = eval(last, space).kind
        return kinds

    return run


@pytest.fixture
def to_the_end():
    """Run a computation that shows its progress, and return what it comes to."""

    def run(generator):
        while True:
            try:
                next(generator)
            except StopIteration as stop:
                return stop.value

    return run


@pytest.fixture
def weighs():
    """Hold a study question's key points against sentences, one a point, each of which touches that point alone."""

    def check(study, sentences):
        assert len(study.checks) == 3
        places = [list(check.choices).index(check.correct) for check in study.checks]
        assert len(set(places)) > 1
        for k, (sentence, point) in enumerate(zip(sentences, study.points, strict=True)):
            assert point.found_in(sentence), point.name
            others = study.points[:k] + study.points[k + 1 :]
            assert not any(other.found_in(sentence) for other in others), sentence
        assert all(point.found_in(study.worked) for point in study.points)
        beside_it = "I do not know. Learn embeddings of users and items from ratings, and rank by their product."
        assert not any(point.found_in(beside_it) for point in study.points)

    return check


@pytest.fixture(scope="session")
def small_movielens():
    """Some thousand ratings by chance, in the form of MovieLens; nobody has rated a film twice."""
    generator = torch.Generator().manual_seed(0)
    n, people, items = 5_000, 90, 200
    user = torch.randint(people, (n,), generator=generator)
    item = torch.randint(items, (n,), generator=generator)
    user, item = torch.tensor(sorted({(int(u), int(i)) for u, i in zip(user, item, strict=True)})).T.contiguous()
    return Ratings(
        user=user,
        item=item,
        rating=torch.randint(1, 6, user.shape, generator=generator).float(),
        user_ids=tuple(range(people)),
        item_ids=tuple(range(items)),
        titles=tuple(f"Film, The {k} (2000)" for k in range(items)),
        years=torch.randint(1950, 2010, (items,), generator=generator),
        genres=torch.rand(items, 4, generator=generator) < 0.4,
        genre_names=("A", "B", "C", "D"),
    )
