"""What a server sends back, checked before any of it is believed.

The client of the `openai` package does not check replies, so their bodies are read here. A body may be broken JSON,
have another shape, or hold text that cannot be stored (invalid UTF-8, half of a surrogate pair): the first two are
faults, the third becomes replacement characters, since one odd answer of a model is no reason to lose a batch.
"""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

Shape = TypeVar("Shape", bound=BaseModel)


class Message(BaseModel):
    """The assistant's turn; null where a model said nothing, or declined (`refusal`)."""

    content: str | None = None
    refusal: Any = None

    @property
    def said(self) -> str | None:
        """What it said; a reason to decline stands in its place."""
        return self.content or (self.refusal if isinstance(self.refusal, str) else None)


class Choice(BaseModel):
    """One answer of a chat (`message`) or of a plain completion (`text`); `token_ids` only vLLM sends."""

    message: Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None

    @model_validator(mode="after")
    def _has_either(self) -> "Choice":
        if not {"message", "text"} & self.model_fields_set:
            raise ValueError("neither message nor text")
        return self


class Usage(BaseModel):
    """Tokens of all choices together."""

    completion_tokens: int | None = None


class Reply(BaseModel):
    """The body of /chat/completions or /completions."""

    choices: list[Choice] = Field(min_length=1)
    usage: Usage | None = None


class Model(BaseModel):
    """One entry of /models. `root` is what vLLM loaded under the name `id`; the lengths have other names elsewhere."""

    id: str
    root: str | None = None
    owned_by: str | None = None
    max_model_len: Any = None
    context_length: Any = None
    context_window: Any = None

    @property
    def context(self) -> int | None:
        """Tokens of question and answer together, where the server says."""
        lengths = (self.max_model_len, self.context_length, self.context_window)
        return next((n for n in lengths if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)


class Models(BaseModel):
    """The body of /models."""

    data: list[Model]


def read(shape: type[Shape], body: bytes) -> Shape:
    """Read a body as `shape`; text that is not valid Unicode gets replacement characters.

    Raises:
        ValueError: broken JSON or another shape, said in a few words.
    """
    try:
        # Whole surrogate pairs are joined by the parser; what is left of them afterwards cannot be written as UTF-8.
        parsed = json.dumps(json.loads(body.decode("utf-8", "replace")), ensure_ascii=False)
        return shape.model_validate_json(
            parsed.encode("utf-8", "surrogatepass").decode("utf-8", "replace"), strict=True
        )
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"of another shape ({where or 'body'}: {fault['msg']})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({plain(body.decode('utf-8', 'replace'), 60)!r})") from error


def plain(text: str, longest: int = 200) -> str:
    """Foreign text for an error message: one line, nothing that a terminal obeys, not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    return line if len(line) <= longest else line[:longest] + "..."
