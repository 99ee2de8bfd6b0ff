"""Attention across domains: what is known of a user in other domains, weighed by a query from the domain asked about.

Source: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention is all you need",
NeurIPS 2017, section 3.2.1 (scaled dot-product attention).

Departures from the paper: the positions of the sequence are the domains, and there is one query, that of the domain
asked about; one head, no stack of layers, no positional encoding but one learned token per domain. A mask takes out the
domains in which a user has no history. What is attended to meets the candidate item in a small network of its own.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl_lessons.models._checks import (
    _values_are_at_hand,
    check_answer,
    check_choice,
    check_count,
    check_dense,
    check_features,
    check_finite,
    check_labels,
    check_names,
    check_number,
    check_widths,
)
from recmtl_lessons.models._layers import relu_layers
from recmtl_lessons.models._modes import evaluating
from recmtl_lessons.models._names import NamedParts


def masked_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""Return the scaled dot-product attention of one query per row, with the weights it used.

    .. math:: w_d = \frac{m_d \exp(q \cdot k_d / (\tau \sqrt{A}))}{\sum_e m_e \exp(q \cdot k_e / (\tau \sqrt{A}))},
              \qquad \text{attended} = \sum_d w_d v_d

    Parameters
    ----------
    query : Tensor, (batch, A)
    keys : Tensor, (batch, D, A)
    values : Tensor, (batch, D, V)
    mask : Tensor, (batch, D), bool, optional
        True where there is something to attend to. A row without any is refused; inside ``torch.vmap``, where values
        cannot be looked at, it gives NaN.
    temperature : float or scalar Tensor
        :math:`\tau`; 1 is plain attention, infinity is the mean over what the mask leaves.

    Returns
    -------
    attended : Tensor, (batch, V)
    weights : Tensor, (batch, D)
        At least 0, exactly 0 where the mask is False; rows sum to 1.

    References
    ----------
    Vaswani et al. (2017), section 3.2.1, equation 1. Equal to ``torch.nn.functional.scaled_dot_product_attention``
    with a sequence of D and one query, at temperature 1.
    """
    _check_attention(query, keys, values, mask, temperature)
    # Products and sums: one query meets a handful of keys, and tiny matrix products are slow.
    scores = (keys * query.unsqueeze(-2)).sum(-1) / math.sqrt(query.shape[-1])  # (batch, D)
    scores = scores / temperature
    if mask is not None:  # before the softmax, so that the others share the whole weight
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(dim=-1)
    attended = (weights.unsqueeze(-1) * values).sum(-2)  # (batch, V)
    check_answer(attended, None, ("temperature",), query=query, keys=keys, values=values, temperature=temperature)
    return attended, weights


