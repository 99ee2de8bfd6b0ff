"""Real ratings: genres as domains, and who is new to one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.datasets import Ratings, describe_items, describe_raters, genre_domains
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.domain_attention.experiments import (
    ATTENTION,
    CLOSEST,
    SETTINGS,
    UNIFORM,
    ask,
    draw_rows,
    lost_by_pair,
    mean_weights,
    networks_of,
    objective,
    over_seeds,
)
from recmtl_lessons.models import MultiDomainAttentionNetwork
from recmtl_lessons.training import ManyModels, Scores, auc

_ARMS = {"attention": ATTENTION, "uniform": UNIFORM, "own genre only": CLOSEST, "blind": {**UNIFORM, "blind": 1.0}}
_GENRE_ROWS = 500  # of each genre, in each half of the users


@dataclass(frozen=True)
class GenreAttention:
    """Likes in one genre from the history in all; S splits of the users, G genres.

    Attributes
    ----------
    genres : tuple of str
    known : Scores
        The AUC, a mean over the genres, where the user's own history in a genre is seen: "attention", "uniform", "own
        genre only", and "blind", which sees nothing of the user.
    new : Scores
        The AUC where it is hidden, as for a user who is new to the genre: "attention", "uniform", "blind".
    weights : Tensor, (S, G, G)
        Mean weights of attention (last dimension) for users new to a genre.
    lost : Tensor, (S, G, G)
        AUC lost, for users new to a genre, when one more genre is taken out.
    unknown : Tensor, (G,)
        Share of the rows about other genres whose user has no history in this one.
    """

    genres: tuple[str, ...]
    known: Scores
    new: Scores
    weights: Tensor
    lost: Tensor
    unknown: Tensor


def attend_to_genres(
    ratings: Ratings,
    genres: Sequence[str] = SETTINGS["genres"],
    steps: int = SETTINGS["genre_steps"],
    seeds: tuple[int, ...] = SEEDS,
    rate: float = SETTINGS["genre_rate"],
) -> GenreAttention:
    """Train on half of the users, and score on the others: attention, equal weights, the own genre alone, nothing."""
    films = film_rows(ratings, genres, seeds)
    train, test = films["train"], films["test"]
    widths, item_dim = dict.fromkeys(genres, train["features"].shape[-1]), train["item"].shape[-1]

    def build() -> MultiDomainAttentionNetwork:
        return MultiDomainAttentionNetwork(widths, 16, 8, (16,), item_dim=item_dim, shared_encoder=True)

    models = ManyModels(build, objective, {"rows": train}, list(_ARMS.values()), seeds, learning_rate=rate)
    models.fit(steps, label="genres")
    networks = {arm: networks_of(models, k) for k, arm in enumerate(_ARMS)}

    def scores(masks: dict[str, Tensor]) -> Scores:
        shape = (len(genres), -1)  # the rows stand genre after genre
        click = test["click"].unflatten(1, shape)
        logits = {arm: ask(networks[arm], test, mask, _ARMS[arm])[0].unflatten(1, shape) for arm, mask in masks.items()}
        return Scores.of("AUC of likes", {arm: auc(each, click).mean(1) for arm, each in logits.items()})

    seen, new = test["seen"], test["new"]
    known = scores({"attention": seen, "uniform": seen, "own genre only": test["closest"], "blind": seen})
    hidden = scores({"attention": new, "uniform": new, "blind": new})  # no mask matters to the last
    weights = mean_weights(ask(networks["attention"], test, new)[1], test["query"])
    lost = lost_by_pair(networks["attention"], test, new)
    elsewhere = ~test["closest"].flatten(0, 1)  # (S * rows, G): who is asked about another genre
    unknown = 1 - new.flatten(0, 1).sum(0) / elsewhere.sum(0)
    return GenreAttention(tuple(genres), known, hidden, weights, lost, unknown)


def score_genre_rates(ratings: Ratings) -> dict[float, dict[str, float]]:
    """Return the mean AUC of every arm on the design seeds' splits, for each rate: how the rate was chosen."""
    found = {}
    for rate in SETTINGS["genre_rate_grid"]:
        result = attend_to_genres(ratings, seeds=DESIGN_SEEDS, rate=rate)
        groups = {"known": result.known, "new": result.new}
        found[rate] = {f"{arm}, {name}": float(s[arm].mean()) for name, s in groups.items() for arm in s}
    return found


