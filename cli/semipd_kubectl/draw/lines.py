"""Lines, tables and trees of toned text for a terminal, plain where stdout is none or NO_COLOR is set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GOOD, BAD, WARN, DIM, BOLD, PLAIN = "green", "red", "yellow", "dim", "bold", ""
UNBOUNDED = 100_000  # columns, where no terminal sets a limit: lines stay whole for grep
GAP = 2


def toned(text: str, tone: str = PLAIN) -> Text:
    return Text(text, style=tone)


def joined(parts: Iterable[Text | str], gap: str = "  ") -> Text:
    return Text(gap).join(part if isinstance(part, Text) else Text(part) for part in parts)


def columns(rows: Sequence[Sequence[Text]], right: frozenset[int] = frozenset()) -> list[Text]:
    """Rows of one length as aligned lines; columns in `right` end at the same place."""
    widths = [max((row[index].cell_len for row in rows), default=0) for index in range(len(rows[0]))]
    return [_row(row, widths, right) for row in rows]


def _row(row: Sequence[Text], widths: Sequence[int], right: frozenset[int]) -> Text:
    line = Text()
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - cell.cell_len)
        line += Text(" " * GAP if index else "")
        line += Text(space) + cell if index in right else cell + Text(space)
    line.rstrip()
    return line


class Indented:
    """A paragraph `indent` columns in, its further lines `hanging` more; `label` stands in the first line's indent."""

    def __init__(self, text: Text, indent: int = 2, hanging: int = 2, label: Text | None = None) -> None:
        self._text = text
        self._indent = indent
        self._hanging = hanging
        self._label = Text(" " * indent) if label is None else label

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(20, options.max_width - self._indent - self._hanging)
        for index, line in enumerate(self._text.wrap(console, width)):
            line.rstrip()
            start = Text(" " * (self._indent + self._hanging)) if index else self._label.copy()
            yield start.append_text(line)


def shortened(text: str, length: int) -> str:
    """The middle goes: pods differ at their ends."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def open_console(*, columns_given: bool, is_terminal: bool, no_color: bool) -> Console:
    """`columns_given`: $COLUMNS is set. `no_color`: no codes at all, bold and dim ones neither (https://no-color.org)."""
    width = None if is_terminal or columns_given else UNBOUNDED
    return Console(
        width=width, color_system=None if no_color else "auto", highlight=False, soft_wrap=False, markup=False
    )
