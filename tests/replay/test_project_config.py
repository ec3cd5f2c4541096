"""Settings in `anabranch.toml` and `pyproject.toml`: below the command line and the environment, above the program."""

from __future__ import annotations

from pathlib import Path

import pytest
from anabranch import App
from anabranch.replay import project_config as project_config_module
from anabranch.replay.app_loader import DeclaredCluster
from anabranch.replay.cli.config import config, settings_of
from anabranch.replay.cluster_choice import home, named_cluster, named_servers
from anabranch.replay.project_config import ProjectConfig, apply_data_folder, project_config
from anabranch.topics.errors import Usage
from click.testing import CliRunner

FILE = """
app = "shop"
bootstrap-servers = ["one:9092", "two:9092"]
data = "data"

[options]
security.protocol = "SSL"
sasl.password = "geheim"
socket.timeout.ms = 5000
socket.keepalive.enable = true
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SECURITY_PROTOCOL", "ANABRANCH_HOME", "ANABRANCH_APP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_without_a_file_has_no_settings(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert project_config() == ProjectConfig()


@pytest.mark.parametrize("name", ["anabranch.toml", "pyproject.toml"])
def test_both_files_have_the_same_settings(folder: Path, name: str) -> None:
    head = "" if name == "anabranch.toml" else "[tool.anabranch]"
    section = FILE if not head else head + FILE.replace("[options]", "[tool.anabranch.options]")
    (folder / name).write_text(section)
    found = project_config()
    assert (found.source, found.app, found.bootstrap_servers) == (name, "shop", "one:9092,two:9092")
    assert found.data == folder / "data"
    assert found.options == {
        "security.protocol": "SSL",
        "sasl.password": "geheim",
        "socket.timeout.ms": "5000",
        "socket.keepalive.enable": "true",
    }
    assert "geheim" not in repr(found)


def test_the_command_line_and_the_environment_win_over_the_file_and_the_file_over_the_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert named_servers(None, "program:9092") == "program:9092"
    (folder / "anabranch.toml").write_text(FILE)
    project_config_module._read.cache_clear()  # the folder had no file before
    assert named_servers(None, "program:9092") == "one:9092,two:9092"
    assert named_cluster("x:1", None, {"security.protocol": "PLAINTEXT"}).options["security.protocol"] == "SSL"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "environment:9092")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    assert named_servers(None, "program:9092") == "environment:9092"
    assert named_cluster("x:1", None).options["security.protocol"] == "SASL_SSL"
    assert named_servers("flag:9092", "program:9092") == "flag:9092"
    assert named_cluster("x:1", {"security.protocol": "PLAINTEXT"}).options["security.protocol"] == "PLAINTEXT"


def test_an_empty_data_folder_of_the_environment_counts_as_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", "")
    assert home() == folder / ".anabranch"
    assert str(App("shop").conf.datadir) == ".anabranch/data/shop"
    apply_data_folder(ProjectConfig(data=folder / "data"))
    assert home() == folder / "data"


def test_origins_are_shown_and_secrets_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "anabranch.toml").write_text(FILE)
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    program = DeclaredCluster("program:9092", {"sasl.username": "ann", "socket.timeout.ms": "1"})
    assert settings_of(project_config(), program, "shop") == [
        ("app", "shop", "anabranch.toml"),
        ("bootstrap-servers", "one:9092,two:9092", "anabranch.toml"),
        ("data", ".anabranch", "default"),
        ("sasl.password", "***", "anabranch.toml"),
        ("sasl.username", "ann", "the program"),
        ("security.protocol", "SASL_SSL", "KAFKA_SECURITY_PROTOCOL"),
        ("socket.keepalive.enable", "true", "anabranch.toml"),
        ("socket.timeout.ms", "5000", "anabranch.toml"),
    ]
    assert settings_of(ProjectConfig(), DeclaredCluster(), None)[1] == (
        "bootstrap-servers",
        "the embedded Kafka",
        "default",
    )


def test_an_app_that_cannot_be_loaded_is_shown_with_its_origin(folder: Path) -> None:
    (folder / "anabranch.toml").write_text('app = "absent_app"')
    ran = CliRunner().invoke(config, obj="absent_app")
    assert "app = absent_app   anabranch.toml" in ran.output
    assert isinstance(ran.exception, Usage), "and it is an error"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aap = 'shop'", "no setting aap\n  hint: did you mean app"),
        ("app = 3", "app = 3 is not a text"),
        ("bootstrap_servers = [1]", "bootstrap-servers = 1 is not a text"),
        ("options = 'x'", "options is not a table"),
        ("options.a = [1]", "options: a is neither text nor a number"),
        ("app = ", "anabranch.toml: Invalid value"),
    ],
)
def test_what_a_file_means_is_clear_or_refused(folder: Path, text: str, message: str) -> None:
    (folder / "anabranch.toml").write_text(text)
    with pytest.raises(Usage, match=message):
        project_config()


def test_two_files_with_settings_and_options_that_anabranch_sets_are_refused(folder: Path) -> None:
    (folder / "anabranch.toml").write_text('[options]\ngroup.id = "x"\n')
    with pytest.raises(Usage, match=r"group\.id"):
        named_cluster("x:1", None)
    (folder / "pyproject.toml").write_text("[tool.anabranch]\napp = 'shop'\n")
    project_config_module._read.cache_clear()
    with pytest.raises(Usage, match="keep one of them"):
        project_config()
