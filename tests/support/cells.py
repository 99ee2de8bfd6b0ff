"""Which cells of a notebook something in it stands on, read from the code, so that a test need not run the others."""

import ast

from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"


def cells_for(notebook: NotebookNode, *texts: str, widgets: bool = True) -> list[int]:
    """Numbers of the cells that showed one of the texts when the notebook was executed, or a widget, and all they need.

    A cell needs the last cells before it that gave a value to a name that it reads.
    """
    chosen, wanted = [], set()
    for number in reversed(range(len(notebook.cells))):
        cell = notebook.cells[number]
        if cell.cell_type != "code":
            continue
        given, read = _names(cell.source)
        if given & wanted or _showed(cell, texts, widgets):
            chosen.append(number)
            wanted = (wanted - given) | read
    return chosen[::-1]


def _showed(cell: NotebookNode, texts: tuple[str, ...], widgets: bool) -> bool:
    widget = widgets and any(WIDGET in output.get("data", {}) for output in cell.outputs)
    return widget or any(text in str(cell.outputs) for text in texts)


def _names(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell gives a value to, and names that it reads."""
    given, read = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else given).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            given.add(node.name)
        elif isinstance(node, ast.alias):
            given.add((node.asname or node.name).split(".")[0])
    return given, read
