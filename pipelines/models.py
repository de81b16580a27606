"""What the passes learn of all files together, and hand to the next one."""

from collections.abc import Mapping
from typing import Any, TypeAlias

#: The key under which the expectations' metrics travel; no check may have this name (names have no slash).
EXPECTATIONS = "expectations/metrics"

#: check name -> its model after a pass, or why it has none; `EXPECTATIONS` -> the merged metrics.
Models: TypeAlias = Mapping[str, Any]
