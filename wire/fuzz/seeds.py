#!/usr/bin/env python3
"""Writes the first inputs of the fuzz targets, made of the fixtures. Usage: seeds.py DIRECTORY

They are in the form that each target reads; see its first lines.
"""
import pathlib
import sys

FIXTURES = pathlib.Path(__file__).parent.parent / "tests" / "fixtures"


def captured():
    messages = {"clc": [], "llc": [], "cdc": []}
    for line in (FIXTURES / "kernel-6.12-smcrv2.txt").read_text().splitlines():
        words = line.split()
        if words[2] in messages:
            messages[words[2]].append((words[1], bytes.fromhex(words[3])))
    return messages


def vectors():
    messages = {}
    for line in (FIXTURES / "vectors.txt").read_text().splitlines():
        if line.startswith("= "):
            name = line[2:]
            messages[name] = b""
        else:
            messages[name] += bytes.fromhex(line)
    return messages


def step(kind, message):
    return bytes([kind]) + len(message).to_bytes(2, "little") + message


def main(directory):
    capture, made = captured(), vectors()
    proposal, accept, confirm = (message for _, message in capture["clc"])
    confirm_link, confirmed, add_link, _ = (message for _, message in capture["llc"])
    seeds = {
        "clc": [message for _, message in capture["clc"]],
        "llc": [message for _, message in capture["llc"]],
        # Messages of both ends, each with some writes and reads between.
        "cdc": [
            b"".join(b"\x01\xe8\x03\x07" + b"\x00" + message + b"\x02\xe8\x03" for sender, message in capture["cdc"] if sender == end)
            for end in ("client", "server")
        ],
        "handshake": [
            b"\x00" + step(0, accept) + b"\x02" + step(1, confirm_link) + b"\x05",
            b"\x00" + step(0, made["ACCEPT, later contact"]) + b"\x04",
            b"\x00" + step(0, accept) + b"\x02\x07\x07",
            b"\x01" + step(0, proposal) + b"\x02" + step(0, confirm) + b"\x05" + step(1, confirmed),
            b"\x01" + step(0, proposal) + b"\x02" + step(0, confirm) + b"\x05\x07\x07\x07",
            b"\x01" + step(0, proposal) + b"\x03" + step(0, made["ACCEPT, later contact"]),
            b"\x01" + step(0, made["DECLINE v1, 0x03030000"]),
        ],
        "group": [
            bytes([role]) + b"\x02\x03\x02\x04" + b"".join(step(0, message) for message in messages) + b"\x06\x06"
            for role in (0, 1)
            for messages in (
                [message for name, message in made.items() if name.startswith("LLC") and "DELETE LINK" not in name],
                [confirm_link, add_link, made["LLC DELETE LINK all, orderly, 0x00030000"]],
            )
        ],
    }
    for name, message in made.items():
        if name.startswith("LLC"):
            seeds["llc"].append(message)
        elif not name.startswith("CDC"):
            seeds["clc"].append(message)
    for target, inputs in seeds.items():
        folder = pathlib.Path(directory) / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(inputs):
            (folder / f"seed-{number}").write_bytes(content)


main(sys.argv[1])
