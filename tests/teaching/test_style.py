import base64
import io
import re
import sys

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from nbconvert import HTMLExporter
from PIL import Image

from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval

VALUES = np.random.default_rng(0).normal(size=(8, 20)).cumsum(1)


def typical_figure():
    figure = style.new_figure()
    left, middle, right = figure.subplots(1, 3)
    for k, colour in enumerate(["blue", "vermillion", "green"]):
        style.band(left, np.arange(20), VALUES + k, f"model {k}", colour, style.MARKERS[k], style.LINES[k])
        middle.scatter(*np.random.default_rng(k).normal(size=(2, 400)), s=12, alpha=0.5)
    left.legend()
    style.points_with_interval(right, ["without", "with"], VALUES[:, :2], ["vermillion", "blue"])
    return figure


def test_a_figure_is_bare_styled_and_of_the_size_asked_for():
    figure = style.new_figure(6, 3)
    assert type(figure) is Figure
    assert tuple(figure.get_size_inches()) == (6, 3)
    assert figure.dpi == 110
    axis = figure.subplots()
    assert not axis.spines["top"].get_visible()
    assert not axis.spines["right"].get_visible()
    assert axis.xaxis.label.get_fontsize() == 13
    assert figure.get_layout_engine().__class__.__name__ == "ConstrainedLayoutEngine"


def test_no_pyplot_state_is_touched():
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else []
    style.png(typical_figure())
    after = sys.modules.get("matplotlib.pyplot")
    assert (after is None) == (pyplot is None)
    assert (after.get_fignums() if after else []) == before


def test_apply_sets_the_style_again_after_it_was_lost():
    with matplotlib.rc_context({"font.size": 5}):
        style.apply()
        assert matplotlib.rcParams["font.size"] == 13


@pytest.mark.parametrize(("width", "height", "name"), [(0, 3, "width"), (-1, 3, "width"), (3, float("nan"), "height")])
def test_a_size_that_is_none_is_refused(width, height, name):
    with pytest.raises(ValueError, match=f"{name}: got .*, expected a positive number of inches"):
        style.new_figure(width, height)


def test_the_png_is_small_white_and_of_the_right_size():
    data = style.png(typical_figure())
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    assert picture.size == (990, 462)
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert len(data) < 60_000


def test_the_png_is_the_same_each_time():
    figure = typical_figure()
    assert style.png(figure) == style.png(figure)


def test_the_palettes_colours_survive_in_the_png():
    figure = style.new_figure(4, 2)
    axis = figure.subplots()
    for k, colour in enumerate(style.PALETTE.values()):
        axis.axvspan(k, k + 1, color=colour)
    pixels = np.asarray(Image.open(io.BytesIO(style.png(figure))).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in style.PALETTE.values():
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(pixels - wanted).max(axis=1) <= 4).sum() > 500


def test_show_displays_one_picture_and_its_description(shown):
    style.show(typical_figure(), "AUC rises with lambda < 1")
    (picture, metadata), (caption, _) = shown
    assert Image.open(io.BytesIO(picture["image/png"])).format == "PNG"
    assert metadata == {"image/png": {"alt": "AUC rises with lambda < 1"}}
    assert "text/html" not in picture  # a second copy would double the notebook's size
    assert caption["text/plain"] == "AUC rises with lambda < 1"
    assert "AUC rises with lambda &lt; 1</p>" in caption["text/html"]


