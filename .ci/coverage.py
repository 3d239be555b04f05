"""Prints line coverage by crate, and the files with most lines that no test reaches.

The argument is a file that `llvm-cov export --summary-only` has written.
"""

import json
import os
import sys
from collections import defaultdict

SHOWN = 15


def crate_of(path: str) -> str:
    parts = path.split(os.sep)
    return parts[1] if parts[0] == "crates" else "outpost"


def row(name: str, covered: int, count: int) -> str:
    return f"{name:<60} {covered:>6} of {count:>6} lines  {100 * covered / max(count, 1):5.1f} %"


def main(report: str) -> None:
    with open(report, encoding="utf-8") as opened:
        files = json.load(opened)["data"][0]["files"]
    crates, missed = defaultdict(lambda: [0, 0]), []
    for file in files:
        name, lines = os.path.relpath(file["filename"]), file["summary"]["lines"]
        for total in (crates[crate_of(name)], crates["all"]):
            total[0] += lines["covered"]
            total[1] += lines["count"]
        missed.append((lines["count"] - lines["covered"], name, lines["covered"], lines["count"]))
    for name, (covered, count) in sorted(crates.items()):
        print(row(name, covered, count))
    print("\nmost lines that no unit test reaches:")
    for _, name, covered, count in sorted(missed, reverse=True)[:SHOWN]:
        print(row(name, covered, count))


main(sys.argv[1])
