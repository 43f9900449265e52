"""The device that the user names."""

import pytest
import torch

from stages import UserError
from stages.device import pick_device


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["foo", "", "cuda:x", "cuda:99", "cpu:3", "meta", "GPU", "cuda"])
def test_what_is_not_there_is_one_line_that_says_what_is(name: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=f"device '{name}'.*known: auto, cpu") as caught:
        pick_device(name)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
