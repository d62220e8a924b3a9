"""The README's table of modules, made from course.toml."""

import re

from grader.course.manifest import Course

__all__ = ["with_table"]

_TABLE = re.compile(r"(^\| module \| about \| tasks \| points \| minutes \|\n\|[ |-]+\|\n)((?:\|.*\n)*)", re.MULTILINE)


def with_table(text: str, course: Course) -> str:
    """A README with its table of modules brought up to date. One without such a table stays as it is."""
    rows = "".join(
        f"| `{module.name}` | {module.title}: {module.story} | {len(module.tasks)} | {module.points:g} | {module.minutes} |\n"
        for module in course.modules
    )
    return _TABLE.sub(lambda match: match[1] + rows, text)
