"""The form of every benchmark's results, their file and their tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, TypedDict

from mila_ros.errors import UserError

OUT = Path("out/bench")


class Row(TypedDict):
    """One number."""

    question: str
    method: str
    setting: str
    metric: str
    value: float
    unit: str


def write(rows: Iterable[Row], path: Path) -> None:
    """As a JSON list, one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def finish(rows: list[Row], path: Path) -> None:
    """Write the rows, and print their tables and where they are."""
    write(rows, path)
    print(f"{tables(rows)}\n\n{path}")


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """A benchmark as a program: what is wrong with its arguments is a sentence."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")


def tables(rows: Iterable[Row]) -> str:
    """For the terminal: one table a question, a line for each method and setting, a column for each metric."""
    by_question: dict[str, dict[tuple[str, str], dict[str, str]]] = {}
    for row in rows:
        lines = by_question.setdefault(row["question"], {})
        cells = lines.setdefault((row["method"], row["setting"]), {})
        cells[f"{row['metric']}, {row['unit']}" if row["unit"] else row["metric"]] = _short(row["value"])
    return "\n\n".join(_table(question, lines) for question, lines in by_question.items())


def _table(question: str, lines: dict[tuple[str, str], dict[str, str]]) -> str:
    columns = list(dict.fromkeys(name for cells in lines.values() for name in cells))
    heads = ["", "", *columns]
    body = [
        [method, setting, *(cells.get(name, "-") for name in columns)] for (method, setting), cells in lines.items()
    ]
    widths = [max(len(line[i]) for line in [heads, *body]) for i in range(len(heads))]

    def text(line: list[str]) -> str:
        words = [w.ljust(width) if i < 2 else w.rjust(width) for i, (w, width) in enumerate(zip(line, widths))]
        return "  ".join(words).rstrip()

    return "\n".join([question.capitalize(), text(heads), *map(text, body)])


def _short(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"
