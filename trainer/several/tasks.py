"""The tasks of several data sets, as a method may see them: no test image is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.data import Task, check_task


@dataclass(frozen=True)
class SeveralTask:
    """Tasks of one encoder.

    Attributes:
        tasks: data set -> its shots, and its images for choices; all have the same width.
        own: the data set that the run is of.
    """

    tasks: Mapping[str, Task]
    own: str

    @property
    def others(self) -> dict[str, Task]:
        """Those of the other data sets."""
        return {name: task for name, task in self.tasks.items() if name != self.own}

    def check(self) -> None:
        """Refuse a task that no method can learn from.

        Raises:
            UserError: see `trainer.data.check_task`.
        """
        for task in self.tasks.values():
            check_task(task)
