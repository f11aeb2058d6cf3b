"""Fetching the broker's jars through Maven, once, and finding Java.

Called by `broker` before the first start. `pom.xml` beside this module says which jars; Maven's own
configuration says from where.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from crossdock_local.errors import LocalError

POM = Path(__file__).with_name("pom.xml")
JAVA_MAJOR_MIN = 17
_STAMP = "pom.sha256"


class JavaMissing(LocalError):
    """Java or Maven is not on this machine, so no broker can run from jars; a container may do instead."""


def ensure_jars(library: Path, announce: Callable[[str], None] = lambda _: None) -> Path:
    """Make `library` hold the jars that `pom.xml` names, and return it.

    Nothing is fetched when they are there already. Safe to call from several processes at once.
    Raises LocalError when Maven is missing or fails.
    """
    wanted = hashlib.sha256(POM.read_bytes()).hexdigest()
    if _stamp(library) == wanted:
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with (library.parent / "lib.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _stamp(library) == wanted:  # Another process fetched them while this one waited.
            return library
        maven = shutil.which("mvn")
        if maven is None:
            raise JavaMissing(
                "Maven (mvn) was not found: install Apache Maven 3.6 or later, or point "
                "KAFKA_BOOTSTRAP_SERVERS at a running cluster"
            )
        announce("fetching Apache Kafka's jars with Maven (once, about 43 MB)")
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            fetched = Path(scratch) / "lib"
            _copy_dependencies(maven, fetched)
            (fetched / _STAMP).write_text(wanted, encoding="utf-8")
            shutil.rmtree(library, ignore_errors=True)
            fetched.rename(library)
    return library


def find_java(environ: Mapping[str, str] = os.environ) -> str:
    """The path of a Java 17+ launcher: `JAVA_HOME`'s, else the one on PATH. Raises LocalError without one."""
    home = environ.get("JAVA_HOME")
    candidate = str(Path(home) / "bin" / "java") if home else "java"
    java = shutil.which(candidate, path=environ.get("PATH"))
    if java is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "java was not found on PATH"
        raise JavaMissing(f"{where}: install Java {JAVA_MAJOR_MIN} or later and set JAVA_HOME or PATH")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    major = java_major(answer.stderr + answer.stdout)
    if major is None or major < JAVA_MAJOR_MIN:
        found = "an unknown version" if major is None else f"version {major}"
        raise JavaMissing(
            f"{java} is {found}: Kafka needs Java {JAVA_MAJOR_MIN} or later; set JAVA_HOME to one"
        )
    return java


def java_major(version_output: str) -> int | None:
    """The major version in the output of `java -version` (`1.8.0_292` is 8); None when it shows none."""
    match = re.search(r'version "(?:1\.)?(\d+)', version_output)
    return int(match.group(1)) if match else None


def _stamp(library: Path) -> str | None:
    try:
        return (library / _STAMP).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _copy_dependencies(maven: str, target: Path) -> None:
    answer = subprocess.run(  # noqa: S603
        [
            *(maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={target}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0 or not any(target.glob("kafka_2.13-*.jar")):
        lines = [line for line in (answer.stdout + answer.stderr).splitlines() if "ERROR" in line]
        reason = lines[0].strip() if lines else f"exit code {answer.returncode}"
        raise LocalError(
            f"Maven could not fetch Kafka's jars ({reason}): check its settings and network, then retry"
        )
