"""Tables and sentences that fit the terminal: names break at the ends of words, a table too wide becomes several."""

import math
import re
import textwrap
from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

_NARROWEST, _WIDEST = 16, 30  # to which the first column, and any cell, is broken into lines
_FRAME = 3  # columns of the terminal that a column takes beside its text


def print_text(console: Console, text: str) -> None:
    """A sentence or more, broken at the ends of words; of a text that has several lines each for itself."""
    for line in text.split("\n"):
        lines = textwrap.wrap(line, console.width, break_long_words=False, break_on_hyphens=False)
        console.print(Text("\n".join(lines)), soft_wrap=True)


def print_table(
    console: Console,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str] | None],
    words: Collection[str] = (),
    num_names: int = 1,
) -> None:
    """A table under its title; as many as it takes, each with the first columns, where it is wider than the terminal.

    Args:
        console: where.
        title: may be empty.
        header: a text a column, broken at spaces where that makes the table narrower.
        rows: a text a column, of several lines perhaps, the second and later of which are ranges; None is a rule.
        words: headers of columns that hold words in place of numbers and ranges.
        num_names: how many columns, the first and those beside it, say what a row is of, and are in every table.
    """
    cells = [row for row in rows if row is not None]
    first = max(cell_len(line) for text in (header[0], *(row[0] for row in cells)) for line in text.split("\n"))
    longest = max((cell_len(piece) for row in cells for word in row[0].split() for piece in _pieces(word)), default=0)
    least = min(first, max(_NARROWEST, min(longest, _WIDEST)))
    widths = [_width(header[i], [row[i] for row in cells]) for i in range(1, len(header))]
    beside, widths = widths[: num_names - 1], widths[num_names - 1 :]
    room = console.width - 1 - _FRAME - sum(width + _FRAME for width in beside)
    unbroken = [max(width, cell_len(text)) for width, text in zip(widths, header[num_names:], strict=True)]
    if len(_split(unbroken, room - least)) == len(_split(widths, room - least)):
        widths = unbroken
    while first > least and len(_split(widths, room - first)) > len(_split(widths, room - least)):
        first -= 1
    first = min(first, max(least, room - min(widths, default=0) - _FRAME))
    if title:
        print_text(console, title)
    for free in _split(widths, room - first):
        columns = [*range(num_names - 1), *(num_names - 1 + i for i in free)]
        widths_of_all = [*beside, *widths]
        table = Table(broken(header[0], first))
        for i in columns:
            justify: JustifyMethod = "left" if header[1 + i] in words else "right"
            table.add_column(broken(header[1 + i], widths_of_all[i]), justify=justify)
        for row in rows:
            if row is None:
                table.add_section()
            else:
                name = Text("\n".join(broken(line, first) for line in row[0].split("\n")))
                cells_of = ((header[1 + i] in words, broken(row[1 + i], widths_of_all[i])) for i in columns)
                table.add_row(name, *(Text(text) if is_words else _cell(text) for is_words, text in cells_of))
        console.print(table)


def broken(text: str, width: int) -> str:
    """A text in lines of at most `width`: at spaces; a word that is longer, after / - _ . and :, and else anywhere."""
    lines = []
    for line in text.split("\n"):
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]:
            current = ""
            for piece in _pieces(part) if cell_len(part) > width else [part]:
                if current and cell_len(current + piece) > width:
                    lines.append(current)
                    current = ""
                current += piece
                while cell_len(current) > width:
                    lines.append(current[:width])
                    current = current[width:]
            lines.append(current)
    return "\n".join(lines)


def _pieces(word: str) -> list[str]:
    """What a word may be broken between. A point within a number, or a sign before one, is no place to break."""
    return re.findall(r".+?(?:[/_:](?=.)|(?<=\w)[-.](?=[A-Za-z])|(?<=\d)-(?=\d)|$)", word)


def _width(header: str, column: Sequence[str]) -> int:
    words = [min(cell_len(word), _WIDEST) for word in header.split()]
    lines = [min(cell_len(line), _WIDEST) for text in column for line in text.split("\n")]
    return max([*words, *lines, 0])


def _split(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each table, at least one in each, and about as many in one as in another."""
    fewest = len(_filled(widths, room, len(widths)))
    counts = range(math.ceil(len(widths) / fewest), len(widths) + 1)
    return next(tables for tables in (_filled(widths, room, count) for count in counts) if len(tables) == fewest)


def _filled(widths: Sequence[int], room: int, most: int) -> list[list[int]]:
    """That with as many columns in a table as there is room for, and at most so many."""
    tables: list[list[int]] = [[]]
    left = room
    for i, width in enumerate(widths):
        if tables[-1] and (width + _FRAME > left or len(tables[-1]) == most):
            tables.append([])
            left = room
        tables[-1].append(i)
        left -= width + _FRAME
    return tables


def _cell(text: str) -> Text:
    """Ranges are dim beside what they are of."""
    first, *rest = text.split("\n", 1)
    return Text(first).append("\n" + rest[0], style="dim") if rest else Text(first)
