"""A file system in memory that tells what was done to it, can be watched after each act, and fails when told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import register_implementation


class SpyFileSystem(MemoryFileSystem):
    """`spy://` is like a file server: not an object store, so files are moved into their place."""

    protocol = "spy"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    acts: ClassVar[list[tuple[str, str]]] = []
    before: ClassVar[Callable[[str, str], None]]
    after: ClassVar[Callable[[], None]]

    @classmethod
    def reset(cls) -> None:
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.acts.clear()
        cls.before = staticmethod(lambda act, path: None)
        cls.after = staticmethod(lambda: None)

    @classmethod
    def files(cls) -> dict[str, bytes]:
        """What is there now, whole files and temporary ones."""
        return {name: file.getvalue() for name, file in cls.store.items()}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace(f"{cls.protocol}://", "memory://"))

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        self._act("put", rpath)
        super().put_file(lpath, rpath, *args, **kwargs)
        self.after()

    def mv(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        self._act("move", path2)
        self.store[path2] = self.store.pop(path1)
        self.after()

    def rm_file(self, path: str) -> None:
        self._act("delete", path)
        super().rm_file(path)
        self.after()

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self.before("list", path)
        return super().ls(path, detail, **kwargs)

    def _act(self, act: str, path: str) -> None:
        self.before(act, path)
        self.acts.append((act, path))


register_implementation("spy", SpyFileSystem, clobber=True)
SpyFileSystem.reset()
