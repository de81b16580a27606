"""A kernel that measures some rows only: those that a row condition means."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from millcert.checks.metric_columns import BatchView
from millcert.checks.metric_filter import RowFilter
from millcert.checks.metric_kernels import Kernel


@dataclass(frozen=True)
class Where:
    """Another kernel, on the rows that a filter means. Size: as that kernel's."""

    rows: RowFilter
    kernel: Kernel

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return tuple(dict.fromkeys([*self.rows.columns, *self.kernel.columns]))

    def measure(self, view: BatchView) -> Iterator[tuple[str, Any]]:
        """See `Kernel`. All kernels of one filter share the batch that it leaves."""
        yield from self.kernel.measure(view.where(self.rows, self.rows.mask))

    def fold(self, name: str, part: Any, new: Any) -> Any:
        """See `Kernel`."""
        return self.kernel.fold(name, part, new)

    def merge(self, name: str, parts: Sequence[Any]) -> Any:
        """See `Kernel`."""
        return self.kernel.merge(name, parts)


def inner(kernel: Kernel) -> Kernel:
    """Return the kernel without its filter."""
    return kernel.kernel if isinstance(kernel, Where) else kernel
