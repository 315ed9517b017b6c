"""The processes that a run has started, also those that made themselves daemons, and what they are doing."""

import ctypes
import os
import signal
import subprocess
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """From now on every descendant whose parent ends becomes a child of this process: none gets out of sight."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER) failed")


def end_with_parent():
    """SIGTERM comes when the parent ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def text(path):
    """A file of /proc, or nothing: the process may be gone, or another user's."""
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def descendants(root=None):
    """Living processes below `root` (default: this one): a list of pids."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # The name in parentheses may contain anything.
            fields = text(f"/proc/{name}/stat").rpartition(")")[2].split()
            if len(fields) > 1 and fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [root or os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def command_line(pid):
    words = text(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
    return " ".join(words)[:160] or f"[{text(f'/proc/{pid}/comm').strip()}]"


def describe(smcss, run_dir):
    """What hangs: processes with the place in the kernel they sleep in, sockets, and connections as smcss sees them."""
    lines = ["--- processes"]
    pids = descendants()
    for pid in pids:
        lines.append(f"{pid} {command_line(pid)}")
        for task in sorted(os.listdir(f"/proc/{pid}/task")) if os.path.exists(f"/proc/{pid}/task") else []:
            at = f"/proc/{pid}/task/{task}"
            state = text(f"{at}/stat").rpartition(")")[2].split()[:1]
            lines.append(f"  {task} {text(f'{at}/comm').strip()} {''.join(state)} {text(f'{at}/wchan')}"
                         f" syscall {text(f'{at}/syscall').strip()[:60]}")
            lines += [f"      {frame}" for frame in text(f"{at}/stack").split("\n")[:4] if frame]
    for title, command in [("sockets", ["ss", "-tnp"]), ("smcss", [smcss, "--json"])]:
        lines.append(f"--- {title}")
        try:
            output = subprocess.run(command, capture_output=True, timeout=10, check=False,
                                    env={**os.environ, "SMC_RUN_DIR": run_dir}).stdout.decode(errors="replace")
        except (OSError, subprocess.TimeoutExpired) as error:
            output = str(error)
        if title == "sockets":
            output = "\n".join(about(output.split("\n"), pids))
        lines.append(output.strip())
    if os.environ.get("SMC_PROGRAMS_GDB"):
        for pid in pids:
            lines.append(f"--- stack of {pid} {command_line(pid)}")
            lines.append(subprocess.run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 25"],
                                        capture_output=True, timeout=60, check=False).stdout.decode(errors="replace"))
    return "\n".join(lines)


def about(lines, pids):
    """Of the output of ss: the lines that name one of these processes."""
    wanted = [f"pid={pid}," for pid in pids]
    return [line for line in lines if any(pid in line for pid in wanted)]


def reap():
    """Collects the orphans that have ended; until then /proc has them. Only when no Popen waits for a child."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def kill_all():
    """Ends every descendant, whatever it does."""
    for _ in range(200):
        pids = descendants()
        if not pids:
            reap()
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap()
        time.sleep(0.01)
