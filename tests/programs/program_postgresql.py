"""PostgreSQL: pgbench, COPY of much data, cancelled queries, TLS, notifications, a base backup by replication."""

import glob
import os
import re
import signal
import subprocess

import case
import processes

BIN = (sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [""])[-1]
COMMANDS = [f"{BIN}/postgres", f"{BIN}/pgbench", f"{BIN}/psql", "setpriv", "openssl"]
SUMMARY = ("pgbench with eight clients and its balances, prepared and reconnecting for each transaction, COPY of 10 MB in and "
           "out, a cancelled query, TLS, LISTEN and NOTIFY, pg_basebackup, pg_dump, a fast shutdown with a client waiting.")
REMARKS = "pg_basebackup -X stream forks while it uses a connection that has not moved: that one stays on TCP."


def version():
    return case.first_line(f"{BIN}/postgres", "--version").split()[2]


def run(t):
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    port = t.port()
    data = f"{t.work}/pg/data"
    os.mkdir(f"{t.work}/pg")
    if user:
        subprocess.run(["chown", user, f"{t.work}/pg"], check=True)
    native = {"side": "none", "user": user}
    t.client([f"{BIN}/initdb", "-D", data, "-U", "tester", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"], **native)
    key, certificate = t.certificate()
    for source, name in ((key, "server.key"), (certificate, "server.crt")):
        t.client(["install", "-m", "600", source, f"{data}/{name}"], **native)
    settings = {"port": port, "listen_addresses": "127.0.0.1,::1", "unix_socket_directories": "", "fsync": "off",
                "max_connections": "40", "ssl": "on", "shared_buffers": "32MB", "autovacuum": "off",
                # POSIX shared memory of other clusters on the machine is none of ours.
                "dynamic_shared_memory_type": "mmap"}

    def accepts():
        # It listens some milliseconds before it does.
        logs = glob.glob(f"{t.work}/postgres.*.log")
        return any("ready to accept connections" in processes.text(log) for log in logs)

    server = t.server([f"{BIN}/postgres", "-D", data, *(word for name, value in settings.items()
                                                          for word in ("-c", f"{name}={value}"))],
                      user=user, ready=accepts, name="postgres")
    address = ["-h", "127.0.0.1", "-p", str(port), "-U", "tester", "-d", "postgres"]
    no_tls = {"PGSSLMODE": "disable"}

    def psql(*words, host="127.0.0.1", env=None, **more):
        return t.client([f"{BIN}/psql", "-h", host, *address[2:], "-qAtX", "-v", "ON_ERROR_STOP=1", *words],
                        env=env or no_tls, **more)

    def pgbench(what, *words, env=None, count):
        output = t.client([f"{BIN}/pgbench", *address[:-2], *words, "postgres"], env=env or no_tls).decode()
        done = re.search(r"actually processed: (\S+)", output)
        t.check(f"pgbench {what}: {output}", done and done[1].split("/")[0] == str(count))
        t.check(f"pgbench {what} had failures: {output}", "failed transactions: 0 " in output)

    t.client([f"{BIN}/pgbench", *address[:-2], "-i", "-q", "-s", "2", "postgres"], env=no_tls)
    pgbench("simple", "-c", "8", "-j", "2", "-t", "100", "-n", count=800)
    pgbench("prepared, reading", "-c", "8", "-j", "2", "-t", "500", "-n", "-S", "-M", "prepared", count=4000)
    pgbench("a connection each", "-c", "4", "-t", "20", "-n", "-C", "-S", count=80)
    pgbench("tls", "-c", "4", "-t", "100", "-n", "-S", env={"PGSSLMODE": "require"}, count=400)
    t.equal("balances", psql("-c", "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from "
                                   "pgbench_history), (select count(*) from pgbench_history)"))

    rows = b"".join(b"%d\t%s\n" % (i, (b"%x" % (i * 2654435761 % 2**32)) * 12) for i in range(90_000))
    psql("-c", "create table copied (id int, text text)")
    psql("-c", "copy copied from stdin", data=rows)
    t.equal("copied", psql("-c", "copy (select * from copied order by id) to stdout"))
    t.equal("copied over IPv6 and TLS", psql("-c", "copy (select * from copied order by id) to stdout", host="::1",
                                             env={"PGSSLMODE": "require"}))
    t.equal("many results", psql("-c", "select i, repeat('x', i % 500) from generate_series(1, 20000) i"))
    t.equal("errors", psql("-c", "select 1/0", status=1))
    t.equal("a query that the server ends", psql("-c", "set statement_timeout = 50; select pg_sleep(60)", status=1))
    cancel(t, psql, address, no_tls)
    t.equal("notified", len(re.findall(b"notification", psql("-c", "listen a", *(w for _ in range(3) for w in ("-c", "notify a"))))))
    dump = t.client([f"{BIN}/pg_dump", *address, "-t", "copied"], env=no_tls)
    t.equal("dump", b"\n".join(line for line in dump.split(b"\n") if not line.startswith((b"--", b"\\"))))
    t.client([f"{BIN}/pg_basebackup", *address[:-2], "-D", f"{t.work}/pg/backup", "-X", "stream", "-c", "fast"], env=no_tls,
             user=user)
    t.client([f"{BIN}/pg_verifybackup", f"{t.work}/pg/backup"], **native)

    waiting = t.background([f"{BIN}/psql", *address, "-c", "select pg_sleep(600)"], env=no_tls, name="waiting")
    sleeps(t, psql, 1)
    t.stop(server, signal.SIGINT)
    t.ended(waiting, status=2)
    t.on_ring("postgres", 2_000_000, always=True)
    t.on_ring("pgbench", 500_000, always=True)
    t.on_ring("psql", 100_000, always=True)


def sleeps(t, psql, count):
    query = "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%' and state = 'active'"
    t.until("a query sleeps", lambda: psql("-c", query).strip() == b"%d" % count)


def cancel(t, psql, address, env):
    """Ctrl-C in psql: a second connection carries the request."""
    waiting = t.background([f"{BIN}/psql", *address, "-c", "select pg_sleep(600)"], env=env, name="cancelled")
    sleeps(t, psql, 1)
    waiting.send_signal(signal.SIGINT)
    t.check("the query is cancelled", "canceling statement due to user request" in t.finish(waiting, status=1))
