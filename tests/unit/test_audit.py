"""``make audit``: what it looks at, and that it never says all is well where it could not look."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def audit(*variables):
    return subprocess.run(["make", "audit", *variables], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_it_looks_at_every_pinned_package_and_installs_none():
    recipe = re.search(r"^audit:.*?(?=^\S)", (ROOT / "Makefile").read_text(), re.DOTALL | re.MULTILINE)[0]
    command = re.search(r"\$\(AUDIT\)/bin/pip-audit --.*", recipe)[0]
    for option in ("--requirement constraints.txt", "--no-deps", "--disable-pip", "--strict"):
        assert option in command


def test_without_the_network_it_fails_and_says_so(tmp_path):
    done = audit(f"VENV={tmp_path}", "KNOWN=http://127.0.0.1:9/none")
    assert done.returncode != 0
    assert "cannot do so from here" in done.stdout
    assert list(tmp_path.iterdir()) == []
