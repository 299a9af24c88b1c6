"""How much a program in the sandbox may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much a program may take, beside its seconds.

    memory     bytes: of address space for each of its processes, and of memory for all together
    processes  processes and threads at a time
    files      bytes that all files together may hold in /tmp, and again in /dev/shm; they live in
               memory and are gone with the program
    output     bytes that it may print, standard output and standard error each
    readable   files and folders of this system that it may read, beside Python and its packages
    Raises ValueError for what is no limit.
    """

    memory: int = 1 << 30
    processes: int = 32
    files: int = 64 << 20
    output: int = 1 << 20
    readable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"memory": 64 << 20, "processes": 4, "files": 1 << 16, "output": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ValueError(
                    f"{name}={value!r} is no limit that Python can run in: give a whole number "
                    f"from {smallest} on"
                )
        if isinstance(self.readable, str):
            raise ValueError(f"readable={self.readable!r} is one text: give a tuple of paths")
