import functools

import pytest

from recmtl_lessons.teaching.source import show_source, source_of


class Example:
    """A class that is shown."""

    rate = 0.1

    @property
    def doubled(self):
        """Twice the rate."""

        # a comment stays
        return 2 * self.rate

    @functools.cached_property
    def tripled(self):
        return 3 * self.rate

    @staticmethod
    def text():
        """First line.

        Second line.
        """
        return """not a docstring"""

    def only_documented(self):
        """Do nothing."""


def one_liner(): "doc"; return 1  # fmt: skip # noqa: E702


def test_docstrings_are_left_out_and_everything_else_stays():
    code = source_of(Example)
    assert code.startswith("class Example:\n    rate = 0.1\n")
    assert "A class that is shown" not in code
    assert "def doubled(self):\n        # a comment stays\n        return 2 * self.rate" in code
    assert 'return """not a docstring"""' in code
    assert '"""Do nothing."""' in code  # without it the function would have no body
    compile(code, "shown", "exec")


def test_docstrings_are_shown_when_asked_for():
    assert '"""A class that is shown."""' in source_of(Example, docstring=True)


def checked(x, names):
    """Answer."""
    check_count("x", x)  # noqa: F821
    for name in names:
        self._check_name(name)  # noqa: F821
    if x > 3:
        came = str(x)
        raise ValueError(came)
    if x > 2:
        x = 2
    rows = check_rows(x)  # noqa: F821
    return rows


def check_all(x):
    if x:
        raise ValueError("x")


def test_checks_are_left_out_and_what_they_return_stays():
    expected = (
        "def checked(x, names):\n    if x > 2:\n        x = 2\n    rows = check_rows(x)  # noqa: F821\n    return rows"
    )
    assert source_of(checked) == expected
    assert source_of(check_all).endswith('raise ValueError("x")')  # or nothing would be left


@pytest.mark.parametrize(
    ("item", "first"),
    [
        (Example.doubled, "@property"),
        (vars(Example)["tripled"], "@functools.cached_property"),
        (vars(Example)["text"], "@staticmethod"),
        (Example.text, "@staticmethod"),
        (Example().only_documented, "def only_documented(self):"),
        (one_liner, "def one_liner(): "),
    ],
)
def test_members_are_shown_from_the_left_margin(item, first):
    code = source_of(item)
    assert code.startswith(first)
    compile(code, "shown", "exec")


def test_several_objects_are_one_highlighted_block(shown):
    show_source(Example.doubled, one_liner)
    ((bundle, _),) = shown
    assert bundle["text/markdown"].startswith("```python\n@property\n")
    assert bundle["text/markdown"].endswith("\n```")
    assert bundle["text/plain"] == source_of(Example.doubled) + "\n\n" + source_of(one_liner)


def with_a_fence():
    return "```"


def test_a_fence_inside_does_not_end_the_block(shown):
    show_source(with_a_fence)
    ((bundle, _),) = shown
    assert bundle["text/markdown"].startswith("````python\n")
    assert bundle["text/markdown"].endswith("\n````")


@pytest.mark.parametrize("item", [len, 3, "text", None])
def test_what_has_no_source_is_refused(item, shown):
    with pytest.raises(ValueError, match=r"objects: got .*, expected something with Python source"):
        show_source(item)
    assert shown == []


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="objects: got none"):
        show_source()
