"""A head as a program of torch.export or ONNX."""

from __future__ import annotations

import io
import warnings

import torch
from torch.nn.functional import normalize

from stages.errors import UserError
from trainer.checkpoint import Checkpoint
from trainer.export.heads import Probabilities, head_of, name_of

INPUT, OUTPUT, BATCH = "images", "probabilities", "batch"
EXAMPLE_ROWS = 3
"""Rows of the example input; PyTorch takes sizes 0 and 1 for constants."""


def program_of(found: Checkpoint) -> torch.export.ExportedProgram:
    """The head as a program for any number of images, from embeddings to probabilities.

    Raises:
        UserError: the classifier has no such form.
    """
    example = normalize(torch.ones(EXAMPLE_ROWS, int(found.provenance["width"])), dim=-1)
    whole = Probabilities(head_of(found), found.temperature).eval()
    try:
        return torch.export.export(whole, (example,), dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},))
    except (RuntimeError, TypeError, ValueError) as error:
        name, reason = name_of(found), " ".join(str(error).split())[:200]
        raise UserError(f"{found.path}: {name} cannot become a program ({reason}): take --format numpy") from error


def torch_of(program: torch.export.ExportedProgram) -> bytes:
    """As a file for `torch.export.load`."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx_of(program: torch.export.ExportedProgram) -> bytes:
    """As an ONNX file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own deprecated calls
        converted = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, external_data=False, verbose=False
        )
    assert converted is not None
    model = converted.model_proto
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # PyTorch's own
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = size.dim_param.replace(symbol, BATCH)
    data: bytes = model.SerializeToString()
    return data
