"""The matrix of real programs: see ci/programs.sh.

    matrix.py [--list] [NAME...]     runs programs in all modes and writes the compatibility page
    matrix.py --one NAME MODE UPGRADE WORK   one run, in a process of its own; the outcome as JSON in WORK/outcome
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import case
import page
import processes

# In this order: those that have most to do with processes first.
PROGRAMS = ["nginx", "haproxy", "postgresql", "node", "java", "sshd", "bash", "redis", "memcached", "python", "curl",
            "iperf3", "netcat", "socat"]
# Every kind of thing once, in a few minutes.
CORE = ["nginx", "redis", "postgresql", "node", "sshd", "bash"]
# Mode and SMC_UPGRADE_AFTER; native comes first, the others are compared with it.
RUNS = [("native", None), ("both", None), ("both", "0"), ("server", "0"), ("client", "0")]
# Of the core, in which time is short.
CORE_RUNS = [("native", None), ("both", None), ("both", "0")]
# A run that takes longer hangs, whatever it waits for.
RUN_LIMIT = 600
CLEAN_UP_LIMIT = 180


class Alarm(case.Hung):
    pass


def one(name, mode, upgrade, work):
    """One run; everything that goes wrong becomes a failure in the outcome."""
    processes.adopt_orphans()
    processes.end_with_parent()
    program = importlib.import_module(f"program_{name}")
    smcss = os.environ.get("SMC_SMCSS") or os.path.join(os.path.dirname(os.environ["SMC_PRELOAD"]), "smcss")
    t = case.Case(mode, None if upgrade == "default" else upgrade, work, smcss)

    def alarm(_number, _frame):
        raise Alarm(f"the run is not done after {RUN_LIMIT} s")

    def ended(_number, _frame):
        processes.kill_all()
        os._exit(1)

    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGTERM, ended)
    signal.alarm(RUN_LIMIT)
    try:
        program.run(t)
    except case.Hung as error:
        t.failures.append(f"{error}\n{t.describe()}")
    except case.Failed as error:
        t.failures.append(str(error))
    except Exception:  # pylint: disable=broad-except
        t.failures.append(traceback.format_exc())
    signal.alarm(CLEAN_UP_LIMIT)
    ring = {}
    try:
        t.clean_up()
        ring = t.judge_report()
    except Exception:  # pylint: disable=broad-except
        t.failures.append(traceback.format_exc())
    processes.kill_all()
    if t.failures:
        for process_log in sorted(os.listdir(work)):
            if process_log.endswith(".log"):
                lines = processes.text(f"{work}/{process_log}")[-3000:].strip().split("\n")[-12:]
                if lines != [""]:
                    t.notes.append("\n".join([f"--- the end of {process_log}", *lines]))
    with open(f"{work}/outcome", "w", encoding="utf-8") as outcome:
        json.dump({"results": t.results, "failures": t.failures, "notes": t.notes, "ring": ring}, outcome)


def run(name, mode, upgrade, keep):
    """One run in a process of its own, so that nothing of it can get out of sight. Returns its outcome."""
    work = tempfile.mkdtemp(prefix="smc-programs.")
    outcome = {"results": {}, "failures": ["the run itself has ended without an outcome"], "notes": [], "ring": {}}
    started = time.monotonic()
    argv = [sys.executable, os.path.realpath(__file__), "--one", name, mode, upgrade or "default", work]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        try:
            process.wait(RUN_LIMIT + CLEAN_UP_LIMIT + 30)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(30)
        if os.path.exists(f"{work}/outcome"):
            with open(f"{work}/outcome", encoding="utf-8") as file:
                outcome = json.load(file)
    finally:
        if process.poll() is None:
            # This process is ended from outside: nothing of the run may stay.
            process.terminate()
            process.wait()
        if not (keep and outcome["failures"]):
            shutil.rmtree(work, ignore_errors=True)
    outcome["seconds"] = time.monotonic() - started
    return outcome


def compare(native, outcome):
    """Adds what differs from the native run to the failures."""
    for what in sorted({*native["results"], *outcome["results"]}):
        here, there = outcome["results"].get(what), native["results"].get(what)
        if here != there and not outcome["failures"]:
            outcome["failures"].append(f"{what}: {here}, natively {there}")


def main():
    parser = argparse.ArgumentParser(prog="ci/programs.sh", description="Real programs natively and under the library.")
    parser.add_argument("names", nargs="*", help="programs, or: core, all (default)")
    parser.add_argument("--list", action="store_true", help="name the programs and end")
    parser.add_argument("--mode", help="this mode only (and native): both, server, client")
    parser.add_argument("--keep", action="store_true", help="keep the files of a run that fails")
    parser.add_argument("--page", help="where the page goes")
    parser.add_argument("--results", required=True, help="a directory for the last result of each program")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.list:
        print("\n".join(PROGRAMS))
        return 0
    core = options.names == ["core"]
    names = CORE if core else PROGRAMS if options.names in ([], ["all"]) else options.names
    runs = CORE_RUNS if core else [r for r in RUNS if not options.mode or r[0] in ("native", options.mode)]
    passed = failed = 0
    os.makedirs(options.results, exist_ok=True)
    for name in names:
        if name not in PROGRAMS:
            print(f"programs: {name} is not one of {' '.join(PROGRAMS)}", file=sys.stderr)
            return 2
        program = importlib.import_module(f"program_{name}")
        missing = case.have(*program.COMMANDS)
        if missing:
            print(f"programs: {name}: {' '.join(missing)} is missing: ci/deps.sh programs", file=sys.stderr)
            failed += 1
            continue
        record = {"version": program.version(), "summary": program.SUMMARY, "remarks": getattr(program, "REMARKS", ""),
                  "runs": []}
        native = None
        for mode, upgrade in runs:
            outcome = run(name, mode, upgrade, options.keep)
            if native is None:
                native = outcome
            else:
                compare(native, outcome)
            label = mode if mode == "native" else f"{mode}, {'at once' if upgrade == '0' else 'default'}"
            good = not outcome["failures"]
            passed, failed = passed + good, failed + (not good)
            ring = outcome["ring"]
            rings = f", {ring['on_ring']} of {ring['connections']} connections on the ring" if ring and mode != "native" else ""
            print(f"{name:11} {label:16} {outcome['seconds']:5.1f} s  {'ok' if good else 'FAILED'}{rings}", flush=True)
            if not good:
                print("\n".join(outcome["failures"] + outcome["notes"]), flush=True)
            record["runs"].append({"label": label, "ok": good, "ring": ring, "results": len(outcome["results"])})
            if mode == "native" and not good:
                # Nothing to compare with.
                break
        if not core and not options.mode:
            with open(f"{options.results}/{name}.json", "w", encoding="utf-8") as file:
                json.dump(record, file)
    if options.page:
        page.write(options.page, options.results, PROGRAMS)
    print(f"programs: {passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        sys.exit(main())