class MultiDomainAttentionNetwork(NamedParts):
    r"""Predict in one domain from a user's history in all of them, weighed by attention.

    For a user with features :math:`x_d` in domain d, a token :math:`t_d` learned for each domain, and the domain asked
    about, :math:`a`,

    .. math:: e_d = E_d x_d, \qquad q = W_q (t_a + m_a e_a), \qquad k_d = W_k (t_d + e_d), \qquad v_d = W_v e_d,

    and `masked_attention` of q, k and v with mask m is what the rest of the network gets to know about the user. It
    meets the candidate item c, as :math:`[u,\, t_a,\, C c,\, u \odot C c]`, in a feed-forward network with one logit.
    A user without history in the domain asked about (:math:`m_a = 0`) asks with the token alone. A `state_dict` holds
    the names of the domains, and is loaded by them, whatever their order.

    Parameters
    ----------
    domain_features : mapping {str: int}
        Each domain's name and the width of its user features. The order of the names is the order of the columns of
        masks and weights.
    embedding_dim : int
        Width of :math:`e`, :math:`t` and :math:`v`.
    attention_dim : int
        Width of q and k.
    hidden_dims : sequence of int
        Widths of the feed-forward layers; the last is the width of the shared representation.
    dropout_rate : float
        Share of the hidden units dropped in training, in [0, 1).
    item_dim : int
        Width of the candidate item's features; 0 if nothing but the user is known.
    shared_encoder : bool
        One encoder E for all domains, which must then have features of one width and one meaning. With an encoder of
        its own for each domain the network may scale a domain's values down, or turn them around, instead of attending
        less, and the weights alone no longer say how much a domain counts.
    """

    _named = "domains"
    _rows = ("tokens",)

    def __init__(
        self,
        domain_features: Mapping[str, int],
        embedding_dim: int = 64,
        attention_dim: int = 32,
        hidden_dims: Sequence[int] = (128, 64),
        dropout_rate: float = 0.0,
        item_dim: int = 0,
        shared_encoder: bool = False,
    ):
        _check_arguments(domain_features, embedding_dim, attention_dim, hidden_dims, dropout_rate, item_dim)
        _check_sharing(shared_encoder, domain_features)
        super().__init__()
        self.domain_features = dict(domain_features)
        self.domains = tuple(domain_features)
        self.item_dim = item_dim

        widths = list(self.domain_features.values())
        self._parts = () if shared_encoder else ("encoders.",)
        # A list, not a ModuleDict: domain names are the user's words, and may hold dots or spaces.
        self.encoders = nn.ModuleList(
            nn.Linear(width, embedding_dim) for width in (widths[:1] if shared_encoder else widths)
        )
        self.tokens = nn.Parameter(torch.randn(len(widths), embedding_dim) / math.sqrt(embedding_dim))
        self.to_query = nn.Linear(embedding_dim, attention_dim, bias=False)
        self.to_key = nn.Linear(embedding_dim, attention_dim, bias=False)
        self.to_value = nn.Linear(embedding_dim, embedding_dim, bias=False)
        self.item_encoder = nn.Linear(item_dim, embedding_dim) if item_dim else None

        self.hidden = relu_layers(embedding_dim * (4 if item_dim else 2), hidden_dims, dropout_rate)
        self.output = nn.Linear(hidden_dims[-1], 1)

    def compute_cross_domain_attention(
        self,
        query_domain: str | Tensor,
        domain_features: Mapping[str, Tensor],
        mask: Tensor | None = None,
        temperature: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Weigh a user's domains for one of them.

        Parameters
        ----------
        query_domain : str or Tensor (batch,) of integers
            The domain asked about: one name for all rows, or each row's own, as its number in ``domains``.
        domain_features : mapping {str: Tensor (batch, width)}
            Features of the same users in every domain: row k is one user in all of them. The order of the names does
            not matter.
        mask : Tensor, (batch, n_domains), bool, optional
            True where the user has a history; columns in the order of ``domains``. What stands in a masked row of the
            features does not matter. All True unless given. A user without any is refused; inside ``torch.vmap``,
            where values cannot be looked at, the answer is NaN.
        temperature : float or scalar Tensor
            More than 0; infinity weighs all domains alike.

        Returns
        -------
        attended : Tensor, (batch, embedding_dim)
        weights : Tensor, (batch, n_domains)
            Rows sum to 1; exactly 0 where the mask is False.
        """
        return self._attend(query_domain, domain_features, mask, temperature)[1:]

    def forward(
        self,
        query_domain: str | Tensor,
        domain_features: Mapping[str, Tensor],
        mask: Tensor | None = None,
        item_features: Tensor | None = None,
        temperature: float | Tensor = 1.0,
    ) -> dict[str, Tensor]:
        """Answer for each user, and say where the answer looked.

        Parameters
        ----------
        query_domain, domain_features, mask, temperature
            As in `compute_cross_domain_attention`.
        item_features : Tensor, (batch, item_dim)
            The candidate items, row by row; asked for if ``item_dim`` is not 0, refused if it is.

        Returns
        -------
        dict
            ``predictions``, (batch,): logits. ``attention_weights``, (batch, n_domains). ``shared_representation``,
            (batch, hidden_dims[-1]): the last hidden layer.
        """
        rows = self._check_rows(domain_features)
        self._check_items(item_features, rows)
        token, attended, weights = self._attend(query_domain, domain_features, mask, temperature)
        parts = [attended, token]
        if item_features is not None:
            item = self.item_encoder(item_features)  # (batch, embedding)
            parts += [item, attended * item]
        shared = self.hidden(torch.cat(parts, dim=-1))  # (batch, hidden_dims[-1])
        predictions = self.output(shared).squeeze(-1)  # (batch,)
        items = {} if item_features is None else {"item_features": item_features}
        self._check_answer(predictions, domain_features, mask, **items)
        return {
            "predictions": predictions,
            "attention_weights": weights,
            "shared_representation": shared,
        }

    @torch.no_grad()
    def predict(
        self,
        query_domain: str | Tensor,
        domain_features: Mapping[str, Tensor],
        mask: Tensor | None = None,
        item_features: Tensor | None = None,
        temperature: float | Tensor = 1.0,
    ) -> Tensor:
        """Return each row's probability of a 1, (batch,), without dropout and gradients; arguments as `forward`."""
        with evaluating(self):
            return self(query_domain, domain_features, mask, item_features, temperature)["predictions"].sigmoid()

    def project(
        self, query_domain: str | Tensor, domain_features: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return query, keys, values and mask, as `masked_attention` takes them; arguments as above.

        Returns
        -------
        query : Tensor, (batch, attention_dim)
        keys : Tensor, (batch, n_domains, attention_dim)
        values : Tensor, (batch, n_domains, embedding_dim)
        mask : Tensor, (batch, n_domains), bool
        """
        query, keys, values, mask = self._project(query_domain, domain_features, mask)[1:]
        for part in (query, keys, values):
            self._check_answer(part, domain_features, mask)
        return query, keys, values, mask

    def _attend(self, query_domain, domain_features, mask, temperature) -> tuple[Tensor, Tensor, Tensor]:
        """Return the token of the domain asked about, (batch, embedding), what is attended to, and the weights."""
        _check_temperature(temperature)
        token, query, keys, values, mask = self._project(query_domain, domain_features, mask)
        if _values_are_at_hand(query):
            largest = query.shape[-1] * query.abs().max() * keys.abs().max() / temperature  # of all scores
            self._check_answer(largest + values.abs().max(), domain_features, mask, temperature=temperature)
        return token, *masked_attention(query, keys, values, mask, temperature)

    def _project(self, query_domain, domain_features, mask) -> tuple[Tensor, ...]:
        """Return the token of the domain asked about, (batch, embedding), and what `project` returns."""
        features, mask, is_query = self._checked(query_domain, domain_features, mask)
        embedded = self._embed(features, mask)  # (batch, D, embedding)
        own = ((is_query & mask).unsqueeze(-1) * embedded).sum(1)  # (batch, embedding)
        token = is_query.to(embedded.dtype) @ self.tokens  # (batch, embedding)
        keys = self.to_key(self.tokens + embedded)  # (batch, D, attention)
        return token, self.to_query(token + own), keys, self.to_value(embedded), mask

    def _check_answer(self, answer: Tensor, domain_features: Mapping[str, Tensor], mask: Tensor | None, **came) -> None:
        """Refuse an answer that is not finite, by what was visible of the features or by what else came."""
        if _values_are_at_hand(answer) and not torch.isfinite(answer).all():
            for d, name in enumerate(self.domains):
                seen = domain_features[name] if mask is None else domain_features[name][mask[:, d]]
                if len(seen):
                    came[f"domain_features[{name!r}]"] = seen
            check_answer(answer, self, ("temperature",), **came)

    def _checked(self, query_domain, domain_features, mask) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the features in the order of ``domains``, the mask, and whether a domain is the one asked about."""
        rows = self._check_rows(domain_features)
        features = [domain_features[name] for name in self.domains]
        mask = self._check_mask(mask, rows, features[0].device)
        for d, name in enumerate(self.domains):
            _check_visible(f"domain_features[{name!r}]", features[d], mask, d)
        return features, mask, self._is_query(query_domain, rows, mask.device)

    def _embed(self, features: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Embed one (batch, width) per domain -> (batch, D, embedding); what is masked is read as zeros."""
        if len(self.encoders) < len(self.domains):
            return self.encoders[0](torch.stack(features, dim=1).masked_fill(~mask.unsqueeze(-1), 0.0))
        visible = [x.masked_fill(~mask[:, d : d + 1], 0.0) for d, x in enumerate(features)]
        return torch.stack([encode(x) for encode, x in zip(self.encoders, visible, strict=True)], dim=1)

    def _is_query(self, query_domain: str | Tensor, rows: int, device: torch.device) -> Tensor:
        """Return whether a domain is the one asked about, (batch, n_domains), bool."""
        if isinstance(query_domain, Tensor):
            check_labels("query_domain", query_domain, rows, len(self.domains))
        else:
            check_choice("query_domain", query_domain, self.domains)
            query_domain = torch.full((rows,), self.domains.index(query_domain), device=device)
        return query_domain.unsqueeze(1) == torch.arange(len(self.domains), device=device)

    def _check_rows(self, domain_features: Mapping[str, Tensor]) -> int:
        """Refuse anything but one float tensor (batch, width) per domain, all with one batch; return its size."""
        expected = self.domain_features
        if not isinstance(domain_features, Mapping) or set(domain_features) != set(expected):
            came = tuple(domain_features) if isinstance(domain_features, Mapping) else type(domain_features).__name__
            raise ValueError(f"domain_features: got {came!r}, expected a mapping with the domains {tuple(expected)}")
        for name, width in expected.items():
            x, dtype = domain_features[name], self.tokens.dtype
            if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != width or x.dtype != dtype:
                wanted = f"a tensor (batch, {width}) of {dtype} as the network's"
                raise ValueError(f"domain_features[{name!r}]: got {_kind(x)}, expected {wanted}")
            check_dense(f"domain_features[{name!r}]", x)
        sizes = {name: len(domain_features[name]) for name in expected}
        rows = next(iter(sizes.values()))
        if rows == 0 or len(set(sizes.values())) > 1:
            raise ValueError(
                f"domain_features: got {sizes} rows, expected one number of at least 1, row k being one user everywhere"
            )
        return rows

    def _check_mask(self, mask: Tensor | None, rows: int, device: torch.device) -> Tensor:
        shape = (rows, len(self.domains))
        if mask is None:
            return torch.ones(shape, dtype=torch.bool, device=device)
        _check_mask(mask, shape, f", columns in the order {self.domains}")
        return mask

    def _check_items(self, item_features: Tensor | None, rows: int) -> None:
        if item_features is None and self.item_dim:
            raise ValueError(f"item_features: got None, expected a float tensor ({rows}, {self.item_dim})")
        if item_features is None:
            return
        if not self.item_dim:
            raise ValueError("item_features: got a value, expected None, because the network was made with item_dim=0")
        check_features("item_features", item_features, self.item_dim, self.tokens.dtype)
        if len(item_features) != rows:
            raise ValueError(f"item_features: got {len(item_features)} rows, expected {rows}, one for each user's row")


def _check_visible(name: str, x: Tensor, mask: Tensor, d: int) -> None:
    """Refuse values that are not finite where the mask's column d is True."""
    if _values_are_at_hand(x) and _values_are_at_hand(mask) and not torch.isfinite(x[mask[:, d]]).all():
        raise ValueError(f"{name}: got NaN or infinite values where the mask is True, expected finite numbers")


def _check_attention(query, keys, values, mask, temperature) -> None:
    if not isinstance(query, Tensor) or query.ndim != 2 or 0 in query.shape or not query.is_floating_point():
        raise ValueError(f"query: got {_kind(query)}, expected a float tensor (batch, A), no 0")
    for name, part in (("keys", keys), ("values", values)):
        fits = isinstance(part, Tensor) and part.ndim == 3 and 0 not in part.shape and part.dtype == query.dtype
        if not fits or len(part) != len(query):
            wanted = f"a tensor of {query.dtype} (batch={len(query)}, D, width), no 0, as query"
            raise ValueError(f"{name}: got {_kind(part)}, expected {wanted}")
    if keys.shape[2] != query.shape[1]:
        raise ValueError(f"keys: got {_kind(keys)}, expected a width of {query.shape[1]} as query's")
    if values.shape[1] != keys.shape[1]:
        raise ValueError(f"values: got {_kind(values)}, expected {keys.shape[1]} in each row as keys")
    for name, part in (("query", query), ("keys", keys), ("values", values)):
        check_dense(name, part)
        check_finite(name, part)
    if mask is not None:
        _check_mask(mask, tuple(keys.shape[:2]))
    _check_temperature(temperature)


def _check_mask(mask: Tensor, shape: tuple[int, int], more: str = "") -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(f"mask: got {_kind(mask)}, expected a bool tensor {shape}{more}")
    if _values_are_at_hand(mask) and not mask.any(dim=1).all():
        empty = int((~mask.any(dim=1)).nonzero()[0])
        raise ValueError(f"mask: got no history in any domain for row {empty}, expected at least one True in each row")


def _check_temperature(temperature: object) -> None:
    check_number("temperature", temperature, 0.0, above=True, infinite=True)


def _kind(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_arguments(domain_features, embedding_dim, attention_dim, hidden_dims, dropout_rate, item_dim) -> None:
    check_names("domain_features", domain_features, "{domain name: width}")
    for name, width in domain_features.items():
        check_count(f"domain_features[{name!r}]", width)
    check_count("embedding_dim", embedding_dim)
    check_count("attention_dim", attention_dim)
    check_widths("hidden_dims", hidden_dims)
    check_number("dropout_rate", dropout_rate, 0.0, 1.0, below=True)
    check_count("item_dim", item_dim, least=0)


def _check_sharing(shared_encoder: object, domain_features: Mapping[str, int]) -> None:
    check_choice("shared_encoder", shared_encoder, (True, False))
    if shared_encoder and len(set(domain_features.values())) > 1:
        raise ValueError(
            f"shared_encoder: got True with widths {tuple(domain_features.values())}, expected the same everywhere"
        )
