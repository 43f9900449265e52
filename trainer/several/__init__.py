"""Learning over several data sets of one encoder: one h and g for all, or a start of them for a set that comes later.

`joint.py` descends on the losses of all sets at once, `meta.py` learns a start from which few steps go far;
`methods.py` lists what the protocols `multitask` and `meta` compare, each with its control.
"""

from trainer.several.tasks import SeveralTask

__all__ = ["SeveralTask"]
