"""Transfer from dense domains to sparse ones: users in common, one tower per domain, layers that all domains share.

The parts have several sources. Users that are rows of one table in every domain where they shop: Singh and Gordon,
"Relational learning via collective matrix factorization", KDD 2008. A product of embeddings beside a multilayer network
over them: He, Liao, Zhang, Nie, Hu, Chua, "Neural collaborative filtering", WWW 2017. Layers that all domains share,
whose outputs are made alike by a maximum mean discrepancy in the loss: Long, Cao, Wang, Jordan, "Learning transferable
features with deep adaptation networks", ICML 2015.

Departures: the network over the embeddings starts at zero, as a correction to the product, which is hard to learn for a
network by itself (Rendle, Krichene, Zhang, Anderson, "Neural collaborative filtering vs. matrix factorization
revisited", RecSys 2020). He et al. have a set of embeddings for each path; here both read the same. Long et al. compare
several layers, and learn how to weigh their kernels; here it is the last shared layer alone, and all kernels weigh the
same.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl_lessons.models._checks import (
    check_answer,
    check_choice,
    check_count,
    check_features,
    check_ids,
    check_names,
    check_number,
    check_widths,
)
from recmtl_lessons.models._layers import relu_layers
from recmtl_lessons.models._modes import evaluating
from recmtl_lessons.models._names import NamedParts
from recmtl_lessons.models.alignment import check_samples, covariance_distance, squared_mmd
from recmtl_lessons.models.domain_adversarial import GradientReversalLayer

ALIGNMENTS = ("mmd", "coral")


class CrossDomainTransferNetwork(NamedParts):
    r"""Predict a target's ratings with what the sources taught about users in common and about the shared layers.

    With u and v the embeddings of user and item, and a and c their biases, a row of domain d has the representation
    and the prediction

    .. math:: p = [u \odot v,\; a,\; c], \qquad z = P p + S(T_d([u, v, p])), \qquad \hat y = w^\top z + b_d.

    The tower T and the intercept b are the domain's own; P, S and w are shared by all. S starts at zero and w at the
    row sums of an orthogonal P, so that training starts from matrix factorization with biases, :math:`\hat y =
    u^\top v + a + c + b_d` (exactly so where the shared representation has room for it, ``embedding_dim + 2`` or
    more). Users and items have tables of their own: user 5 and item 5 share nothing. A `state_dict` holds the names of
    the domains, and is loaded by them, whatever their order.

    Parameters
    ----------
    source_vocab_sizes, target_vocab_sizes : mapping {domain: (n_users, n_items)}
        At least one domain each; no name is both a source and a target.
    embedding_dim : int
        Width of the embeddings of users and items.
    hidden_dims : sequence of int
        Widths of each domain's own tower.
    shared_dims : sequence of int
        Widths of the shared layers; the last is the width of the shared representation.
    dropout_rate : float
        Share of the hidden units dropped in training, in [0, 1).
    shared_users : mapping {(domain, domain): Tensor (pairs, 2)}, optional
        Which users are the same person: each row names a user of the first domain and a user of the second, who then
        are one row of the user table. By default nobody is.
    """

    _named = "domains"
    _parts = ("person_", "item_embeddings.", "towers.")
    _rows = ("intercepts", "domain_classifier.2.")

    def __init__(
        self,
        source_vocab_sizes: Mapping[str, tuple[int, int]],
        target_vocab_sizes: Mapping[str, tuple[int, int]],
        embedding_dim: int = 64,
        hidden_dims: Sequence[int] = (128, 64),
        shared_dims: Sequence[int] = (32,),
        dropout_rate: float = 0.0,
        shared_users: Mapping[tuple[str, str], Tensor] | None = None,
    ):
        vocab_sizes = _check_vocabularies(source_vocab_sizes, target_vocab_sizes)
        check_count("embedding_dim", embedding_dim)
        check_widths("hidden_dims", hidden_dims)
        check_widths("shared_dims", shared_dims)
        check_number("dropout_rate", dropout_rate, 0.0, 1.0, below=True)
        persons = _persons(vocab_sizes, {} if shared_users is None else shared_users)
        super().__init__()
        self.source_domains, self.target_domains = tuple(source_vocab_sizes), tuple(target_vocab_sizes)
        self.domains = tuple(vocab_sizes)
        self.vocab_sizes = vocab_sizes

        n_domains, width = len(vocab_sizes), shared_dims[-1]
        for number, rows in enumerate(persons):
            self.register_buffer(f"person_{number}", rows)  # (n_users,), the row of each user in the table below
        self.user_embeddings = _table(1 + max(int(rows.max()) for rows in persons), embedding_dim)
        self.item_embeddings = nn.ModuleList(_table(items, embedding_dim) for _, items in vocab_sizes.values())
        inputs = 3 * embedding_dim + 4  # u and a, v and c, and p
        self.towers = nn.ModuleList(relu_layers(inputs, hidden_dims, dropout_rate) for _ in range(n_domains))
        self.shared_layers = relu_layers(hidden_dims[-1], shared_dims[:-1], dropout_rate)
        self.shared_layers.append(_zeros(nn.Linear((*hidden_dims, *shared_dims)[-2], width)))
        self.product_layer = nn.Linear(embedding_dim + 2, width, bias=False)
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.orthogonal_(self.product_layer.weight)
        with torch.no_grad():  # the head reads the sum of the products: w' P = (1, ..., 1)
            self.head.weight.copy_(self.product_layer.weight.sum(1)[None])
        self.intercepts = nn.Parameter(torch.zeros(n_domains))
        self.domain_classifier = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_domains))

    def embed(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of users and items, (batch, embedding_dim + 1) each; the last column is the bias.

        They are what a penalty on their size is made of.
        """
        number = self._number(domain)
        self._check_rows(domain, user_ids, item_ids)
        person = getattr(self, f"person_{number}")[user_ids.long()]  # (batch,)
        user, item = self.user_embeddings(person), self.item_embeddings[number](item_ids.long())
        for embeddings in (user, item):
            check_answer(embeddings, self)
        return user, item

    def encode_domain(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return the shared representation of rows of one domain.

        Parameters
        ----------
        domain : str
            A source or a target.
        user_ids, item_ids : Tensor, (batch,), integer
            Numbered within the domain.

        Returns
        -------
        Tensor, (batch, shared_dims[-1])
        """
        user, item = self.embed(domain, user_ids, item_ids)
        return self.encode_embeddings(domain, user, item)

    def encode_embeddings(self, domain: str, user: Tensor, item: Tensor) -> Tensor:
        """Return the shared representation, (batch, shared_dims[-1]), of what `embed` returned."""
        number = self._number(domain)
        for name, embeddings in (("user", user), ("item", item)):
            check_features(name, embeddings, *self.user_embeddings.weight.shape[1:], self.head.weight.dtype)
        if len(user) != len(item):
            raise ValueError(f"item: got {len(item)} rows, expected {len(user)} as user has")
        parts = [user[:, :-1] * item[:, :-1], user[:, -1:], item[:, -1:]]
        product = torch.cat(parts, dim=1)  # (batch, embedding + 2)
        tower = self.towers[number](torch.cat([user, item, product], dim=1))  # (batch, hidden)
        shared = self.product_layer(product) + self.shared_layers(tower)  # (batch, shared)
        check_answer(shared, self, user=user, item=item)
        return shared

    def read(self, domain: str, shared: Tensor) -> Tensor:
        """Return predictions, (batch,), of rows of one domain from their shared representation."""
        number = self._number(domain)
        check_features("shared", shared, self.head.in_features, self.head.weight.dtype)
        predictions = self.head(shared).squeeze(1) + self.intercepts[number]  # (batch,)
        check_answer(predictions, self, shared=shared)
        return predictions

    def answer(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return predictions as `predict` does, but in the current mode and with gradients."""
        return self.read(domain, self.encode_domain(domain, user_ids, item_ids))

    @torch.no_grad()
    def predict(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return predictions of rows of one domain, (batch,), without dropout and without gradients."""
        with evaluating(self):
            return self.answer(domain, user_ids, item_ids)

    def forward(
        self,
        source_domain: str,
        target_domain: str,
        source_user_ids: Tensor,
        source_item_ids: Tensor,
        target_user_ids: Tensor,
        target_item_ids: Tensor,
        alpha: float | Tensor = 1.0,
    ) -> dict[str, Tensor]:
        """Encode rows of a source and rows of a target, predict both, and guess the domain of each row.

        Parameters
        ----------
        source_domain, target_domain : str
            One of the sources and one of the targets.
        source_user_ids, source_item_ids : Tensor, (n_source,), integer
        target_user_ids, target_item_ids : Tensor, (n_target,), integer
            As many as you like of each; rows of the two domains do not belong together.
        alpha : float or scalar Tensor
            Strength of the gradient reversal before the domain classifier.

        Returns
        -------
        dict
            ``target_predictions`` (n_target,) and ``source_predictions`` (n_source,): one number per row, a rating or,
            trained with a log loss, a logit. ``source_shared`` (n_source, shared_dims[-1]) and ``target_shared``
            (n_target, shared_dims[-1]). ``source_domain_logits`` (n_source, n_domains) and ``target_domain_logits``
            (n_target, n_domains), in the order of ``domains``; their gradient comes back reversed and times ``alpha``.
        """
        check_choice("source_domain", source_domain, self.source_domains)
        check_choice("target_domain", target_domain, self.target_domains)
        check_number("alpha", alpha, 0.0)
        self._check_rows(source_domain, source_user_ids, source_item_ids, "source_")
        self._check_rows(target_domain, target_user_ids, target_item_ids, "target_")
        source = self.encode_domain(source_domain, source_user_ids, source_item_ids)
        target = self.encode_domain(target_domain, target_user_ids, target_item_ids)
        source_logits, target_logits = (
            self.domain_classifier(GradientReversalLayer.apply(shared, alpha)) for shared in (source, target)
        )
        for logits in (source_logits, target_logits):
            check_answer(logits, self)
        return {
            "target_predictions": self.read(target_domain, target),
            "source_predictions": self.read(source_domain, source),
            "source_shared": source,
            "target_shared": target,
            "source_domain_logits": source_logits,
            "target_domain_logits": target_logits,
        }

    def compute_domain_alignment_loss(
        self,
        source_shared: Tensor,
        target_shared: Tensor,
        method: str = "mmd",
        bandwidth: float | Tensor | None = None,
    ) -> Tensor:
        """Return how differently source and target are spread in the shared representation, to be made small.

        Parameters
        ----------
        source_shared, target_shared : Tensor, (n_source, shared_dims[-1]) and (n_target, shared_dims[-1])
            As `forward` returns them; at least 2 rows each.
        method : {"mmd", "coral"}
            `squared_mmd`, unbiased, or `coral_loss`.
        bandwidth : float or Tensor (), optional
            The bandwidth of the MMD's kernel; the pooled median distance if not given.

        Returns
        -------
        Tensor, ()
            The MMD may be slightly negative; it is no distance to be rooted.
        """
        check_choice("method", method, ALIGNMENTS)
        check_samples(source_shared, target_shared, 2, ("source_shared", "target_shared"))
        if method == "mmd":
            return squared_mmd(source_shared, target_shared, bandwidth)
        loss = covariance_distance(source_shared, target_shared)
        check_answer(loss, source_shared=source_shared, target_shared=target_shared)
        return loss

    def _number(self, domain: str) -> int:
        check_choice("domain", domain, self.domains)
        return self.domains.index(domain)

    def _check_rows(self, domain: str, user_ids: Tensor, item_ids: Tensor, whose: str = "") -> None:
        n_users, n_items = self.vocab_sizes[domain]
        check_ids(f"{whose}user_ids", user_ids, n_users)
        check_ids(f"{whose}item_ids", item_ids, n_items, len(user_ids))


def _table(rows: int, width: int) -> nn.Embedding:
    """Return a table of embeddings and, in a last column that starts at zero, biases."""
    table = nn.Embedding(rows, width + 1)
    nn.init.normal_(table.weight, std=0.1)
    with torch.no_grad():
        table.weight[:, -1] = 0.0
    return table


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _persons(vocab_sizes: Mapping[str, tuple[int, int]], shared_users: Mapping) -> list[Tensor]:
    """Return for each domain the person that each of its users is, counted from 0 over all domains."""
    if not isinstance(shared_users, Mapping):
        raise ValueError(f"shared_users: got {type(shared_users).__name__}, expected {{(domain, domain): pairs}}")
    sizes = [users for users, _ in vocab_sizes.values()]
    starts = dict(zip(vocab_sizes, torch.tensor([0, *sizes]).cumsum(0).tolist(), strict=False))
    person = torch.arange(sum(sizes))
    for domains, pairs in shared_users.items():
        _check_pairs(domains, pairs, vocab_sizes)
        for first, second in (pairs.cpu() + torch.tensor([starts[d] for d in domains])).tolist():
            person[person == person[second]] = person[first].item()
    rows = [part.clone() for part in person.unique(return_inverse=True)[1].split(sizes)]
    for domain, part in zip(vocab_sizes, rows, strict=True):
        people, counts = part.unique(return_counts=True)
        if (counts > 1).any():
            users = (part == people[counts > 1][0]).nonzero().squeeze(1).tolist()
            raise ValueError(f"shared_users: got users {users} of {domain!r} as one person, expected one user a person")
    return rows


def _check_vocabularies(source: object, target: object) -> dict[str, tuple[int, int]]:
    for name, vocab in (("source_vocab_sizes", source), ("target_vocab_sizes", target)):
        check_names(name, vocab, "{domain: (n_users, n_items)}")
        for domain, sizes in vocab.items():
            if not isinstance(sizes, Sequence) or len(sizes) != 2:
                raise ValueError(
                    f"{name}[{domain!r}]: got {sizes!r}, expected (n_users, n_items), each counted by itself: users "
                    "and items have tables of their own, both numbered from 0"
                )
            for size in sizes:
                check_count(f"{name}[{domain!r}]", size)
    both = [repr(domain) for domain in source if domain in target]
    if both:
        raise ValueError(
            f"source_vocab_sizes, target_vocab_sizes: got {', '.join(both)} in both, "
            "expected each domain in one of them"
        )
    return {domain: tuple(sizes) for domain, sizes in (*source.items(), *target.items())}


def _check_pairs(domains: object, pairs: object, vocab_sizes: Mapping[str, tuple[int, int]]) -> None:
    known = isinstance(domains, tuple) and len(domains) == 2 and all(d in vocab_sizes for d in domains)
    if not known or domains[0] == domains[1]:
        raise ValueError(
            f"shared_users: got the key {domains!r}, expected a pair of two of {', '.join(map(repr, vocab_sizes))}"
        )
    name = f"shared_users[{domains!r}]"
    if not isinstance(pairs, Tensor) or pairs.ndim != 2 or pairs.shape[1] != 2:
        came = tuple(pairs.shape) if isinstance(pairs, Tensor) else type(pairs).__name__
        raise ValueError(f"{name}: got {came}, expected an integer tensor (pairs, 2)")
    for column, domain in enumerate(domains):
        if len(pairs):
            check_ids(f"{name}[:, {column}]", pairs[:, column], vocab_sizes[domain][0])
