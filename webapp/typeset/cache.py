"""A cache of what texts were made into, bounded by what it weighs and not by how many there are."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class WeighedCache(Generic[Value]):
    """What ``make`` made of texts, of those used last; all that is kept weighs ``most_bytes`` at most, texts included.

    ``weigh`` tells the bytes of a text and its value. What is heavier than a sixteenth of the whole is not kept: it
    would drive too much else out. Safe to use from several threads.
    """

    def __init__(self, most_bytes: int, make: Callable[[str], Value], weigh: Callable[[str, Value], int]) -> None:
        self.most_bytes, self.make, self.weigh = most_bytes, make, weigh
        self.bytes = 0
        self.kept: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self.lock = Lock()

    def __call__(self, key: str) -> Value:
        """The value of ``key``, made anew where it is not kept."""
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key][0]
        value = self.make(key)  # outside the lock: others need not wait for it, and made twice it does no harm
        weight = self.weigh(key, value)
        if weight > self.most_bytes // 16:
            return value
        with self.lock:
            if key not in self.kept:
                self.kept[key] = value, weight
                self.bytes += weight
            while self.bytes > self.most_bytes:
                _, (_, lighter) = self.kept.popitem(last=False)
                self.bytes -= lighter
        return value
