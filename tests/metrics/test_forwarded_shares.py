import numpy as np
import pytest

from tfrs_prerank.metrics import NeverExposedShare, TailShare

NAN = float("nan")


def value(metric, counts, scores, **arguments):
    metric.update_state([counts], [scores], **arguments)
    return float(metric.result())


def test_tail_share_by_hand():
    # In the tail is what is below 5: ranks 2 and 3.
    counts, scores = [9.0, 1.0, 4.9, 5.0], [4.0, 3.0, 2.0, 1.0]
    assert value(TailShare("seen", 5.0, k=1), counts, scores) == 0.0
    assert value(TailShare("seen", 5.0, k=3), counts, scores) == pytest.approx(2 / 3)
    # k beyond the list: the share of the candidates.
    assert value(TailShare("seen", 5.0), counts, scores) == 0.5


def test_never_exposed_share_by_hand():
    counts, scores = [9.0, 0.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0]
    assert value(NeverExposedShare("seen", k=2), counts, scores) == 0.5
    assert value(NeverExposedShare("seen", k=3), counts, scores) == pytest.approx(1 / 3)
    assert value(NeverExposedShare("seen"), counts, scores) == 0.5


def test_documents_of_unknown_count_are_left_out():
    # Without the first two, the top 2 holds one of two.
    counts, scores = [NAN, NAN, 0.0, 7.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]
    assert value(NeverExposedShare("seen", k=2), counts, scores) == 0.5
    metric = NeverExposedShare("seen", k=2)
    metric.update_state([[NAN, NAN]], [[1.0, 2.0]])
    assert not metric.usable


def test_ties_count_by_their_chance():
    # The first is in; of three tied, two of them in the tail, one more is kept.
    metric = TailShare("seen", 1.0, k=2)
    expected = (0 + 2 / 3) / 2
    assert value(metric, [5.0, 0.0, 0.0, 5.0], [9.0, 1.0, 1.0, 1.0]) == pytest.approx(
        expected
    )


def test_integers_are_counts_too():
    assert value(NeverExposedShare("seen", k=1), np.int64([0, 3]), [2.0, 1.0]) == 1.0


def test_where_the_head_begins():
    counts = [1, 50, 3, 40, 2, 0, 0, 7, 9, 4]
    # 20% of ten: 50 and 40.
    assert TailShare.head_of(counts) == 40.0
    assert TailShare.head_of(counts, share=0.5) == 4.0
    # Half of a catalogue of which little was ever seen: what was never is the tail.
    assert TailShare.head_of([0, 0, 0, 0, 0, 0, 3, 5], share=0.5) == 3.0
    # At least one document.
    assert TailShare.head_of([3, 8], share=0.01) == 8.0
    for share in (0.0, 1.0, -1, NAN):
        with pytest.raises(ValueError, match="share="):
            TailShare.head_of(counts, share=share)
    for bad in ([], [0, 0], [1, -1], [1, NAN]):
        with pytest.raises(ValueError, match="counts: give a popularity"):
            TailShare.head_of(bad)


def test_names_columns_and_config():
    tail, never = TailShare("seen", 5, k=3), NeverExposedShare("seen", k=3)
    assert tail.columns == never.columns == {"labels": "seen"}
    config = {"column": "seen", "k": 3}
    assert never.get_config() == {"name": "never_exposed_share@3", **config}
    assert tail.get_config() == {"name": "tail_share@3", "head_from": 5.0, **config}
    for head_from in (0, -1, NAN):
        with pytest.raises(ValueError, match=r"TailShare: head_from="):
            TailShare("seen", head_from)
    with pytest.raises(ValueError, match="NeverExposedShare: k=0 is not a cut-off"):
        NeverExposedShare("seen", k=0)
