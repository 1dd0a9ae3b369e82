"""Tables in README.md and README.zh.md, between `<!-- NAME -->` and `<!-- /NAME -->`, each on a line of its own."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def put(name: str, text: str) -> None:
    """Replaces what is between the markers `name`; a file without them is left alone."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    for file in ("README.md", "README.zh.md"):
        readme = CHECKOUT / file
        if readme.exists() and marked.search(content := readme.read_text(encoding="utf-8")):
            readme.write_text(marked.sub(lambda marks: marks[1] + text + marks[2], content), encoding="utf-8")
            print(f"{file}: updated")
