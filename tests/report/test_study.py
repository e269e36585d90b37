"""The page of a study: what it says, that it holds all it needs, that nobody can write into it."""

import math
import re
from dataclasses import replace

import pytest

from ppl_vae.comparison import compare
from ppl_vae.report import write_report
from ppl_vae.report._numbers import MINUS, MISSING
from ppl_vae.report._study import render
from ppl_vae.store import write_sealed

from .page import Page
from .simulated import write_study

ATTACK = '<script>alert("1")</script>$x$ & co'


@pytest.fixture(scope="module")
def comparison(results):
    return results.comparison()


@pytest.fixture(scope="module")
def html(results, comparison):
    return render(results, comparison)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


class TestFile:
    def test_is_the_same_wherever_it_is_written(self, results, html, tmp_path):
        path = write_report(results, tmp_path / "new" / "page.html")
        assert path.read_text() == html

    def test_needs_nothing_else(self, html, page):
        assert "http" not in html.replace("http-equiv", "")
        sources = [a[name] for _, a in page.elements for name in ("src", "href") if name in a]
        assert sources
        assert all(source.startswith(("data:", "#")) for source in sources)
        assert "@import" not in html
        assert re.findall(r"url\((?!#)", html) == []

    def test_names_are_there_once_and_every_reference_has_its_own(self, html, page):
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(ids) == len(set(ids))
        links = [a[n][1:] for _, a in page.elements for n in ("href", "xlink:href")
                 if a.get(n, "").startswith("#")]  # fmt: skip
        links += re.findall(r"url\(#([^)]*)\)", html)
        links += [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
        assert set(links) <= set(ids)

    def test_colours_are_the_pages(self, html):
        drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
        assert re.findall(r"(?:fill|stroke): (?!var|none)[^;\"]*", drawn) == []

    def test_pictures_and_figures_have_words(self, page):
        assert all(a.get("alt") for a in page.all("img"))
        drawings = [a for a in page.all("svg") if "aria-hidden" not in a]
        assert len(drawings) >= 10
        assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
        assert len(page.all("figcaption")) == len(page.all("figure"))

    def test_what_is_read_of_a_cell_is_let_go(self, results, html):
        kept = [set(vars(cell)) & {"history", "measures", "pictures"} for cell in results.cells]
        assert set().union(*kept) == set()


class TestContent:
    def test_sections_in_their_order(self, page):
        order = [a["id"] for a in page.all("section")]
        assert order == [
            "answer", "warnings", "design", "ranking", "trust", "differences", "methods", "curves",
            "bound", "sandwich", "decomposition", "gradients", "pictures", "cost", "cells",
            "reproduction",
        ]  # fmt: skip

    def test_warnings(self, page):
        assert "stl seed 2 failed: the loss is not finite at step 412" in page.text
        assert "1 of 15 cells are not done yet" in page.text

    def test_answer(self, page, comparison):
        best = next(iter(comparison.ranking))
        mean = f"{comparison.arms[best].mean:.3f}".replace("-", MINUS)
        assert f"{best} has the highest mean log p(x) of 5 arms: {mean} nats per datum" in page.text

    def test_ranked_table_has_the_comparisons_numbers(self, page, comparison):
        rows = page.data("ranking")
        assert [row["arm"] for row in rows] == list(comparison.ranking)
        for row in rows:
            mean = comparison.arms[row["arm"]]
            low, high = mean.interval(comparison.confidence)
            found = [float(row[name]) for name in ("log_prob", "error", "low", "high")]
            assert found == pytest.approx([mean.mean, mean.error, low, high])

    def test_the_line_at_the_top_is_the_comparisons(self, html, page, comparison):
        (line,) = re.findall(r'<p class="trust">(.*?)</p>', html)
        assert line == f"{comparison.trust[0].upper()}{comparison.trust[1:]}."
        assert line.startswith("All estimates are trusted to 0.0")
        assert html.index(line) < html.index('id="answer"')

    def test_arms_in_doubt_and_what_that_costs_are_at_the_top(self, results, comparison):
        trust = replace(comparison.trusts["elbo"], doubt=0.2, needed=9000.0, evaluations=1000.0)
        doubtful = replace(
            comparison,
            warnings={"elbo": "limited: log p(x) may be low by 0.1 nats", "stl": "not trusted"},
            trusts=comparison.trusts | {
                "elbo": trust, "stl": replace(trust, doubt=math.inf, needed=math.inf),
            },
        )  # fmt: skip
        found = render(results, doubtful)
        (line,) = re.findall(r'<p class="trust doubt">(.*?)</p>', found)
        assert line.startswith("In doubt: elbo (low by up to 0.2 nats; about ")
        assert "decoder evaluations in place of" in line
        assert "stl (it cannot be bounded)" in line
        page = Page(found)
        assert "elbo: limited: log p(x) may be low by 0.1 nats" in page.text
        (row,) = [row for row in page.data("trust") if row["arm"] == "stl"]
        assert row["doubt"] == "inf"
        assert "no bound" in page.text

    def test_trust_in_the_estimates_of_every_arm(self, page, comparison):
        rows = {row["arm"]: row for row in page.data("trust")}
        assert set(rows) == set(comparison.trusts)
        for arm, trust in comparison.trusts.items():
            found = [float(rows[arm][name]) for name in ("bias", "doubt", "evaluations")]
            assert found == pytest.approx([trust.bias, trust.doubt, trust.evaluations])
        stages = page.data("stages")
        for row in stages:
            shares = {name: float(share) for name, share in row.items() if name != "arm"}
            assert shares == pytest.approx(comparison.trusts[row["arm"]].stages)
            assert sum(shares.values()) == pytest.approx(1)
        assert list(stages[0])[1:] == [
            "importance sampling", "importance sampling, refined guide",
            "annealing from the refined guide",
        ]  # fmt: skip
        assert {row["arm"] for row in page.data("doubt")} == set(rows)

    def test_differences(self, page, comparison):
        rows = {(row["a"], row["b"]): row for row in page.data("differences")}
        assert set(rows) == set(comparison.differences)
        assert {rows[pair]["verdict"] for pair in rows} == {
            comparison.verdict(pair) for pair in rows
        }
        open_ones = {pair for pair, power in comparison.power.items() if power.more_seeds != 0}
        assert {(row["a"], row["b"]) for row in page.data("power")} == open_ones

    def test_both_tables_and_figures_of_a_name(self, page):
        names = [a["download"] for a in page.all("a") if "download" in a]
        assert len(names) == len(set(names))

    def test_every_cell_has_its_row(self, page, results, comparison):
        rows = page.data("cells")
        assert [(r["arm"], int(r["seed"])) for r in rows] == [
            (c.arm, c.seed) for c in results.cells
        ]
        assert [row["state"] for row in rows] == [cell.state for cell in results.cells]
        assert {row["log_prob"] == "" for row in rows if row["state"] != "done"} == {True}
        stl = [float(row["log_prob"]) for row in rows if row["arm"] == "stl" and row["log_prob"]]
        assert stl == pytest.approx(comparison.arms["stl"].per_seed)

    def test_curves_are_the_histories(self, page, results):
        rows = page.data("curves-validation")
        cell = results.of("iwae:5")[1]
        mine = [float(r["validation"]) for r in rows if (r["arm"], r["seed"]) == ("iwae:5", "1")]
        assert mine == pytest.approx(replace(cell).history.column("validation"))
        assert {r["seed"] for r in rows if r["arm"] == "stl"} == {"0", "1"}, "failed runs are out"

    def test_curves_against_the_work_done(self, page):
        rows = [row for row in page.data("cost-curves") if row["arm"] == "elbo"]
        assert [float(row["evaluations"]) for row in rows] == [2000.0 * n for n in range(1, 21)]
        assert all(float(r["low"]) <= float(r["validation"]) <= float(r["high"]) for r in rows)

    def test_front_is_of_arms_that_no_other_beats(self, page, comparison):
        rows = page.data("cost-evaluations")
        for row in rows:
            beaten = any(
                float(o["evaluations"]) <= float(row["evaluations"])
                and float(o["log_prob"]) > float(row["log_prob"])
                for o in rows
            )
            assert int(row["on_front"]) == (not beaten)

    def test_methods(self, page, results):
        rows = page.data("methods")
        assert {row["method"] for row in rows} == {"iwae", "fewer"}
        assert len(rows) == 10
        for arm in results.study.arms:
            trusted, other = (
                next(r for r in rows if (r["arm"], r["method"]) == (arm, name))
                for name in ("iwae", "fewer")
            )
            low = float(trusted["log_prob"]) - float(other["log_prob"])
            assert float(other["low_by"]) == pytest.approx(low)
            assert float(other["low_by_error"]) > 0
            assert trusted["low_by"] == ""

    def test_how_to_do_it_again(self, page, results):
        assert "ppl-vae study run objectives.yaml" in page.text
        assert "learning_rate: 0.001" in page.text
        assert "objective: elbo" not in page.text, "arms do not share it"
        assert "0123456789ab" in page.text


class TestOtherStudies:
    def test_names_cannot_write_into_the_page(self, results):
        cells = [
            replace(cell, arm=ATTACK, reason=ATTACK) if cell.arm == "stl" else cell
            for cell in results.cells
        ]
        evil = replace(
            results, cells=cells, study=replace(results.study, question=ATTACK),
            manifest={**results.manifest, "command": ATTACK, "device": ATTACK},
        )  # fmt: skip
        found = render(evil, compare(evil.evidence()))
        page = Page(found)
        assert found.count("<script>") == 1
        assert "alert(" not in "".join(re.findall(r"<script>(.*?)</script>", found, re.DOTALL))
        assert page.text.count(ATTACK) > 10
        assert any(row["arm"] == ATTACK for row in page.data("ranking"))

    def test_a_study_that_has_just_begun(self, tmp_path):
        waiting = [(number, seed) for number in range(2) for seed in range(2)]
        found = write_study(
            tmp_path, factors={"objective": ["elbo", "stl"]}, seeds=2, waiting=waiting
        )
        assert write_report(found) == tmp_path / "report.html"
        page = Page((tmp_path / "report.html").read_text())
        assert "there is nothing to compare" in page.text
        assert len(page.data("cells")) == 4

    def test_one_run_has_no_other_to_compare_and_dashes_for_what_is_missing(self, tmp_path):
        found = write_study(
            tmp_path, factors={"objective": ["elbo"]}, seeds=1, num_data=20, measures=[]
        )
        comparison = found.comparison()
        assert math.isnan(comparison.arms["elbo"].seed_error)
        page = Page(render(found, comparison))
        assert "there is no other arm to compare it with" in page.text
        assert "differences" not in [a["id"] for a in page.all("section")]
        assert page.data("ranking")[0]["seed_error"] == ""
        assert "nan" not in page.text.replace("nans", "").lower()
        assert MISSING in page.texts
        keys = [a["data-key"] for _, a in page.elements if "data-key" in a]
        assert "" in keys
        assert "nan" not in keys

    def test_data_that_are_no_images(self, tmp_path):
        found = write_study(
            tmp_path, factors={"objective": ["elbo", "stl"]}, seeds=1, num_data=20,
            image_shape=None, measures=["pictures"],
        )  # fmt: skip
        page = Page(render(found, found.comparison()))
        assert page.all("img") == []
        assert "Test data and samples from the prior, stl" in [
            a.get("aria-label") for a in page.all("svg")
        ]

    def test_several_factors_and_more_arms_than_figures_show(self, tmp_path):
        factors = {"objective": ["elbo", "stl"], "latent": [2, 4, 6, 8, 10, 12, 14]}
        found = write_study(
            tmp_path, factors=factors, seeds=1, num_data=20, epochs=2, measures=[],
            reference="elbo latent=2", effect=0.5,
        )  # fmt: skip
        comparison = found.comparison()
        page = Page(render(found, comparison))
        assert "Figures show 13 of 14 arms: the best ones and the reference" in page.text
        assert len(page.data("ranking")) == 14
        drawn = {row["arm"] for row in page.data("curves-bound")}
        assert drawn == {*list(comparison.ranking)[:12], "elbo latent=2"}
        assert [row["latent"] for row in page.data("factor-2")] == ["2", "4", "6", "8", "10", "12",
                                                                    "14"]  # fmt: skip
        assert "minus the reference elbo latent=2" in page.text

    def test_a_curve_without_a_slope_is_said_beside_the_others(self, tmp_path):
        plan = {"factors": {"objective": ["elbo", "stl"]}, "seeds": 1, "num_data": 20, "epochs": 5}
        found = write_study(tmp_path, **plan)
        assert "Without a slope" not in Page(render(found, found.comparison())).text
        (cell,) = (cell for cell in found.cells if cell.arm == "stl")
        kept = cell.measures
        kept["gradients"]["slopes"] = kept["gradients"]["slopes"][1:]
        write_sealed(cell.folder / "measures.json", kept)
        page = Page(render(found, found.comparison()))
        assert (
            "with its standard error. Without a slope: stl phi; too few ratios stand out of the "
            "noise, which more replicates would lower"
        ) in page.text
        assert [(row["arm"], row["group"]) for row in page.data("slopes")] == [
            ("elbo", "phi"), ("elbo", "theta"), ("stl", "theta"),
        ]  # fmt: skip

    def test_measures_without_a_number(self, tmp_path):
        found = write_study(
            tmp_path, factors={"objective": ["elbo", "stl"]}, seeds=1, num_data=20, epochs=5
        )
        for cell in found.cells:
            kept = cell.measures
            kept["bound_curve"]["bounds"]["5"]["value"] = None
            kept["bound_curve"]["extrapolation"]["limit"]["monte_carlo_error"] = None
            kept["sandwich"]["gap_error"] = [None] * 3
            kept["sandwich"]["lower"][0] = None
            kept["gradients"]["rows"][0]["signal_to_noise"]["value"] = None
            kept["gradients"]["slopes"][0]["expected"] = None
            write_sealed(cell.folder / "measures.json", kept)
        page = Page(render(found, found.comparison()))
        assert [row["bound"] == "" for row in page.data("bound")[:3]] == [False, False, True]
        assert page.data("sandwich-bounds")[0]["lower"] == ""
        assert len(page.data("snr-phi")) == 6
