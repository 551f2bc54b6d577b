"""The claims of "The Super Weight in Large Language Models" (arXiv 2411.07191), held to a model.

One test a claim, run over every selected model of the registry. ``as_expected`` judges the claim
and fails when the verdict is not the expected one: that of the base model, of the committed
baseline, or of the registry. ``refuted`` is a finding where it is expected.
"""

from __future__ import annotations

import pytest

from superweight.claims import paper

pytestmark = pytest.mark.filterwarnings(
    "error",
    # On CUDA, of what a mixture of experts computes.
    "ignore:.*does not have a deterministic implementation",
)


def test_the_super_activation_sits_at_a_known_place(as_expected):
    """Known scalars make one enormous activation at a known block and channel (Table 2)."""
    as_expected(paper.location.judge)


def test_one_forward_pass_finds_it_whatever_the_prompt(as_expected):
    """Nine unlike prompts, each alone, find the same set (section 3.1)."""
    as_expected(paper.one_pass.judge)


def test_pruning_the_set_multiplies_perplexity(as_expected):
    """Zeroing the set destroys the model (Table 1, "Prune SW")."""
    as_expected(paper.pruning.judge)


def test_other_outliers_matter_less(as_expected):
    """Zeroing the largest other weights of every matrix hurts far less (Table 1, "Prune Non-SW")."""
    as_expected(paper.other_outliers.judge)


def test_pruning_removes_the_super_activation(as_expected):
    """The residual stream loses the activation over the whole plateau (Figure 4)."""
    as_expected(paper.suppression.judge)


def test_the_residual_stream_carries_it(as_expected):
    """From its onset on, the activation stays what it is over a plateau (Figure 4)."""
    as_expected(paper.persistence.judge)


def test_restoring_the_scalars_is_exact(as_expected):
    """Prune and restore leaves every logit as it was, bit for bit (section 3.2)."""
    as_expected(paper.weight_restoration.judge)


def test_restoring_the_activation_recovers_part(as_expected):
    """The activation alone, put back at its one token, wins back quality (Table 1, "+SA")."""
    as_expected(paper.activation_restoration.judge)


def test_stopwords_become_likelier(as_expected):
    """Without the set, probability moves to stopwords (Figure 5)."""
    as_expected(paper.stopwords.judge)


def test_damage_grows_as_the_weights_shrink(as_expected):
    """Perplexity falls as the set is scaled from 0 to 1, and stays flat up to 2 (Figure 6)."""
    as_expected(paper.sensitivity.judge)


def test_what_the_model_writes_collapses(as_expected):
    """Without the set, greedy continuations loop or turn to gibberish (Figure 1)."""
    as_expected(paper.generation.judge)


def test_holding_out_the_activation_closes_the_gap(as_expected):
    """W8A8 loses less when the super activation is not rounded with the rest (Tables 3 and 4)."""
    as_expected(paper.activation_quantization.judge)


def test_holding_out_the_weights_lets_blocks_grow(as_expected):
    """INT4 weights lose less with the set restored, and the more the larger the blocks (Figure 7)."""
    as_expected(paper.weight_quantization.judge)


def test_tuning_keeps_the_coordinates(as_expected):
    """A tuned model has its base's super weights where the base has them (section 3.1)."""
    as_expected(paper.fine_tuning.judge)
