"""The users of the sessions: what a system knows of them, and what it does not."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.envs._checks import MOST_LOGITS
from recmtl_lessons.envs.surfaces import CATEGORIES, SURFACES, make_surface
from recmtl_lessons.models._checks import check_choice, check_count, check_number, check_values

WIDEST_PROFILE = 10.0  # of a standardised feature
N_CATEGORIES, PROFILE_DIM = 3, 8  # of the users that `make_users` draws, unless told otherwise
#: What their sessions ask of a network: actions on each surface, and the width of what is seen.
ACTIONS = {task: len(make_surface(task, N_CATEGORIES)) for task in SURFACES}
STATE_DIM = PROFILE_DIM + 2 * N_CATEGORIES + 1


@dataclass(frozen=True)
class SessionUsers:
    """U users with a profile of F features, and hidden tastes for C categories on each of K surfaces.

    Attributes
    ----------
    profile : Tensor, (U, F)
        What the system knows before a session: standardised, none beyond 10.
    tastes : Tensor, (U, K, C)
        What it does not know: in logits, 0 is as many clicks as not.
    tasks : tuple of str
        The K surfaces, of "home", "search" and "notify".
    categories : tuple of str
        Names of the C categories, from 2 to 6.
    """

    profile: Tensor
    tastes: Tensor
    tasks: tuple[str, ...] = SURFACES
    categories: tuple[str, ...] = CATEGORIES[:N_CATEGORIES]

    def __post_init__(self):
        object.__setattr__(self, "tasks", checked_names("tasks", self.tasks, 1, len(SURFACES)))
        for task in self.tasks:
            check_choice("tasks", task, SURFACES)
        object.__setattr__(self, "categories", checked_names("categories", self.categories, 2, len(CATEGORIES)))
        for name in ("profile", "tastes"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.dtype != torch.float32:
                came = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{name}: got {came}, expected a tensor of torch.float32")
        if self.profile.ndim != 2 or 0 in self.profile.shape:
            raise ValueError(f"profile: got shape {tuple(self.profile.shape)}, expected (users, features)")
        check_values("profile", self.profile, self.profile.shape)
        check_values("tastes", self.tastes, (len(self.profile), len(self.tasks), len(self.categories)))
        widest = float(self.profile.detach().abs().max())
        if widest > WIDEST_PROFILE:
            raise ValueError(
                f"profile: got values up to {widest:g}, expected at most {WIDEST_PROFILE:g}: standardise it"
            )

    def __len__(self) -> int:
        return len(self.profile)

    def __getitem__(self, rows) -> "SessionUsers":
        """Return some of the users: a slice, or those in a list or tensor of numbers, or of a flag for each."""
        try:
            return SessionUsers(self.profile[rows], self.tastes[rows], self.tasks, self.categories)
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(f"rows: got {rows!r}, expected some of {len(self)} users ({error})") from error

    def on(self, task: str) -> Tensor:
        """Return the tastes on one surface, (U, C)."""
        check_choice("task", task, self.tasks)
        return self.tastes[:, self.tasks.index(task)]


def checked_names(name: str, value: object, least: int, most: int) -> tuple[str, ...]:
    """Return the names as a tuple; refuse fewer or more than asked for, and the same one twice."""
    fits = isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)
    if not fits or not least <= len(set(value)) == len(value) <= most:
        raise ValueError(f"{name}: got {value!r}, expected from {least} to {most} names, all different")
    return tuple(value)


def join_users(groups: Sequence[SessionUsers]) -> SessionUsers:
    """Put users of several worlds into one table, group after group: of the same tasks, categories and features."""
    if not isinstance(groups, Sequence) or not all(isinstance(group, SessionUsers) for group in groups):
        raise ValueError(f"groups: got {groups!r}, expected a list of SessionUsers")
    kinds = {(group.tasks, group.categories, group.profile.shape[1]) for group in groups}
    if len(kinds) != 1:
        raise ValueError(f"groups: got {len(kinds)} kinds of users, expected one: same tasks, categories and features")
    first = groups[0]
    return SessionUsers(
        torch.cat([g.profile for g in groups]), torch.cat([g.tastes for g in groups]), first.tasks, first.categories
    )


def mean_by_group(values: Tensor, groups: int) -> Tensor:
    """Return the mean over each group of joined users, all of one size: (G * U,) -> (G,)."""
    return values.view(groups, -1).mean(1)


def make_users(
    n_users: int,
    seed: int,
    sharing: float = 1.0,
    strength: float = 1.5,
    noise: float = 0.3,
    n_categories: int = N_CATEGORIES,
    profile_dim: int = PROFILE_DIM,
    group: int = 0,
) -> SessionUsers:
    r"""Draw users whose truth is known.

    A user has F traits z, normal and independent. On surface k the taste for category c is

    .. math:: \theta_{kc} = \text{strength} \cdot \big(\sqrt{s}\; f_{0c}(z) + \sqrt{1 - s}\; f_{kc}(z)\big), \qquad
              f_{jc}(z) = \tfrac{1}{\sqrt 2} \big(a_{jc} \cdot z + (b_{jc} \cdot z)(d_{jc} \cdot z)\big)

    with s the sharing and a, b, d random unit vectors of the world: what a trait says depends on other traits, as
    between people. The variance of f is :math:`1 + (b \cdot d)^2 / 2` (of F traits, 1 + 1 / (2 F) on average over
    worlds), its mean :math:`b \cdot d / \sqrt 2`. With s = 1 the surfaces ask for one and the same. With s = 0 they
    have functions of their own, unrelated on average over worlds; in any one world unit vectors of F numbers are not
    quite orthogonal, and their tastes not quite uncorrelated. The profile is z with noise on it.

    Parameters
    ----------
    n_users : int
    seed : int
        Of the world, its users included.
    sharing : float
        s, in [0, 1].
    strength : float
        About the standard deviation of a taste, in logits; at most a million.
    noise : float
        Standard deviation of the noise on the profile; the traits' is 1, and what both come to has to stay below 10.
    n_categories : int
        C, from 2 to 6.
    profile_dim : int
        F.
    group : int
        Other groups are other people of the same world, for instance 0 to learn from and 1 to be judged on.
    """
    for name, value, least in (("n_users", n_users, 1), ("seed", seed, 0), ("group", group, 0)):
        check_count(name, value, least)
    check_count("n_categories", n_categories, 2, len(CATEGORIES))
    check_count("profile_dim", profile_dim)
    check_number("sharing", sharing, 0, 1)
    check_number("strength", strength, 0, MOST_LOGITS)
    check_number("noise", noise, 0)
    world = torch.Generator().manual_seed(seed)
    directions = torch.randn(3, 1 + len(SURFACES), n_categories, profile_dim, generator=world)
    linear, left, right = directions / directions.norm(dim=-1, keepdim=True)  # (1 + K, C, F) each
    people = torch.Generator().manual_seed(1_000_003 * (seed + 1) + group)
    traits, blur = torch.randn(2, n_users, profile_dim, generator=people)
    profile = traits + float(noise) * blur
    widest = float(profile.abs().max())
    if widest > WIDEST_PROFILE:
        raise ValueError(f"noise: got {noise}, expected less: profiles reach {widest:g}, of at most {WIDEST_PROFILE:g}")
    per_user = [torch.einsum("uf,kcf->ukc", traits, d) for d in (linear, left, right)]
    f = (per_user[0] + per_user[1] * per_user[2]) / 2**0.5  # (U, 1 + K, C)
    tastes = float(strength) * (float(sharing) ** 0.5 * f[:, :1] + (1 - float(sharing)) ** 0.5 * f[:, 1:])
    return SessionUsers(profile, tastes, SURFACES, CATEGORIES[:n_categories])
