"""Each reason for which a layer stays in float has advice of its own."""

from typing import get_args

from zeropoint.schema.report import SkipReason
from zeropoint.schema.skip_reasons import NO_KEY, remedy_for, remedy_where_nothing_is_left


def test_where_nothing_is_left_each_reason_has_advice_of_its_own() -> None:
    advice = {reason: remedy_where_nothing_is_left([reason], tables=False) for reason in get_args(SkipReason)}
    known = {reason: text for reason, text in advice.items() if NO_KEY not in text.lower()}
    assert advice.keys() - known.keys() == {"mixed_precision"}  # a search never leaves everything in float
    assert len(set(known.values())) == len(known)


def test_all_reasons_are_answered_and_a_model_without_weights_is_named() -> None:
    both = remedy_where_nothing_is_left(["excluded", "type_skipped"], tables=False)
    assert '"exclude"' in both
    assert '"skip_layers"' in both
    assert "weights" in remedy_where_nothing_is_left([], tables=False)


def test_a_shared_weight_is_blamed_on_an_embedding_only_where_one_is_there() -> None:
    assert "Embedding" in str(remedy_for("shared_weight_conflict", tables=True))
    assert "Embedding" not in str(remedy_for("shared_weight_conflict"))
    assert "output" in str(remedy_for("shared_weight_conflict"))
