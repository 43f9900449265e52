"""Imported by the process that all trials are forked from: what their commands import."""

from pipeline.torchvision_mend import mend_torchvision

mend_torchvision()
import open_clip  # noqa: E402, F401
import sklearn.linear_model  # noqa: E402, F401

import trainer.analysis.gap  # noqa: E402
import trainer.cli  # noqa: E402
import trainer.export  # noqa: E402
import trainer.predict  # noqa: E402
import trainer.report  # noqa: E402
import trainer.runs.run  # noqa: E402
import trainer.studies.compare  # noqa: E402, F401
from tests.campaign import project, trials  # noqa: E402, F401
