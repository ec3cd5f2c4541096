"""Data of others is printed literally on terminals, and passwords are hidden."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any

import anabranch
import pytest
from anabranch.agents.app import App
from anabranch.agents.runtime import runtime_of
from anabranch.replay.cli import (
    console,
    dlq,
    logs,
    replay_plot,
    restore_bar,
    run_output,
    runs,
    table_grid,
    tail,
    verify,
)
from anabranch.replay.cli import replay_output as show_replay
from anabranch.replay.cli.console import ProgressView, Screen, write_json
from anabranch.replay.cli.describe import _topics
from anabranch.replay.cluster_choice import known_servers
from anabranch.replay.replay_report import Report
from anabranch.replay.table_reader import Snapshot
from anabranch.replay.time_text import format_time
from anabranch.replay.verify.comparison import Compared, Difference, Tally
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.printable import hide_secrets, printable, without_passwords
from anabranch.topics.private_folder import private_folder

# Clears the screen, sets the title, goes back, reverses what follows, is an introducer by itself; and markup.
EVIL = "\x1b[2J\x1b]0;t\x07\x08\u202e\x9b1m[/oops][bold]:bomb:\udcff"
UNSAFE = set("\x1b\x07\x08\u202e\x9b\udcff")
SHOWN = r"\x1b[2J\x1b]0;t\x07\x08\u202e\u009b1m[/oops][bold]:bomb:\xff"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal: what all that shows something writes."""
    written = io.StringIO()
    out = Screen(file=written, width=500, force_terminal=True, color_system=None, highlight=False)
    for module in (console, dlq, runs, verify, run_output, table_grid, show_replay):
        for name in ("out", "err"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, out)
    return written


def shown(screen: io.StringIO) -> str:
    text = screen.getvalue()
    assert not UNSAFE & set(text), ascii(text)
    return text


def test_a_text_is_printed_as_it_is_written(screen: io.StringIO) -> None:
    console.out.print(EVIL)
    assert shown(screen) == f"{SHOWN}\n"


def test_tables_show_keys_and_values_as_they_are_written(screen: io.StringIO) -> None:
    app = App("x")
    table = app.Table("totals", default=int, help=EVIL)
    key = EVIL[:-1]  # the last is a byte that is no text, and keys are JSON
    table_grid.show_table(Snapshot(table, [{json.dumps(key).encode(): b"3", b'"[/oops]"': b"1"}]))
    text = shown(screen)
    assert SHOWN in text  # the title
    assert f"{SHOWN[:-4]} " in text
    assert "[/oops] " in text


def test_names_that_are_too_wide_for_the_terminal_are_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("shop")
    app.topic("a-topic-with-a-long-name", value_type=int)
    written = io.StringIO()
    narrow = Screen(file=written, width=30, color_system=None, highlight=False)
    narrow.print(_topics(runtime_of(app)))
    first_column = "".join(line.split("│")[1].strip() for line in written.getvalue().splitlines() if line[:1] == "│")
    assert first_column == "a-topic-with-a-long-name"


def test_reports_of_replays_and_comparisons_show_lines_as_they_are_written(screen: io.StringIO) -> None:
    report = Report(
        run_id=EVIL, topic=EVIL, sent=1, skipped=1, dead_letters=1, blank=0, sent_now=1, seconds=1, counts={},
        begin_offsets={}, end_offsets={},
        done=False, already_done=False, resumed_from=None, resumable=True, examples=(EVIL,), warnings=(EVIL,),
        out_of_order=1, out_of_order_ms=1,
    )  # fmt: skip
    show_replay.show_replay(report)
    tallies = Tally(EVIL, 1, 1, [EVIL]), Tally("b", 2)
    found = Compared(*tallies, ("key",), [Difference(EVIL, EVIL, EVIL.encode(errors="replace"), None)])
    verify.show_verified(found)
    assert shown(screen).count(SHOWN) >= 6


def test_progress_shows_names_as_they_are_written(monkeypatch: pytest.MonkeyPatch, screen: io.StringIO) -> None:
    with ProgressView() as view:
        view.update(EVIL, 1, 2, EVIL, unit="bytes")
    restoring = restore_bar.RestoreBar(console.err)

    class Progress:
        share = 0.5

        def __str__(self) -> str:
            return EVIL

    with restoring:
        restoring.show(Progress())
    # What rich itself does to the terminal is its own: it moves the cursor and hides it.
    assert "\u202e" not in screen.getvalue()
    assert "\x1b]0;" not in screen.getvalue()
    assert SHOWN in screen.getvalue()


def test_json_lines_escape_what_json_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"key": "\x1b\u202e\x9b\x7fé"}
    write_json(facts)
    written = capsys.readouterr().out
    assert not (UNSAFE | {"\x7f"}) & set(written)
    assert "é" in written
    assert json.loads(written) == facts


@pytest.mark.parametrize("time_ms", [1_796_064_147_323_000, -1_796_064_147_323_000, 2**63 - 1])
def test_a_time_that_no_calendar_has_is_shown_as_a_number(capsys: pytest.CaptureFixture[str], time_ms: int) -> None:
    assert format_time(time_ms) == table_grid.shown_time(time_ms) == f"{time_ms} ms"
    tail._show_line(tail.ShownRecord("orders", 0, 1, None, abs(time_ms), b"k", b"v"))
    assert capsys.readouterr().out == f"{abs(time_ms)} ms orders[0]@1  k  v\n"


