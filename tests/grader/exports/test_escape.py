"""One function a medium, each against the same hostile string."""

import re

import pytest

from grader.base.text import without_commands
from grader.exports.escape import file_name, github_output, log_line, markdown_block, markdown_text
from tests.grader.exports.samples import HOSTILE, commands, outputs


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "::error::x",
        " \u00a0::error::x",
        ":::::",
        ":\x00:error::",
        "##[error]x",
        "###[[x]",
        "\x1b[2J::x",
        ":\ufe0f:error::x",
        "#\u034f#\ufe0f[error]x",
    ],
)
def test_a_log_line_is_no_command(text):
    """One line without terminal escapes in which neither form of command can be seen."""
    line = log_line(text)
    assert line.isprintable()
    assert not commands(line)


def test_a_log_line_keeps_what_is_harmless():
    """Words stay as they are, and so do the ids of tests."""
    for line in ("value: expected 3, got 4 # one [0]", "TestDouble::test_value: wrong", "a ::b:: c"):
        assert log_line(line) == line


def test_a_text_to_be_wrapped_holds_no_command_at_any_place():
    """Where a table puts each word on a line of its own, none of these is a command."""
    text = without_commands("a ::error::b\n::c TestDouble::test_value ##[d]", wrapped=True)
    assert not commands("\n".join(text[start:] for start in range(len(text))))


def test_each_line_of_a_text_is_looked_at():
    """A command at the start of a second line is broken too, whatever ends the first."""
    for end in "\n\r\v\f\x85\u2028":
        assert "::" not in without_commands(f"a{end} ::error::b").split("error")[0]


@pytest.mark.parametrize("value", [HOSTILE, "x\nresult=forged", "x\nEOF\nresult=forged\n", "end-\nresult=1", ""])
def test_an_output_is_one_output(value):
    """The file has the one name, whatever the value; two writes have different delimiters."""
    written = github_output("summary", value)
    assert list(outputs(written + "status=success\n")) == ["summary", "status"]
    assert written != github_output("summary", value)


@pytest.mark.parametrize("name", ["", "a=b", "a\nb", "1a", "a<<b", "é"])
def test_an_outputs_name_is_a_name(name):
    """Nothing else may stand before the value."""
    with pytest.raises(ValueError, match="can't be the name of an output"):
        github_output(name, "x")


def test_markdown_text_is_text():
    """Escaped sign for sign: no tag, no link, no cell, no code, nobody notified."""
    text = markdown_text(HOSTILE, 4000)
    assert "\n" not in text
    assert not re.search(r"<|(?<!\\)[`|\[\]*_!#]", text)
    assert not re.search(r"@(?=\w)|//|GH\\-(?=\d)|www\\\.", text)
    assert markdown_text("a_b: 2 < 3 & 4") == "a\\_b\\: 2 &lt; 3 &amp; 4"


@pytest.mark.parametrize("text", [HOSTILE, "```\n# out", "`````\n~~~\nx", "x"])
def test_a_markdown_block_ends_where_it_should(text):
    """The fence is longer than any run of backticks within."""
    first, *inside, last = markdown_block(text).split("\n")
    assert re.fullmatch(r"`{3,}text", first)
    assert last == first.removesuffix("text")
    assert all(last not in line for line in inside)


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "/etc", ".", "..", ".git", "a/b", "a\\b", "-rf", "", "é", "a\nb", "x" * 300, "\ud800"]
)
def test_a_file_name_stays_in_its_folder(text):
    """One plain component; different texts get different names."""
    name = file_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_@][A-Za-z0-9._@-]{0,120}", name)
    assert name != file_name(text + "x")


@pytest.mark.parametrize("text", ["anna", "é", "Anna", "x" * 150, "con", "a."])
def test_a_file_name_is_nobody_elses(text):
    """Not of a text that is spelled like the name itself, and not where case is ignored."""
    texts = {text, text.upper(), f"{text}.", f"{text}_", file_name(text), file_name(text).upper(), file_name(file_name(text)), f"{text}é"}
    assert len({file_name(other).lower() for other in texts}) == len(texts)


@pytest.mark.parametrize("text", ["con", "CON", "nul.x", "com1", "lpt9", "aux.", "a.", "a..."])
def test_a_file_name_is_a_files_on_windows(text):
    """No device, and no dot at the end, which Windows drops."""
    assert re.fullmatch(r"[A-Za-z0-9._]+-[0-9a-f]{16}", file_name(text))


def test_a_plain_file_name_stays():
    """What needs no change gets none."""
    assert file_name("anna.b-2@v1") == "anna.b-2@v1"
