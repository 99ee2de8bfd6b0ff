"""A synthetic shop with several domains, whose truth is known: the course's one world.

Every phenomenon of the course has a knob here. Zero turns it off, which is that lesson's negative control, and
turning one knob leaves the random numbers of all others as they were. Two worlds of one seed then differ in nothing
else, but for the knobs that change how many rows or users there are (``interactions``, ``sparsity``, ``n_users``).
"""

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_choice, check_count, check_number

_MOST_ROWS, _MOST_FEATURES = 10_000_000, 1_000  # what the memory of one machine holds
_LIMITS = {
    **dict.fromkeys(("overlap", "taste_spread", "drift"), (0, 1)),
    **dict.fromkeys(("sparsity", "new_users"), (0, 1 - 1e-9)),
    **dict.fromkeys(("nuisance", "offset", "affinity_scale", "noise"), (0, 1e6)),  # what float32 can multiply
    "shift": (0, 2),
    "task_relatedness": (-1, 1),
}


@dataclass(frozen=True)
class WorldSettings:
    """The knobs of the world. A tensor of shape () is a number, and is kept as one.

    Attributes
    ----------
    domains : tuple of str
        Names of the domains; the first is the usual source.
    n_users, n_items : int
        Users in all, items in each domain; at most ten million.
    taste_dim : int
        Width of tastes and item factors, and number of signal features; at most 1,000.
    nuisance_dim : int
        Number of nuisance features; at most 1,000.
    interactions : int
        Rows of the first domain; at most ten million.
    sparsity : float in [0, 1)
        Share of rows that each further domain has less than the one before it. 0: all equally dense.
    relatedness : float in [0, 1] or tuple of tuples
        Correlation of a user's tastes in two domains: one number for all pairs, or the whole matrix. 0: what a
        user likes in one domain says nothing about another.
    overlap : float in [0, 1]
        Share of users who shop in every domain; the others have one domain each. 0: nobody is seen twice.
    new_users : float in [0, 1)
        Share of users marked as new: a model that learns from the others has never seen them. 0: none.
    taste_spread : float in [0, 1]
        How much of a taste is the user's own. 0: all users share one taste.
    drift : float in [0, 1]
        Tastes turn by ``drift`` times 90 degrees while time runs from 0 to 1. 0: tastes stay.
    sudden : bool
        Whether they turn all at once, when half of the time has passed. False: steadily.
    task_relatedness : float in [-1, 1]
        Correlation of the tastes behind ratings and behind clicks. 0: the two tasks share nothing.
    rating_features : bool
        Whether features show the tastes behind ratings alone too, in ``taste_dim`` further columns. False: they show
        what is behind clicks, and of ratings as much as clicks share with them.
    nuisance : float in [0, 1e6]
        How far the nuisance features lean on the click, in their standard deviations. 0: they are pure noise.
    shift : float in [0, 2]
        How differently they lean in the other domains: 0 as in the first; 1 not at all in the last; 2 the opposite
        way in the last. Domains between lie between.
    offset : float in [0, 1e6]
        How far the last domain's nuisance features lie from the first's when ``shift`` is 1, in units of
        ``nuisance``.
    affinity_scale : float in [0, 1e6]
        How decided users are; 0: clicks are coin flips and ratings noise.
    noise : float in [0, 1e6]
        Standard deviation of what is added to each signal feature, and to each rating.
    """

    domains: tuple[str, ...] = ("books", "films", "games")
    n_users: int = 600
    n_items: int = 200
    taste_dim: int = 8
    nuisance_dim: int = 8
    interactions: int = 6000
    sparsity: float = 0.0
    relatedness: float | tuple[tuple[float, ...], ...] = 0.7
    overlap: float = 1.0
    new_users: float = 0.0
    taste_spread: float = 1.0
    drift: float = 0.0
    sudden: bool = False
    task_relatedness: float = 0.8
    rating_features: bool = False
    nuisance: float = 0.0
    shift: float = 0.0
    offset: float = 1.0
    affinity_scale: float = 3.0
    noise: float = 0.5

    def __post_init__(self):
        for name in ("n_users", "n_items", "interactions"):
            check_count(name, getattr(self, name), most=_MOST_ROWS)
        check_count("taste_dim", self.taste_dim, most=_MOST_FEATURES)
        check_count("nuisance_dim", self.nuisance_dim, 0, _MOST_FEATURES)
        names = self.domains
        fits = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
        if not fits or not names or len(set(names)) != len(names):
            raise ValueError(f"domains: got {names!r}, expected a tuple of at least one name and no name twice")
        self._keep("domains", tuple(names))
        for name, (low, high) in _LIMITS.items():
            self._keep_number(name, low, high)
        for name in ("sudden", "rating_features"):
            check_choice(name, getattr(self, name), (True, False))
        if isinstance(self.relatedness, (tuple, list)):
            self._keep("relatedness", _checked_matrix(self.relatedness, len(names)))
        else:
            self._keep_number("relatedness", 0, 1)

    def _keep_number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        check_number(name, value, low, high)
        self._keep(name, value.item() if isinstance(value, Tensor) else value)

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the settings are frozen from here on


