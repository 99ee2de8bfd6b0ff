"""The house in order: who imports whom, pins, the table of lessons, and the form of every notebook."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import recmtl_lessons

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recmtl_lessons"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ROOMS = ("datasets", "envs", "lessons", "models", "teaching", "training")


# Imports


def imported(source, package):
    """Every module that a source names in an import, wherever it stands, as absolute dotted names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def rooms_of(modules):
    """The rooms of the package among the imported modules; the package itself counts as ``""``."""
    ours = [name.split(".") for name in modules if name.split(".")[0] == PACKAGE.name]
    return {parts[1] if len(parts) > 1 else "" for parts in ours}


def modules_of(room):
    """Every module of a room, with what it imports."""
    for path in sorted((PACKAGE / room).rglob("*.py")):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        yield path, imported(path.read_text(encoding="utf-8"), package)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import recmtl_lessons.models as m", {"models"}),
        ("from recmtl_lessons import models", {"models"}),
        ("from recmtl_lessons.models.domain_adversarial import task_loss", {"models"}),
        ("def late():\n    from ..models import task_loss", {"models"}),
        ("from .. import lessons", {"lessons"}),
        ("from .style import card", {"teaching"}),
        ("import recmtl_lessons", {""}),
        ("import torch, os.path\nfrom recmtl_lessons_other import models", set()),
    ],
)
def test_imports_are_seen_however_they_are_written(source, expected):
    assert rooms_of(imported(source, "recmtl_lessons.teaching")) == expected


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("models", {"", "datasets", "envs", "lessons", "teaching", "training"}),
        ("teaching", {"", "lessons", "models"}),
        ("datasets", {"", "lessons"}),
        ("envs", {"", "lessons"}),
        ("training", {"", "lessons"}),
        ("lessons", {""}),
    ],
)
def test_imports_run_one_way(room, forbidden):
    for path, modules in modules_of(room):
        assert not rooms_of(modules) & forbidden, path


def test_lessons_do_import_the_other_rooms():
    """Without this the test above could pass by seeing nothing."""
    seen = set().union(*(rooms_of(modules) for _, modules in modules_of("lessons")))
    assert seen >= {"datasets", "envs", "models", "teaching", "training"}


def test_no_lesson_imports_another():
    """What two lessons share has a room below; the first and the last reach them through the table of the course."""
    lessons = {path.name for path in (PACKAGE / "lessons").iterdir() if (path / "__init__.py").is_file()}
    for path, modules in modules_of("lessons"):
        own = path.relative_to(PACKAGE / "lessons").parts[0]
        ways = [name.split(".") for name in modules]
        named = {way[2] for way in ways if way[:2] == [PACKAGE.name, "lessons"] and len(way) > 2}
        assert not named & lessons - {own}, path


def test_models_need_torch_and_nothing_else():
    for path, modules in modules_of("models"):
        others = {name.split(".")[0] for name in modules} - {"torch", PACKAGE.name}
        assert not others - sys.stdlib_module_names, path


def test_the_package_has_no_other_rooms():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_can_be_reached_from_the_package(room):
    assert recmtl_lessons.__getattr__(room) is importlib.import_module(f"recmtl_lessons.{room}")
    assert room in dir(recmtl_lessons)


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, recmtl_lessons\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'gymnasium'}\n"
        "heavy |= {'ipywidgets', 'IPython', 'anywidget', 'pooch'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(recmtl_lessons.models.GradientReversalLayer.__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["[]", "GradientReversalLayer True"]


# Pins


def pinned(lines):
    """Name and version of each pinned requirement; anything but ``name==version`` fails."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line)
        assert match, f"{line!r} is not an exact pin"
        found[canonicalize_name(match[1])] = match[2]
    return found


@pytest.fixture(scope="module")
def requirements():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def ranges():
    """What a learner's installation needs: the package's own dependencies, and nbval to run the notebooks."""
    extra = [text for text in PROJECT["optional-dependencies"]["test"] if Requirement(text).name == "nbval"]
    asked = [Requirement(text) for text in PROJECT["dependencies"] + extra]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in asked}


def test_requirements_pin_all_direct_dependencies_and_no_other(requirements, ranges):
    assert requirements[-1] == "-e ."
    assert set(pinned(requirements[:-1])) == set(ranges)
    assert len(requirements) - 1 == len(ranges)


def test_each_pin_lies_in_its_range(requirements, ranges):
    for name, version in pinned(requirements[:-1]).items():
        assert ranges[name].contains(version), f"{name}: {version} is pinned, {ranges[name]} is asked for"


def test_conda_gets_the_same_pins(requirements):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "recmtl"
    assert environment["channels"] == ["conda-forge"]
    *plain, last = environment["dependencies"]
    assert sorted(last["pip"]) == sorted(requirements)
    assert {Requirement(text).name for text in plain} == {"python", "pip"}
    python = next(Requirement(text).specifier for text in plain if text.startswith("python"))
    assert python.contains("3.11")
    assert not python.contains("3.10")
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11")
    assert not SpecifierSet(PROJECT["requires-python"]).contains("3.10")


# The table of lessons


def table_with(column, text):
    """Rows of the first Markdown table that has this column, each a dict by column."""
    for block in re.findall(r"(?:^\|.*\|[ \t]*\n)+", text + "\n", flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        header = [cell.lower() for cell in rows[0]]
        if column in header:
            return [dict(zip(header, row, strict=True)) for row in rows[2:]]
    return []


def plain(cell):
    """A cell's words, without the link or code around them."""
    return re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cell).strip("`* ")


