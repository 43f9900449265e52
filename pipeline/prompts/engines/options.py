"""How a language model is loaded: what a user may choose, passed through to the engine."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Settings of the loaded model; None leaves the engine's own default.

    Attributes:
        revision: branch, tag or commit on the hub.
        dtype: `auto`, `bfloat16`, `float16` or `float32`.
        tensor_parallel_size: GPUs that share one model.
        max_model_len: longest question and answer together, in tokens; None: 1024, or what the model takes if that is
            less.
        quantization: vLLM's name of a quantisation method (`awq`, `gptq`, `fp8`, ...).
        gpu_memory_utilization: share of the GPU's memory that vLLM may take, in (0, 1].
    """

    revision: str | None = None
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    quantization: str | None = None
    gpu_memory_utilization: float | None = None
