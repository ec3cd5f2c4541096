"""The settings reference: `python docs/site/settings_reference.py` writes `docs/settings.md`.

The page is kept in the repository, so that it reads well on GitHub; `tests/docs/test_settings_page.py` fails when code
and page differ. Types come from annotations, defaults from an app without options, texts of `App(…)` from
`setting_texts.py`, all other texts from docstrings and from the options of the command.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import click
from anabranch import App
from anabranch.agents.declarations import AppOptions
from anabranch.agents.engine.settings import EngineSettings, PackedLimits
from anabranch.agents.faust_adapter import faust_settings
from anabranch.replay.cli.worker import worker
from anabranch.topics.cluster import PRODUCER_DEFAULTS
from docstrings import attributes, type_text
from setting_texts import GROUPS, UNITS

PAGE = Path(__file__).parents[1] / "settings.md"

_INTRODUCTION = """\
# Settings

All settings of an app and of a worker: type, default, unit, and what they do. This page is written by
`python docs/site/settings_reference.py` from the code, and a test fails when it differs from the code.

A setting of `App(…)` may also come from `config_from_object`, from a handler of `on_configured`, or from the environment, under the
name in the last column; the environment wins. An option of `App(…)` that is not a setting is a `TypeError` that names the nearest
one; `None` counts as not given. A value that cannot be read, or is outside of its limits, is refused with the
name of the setting or of the variable. Settings of Faust that are not on this page are refused by name: see
[Coming from Faust](faust.md#settings). `anabranch -A shop describe` shows the settings of an app that differ from their defaults. App, cluster and librdkafka's options may
also be in [a file](projects.md#what-is-typed-each-time).

```python
from anabranch import App
from anabranch.agents import EngineSettings

app = App("shop", topic_partitions=8, store="rocksdb://", settings=EngineSettings(epoch_s=0.5))
```
"""

_ENGINE = """\
## EngineSettings

The engine's settings, `App(…, settings=EngineSettings(…))`. A setting of `App(…)` with the same effect
(`broker_commit_interval` for `epoch_s`, for example) wins where both are given. Bounded runs commit every {bounded:g} seconds, unless
the app sets its own interval.
"""

_LIMITS = """\
## PackedLimits

The largest packed batches that an app opens, `EngineSettings(packed=PackedLimits(…))`. For all commands:
`ANABRANCH_PACKED_ROWS` and so on ([packed batches](packed.md#limits)).
"""

_WORKER = """\
## Worker options

Options of `anabranch -A shop worker`. They override the settings of the app.
"""

_ENVIRONMENT = """\
## Environment variables

| variable | |
| --- | --- |
| `ANABRANCH_APP` | the app, as `-A` names it |
| `KAFKA_BOOTSTRAP_SERVERS` | the cluster; `--bootstrap-server` overrides it |
| `KAFKA_SECURITY_PROTOCOL`, `KAFKA_SASL_…`, `KAFKA_SSL_…`, `KAFKA_CLIENT_…` | librdkafka's options of these names: `KAFKA_SASL_PASSWORD` is `sasl.password`; `-X name=value` overrides them |
| `ANABRANCH_HOME` | folder of the embedded Kafka and of the workers' data; default: `.anabranch` in the current folder |
| `ANABRANCH_CACHE` | folder of the files of the embedded Kafka; default: `~/.cache/anabranch` |
| `ANABRANCH_JAVA_OPTIONS` | more options for Java, which runs the embedded Kafka, separated by spaces: `ANABRANCH_JAVA_OPTIONS=-XX:TieredStopAtLevel=1` halves the processor time of a broker that lives for a minute, say in a CI |
| `ANABRANCH_COMPLETE_WINDOWS` | how many windows of a table a worker of `run --complete` may have open; default: 4,000,000 ([late records](time.md#replay-and-late-records)) |
| `ANABRANCH_PACKED_ROWS`, `ANABRANCH_PACKED_COLUMNS`, `ANABRANCH_PACKED_SIZE_BYTES`, `ANABRANCH_PACKED_DEPTH` | [limits of packed batches](packed.md#limits) |
| `ANABRANCH_TEST_BROKER` | the Kafka of the fixture `anabranch_kafka`: `embedded`, `container` or `HOST:PORT` ([testing](testing.md#on-a-real-kafka)) |
"""


def settings_page() -> str:
    """Return `docs/settings.md`."""
    parts = [_INTRODUCTION, "## App", *_app_groups(), _ENGINE.format(bounded=_bounded_s())]
    parts += [_fields(EngineSettings), _LIMITS, _fields(PackedLimits), _WORKER, _worker_options(), _ENVIRONMENT]
    return "\n".join(part.strip() + "\n" for part in parts)


def _bounded_s() -> float:
    from anabranch.agents.engine.settings import BOUNDED

    return BOUNDED.epoch_s


def _app_groups() -> Iterable[str]:
    app = App("shop")
    for group, settings in GROUPS.items():
        rows = [["setting", "type", "default", "unit", "meaning", "environment"]]
        for name, meaning in settings.items():
            kind = _type(AppOptions.__annotations__[name])
            parameter: Any = faust_settings.Settings.SETTINGS.get(name)
            variable = getattr(parameter, "env_name", None)
            default = ELSEWHERE.get(name) or _code(_app_default(app, name))
            rows.append(
                [
                    _code(name),
                    _code(kind.removesuffix(" | None")),
                    default,
                    _unit(name, kind),
                    meaning,
                    _code(variable or ""),
                ]
            )
        yield f"### {group}\n\n{_table(rows)}"


def _app_default(app: App, name: str) -> str:
    """Return the default of a setting as text; where a setting only counts if it is given, that of the engine."""
    if name in faust_settings._ENGINE:  # pyright: ignore[reportPrivateUsage]
        field, _ = faust_settings._ENGINE[name]  # pyright: ignore[reportPrivateUsage]
        value = getattr(EngineSettings(), field)
        return f"{value / 1000:g}" if field.endswith("_ms") else _default(value)
    for options in (faust_settings._CONSUMER, faust_settings._PRODUCER):  # pyright: ignore[reportPrivateUsage]
        if name in options:
            ours = PRODUCER_DEFAULTS.get(options[name][0].replace(".", "_"))
            if options is faust_settings._PRODUCER and ours is not None:  # pyright: ignore[reportPrivateUsage]
                return f"{ours / 1000:g}" if name == "producer_linger" else str(ours)
            return "librdkafka's"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = getattr(app.conf, name, None)
    return "None" if value is None else _default(value)


# Defaults that depend on the machine, on the app's name or on other settings, or that are set where clients are made.
ELSEWHERE = {
    "broker": "`localhost:9092`",
    "broker_consumer": "that of `broker`",
    "broker_producer": "that of `broker`",
    "broker_heartbeat_interval": "a tenth of `broker_session_timeout`",
    "canonical_url": "`http://<web_host>:<web_port>`",
    "consumer_metadata_max_age_ms": "`10000`",
    "datadir": "`.anabranch/data/<app>`",
    "env": "`os.environ`",
    "reply_to": "`<reply_to_prefix><random>`",
    "reply_to_prefix": "`<app>-reply-`",
    "web_host": "the machine's name",
    "web_tables_enabled": "`True`",
}


def _fields(settings: type) -> str:
    texts = attributes(inspect.getdoc(settings) or "")
    rows = [["setting", "type", "default", "unit", "meaning"]]
    for field in dataclasses.fields(settings):
        kind = _type(field.type)
        made = field.default_factory() if field.default is dataclasses.MISSING else field.default  # type: ignore[misc]
        rows.append([_code(field.name), _code(kind), _code(_default(made)), _unit(field.name, kind), texts[field.name]])
    return _table(rows)


def _worker_options() -> str:
    rows = [["option", "values", "default", "meaning"]]
    for parameter in worker.params:
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        names = ", ".join(_code(name) for name in [*parameter.opts, *parameter.secondary_opts])
        values = "flag" if parameter.is_flag else _code(parameter.make_metavar(click.Context(worker)))
        text = re.sub(r"\s*\[default: (.*?)\]", "", parameter.help or "")
        written = re.search(r"\[default: (.*?)\]", parameter.help or "")
        default = written[1] if written else "" if parameter.is_flag else _option_default(parameter)
        rows.append([names, values, default, " ".join(text.split())])
    return _table(rows)


def _option_default(parameter: click.Option) -> str:
    default = parameter.default
    known = isinstance(default, str | int | float) and not isinstance(default, bool)
    return _code(str(default)) if known else ""


def _default(value: object) -> str:
    if inspect.isclass(value):
        return value.__name__
    if isinstance(value, float):
        return f"{value:g}"
    return str(getattr(value, "value", value))


def _type(annotation: object) -> str:
    return type_text(annotation).replace("_Url", "str | URL")


def _unit(name: str, kind: str) -> str:
    if name in UNITS:
        return UNITS[name]
    if "Seconds" in kind or name.endswith("_s"):
        return "s"
    return "ms" if name.endswith("_ms") else ""


def _code(text: str) -> str:
    if not text or text == "librdkafka's":
        return text
    return f"`{text}`"


def _table(rows: list[list[str]]) -> str:
    """Return a table; columns that are empty in all rows are omitted."""
    kept = [at for at in range(len(rows[0])) if any(row[at] for row in rows[1:])]
    lines = ["| " + " | ".join(row[at].replace("|", "\\|") for at in kept) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(kept), *lines[1:]])


if __name__ == "__main__":
    PAGE.write_text(settings_page())
    print(f"wrote {PAGE}")
