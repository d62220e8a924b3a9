"""Classroom 50's result.json: its identity and its content. Scores are whole hundredths of a point.

Shipped with the autograder, so it uses the standard library only.
"""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["BadIdentity", "Identity", "TestRow", "instant", "result"]

SCHEMA = "classroom50/result/v1"
TYPES = ("individual", "group")

_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ")
_TAG_TIME = re.compile(r"submit/(\d{4}-\d{2}-\d{2})T(\d{2})-(\d{2})-(\d{2})Z\b.*")


class BadIdentity(Exception):
    """A part of the identity is missing or malformed; the text says which one and what to do."""


@dataclass(frozen=True)
class Identity:
    """Which submission a result belongs to. Classroom 50 checks classroom, assignment and owner against the repository."""

    classroom: str
    assignment: str
    assignment_type: str
    owner: str
    submission: str
    commit: str
    release: str
    review: str
    datetime: str
    """When the graded commit was made: the same on every regrade."""

    def __post_init__(self) -> None:
        for name in ("classroom", "assignment", "owner", "submission", "commit", "release", "review", "datetime"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise BadIdentity(f"{name} is missing: give it")
        if self.assignment_type not in TYPES:
            raise BadIdentity(f"assignment_type is {self.assignment_type!r}: give individual or group")
        if not self.submission.startswith("submit/"):
            raise BadIdentity(f"submission is {self.submission!r}: give the tag, which begins with submit/")
        if not _INSTANT.fullmatch(self.datetime):
            raise BadIdentity(f"datetime is {self.datetime!r}: give the commit's time in UTC, such as 2026-10-01T12:00:00Z")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], committed: dt.datetime | None) -> Self:
        """Read the variables that Classroom 50 sets. If the commit's time is unknown, use the tag's. Raises: BadIdentity."""
        tag = environment.get("SUBMISSION_TAG", "")
        if committed is not None:
            when = instant(committed)
        else:
            when = f"{match[1]}T{match[2]}:{match[3]}:{match[4]}Z" if (match := _TAG_TIME.fullmatch(tag)) else ""
        commit = environment.get("COMMIT_URL", "")
        return cls(
            classroom=environment.get("CLASSROOM", ""),
            assignment=environment.get("ASSIGNMENT", ""),
            # Newer runners know more kinds of groups, and replace this value.
            assignment_type="individual" if environment.get("ASSIGNMENT_TYPE") in (None, "", "individual") else "group",
            owner=environment.get("OWNER") or environment.get("USERNAME", ""),
            submission=tag,
            commit=commit,
            release=environment.get("RELEASE_URL", ""),
            review=environment.get("REVIEW_URL") or commit,  # older runners set no REVIEW_URL
            datetime=when,
        )

    @classmethod
    def from_record(cls, record: object) -> Self:
        """Read an earlier result.json of the same submission. Raises: BadIdentity."""
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise BadIdentity(f"it is no result.json of {SCHEMA}: give the file that is attached to the submission's release")
        return cls(**{name: record.get(name, "") for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class TestRow:
    """One line of the result, in hundredths of a point."""

    __test__ = False  # pytest would take the class for a test because of its name

    name: str
    passed: bool
    score: int
    max_score: int


def instant(when: dt.datetime) -> str:
    """A time in Classroom 50's format: UTC in whole seconds, with a Z."""
    return when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def result(identity: Identity, rows: Sequence[TestRow], graded_at: dt.datetime) -> dict[str, Any]:
    """The content of result.json. Score and maximum are the sums over its tests."""
    tests = [{"test-name": row.name, "passed": row.passed, "score": row.score, "max-score": row.max_score} for row in rows]
    return {
        "schema": SCHEMA,
        "classroom": identity.classroom,
        "assignment": identity.assignment,
        "assignment_type": identity.assignment_type,
        "owner": identity.owner,
        "submission": identity.submission,
        "commit": identity.commit,
        "release": identity.release,
        "review": identity.review,
        "datetime": identity.datetime,
        "graded_at": instant(graded_at),
        "score": sum(row.score for row in rows),
        "max-score": sum(row.max_score for row in rows),
        "tests": tests,
    }
