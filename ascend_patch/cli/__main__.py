"""``python -m ascend_patch.cli``."""

from __future__ import annotations

from ascend_patch.cli import main

if __name__ == "__main__":
    main()
