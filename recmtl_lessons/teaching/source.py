"""Show the package's own code in a notebook, so that what is read is what runs."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from IPython.display import display

__all__ = ["show_source", "source_of"]


def show_source(*objects: Any, docstring: bool = False) -> None:
    """Display the source of functions, classes, methods or properties, highlighted, in the order given.

    Checks of what comes in and of what goes out are left out: calls of functions whose name begins with ``check``, and
    conditions under which an error is raised. The rest is the code as it runs.

    Parameters
    ----------
    *objects
        What to show; at least one.
    docstring : bool
        Show docstrings too. They are left out by default, because the notebook tells the story already.
    """
    if not objects:
        raise ValueError("objects: got none, expected at least one function, class, method or property")
    code = "\n\n".join(source_of(item, docstring=docstring) for item in objects)
    fence = "````" if "```" in code else "```"
    display({"text/markdown": f"{fence}python\n{code}\n{fence}", "text/plain": code}, raw=True)


def source_of(item: Any, *, docstring: bool = False) -> str:
    """Return an object's source, moved to the left margin, without its checks, with or without its docstrings."""
    try:
        code = textwrap.dedent(inspect.getsource(_underlying(item)))
    except (OSError, TypeError) as error:
        raise ValueError(f"objects: got {item!r}, expected something with Python source") from error
    return _without(_is_check if docstring else lambda node: _is_check(node) or _is_docstring(node), code.strip("\n"))


def _underlying(item: Any) -> Any:
    if isinstance(item, property):
        return item.fget
    if isinstance(item, functools.cached_property):
        return item.func
    if isinstance(item, (staticmethod, classmethod)):
        return item.__func__
    return item


def _without(unwanted: Callable[[ast.stmt], bool], code: str) -> str:
    """The code less those statements that fill lines of their own, and that leave something in their block."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a lambda is shown with the line around it, which may not stand alone
        return code
    lines: list[str | None] = code.split("\n")
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        gone = [statement for statement in body if unwanted(statement)]
        for statement in gone if len(gone) < len(body) else []:
            first, last = statement.lineno - 1, statement.end_lineno
            if _shares_a_line(statement, body, node):
                continue
            while _is_docstring(statement) and lines[last : last + 1] == [""]:
                last += 1
            lines[first:last] = [None] * (last - first)
    return "\n".join(line for line in lines if line is not None)


def _shares_a_line(statement: ast.stmt, body: list[ast.stmt], parent: ast.AST) -> bool:
    ends = {line for other in body if other is not statement for line in (other.lineno, other.end_lineno)}
    return not ends.isdisjoint({statement.lineno, statement.end_lineno}) or statement.lineno == getattr(
        parent, "lineno", 0
    )


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_check(node: ast.stmt) -> bool:
    """Whether a statement does nothing but check: it calls a check, raises under a condition, or loops over such."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = getattr(called, "attr", getattr(called, "id", ""))
        return name.lstrip("_").startswith("check")
    if isinstance(node, ast.If):
        return not node.orelse and (isinstance(node.body[-1], ast.Raise) or all(map(_is_check, node.body)))
    return isinstance(node, ast.For) and all(map(_is_check, node.body))
