"""Placeholder until the trainer's settings arrive."""
from pydantic import BaseModel, ConfigDict
class TrainParams(BaseModel):
    """train section."""
    model_config = ConfigDict(extra="forbid", frozen=True)
