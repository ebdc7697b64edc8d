"""What is written beside the code: links, the index of the studies and their pages."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGES = sorted(BENCHMARKS.glob("results/*.md"))
# They need a GPU or more time.
NOT_RUN = {"imagenet", "cifar_large"}
# The rest of docs/ has links to what the build of the site makes, and it looks at them.
READ_IN_PLACE = ("choosing", "conversion", "devices", "exports")
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *(ROOT / "docs" / f"{name}.md" for name in READ_IN_PLACE),
    BENCHMARKS / "README.md",
    *PAGES,
]


def _links(text):
    """What a Markdown text links to in this repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    found += re.findall(r"(?m)^\[\w+\]: (\S+)$", text)
    return [link for link in found if "://" not in link and not link.startswith("#")]


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for link in _links(page.read_text()):
        assert (page.parent / link.partition("#")[0]).exists(), link


def test_index_names_every_study_and_page():
    index = (BENCHMARKS / "README.md").read_text()
    assert len(index.splitlines()) <= 100
    studies = {
        path.stem
        for path in BENCHMARKS.glob("*.py")
        if re.search(r"(?m)^    \w+\.main\(\)$", path.read_text())
    }
    linked = set(re.findall(r"\]\(results/(\w+)\.md\)", index))
    assert linked == {page.stem for page in PAGES}
    assert studies - NOT_RUN <= linked
    for name in NOT_RUN:
        assert f"`{name}`" in index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_has_its_table_command_and_verdict(page):
    text = page.read_text()
    assert text.startswith(f"# {page.stem}: ")
    assert "\n| ---" in text or "\n|---" in text
    if page.stem.endswith("_cost"):
        return
    # Which command, on which backend, with which releases.
    made = re.search(r"Made on (\w+) with `(.+?)`", text.replace("\n", " "))
    assert made
    # CamVid is an option of `segmentation`; `sine_relu` was `sine` when it ran.
    study = re.sub("_camvid$|_relu$", "", page.stem)
    assert f"-m benchmarks.{study} " in made[2]
    assert "**Verdict" in text
    assert f"]({page.stem}.png)" in text
