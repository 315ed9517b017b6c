"""bash: /dev/tcp as client, read and written by builtins (stdio) and by programs that inherit the descriptor."""

import case

COMMANDS = ["bash", "socat", "md5sum"]
SUMMARY = ("/dev/tcp read and written by builtins, by programs that inherit the descriptor as standard input and output, by "
           "subshells, and alternately by all of them.")
REMARKS = "The descriptors are passed to other programs all the time, so nothing stays in shared memory for long."

SCRIPT = r"""
set -eu
port=$1 file=$2
exec 3<>/dev/tcp/127.0.0.1/$port
# A program writes, another one reads.
cat "$file" >&3 &
head -c "$(stat -c %s "$file")" <&3 | md5sum
wait
# Builtins, in both directions, many times.
for ((i = 0; i < 200; i++)); do
    printf 'line %d of some text\n' "$i" >&3
    read -r line <&3
    [[ $line == "line $i of some text" ]] || exit 1
done
echo "builtins done"
# Builtin, program, subshell by turns.
for ((i = 0; i < 20; i++)); do
    echo "a $i" >&3
    head -n 1 <&3
    (echo "b $i" >&3)
    (read -r line <&3 && echo "$line")
    sed "s/^/c /" <<<"$i" >&3
    read -r line <&3 && echo "$line"
done
exec 3>&-
exec 4<>/dev/tcp/localhost/$port
cat "$file" "$file" >&4 &
writer=$!
for ((i = 0; i < 40; i++)); do
    dd bs=1000 count=50 iflag=fullblock status=none <&4 | md5sum
done
wait "$writer"
exec 4<&-
exec 4<&- 5</dev/tcp/127.0.0.1/"$port"
exec 5<&-
"""


def version():
    return case.first_line("bash", "--version").split()[3]


def run(t):
    port = t.port()
    # An echo by a child for each connection.
    t.server(["socat", f"TCP4-LISTEN:{port},fork,reuseaddr,bind=127.0.0.1", "EXEC:cat"], port=port)
    t.server(["socat", f"TCP6-LISTEN:{port},fork,reuseaddr,bind=[::1]", "EXEC:cat"], ready=lambda: True)
    script = t.file("script", SCRIPT)
    content = t.random_file("content", 1_000_000)
    t.equal("script", t.client(["bash", script, str(port), content]))

    # A server on standard input and output, as inetd makes them.
    port = t.port()
    shell = "while read -r line; do echo \"<$line>\"; done"
    t.server(["socat", f"TCP4-LISTEN:{port},fork,reuseaddr,bind=127.0.0.1", f"SYSTEM:{shell!r},nofork"], port=port)
    lines = "".join(f"line {i}\n" for i in range(2000)).encode()
    t.equal("inetd", t.client(["socat", "-t", "30", "-", f"TCP4:127.0.0.1:{port}"], data=lines))
