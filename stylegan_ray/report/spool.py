"""Growing files of a run: in its folder on a disk, in a local folder that `sync` uploads for an object store."""

from __future__ import annotations

from pathlib import Path

from stylegan_ray.scratch import delete_folder, new_folder
from stylegan_ray.storage import Storage


class Spool:
    """A local folder whose files grow. Object stores cannot append, so they get whole files at every `sync`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.is_copy = not storage.is_local
        self.folder = new_folder() if self.is_copy else Path(storage.root)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._uploaded: dict[str, tuple[int, int]] = {}
        self._finished: set[str] = set()

    def fetch(self, name: str) -> None:
        """Copies a stored file to the local folder, where it goes on growing."""
        if self.is_copy:
            (self.folder / name).write_bytes(self.storage.read(name))

    def finish(self, name: str) -> None:
        """Says that a file does not grow any more: its local copy is deleted once it is uploaded."""
        self._finished.add(name)

    def sync(self) -> None:
        """Uploads the files that have grown since the last call; raises OSError when the storage fails."""
        if not self.is_copy:
            return
        for path in sorted(self.folder.iterdir()):
            is_finished, stat = path.name in self._finished, path.stat()
            if self._uploaded.get(path.name) != (stat.st_size, stat.st_mtime_ns):
                self.storage.write(path.name, path.read_bytes())
                self._uploaded[path.name] = (stat.st_size, stat.st_mtime_ns)
            if is_finished:
                path.unlink(missing_ok=True)
                self._finished.discard(path.name)

    def delete(self) -> None:
        """Deletes the local copy."""
        if self.is_copy:
            delete_folder(self.folder)
