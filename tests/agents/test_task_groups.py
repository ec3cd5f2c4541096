"""Which topics and tables belong together, and so to one worker."""

from __future__ import annotations

from anabranch.agents.task_groups import TaskGroup, TaskId, task_groups


def test_topics_with_as_many_partitions_as_a_table_belong_to_one_group_with_it() -> None:
    counts = {"orders": 4, "refunds": 4, "clicks": 12}
    groups = task_groups([["orders"], ["refunds"], ["clicks"]], counts, {"totals": 4, "stock": 4, "pages": 12})
    assert groups == {
        "orders": TaskGroup("tables-4", ("orders", "refunds"), ("totals", "stock"), 4),
        "refunds": groups["orders"],
        "clicks": TaskGroup("tables-12", ("clicks",), ("pages",), 12),
    }


def test_without_tables_each_topic_is_a_group_unless_one_agent_reads_several() -> None:
    counts = {"a": 1, "b": 2, "c": 3, "d": 2}
    groups = task_groups([["a"], ["b", "c"], ["d"]], counts, {})
    assert {topic: group.name for topic, group in groups.items()} == {"a": "a", "b": "b+c", "c": "b+c", "d": "d"}
    assert groups["b"].partitions == 3


def test_streams_that_overlap_are_joined() -> None:
    groups = task_groups([["a", "b"], ["c", "d"], ["b", "c"]], dict.fromkeys("abcd", 1), {})
    assert {group.name for group in groups.values()} == {"a+b+c+d"}


def test_a_topic_that_has_a_table_leaves_those_that_its_agent_reads_beside_it() -> None:
    groups = task_groups([["orders", "clicks"]], {"orders": 4, "clicks": 12}, {"totals": 4})
    assert {topic: group.name for topic, group in groups.items()} == {"orders": "tables-4", "clicks": "clicks"}


def test_a_topic_that_does_not_exist_is_in_no_group() -> None:
    assert task_groups([["a", "b"]], {"a": 1}, {}).keys() == {"a"}


def test_a_task_is_named_by_its_group_and_number() -> None:
    assert str(TaskId("tables-4", 2)) == "tables-4[2]"
