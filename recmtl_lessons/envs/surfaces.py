"""The surfaces of an app on which a recommender acts: what each can show, and how much of it a user then has had."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_choice, check_count

#: Names for up to six categories of items, in the order of their numbers.
CATEGORIES = ("news", "music", "sport", "food", "travel", "games")
SURFACES = ("home", "search", "notify")


@dataclass(frozen=True)
class Surface:
    """What can be done on one surface: A actions on C categories.

    Attributes
    ----------
    name : str
    actions : tuple of str
        A label for each action.
    share : Tensor, (A, C)
        How much of what is shown belongs to each category: rows sum to 1, or to 0 where nothing is shown.
    dose : Tensor, (A, C)
        Whole numbers: by how much satiation rises.
    lead : Tensor, (A,)
        The category whose item is clicked when the user clicks; -1 where nothing is shown.
    """

    name: str
    actions: tuple[str, ...]
    share: Tensor
    dose: Tensor
    lead: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def shows(self) -> Tensor:
        """Whether an action shows anything, (A,)."""
        return self.lead >= 0


def make_surface(task: str, n_categories: int) -> Surface:
    """Return one of the course's three surfaces.

    - ``"home"``: a page for one category; C actions.
    - ``"search"``: a ranking, of which two categories are seen: the leading one makes six tenths of it, the next one
      four; C (C - 1) actions.
    - ``"notify"``: a message for one category, or none; C + 1 actions.
    """
    check_choice("task", task, SURFACES)
    check_count("n_categories", n_categories, 2, len(CATEGORIES))
    names, one = CATEGORIES[:n_categories], torch.eye(n_categories)
    if task == "search":
        pairs = torch.tensor(list(itertools.permutations(range(n_categories), 2)))  # (A, 2)
        first, second = one[pairs[:, 0]], one[pairs[:, 1]]  # (A, C)
        labels = tuple(f"{names[i]}, {names[j]}" for i, j in pairs.tolist())
        return Surface(task, labels, 0.6 * first + 0.4 * second, (first + second).long(), pairs[:, 0])
    lead = torch.arange(n_categories)
    if task == "home":
        return Surface(task, names, one, 2 * one.long(), lead)
    nothing = torch.zeros(1, n_categories)
    return Surface(
        task, (*names, "nothing"), torch.cat([one, nothing]), torch.cat([2 * one, nothing]).long(),
        torch.cat([lead, torch.tensor([-1])]),
    )  # fmt: skip
