"""Keep files in a place that fsspec knows: a folder, s3://, gs://, hf://datasets/..."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from superweight.core.atomic import write_whole
from superweight.core.errors import BadInput
from superweight.core.reason import reason

# What the hub answers to a commit that another node's has overtaken, and seconds until it is sent again.
_OVERTAKEN = (409, 412)
_WAITS = (1.0, 2.0, 4.0, 8.0)


class Storage:
    """A folder, here or elsewhere; names are paths in it.

    Every file is written whole: here by renaming, elsewhere as one object, and in a repository of the hub in
    one commit with those that it is written with. Others write there, too: no list of files is kept.
    """

    def __init__(self, url: str) -> None:
        """Open it. Raises `BadInput` for an address that fsspec cannot use here."""
        import fsspec

        self.url = url
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        # Each protocol raises what its own library raises.
        except Exception as error:
            raise BadInput(f"cannot use --out {url}: {reason(error)}") from error
        self._root = str(root).rstrip("/")
        self._here = Path(self._root) if self._protocol in ("file", "local") else None

    @property
    def _protocol(self) -> str:
        protocol = self._files.protocol
        return str(protocol if isinstance(protocol, str) else protocol[0])

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write files, the last of them last. Raises `BadInput` where that cannot be done."""
        name = next(iter(contents), "")
        try:
            if self._protocol == "hf":
                self._commit(contents)
                return
            for name, data in contents.items():
                if self._here is None:
                    self._files.pipe_file(f"{self._root}/{name}", data)
                    continue
                path = self._here / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole({path: data})
        except Exception as error:
            what = getattr(error, "strerror", None) or reason(error)
            raise BadInput(f"cannot write {self.url}/{name}: {what}") from error

    def _commit(self, contents: Mapping[str, bytes]) -> None:
        """Write files to the hub at once: a commit for each would soon be more than it allows in an hour."""
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError

        place = self._files.resolve_path(self._root)
        added = [
            CommitOperationAdd("/".join(filter(None, (place.path_in_repo, name))), data)
            for name, data in contents.items()
        ]
        hub = HfApi(endpoint=self._files.endpoint, token=self._files.token)
        for wait in (*_WAITS, None):
            try:
                hub.create_commit(
                    place.repo_id,
                    added,
                    commit_message=f"Keep {next(iter(contents), 'nothing')}",
                    repo_type=place.repo_type,
                    revision=place.revision,
                )
                return
            except HfHubHTTPError as error:
                if wait is None or error.response.status_code not in _OVERTAKEN:
                    raise
                time.sleep(wait)

    def read(self, name: str) -> bytes | None:
        """Return a file, or None where there is none. Raises `BadInput` where it cannot be read."""
        try:
            self._files.invalidate_cache()
            data: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise BadInput(f"cannot read {self.url}/{name}: {reason(error)}") from error
        return data

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        try:
            self._files.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return
        except Exception as error:
            # The hub has an error of its own for what is not there.
            if self.read(name) is None:
                return
            raise BadInput(f"cannot remove {self.url}/{name}: {reason(error)}") from error

    def found(self, pattern: str, at_once: int = 256) -> Iterator[tuple[str, bytes]]:
        """Yield the files that match a pattern, by name, read so many at once."""
        try:
            self._files.invalidate_cache()
            paths: list[str] = sorted(map(str, self._files.glob(f"{self._root}/{pattern}")))
            for start in range(0, len(paths), at_once):
                some: dict[str, Any] = self._files.cat(paths[start : start + at_once], on_error="omit")
                yield from sorted(some.items())
        except Exception as error:
            raise BadInput(f"cannot look into {self.url}: {reason(error)}") from error
