"""What the readers of all forms give."""

import numpy as np

Values = np.ndarray | list[str]
"""An array of numbers, or a list of texts."""
UNNAMED = ""
"""The key of the one array of a file that has no names in it."""
