"""Aligned Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns padded to one width; columns whose first cell is a number are set right."""
    body = [tuple(row) for row in rows]
    columns = list(zip(header, *body, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]
    right = [len(column) > 1 and column[1][:1].isdigit() for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(cells, widths, right, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = (f"{'-' * (width - 1)}:" if flush else "-" * width for width, flush in zip(widths, right, strict=True))
    return "\n".join([line(header), f"| {' | '.join(rule)} |", *(line(row) for row in body)])
