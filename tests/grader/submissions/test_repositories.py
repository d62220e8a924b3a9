"""Submissions that are commits of a local git repository: what is read, what git may not follow, and what may not take for ever."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from grader.submissions import repositories
from grader.submissions.find import find_submissions, read_submission
from grader.submissions.repositories import committed_files
from grader.submissions.sources import BadInput
from tests.grader.submissions.samples import TEXT


def git(folder: Path, *arguments: str, data: bytes = b"") -> str:
    """Run git, with no configuration of the user's. Returns: what it prints."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *names, *arguments], cwd=folder, env=environment, check=True, capture_output=True, input=data)
    return done.stdout.decode().strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with two commits; the older one has the tag `first`."""
    folder = tmp_path / "anna"
    (folder / "exercises").mkdir(parents=True)
    git(folder, "init")
    (folder / "exercises" / "mini.py").write_text(TEXT)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    git(folder, "tag", "first")
    (folder / "exercises" / "mini.py").write_text("x = 2\n")
    git(folder, "commit", "-am", "two")
    return folder


def test_a_git_ref(repository, course):
    """REPOSITORY@REF reads the commit, not the working tree; the id says which."""
    (repository / "exercises" / "mini.py").write_text("x = 3\n")
    first = read_submission(Path(f"{repository}@first"), course)
    assert (first.id, first.sources["mini"].text) == ("anna@first", TEXT)
    assert read_submission(Path(f"{repository}@main"), course).sources["mini"].text == "x = 2\n"


@pytest.mark.parametrize("ref", ["nonsense", "--help", "", "HEAD:exercises"])
def test_a_git_ref_that_is_none(repository, course, ref):
    """An unknown ref, or an option in its place, is bad input."""
    with pytest.raises(BadInput, match=r"has no commit, branch or tag called|does not exist"):
        read_submission(Path(f"{repository}@{ref}"), course)


def test_a_git_ref_without_modules(repository, course):
    """A commit that holds no module is bad input, as a folder would be."""
    git(repository, "rm", "-rfq", "exercises")
    git(repository, "commit", "-m", "three", "--allow-empty")
    with pytest.raises(BadInput, match=r"holds no mini\.py"):
        read_submission(Path(f"{repository}@main"), course)


def test_links_in_git_are_not_followed(repository, course):
    """A link in a commit is no module."""
    (repository / "exercises" / "mini.py").unlink()
    (repository / "exercises" / "mini.py").symlink_to("/etc/passwd")
    (repository / "keep.py").write_text("")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "link")
    with pytest.raises(BadInput, match=r"holds no mini\.py"):
        read_submission(Path(f"{repository}@main"), course)


# ---- what leads out of a repository


SECRET = "secret = 'of a neighbour'\n"


@pytest.fixture
def neighbour(tmp_path):
    """Another student's repository."""
    folder = tmp_path / "neighbour"
    folder.mkdir()
    git(folder, "init")
    (folder / "mini.py").write_text(SECRET)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    return folder


def empty_repository(folder: Path, neighbour: Path) -> Path:
    """A repository without objects, whose branch main is the neighbour's commit. Returns: its .git."""
    folder.mkdir()
    git(folder, "init")
    (folder / ".git" / "refs" / "heads" / "main").write_text(git(neighbour, "rev-parse", "main") + "\n")
    return folder / ".git"


def file_for_git(folder: Path, neighbour: Path) -> None:
    """.git is a file, as in a submodule."""
    folder.mkdir()
    (folder / ".git").write_text("gitdir: ../neighbour/.git\n")


def link_for_git(folder: Path, neighbour: Path) -> None:
    """.git is a link."""
    folder.mkdir()
    (folder / ".git").symlink_to(neighbour / ".git")


def worktree(folder: Path, neighbour: Path) -> None:
    """A worktree as git makes it."""
    git(neighbour, "worktree", "add", str(folder), "-b", "other")
    git(neighbour, "checkout", "--detach")
    git(folder, "checkout", "main")


