"""The same explorer in JupyterLab, in its view of one document, and in Notebook 7, which hear keys at other times."""

import pytest

from tests.browser.conftest import CLIENTS
from tests.browser.test_course_in_browser import move_every_way
from tests.browser.test_explorer_in_browser import CHEAP


def has_focus(control):
    return control.evaluate("(element) => element === document.activeElement")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_hand_and_a_keyboard_move_an_explorer(lab, open_notebook, take_picture, client):
    notebook = open_notebook(lab, lab.write("clients.ipynb", CHEAP, "1 + 1"), height=720, client=client)
    notebook.run_all()
    (explorer,) = notebook.explorers
    explorer.settle()
    press = notebook.page.keyboard.press
    field, slider = explorer.fields.first, explorer.sliders.first
    kind, steep = explorer.root.locator("select"), explorer.root.locator("input[type=checkbox]")

    move_every_way(explorer, 0, "x")
    assert has_focus(slider)

    field.focus()
    for control in (slider, kind, steep):
        press("Tab")
        assert has_focus(control)
    press("Space")
    explorer.settle(steep=True)
    press("Shift+Tab")
    press("ArrowDown")
    explorer.settle(kind="cos")
    press("Shift+Tab")
    for key, stop in zip(("Home", "PageUp", "ArrowUp", "ArrowRight", "ArrowDown"), (0, 8, 9, 10, 9), strict=True):
        press(key)
        explorer.settle(x=stop / 4, kind="cos", steep=True)
        assert has_focus(slider)
    take_picture(notebook.page, f"client_{client}")

    for key in ("d", "d", "a", "b", "x", "Enter", "Control+Enter", "Shift+Enter", "Escape", "ArrowLeft"):
        press(key)
        assert has_focus(slider)
    explorer.settle(x=2)
    assert len(notebook.outputs()) == 2

    for control in (field, explorer.button("Reset")):
        press("Shift+Tab")
        assert has_focus(control)
    press("Enter")
    explorer.settle(x=1, kind="sin", steep=False)
    for _ in range(6):  # past the controls, and the picture where it is wider than its place
        press("Tab")
    assert not explorer.root.evaluate("(root) => root.contains(document.activeElement)")
