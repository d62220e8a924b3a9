"""What the bans stop, and what they don't, is as docs/security.md says."""

import pytest

from grader.course.manifest import Course
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.sandbox.worker.confine import supported
from tests.grader.redteam.spellings import ROOT, TWINS, render, study, written

pytestmark = pytest.mark.skipif(supported() is not None, reason=str(supported()))


def test_the_document_tells_what_the_bans_stop(zygote: ZygoteHandle) -> None:
    """Ten tasks, at least twenty spellings each, all of them right answers but for the ban; the outcome is the one written down."""
    verdicts = list(study(Course.read(ROOT), zygote, TWINS))
    assert [(verdict.task, verdict.spelling) for verdict in verdicts if not verdict.right] == []
    assert len(TWINS) >= 10
    assert all(sum(verdict.task == twin.task for verdict in verdicts) >= 20 for twin in TWINS)
    assert render(verdicts) == written()
