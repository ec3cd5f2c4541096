"""The rules that a reader may rely on without checking; where one changes, it is changed here, on purpose.

Imports run one way (topics ← agents, topics ← replay), and what lies outside is known to few files.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import anabranch
import pytest

ROOT = Path(anabranch.__file__).parent
ROOMS = ("topics", "agents", "replay")
MAX_LINES = 600  # most are far shorter; a noun is not split to meet a count
MAX_CLASS_LINES = 400  # with the bases that are ours: a class is not split by inheritance to meet a count

# In replay/, only the test kit and what runs or compares apps may know agents.
REPLAY_KNOWS_AGENTS = {
    "replay/table_backup/backup.py",
    "replay/cli/worker.py",
    "replay/cli/worker_report.py",
    "replay/cli/demo_script.py",
    "replay/cli/describe.py",
    "replay/cli/send.py",
    "replay/app_loader.py",
    "replay/app_reset.py",
    "replay/late_history.py",
    "replay/late_windowed_tables.py",
    "replay/time_rows.py",
    "replay/cli/app_commands.py",
    "replay/cli/completion.py",
    "replay/cli/tables.py",
    "replay/cli/time.py",
    "replay/table_backup/restore.py",
    "replay/reprocess.py",
    "replay/runs/aligned_inputs.py",
    "replay/runs/bounded_run.py",
    "replay/runs/inputs_with_timers.py",
    "replay/runs/inputs_with_windows.py",
    "replay/runs/run_verification.py",
    "replay/verify/comparison_side.py",
    "replay/table_backup/store_seeding.py",
    "replay/table_reader.py",
    "replay/topic_result.py",
    "replay/testing/store_faults.py",
    "replay/verify/comparison.py",
}

# A world of the test kit draws from the generator of its seed.
DRAWS_FROM_A_SEED = {
    f"replay/testing/{name}.py"
    for name in ("environment", "fault_injector", "faults", "simulated_worker", "simulated_world", "store_faults")
}

KNOWS_FAUST = {
    "agents/runtime.py",
    "replay/cli/app_commands.py",
    "agents/agent.py",
    "agents/agent_test_wrapper.py",
    "agents/__init__.py",
    "agents/app.py",
    "agents/declarations.py",
    "agents/faust_adapter/consumer.py",
    "agents/event.py",
    "agents/faust_adapter/faust_settings.py",
    "agents/faust_adapter/faust_signals.py",
    "agents/faust_adapter/faust_values.py",
    "replay/app_loader.py",
    "agents/web/health.py",
    "agents/web/web_server.py",
    "agents/replies.py",
    "agents/web/key_routing.py",
    "agents/sender.py",
    "agents/processors.py",
    "agents/stream.py",
    "agents/topic.py",
    "agents/faust_adapter/transport.py",
    "agents/faust_adapter/unsampled_monitor.py",
    "agents/web/table_views.py",
    "agents/web/time_views.py",
}

KNOWS_KAFKA = {
    "topics/admin.py",
    "topics/cluster.py",
    "topics/errors.py",
    "topics/consumer_groups.py",
    "topics/devbroker/kraft_node.py",
    "topics/memory/memory_admin.py",
    "topics/memory/classic_group.py",
    "topics/memory/classic_membership.py",
    "topics/memory/client.py",
    "topics/memory/memory_consumer.py",
    "topics/memory/consumer_offsets.py",
    "topics/memory/consumer_protocol_group.py",
    "topics/memory/consumer_protocol_membership.py",
    "topics/memory/client_config.py",
    "topics/memory/memberships.py",
    "topics/memory/failure.py",
    "topics/memory/fetcher.py",
    "topics/memory/group_metadata.py",
    "topics/memory/memory_cluster.py",
    "topics/memory/memory_kafka.py",
    "topics/memory/metadata.py",
    "topics/memory/memory_message.py",
    "topics/memory/memory_producer.py",
    "topics/memory/producer_transactions.py",
    "topics/memory/memory_topic.py",
    "topics/memory/topic_config.py",
    "topics/memory/transactions.py",
    "topics/partitioners.py",
    "topics/partitioner_registry.py",
    "topics/producer.py",
    "topics/client_watchdog.py",
    "topics/partition_reader.py",
    "agents/engine/committed_offsets.py",
    "agents/engine/committer.py",
    "agents/engine/delivery_reports.py",
    "agents/web/worker_registry.py",
    "agents/engine/router.py",
    "agents/tables/changelog_reader.py",
    "agents/engine/group_consumer.py",
    "agents/replies.py",
    "agents/sender.py",
    "replay/table_backup/backup.py",
    "replay/run_state.py",
    "replay/testing/fault_injector.py",
    "replay/runs/completion.py",
    "replay/table_backup/restore.py",
    "replay/table_reader.py",
    "replay/record_counts.py",
    "replay/replay_transaction.py",
    "replay/testing/kafka_world.py",
}

MODULES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "__init__.py", *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))]
)


def of_each(modules: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Make one test of a check of one module: a test for each would take longer to distribute than to run."""

    def made(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            wrong: list[str] = []
            for module in modules:
                try:
                    check(module)
                except AssertionError as exc:
                    wrong.append(f"{module}: {exc}")
            assert not wrong, "\n".join(wrong)

        test.__name__ = check.__name__
        return test

    return made


every_module = of_each(MODULES)


@cache
def source(module: str) -> str:
    return (ROOT / module).read_text()


@cache
def nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source(module), module)))


