"""Prototypical networks: a class is the mean of its few examples, and a new row belongs to the nearest mean.

Source: Snell, Swersky, Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017.

Departures: the encoder is a perceptron, since rows are features of items and not pictures. A temperature divides the
distances; at 1, the default for the squared Euclidean distance, it does nothing. Several episodes of the same size are
answered at once. Dropout, off by default, acts on support and query rows alike, and in training alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.models._adaptable import adam_step, stack_by_shape
from recmtl_lessons.models._checks import (
    _INTEGERS,
    _values_are_at_hand,
    check_answer,
    check_choice,
    check_count,
    check_dense,
    check_finite,
    check_number,
    check_positive,
    check_weights,
    check_widths,
)
from recmtl_lessons.models._modes import evaluating

Episode = tuple[Tensor, Tensor, Tensor, Tensor]
_FIELDS = ("support_x", "support_y", "query_x", "query_y")
_TEMPERATURES = {"euclidean": 1.0, "cosine": 0.1}


class PrototypicalNetworkRecommender(nn.Module):
    r"""An encoder f in whose space each class is a point, the mean of its support rows.

    .. math:: c_k = \frac{1}{|S_k|} \sum_{(x, y) \in S_k} f(x), \qquad
              p(y = k \mid x) = \frac{\exp(-d(f(x), c_k) / \tau)}{\sum_j \exp(-d(f(x), c_j) / \tau)}

    Nothing here belongs to a class, so the classes of an episode may be others than those of training. With the squared
    Euclidean distance the answer is a linear classifier of the embedding, with weights :math:`2 c_k / \tau` and biases
    :math:`-\lVert c_k \rVert^2 / \tau`.

    Rows of one episode have shape (rows, input_dim); those of T episodes of equal size (T, rows, input_dim), with
    labels (T, rows), and each episode's classes are its own.

    Parameters
    ----------
    input_dim : int
        Width of the input.
    embedding_dim : int
        Width of the embedding.
    hidden_dims : sequence of int
        Widths of the hidden layers, each followed by a ReLU; none makes the encoder linear.
    dropout_rate : float
        Share of the hidden units dropped in training, in [0, 1).
    distance : {"euclidean", "cosine"}
        d: the squared Euclidean distance, or 1 minus the cosine.
    temperature : float, optional
        :math:`\tau`; 1 for Euclidean and 0.1 for cosine if not given. Cosines lie within 2 of each other, so at 1 even
        the surest answer among n classes has a probability of no more than :math:`e^2 / (e^2 + n - 1)`.
    meta_lr : float
        Adam's rate, in `meta_update`.

    Notes
    -----
    `meta_update` leaves weights that are frozen by ``requires_grad_(False)`` as they are, and moves the others.

    `state_dict` holds the weights, but nothing of the optimizer: Adam's moments are not in it. They stay with their
    parameters; those of a new head, or of ``load_state_dict(..., assign=True)``, begin afresh.

    References
    ----------
    Snell et al. (2017), section 2.2, equations 1 and 2, algorithm 1; the linear classifier, section 2.4.
    """

    def __init__(
        self,
        input_dim: int,
        embedding_dim: int = 64,
        hidden_dims: Sequence[int] = (128, 64),
        dropout_rate: float = 0.0,
        *,
        distance: str = "euclidean",
        temperature: float | None = None,
        meta_lr: float = 1e-3,
    ):
        check_count("input_dim", input_dim)
        check_count("embedding_dim", embedding_dim)
        check_widths("hidden_dims", hidden_dims, empty=True)
        check_number("dropout_rate", dropout_rate, 0.0, 1.0, below=True)
        check_choice("distance", distance, tuple(_TEMPERATURES))
        temperature = _TEMPERATURES[distance] if temperature is None else temperature
        check_positive("temperature", temperature)
        check_positive("meta_lr", meta_lr)
        super().__init__()
        self.input_dim, self.embedding_dim = input_dim, embedding_dim
        self.dropout_rate, self.meta_lr = float(dropout_rate), float(meta_lr)
        self.distance, self.temperature = distance, float(temperature)
        widths = (input_dim, *hidden_dims)
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden_dims, strict=False))
        self.head = nn.Linear(widths[-1], embedding_dim)
        self._optimizer: torch.optim.Adam | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Embed rows.

        Parameters
        ----------
        x : Tensor, (rows, input_dim) or (T, rows, input_dim)

        Returns
        -------
        Tensor, (rows, embedding_dim) or (T, rows, embedding_dim)

        Raises
        ------
        ValueError
            If the answer is not finite, as from weights that are not; or ``x`` does not fit.
        """
        self._check_features("x", x)
        embeddings = self._embed(x)
        check_answer(embeddings, self, x=x)
        return embeddings

    def compute_prototypes(
        self, support_embeddings: Tensor, support_labels: Tensor, n_classes: int | None = None
    ) -> Tensor:
        """Return the mean embedding of each class, in the order of the sorted distinct labels.

        Parameters
        ----------
        support_embeddings : Tensor, (K, D) or (T, K, D)
        support_labels : Tensor, (K,) or (T, K), integer
            Any integers; classes may differ in their numbers of rows. In T episodes side by side each has labels of its
            own, and as many distinct ones as the others.
        n_classes : int, optional
            Says that the labels are 0 to n_classes - 1, and that none is missing. Needed inside `torch.vmap`, where
            values cannot be looked at; a class without rows would be NaN there, and is refused elsewhere.

        Returns
        -------
        Tensor, (n_classes, D) or (T, n_classes, D)
        """
        _check_rows("support_embeddings", support_embeddings)
        _check_labels("support_labels", support_labels, support_embeddings.shape[:-1])
        codes, n = self._support_codes("support_labels", support_labels, n_classes)
        prototypes = _means(support_embeddings, codes, n)
        check_answer(prototypes, support_embeddings=support_embeddings)
        return prototypes

    def classify(self, query_embeddings: Tensor, prototypes: Tensor) -> Tensor:
        """Return log-probabilities of the classes: each row's exponentials sum to 1.

        Parameters
        ----------
        query_embeddings : Tensor, (Q, D) or (T, Q, D)
        prototypes : Tensor, (n, D) or (T, n, D)

        Returns
        -------
        Tensor, (Q, n) or (T, Q, n)
        """
        _check_rows("query_embeddings", query_embeddings)
        _check_rows("prototypes", prototypes, query_embeddings.shape[-1], query_embeddings.dtype, "query_embeddings")
        if prototypes.shape[:-2] != query_embeddings.shape[:-2]:
            came, wanted = tuple(prototypes.shape), (*query_embeddings.shape[:-2], "n", query_embeddings.shape[-1])
            raise ValueError(f"prototypes: got shape {came}, expected {_written(wanted)} as in query_embeddings")
        log_p = self._log_probabilities(query_embeddings, prototypes)
        check_answer(log_p, query_embeddings=query_embeddings, prototypes=prototypes)
        return log_p

    def episode_forward(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_classes: int | None = None
    ) -> Tensor:
        """Return log-probabilities of the query rows' classes, from rows and labels of the support.

        Parameters
        ----------
        support_x : Tensor, (K, input_dim) or (T, K, input_dim)
        support_y : Tensor, (K,) or (T, K), integer
        query_x : Tensor, (Q, input_dim) or (T, Q, input_dim)
        n_classes : int, optional
            As in `compute_prototypes`.

        Returns
        -------
        Tensor, (Q, n) or (T, Q, n)
            Classes in the order of the sorted distinct labels of the support.

        Raises
        ------
        ValueError
            If the distances are not finite, as with features too large; or an argument does not fit.
        """
        self._check_episode(support_x, support_y, query_x)
        codes, n = self._support_codes("support_y", support_y, n_classes)
        return self._answer(support_x, codes, query_x, n)

    @torch.no_grad()
    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Return the likeliest label of each query row, (Q,) or (T, Q), without dropout and without gradients."""
        self._check_episode(support_x, support_y, query_x)
        classes = _distinct("support_y", support_y)
        with evaluating(self):
            best = self.episode_forward(support_x, support_y, query_x).argmax(-1)
        return classes.gather(-1, best)

    def query_losses(self, episodes: Episode, n_classes: int | None = None) -> Tensor:
        """Return the mean negative log-likelihood of the query labels, with gradients: what `meta_update` makes small.

        Parameters
        ----------
        episodes : tuple of four Tensor
            support_x, support_y, query_x, query_y as in `episode_forward`; query_y (Q,) or (T, Q), integer.
        n_classes : int, optional
            As in `compute_prototypes`.

        Returns
        -------
        Tensor, () or (T,)

        Raises
        ------
        ValueError
            If there is one class only, or the distances are not finite; or an argument does not fit.
        """
        if not isinstance(episodes, (tuple, list)) or len(episodes) != len(_FIELDS):
            came = f"{len(episodes)} parts" if isinstance(episodes, (tuple, list)) else type(episodes).__name__
            raise ValueError(f"episodes: got {came}, expected four tensors: {', '.join(_FIELDS)}")
        support_x, support_y, query_x, query_y = episodes
        self._check_episode(support_x, support_y, query_x, query_y)
        codes, n = self._support_codes("support_y", support_y, n_classes)
        if n < 2:
            raise ValueError("support_y: got one class, expected at least two: there is nothing to tell apart")
        wanted = _check_codes("query_y", query_y, n) if n_classes else _places("query_y", query_y, support_y)
        log_p = self._answer(support_x, codes, query_x, n)  # (..., Q, n)
        return -log_p.gather(-1, wanted.unsqueeze(-1)).squeeze(-1).mean(-1)

    def meta_update(self, episodes: Sequence[Episode] | Episode) -> float:
        """Take one step of Adam on the mean query loss of some episodes.

        Parameters
        ----------
        episodes : list of (support_x, support_y, query_x, query_y), or a tuple of four stacked tensors
            Shapes as in `query_losses`. Episodes may differ in their numbers of rows and classes; each counts the same.

        Returns
        -------
        float
            The mean query loss before the step.

        Raises
        ------
        ValueError
            If all parameters are frozen, or the loss or its gradient is too large to go on from; or an episode does
            not fit. Nothing has changed then.
        """
        groups = self._by_size(episodes)
        count = sum(len(group[0]) for group in groups)
        loss = torch.stack([self.query_losses(group).sum() for group in groups]).sum() / count
        refusal = (
            f"episodes: got a query loss of {float(loss.detach()):g} whose gradient is too large for {loss.dtype}, "
            "expected features of moderate size; standardise them"
        )
        return adam_step(self, loss, refusal)

    # The engine: nothing below looks at a value.

    def _embed(self, x: Tensor) -> Tensor:
        for layer in self.body:
            x = F.dropout(layer(x).relu(), self.dropout_rate, self.training)  # (..., rows, hidden)
        return self.head(x)  # (..., rows, D)

    def _answer(self, support_x: Tensor, codes: Tensor, query_x: Tensor, n: int) -> Tensor:
        shots = support_x.shape[-2]
        embedded = self._embed(torch.cat([support_x, query_x], dim=-2))  # (..., K + Q, D)
        prototypes = _means(embedded[..., :shots, :], codes, n)
        log_p = self._log_probabilities(embedded[..., shots:, :], prototypes)
        if _values_are_at_hand(log_p) and not torch.isfinite(log_p).all():
            check_weights(self)
            raise ValueError(f"query_x: got distances too large for {log_p.dtype}, expected features of moderate size")
        return log_p

    def _log_probabilities(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        if self.distance == "euclidean":
            logits = -squared_distances(queries, prototypes)
        else:
            logits = _cosines(queries, prototypes)
        return (logits / self.temperature).log_softmax(-1)  # (..., Q, n)

    # What comes in.

    def _check_features(self, name: str, x: Tensor) -> None:
        _check_rows(name, x, self.input_dim, self.head.weight.dtype, "the network's")

    def _check_episode(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *query_y: Tensor) -> None:
        self._check_features("support_x", support_x)
        _check_labels("support_y", support_y, support_x.shape[:-1])
        self._check_features("query_x", query_x)
        if query_x.shape[:-2] != support_x.shape[:-2]:
            wanted = (*support_x.shape[:-2], "rows", self.input_dim)
            raise ValueError(f"query_x: got shape {tuple(query_x.shape)}, expected {_written(wanted)} as in support_x")
        for labels in query_y:
            _check_labels("query_y", labels, query_x.shape[:-1])

    def _by_size(self, episodes: Sequence[Episode] | Episode) -> list[Episode]:
        """Stack episodes, those with equal shapes and numbers of classes together."""
        groups = []
        for group in stack_by_shape(episodes, _FIELDS, "episodes"):
            if group[1].ndim != 2 or 0 in group[1].shape:
                raise ValueError(f"support_y: got shape {tuple(group[1].shape)}, expected (episodes, rows)")
            self._check_episode(*group)
            counts = torch.tensor([len(row.unique()) for row in group[1]])
            groups += [tuple(part[counts == n] for part in group) for n in counts.unique()]
        return groups

    @staticmethod
    def _support_codes(name: str, labels: Tensor, n_classes: int | None) -> tuple[Tensor, int]:
        """Return labels as 0 to n - 1, and n."""
        if n_classes is None:
            if not _values_are_at_hand(labels):
                raise ValueError("n_classes: got None inside torch.vmap, expected the number of classes")
            classes = _distinct(name, labels)
            return torch.searchsorted(classes, labels.contiguous()), classes.shape[-1]
        check_count("n_classes", n_classes)
        codes = _check_codes(name, labels, n_classes)
        if _values_are_at_hand(labels):
            there = (codes.unsqueeze(-1) == torch.arange(n_classes, device=codes.device)).any(-2)
            if not there.all():
                empty = int((~there).nonzero()[0, -1])
                raise ValueError(f"{name}: got no row of class {empty}, expected each of 0 to {n_classes - 1}")
        return codes, n_classes


def squared_distances(queries: Tensor, prototypes: Tensor) -> Tensor:
    r"""Return :math:`\lVert q - c \rVert^2` of each pair: (..., Q, D) and (..., n, D) -> (..., Q, n).

    It is computed from the differences themselves. The form :math:`\lVert q \rVert^2 - 2 q c + \lVert c \rVert^2` is
    faster where D is large, and loses its digits far from the origin.
    """
    return (queries.unsqueeze(-2) - prototypes.unsqueeze(-3)).square().sum(-1)


def _cosines(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Return minus the cosine distance, (..., Q, n)."""
    return _directions(queries) @ _directions(prototypes).mT - 1


