"""Output items of the latest responses, so that a conversation may name them by their ids instead of sending them."""

import threading
from collections import OrderedDict
from typing import Literal

Kind = Literal["reasoning", "message"]
MAX_CHARACTERS = 8_000_000  # of all texts together, at most 4 bytes each
ITEM_CHARACTERS = 200  # what an item takes beside its text


class KeptItems:
    """Texts of output items by id, in memory; those that were not named for the longest time make room for new ones.

    The AI SDK names the items of former replies (`item_reference`) unless its user says otherwise. An id is random, so
    only who was sent an item can name it.
    """

    def __init__(self, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_characters, self._characters = max_characters, 0
        self._items: OrderedDict[str, tuple[Kind, str]] = OrderedDict()
        self._lock = threading.Lock()  # long bodies are parsed in threads

    def keep(self, item_id: str, kind: Kind, text: str) -> None:
        """Keep an item under a new id."""
        with self._lock:
            self._items[item_id] = kind, text
            self._characters += len(text) + ITEM_CHARACTERS
            while self._characters > self._max_characters:
                _, (_, dropped) = self._items.popitem(last=False)
                self._characters -= len(dropped) + ITEM_CHARACTERS

    def find(self, item_id: str) -> tuple[Kind, str] | None:
        """Return an item's kind and text; None if it is not kept, or no longer."""
        with self._lock:
            if item_id in self._items:
                self._items.move_to_end(item_id)
            return self._items.get(item_id)
