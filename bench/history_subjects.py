"""The subjects of `history.py`: which commits are meant, how they are built, and the processes that run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build" / "history"
WORKER = Path(__file__).with_name("history_worker.py")
INSTALLED = "installed"


@dataclass(frozen=True)
class Subject:
    """A commit, or the package that is installed, with environment variables to run it in."""

    label: str
    commit: str
    environment: tuple[tuple[str, str], ...] = ()


def git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", ROOT, *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"git {' '.join(words)}: failed")
    return done.stdout.strip()


def short(commit: str) -> str:
    return git("log", "-1", "--format=%h %cs %s", commit)[:50]


def subjects_of(word: str, every: int) -> list[Subject]:
    """Read `commit`, `old..new` or `installed`, with `,NAME=VALUE` after it."""
    name, *pairs = word.split(",")
    environment = tuple((key, value) for key, _, value in (pair.partition("=") for pair in pairs))
    suffix = "".join(f",{pair}" for pair in pairs)
    if name == INSTALLED:
        return [Subject(word, INSTALLED, environment)]
    if ".." in name:
        old, _, new = name.partition("..")
        between = git("rev-list", "--first-parent", "--reverse", name).splitlines()
        if not between:
            sys.exit(f"{name}: expected commits after {old}, found none")
        chosen = [git("rev-parse", f"{old}^{{commit}}"), *between[:-1][every - 1 :: every]]
        chosen.append(git("rev-parse", f"{new or 'HEAD'}^{{commit}}"))
    else:
        chosen = [git("rev-parse", f"{name}^{{commit}}")]
    return [Subject(short(commit) + suffix, commit, environment) for commit in chosen]


def build(commit: str) -> Path:
    """Install a commit into a folder of its own, unless it is there. All are compiled at one place, as ccache likes."""
    place = BUILT / f"{commit}-{sys.implementation.cache_tag}"
    if commit == INSTALLED or place.exists():
        return place
    print(f"building {short(commit)}", flush=True)
    source, unfinished = BUILT / "source", BUILT / "unfinished"
    for folder in (source, unfinished):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", commit], stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", unfinished]
    if subprocess.run([*command, source], check=False).returncode:
        sys.exit(f"{commit}: pip cannot build it")
    unfinished.rename(place)
    shutil.rmtree(source)
    return place


class Worker:
    """A process that times one subject."""

    def __init__(self, subject: Subject, threads: int) -> None:
        command = [sys.executable, str(WORKER)]
        if subject.commit != INSTALLED:
            # Without site, or the finder of an editable install would have the last word.
            numpy = str(Path(np.__file__).parents[1])
            command = [sys.executable, "-S", str(WORKER), str(build(subject.commit)), numpy]
        self.process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "FUSEDOPT_NUM_THREADS": str(threads),
                "OMP_WAIT_POLICY": "passive",  # who is not asked must be silent
                **dict(subject.environment),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *request: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.process.args}: no answer to {request}")
        return json.loads(answer)

    def end(self) -> None:
        self.process.communicate()