@pytest.fixture(scope="module")
def course():
    from recmtl_lessons.lessons.start_here import COURSE

    return COURSE


def test_readme_lists_the_course(course):
    """The README's table has the columns "no", "lesson" and "minutes"."""
    rows = table_with("minutes", (ROOT / "README.md").read_text(encoding="utf-8"))
    listed = [(int(row["no"]), plain(row["lesson"]), int(re.search(r"\d+", row["minutes"])[0])) for row in rows]
    assert listed == [(int(lesson.number), lesson.title, lesson.minutes) for lesson in course]


def test_the_course_is_numbered_and_each_name_is_used_once(course):
    assert [int(lesson.number) for lesson in course] == list(range(14))
    assert len({lesson.name for lesson in course}) == 14


def test_every_notebook_is_in_the_course(course):
    names = {f"{int(lesson.number):02d}_{lesson.name}" for lesson in course}
    assert {path.stem for path in NOTEBOOKS} <= names


# Notebooks

HEADINGS = ["Predict", "The idea", "The model", "Train it", "Explore", "Where it breaks", "On real data", "Your turn"]
MACHINE_PATH = re.compile(r"/(home|root|Users|tmp)/|\bC:\\")
PICTURES = ("image/png", "image/jpeg")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def contents(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    return [cell for cell in contents(path)["cells"] if cell["cell_type"] == "code"]


def headings(path):
    """Headings of the text cells, with their level; lines of fenced code are none."""
    text = "\n".join("".join(c["source"]) for c in contents(path)["cells"] if c["cell_type"] == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^(#+) (.*?)\s*$", text, flags=re.MULTILINE)


def readable(value):
    """All text in a cell's source or outputs; pictures, whose letters mean nothing, are left out."""
    if isinstance(value, dict):
        return "\n".join(readable(v) for k, v in value.items() if k not in PICTURES)
    if isinstance(value, list):
        joiner = "" if all(isinstance(v, str) for v in value) else "\n"
        return joiner.join(readable(v) for v in value)
    return re.sub(r"data:[\w/+.;-]+;base64,[A-Za-z0-9+/=]+", "", value) if isinstance(value, str) else ""


def test_the_first_two_notebooks_exist():
    assert {"00_start_here", "01_domain_adversarial"} <= {path.stem for path in NOTEBOOKS}


def test_machine_paths_are_recognised():
    folders = (f"in /{folder}/ada.py" for folder in ("home", "tmp", "root", "Users"))
    for text in (*folders, "C:\\Users\\ada"):
        assert MACHINE_PATH.search(readable([{"text": [text]}])), text
    picture = "/".join(("ab", "tmp", "cd"))  # letters of an encoded picture that happen to look like a path
    harmless = {
        "image/png": picture,
        "text/html": f"<img src='data:image/png;base64,{picture}='>",
        "text": "at home/x",
    }
    assert not MACHINE_PATH.search(readable([harmless]))


@each_notebook
def test_a_title_and_nothing_else_of_its_rank(path):
    found = headings(path)
    assert found[0][0] == "#"
    assert [level for level, _ in found].count("#") == 1


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if 1 <= int(path.stem[:2]) <= 12], ids=lambda path: path.stem
)
def test_a_lesson_has_its_nine_headings_in_order(path):
    found = [text for level, text in headings(path) if level == "##"]
    second = [text for text in found if text.startswith("Half way: ")]  # of a lesson in two halves, with a stop between
    assert [text for text in found if text not in second] == HEADINGS
    assert [found.index(text) for text in second] in ([], [HEADINGS.index("On real data")])


@each_notebook
def test_committed_executed_in_order_and_without_an_error(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    kinds = [output["output_type"] for cell in code_cells(path) for output in cell["outputs"]]
    assert kinds
    assert "error" not in kinds


@each_notebook
def test_no_widget_state_and_no_great_weight(path):
    assert "widgets" not in contents(path)["metadata"]
    assert path.stat().st_size < 600_000


@each_notebook
def test_no_path_of_the_machine_it_ran_on(path):
    for number, cell in enumerate(contents(path)["cells"], start=1):
        found = MACHINE_PATH.search(readable([cell["source"], cell.get("outputs", [])]))
        assert not found, f"cell {number} holds {found}"


@each_notebook
def test_code_cells_are_short(path):
    for cell in code_cells(path):
        lines = "".join(cell["source"]).splitlines()
        assert 1 <= len(lines) <= 25, lines[:1]


@each_notebook
def test_a_module_and_a_test_have_its_name(path):
    name = path.stem[3:]
    lesson = PACKAGE / "lessons" / name
    assert lesson.with_suffix(".py").is_file() or (lesson / "__init__.py").is_file()
    assert (ROOT / "tests" / "lessons" / f"test_{name}.py").is_file()