def common_folder(folder: Path, neighbour: Path) -> None:
    """A folder .git that says, like that of a worktree, that most of it is elsewhere."""
    (empty_repository(folder, neighbour) / "commondir").write_text(f"{neighbour}/.git\n")


def alternates(folder: Path, neighbour: Path) -> None:
    """Objects are borrowed."""
    (empty_repository(folder, neighbour) / "objects" / "info" / "alternates").write_text(f"{neighbour}/.git/objects\n")


def http_alternates(folder: Path, neighbour: Path) -> None:
    """Objects are borrowed from a server."""
    (empty_repository(folder, neighbour) / "objects" / "info" / "http-alternates").write_text(f"{neighbour}/.git/objects\n")


def linked_objects(folder: Path, neighbour: Path) -> None:
    """The folder of objects is a link."""
    objects = empty_repository(folder, neighbour) / "objects"
    shutil.rmtree(objects)
    objects.symlink_to(neighbour / ".git" / "objects")


def linked_object(folder: Path, neighbour: Path) -> None:
    """Each object is a link."""
    objects = empty_repository(folder, neighbour) / "objects"
    for path in (neighbour / ".git" / "objects").glob("??/*"):
        (objects / path.parent.name).mkdir(exist_ok=True)
        (objects / path.parent.name / path.name).symlink_to(path)


def linked_pack(folder: Path, neighbour: Path) -> None:
    """Packed objects are links."""
    git(neighbour, "gc")
    pack = empty_repository(folder, neighbour) / "objects" / "pack"
    for path in (neighbour / ".git" / "objects" / "pack").iterdir():
        (pack / path.name).symlink_to(path)


def nothing_of_its_own(folder: Path, neighbour: Path) -> None:
    """A folder in somebody else's repository: git looks for .git in the folders above."""
    folder.mkdir()
    shutil.copytree(neighbour / ".git", folder.parent / ".git")


def lent_bare(folder: Path, neighbour: Path) -> None:
    """A bare repository that borrows objects."""
    git(neighbour, "clone", "--bare", "--shared", str(neighbour), str(folder))


def pipe(folder: Path, neighbour: Path) -> None:
    """A pipe for a branch, at which git waits for ever."""
    main = empty_repository(folder, neighbour) / "refs" / "heads" / "main"
    main.unlink()
    os.mkfifo(main)


