"""Writes docs/compatibility.md from the results of the last run of each program."""

import json
import os

HEAD = """# Compatibility

Programs that are run by `ci/programs.sh`, which wrote this page. Each is started as its users start it, with no setting of
its own for smc: natively, with both sides under `smc_run`, and with one side only. What it gives (checksums, counts, exit
status) is compared with the native run; with both sides under `smc_run` the connections that should be in shared memory
must be there, with one side none may be; and no process, socket or file may be left behind.

Programs that the library cannot see (static ones, Go, those that make system calls themselves) stay on TCP and are not
listed; see [limitations.md](limitations.md).

*default* is without settings: short connections stay on TCP. *at once* is `SMC_UPGRADE_AFTER=0`: every connection is moved
at its first bytes. *server* and *client* have that side alone under `smc_run`.

"""

TAIL = """
## Test suites of other projects

`ci/cpython.sh` and `ci/suites.sh` run them natively and under the library with `SMC_UPGRADE_AFTER=0`, and compare test by test. None
has another result under the library.

- **CPython** (its network modules): test_socket, test_select, test_selectors, test_asyncio, test_ssl, test_socketserver,
  test_ftplib, test_httpservers.
- **Tornado**: all its tests. Left out of the comparison are those of how a computation's time grows with its input.
- **Twisted**: its tests of TCP (with each of its reactors), TLS, and HTTP clients and servers.
"""


def share(ring):
    if not ring or not ring["connections"]:
        return ""
    percent = 100 * ring["ring_bytes"] / ring["bytes"] if ring["bytes"] else 0
    return f"{ring['on_ring']} of {ring['connections']} ({percent:.0f}% of bytes)"


def notes(run):
    """Why connections of a run with both sides were not moved, the most frequent reasons first."""
    if not run["label"].startswith("both") or not run["ring"]:
        return ""
    reasons = sorted(run["ring"]["reasons"].items(), key=lambda item: -item[1])
    return "; ".join(f"{count} on TCP: {reason}" for reason, count in reasons[:3])


def write(path, results, programs):
    rows, details = [], []
    for name in programs:
        try:
            with open(os.path.join(results, f"{name}.json"), encoding="utf-8") as file:
                record = json.load(file)
        except OSError:
            continue
        for run in record["runs"]:
            result = "ok" if run["ok"] else "**fails**"
            rows.append(f"| {name} | {record['version']} | {run['label']} | {result} | {share(run['ring'])} | {notes(run)} |")
        details.append(f"- **{name}**: {record['summary']}" + (f" {record['remarks']}" if record["remarks"] else ""))
    text = HEAD + "| program | version | mode | result | connections moved | notes |\n|---|---|---|---|---|---|\n"
    text += "\n".join(rows) + "\n\n## What is exercised\n\n" + "\n".join(details) + "\n" + TAIL
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
