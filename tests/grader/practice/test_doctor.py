"""Tests of `grader doctor`'s practice part: each case as facts, and a few with a torch that is really broken."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from grader.practice.doctor import Facts, Finding, Level, can_practise, collect, examine, pins_of
from grader.practice.torch_probe import TorchFacts
from tests.grader.conftest import grader, mini_course

WORKS = TorchFacts(installed="2.13.0", cuda_build="12.8", torchvision="0.28.0", torchvision_extension=True)
CPU = msgspec.structs.replace(WORKS, installed="2.13.0+cpu", cuda_build="")
PACKAGES = {"pytest": "9.0", "textual": "8.2", "watchfiles": "1.3", "matplotlib": "3.11"}
PINS = {"torch": "2.13.0", "torchvision": "0.28.0"}
HEALTHY = Facts(environment="/home/ada/.venv", torch=CPU, packages=PACKAGES, pins=PINS, course="/home/ada/course")
MAC = {"system": "Darwin", "machine": "arm64", "release": "15.1"}


def with_facts(**changes: object) -> Facts:
    """A healthy machine, but for these facts; facts of torch go by their own names."""
    own = {name: changes.pop(name) for name in list(changes) if name in TorchFacts.__struct_fields__ and name != "torch"}
    torch = msgspec.structs.replace(changes.pop("torch", HEALTHY.torch), **own)
    return msgspec.structs.replace(HEALTHY, torch=torch, **changes)


def of(topic: str, facts: Facts) -> Finding:
    """The finding on a topic that matters most."""
    order = [Level.PROBLEM, Level.NOTE, Level.OK]
    return min((finding for finding in examine(facts) if finding.topic == topic), key=lambda finding: order.index(finding.level))


def test_a_healthy_machine_has_nothing_to_mend():
    """Every finding is ok, and none gives advice."""
    findings = examine(HEALTHY)
    assert {finding.level for finding in findings} == {Level.OK}
    assert not any(finding.advice for finding in findings)
    assert {finding.topic for finding in findings} >= {
        "system",
        "Python",
        "environment",
        "torch",
        "torchvision",
        "CUDA",
        "packages",
        "course",
    }
    assert can_practise(findings)


@pytest.mark.parametrize(
    ("changes", "topic", "level", "words"),
    [
        # Python
        ({"python": (3, 10, 4)}, "Python", "problem", ["3.10.4", "too old", "3.11", "python.org"]),
        ({"wide": False}, "Python", "problem", ["32-bit", "64-bit Python"]),
        (
            {"python": (3, 16, 0), "torch": TorchFacts(error="ModuleNotFoundError: No module named 'torch'")},
            "Python",
            "note",
            ["use Python 3.14"],
        ),
        ({"environment": ""}, "environment", "note", ["python -m venv .venv", "source .venv/bin/activate"]),
        ({"environment": "", "system": "Windows"}, "environment", "note", [r".venv\Scripts\activate"]),
        # torch
        (
            {"torch": TorchFacts(error="ModuleNotFoundError: No module named 'torch'")},
            "torch",
            "problem",
            ["not installed", "python -m pip install torch==2.13.0 torchvision==0.28.0", "whl/cpu"],
        ),
        (
            {"error": "ModuleNotFoundError: No module named 'typing_extensions'"},
            "torch",
            "problem",
            ["can't be imported", "pip install typing_extensions"],
        ),
        (
            {"error": 'OSError: [WinError 126] The specified module could not be found. Error loading "c10.dll"', "system": "Windows"},
            "torch",
            "problem",
            ["c10.dll", "Visual C++ Redistributable", "--force-reinstall torch==2.13.0"],
        ),
        (
            {"error": "OSError: libcudnn.so.9: cannot open shared object file: No such file or directory"},
            "torch",
            "problem",
            ["libcudnn.so.9", "CUDA libraries", "--force-reinstall", "LD_LIBRARY_PATH"],
        ),
        ({"error": "ImportError: libgomp.so.1: cannot open shared object file"}, "torch", "problem", ["apt install libgomp1"]),
        ({"error": "AttributeError: partially initialized module 'torch'"}, "torch", "problem", ["a file torch.py", "Rename it"]),
        ({"error": "AttributeError: module 'torch' has no attribute 'ones'"}, "torch", "problem", ["a folder torch"]),
        ({"error": "Python itself ended, with signal 4"}, "torch", "problem", ["signal 4", "lacks an instruction"]),
        ({"error": "RuntimeError: something new"}, "torch", "problem", ["something new", "--force-reinstall"]),
        ({"computing": "RuntimeError: no kernel"}, "torch", "problem", ["can't compute", "no kernel", "Install it again"]),
        ({"installed": "2.12.1+cpu"}, "torch", "note", ["uses torch 2.13.0", "this is 2.12.1+cpu", "pip install torch==2.13.0"]),
        # torchvision
        ({"torchvision": ""}, "torchvision", "problem", ["not installed", "torchvision==0.28.0"]),
        ({"torchvision_error": "ImportError: undefined symbol"}, "torchvision", "problem", ["undefined symbol", "belong together"]),
        ({"torchvision": "0.27.0"}, "torchvision", "note", ["uses torchvision 0.28.0", "this is 0.27.0"]),
        ({"torchvision_extension": False}, "torchvision", "ok", ["but for its compiled operators", "No exercise needs them"]),
        # CUDA
        (
            {"torch": CPU, "driver": "570.86"},
            "CUDA",
            "note",
            ["driver 570.86", "build for CPUs only", "choose CUDA at https://pytorch.org"],
        ),
        ({"torch": CPU}, "CUDA", "ok", ["build for CPUs", "No exercise needs one"]),
        ({"torch": WORKS}, "CUDA", "note", ["built for CUDA 12.8", "nvidia-smi does not answer", "--gpus all", "nvidia.com/drivers"]),
        ({"torch": WORKS, "system": "Windows"}, "CUDA", "note", ["nvidia.com/drivers and restart."]),
        (
            {"torch": WORKS, "driver": "470.1", "cuda_error": "The NVIDIA driver on your system is too old (found version 11040)."},
            "CUDA",
            "note",
            ["too old", "Update NVIDIA's driver"],
        ),
        ({"torch": WORKS, "driver": "570.86"}, "CUDA", "note", ["driver 570.86 is here", "can't use the GPU", "Restart"]),
        ({"torch": WORKS, "driver": "570.86", "hidden_devices": True}, "CUDA", "note", ["CUDA_VISIBLE_DEVICES hides", "Unset"]),
        ({"torch": WORKS, "driver": "570.86", "cuda_available": True, "cuda_device": "H100"}, "CUDA", "ok", ["CUDA 12.8 works, on H100"]),
        (
            {"torch": WORKS, "cuda_available": True, "cuda_device": "Tesla K80", "cuda_error": "no kernel image is available"},
            "CUDA",
            "note",
            ["Tesla K80", "can't compute on it", "no kernel image", "another CUDA"],
        ),
        ({"torch": CPU, "rocm_build": "7.0"}, "CUDA", "note", ["ROCm 7.0", "rocminfo"]),
        ({"torch": CPU, "rocm_build": "7.0", "cuda_available": True, "cuda_device": "MI300X"}, "CUDA", "ok", ["ROCm 7.0 works, on MI300X"]),
        # a Mac
        ({**MAC, "mps_built": True, "mps_available": True}, "MPS", "ok", ["MPS works"]),
        ({**MAC, "mps_built": True, "mps_available": True, "mps_error": "it hangs"}, "MPS", "note", ["can't compute", "it hangs"]),
        ({**MAC, "mps_built": False}, "MPS", "note", ["built without MPS", "Install torch from PyPI"]),
        ({**MAC, "mps_built": False, "machine": "x86_64"}, "MPS", "note", ["one for Intel", "Apple chip"]),
        ({**MAC, "mps_built": True, "release": "12.7"}, "MPS", "note", ["needs macOS 14", "12.7", "Update macOS"]),
        ({**MAC, "mps_built": True}, "MPS", "note", ["not available", "virtual machine"]),
        ({**MAC, "release": "13.6"}, "system", "note", ["macOS 13.6", "need macOS 14"]),
        ({**MAC, "machine": "x86_64"}, "system", "note", ["Intel", "Google Colab"]),
        # packages and course
        ({"packages": {}}, "packages", "problem", ["pytest is not installed", "python -m pip install pytest"]),
        ({"packages": {**PACKAGES, "textual": ""}}, "packages", "note", ["textual is not installed", "grader watch"]),
        ({"lacking": ("exercises/",)}, "course", "problem", ["/home/ada/course lacks exercises/", "grader reset"]),
        ({"course": ""}, "course", "note", ["no course.toml", "--course"]),
        ({"course": "", "course_error": "course.toml is not valid TOML"}, "course", "problem", ["not valid TOML"]),
    ],
)
def test_each_case_says_what_is_so_and_what_to_do(changes, topic, level, words):
    """The sentence and the advice hold what helps, and only a problem stands in the way of practice."""
    facts = with_facts(**changes)
    finding = of(topic, facts)
    assert finding.level == level, finding
    text = f"{finding.sentence} {finding.advice}"
    assert [word for word in words if word not in text] == [], text
    assert finding.sentence.endswith(".")
    assert finding.advice or finding.level is Level.OK
    assert can_practise(examine(facts)) == (level != "problem" and not facts.torch.error)


def test_a_mac_is_not_told_about_cuda_nor_others_about_mps():
    """Each hears about its own kind of GPU."""
    assert "CUDA" not in {finding.topic for finding in examine(with_facts(**MAC))}
    assert "MPS" not in {finding.topic for finding in examine(HEALTHY)}


def test_without_pins_any_version_will_do():
    """A course that asks for no version gets none in its commands."""
    facts = with_facts(pins={}, installed="2.14.0")
    assert of("torch", facts).level is Level.OK
    missing = of("torch", with_facts(pins={}, torch=TorchFacts(error="No module named 'torch'")))
    assert "`python -m pip install torch torchvision`" in missing.advice


def test_finds_the_pins_where_they_are(tmp_path):
    """Of an instructor's course in constraints.txt, of a student's repository in pyproject.toml or requirements.txt."""
    (tmp_path / "pyproject.toml").write_text('dependencies = [\n  "torch==2.13.0",\n  "torchvision==0.28.0",\n  "torchmetrics==1.0",\n]\n')
    assert pins_of(tmp_path) == PINS
    (tmp_path / "constraints.txt").write_text("# both\ntorch==2.12.0  # older\n")
    assert pins_of(tmp_path) == {**PINS, "torch": "2.12.0"}
    assert pins_of(tmp_path / "nowhere") == {}


def test_collects_what_is_so_here(tmp_path):
    """The facts of this machine: this Python, a torch that computes, and the course."""
    facts = collect(mini_course(tmp_path))
    assert facts.python == sys.version_info[:3]
    assert (facts.torch.error, facts.torch.computing) == ("", "")
    assert facts.torch.torchvision_error == ""
    assert (facts.course, facts.lacking) == (str(tmp_path), ())
    shutil.rmtree(tmp_path / "exercises")
    assert collect(tmp_path).lacking == ("exercises/",)
    assert can_practise(examine(facts))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise OSError('libcudnn.so.9: cannot open shared object file')", "CUDA libraries"),
        ("raise ModuleNotFoundError(\"No module named 'sympy'\", name='sympy')", "pip install sympy"),
        ("import os; os.abort()", "signal 6"),
        ("", "a folder torch of yours"),
    ],
)
def test_a_broken_torch_gets_advice_and_no_traceback(tmp_path, code, words):
    """The command itself needs no torch: it says what is wrong, also as JSON, and tests no sandbox."""
    (tmp_path / "fake" / "torch").mkdir(parents=True)
    (tmp_path / "fake" / "torch" / "__init__.py").write_text(code + "\n")
    path = os.pathsep.join([str(tmp_path / "fake"), str(Path(__file__).parents[3])])
    done = grader("doctor", "--json", cwd=mini_course(tmp_path / "course"), PYTHONPATH=path)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert not report["practice"]["possible"]
    assert "official" not in report
    torch = next(finding for finding in report["practice"]["findings"] if finding["topic"] == "torch")
    assert words in f"{torch['sentence']} {torch['advice']}"
    assert "Traceback" not in done.stderr


def test_a_students_machine_is_not_asked_about_the_sandbox(tmp_path):
    """Without hidden tests the sandbox is left alone; --grading tests it."""
    root = mini_course(tmp_path)
    (root / "tests" / "hidden" / "test_mini.py").unlink()
    done = grader("doctor", cwd=root)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("You can practise here.\n")
    assert "Landlock" not in done.stdout
    plain = grader("doctor", cwd=root, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert plain.stdout.isascii()
    assert re.search(r"^\+ torch \S+ works\.$", plain.stdout, re.MULTILINE)
    assert "Landlock" in grader("doctor", "--grading", cwd=root).stdout
