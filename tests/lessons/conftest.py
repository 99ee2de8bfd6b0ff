"""What tests of lessons share: each exercise is held against its solution and the wrong answers kept beside it."""

import nbformat
import pytest


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
