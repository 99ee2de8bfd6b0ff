"""The start page: its map shows what is there and what was done, its check names remedies, its world is true."""

import re
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from scipy.stats import multivariate_normal

from recmtl_lessons.datasets import DataUnavailable, WorldSettings, make_world
from recmtl_lessons.lessons import start_here as course
from recmtl_lessons.lessons.start_here import course as table
from recmtl_lessons.lessons.start_here import setup
from recmtl_lessons.lessons.start_here import world as worlds
from recmtl_lessons.teaching.style import new_figure


@pytest.fixture(autouse=True)
def _own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("RECMTL_PROGRESS_DIR", str(tmp_path))


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as plain text and as HTML."""
    seen = []
    for module in (table, setup):
        monkeypatch.setattr(module, "display", lambda bundle, **_: seen.append(bundle))
    return seen


def test_the_course_has_fourteen_lessons_in_order():
    assert [entry.number for entry in course.COURSE] == list(range(14))
    assert len({entry.name for entry in course.COURSE}) == 14


def test_the_map_shows_progress_and_leads_only_to_what_is_written(shown, request):
    course.LESSON.record("quiz", "done")
    course.show_map()
    text, page = shown[0]["text/plain"], shown[0]["text/html"]
    assert "1 of 4 done" in text
    notebooks = request.config.rootpath / "notebooks"
    for entry in course.COURSE:
        assert entry.title in text
        assert (f'href="{entry.notebook}"' in page) == (notebooks / entry.notebook).exists()


def test_a_folder_left_behind_is_no_lesson(shown, monkeypatch, tmp_path):
    lessons = table.import_module("recmtl_lessons.lessons")
    (tmp_path / "tide" / "__pycache__").mkdir(parents=True)
    monkeypatch.setattr(lessons, "__path__", [*lessons.__path__, str(tmp_path)])
    monkeypatch.setattr(table, "COURSE", (course.Entry(99, "tide", "The tide", "Training", 75),))
    course.show_map()
    assert "not written yet" in shown[0]["text/plain"]


def test_a_broken_set_up_is_named_with_its_remedy(shown, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    def no_data():
        raise DataUnavailable("put the files there")

    monkeypatch.setattr(setup.importlib.metadata, "version", missing)
    monkeypatch.setattr(setup, "load_movielens", no_data)
    monkeypatch.setattr(sys, "prefix", "nowhere")
    monkeypatch.setenv("RECMTL_DEVICE", "abacus")
    findings = {finding.what: finding for finding in course.check_setup()}
    assert findings["Python"].fine
    for what, remedy in (
        ("anywidget", "first command"),
        ("device", "RECMTL_DEVICE"),
        ("JupyterLab's setting for explorers", "first command"),
        ("MovieLens", "put the files there"),
    ):
        assert not findings[what].fine
        assert remedy in findings[what].remedy
    course.show_setup()
    assert shown[0]["text/plain"].count("✗") == sum(not finding.fine for finding in findings.values())
    assert "put the files there" in shown[0]["text/html"]


def test_a_good_set_up_is_said_so():
    findings = {finding.what: finding for finding in course.check_setup()}
    assert findings["torch"].found == torch.__version__
    assert findings["JupyterLab's setting for explorers"].fine


def test_the_arcsine_is_the_share_of_equal_signs():
    # The orthant probability of two correlated normals, by another road: its distribution function at 0.
    both_negative = multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]]).cdf([0, 0])
    assert course.share_of_equal_signs(0.7) == pytest.approx(2 * both_negative, abs=1e-4)
    assert float(course.agreement_by_seed(0.7).mean()) == pytest.approx(2 * both_negative, abs=0.01)


def test_the_exercise(solved):
    answers = {"my_agreement": "return (torch.sign(first) == torch.sign(second)).float().mean()"}
    assert solved("00_start_here.ipynb", {"course": course, "torch": torch}, answers) == {"my_agreement": "right"}


@pytest.mark.parametrize("knobs", [{}, {"shift": 0.0}, {"nuisance": 0.0}, {"relatedness": 0.0, "overlap": 0.0}])
def test_the_world_explorer_says_what_the_world_is(knobs):
    explorer = course.explore_world()
    world = explorer.run(**knobs)
    text = worlds.describe_world(world, explorer.values)
    settings = world.settings
    for d, name in ((0, "books"), (2, "games")):
        gap = 2 * settings.nuisance * (1 - settings.shift * d / 2)
        said = re.search(rf"by ([+-][\d.]+) in {name}", text)
        assert float(said[1]) == pytest.approx(gap, abs=0.11)
    explorer.close()


def test_the_matrix_of_relatedness_is_drawn_with_its_truth():
    world = course.related_world()
    figure = new_figure(8, 3.6)
    course.draw_relatedness(world, figure)
    truth, measured = ([t.get_text() for t in axis.texts] for axis in figure.axes)
    assert truth == [f"{value:.2f}" for row in worlds.RELATED for value in row]
    for said, value in zip(measured, truth, strict=True):
        assert float(said) == pytest.approx(float(value), abs=0.05)


def test_the_world_of_the_page_is_the_package_world():
    explorer = course.explore_world()
    world = explorer.run(seed=3, shift=0.4)
    same = make_world(WorldSettings(interactions=3000, **{k: v for k, v in explorer.values.items() if k != "seed"}), 3)
    assert torch.equal(world.features, same.features)
    explorer.close()
