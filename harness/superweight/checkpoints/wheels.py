"""Fetch a model that travels inside a wheel on a Python package index."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from superweight.checkpoints.cache import Progress, cache_directory, get_or_build, sha256, silent
from superweight.checkpoints.cache_entries import keep_within_limit
from superweight.core.errors import BadInput, Unavailable

_REQUIREMENT = re.compile(r"(?P<project>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.+!_-]+)")


def fetch_member(
    requirement: str, member: str, wheel_sha256: str, member_sha256: str, progress: Progress = silent
) -> Path:
    """Return the cached path of one file of a wheel, downloading it the first time.

    Only the wheel itself is fetched, none of its dependencies, and nothing of it is installed or
    run. Both hashes are checked before the file appears in the cache. Raises `BadInput` when the
    wheel cannot be had or is not the one that was pinned.
    """
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        raise BadInput(f"wheel:{requirement} pins no version; write wheel:PROJECT==VERSION")
    # The member's hash is part of the folder's name: a new pin can never meet an old file.
    folder = f"{match['project']}-{match['version']}-{member_sha256[:16]}"
    destination = cache_directory() / "wheels" / folder / PurePosixPath(member).name

    def build(scratch: Path) -> None:
        progress(f"downloading {requirement}")
        with tempfile.TemporaryDirectory(dir=scratch.parent) as downloads:
            wheel = _download(requirement, Path(downloads))
            _expect_hash(wheel, wheel_sha256, f"the wheel of {requirement}")
            _extract(wheel, member, scratch)
        _expect_hash(scratch, member_sha256, f"{member} in {requirement}")

    member_file = get_or_build(destination, build)
    keep_within_limit(member_file)
    return member_file


def _download(requirement: str, into: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary", ":all:", "--dest", str(into), requirement),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(into.glob("*.whl"))
    if finished.returncode != 0 or len(wheels) != 1:
        errors = [line for line in finished.stderr.splitlines() if "ERROR" in line or "No module" in line]
        reason = errors[-1] if errors else "no wheel came back"
        raise Unavailable(f"cannot download {requirement} with pip: {reason}; check the package index")
    return wheels[0]


def _extract(wheel: Path, member: str, scratch: Path) -> None:
    try:
        # The bytes go to a path of our choosing: a member's own name never becomes a path.
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, scratch.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"{wheel.name} holds no readable {member}: {error}") from error


def _expect_hash(path: Path, expected: str, what: str) -> None:
    found = sha256(path)
    if found != expected:
        raise BadInput(
            f"{what} has SHA-256 {found}, but {expected} is pinned; "
            "it is not the file that was vouched for, so it was thrown away"
        )
