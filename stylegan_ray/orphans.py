"""Ends Ray's agents whose Ray is gone.

When a raylet dies with its GCS, its two agents wait 60 s to report that to the GCS (Ray 2.60), with 200 MB of memory.
An agent without its raylet is of no use to anybody.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

MOST_SEC = 20.0
"""How long end_orphans() waits for the shell on a machine that is busy."""
PROGRAMS = r"^ray::(DashboardAgent|RuntimeEnvAgent)|/ray/dashboard/agent\.py|/ray/_private/runtime_env/agent/main\.py"
"""In the command lines of agents, before and after they give themselves titles."""
END_ORPHANS = f"""
for agent in $(grep -lsE '{PROGRAMS}' /proc/[0-9]*/cmdline); do
    agent=${{agent%/cmdline}}
    parent=$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' "$agent/stat" 2> /dev/null) || continue
    grep -qsE '^[^[:space:]]*/raylet' "/proc/$parent/cmdline" || kill -KILL "${{agent#/proc/}}" 2> /dev/null
done
"""
"""For a shell: a watcher of a command that was killed has no other means."""


def end_orphans() -> None:
    """Ends the agents of all Rays on this machine that are gone, as far as they belong to this user."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["/bin/sh", "-c", END_ORPHANS], timeout=MOST_SEC, check=False, start_new_session=True)
