"""CPython: asyncio, multiprocessing, http.server, requests over TLS."""

import subprocess

import case

COMMANDS = [case.PYTHON, "openssl"]
SUMMARY = ("asyncio streams with twenty clients, multiprocessing's Listener and Client, accepted connections served by a forked child "
           "and by one that got them over a queue (SCM_RIGHTS), http.server and requests over TLS.")
REMARKS = "Connections passed over a queue go back to TCP."


def version():
    return case.first_line(case.PYTHON, "--version").split()[1]


def run(t):
    key, certificate = t.certificate()
    script = t.script("python_program.py")
    if subprocess.run([case.PYTHON, "-c", "import requests"], capture_output=True, check=False).returncode:
        raise case.Failed("the module requests is missing: ci/deps.sh programs")
    for what in ("asyncio", "multiprocessing", "requests"):
        port = t.port()
        server = t.server([case.PYTHON, script, f"{what}-server", str(port), certificate, key], port=port, name=what)
        if what == "multiprocessing":
            t.until("the listener is there", lambda port=port: t.listens(port + 1))
        t.equal(what, t.client([case.PYTHON, script, f"{what}-client", str(port), certificate]))
        t.stop(server, status=0 if what == "multiprocessing" else -15)
    t.on_ring("python3", 2_000_000, always=True)