@dataclass(frozen=True)
class World:
    """Interactions, and the truth they were drawn from. N rows, D domains, K taste dimensions.

    Attributes
    ----------
    user, item, domain : Tensor, (N,), int64
        Who met what, where. Items are numbered within their domain.
    time : Tensor, (N,), in [0, 1)
    features : Tensor, (N, F)
        What a model sees: signal and nuisance, mixed by ``mixing`` so that no column is either. F is taste_dim +
        nuisance_dim, and taste_dim more with ``rating_features``.
    click : Tensor, (N,), 0.0 or 1.0
    rating : Tensor, (N,), in [1, 5]
    affinity : Tensor, (N,)
        Truth: the logit of the click.
    wish : Tensor, (N,)
        Truth: the rating less 3, before noise and before it is held in [1, 5].
    tastes, tastes_at_end : Tensor, (n_users, D, K)
        Truth: tastes at time 0, and where they would be at time 1 with ``drift`` 1.
    rating_tastes : Tensor, (n_users, D, K)
        Truth: tastes that only ratings go by; with those of clicks, the square root of 1 - r^2 times these
        and r times those make the tastes behind ratings, r the ``task_relatedness``.
    item_factors : Tensor, (D, n_items, K)
    relatedness : Tensor, (D, D)
        Truth: correlation of a user's tastes between domains.
    leaning : Tensor, (D,)
        Truth: how the nuisance features lean on the click in each domain: 1 with it, 0 not, -1 against it.
    mixing : Tensor, (F, F), orthogonal
        ``features = [signal, nuisance] @ mixing``, with the signal of ratings between if there is one;
        ``features @ mixing.T`` undoes it.
    active : Tensor, (n_users, D), bool
        Where each user shops.
    new : Tensor, (n_users,), bool
        Users that no model should be trained on.
    """

    settings: WorldSettings
    seed: int
    user: Tensor
    item: Tensor
    domain: Tensor
    time: Tensor
    features: Tensor
    click: Tensor
    rating: Tensor
    affinity: Tensor
    wish: Tensor
    tastes: Tensor
    tastes_at_end: Tensor
    rating_tastes: Tensor
    item_factors: Tensor
    relatedness: Tensor
    leaning: Tensor
    mixing: Tensor
    active: Tensor
    new: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def rows(self, domain: str | None = None, new: bool | None = None) -> Tensor:
        """Return the row numbers of one domain, of new or of known users, or of both conditions together."""
        keep = torch.ones(len(self), dtype=torch.bool)
        if domain is not None:
            check_choice("domain", domain, self.settings.domains)
            keep &= self.domain == self.settings.domains.index(domain)
        if new is not None:
            check_choice("new", new, (True, False))
            keep &= self.new[self.user] == new
        return keep.nonzero().squeeze(1)


