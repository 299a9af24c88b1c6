"""Running code that nobody vetted: in bubblewrap, with namespaces of its own, no network, no
environment, a system that it can only read, a private /tmp, a filter of system calls, and limits of
memory, processes, files, output and time. Linux with bubblewrap; elsewhere it says what is missing.
"""

from __future__ import annotations

from search.sandbox.limits import Limits
from search.sandbox.programs import Outcome, run, run_many
from search.sandbox.start import SandboxMissing, missing

__all__ = ["Limits", "Outcome", "SandboxMissing", "missing", "run", "run_many"]
