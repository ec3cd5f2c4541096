from pathlib import Path

import word_count
from anabranch import World

LINES = Path(__file__).with_name("word_count.txt")


def test_words_are_counted_over_all_lines():
    with World(word_count.app) as world:
        run = world.run({"lines": LINES})
    assert run.tables["counts"]["be"] == {"count": 2}
    assert run.tables["counts"]["or"] == {"count": 2}
    assert run.tables["counts"]["question"] == {"count": 1}
    assert sum(each["count"] for each in run.tables["counts"].values()) == 13


def test_a_line_that_comes_later_is_added():
    with World(word_count.app) as world:
        world.replay(LINES, "lines")
        world.settle()
        world.send("lines", "To be!")
        world.settle()
        assert world.table("counts")["be"] == {"count": 3}
