"""Settings of AAPE: the `train:` section of params.yaml, declared beside the other sections in `stages/training.py`."""

from stages.training import TrainParams as AAPESettings

__all__ = ["AAPESettings"]
