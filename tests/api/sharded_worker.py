"""One of two processes that train the tiny model sharded, and print what the watch read.

    python -m tests.api.sharded_worker RANK STORE FOLDER KIND...

KIND is ``alone``, ``fsdp2``, ``fsdp1``, ``fsdp1-orig`` or ``zero3``, with ``+lora`` behind it for an adapter.
Both ranks train on the same tokens, so that every kind takes the steps that one process alone takes.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import transformers

from superweight.training import watch

AT, STEPS, RATE = "1,41,23", 3, 0.05


def model_of(folder: str, *, lora: bool) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if not lora:
        return model
    import peft

    torch.manual_seed(0)
    chosen = peft.LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, chosen)


def sharded(model: Any, kind: str) -> tuple[Any, Any]:
    """Return the model, sharded, and what takes a step after its loss."""
    layers = next(module for name, module in model.named_modules() if name.endswith("layers"))
    if kind == "zero3":
        return _zero3(model)
    if kind == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        mesh = dist.init_device_mesh("cpu", (2,))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif kind.startswith("fsdp1"):
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import ModuleWrapPolicy

        model = FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy({type(layers[0])}),
            use_orig_params=kind.endswith("orig"),
            device_id=torch.device("cpu"),
        )
    optimizer = torch.optim.SGD(_trained(model), RATE)

    def step(loss: torch.Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def _zero3(model: Any) -> tuple[Any, Any]:
    import deepspeed

    # Its own shared memory on a CPU would be compiled here first; gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.SGD(_trained(model), RATE),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        },
        dist_init_required=False,
    )

    def step(loss: torch.Tensor) -> None:
        engine.backward(loss)
        engine.step()

    return engine, step


def _trained(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def readings(folder: str, kind: str) -> list[dict[str, float]]:
    """Train for a few steps, and return what was read before the first and after each."""
    how, _, adapter = kind.partition("+")
    model, step = sharded(model_of(folder, lora=bool(adapter)), how)
    ids = torch.cat([torch.tensor([[256]]), torch.arange(65, 89)[None]], 1)
    watched = watch(model, [AT], every=1, run_every=1, prompt=ids)
    found = [dict(watched.step(0).figures)]
    for number in range(1, STEPS + 1):
        step(model(input_ids=ids, labels=ids).loss)
        found.append(dict(watched.step(number).figures))
    return found


def main(rank: int, store: str, folder: str, *kinds: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {kind: readings(folder, kind) for kind in kinds}
    # A process that leaves while the other still waits for it would be an error of its own.
    dist.barrier()
    dist.destroy_process_group()
    print("READ", json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
