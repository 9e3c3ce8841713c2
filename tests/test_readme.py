"""Every Python block of README.md and docs/ runs, and prints what the document says it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.readme import ROOT, comparable, documents, excerpt, renewed

PAGES = [*documents(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
LINK = re.compile(r"\]\((?!https?://)([^)#]+)(#[^)]*)?\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", documents(), ids=name)
def test_the_document_says_what_its_code_prints(page: Path):
    text = page.read_text()
    assert comparable(renewed(text)) == comparable(text), "`python -m tools.readme` renews it"


@pytest.mark.nobackend
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path):
    missing = [
        path for path, _ in LINK.findall(page.read_text()) if not (page.parent / path).exists()
    ]
    assert not missing


@pytest.mark.nobackend
def test_every_public_name_is_explained():
    import resect

    text = "".join(page.read_text() for page in documents())
    modules = {"adapt", "edits", "errors"}
    assert not [n for n in set(resect.__all__) - modules if not re.search(rf"\b{n}\b", text)]


@pytest.mark.nobackend
def test_every_exception_is_shown():
    from resect import errors

    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    text = (ROOT / "docs" / "errors.md").read_text()
    missing = [c.__name__ for c in classes if f"\n### {c.__name__}\n" not in text]
    assert missing == ["SurgeryError", "SelectionError"]  # which are never raised themselves


@pytest.mark.nobackend
def test_every_module_has_its_line_among_the_rooms():
    package = ROOT / "src" / "resect"
    paths = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
    modules = {".".join(path.relative_to(package).with_suffix("").parts) for path in paths}
    rooms = (ROOT / "CONTRIBUTING.md").read_text().partition("| module |")[2]
    rows = [line.split("|")[1] for line in rooms.splitlines() if line.startswith("| `")]
    assert modules == {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}


@pytest.mark.nobackend
def test_what_keras_keeps_private_is_imported_in_one_file():
    files = (ROOT / "src").rglob("*.py")
    assert [f.name for f in files if "keras.src" in f.read_text()] == ["private.py"]


class TestTheTool:
    """The tool that keeps the documents true, on documents of its own."""

    def test_an_output_is_filled_in(self):
        text = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
        assert renewed(text) == text.replace("3", "2")

    def test_blocks_share_their_names_and_hidden_ones_run(self):
        text = "<!--\n```python\nx = 5\n```\n-->\n```python\nprint(x)\n```\n\n```text\n```\n"
        assert "```text\n5\n```" in renewed(text)

    def test_text_that_is_not_right_behind_is_left_alone(self):
        text = "```python\nprint(1)\n```\n\nNow:\n\n```text\n3\n```\n"
        assert renewed(text) == text

    def test_the_code_in_a_table_is_run(self):
        table = "| need | code |\n| --- | --- |\n| a sum | `x = {}` |\n"
        other = table.replace("code", "call").format("1 / 0")
        printing = "```python\nprint(x)\n```\n\n```text\n```\n"
        assert "```text\n3\n```" in renewed(f"{table.format('1 + 2')}\n{other}\n{printing}")
        with pytest.raises(ZeroDivisionError):
            renewed(table.format("1 / 0"))

    def test_an_error_is_an_error(self):
        with pytest.raises(ZeroDivisionError):
            renewed("```python\n1 / 0\n```\n")

    def test_an_announced_error_is_shown(self):
        text = "```python raises\n1 / 0\n```\n\n```text\n```\n"
        assert "ZeroDivisionError: division by zero\n" in renewed(text)

    def test_an_announced_error_that_does_not_come_is_an_error(self):
        with pytest.raises(AssertionError, match="did not"):
            renewed("```python raises\n1 / 1\n```\n")

    def test_measured_figures_may_differ_and_others_not(self):
        one, other = "largest difference 1e-07", "largest difference 0"
        assert comparable(one) == comparable(other)
        assert comparable("5 layers") != comparable("6 layers")

    @pytest.mark.parametrize(
        ("page", "found"),
        [
            ("# A\n\n| a |\n| - |\n| 1 |\n\n| b |\n", "| a |\n| - |\n| 1 |\n"),
            ("| a |\n<!-- readme -->\nb\n<!-- end of readme -->\n", "b\n"),
            ("nothing\n", ""),
        ],
    )
    def test_an_excerpt_is_the_marked_part_or_the_first_table(
        self, tmp_path: Path, page: str, found: str
    ):
        path = tmp_path / "page.md"
        path.write_text(page)
        assert excerpt(path) == found
