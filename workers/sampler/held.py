"""Models that are held in memory: those used last, so many at most."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Model = TypeVar("Model")


class Held(Generic[Model]):
    """The models used last, by the id of their checkpoint. A new one is loaded beside the others, which go on working.

    Args:
        load: reads the model of a checkpoint.
        most: how many are held.
    """

    def __init__(self, load: Callable[[str], Model], most: int) -> None:
        self.load = load
        self.most = most
        self.models: OrderedDict[str, Model] = OrderedDict()
        self.lock = threading.Lock()
        self.loading = threading.Lock()

    def get(self, identity: str) -> Model:
        """The model of checkpoint ``identity``. What ``load`` raises is raised, and the others stay."""
        found = self.held_now(identity)
        if found is not None:
            return found
        with self.loading:
            found = self.held_now(identity)
            if found is not None:
                return found
            model = self.load(identity)
            with self.lock:
                self.models[identity] = model
                while len(self.models) > self.most:
                    self.models.popitem(last=False)
            return model

    def held_now(self, identity: str) -> Model | None:
        with self.lock:
            found = self.models.get(identity)
            if found is not None:
                self.models.move_to_end(identity)
            return found

    def ids(self) -> list[str]:
        """Of the models that are held, the one used last at the end."""
        with self.lock:
            return list(self.models)
