"""Ends processes of Ray whose raylet is gone.

When a raylet dies with its GCS, its two agents wait 60 s to report that to the GCS (Ray 2.60), with 200 MB of memory. A
worker that was starting looks 26 s for the GCS. Without their raylet they are of no use to anybody.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

MOST_SEC = 20.0
"""How long end_orphans() waits for the shell on a machine that is busy."""
END_ORPHANS = r"""
code='ray/(dashboard/agent|_private/runtime_env/agent/main)[.]py --node-id='
for process in $(grep -lsE 'ray::(Dashboard|RuntimeEnv)Agent|ray/(dashboard|_private)/.*[.]py' /proc/[0-9]*/cmdline); do
    process=${process%/cmdline}
    words=$({ tr '\0' ' ' < "$process/cmdline"; } 2> /dev/null)
    if printf '%s' "$words" | grep -qE "^(ray::(Dashboard|RuntimeEnv)Agent|[^ ]*python[^ ]* -u [^ ]*/$code)"; then
        parent=$(sed 's/.*) . \([0-9]*\) .*/\1/' "$process/stat" 2> /dev/null) || continue
        grep -qsE '^[^[:space:]]*/raylet' "/proc/$parent/cmdline" && continue
    elif printf '%s' "$words" | grep -qE '^[^ ]*python[^ ]* [^ ]*/default_worker[.]py .*--raylet-name='; then
        raylet=$(printf '%s' "$words" | sed 's/.* --raylet-name=\([^ ]*\).*/\1/')
        grep -qsF -- "$raylet" /proc/net/unix
        [ $? -eq 1 ] || continue
    else
        continue
    fi
    kill -KILL "${process#/proc/}" 2> /dev/null
done
"""
"""For a shell: a watcher of a command that was killed has no other means.

Agents and workers that load their code are known by their command lines. Then agents have titles, and workers end by
themselves. The raylet of a worker is known by a socket on which it listens, since the parent of a worker in a
container, or below `uv run`, is another process.
"""
END_LATE_ORPHANS = f"""
for sec in 1 3 6; do
    sleep $sec
    {END_ORPHANS}
done
"""
"""The same over ten seconds: a raylet that dies may be about to start another process."""


def end_orphans() -> None:
    """Ends what is left of all Rays on this machine that are gone, as far as it belongs to this user."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["/bin/sh", "-c", END_ORPHANS], timeout=MOST_SEC, check=False)


def end_late_orphans() -> None:
    """Looks in the background for agents and workers that were starting when their Ray ended."""
    with suppress(OSError):
        subprocess.Popen(
            ["/bin/sh", "-c", END_LATE_ORPHANS], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