@cache
def imports(module: str) -> list[str]:
    """Full names of all that a module imports, wherever in it."""
    return list(_imports(module))


def _imports(module: str) -> Iterator[str]:
    package = ["anabranch", *Path(module).parent.parts]
    for node in nodes(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names)


def knows(module: str, name: str) -> bool:
    return any(imported == name or imported.startswith(f"{name}.") for imported in imports(module))


def calls(module: str) -> Iterator[ast.Call]:
    return (node for node in nodes(module) if isinstance(node, ast.Call))


def test_there_is_something_to_look_at() -> None:
    assert {"__init__.py", "topics/cluster.py", "agents/tables/table.py", "replay/player.py"} <= set(MODULES)
    assert set(imports("agents/tables/table.py")) >= {
        "anabranch.topics.serde.Codec",
        "anabranch.agents.tables.absent.ABSENT",
    }


@every_module
def test_imports_run_one_way(module: str) -> None:
    room = module.partition("/")[0]
    if room == "topics":
        assert not knows(module, "anabranch.agents")
        assert not knows(module, "anabranch.replay")
    if room == "agents":
        assert not knows(module, "anabranch.replay")
    if room == "replay" and module not in REPLAY_KNOWS_AGENTS and folder(module) != "replay/testing":
        assert not knows(module, "anabranch.agents"), "only what runs or compares apps imports agents"


@every_module
def test_inside_the_package_imports_are_relative(module: str) -> None:
    absolute = [
        node.lineno
        for node in nodes(module)
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "anabranch")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "anabranch" for alias in node.names))
    ]
    assert absolute == []


def test_only_the_files_that_adapt_faust_import_it() -> None:
    assert {module for module in MODULES if knows(module, "faust")} == KNOWS_FAUST


def test_only_the_files_that_talk_to_kafka_import_its_client() -> None:
    assert {module for module in MODULES if knows(module, "confluent_kafka")} == KNOWS_KAFKA


@every_module
def test_only_a_cluster_makes_kafka_clients(module: str) -> None:
    # So a subclass of Cluster can replace them all, with an in-memory Kafka for example.
    made = [
        call.lineno
        for call in calls(module)
        if ast.unparse(call.func).split(".")[-1] in ("Consumer", "Producer", "AdminClient")
    ]
    assert made == [] or module == "topics/cluster.py"


