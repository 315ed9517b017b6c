"""curl: down- and uploads with CPython's http.server at the other end, parallel, resumed, with a slow reader."""

import case

COMMANDS = ["curl"]
SUMMARY = "downloads, uploads of 20 MB by PUT and from a pipe, ten transfers in parallel, a resumed one, one cut off, --http1.0."


def version():
    return case.first_line("curl", "--version").split()[1]


def run(t):
    port = t.port()
    large = t.random_file("www/large", 20_000_000)
    for i in range(10):
        t.random_file(f"www/file{i}", 300_000 * (i + 1))
    web = t.server([case.PYTHON, t.script("web_server.py"), str(port), f"{t.work}/www"], port=port, name="web")
    url = f"http://127.0.0.1:{port}"
    curl = ["curl", "-sS", "--max-time", "50"]
    t.equal("large", t.client([*curl, f"{url}/large"]))
    t.equal("http 1.0", t.client([*curl, "--http1.0", f"http://[::1]:{port}/large"]))
    t.equal("put", t.client([*curl, "-T", large, f"{url}/put"]))
    t.equal("put from a pipe", t.client([*curl, "-T", "-", f"{url}/put"], data=t.read(large)))
    t.equal("posted", t.client([*curl, "--data-binary", f"@{large}", "-H", "Expect:", f"{url}/put"]))
    t.equal("echoed", t.client([*curl, "--data-binary", f"@{large}", f"{url}/echo"]))
    files = [word for i in range(10) for word in ("-o", f"{t.work}/got{i}", f"{url}/file{i}")]
    t.client([*curl, "--parallel", *files])
    for i in range(10):
        t.equal(f"parallel {i}", t.read(f"{t.work}/got{i}"))
    t.client([*curl, "-r", "0-4999999", "-o", f"{t.work}/resumed", f"{url}/large"])
    t.client([*curl, "-C", "-", "-o", f"{t.work}/resumed", f"{url}/large"])
    t.equal("resumed", t.read(f"{t.work}/resumed"))
    t.equal("cut off", t.client([*curl, "-o", "/dev/null", "-w", "%{size_download} %{errormsg}", f"{url}/cut"], status=18))
    t.equal("refused", t.client([*curl, f"http://127.0.0.1:{t.port()}/"], status=7))
    several = [f"{url}/file0?{i}" for i in range(30)]
    t.equal("one connection", t.client([*curl, *several]))
    t.stop(web, status=-15)
    t.on_ring("curl", 100_000, always=True)
