"""What workers do in a rebalance, a failure or a rollback, as transcripts (`transcript.py`).

`ANABRANCH_REWRITE=1 pytest tests/agents/test_transcripts.py` writes the events as they are now into the files; look at
the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transcript import play

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_transcript(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    played = play(text, tmp_path)
    if os.environ.get("ANABRANCH_REWRITE") == "1":
        path.write_text(played)
    assert played.splitlines() == text.splitlines()


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 20