WAYS_OUT = {
    file_for_git: "its .git is a file that points at another repository. Make a clone",
    link_for_git: "its .git is a link to elsewhere. Make a clone",
    worktree: "its .git is a file that points at another repository. Make a clone",
    common_folder: "it is a worktree of another repository (commondir). Make a clone",
    alternates: "it borrows objects from another repository (objects/info/alternates). Make a clone",
    http_alternates: "it borrows objects from another repository (objects/info/http-alternates). Make a clone",
    linked_objects: "objects in its .git is a link to elsewhere. Make a clone",
    linked_object: "in its .git is a link to elsewhere. Make a clone",
    linked_pack: "in its .git is a link to elsewhere. Make a clone",
    nothing_of_its_own: "it is not a git repository. Hand in a clone that has its own .git.",
    lent_bare: "it borrows objects from another repository (objects/info/alternates). Make a clone",
    pipe: "its .git holds something that is neither a file nor a folder. Make a clone",
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_way_out_of_a_repository_is_followed(repository, neighbour, course, way):
    """It is refused in a sentence that says what to do, as the problem of this submission; the others are read."""
    way(repository.parent / "ben", neighbour)
    submissions, notes = find_submissions([Path(f"{repository.parent}/ben@main"), Path(f"{repository}@first")], course)
    ben, anna = submissions
    assert (ben.id, anna.id, anna.sources["mini"].text, notes) == ("ben@main", "anna@first", TEXT, [])
    assert ben.sources["mini"].text == ""
    assert ben.sources["mini"].problem.startswith("ben@main can't be read: ")
    assert WAYS_OUT[way] in ben.sources["mini"].problem


def test_what_is_missing_is_not_fetched(repository, neighbour, course):
    """A repository that promises its objects from a neighbour's folder gets none of them."""
    folder = repository.parent / "ben"
    git(neighbour, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(neighbour, "config", "uploadpack.allowFilter", "true")
    git(folder.parent, "clone", "--filter=blob:none", "--no-checkout", f"file://{neighbour}", str(folder))
    submissions, _ = find_submissions([Path(f"{folder}@main"), Path(f"{repository}@first")], course)
    assert [submission.sources["mini"].text for submission in submissions] == ["", TEXT]
    assert not [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert git(folder, "rev-list", "--objects", "--missing=print", "main").count("?") == 1


def test_honest_repositories_are_read(repository, course):
    """Bare, packed, with hooks that are links, with a submodule, an odd work tree and an included file of settings."""
    git(repository, "gc")
    shutil.rmtree(repository / ".git" / "hooks")
    (repository / ".git" / "hooks").symlink_to("/etc")
    (repository / ".git" / "modules" / "x").mkdir(parents=True)
    (repository / ".git" / "modules" / "x" / "link").symlink_to("/etc")
    git(repository, "config", "include.path", "../.gitconfig")
    git(repository, "config", "core.worktree", "../exercises")
    assert read_submission(Path(f"{repository}@first"), course).sources["mini"].text == TEXT
    git(repository.parent, "clone", "--bare", "--no-local", str(repository), "bare.git")
    assert read_submission(Path(f"{repository.parent}/bare.git@first"), course).sources["mini"].text == TEXT


# ---- what would take for ever, or all memory


def bomb(folder: Path, levels: int = 9, width: int = 24) -> str:
    """A tree of a few KiB that stands for more files than can be listed. Returns: its name."""
    inner = git(folder, "hash-object", "-w", "--stdin", data=b"x")
    kind = "100644 blob"
    for _ in range(levels):
        listing = "".join(f"{kind} {inner}\tmini{number}.py\n" for number in range(width))
        inner, kind = git(folder, "mktree", data=listing.encode()), "040000 tree"
    return inner


def commit_tree(folder: Path, entries: dict[str, tuple[str, str]]) -> str:
    """Make a commit of these entries (mode and kind, object), and let main be it. Returns: the commit."""
    listing = "".join(f"{kind} {name}\t{path}\n" for path, (kind, name) in entries.items())
    commit = git(folder, "commit-tree", "-m", "x", git(folder, "mktree", data=listing.encode()))
    git(folder, "update-ref", "refs/heads/main", commit)
    return commit


@pytest.mark.parametrize("place", ["data", "exercises", "mini.py"])
def test_a_tree_bomb_is_not_opened(repository, course, place):
    """Folders that can't hold a module are left alone, and a folder with a module's name is no module."""
    blob = ("100644 blob", git(repository, "hash-object", "-w", "--stdin", data=TEXT.encode()))
    commit = commit_tree(repository, {place: ("040000 tree", bomb(repository)), "mini.ipynb" if place == "mini.py" else "mini.py": blob})
    submissions, _ = find_submissions([Path(f"{repository}@main"), Path(f"{repository}@first")], course)
    assert submissions[1].sources["mini"].text == TEXT
    if place == "mini.py":
        assert submissions[0].sources["mini"].problem.startswith("mini.ipynb can't be read: ")
        assert list(committed_files(repository, commit, course)) == ["mini.ipynb"]
    else:
        assert submissions[0].sources["mini"].text == TEXT
        assert committed_files(repository, commit, course) == {"mini.py": TEXT.encode()}


def test_a_commit_of_many_folders(repository, course):
    """Only the top and exercises/ are searched then. If there is no module, a sentence says where to put it."""
    blob = ("100644 blob", git(repository, "hash-object", "-w", "--stdin", data=TEXT.encode()))
    tree = ("040000 tree", git(repository, "mktree", data=f"{blob[0]} {blob[1]}\tmini.py\n".encode()))
    folders = {f"folder{number}": tree for number in range(repositories.MAX_FOLDERS + 1)}
    commit_tree(repository, {**folders, "mini.py": blob})
    assert read_submission(Path(f"{repository}@main"), course).sources["mini"].text == TEXT
    commit_tree(repository, folders)
    problem = read_submission(Path(f"{repository}@main"), course).sources["mini"].problem
    assert problem.endswith("its commit has more than 100 folders. Put the modules at its top or into exercises/.")


def test_a_listing_and_a_wait_have_an_end(repository, course, monkeypatch):
    """Too much output, too long a wait and too many files of git's: each is a sentence, and the others are read."""
    paths = [Path(f"{repository}@main"), Path(f"{repository.parent}/plain")]
    paths[1].mkdir()
    (paths[1] / "mini.py").write_text(TEXT)
    for name, value, sentence in (
        ("_MAX_LISTING_BYTES", 10, "its commit holds too many files. Hand in a repository with fewer."),
        ("SECONDS", 0.0, "its .git holds more than 100000 files, or reading them takes too long. Run `git gc` in it."),
        ("MAX_GIT_FILES", 3, "its .git holds more than 3 files, or reading them takes too long. Run `git gc` in it."),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(repositories, name, value)
            (hostile, plain), _ = find_submissions(paths, course)
        assert hostile.sources["mini"].problem == f"anna@main can't be read: {sentence}"
        assert plain.sources["mini"].text == TEXT


def test_a_git_that_does_not_end(repository, course, monkeypatch, tmp_path):
    """Git is killed when the time is over."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "git").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    (tmp_path / "tools" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
    monkeypatch.setattr(repositories, "SECONDS", 0.5)
    problem = read_submission(Path(f"{repository}@main"), course).sources["mini"].problem
    assert problem.endswith("git needs more than 0.5 seconds to read it. Hand in a folder or a .zip of the modules.")


def test_a_ref_that_one_of_several_lacks(repository, neighbour, course):
    """One student without the tag is a row of its own, not the end of the batch."""
    submissions, _ = find_submissions([Path(f"{repository}@first"), Path(f"{neighbour}@first")], course)
    assert [submission.id for submission in submissions] == ["anna@first", "neighbour@first"]
    assert submissions[0].sources["mini"].text == TEXT
    assert "has no commit, branch or tag of this name" in submissions[1].sources["mini"].problem
    with pytest.raises(BadInput, match="has no commit, branch or tag called"):
        find_submissions([Path(f"{neighbour}@first"), Path(f"{neighbour}@second")], course)


def test_an_index_over_packs_leads_nowhere(repository, neighbour, course):
    """Its names of packs may hold `../`, so git reads none."""
    git(neighbour, "repack", "-adq")
    git(neighbour, "multi-pack-index", "write")
    packs = neighbour / ".git" / "objects" / "pack"
    (index,) = packs.glob("*.idx")
    path = b"../../../../neighbour/.git/objects/pack/pack-.idx"
    assert len(path) == len(index.name)
    lying = (packs / "multi-pack-index").read_bytes().replace(index.name.encode(), path)
    (packs / "multi-pack-index").unlink()
    for suffix in (".pack", ".idx"):
        index.with_suffix(suffix).rename(packs / f"pack-{suffix}")
    ben = empty_repository(repository.parent / "ben", neighbour)
    (ben / "objects" / "pack" / "multi-pack-index").write_bytes(lying)
    assert SECRET.strip() in git(ben.parent, "show", "main:mini.py")
    submissions, _ = find_submissions([Path(f"{ben.parent}@main"), Path(f"{repository}@first")], course)
    source = submissions[0].sources["mini"]
    assert source.text == ""
    assert source.problem
    assert submissions[1].sources["mini"].text == TEXT
