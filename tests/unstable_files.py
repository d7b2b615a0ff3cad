"""A file system of fsspec in memory, `unstable://`, that fails when a test wants it to, and notes what is uploaded."""

from typing import Any

from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import register_implementation


class UnstableFiles(MemoryFileSystem):
    """Like `memory://`, with files of its own. `failures`: errors that the next requests raise, one each."""

    protocol = "unstable"
    store: dict[str, Any] = {}  # noqa: RUF012 (fsspec's way)
    pseudo_dirs = [""]  # noqa: RUF012
    failures: list[Exception] = []  # noqa: RUF012
    uploaded: list[str] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("unstable://"))

    @classmethod
    def forget(cls) -> None:
        for kept in (cls.store, cls.failures, cls.uploaded):
            kept.clear()

    def put_file(self, lpath: str, rpath: str, *arguments: Any, **options: Any) -> None:
        self._fail()
        super().put_file(lpath, rpath, *arguments, **options)
        self.uploaded.append(rpath)

    def find(self, *arguments: Any, **options: Any) -> Any:
        self._fail()
        return super().find(*arguments, **options)

    def pipe_file(self, *arguments: Any, **options: Any) -> None:
        self._fail()
        super().pipe_file(*arguments, **options)

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


register_implementation("unstable", UnstableFiles, clobber=True)
