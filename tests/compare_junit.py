"""compare_junit.py NATIVE.xml OTHER.xml [TEXT]...: prints the tests whose results differ, but for those with a TEXT in their
names.

Prints "COMMON DIFFERENT" as its last line: how many tests have the same result in both, and how many have not.
"""

import sys
import xml.etree.ElementTree as ElementTree


def results(path):
    """The result of each test: passed, skipped, failure or error, with what the latter two say."""
    found = {}
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        print(f"  {path}: {error}")
        return found
    for case in root.iter("testcase"):
        outcome, text = "passed", ""
        for child in case:
            if child.tag in ("skipped", "failure", "error"):
                outcome, text = child.tag, (child.text or "").strip()
        found[case.get("name")] = (outcome, text)
    return found


def main():
    native, other = (results(path) for path in sys.argv[1:3])
    common = 0
    different = 0
    names = (name for name in native.keys() | other.keys() if not any(text in str(name) for text in sys.argv[3:]))
    for name in sorted(names, key=str):
        before, _ = native.get(name, ("not run", ""))
        after, text = other.get(name, ("not run", ""))
        if before == after:
            common += 1
            continue
        different += 1
        print(f"  {name}: {before} natively, {after} under the shim")
        for line in text.splitlines()[-12:]:
            print(f"      {line}")
    print(common, different)


if __name__ == "__main__":
    main()