def make_world(settings: WorldSettings | None = None, seed: int = 0) -> World:
    r"""Draw a world.

    With taste :math:`u` and item factor :math:`v` (each coordinate standard normal) an interaction has

    .. math:: a = \frac{c}{\sqrt K} \sum_k u_k v_k, \qquad
              \text{click} \sim \text{Bernoulli}(\sigma(a)), \qquad
              \text{signal}_k = u_k v_k + \text{noise},

    and its nuisance features are :math:`\text{nuisance}\,(\text{leaning}_d (2\,\text{click} - 1) + o_d) + \epsilon`
    with standard normal :math:`\epsilon`.

    Parameters
    ----------
    settings : WorldSettings, optional
        The knobs; their defaults if not given.
    seed : int
        The same seed and settings give the same tensors, bit for bit.

    Returns
    -------
    World
    """
    settings = WorldSettings() if settings is None else settings
    if not isinstance(settings, WorldSettings):
        raise ValueError(f"settings: got {type(settings).__name__}, expected WorldSettings")
    dice = _Dice(seed)
    relatedness = _relatedness_matrix(settings)
    tastes = _tastes(settings, relatedness, dice, "tastes")
    tastes_at_end = _tastes(settings, relatedness, dice, "tastes at the end")
    rating_tastes = _tastes(settings, relatedness, dice, "tastes of ratings")
    n_domains = len(settings.domains)
    item_factors = dice.normal("item factors", n_domains, settings.n_items, settings.taste_dim)
    active, new = _who_is_where(settings, dice)
    user, item, domain, time = _meetings(settings, active, dice)

    turned = (time >= 0.5).float() if settings.sudden else time
    angle = (settings.drift * math.pi / 2 * turned)[:, None]
    taste = angle.cos() * tastes[user, domain] + angle.sin() * tastes_at_end[user, domain]  # (N, K)
    factor = item_factors[domain, item]  # (N, K)
    scale = settings.affinity_scale / math.sqrt(settings.taste_dim)
    affinity = scale * (taste * factor).sum(1)
    click = (dice.uniform("click", len(user)) < affinity.sigmoid()).float()

    shared = settings.task_relatedness
    rating_taste = shared * taste + math.sqrt(1 - shared**2) * rating_tastes[user, domain]
    wish = (rating_taste * factor).sum(1) / math.sqrt(settings.taste_dim)  # standard deviation about 1
    wish = wish * min(settings.affinity_scale, 1.0)
    warmth = wish + settings.noise * dice.normal("rating", len(user))
    rating = (3 + warmth).clamp(1, 5)

    leaning = 1 - settings.shift * torch.linspace(0, 1, n_domains) if n_domains > 1 else torch.ones(1)
    signals = [taste * factor + settings.noise * dice.normal("signal", len(user), settings.taste_dim)]
    if settings.rating_features:
        own = rating_tastes[user, domain] * factor
        signals.append(own + settings.noise * dice.normal("signal of ratings", len(user), settings.taste_dim))
    features, mixing = _features(settings, signals, click, domain, leaning, dice)
    return World(
        settings, seed, user, item, domain, time, features, click, rating, affinity, wish,
        tastes, tastes_at_end, rating_tastes, item_factors, relatedness, leaning, mixing, active, new,
    )  # fmt: skip


class _Dice:
    """Random numbers by name: each name has a stream of its own, so that one knob never moves another's draws."""

    def __init__(self, seed: int):
        check_count("seed", seed, 0, 2**31 - 1)
        self.seed = seed

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{name} {self.seed}".encode()))

    def normal(self, name: str, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator(name))

    def uniform(self, name: str, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator(name))

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self._generator(name))

    def order(self, name: str, n: int) -> Tensor:
        return torch.randperm(n, generator=self._generator(name))


def _relatedness_matrix(settings: WorldSettings) -> Tensor:
    if isinstance(settings.relatedness, tuple):
        return torch.tensor(settings.relatedness, dtype=torch.float32)
    n = len(settings.domains)
    return torch.full((n, n), float(settings.relatedness)).fill_diagonal_(1.0)


