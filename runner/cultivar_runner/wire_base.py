"""Base of the generated wire types."""

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """Takes what it needs and passes over what it does not know, so that a newer server is still understood."""

    model_config = ConfigDict(extra="ignore", frozen=True)
