"""``make docs``: write the table of the models' parameters into docs/reference.md."""

from pathlib import Path

import click

from cli import Number
from training.parameters import MODELS, by_name

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
BEGIN, END = "<!-- parameters -->\n\n", "\n<!-- end -->"
HEAD = "| parameter | default | allowed | models | what it says |\n|---|---|---|---|---|\n"


def allowed(one: object) -> str:
    """Return what a parameter may be, in words."""
    if isinstance(one, click.Choice):
        return ", ".join(f"`{choice}`" for choice in one.choices)
    return str(one) if isinstance(one, Number) else "text"


def table() -> str:
    """Return a row for each parameter of any model."""
    rows = []
    for name, (one, models) in by_name().items():
        which = "every model" if len(models) > len(MODELS) else ", ".join(f"`{model}`" for model in models)
        default = f"`{one.default}`" if one.default != "" else ""
        rows.append(
            f"| `{name}` | {default} | {allowed(one.metadata['allowed'])} | {which} | {one.metadata['what']} |\n"
        )
    return HEAD + "".join(rows)


def with_table(page: str) -> str:
    """Return a page with its table as it is now."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + rest[rest.index(END) :]


if __name__ == "__main__":
    REFERENCE.write_text(with_table(REFERENCE.read_text()))
