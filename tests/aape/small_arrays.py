"""Embeddings as a user holds them: float64 arrays of any length, class text near them, as many prompts as there are."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

WIDTH, CLASSES = 12, 4
NAMES = ["cat", "dog", "emu", "fox"]


@dataclass(frozen=True)
class Small:
    """Images to learn from and to judge, and the arguments of `fit` that speak of classes."""

    X: np.ndarray
    y: np.ndarray
    X_new: np.ndarray
    y_new: np.ndarray
    text: dict[str, Any] = field(default_factory=dict)


def small(*, seed: int = 0, shots: int = 6, noise: float = 0.8) -> Small:
    """Four classes scattered around directions; class c has c + 2 prompts."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, WIDTH))

    def near(labels: np.ndarray, spread: float) -> np.ndarray:
        return centres[labels] + spread * rng.normal(size=(len(labels), WIDTH))

    y, y_new = np.repeat(np.arange(CLASSES), shots), np.repeat(np.arange(CLASSES), 10)
    classes = np.arange(CLASSES)
    prompts = [near(np.full(c + 2, c), 0.5) for c in classes]
    text = {"class_names": NAMES, "templates": near(classes, 0.7), "prompts": prompts}
    return Small(near(y, noise), y, near(y_new, noise), y_new, text)
