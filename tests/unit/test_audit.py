"""``make audit``: what it looks at, and that it never says all is well where it could not look."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_looks_at_every_pinned_package_and_installs_none():
    recipe = re.search(r"^audit:.*?(?=^\S)", (ROOT / "Makefile").read_text(), re.DOTALL | re.MULTILINE)[0]
    command = re.search(r"\$\(AUDIT\)/bin/pip-audit --.*", recipe)[0]
    for option in ("--requirement constraints.txt", "--no-deps", "--disable-pip", "--strict"):
        assert option in command


def test_without_the_network_it_fails_and_says_so(tmp_path):
    nowhere = os.environ | {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    command = ["make", "audit", f"VENV={tmp_path}", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=nowhere)
    assert done.returncode != 0
    assert "needs the network" in done.stdout
    assert list(tmp_path.iterdir()) == []
