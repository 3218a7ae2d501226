"""Pages of single subjects and runs: written all or none, of these volumes alone, linked both ways.

The tests in the browser are skipped where the chromium command is absent.
"""

import html.parser
import io
import json
import re
import shutil
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from chromium import Page, chromium_command
from fake_run import SMALL, named_runs
from g3dvit import remake_parts
from g3dvit.cli import main
from g3dvit.errors import InputError, OutputError
from g3dvit.folders import output_folder
from g3dvit.maps import RelevanceMap
from g3dvit.outputs import write_run
from g3dvit.regions import RegionOptions, default_mask, region_table, region_weights
from g3dvit.remake import remake_page
from g3dvit.remake_parts import remake_part_pages
from g3dvit.shown import Parcellation, ResultTable

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
NAMES = (
    "sub-01_task-x_run-1",
    f"sub-02_task-x_{HOSTILE}",
    "sub-01_task-x_run-2",
    "sub-03_task-x_run-1",
)
PAGES = ["report_sub-01.html", "report_sub-02.html", "report_sub-03.html"]
MOST_BYTES = 15e6


@pytest.fixture(scope="module")
def result():
    labels = np.zeros(SMALL.volume.shape, np.int16)
    for index, low in ((1, 0), (2, 20)):
        labels[low : low + 20, 5:40, 5:30] = index
    atlas = Parcellation("toy atlas", labels, SMALL.volume, {1: "West", 2: "East <b>"})
    frame = pd.DataFrame({"region": ["of all runs"], "share": [0.512345]})
    tables = (
        ResultTable("regions-all", "Regions of all", "regions", frame),
        ResultTable("compared", "Against a GLM of all", "comparison", frame),
    )
    run = named_runs(NAMES, space=None)  # no glass brains: figures take seconds
    shifted = replace(
        run.maps[0], method="shift_averaged", title="shift-averaged", volumes=(), checks=()
    )
    return replace(run, maps=(shifted, run.maps[0]), tables=tables, parcellation=atlas)


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "out <b>"
    with output_folder(folder) as part:
        write_run(result, part)
    return folder


@pytest.fixture(scope="module")
def pages(saved):
    assert main(["report", str(saved), "--each", "subject"]) == 0
    return saved


def light(monkeypatch):
    """Leave the figures out: seconds each, and not asked for here."""
    monkeypatch.setattr("g3dvit.remake.page_pictures", lambda result: ())


class Links(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.links, self.tags, self.scripts, self._in = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._in = tag
        if tag == "script":
            self.scripts.append("")
        self.links += [v for k, v in attributes if k in ("href", "src") and v.startswith("./")]

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data


def words_of(page):
    text = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_every_subject_has_a_page_and_the_whole_page_links_to_them(pages):
    assert [path.name for path in sorted(pages.glob("report_*"))] == PAGES
    told = json.loads((pages / "provenance.json").read_text())["files"]
    assert set(PAGES) <= set(told)
    whole = (pages / "report.html").read_text()
    links = Links(whole).links
    assert links[:3] == [f"./{name}" for name in PAGES]
    assert "Pages of single subjects" in whole
    assert not list(pages.glob(".added*"))


def test_links_of_a_page_are_to_files_that_are_there_and_its_own(pages):
    for name in PAGES:
        page = (pages / name).read_text()
        assert len(page.encode()) < MOST_BYTES
        links = [unquote(link) for link in Links(page).links]
        assert links[0] == "./report.html"
        for link in links:
            assert (pages / link).is_file(), link
        maps = {link for link in links if link.startswith("./maps/")}
        assert len(maps) >= 2 * (2 if name == PAGES[0] else 1)
        own = name.removeprefix("report_").removesuffix(".html")
        assert all(link.startswith(f"./maps/{own}_") for link in maps)
        figures = [link for link in links if link.startswith("./figures/")]
        assert figures
        assert all(link.startswith(f"./figures/{own}_") for link in figures)
        assert "./predictions.tsv" not in links  # it is of all runs
        assert not [link for link in links if link.startswith("./class_means/")]
        own = name.removeprefix("report_").removesuffix(".html")
        exact = [link for link in links if link.startswith("./parts/")]
        assert exact and all(link.startswith(f"./parts/{own}_class-") for link in exact)


def test_a_page_says_whose_it_is_and_what_is_left_out(pages, result):
    text = words_of((pages / "report_sub-03.html").read_text())
    for sentence in (
        "sub-03, one subject of 3 , from the run folder out &lt;b&gt; .",
        "Descriptive: sub-03, one subject of 3, of",
        "means per patch over its own volumes",
        "Left out: shift-averaged",
        "Left out: the tables of the whole run (comparison 1).",
        "These volumes are of sub-03, one subject of 3",
    ):
        assert sentence in text, sentence
    for other in (
        "Regions of all",
        "of all runs 0.512",
        "Against a GLM",
        NAMES[0],
        NAMES[2],
        "0.512",
    ):
        assert other not in text, other
    assert "Against a GLM" in words_of((pages / "report.html").read_text())
    assert "sub-03, of “sub-01_task-motor" in text  # the title


def test_regions_are_those_of_its_own_mean(pages, result):
    gate, table = result.maps[1], result.predictions.iloc[10:20]
    chosen = [n for n, row in enumerate(table.to_dict("records")) if row["label"] == "right"]
    chosen = [n for n in chosen if table["predicted"].iloc[n] == "right"]
    content = gate.volumes[1].companions["content"]  # as the page shows it
    total = sum(content[..., n].astype(float) for n in chosen)
    mean = replace(gate.class_means[0].patch, data=np.float32(total / len(chosen)), companions={})
    weights = region_weights(result.parcellation, mean.grid)
    options = RegionOptions(n_surrogates=0)
    mask = default_mask(weights)
    expected = region_table([mean], weights, mask=mask, options=options)
    page = (pages / "report_sub-02.html").read_text()
    title = page.index("sub-02: content of frozen gate, “right” volumes")
    body = page[title : page.index("</table>", title)]
    assert "Computed again for sub-02, one subject of 3, without random maps" in body
    columns = re.findall(r"<th[^>]*>(.*?)</th>", body)
    at = columns.index("mean")
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)]
    got = {row[columns.index("name")]: float(row[at]) for row in rows if row}
    assert set(got) == {"West", "East &lt;b&gt;"}
    for _, row in expected.iterrows():
        name = str(row["name"]).replace("<b>", "&lt;b&gt;")
        assert got[name] == pytest.approx(row["mean"], abs=6e-4, rel=1e-2)


