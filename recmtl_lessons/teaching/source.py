"""Show the package's own code in a notebook, so that what is read is what runs."""

import ast
import functools
import inspect
import textwrap
from typing import Any

from IPython.display import display

__all__ = ["show_source", "source_of"]


def show_source(*objects: Any, docstring: bool = False) -> None:
    """Display the source of functions, classes, methods or properties, highlighted, in the order given.

    Parameters
    ----------
    *objects
        What to show; at least one.
    docstring : bool
        Show docstrings too. They are left out by default, because the notebook tells the story already.

    Raises
    ------
    ValueError
        If nothing was given or an object has no Python source.
    """
    if not objects:
        raise ValueError("objects: got none, expected at least one function, class, method or property")
    code = "\n\n".join(source_of(item, docstring=docstring) for item in objects)
    fence = "````" if "```" in code else "```"
    display({"text/markdown": f"{fence}python\n{code}\n{fence}", "text/plain": code}, raw=True)


def source_of(item: Any, *, docstring: bool = False) -> str:
    """Return an object's source, moved to the left margin, with or without its docstrings.

    Raises
    ------
    ValueError
        If the object has no Python source, as with built-ins and plain values.
    """
    try:
        code = textwrap.dedent(inspect.getsource(_underlying(item)))
    except (OSError, TypeError) as error:
        raise ValueError(f"objects: got {item!r}, expected something with Python source") from error
    code = code.strip("\n")
    return code if docstring else _without_docstrings(code)


def _underlying(item: Any) -> Any:
    if isinstance(item, property):
        return item.fget
    if isinstance(item, functools.cached_property):
        return item.func
    if isinstance(item, (staticmethod, classmethod)):
        return item.__func__
    return item


def _without_docstrings(code: str) -> str:
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a lambda is shown with the line around it, which may not stand alone
        return code
    lines = code.split("\n")
    for node in ast.walk(tree):
        for number in _docstring_lines(node, lines):
            lines[number] = None
    return "\n".join(line for line in lines if line is not None)


def _docstring_lines(node: ast.AST, lines: list) -> range:
    """Line numbers, from 0, of a node's docstring and of the blank lines after it."""
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    if not isinstance(node, documented) or ast.get_docstring(node) is None or len(node.body) == 1:
        return range(0)
    first, last = node.body[0].lineno - 1, node.body[0].end_lineno
    if getattr(node, "lineno", 0) == first + 1 or node.body[1].lineno == last:  # shares a line with other code
        return range(0)
    while last < len(lines) and lines[last] is not None and not lines[last].strip():
        last += 1
    return range(first, last)
