"""Results as JUnit XML."""

from collections import Counter
from xml.etree import ElementTree

from grader.base.outcome import Status
from grader.runner.results import Results

__all__ = ["junit_report"]


def junit_report(results: Results) -> bytes:
    """One testsuite for each module of each submission. Points are properties of the suite, because tests can't have any."""
    root = ElementTree.Element("testsuites")
    for submission in results.submissions:
        for module in submission.modules:
            tests = [(task, test) for task in module.tasks for test in task.tests]
            counts = Counter(_junit_kind(test.status) for _, test in tests)
            suite = ElementTree.SubElement(root, "testsuite", name=f"{submission.id}.{module.name}", tests=str(len(tests)))
            for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
                suite.set(attribute, str(counts[kind]))
            properties = ElementTree.SubElement(suite, "properties")
            for name, value in (("score", module.score), ("max_score", module.max_score), ("seed", results.seed)):
                ElementTree.SubElement(properties, "property", name=name, value=str(value))
            for task, test in tests:
                case = ElementTree.SubElement(suite, "testcase", classname=f"{module.name}.{task.name}", name=test.id)
                if kind := _junit_kind(test.status):
                    ElementTree.SubElement(case, kind, message=f"{test.status}: {test.message}")
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _junit_kind(status: Status) -> str:
    match status:
        case Status.PASSED:
            return ""
        case Status.SKIPPED:
            return "skipped"
        case Status.FAILED | Status.NOT_IMPLEMENTED | Status.BANNED:
            return "failure"
        case _:
            return "error"
