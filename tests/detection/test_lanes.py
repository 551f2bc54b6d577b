"""A stream in several lanes: the lane in which an activation is carried, and what cannot be done there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from superweight.checkpoints.registry import resolve
from superweight.core.errors import UnknownArchitecture
from superweight.detection.scan import SUPPRESSED, scan
from superweight.detection.scan_record import as_dict
from superweight.measurement.corpus import default_prompt
from superweight.model.architecture import inspect_architecture
from superweight.model.edits import PatchActivation, Prune, edited
from superweight.model.loading import load
from tools.decoder_sweep import CAUSAL, FIXTURE, build, jobs
from tools.gradient_planting import CHANNEL, block_list, kept, planted, writers


@pytest.fixture(scope="module")
def subject():
    template = load(resolve(str(FIXTURE)), device="cpu")
    model = build(jobs(CAUSAL)["deepseek_v4"])
    return replace(template, model=model, architecture=inspect_architecture(model))


def test_a_super_activation_names_its_lane(subject):
    """The lane whose value is largest where the activation peaks, by the stream's own numbers."""
    ids = torch.tensor([subject.encode(default_prompt())])
    blocks = block_list(subject.model, ids)
    direct = writers(subject.model, blocks, 1, ids)
    (writer,) = (item for item in direct if item.path == "mlp.shared_experts.down_proj.weight")
    with planted(subject.model, blocks, 1, ids, writer, direct, kept(subject.model, blocks, ids)):
        found = scan(subject, default_prompt())
        after = {layer: after_block(subject, layer) for layer in range(1, len(blocks))}
        with edited(subject, [Prune(found.coordinates[0])]):
            pruned = after_block(subject, 1)
    assert (SUPPRESSED, 1, CHANNEL) == (found.stop_reason, len(found.coordinates), found.coordinates[0].row)
    strongest = found.strongest
    in_lanes = torch.stack([stream[0, strongest.token, :, CHANNEL] for stream in after.values()])
    assert (len(blocks) - 1, 4) == in_lanes.shape
    assert float(in_lanes.abs().max()) == pytest.approx(abs(strongest.magnitude))
    assert int(in_lanes.abs().max(0).values.argmax()) == strongest.lane
    assert strongest.lane == as_dict(subject, found)["super_activations"][0]["lane"]
    assert float(pruned[0, strongest.token, :, CHANNEL].abs().max()) < 0.1 * abs(strongest.magnitude)


def after_block(subject, layer):
    """Return the stream after a block: (sequences, tokens, lanes, hidden)."""
    seen = []
    handle = subject.architecture.blocks[layer].register_forward_hook(lambda *said: seen.append(said[2]))
    ids = torch.tensor([subject.encode(default_prompt())])
    with torch.no_grad():
        subject.model.base_model(input_ids=ids, use_cache=False)
    handle.remove()
    return seen[0]


def test_an_activation_in_lanes_cannot_be_held(subject):
    """One line instead of a value in the wrong place."""
    ids = torch.tensor([subject.encode(default_prompt())])
    with (
        pytest.raises(UnknownArchitecture, match="runs in several lanes"),
        edited(subject, [PatchActivation(1, 0, 5, 7.0)]),
    ):
        subject.model.base_model(input_ids=ids, use_cache=False)
