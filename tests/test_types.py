"""Types that users' editors show: pyright on programs in `tests/types/`, in one run.

`reveal_type(x)  # T` asserts what an editor shows; `# error: …` marks a line that has to be an error. All other lines
have to be free of errors. Programs say at their heads how strictly they are checked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import anabranch
import pytest
from anabranch.agents.declarations import AppOptions, TableOptions, TopicOptions
from anabranch.agents.topic import Topic

ROOT = Path(anabranch.__file__).parent
PROGRAMS = ROOT / "tests" / "types"
JOBS = ROOT / "agents" / "jobs"

_README_PROGRAM = re.compile(r"```python\n(# [\w.]+\n.*?)```", re.DOTALL)

Found = dict[tuple[str, int], tuple[str, str]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What pyright says: (file, line) -> (severity, message)."""
    folder = tmp_path_factory.mktemp("types")
    for program in [*PROGRAMS.glob("*.py"), *JOBS.glob("[a-z]*.py")]:
        text = (
            program.read_text()
            .replace("from ..app import", "from anabranch import")
            .replace("from ..stream", "from anabranch")
        )
        if program.parent == JOBS:
            text = f"# pyright: strict\n{text}"
        (folder / program.name).write_text(text)
    for number, program in enumerate(_README_PROGRAM.findall((ROOT / "README.md").read_text())):
        (folder / f"readme_{number}.py").write_text(f"# pyright: strict, reportUnusedFunction=false\n{program}")
    # A clone's folder may have any name, and pyright does not follow the hook of an editable install.
    package = tmp_path_factory.mktemp("package")
    (package / "anabranch").symlink_to(ROOT)
    settings = {"extraPaths": [str(package)], "pythonVersion": "3.11", "include": ["."]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--project",
        str(folder),
        "--pythonpath",
        sys.executable,
        "--outputjson",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    diagnostics = json.loads(said.stdout)["generalDiagnostics"]
    return {(Path(d["file"]).name, d["range"]["start"]["line"] + 1): (d["severity"], d["message"]) for d in diagnostics}


@pytest.mark.parametrize("program", sorted(path.name for path in PROGRAMS.glob("*.py")))
def test_an_editor_knows_the_types_of_a_program(found: Found, program: str) -> None:
    wrong: list[str] = []
    for number, line in enumerate((PROGRAMS / program).read_text().splitlines(), 1):
        severity, message = found.get((program, number), ("", ""))
        if "reveal_type(" in line:
            wanted = line.rpartition("# ")[2]
            if not message.endswith(f'is "{wanted}"'):
                wrong.append(f"line {number}: {wanted} wanted: {message}")
        elif "# error" in line and severity != "error":
            wrong.append(f"line {number}: no error: {line}")
        elif "# error" not in line and severity:
            wrong.append(f"line {number}: {message}")
    assert not wrong, "\n".join(wrong)


def test_the_jobs_and_the_programs_of_the_readme_are_strictly_typed(found: Found) -> None:
    ours = {path.name for path in PROGRAMS.glob("*.py")}
    assert [(*at, message) for at, (_, message) in found.items() if at[0] not in ours] == []
    assert _README_PROGRAM.search((ROOT / "README.md").read_text())


def test_an_editor_knows_all_settings_of_an_app_and_no_others() -> None:
    accepted = {name for name in _known_settings() if name not in _refused()}
    assert AppOptions.__annotations__.keys() | {"settings", "standby_replicas"} == accepted


def test_an_editor_knows_all_options_of_a_topic() -> None:
    import inspect

    import faust

    options = inspect.signature(faust.App.topic).parameters.keys() - {"self", "topics", "key_type", "value_type"}
    ours = inspect.signature(Topic.__init__).parameters.keys()
    assert TopicOptions.__annotations__.keys() - options <= ours
    assert options <= TopicOptions.__annotations__.keys()


def test_a_misspelled_option_of_a_table_is_refused_with_the_nearest_name() -> None:
    app = anabranch.App("misspelled")
    with pytest.raises(anabranch.topics.errors.Usage, match="partitons") as raised:
        app.Table("t", partitons=4)  # type: ignore[call-overload]
    assert "partitions" in str(raised.value.hint)
    assert "partitions" in TableOptions.__annotations__


def _known_settings() -> set[str]:
    from anabranch.agents.faust_adapter.faust_settings import _FORMER, _OF_THE_APP, Settings

    return set(Settings.SETTINGS) | _FORMER | _OF_THE_APP


def _refused() -> set[str]:
    from anabranch.agents.app import OWN_CLASSES
    from anabranch.agents.faust_adapter.faust_settings import _REFUSED

    return set(_REFUSED) | set(OWN_CLASSES)
