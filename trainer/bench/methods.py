"""One fit of each method in a process of its own: CPU seconds and peak memory, against logistic regression.

Processor time of all threads, since other work on the machine weighs on the clock on the wall. Four validation images a
class, so that every choice is made.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from trainer.bench.rows import Ratio, Sizes
from trainer.data.draws import MOST_TO_CHOOSE_BY

REFERENCE = "logistic"


def method_rows(sizes: Sizes) -> Iterator[Ratio]:
    """CPU seconds and megabytes of logistic regression and of the others, on one CPU thread, at the first width.

    Raises:
        UserError: an unknown method.
    """
    from stages.training import TrainParams
    from trainer.methods import methods

    methods(sizes.methods, settings=TrainParams())
    what = f"{sizes.classes:,} classes, {sizes.shots} shots, D={sizes.widths[0]}"
    reference: tuple[float, float] | None = None
    for name in dict.fromkeys((REFERENCE, *sizes.methods)):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(_fit, name, sizes).result()
        reference = reference or found
        yield Ratio.of(f"{name}, {what}", found[0], reference[0], "CPU s", less_is_better=True)
        yield Ratio.of(f"{name}, {what}: peak memory", found[1], reference[1], "MB", less_is_better=True)


def _fit(name: str, sizes: Sizes) -> tuple[float, float]:
    """CPU seconds of a fit, and the most memory that this process has held, in MB."""
    import torch

    from stages.training import TrainParams
    from trainer.bench.generated import made_task
    from trainer.data import Images, Task
    from trainer.data.draws import split_off
    from trainer.methods import methods

    torch.set_num_threads(1)
    task, unseen = made_task(
        classes=sizes.classes, shots=sizes.shots, prompts=sizes.prompts, width=sizes.widths[0],
        device=torch.device("cpu"),
    )  # fmt: skip
    val, _ = split_off(unseen, min(sizes.shots, MOST_TO_CHOOSE_BY), seed=1)
    (method,) = methods([name], settings=TrainParams())
    start = time.process_time()
    method.fit(Task(task.text, task.train, Images(val.embeddings, val.labels)), seed=1)
    seconds = time.process_time() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
