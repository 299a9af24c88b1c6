"""The log of measurements: every entry has the form that `benchmarks/log/README.md` describes,
and the index names them all.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "benchmarks" / "log"
ENTRIES = sorted(path for path in LOG.glob("*.md") if path.name != "README.md")
NAMES = {path.name for path in ENTRIES}

NAME = re.compile(r"(\d{4}-\d\d-\d\d)-[a-z0-9]+(-[a-z0-9]+)*\.md")
ANSWER = re.compile(r"# (?P<title>[^\n]+)\n\n\*\*Answer:\*\* (?P<answer>[^\n]+)\n\n")
SUPERSEDED = re.compile(r"^Superseded by: \[([^\]]+)\]\(([^)]+)\)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
ROW = re.compile(r"\| ([\d-]{10}) \| \[(.+?)\]\(([^)]+)\) \| (.+) \| (no|\[yes\]\(([^)]+)\)) \|")
LONGEST = 400


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level, without the blank lines around it."""
    assert text.count(f"\n## {title}\n") == 1, f"needs one section '## {title}'"
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0].strip("\n")


def faults(path: Path) -> list[str]:
    """What is wrong with the form of an entry; empty when nothing is."""
    found = []
    name = NAME.fullmatch(path.name)
    if name is None:
        found.append("its name is not DATE-subject.md")
    else:
        date.fromisoformat(name[1])
    text = path.read_text()
    head = ANSWER.match(text)
    if head is None:
        found.append("it does not begin with a title and a line '**Answer:** ...'")
    elif re.search(r"[.!?] [A-Z]", head["answer"]) or not head["answer"].endswith("."):
        found.append("its answer is not one sentence")
    for title in ("Command", "Result", "Limits"):
        if text.count(f"\n## {title}\n") != 1 or not section(text, title):
            found.append(f"it needs one section '## {title}' with something in it")
    if not found:
        first = section(text, "Command").splitlines()[0]
        if not first.startswith(("    ", "None ")):
            found.append("its command is neither an indented block nor a sentence with 'None'")
    long = [str(number) for number, line in enumerate(text.splitlines(), 1) if len(line) > LONGEST]
    if long:
        found.append(f"lines over {LONGEST} characters: {', '.join(long)}")
    return found


def test_entries_have_an_answer_a_command_a_result_and_limits() -> None:
    assert len(ENTRIES) > 50
    found = {path.name: faults(path) for path in ENTRIES}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


GOOD = (
    "# Is it?\n\n**Answer:** Yes.\n\n## Command\n\n    copse\n\n## Result\n\n1\n\n## "
    "Limits\n\nOne seed.\n"
)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("**Answer:** Yes.", "Yes.", "Answer"),
        ("Yes.", "Yes. It is.", "one sentence"),
        ("    copse", "copse", "command"),
        ("    copse", "", "Command"),
        ("## Limits", "## Bounds", "Limits"),
        ("One seed.", "x" * 401, "characters: 15"),
    ],
)
def test_an_entry_of_another_form_is_found(tmp_path: Path, old: str, new: str, fault: str) -> None:
    path = tmp_path / "2026-11-30-subject.md"
    path.write_text(GOOD)
    assert faults(path) == []
    path.write_text(GOOD.replace(old, new))
    assert [each for each in faults(path) if fault in each]


def test_commands_name_modules_and_tests_that_exist() -> None:
    missing = {}
    for path in ENTRIES:
        command = section(path.read_text(), "Command")
        modules = [name.replace(".", "/") for name in re.findall(r"-m (benchmarks[\w.]+)", command)]
        files = [*(f"{name}.py" for name in modules), *re.findall(r"tests/[\w/]+\.py", command)]
        absent = [file for file in files if not (ROOT / file).exists()]
        if absent:
            missing[path.name] = absent
    assert missing == {}


def test_superseding_entries_exist_and_are_not_older() -> None:
    links = {path.name: SUPERSEDED.findall(path.read_text()) for path in ENTRIES}
    assert sum(map(len, links.values())) > 10
    for name, found in links.items():
        assert len(found) <= 1, name
        for label, target in found:
            assert label == target
            assert target in NAMES - {name}, f"{name}: {target} is no entry"
            assert target[:10] >= name[:10], f"{name}: {target} is older"
            assert not links[target], f"{name}: {target} is superseded itself; name the newest"


def test_links_lead_somewhere() -> None:
    links = {(path.name, link) for path in LOG.iterdir() for link in LINK.findall(path.read_text())}
    assert {(name, link) for name, link in links if not (LOG / link).exists()} == set()


def test_the_index_names_every_entry_and_no_other() -> None:
    text = (LOG / "README.md").read_text()
    rows = [ROW.fullmatch(line) for line in text.splitlines() if re.match(r"\| \d{4}-", line)]
    assert None not in rows
    found = [row.groups() for row in rows if row]
    assert len(found) == len(NAMES)
    assert {target for _, _, target, *_ in found} == NAMES
    dates = [day for day, *_ in found]
    assert dates == sorted(dates, reverse=True)
    for day, title, target, answer, _, newer in found:
        entry = (LOG / target).read_text()
        head = ANSWER.match(entry)
        assert head is not None
        assert (day, title, answer) == (target[:10], head["title"], head["answer"])
        assert [newer] == ([link for _, link in SUPERSEDED.findall(entry)] or [None]), target


def test_data_stand_beside_their_entry() -> None:
    others = {path.name for path in LOG.iterdir()} - NAMES - {"README.md"}
    assert others <= {path.with_suffix(".csv").name for path in ENTRIES}
