"""Finding Java and Maven, and saying in one line what is missing."""

import stat
from pathlib import Path

import pytest

from crossdock_local import jars
from crossdock_local.errors import LocalError


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


@pytest.mark.parametrize(
    ("output", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment', 17),
        ('java version "1.8.0_292"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ('openjdk version "25-ea" 2025-09-16', 25),
        ("no such thing", None),
    ],
)
def test_the_version_that_java_prints(output: str, major: int | None) -> None:
    assert jars.java_major(output) == major


def test_java_home_wins_over_the_path(tmp_path: Path) -> None:
    home = program(tmp_path / "home" / "bin", "java", "echo 'openjdk version \"21.0.1\"' >&2")
    program(tmp_path / "path", "java", "echo 'openjdk version \"17.0.1\"' >&2")
    environ = {"PATH": f"{tmp_path / 'path'}:/usr/bin:/bin"}
    assert jars.find_java({**environ, "JAVA_HOME": str(tmp_path / "home")}) == str(home)
    assert jars.find_java(environ) == str(tmp_path / "path" / "java")


def test_a_missing_or_old_java_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"java was not found on PATH: install Java 17"):
        jars.find_java({"PATH": str(tmp_path)})
    with pytest.raises(LocalError, match=r"JAVA_HOME=/nowhere has no bin/java"):
        jars.find_java({"JAVA_HOME": "/nowhere", "PATH": str(tmp_path)})
    program(tmp_path, "java", "echo 'java version \"11.0.2\"' >&2")
    with pytest.raises(LocalError, match=r"is version 11: Kafka needs Java 17 or later"):
        jars.find_java({"PATH": f"{tmp_path}:/usr/bin:/bin"})


def test_without_maven_the_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError, match=r"Maven \(mvn\) was not found: install"):
        jars.ensure_jars(tmp_path / "lib")


def test_jars_are_fetched_once_whole_and_again_when_the_pom_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for Maven: makes the jar in the directory it is told, and counts its calls.
    fetch = f'echo x >> {tmp_path}/calls; for a; do case $a in -Dout*) d="${{a#*=}}";; esac; done'
    program(tmp_path / "bin", "mvn", f'{fetch}; mkdir -p "$d"; echo jar > "$d/kafka_2.13-4.1.1.jar"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    library = tmp_path / "lib"
    lines: list[str] = []
    for _ in range(2):
        jars.ensure_jars(library, lines.append)
    assert len(lines) == 1
    assert (library / "kafka_2.13-4.1.1.jar").is_file()
    changed = tmp_path / "pom.xml"
    changed.write_text(jars.POM.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    monkeypatch.setattr(jars, "POM", changed)
    jars.ensure_jars(library, lines.append)
    assert (tmp_path / "calls").read_text(encoding="utf-8").split() == ["x", "x"]


def test_a_failing_maven_leaves_nothing_and_gives_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "mvn", "echo '[ERROR] Could not resolve artifact'; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(LocalError, match="Could not resolve artifact"):
        jars.ensure_jars(tmp_path / "lib")
    assert not (tmp_path / "lib").exists()