def film_rows(ratings: Ratings, genres: Sequence[str], seeds: Sequence[int] = SEEDS) -> dict[str, dict[str, Tensor]]:
    """Return rows of two halves of the users for each seed, {"train" or "test": {field: Tensor (S, G * n, ...)}}.

    A user is known in a genre by one half of their ratings of it, drawn once; the rows are drawn from the other half. A
    row's user has a history in its genre and in at least two others: ``seen`` says in which, ``new`` leaves out its
    genre, ``closest`` all others. A film is known by its year, its number of ratings and its other genres; films of two
    of the named genres are left out.
    """
    films = genre_domains(ratings, genres, min_user_ratings=0)
    liked = (films.rating >= 4).float()
    history = torch.rand(len(films), generator=torch.Generator().manual_seed(0)) < 0.5
    items = describe_items(films, [name for name in films.genre_names if name in (*genres, "IMAX")])  # a format
    features, n = _genre_profiles(films, liked, history, items)
    has = n > 0  # (n_users, G)
    fit = ~history & has[films.user, films.domain] & (has[films.user].sum(1) >= 3)
    parts: dict[str, list] = {"train": [], "test": []}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        users = films.user.unique()
        half = users[torch.randperm(len(users), generator=generator)[: len(users) // 2]]
        in_half = torch.isin(films.user, half)
        for name, mine in (("train", in_half), ("test", ~in_half)):
            rows = [(fit & mine & (films.domain == g)).nonzero().squeeze(1) for g in range(len(genres))]
            rows = torch.cat([draw_rows(r, _GENRE_ROWS, generator) for r in rows])
            parts[name].append(_film_fields(films, rows, features, has, items, liked, generator))
    return {name: over_seeds(many) for name, many in parts.items()}


def _film_fields(films, rows, features, has, items, liked, generator) -> dict[str, Tensor]:
    user, query = films.user[rows], films.domain[rows]
    own = F.one_hot(query, has.shape[1]).bool()
    seen, new = has[user], has[user] & ~own
    hide = torch.rand(len(rows), generator=generator) < 0.5  # in training, half the rows hide the own genre
    return {
        "features": features[user],
        "seen": seen,
        "new": new,
        "closest": own,
        "mask": torch.where(hide[:, None], new, seen),
        "query": query,
        "item": items[films.item[rows]],
        "click": liked[rows],
    }


def _genre_profiles(films: Ratings, liked: Tensor, history: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is known of each user in each genre, (n_users, G, 3 + item features), and from how many ratings.

    These are mean rating and share of likes, both shrunk towards everybody's; the logarithm of their number; and what
    the liked films have more of than the others.
    """
    n_genres = len(films.domain_names)
    cell = (films.user * n_genres + films.domain)[history]
    cells = films.n_users * n_genres

    liked, item = liked[history], items[films.item[history]]
    habits, n = describe_raters(cell, cells, films.rating[history], liked)
    likes = torch.zeros(cells).index_add_(0, cell, liked)
    unusual = (liked - (likes / n.clamp(min=1))[cell])[:, None] * item  # (N, item features)
    taste = torch.zeros(cells, item.shape[1]).index_add_(0, cell, unusual) / (n + 5)[:, None]
    profile = torch.cat([habits, (n + 1).log()[:, None] - 2, 6 * taste], dim=1)
    return profile.view(films.n_users, n_genres, -1), n.view(-1, n_genres)
