"""The cells that something in a notebook stands on."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.support.cells import WIDGET, cells_for


def test_a_widget_brings_what_it_reads_and_nothing_else():
    cells = [
        new_code_cell("import torch\nfrom course import lesson as l"),
        new_markdown_cell("x = 1"),
        new_code_cell("x = l.train()"),
        new_code_cell("unused = l.train()"),
        new_code_cell("x = l.train_again()\ndef shown(): return 1"),
        new_code_cell("shown(), x", outputs=[new_output("display_data", {WIDGET: {}})]),
        new_code_cell("print(unused)", outputs=[new_output("stream", text="0 of 4 done")]),
    ]
    notebook = new_notebook(cells=cells)
    assert cells_for(notebook) == [0, 4, 5]
    assert cells_for(notebook, "0 of 4") == [0, 3, 4, 5, 6]


def test_every_notebook_has_something_to_move_and_runs_less_than_all(pytestconfig):
    for path in sorted((pytestconfig.rootpath / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        found = cells_for(notebook)
        assert len(found) >= 3, path
        assert len(found) < len([cell for cell in notebook.cells if cell.cell_type == "code"]), path