def _tastes(settings: WorldSettings, relatedness: Tensor, dice: _Dice, name: str) -> Tensor:
    """Draw tastes (n_users, D, K), correlated over domains, standard normal in each coordinate."""
    n_domains, width = len(relatedness), settings.taste_dim
    values, vectors = torch.linalg.eigh(relatedness.double())  # a square root that also serves rank-deficient ones
    root = (vectors * values.clamp(min=0).sqrt()).float()  # (D, D), root @ root.T = relatedness
    own = torch.einsum("de,uek->udk", root, dice.normal(name, settings.n_users, n_domains, width))
    common = torch.einsum("de,ek->dk", root, dice.normal(f"{name}, common", n_domains, width))
    spread = settings.taste_spread
    return spread * own + math.sqrt(1 - spread**2) * common


def _who_is_where(settings: WorldSettings, dice: _Dice) -> tuple[Tensor, Tensor]:
    n_users, n_domains = settings.n_users, len(settings.domains)
    everywhere = dice.order("who shops everywhere", n_users) < round(settings.overlap * n_users)
    home = dice.order("home domain", n_users) % n_domains  # as even as can be
    active = everywhere[:, None] | (home[:, None] == torch.arange(n_domains))
    new = dice.order("who is new", n_users) < round(settings.new_users * n_users)
    return active, new


def _meetings(settings: WorldSettings, active: Tensor, dice: _Dice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw who meets what, when: users and items uniformly among those of the domain, rows in order of time."""
    parts = []
    for d, name in enumerate(settings.domains):
        n = max(1, round(settings.interactions * (1 - settings.sparsity) ** d))
        here = active[:, d].nonzero().squeeze(1)
        if not len(here):
            raise ValueError(f"n_users: got {settings.n_users}, expected enough to have one in domain {name!r}")
        user = here[dice.integers(f"user {d}", len(here), n)]
        item = dice.integers(f"item {d}", settings.n_items, n)
        parts.append((user, item, torch.full((n,), d), dice.uniform(f"time {d}", n)))
    user, item, domain, time = (torch.cat(column) for column in zip(*parts, strict=True))
    order = time.argsort(stable=True)
    return user[order], item[order], domain[order], time[order]


def _features(settings, signals, click, domain, leaning, dice) -> tuple[Tensor, Tensor]:
    n, width = len(click), settings.nuisance_dim
    distance = 1 - leaning  # (D,), 0 in the first domain, shift in the last
    push = leaning[domain] * (2 * click - 1) + settings.offset * distance[domain]  # (N,)
    nuisance = settings.nuisance * push[:, None] + dice.normal("nuisance", n, width)  # (N, nuisance_dim)
    size = len(signals) * settings.taste_dim + width
    mixing, _ = torch.linalg.qr(dice.normal("mixing", size, size))
    return torch.cat([*signals, nuisance], dim=1) @ mixing, mixing


def _checked_matrix(matrix: tuple | list, n_domains: int) -> tuple[tuple[float, ...], ...]:
    """Refuse anything but a correlation matrix of the domains, and return it as tuples."""
    expected = f"a symmetric {n_domains} x {n_domains} correlation matrix with ones on its diagonal"
    try:
        values = torch.tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"relatedness: got {matrix!r}, expected {expected}") from error
    fits = values.shape == (n_domains, n_domains) and bool(torch.isfinite(values).all())
    if not fits or not torch.equal(values, values.T) or not bool((values.diagonal() == 1).all()):
        raise ValueError(f"relatedness: got {matrix!r}, expected {expected}")
    smallest = float(torch.linalg.eigvalsh(values).min())
    if smallest < -1e-8:
        raise ValueError(f"relatedness: got {matrix!r} with eigenvalue {smallest:.3f}, expected {expected}")
    return tuple(map(tuple, values.tolist()))