def _directions(rows: Tensor) -> Tensor:
    """Scale rows to length 1, (..., D), however large they came: the square of 1e20 has no place in float32."""
    largest = rows.detach().abs().amax(-1, keepdim=True)
    return F.normalize(rows / largest.clamp(min=torch.finfo(rows.dtype).tiny), dim=-1)


def _means(embeddings: Tensor, codes: Tensor, n: int) -> Tensor:
    """Return the mean of the rows of each code: (..., K, D) and (..., K) -> (..., n, D)."""
    member = codes.unsqueeze(-1) == torch.arange(n, device=codes.device)  # (..., K, n)
    member = member.to(embeddings.dtype)
    return member.mT @ embeddings / member.sum(-2).unsqueeze(-1)


def _distinct(name: str, labels: Tensor) -> Tensor:
    """Return the sorted distinct labels, (n,) or (T, n)."""
    if labels.ndim == 1:
        return labels.unique()
    ordered = labels.sort(dim=1).values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    counts = first.sum(1)
    if (counts != counts[0]).any():
        raise ValueError(f"{name}: got episodes of {int(counts.min())} to {int(counts.max())} classes, expected as "
                         "many in each")  # fmt: skip
    return ordered[first].view(len(labels), -1)


def _places(name: str, labels: Tensor, support: Tensor) -> Tensor:
    """Return where each label stands among the distinct labels of the support."""
    classes = _distinct("support_y", support)
    places = torch.searchsorted(classes, labels.to(classes.dtype).contiguous())
    places = places.clamp(max=classes.shape[-1] - 1)
    strange = classes.gather(-1, places) != labels
    if strange.any():
        raise ValueError(f"{name}: got label {int(labels[strange][0])}, expected labels that the support has")
    return places