@pytest.mark.parametrize("template", ["lab", "classic"])
def test_a_static_page_holds_one_picture_and_its_description(shown, template):
    style.show(typical_figure(), "AUC rises with lambda")
    outputs = [nbformat.v4.new_output("display_data", data, metadata=meta) for data, meta in in_json(shown)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", outputs=outputs)])
    page, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
    assert len(re.findall(r"<img\s", page)) == 1
    assert "AUC rises with lambda</p>" in page
    if template == "classic":  # the other template does not look for it yet
        assert 'alt="AUC rises with lambda"' in page


def in_json(bundles):
    """Displayed data as a notebook file holds it: pictures in base64."""
    return [
        ({k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in data.items()}, metadata)
        for data, metadata in bundles
    ]


def test_show_refuses_a_picture_without_words(shown):
    with pytest.raises(ValueError, match="alt: got ' '"):
        style.show(style.new_figure(), " ")
    assert shown == []


def test_the_band_is_the_mean_and_its_interval():
    axis = style.new_figure().subplots()
    style.band(axis, torch.arange(20), torch.tensor(VALUES), "model", "green", "o", "--")
    mean, low, high = t_interval(VALUES)
    (line,) = axis.lines
    np.testing.assert_allclose(line.get_ydata(), mean)
    assert (line.get_color(), line.get_linestyle(), line.get_marker()) == (style.PALETTE["green"], "--", "o")
    assert line.get_label() == "model"
    corners = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.min() == pytest.approx(low.min())
    assert corners.max() == pytest.approx(high.max())


def test_points_show_every_seed_and_the_interval():
    axis = style.new_figure().subplots()
    pairs = VALUES[:, :2]
    style.points_with_interval(axis, ["without", "with"], pairs)
    mean, low, high = t_interval(pairs)
    drawn = [line.get_ydata() for line in axis.lines]
    for seed in pairs:
        assert any(np.array_equal(seed, ys) for ys in drawn)
    for k in range(2):
        assert any(np.array_equal(pairs[:, k], ys) for ys in drawn)
        bars = axis.containers[k].lines[2][0].get_segments()[0][:, 1]
        np.testing.assert_allclose(bars, [low[k], high[k]])
        assert axis.containers[k].lines[0].get_ydata() == pytest.approx([mean[k]])
    assert [text.get_text() for text in axis.get_xticklabels()] == ["without", "with"]


def test_without_lines_between_them_the_points_are_the_same():
    pairs, (joined, apart) = VALUES[:, :2], (style.new_figure().subplots() for _ in range(2))
    style.points_with_interval(joined, ["without", "with"], pairs)
    style.points_with_interval(apart, ["without", "with"], pairs, joined=False)
    kept = [line.get_xydata().tolist() for line in apart.lines]
    assert [line.get_xydata().tolist() for line in joined.lines[len(pairs) :]] == kept
    assert {x for line in kept for x, _ in line} == {0.0, 1.0}
    assert all(len({x for x, _ in line}) == 1 for line in kept)  # no line goes from one group to the other


def test_a_group_may_lack_seeds_if_that_is_said():
    axis, pairs = style.new_figure().subplots(), VALUES[:, :2].copy()
    pairs[5:, 1] = np.nan
    with pytest.raises(ValueError, match="values: "):
        style.points_with_interval(axis, ["without", "with"], pairs)
    style.points_with_interval(axis, ["without", "with"], pairs, gaps=True)
    for k, group in enumerate((pairs[:, 0], pairs[:5, 1])):
        mean, low, high = t_interval(group)
        assert axis.containers[k].lines[0].get_ydata() == pytest.approx([mean])
        np.testing.assert_allclose(axis.containers[k].lines[2][0].get_segments()[0][:, 1], [low, high])


def test_the_star_is_the_mean_and_its_interval():
    axis = style.new_figure().subplots()
    style.star(axis, 3.0, VALUES[:, 0], "yours")
    mean, low, high = t_interval(VALUES[:, 0])
    (bar,) = axis.containers
    assert bar.lines[0].get_xydata().tolist() == [[3.0, pytest.approx(mean)]]
    assert bar.lines[0].get_marker() == "*"
    np.testing.assert_allclose(bar.lines[2][0].get_segments()[0][:, 1], [low, high])
    assert bar.get_label() == "yours"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda a: style.band(a, np.arange(3), VALUES, "m"),
            r"values: got shape \(8, 20\) for x of shape \(3,\)",
        ),
        (lambda a: style.band(a, np.arange(20), VALUES[0], "m"), r"values: got shape \(20,\)"),
        (lambda a: style.band(a, np.arange(20), VALUES[:1], "m"), "expected at least 2 seeds"),
        (lambda a: style.band(a, np.arange(20), VALUES * np.nan, "m"), "values: got 160 NaN or infinite"),
        (
            lambda a: style.band(a, np.arange(20), VALUES, "m", "pink"),
            "colour: got 'pink', expected one of blue",
        ),
        (lambda a: style.points_with_interval(a, ["a"], VALUES), r"got shape \(8, 20\) for 1 labels"),
        (lambda a: style.points_with_interval(a, ["a", "b"], VALUES[:, :2], []), "colours: got none"),
        (lambda a: style.star(a, 0.0, VALUES), r"values: got shape \(8, 20\), expected \(seeds,\)"),
        (lambda a: style.star(a, 0.0, VALUES[:1, 0]), "expected at least 2 seeds"),
    ],
)
def test_bad_input_is_named_and_nothing_is_drawn(draw, message):
    axis = style.new_figure().subplots()
    with pytest.raises(ValueError, match=message):
        draw(axis)
    assert not axis.lines
    assert not axis.collections


def test_prose_understands_paragraphs_lists_code_and_strong():
    text = (
        "One `a < b`\nline.\n\nTwo **strong** words:\n- first\n  goes on\n- second\n\n```python\nx = **kw\n\ny < 1\n```"
    )
    shown = style.prose(text)
    assert "One <code>a &lt; b</code> line.</p>" in shown
    assert "Two <strong>strong</strong> words:</p><ul" in shown
    assert "<li>first goes on</li><li>second</li></ul>" in shown
    assert "x = **kw\n\ny &lt; 1</pre>" in shown


@given(st.text(alphabet="<>&\"'`*-\n abc/=") | st.just("<script>alert(1)</script>"))
def test_prose_and_cards_let_no_markup_through(text):
    allowed = {"p", "ul", "li", "code", "strong", "pre", "div"}
    for shown in (style.prose(text), style.card(text, style.prose(text))):
        tags = {part.lstrip("/").split(" ")[0].split(">")[0] for part in shown.split("<")[1:]}
        assert tags <= allowed


def test_a_diagram_of_boxes_and_arrows():
    figure = style.new_figure(4, 3)
    axis = figure.subplots()
    style.box(axis, 1.0, 2.0, 3.0, "encoder", "#0072B2", height=2.0)
    style.arrow(axis, (4.0, 3.0), (5.0, 3.5), "#555555", "--")
    (patch,) = [p for p in axis.patches if p.get_edgecolor()[:3] == pytest.approx((0, 0x72 / 255, 0xB2 / 255))]
    assert (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) == (1.0, 2.0, 3.0, 2.0)
    label, pointer = axis.texts
    assert label.get_text() == "encoder"
    assert label.get_position() == (2.5, 3.0)
    assert (pointer.xyann, pointer.xy) == ((4.0, 3.0), (5.0, 3.5))