def test_class_means_of_a_part_are_beside_its_page_exact(pages, result):
    gate, table = result.maps[1], result.predictions.iloc[10:20]
    mine = (table["label"] == "right") & (table["predicted"] == "right")
    path = pages / "parts" / "sub-02_class-right_volumes-correct_res-patch_desc-frozengate"
    for what in ("relevance", "content"):
        found = RelevanceMap.load(path.with_name(f"{path.name}_{what}.nii.gz"))
        series = gate.volumes[1]
        values = series.data if what == "relevance" else series.companions[what]
        expected = values[..., mine.to_numpy()].astype(float).mean(axis=3)
        np.testing.assert_allclose(found.data, expected, rtol=1e-6, atol=1e-9)
        assert found.metadata["part"] == "sub-02, one subject of 3"
        assert found.metadata["group"] == "right" and found.metadata["n"] == mine.sum()
    # The page's own copy is rounded; the file beside it is that of the same map.
    page = (pages / "report_sub-02.html").read_text()
    row = next(r for r in re.findall(r"<tr>.*?</tr>", page, re.S) if f"{path.name}_content" in r)
    assert "“right” volumes" in row


def test_hostile_names_stay_text(pages):
    harmless = Links((pages / "report_sub-03.html").read_text())
    for name in ("report_sub-02.html", "report.html"):
        outline = Links((pages / name).read_text())
        assert len(outline.scripts) == len(harmless.scripts)
        assert HOSTILE in json.loads(outline.scripts[0])["time_courses"][0]["name"] or (
            name == "report.html"
        )
        assert "<img src=x" not in (pages / name).read_text()


def test_pages_of_runs_have_safe_names(pages, tmp_path, monkeypatch):
    light(monkeypatch)
    folder = shutil.copytree(pages, tmp_path / "out")
    written = remake_part_pages(folder, "run")
    assert [path.name for path in written] == [
        "report.html",
        "report_sub-01_run-1.html",
        *[path.name for path in written[2:3]],
        "report_sub-01_run-2.html",
        "report_sub-03_run-1.html",
    ]
    assert re.fullmatch(r"report_[A-Za-z0-9_-]{1,80}\.html", written[2].name)
    text = words_of(written[3].read_text())
    assert "sub-01_run-2, one run of 4" in text
    whole = (folder / "report.html").read_text()
    assert "Pages of single runs" in whole
    assert "Pages of single subjects" in whole
    assert [link for link in Links(whole).links if "report_" in link][:7] == [
        *(f"./{name}" for name in PAGES),
        *(f"./{path.name}" for path in written[1:]),
    ]


def test_the_whole_page_has_no_list_where_there_are_none(saved, tmp_path, monkeypatch):
    light(monkeypatch)
    folder = shutil.copytree(saved, tmp_path / "out")
    for page in folder.glob("report_*"):
        page.unlink()
    assert "Pages of single" not in remake_page(folder).read_text()


