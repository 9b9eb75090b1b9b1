"""Refresh the rows that pages quote from the measured tables: `python docs/quotes.py`.

A table below the comment `<!-- rows of PAGE -->` quotes: its columns are found in that page by
their header, its rows by their first two cells (`by 3`: three). So nobody types a measurement.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parent
QUOTE = re.compile(r"(<!-- rows of (\S+)(?: by (\d))? -->)\n((?:\|.*\n)+)")


def cells(line):
    """Split a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def names(line):
    """Split a header, without the number of seeds, which may change."""
    return [re.sub(r" \(\d+ seeds\)$", "", name) for name in cells(line)]


def quoted(match):
    """Return a quoting comment and table with the cells of its source."""
    comment, source, n_keys, table = match.groups()
    n_keys = int(n_keys or 2)
    header, rule, *rows = table.splitlines()
    columns = names(header)
    for candidate in re.findall(r"(?:^\|.*\n)+", (DOCS / source).read_text(), re.MULTILINE):
        titles, _, *values = candidate.splitlines()
        if set(columns) <= set(names(titles)):
            break
    else:
        raise ValueError(f"no table in {source} has the columns {columns}")
    where = [names(titles).index(name) for name in columns]
    by_key = {tuple(row[i] for i in where[:n_keys]): row for row in map(cells, values)}
    lines = [cells(titles), *(by_key[tuple(cells(row)[:n_keys])] for row in rows)]
    first, *others = ("| " + " | ".join(line[i] for i in where) + " |" for line in lines)
    return f"{comment}\n" + "\n".join([first, rule, *others]) + "\n"


def refreshed(page):
    """Return the text of a page with its quotes up to date."""
    return QUOTE.sub(quoted, page.read_text())


if __name__ == "__main__":
    for page in (DOCS.parent / "README.md", *DOCS.glob("*.md")):
        text = refreshed(page)
        if text != page.read_text():
            page.write_text(text)
            print(f"{page.name}: refreshed")
