"""Tables of Markdown pages, made from results files.

    python -m benchmarks.sweep.tables results.csv --into README.md --name game24 --levels 60,80,100
    python -m benchmarks.sweep.tables results.csv --into README.md --name game24 --check

Replaces what stands between the lines `<!-- table: game24 -->` and `<!-- end -->` of the page.
With --check it writes nothing, and exits 1 where the page has another table.
"""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path

from benchmarks.sweep.levels import add_level_arguments, levels_of
from benchmarks.sweep.report import brief
from benchmarks.sweep.rows import read
from search.files.atomic import atomic

log = logging.getLogger(f"copse.{__name__}")


def replaced(page: str, name: str, table: str) -> str:
    """`page` with another table of this name. Raises ValueError where it has not exactly one."""
    begin = f"<!-- table: {name} -->\n"
    pattern = re.compile(f"^{re.escape(begin)}.*?^<!-- end -->$", re.DOTALL | re.MULTILINE)
    places = pattern.findall(page)
    if len(places) != 1:
        raise ValueError(
            f"there are {len(places)} tables {name!r}: mark the place of one by the lines "
            f"{begin.strip()} and <!-- end -->"
        )
    # a blank line on both sides, else the comment is a part of the table
    return page.replace(places[0], f"{begin}\n{table}\n\n<!-- end -->")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path, required=True, help="the Markdown page")
    parser.add_argument("--name", required=True, help="of the table")
    parser.add_argument("--task", help="whose rows are shown; default: all, of one task")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if they differ")
    add_level_arguments(parser)
    args = parser.parse_args()
    try:
        rows = [row for row in read(args.results) if args.task in (None, row["task"])]
        page = args.into.read_text()
        new = replaced(page, args.name, brief(rows, levels_of(args)))
        if args.check and new != page:
            log.error("the table %s of %s is not that of %s", args.name, args.into, args.results)
            raise SystemExit(1)
        if new != page:
            with atomic(args.into) as part:
                part.write_text(new)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
