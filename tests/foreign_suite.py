"""foreign_suite.py tornado|twisted RESULTS.xml [NAME]...: runs the test suite of another project, as its own runner does,
and writes the result of each test as JUnit does. NAME: test modules, in place of all of them.

Exit status: 0 when the suite came to its end, whatever the results.
"""

import runpy
import sys
import unittest
import xml.etree.ElementTree as ElementTree

RESULTS = {}


def note(test, outcome, text=""):
    """One with several results, of its parts or of what comes after it, has the first that is not a success."""
    name = test.id()
    if RESULTS.get(name, ("passed",))[0] == "passed":
        RESULTS[name] = (outcome, str(text))


def write(path):
    root = ElementTree.Element("testsuite")
    for name, (outcome, text) in RESULTS.items():
        case = ElementTree.SubElement(root, "testcase", name=name)
        if outcome != "passed":
            # XML knows no control characters.
            clean = "".join(c for c in text if c in "\n\t" or c.isprintable())
            ElementTree.SubElement(case, outcome).text = clean
    ElementTree.ElementTree(root).write(path)


def listen(result_class, text_of):
    """Has every result that is added to a `result_class` noted as well."""
    outcomes = {
        "addSuccess": "passed",
        "addExpectedFailure": "passed",
        "addUnexpectedSuccess": "failure",
        "addFailure": "failure",
        "addError": "error",
        "addSkip": "skipped",
    }
    for method, outcome in outcomes.items():

        def add(self, test, *rest, _original=getattr(result_class, method), _outcome=outcome):
            note(test, _outcome, text_of(self, test, *rest))
            return _original(self, test, *rest)

        setattr(result_class, method, add)


def text_of_unittest(result, test, reason=None, *_):
    return result._exc_info_to_string(reason, test) if isinstance(reason, tuple) else reason or ""


def tornado(names):
    listen(unittest.TextTestResult, text_of_unittest)
    sys.argv = ["runtests", *names]
    # It looks for its list of tests in the main module.
    runpy.run_module("tornado.test.runtests", run_name="__main__", alter_sys=True)


def text_of_trial(_result, _test, reason=None, *_):
    trace = getattr(reason, "getTraceback", None)
    return trace() if trace else reason or ""


def twisted(names):
    from twisted.scripts import trial
    from twisted.trial import reporter

    listen(reporter.TestResult, text_of_trial)
    sys.argv = ["trial", "--reporter=text", "--temp-directory=trial", *names]
    trial.run()


def main():
    suite, path, *names = sys.argv[1:]
    try:
        {"tornado": tornado, "twisted": twisted}[suite](names)
    except SystemExit as end:
        print(end)
    write(path)
    sys.exit(0 if RESULTS else 1)


if __name__ == "__main__":
    main()
