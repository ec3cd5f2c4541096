"""docs/operating.md lists all metrics of a worker."""

from __future__ import annotations

import re

from pages import ROOT, Page


def test_all_metrics_are_listed() -> None:
    names = set(re.findall(r'"((?:anabranch|kafka)_\w+)"', (ROOT / "agents/web/metrics.py").read_text()))
    names = {"anabranch_worker_info" if name == "anabranch_worker" else name for name in names}
    listed = set(re.findall(r"^\| `((?:anabranch|kafka)_\w+)`", Page("docs/operating.md").text, re.MULTILINE))
    assert listed == names