def test_pages_are_replaced_only_when_asked_and_come_all_or_none(pages, tmp_path, monkeypatch):
    light(monkeypatch)
    folder = shutil.copytree(pages, tmp_path / "out")
    (folder / PAGES[0]).unlink()
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    with pytest.raises(OutputError, match=r"report_sub-02\.html exists; .* with --overwrite"):
        remake_part_pages(folder, "subject")

    count = []

    def third_fails(result, beside, **options):
        count.append(result.part)
        if len(count) == 3:
            raise OutputError("no more")
        return "half"

    monkeypatch.setattr(remake_parts, "page_of_run", third_fails)
    with pytest.raises(OutputError, match="no more"):
        remake_part_pages(folder, "subject", overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    assert not list(folder.glob(".added*"))
    monkeypatch.undo()
    light(monkeypatch)
    assert len(remake_part_pages(folder, "subject", overwrite=True)) == 4


def small_folder(tmp_path, monkeypatch, names):
    """A folder whose inputs are called like this."""
    result = named_runs(names, n_volumes=5)
    monkeypatch.setattr(remake_parts, "shown_run", lambda folder, **_: result)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "each", "words"),
    [
        (["sub-01_run-1", "sub-01_run-2"], "subject", r"one subject only \(sub-01\).*--each run"),
        (["sub-01_run-1"], "subject", r"one subject only \(sub-01\), and report.html is its page$"),
        (["sub-01_run-1"], "run", r"one run only"),
        (["a", "sub-01"], "subject", r"'a' does not say whose it is \(sub-.*1 of 2.*--each run"),
        (["a", "b"], "session", r"each 'subject' or each 'run', was given 'session'"),
    ],
)
def test_what_cannot_be_divided_is_refused(tmp_path, monkeypatch, names, each, words):
    folder = small_folder(tmp_path, monkeypatch, names)
    with pytest.raises(InputError, match=words):
        remake_part_pages(folder, each)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_no_evaluation_is_told_before_any_page(tmp_path, monkeypatch):
    folder = small_folder(tmp_path, monkeypatch, ["sub-01", "sub-02"])
    monkeypatch.setattr(remake_parts, "page_of_run", None)  # no page is made
    with pytest.raises(OutputError, match="not what `g3dvit evaluate -o` wrote"):
        remake_part_pages(folder, "subject", evaluation=tmp_path / "absent")


def test_the_command_line_refuses_in_one_sentence(pages, capsys):
    assert main(["report", str(pages), "--each", "run", "-o", "talk.html"]) == 1
    assert "leave out -o" in capsys.readouterr().err
    assert main(["report", str(pages), "--each", "subject"]) == 1
    assert "report_sub-01.html exists" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", str(pages), "--each", "session"])


@pytest.mark.browser
@pytest.mark.skipif(chromium_command() is None, reason="the chromium command is not installed")
def test_a_page_works_in_a_browser_and_shows_one_subject(pages, result):
    from PIL import Image

    with Page(1000, 800) as page:
        page.open(pages / "report_sub-02.html")
        assert page.run("document.documentElement.dataset.ready") == "yes"
        assert page.run("document.title").startswith("sub-02, of “")
        page.run(
            "(() => {const c = document.getElementById('view'); c.value = 'slices';"
            "c.dispatchEvent(new Event('change'))})()"
        )
        page.settle()
        picture = Image.open(io.BytesIO(page.picture(selector="#gl"))).convert("RGB")
        values = np.asarray(picture, dtype=int)
        grey = (np.ptp(values, axis=2) < 6) & (values[..., 0] > 60)
        coloured = np.ptp(values, axis=2) > 60
        assert grey.mean() > 0.05  # a brain
        assert coloured.mean() > 0.002  # and a map
        rows = page.run(
            "[...document.querySelectorAll('#predictions tbody tr')]"
            ".map(r => [r.cells[1].textContent, r.cells[2].textContent])"
        )
        assert [int(t) for _, t in rows] == list(range(10))
        assert {run for run, _ in rows} == {NAMES[1]}
        titles = page.run("g3dvit.scene.layers.map(l => l.title)")
        assert not [t for t in titles if "sub-01" in t or "sub-03" in t]
        counts = page.run(
            "[...document.querySelectorAll('#confusion tbody tr')]"
            ".map(r => [...r.cells].slice(1).map(c => Number(c.textContent)))"
        )
        own = result.predictions.iloc[10:20]
        expected = pd.crosstab(own["label"], own["predicted"])
        expected = expected.reindex(index=["left", "right"], columns=["left", "right"])
        assert counts == expected.fillna(0).astype(int).to_numpy().tolist()
        assert page.run("document.getElementById('focus')") is None  # one run: nothing to choose
        assert page.run("window.hacked") is None
        assert page.errors == []
        assert not [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))]
