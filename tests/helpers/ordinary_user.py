"""A script that attacks from the sandbox of whoever runs it, for tests/search/
test_sandbox_attacks.py. It needs the folder of the sandbox alone, and prints one line.
"""

from __future__ import annotations

import inspect
import json
import os
import sys

import attacks

#: those that come back, with 0.0 where they are contained
ATTACKS = (
    attacks.environment, attacks.passwords, attacks.sockets, attacks.fork_bomb,
    attacks.memory_that_no_limit_counts, attacks.other_processes, attacks.become_root,
    attacks.rare_parts_of_the_kernel, attacks.read_files, attacks.rare_sockets, attacks.terminal,
)  # fmt: skip


def main() -> None:
    from search import sandbox

    told = json.dumps({"folder": os.getcwd(), "port": 9, "abstract": "x", "pid": os.getppid()})
    source = inspect.getsource(attacks).replace("from __future__ import annotations", "")
    programs = [(f"{source}\nprint({one.__name__}({told!r}))", None) for one in ATTACKS]
    for one, outcome in zip(ATTACKS, sandbox.run_many(programs, seconds=60), strict=True):
        assert outcome.stdout == "0.0\n", (one.__name__, outcome)
    ends = {"x = bytearray(3 << 30)": "memory", "print('x' * 9 ** 7)": "output"}
    for code, end in ends.items():
        assert sandbox.run(code, seconds=60).ended == end
    assert sandbox.run("def f(): return 2", "assert f() == 2").passed
    sys.stdout.write("all contained\n")


if __name__ == "__main__":
    main()
