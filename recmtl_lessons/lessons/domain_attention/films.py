"""Real ratings: genres as domains, and who is new to one of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.datasets import Ratings, describe_items, describe_raters, genre_domains
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.domain_attention.experiments import (
    by_domain,
    draw_rows,
    mean_weights,
)
from recmtl_lessons.models import MultiDomainAttentionNetwork
from recmtl_lessons.training import ManyModels, auc

GENRES = ("Action", "Children", "Comedy", "Horror", "Romance")  # fixed before the first run
GENRE_STEPS = 150
GENRE_RATE = 0.003  # for all arms; `score_genre_rates` compares it with another on other splits of the same people
_GENRE_ROWS = 500  # of each genre, in each half of the users


@dataclass(frozen=True)
class GenreAttention:
    """Likes in one genre from the history in all; S splits of the users, G genres.

    Attributes
    ----------
    genres : tuple of str
    known : dict {arm: Tensor (S, G)}
        The AUC in each genre where the user's own history in it is seen: "attention", "uniform", "own genre only", and
        "blind", which sees nothing of the user.
    new : dict {arm: Tensor (S, G)}
        The AUC where it is hidden, as for a user who is new to the genre: "attention", "uniform", "blind".
    weights : Tensor, (S, G, G)
        Mean weights of attention (last dimension) for users new to a genre.
    damage : Tensor, (S, G, G)
        AUC lost, for users new to a genre, when one more genre is taken out.
    unknown : Tensor, (G,)
        Share of the rows about other genres whose user has no history in this one.
    """

    genres: tuple[str, ...]
    known: dict[str, Tensor]
    new: dict[str, Tensor]
    weights: Tensor
    damage: Tensor
    unknown: Tensor


def attend_to_genres(
    ratings: Ratings,
    genres: Sequence[str] = GENRES,
    steps: int = GENRE_STEPS,
    seeds: tuple[int, ...] = SEEDS,
    rate: float = GENRE_RATE,
) -> GenreAttention:
    """Train on half of the users, and score on the others: attention, equal weights, the own genre alone, nothing."""
    films = film_rows(ratings, genres, seeds)
    width, item_dim = films["train"]["features"].shape[-1], films["train"]["item"].shape[-1]

    def build() -> MultiDomainAttentionNetwork:
        widths = dict.fromkeys(genres, width)
        return MultiDomainAttentionNetwork(widths, 16, 8, (16,), item_dim=item_dim, shared_encoder=True)

    def of_genres(model, batch, setting, progress):
        rows = batch["rows"]
        mask = torch.where(setting["alone"] > 0, rows["own"], rows["mask"])
        temperature = 1 / setting["focus"]
        features = rows["features"] * (1 - setting["blind"])
        answer = model(rows["query"], by_domain(features, genres), mask, rows["item"], temperature)
        return F.binary_cross_entropy_with_logits(answer["predictions"], rows["click"]), {}

    models = ManyModels(build, of_genres, {"rows": films["train"]}, _ARMS, seeds, learning_rate=rate)
    models.fit(steps, label="genres")
    return _measured_on_films(models, films["test"], tuple(genres))


_ATTENTION, _UNIFORM, _ALONE, _BLIND = range(4)
_ARMS = (
    {"focus": 1.0, "alone": 0.0, "blind": 0.0},
    {"focus": 0.0, "alone": 0.0, "blind": 0.0},
    {"focus": 1.0, "alone": 1.0, "blind": 0.0},
    {"focus": 0.0, "alone": 0.0, "blind": 1.0},  # all profiles are zeros
)


def score_genre_rates(ratings: Ratings, rates: Sequence[float] = (0.003, 0.01)) -> dict[float, dict[str, float]]:
    """Return the mean AUC of every arm on the design seeds' splits, for each rate: how `GENRE_RATE` was chosen."""
    found = {}
    for rate in rates:
        result = attend_to_genres(ratings, seeds=DESIGN_SEEDS, rate=rate)
        known = {f"{arm}, known": float(score.mean()) for arm, score in result.known.items()}
        found[rate] = known | {f"{arm}, new": float(score.mean()) for arm, score in result.new.items()}
    return found


def _measured_on_films(models: ManyModels, test: dict[str, Tensor], genres: tuple[str, ...]) -> GenreAttention:
    @torch.no_grad()
    def scored(arm: int, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the AUC in each genre, (S, G), and weights, (S, G * n, G); the rows stand genre after genre."""
        logits, weights = [], []
        for s in range(models.n_seeds):
            network, setting = models.model(arm * models.n_seeds + s), models.settings[arm * models.n_seeds]
            features = by_domain(test["features"][s] * (1 - setting["blind"]), genres)
            temperature = 1.0 if setting["focus"] else math.inf
            answer = network(test["query"][s], features, mask[s], test["item"][s], temperature)
            logits.append(answer["predictions"])
            weights.append(answer["attention_weights"])
        shape = (len(genres), -1)
        return auc(torch.stack(logits).unflatten(1, shape), test["click"].unflatten(1, shape)), torch.stack(weights)

    seen, hidden = test["seen"], test["new"]
    known = {
        "attention": scored(_ATTENTION, seen)[0],
        "uniform": scored(_UNIFORM, seen)[0],
        "own genre only": scored(_ALONE, test["own"])[0],
        "blind": scored(_BLIND, seen)[0],  # the mask does not matter to it
    }
    attended, weights = scored(_ATTENTION, hidden)
    damage = torch.zeros(models.n_seeds, len(genres), len(genres))
    for out in range(len(genres)):
        mask = hidden.clone()
        mask[..., out] = False
        damage[..., out] = attended - scored(_ATTENTION, mask)[0]
    new = {"attention": attended, "uniform": scored(_UNIFORM, hidden)[0], "blind": known["blind"]}
    return GenreAttention(genres, known, new, mean_weights(weights, test["query"]), damage, _unknown(test))


def _unknown(rows: dict[str, Tensor]) -> Tensor:
    """Return the share of rows that ask about another genre and whose user has no history in this one, (G,)."""
    elsewhere = ~rows["own"].flatten(0, 1)  # (S * rows, G)
    return 1 - rows["new"].flatten(0, 1).sum(0) / elsewhere.sum(0)


def film_rows(ratings: Ratings, genres: Sequence[str], seeds: Sequence[int] = SEEDS) -> dict[str, dict[str, Tensor]]:
    """Return rows of two halves of the users for each seed, {"train" or "test": {field: Tensor (S, G * n, ...)}}.

    A user is known in a genre by one half of their ratings of it, drawn once; the rows are drawn from the other half. A
    row's user has a history in its genre and in at least two others. A film is known by its year, its number of ratings
    and its other genres; films of two of the named genres are left out.
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
    return {name: {f: torch.stack([p[f] for p in many]) for f in many[0]} for name, many in parts.items()}


def _film_fields(films, rows, features, has, items, liked, generator) -> dict[str, Tensor]:
    user, query = films.user[rows], films.domain[rows]
    own = F.one_hot(query, has.shape[1]).bool()
    seen, new = has[user], has[user] & ~own
    hide = torch.rand(len(rows), generator=generator) < 0.5  # in training, half the rows hide the own genre
    return {
        "features": features[user],
        "seen": seen,
        "new": new,
        "own": own,
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
