"""The workflow for a course's private repository, which grades students' repositories."""

from grader.course.manifest import Course
from grader.exports.student import pins
from grader.exports.templating import fill_in

__all__ = ["WORKFLOW", "official_workflow"]

WORKFLOW = ".github/workflows/official.yml"


def official_workflow(course: Course, modules: list[str]) -> str:
    """The workflow's text. It grades these modules, or all if none is named. Raises: CannotExport."""
    return fill_in("official.yml.jinja", pins=pins(course), modules=modules)