def test_pictures_are_valid_whatever_the_title() -> None:
    assert not UNSAFE & set(replay_plot._text(0, 0, EVIL))


def test_logs_are_escaped_and_without_passwords() -> None:
    record = logging.LogRecord("x", 30, "f", 1, "%s at s3://ann:geheim@host/", (EVIL,), None)
    line = logs.TextFormatter("%(message)s").format(record)
    assert line == f"{SHOWN} at s3://ann:***@host/"


def test_json_logs_hold_no_secret_wherever_it_stands() -> None:
    formatter = logs.JsonFormatter()
    hide_secrets(["geheim", "abc"])

    def wrong() -> None:
        raise ValueError("no login with geheim at https://u:other@host")

    try:
        wrong()
    except ValueError:
        record = logging.LogRecord("x", 40, "f", 1, "geheim %s", (EVIL,), sys.exc_info())
    record.hint = "-X sasl.password=geheim"
    line = formatter.format(record)
    told: dict[str, Any] = json.loads(line)
    assert "ValueError: no login with *** at https://u:***@host" in told["error"]
    assert "Traceback" in told["error"]
    assert told["hint"] == "-X sasl.password=***"
    assert "geheim" not in line
    assert not UNSAFE & set(line)


@pytest.mark.parametrize("name", [name for name in logs._LIFE_CYCLE_LOGGERS if name.startswith("anabranch.")])
def test_a_logger_that_is_made_quieter_is_that_of_a_module(name: str) -> None:
    assert importlib.util.find_spec(name)


@pytest.mark.parametrize("text", [EVIL, "é", "abc\n\tdef", "", "\u200d"])
def test_what_is_printable_stays_so(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    assert printable("a\n\tb é") == "a\n\tb é"


def test_errors_hide_passwords_where_they_are_made() -> None:
    error = Stop("cannot open ftp://ann:geheim@host/x", hint="try https://ann:geheim@host?token=geheim")
    assert str(error) == "cannot open ftp://ann:***@host/x\n  hint: try https://ann:***@host?token=***"
    assert without_passwords("tcp://localhost:9999 and 10:30@noon") == "tcp://localhost:9999 and 10:30@noon"


def test_a_line_with_markup_of_ours_says_that_it_is() -> None:
    """Consoles print text as it is: a line that is styled by markup and does not say so would show the markup."""
    root = Path(anabranch.__file__).parent / "replay"
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "print":
                told = {word.arg for word in node.keywords}
                text = "".join(
                    c.value
                    for a in node.args
                    for c in ast.walk(a)
                    if isinstance(c, ast.Constant) and isinstance(c.value, str)
                )
                assert "[/" not in text or "markup" in told, f"{path}:{node.lineno}"


# ---- who is named, and who may read ----


@pytest.mark.parametrize("empty", ["", " ", ","])
def test_an_empty_name_of_a_cluster_is_an_error(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "host:1")
    with pytest.raises(Usage, match="--bootstrap-server is empty"):
        known_servers(empty)
    assert known_servers(None) == "host:1"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", empty)
    assert known_servers("other:1") == "other:1"
    with pytest.raises(Usage, match="KAFKA_BOOTSTRAP_SERVERS is empty"):
        known_servers(None, declared="third:1")


def test_a_misspelled_variable_for_the_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVER", "kafka:9092")
    with pytest.raises(Usage, match=r"KAFKA_BOOTSTRAP_SERVER names no cluster.*KAFKA_BOOTSTRAP_SERVERS"):
        known_servers(None)
    assert known_servers("other:9092") == "other:9092"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVER", "")
    for other in ("BROKERS", "BOOTSTRAP_SERVERS_TEST", "UI_BOOTSTRAP_SERVERS", "BOOTSTRAP_SERVER_1"):
        monkeypatch.setenv(f"KAFKA_{other}", "kafka:9092")
    assert known_servers(None, keep=False) is None


def test_folders_of_data_are_their_owner_s(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_folder(tmp_path / ".anabranch" / "shop-run-1" / "0")
    finally:
        os.umask(before)
    for folder in (".anabranch", ".anabranch/shop-run-1", ".anabranch/shop-run-1/0"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    # Who made a folder otherwise wanted it so.
    (tmp_path / "open").mkdir(mode=0o755)
    private_folder(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o755


def test_warnings_and_errors_are_coloured_on_a_terminal_and_texts_of_others_stay_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def line(level: int, *, colours: bool) -> str:
        record = logging.LogRecord("x", level, "", 0, EVIL, (), None)
        return logs.TextFormatter("%(levelname)s: %(levelname)s %(message)s", colours=colours).format(record)

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert line(logging.WARNING, colours=True) == f"WARNING: \x1b[33mWARNING\x1b[0m {SHOWN}"
    assert line(logging.ERROR, colours=True) == f"ERROR: \x1b[31mERROR\x1b[0m {SHOWN}"
    assert line(logging.INFO, colours=True) == f"INFO: INFO {SHOWN}"
    assert line(logging.ERROR, colours=False) == f"ERROR: ERROR {SHOWN}"
    monkeypatch.setenv("NO_COLOR", "1")
    assert line(logging.ERROR, colours=True) == f"ERROR: ERROR {SHOWN}"
