"""The `train.language:` section: the frozen language model of captioning and VQA, and the map that is learned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from stages.numbers import Count, Number, Positive


class LanguageParams(BaseModel):
    """Settings of captioning and VQA. The model writes its words greedily or by beam search, never by sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    llm: str = Field("smollm2", min_length=1, description="alias, hub id, local folder or GGUF file; it stays frozen")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the model; auto: bfloat16 on a GPU and on a CPU with AMX, float32 on others"
    )
    prefix_tokens: Annotated[int, Field(ge=1, le=1024)] = Field(
        4, description="k, input embeddings that the image vector becomes"
    )
    start: Literal["ridge", "random"] = Field(
        "ridge",
        description="of the map: words that a caption may follow plus the ridge map onto the mean embedding of an "
        "image's caption words, or random values (LiMBeR)",
    )
    lr: Positive = Field(
        0.1, description="peak learning rate (AdamW, half a cosine), as a share of the spread of input embeddings"
    )
    weight_decay: Number = Field(0.01, ge=0, description="weight decay of the map")
    batch: Annotated[int, Field(ge=1, le=100_000)] = Field(4, description="images a step, one caption of each")
    epochs: Count = Field(5, description="passes over the images, one caption of each drawn anew")
    caption_tokens: Annotated[int, Field(ge=1, le=4096)] = Field(
        20, description="longest caption, tokens: learned from, longer ones are cut, and written"
    )
    beams: Annotated[int, Field(ge=1, le=64)] = Field(1, description="width of the beam search; 1 is greedy")
    answer_tokens: Annotated[int, Field(ge=1, le=512)] = Field(10, description="longest answer to a question, tokens")
    decode_batch: Count = Field(64, description="prompts at once")

    @property
    def beams_text(self) -> str:
        """How words are chosen."""
        return "greedy" if self.beams == 1 else f"{self.beams} beams"
