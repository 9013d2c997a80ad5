"""Verdicts follow their rules, on results made up for the purpose."""

import madeup
import pytest

from g2e_lib.report import claims
from g2e_lib.report.text import NOT_REPRODUCED, NOT_RUN, REPRODUCED


@pytest.fixture
def everything():
    return {name: getattr(madeup, name)() for name in ("training", "ablations", "mining", "unime", "sugarcrepe")}


def judged(metrics, profile="mini", **options):
    return claims.claims_table(metrics, profile, **options).set_index("claim")


def test_without_results_nothing_is_claimed():
    table = judged({})
    assert set(table["verdict"]) == {NOT_RUN}
    assert len(table) == len(claims.CLAIMS) == table.index.nunique()
    assert set(table["ours"]) == {"–"}
    assert table.loc["the prompt lifts in-batch training, overall", "paper"] == "+4.8 points"
    assert claims.tally(table.reset_index()) == f"{len(table)} not run"


def test_every_claim_of_the_papers_is_there():
    statements = " | ".join(claim.statement for claim in claims.CLAIMS)
    for topic in ("every meta-task", "modality gap", "system level", "user level", "lifts in-batch", "top-k hard",
                  "OOD", "false negatives", "encoder passes", "% of pairs", "stage 1", "stages 1 + 2", "larger loss",
                  "larger gradients", "composition survives"):  # fmt: skip
        assert topic in statements, topic


def test_training_needs_the_interval_and_every_seed(everything):
    table = judged(everything)
    verdicts = table["verdict"]
    assert verdicts["fine-tuning with SaHa beats no training, overall"] == REPRODUCED
    assert verdicts["SaHa beats top-k hard negatives, overall"] == NOT_REPRODUCED
    assert verdicts["the prompt lifts in-batch training, overall"] == NOT_RUN
    assert table.loc["fine-tuning with SaHa beats no training, overall", "by seed"] == "+15.0, +1.0"
    assert table.loc["fine-tuning with SaHa beats no training, overall", "paper"] == "+23.8 points"
    one = everything["training"]["differences"]["zero_shot"]["saha"]
    one["overall_by_seed"] = [31.0, -1.0]  # one seed disagrees
    assert judged(everything)["verdict"]["fine-tuning with SaHa beats no training, overall"] == NOT_REPRODUCED
    one["overall_by_seed"] = [15.0]
    verdict = judged(everything)["verdict"]["fine-tuning with SaHa beats no training, overall"]
    assert verdict == f"{REPRODUCED} (one seed)"


def test_unime_and_composition(everything):
    table = judged(everything)
    verdicts = table["verdict"]
    assert verdicts["UniME's stage 1 improves zero-shot embedding, overall"] == f"{REPRODUCED} (one seed)"
    assert table.loc["UniME's stage 1 improves zero-shot embedding, overall", "paper"] == "+4.2 and +4.1 points"
    assert verdicts["UniME's stages 1 + 2 beat in-batch training, overall"] == REPRODUCED
    assert verdicts["UniME's stage 1 helps stage 2, overall"] == NOT_REPRODUCED
    assert table.loc["SaHa beats UniME, overall", "ours"] == "+3.0 [+2.0, +4.0] points"
    assert verdicts["SaHa beats UniME, overall"] == REPRODUCED
    assert verdicts["UniME's stage 1 improves composition"] == NOT_REPRODUCED
    assert verdicts["composition survives SaHa"] == REPRODUCED  # -1.5 is within the margin
    assert verdicts["composition survives in-batch training"] == NOT_REPRODUCED  # -2.5 is not
    assert table.loc["UniME's filter drops false negatives, as stage 2 begins", "ours"] == "+5.0 [+4.0, +6.0] points"
    assert verdicts["UniME's filter drops false negatives, as stage 2 begins"] == REPRODUCED
    assert verdicts["UniME's filter drops false negatives, as stage 2 ends"] == NOT_RUN
    assert verdicts["SaHa is no bag of words: swaps, better than guessing"] == NOT_REPRODUCED  # from 49.5
    assert verdicts["SaHa beats UniME in composition: SugarCrepe"] == REPRODUCED


def test_hard_negatives_are_compared_by_seed(everything):
    statement = "hard negatives give larger gradients than easy ones"
    table = judged(everything)
    assert (table.loc[statement, "ours"], table.loc[statement, "verdict"]) == ("+5.00 [+4.00, +6.00]", REPRODUCED)
    for record in everything["unime"]["negatives"]["hard"][1]:
        record["gradient_norm"] = 0.5
    assert judged(everything)["verdict"][statement] == NOT_REPRODUCED


def test_mining_and_passes(everything):
    verdicts = judged(everything)["verdict"]
    assert verdicts["SaHa has fewer false negatives than top-k targets: all"] == REPRODUCED
    assert verdicts["SaHa has fewer false negatives than top-k targets: other"] == claims.NO_DIFFERENCE
    assert verdicts["clusters need fewer encoder passes a pair than topk"] == REPRODUCED
    everything["mining"]["miners"]["saha"]["passes"] = 30.0
    assert judged(everything)["verdict"]["clusters need fewer encoder passes a pair than topk"] == NOT_REPRODUCED


def test_a_fraction_suffices_within_the_margin(everything):
    assert judged(everything)["verdict"]["10 % of pairs train as well as all"] == f"{REPRODUCED} (one seed)"
    everything["ablations"]["differences"]["base"]["fraction=0.1"]["overall"] = madeup.estimate(-1.5)
    verdict = judged(everything)["verdict"]["10 % of pairs train as well as all"]
    assert verdict == f"{NOT_REPRODUCED} (one seed)"


def test_a_part_has_only_what_was_measured_and_smoke_no_paper(everything):
    part = judged(everything, part="training")
    assert NOT_RUN not in set(part["verdict"])
    assert len(part) == 3
    assert set(judged(everything, "smoke")["paper"]) == {"–"}
    assert judged({}, part="unime").empty


def test_the_terminal_gets_what_fits(everything):
    table = claims.claims_table(everything, "mini", chosen=lambda claim: not claim.is_detail)
    text = claims.claims_text(table, width=100)
    assert len(text.splitlines()) == len(table) + 2
    assert max(map(len, text.splitlines()[1:])) <= 100
    assert text.startswith("claims: ")
    assert len(table) < len(claims.CLAIMS)


def test_the_page_has_rules_and_rows(everything):
    page = claims.claims_markdown(claims.claims_table(everything, "mini"), "mini")
    assert all(rule in page for rule in claims.RULES.values())
    assert page.count("\n|") == len(claims.CLAIMS) + 2