# Not among them: conversions of a given time (`time.strftime` with two arguments), and the CPU time of the process.
CLOCK_READINGS = {
    *(f"time.{name}" for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")),
    *("time.sleep", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
}
# Without their last argument these convert the present.
CLOCK_CONVERSIONS = {"time.localtime": 1, "time.gmtime": 1, "time.ctime": 1, "time.strftime": 2}


@every_module
def test_only_the_clock_module_reads_the_clock(module: str) -> None:
    if module == "topics/clock.py":
        return
    attributes = (node for node in nodes(module) if isinstance(node, ast.Attribute))
    found = {node.lineno for node in attributes if ".".join(ast.unparse(node).split(".")[-2:]) in CLOCK_READINGS}
    found |= {
        call.lineno for call in calls(module) if len(call.args) < CLOCK_CONVERSIONS.get(ast.unparse(call.func), 0)
    }
    assert found == set()
    assert not any(imported.startswith("time.") for imported in imports(module))


@every_module
def test_the_clock_is_looked_up_when_it_is_asked(module: str) -> None:
    # A name that is imported, or a default argument, would stay the machine's clock in a test that uses another one.
    clock = "anabranch.topics.clock."
    assert {imported for imported in imports(module) if imported.startswith(clock)} <= {f"{clock}Clock"}
    functions = (node for node in nodes(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    defaults = [ast.unparse(d) for f in functions for d in [*f.args.defaults, *f.args.kw_defaults] if d is not None]
    assert not any(default.startswith("clock.") for default in defaults)


# Threads keep the process of the embedded broker and download its archive.
THREAD_STARTERS = {"topics/threads.py", "topics/devbroker/java.py", "topics/devbroker/distribution.py"}
STARTS_THREADS = {"Thread", "Timer", "to_thread", "ThreadPoolExecutor", "run_in_executor", "start_new_thread"}


@of_each([m for m in MODULES if m.startswith(("topics/", "agents/"))])
def test_only_the_threads_module_starts_threads(module: str) -> None:
    # So a simulation can run an app without any: see topics/threads.py. `threading.Thread` in an annotation is a type.
    if module in THREAD_STARTERS:
        return
    foreign = {imported for imported in imports(module) if not imported.startswith("anabranch.")}
    assert not {imported.rpartition(".")[2] for imported in foreign} & STARTS_THREADS
    own = {node.name for node in nodes(module) if isinstance(node, ast.ClassDef)}
    called = {ast.unparse(call.func).split(".")[-1]: call.lineno for call in calls(module)}
    assert {name: line for name, line in called.items() if name in STARTS_THREADS - own} == {}


@every_module
def test_only_one_module_draws_random_identifiers(module: str) -> None:
    # So a test can seed them: see topics/identifiers.py. `from uuid import UUID` is a type.
    if module == "topics/identifiers.py" or module in DRAWS_FROM_A_SEED:
        return
    assert not any(knows(module, name) for name in ("random", "secrets", "numpy.random"))
    drawn = {"uuid1", "uuid4", "urandom", "getrandom", "token_hex", "token_bytes"}
    assert not {imported.rpartition(".")[2] for imported in imports(module)} & drawn
    attributes = (node for node in nodes(module) if isinstance(node, ast.Attribute))
    assert [node.lineno for node in attributes if node.attr in drawn] == []


@every_module
def test_a_file_reads_in_one_sitting(module: str) -> None:
    lines = source(module).count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: split it along a noun"


@cache
def classes() -> dict[str, tuple[int, list[str]]]:
    """Class -> its lines and the names of its bases, over all modules."""
    return {
        node.name: (
            (node.end_lineno or 0) - node.lineno,
            # `Table` of both `Table` and `Table[K, V]`
            [
                base.value.id if isinstance(base, ast.Subscript) else base.id
                for base in node.bases
                if isinstance(base.value if isinstance(base, ast.Subscript) else base, ast.Name)
            ],
        )
        for module in MODULES
        for node in nodes(module)
        if isinstance(node, ast.ClassDef)
    }


def bases_of(name: str) -> set[str]:
    """The bases of a class that are ours, and theirs, without itself."""
    found: set[str] = set()
    todo = [base for base in classes().get(name, (0, []))[1] if base in classes()]
    while todo:
        if (base := todo.pop()) not in found:
            found.add(base)
            todo += [other for other in classes()[base][1] if other in classes()]
    return found - {name}


def lines_with_bases(name: str) -> int:
    return sum(classes()[one][0] for one in {name, *bases_of(name)})


def test_no_class_is_longer_than_one_can_hold_in_mind() -> None:
    assert "Table" in bases_of("GlobalTable")
    long = {name for name in classes() if lines_with_bases(name) > MAX_CLASS_LINES}
    assert long == set(), "give the class parts that it holds, instead of bases"


def folder(module: str) -> str:
    """`agents/engine` of its modules; modules of the room itself belong to no folder."""
    parts = Path(module).parent.parts
    return "/".join(parts[:2]) if len(parts) > 1 else ""


def test_folders_of_a_room_import_one_way() -> None:
    known: dict[str, set[str]] = {}
    for module in MODULES:
        for name in imports(module):
            path = "/".join(name.split(".")[1:3])
            if folder(module) and path != folder(module) and (ROOT / path).is_dir() and path.count("/"):
                known.setdefault(folder(module), set()).add(path)

    def reaches(start: str) -> set[str]:
        found: set[str] = set()
        todo = list(known.get(start, ()))
        while todo:
            if (at := todo.pop()) not in found:
                found.add(at)
                todo += known.get(at, ())
        return found

    assert known, "there are folders that import others"
    assert [start for start in known if start in reaches(start)] == []


def test_a_module_name_means_one_thing() -> None:
    # A command may be called as what it shows.
    names = [Path(m).name for m in MODULES if Path(m).name != "__init__.py" and not m.startswith("replay/cli/")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@every_module
def test_every_module_says_what_it_is(module: str) -> None:
    root = nodes(module)[0]
    assert isinstance(root, ast.Module)
    assert ast.get_docstring(root)


@every_module
def test_nothing_runs_text_or_unpickles(module: str) -> None:
    assert not any(knows(module, name) for name in ("pickle", "cPickle", "dill", "marshal", "shelve"))
    for call in calls(module):
        assert not (isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec")), f"line {call.lineno}"
        assert not any(
            word.arg == "shell" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
            for word in call.keywords
        ), f"line {call.lineno}: shell="
        assert not (isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "os.system"), (
            f"line {call.lineno}"
        )


BARE = re.compile(r"#\s*(type:\s*ignore(?!\[)|noqa(?!:\s*[A-Z]+\d)|pyright:\s*ignore(?!\[))", re.IGNORECASE)


def bare_silencers(text: str) -> list[int]:
    """Lines with a comment that silences a checker without saying which of its rules."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.start[0] for token in tokens if token.type == tokenize.COMMENT and BARE.search(token.string)]


@every_module
def test_a_silenced_checker_is_told_which_rule(module: str) -> None:
    assert bare_silencers(source(module)) == []


@pytest.mark.parametrize(
    "comment", ["# type: ignore", "# noqa", "# noqa (why)", "# pyright: ignore", "# pyright:ignore  x"]
)
def test_a_bare_silencer_is_found(comment: str) -> None:
    assert bare_silencers(f"x = 1  {comment}\n") == [1]


@pytest.mark.parametrize(
    "comment", ["# type: ignore[x]", "# noqa: BLE001 (why)", "# pyright: ignore[reportX]", "# noted"]
)
def test_a_silencer_with_its_rule_is_fine(comment: str) -> None:
    assert bare_silencers(f"x = 1  {comment}\n") == []


@every_module
def test_headers_of_messages_are_read_in_one_place(module: str) -> None:
    # confluent_kafka's own accessor takes the process down where a header name is not UTF-8; see topics/headers.py.
    # Kafka in memory keeps the headers of its messages as Python's own objects.
    if module in ("topics/headers.py", "topics/memory/memory_message.py"):
        return
    attributes = (node for node in nodes(module) if isinstance(node, ast.Attribute))
    found = {node.lineno for node in attributes if ast.unparse(node) == "Message.headers"}
    found |= {
        call.lineno
        for call in calls(module)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "headers" and not call.args
    }
    assert found == set()


DOTTED = re.compile(r"\banabranch\.(?:topics|agents|replay)(?:\.\w+)*")


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    end = len(parts)
    while not (ROOT.joinpath(*parts[1:end]).with_suffix(".py").is_file() or ROOT.joinpath(*parts[1:end]).is_dir()):
        end -= 1
    found: object = import_module(".".join(parts[:end]))
    for part in parts[end:]:
        found = getattr(found, part, None)
    return found is not None


def test_a_name_that_is_gone_is_found() -> None:
    assert is_there("anabranch.topics.cluster.Cluster")
    assert not is_there("anabranch.topics.clusters")


def test_modules_that_texts_name_are_there() -> None:
    # Programs of child processes, patches and examples name modules in strings, where no type checker looks.
    files = [*map(ROOT.joinpath, MODULES), *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    texts = {
        path.relative_to(ROOT): path.read_text() for path in files if path.name not in ("CHANGELOG.md", "test_tidy.py")
    }
    named = {(name, str(path)) for path, text in texts.items() for name in DOTTED.findall(text)}
    assert len(named) > 100
    assert {(name, path) for name, path in named if not is_there(name)} == set()


@cache
def file_names() -> set[str]:
    return {path.name for path in [*map(ROOT.joinpath, MODULES), *(ROOT / "tests").rglob("*.py")]}


@every_module
def test_files_that_comments_name_are_there(module: str) -> None:
    names = file_names()
    named = {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", source(module))}
    assert named - names - {"file.py"} == set()


def test_marks_name_tests_of_their_files() -> None:
    """A test that `memory_suffices` misspells would not be repeated on the real Kafka, without a word."""
    found = 0
    for path in sorted(Path(__file__).parent.glob("agents/test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.memory_suffices":
                found += 1
                missing = {ast.literal_eval(name) for name in call.args} - functions
                assert not missing, f"{path.name}: no such tests: {missing}"
    assert found > 10
