"""The agent that docs/streams.md shows processes records."""

from __future__ import annotations

from pathlib import Path

from anabranch import World
from pages import Page


def test_the_agent_with_processors_adds_up(tmp_path: Path) -> None:
    blocks = [block.text for block in Page("docs/streams.md").blocks if block.language == "python"]
    (tmp_path / "shop.py").write_text("\n".join(blocks[:2]))
    with World(str(tmp_path / "shop.py")) as world:
        for user, paid in (("ann", True), ("ann", False), ("", True)):
            world.send("orders", {"user": user, "amount": 3, "paid": paid})
        world.settle()
        assert world.table("totals") == {"ann": 3}
        assert world.dead_letters("orders") == []
