"""What every section of the settings is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def overridden(self, keys: Mapping[str, Any]) -> Self:
        """The section with other values for some keys; of a group given in part the rest stays. Raises ValidationError."""
        values: dict[str, Any] = self.model_dump(mode="json")
        for key, value in keys.items():
            is_part = isinstance(value, Mapping) and isinstance(values.get(key), dict)
            values[key] = {**values[key], **value} if is_part else value
        return type(self)(**values)
