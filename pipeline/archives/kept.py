"""What a process keeps of containers between two images: bounded, and under what their file is now."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The values used last, as many as their weights allow; one process's, any thread's."""

    def __init__(self, most: int, weight: Callable[[Value], int]) -> None:
        self.most, self.weight = most, weight
        self.values: OrderedDict[Any, Value] = OrderedDict()
        self.lock = threading.Lock()
        self.total = 0

    def get(self, key: Any, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not there; others leave for it. The newest stays, whatever it weighs."""
        with self.lock:
            if key not in self.values:
                self.values[key] = make()
                self.total += self.weight(self.values[key])
                while self.total > self.most and len(self.values) > 1:
                    self.total -= self.weight(self.values.popitem(last=False)[1])
            self.values.move_to_end(key)
            return self.values[key]


def stamp(file: Path) -> tuple[str, int, int]:
    """What a file is kept under: written anew it is another file."""
    facts = file.stat()
    return str(file), facts.st_mtime_ns, facts.st_size
