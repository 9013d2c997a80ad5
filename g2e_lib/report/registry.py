"""What can be drawn from stored results, by name: tables and figures register themselves with a decorator.

Notebooks save their own tables and figures through this list, and 07_figures draws all of them again, so both are the
same bytes.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A table or a figure.

    `make` gets the metrics in order; also `profile` (its name) and `results` (the folder), if it has such parameters.
    It returns None, or an empty table, if there is nothing to show. Its docstring's first line is the caption.
    """

    kind: str  # "table" or "figure"
    name: str  # of its files
    make: Callable[..., Any]
    needs: tuple[str, ...]  # names of metrics files, without suffix
    may_use: tuple[str, ...] = ()  # further ones, given as None where they are missing
    arguments: dict[str, Any] = field(default_factory=dict)  # further ones of `make`
    label: str = ""  # what tells it from others that the same function makes

    @property
    def caption(self) -> str:
        """One sentence on what is shown."""
        line = (inspect.getdoc(self.make) or "").partition("\n")[0]
        return f"{line.rstrip('.')} ({self.label})." if self.label else line

    def drawn(self, metrics: list[Any], **known: object) -> Any:  # noqa: ANN401 (a table, a figure, or None)
        """Make it; None if there is nothing to show."""
        wanted = {name: known[name] for name in inspect.signature(self.make).parameters if name in known}
        made = self.make(*metrics, **self.arguments, **wanted)
        return None if getattr(made, "empty", False) else made


ENTRIES: dict[tuple[str, str], Entry] = {}  # by kind and name, in the order of the report


def _register(
    kind: str, name: str, /, needs: tuple[str, ...], may_use: tuple[str, ...] = (), label: str = "", **arguments: object
) -> Callable[[Callable], Callable]:
    """Register the decorated function, see Entry; it may have more names, each with its own arguments."""

    def keep(make: Callable) -> Callable:
        ENTRIES[kind, name] = Entry(kind, name, make, needs, may_use, arguments, label)
        return make

    return keep


table, figure = partial(_register, "table"), partial(_register, "figure")


def find(kind: str, name: str) -> Entry:
    """The entry of a name.

    Raises:
        ValueError: there is none.
    """
    if (kind, name) not in ENTRIES:
        known = ", ".join(other for other_kind, other in ENTRIES if other_kind == kind)
        raise ValueError(f"there is nothing called {name!r} to draw: choose one of {known}")
    return ENTRIES[kind, name]
