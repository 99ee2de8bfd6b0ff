"""Parts that are known by name, also in what `state_dict` keeps and `load_state_dict` reads."""

import json
import re
from collections.abc import MutableMapping

import torch
from torch import Tensor, nn

_KEY = "names"


class NamedParts(nn.Module):
    """A network with parts of its own for each task, domain or goal, whose state knows which is whose.

    Within the network the parts are numbered, in the order in which they were named. The state holds the names as well,
    under the key ``names``, and is loaded by name, whatever the order; other names, or none, are refused with a
    ``ValueError`` before anything is loaded. They are kept as the bytes of a JSON list, since what stores or compares
    states expects tensors.

    A subclass says what is numbered:

    - ``_named``: the attribute that holds the names, each a str or an int, such as ``"tasks"``.
    - ``_parts``: beginnings of keys of the state that go on with a number, such as ``"task_heads."``.
    - ``_rows``: beginnings of keys of tensors with one row a name, such as ``"task_embeddings"``.
    """

    _named = "tasks"
    _parts: tuple[str, ...] = ()
    _rows: tuple[str, ...] = ()

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        names = json.dumps(getattr(self, self._named)).encode()
        destination[prefix + _KEY] = torch.tensor(list(names), dtype=torch.uint8, device="cpu")

    def _load_from_state_dict(self, state_dict, prefix, *others) -> None:
        self._put_in_order(state_dict, prefix)  # a copy of what was handed to `load_state_dict`
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _put_in_order(self, state: MutableMapping[str, Tensor], prefix: str) -> None:
        """Number the parts of a state as this network does, and take the names out."""
        numbered = re.compile(rf"({'|'.join(re.escape(prefix + part) for part in self._parts) or '(?!)'})(\d+)(.*)")
        with_rows = tuple(prefix + row for row in self._rows)
        mine, theirs = list(getattr(self, self._named)), _names(state.pop(prefix + _KEY, None))
        if not theirs and not any(numbered.fullmatch(key) or key.startswith(with_rows) for key in state):
            return  # nothing that belongs to a name
        if len(theirs) != len(mine) or not all(name in theirs for name in mine):
            came = f"the {self._named} {_words(theirs)}" if theirs else f"no names of {self._named}"
            raise ValueError(f"state_dict: got {came}, expected {_words(mine)}")
        order = [theirs.index(name) for name in mine]
        place = {str(there): str(here) for here, there in enumerate(order)}
        entries = list(state.items())
        state.clear()
        for key, value in entries:
            if found := numbered.fullmatch(key):
                key = found[1] + place.get(found[2], found[2]) + found[3]
            elif key.startswith(with_rows) and isinstance(value, Tensor) and value.shape[:1] == (len(order),):
                value = value.detach()[order]
            state[key] = value


def _names(stored: object) -> list:
    """The names in what a state holds of them; none if that cannot be read."""
    try:
        names = json.loads(bytes(stored.byte().tolist()))
    except (AttributeError, TypeError, ValueError):
        return []
    return names if isinstance(names, list) else []


def _words(names: list) -> str:
    return ", ".join(map(repr, names)) or "none"