def _check_rows(
    name: str, value: Tensor, width: int | None = None, dtype: torch.dtype | None = None, whose: str = ""
) -> None:
    """Refuse anything but finite floats (rows, width) or (T, rows, width), none of them empty."""
    wanted = f"(rows, {width or 'D'}) or (T, rows, {width or 'D'})"
    if not isinstance(value, Tensor) or not value.is_floating_point():
        came = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: got {came}, expected a float tensor {wanted}")
    if value.ndim not in (2, 3) or 0 in value.shape or width not in (None, value.shape[-1]):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {wanted}, nothing empty")
    if dtype not in (None, value.dtype):
        raise ValueError(f"{name}: got dtype {value.dtype}, expected {dtype} as {whose}")
    check_dense(name, value)
    check_finite(name, value)


def _check_labels(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or value.dtype not in _INTEGERS or value.shape != shape:
        came = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: got {came}, expected integer labels of shape {tuple(shape)}")
    check_dense(name, value)


def _check_codes(name: str, labels: Tensor, n_classes: int) -> Tensor:
    if _values_are_at_hand(labels) and not ((labels >= 0) & (labels.long() < n_classes)).all():
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(f"{name}: got labels from {low} to {high}, expected 0 to {n_classes - 1}")
    return labels.long()


def _written(shape: tuple) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
