"""A mutation run: change one thing in a module, and see whether a test notices.

    python tools/mutation.py detection/detect model/edits core/statistics claims --out mutants.json

Mutants come from cosmic-ray's operators. Its own runner starts Python anew for each, which takes
seconds of importing torch; here one process imports everything, and forks for every mutant. The
tests are the fast ones that cover the module, stopped at the first failure. A mutant counts as
killed when a test fails or the time is up, and is left out when it changes only annotations.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
SOURCES = REPOSITORY / "harness"
PACKAGE = SOURCES / "superweight"
# At the least; where the tests themselves take long, as many times as long as they do.
SECONDS, TIMES = 60, 4

# Nothing but the tiny models, in the order in which they are likely to notice.
_TINY = ("--sw-model=tiny-planted", "--sw-model=tiny-plain", "--sw-model=tiny-tuned")
_CLAIMS = ("tests/core/test_signatures.py", "tests/claims/test_paper.py", *_TINY)
TESTS = {
    "detection/detect": (
        *("tests/detection/test_detect.py", "tests/detection/test_lanes.py"),
        *("tests/verdicts/test_claims_by_hand.py", "tests/detection/test_planting.py", *_CLAIMS),
    ),
    "model/edits": ("tests/model/test_edits.py", "tests/model/test_gains.py", *_CLAIMS),
    "core/statistics": ("tests/core/test_statistics.py", "tests/measurement/test_sequential.py", *_CLAIMS),
    "claims": (
        *("tests/verdicts", "tests/measurement/test_generation.py", "tests/measurement/test_sequential.py"),
        *(*_CLAIMS, "tests/cli/test_sweep.py", "tests/measurement/test_zero_shot.py"),
        *("tests/engines", "tests/release/test_base_gate.py", "tests/cli/test_verify.py"),
    ),
    # The quick ones first, which need no forward pass.
    "release": (
        *("tests/release/test_result.py", "tests/release/test_settlement.py"),
        *("tests/release/test_config_and_tokenizer.py", "tests/release/test_tensor_names.py"),
        *("tests/release/test_matrix_checks.py", "tests/release/test_gguf_release.py"),
        *("tests/release/test_chat_replies.py", "tests/release/test_same_function.py"),
        *("tests/release/test_compare.py", "tests/release/test_verdicts.py", "tests/cli/test_compare.py"),
        *("tests/release/test_packed_releases.py", "tests/release/test_trust.py"),
        *("tests/release/test_mistral_names.py", "tests/release/test_gains.py"),
        *("tests/release/test_activation_checks.py", "tests/release/test_head_room.py"),
        *("tests/release/test_rope_order.py", "tests/release/test_live_checks.py"),
    ),
    # Module by module, for what needs none at all.
    "release/result": ("tests/release/test_result.py",),
    "release/config_checks": (
        "tests/release/test_config_and_tokenizer.py",
        "tests/release/test_settlement.py",
    ),
    "release/tokenizer_checks": ("tests/release/test_config_and_tokenizer.py",),
    "release/extents": ("tests/release/test_matrix_checks.py",),
    "release/matrix_checks": (
        *("tests/release/test_matrix_checks.py", "tests/release/test_tensor_names.py"),
        *("tests/release/test_gguf_release.py", "tests/release/test_mistral_names.py"),
    ),
    "release/tensor_names": (
        *("tests/release/test_tensor_names.py", "tests/release/test_matrix_checks.py"),
        *("tests/release/test_gguf_release.py", "tests/release/test_mistral_names.py"),
        "tests/release/test_packed_releases.py",
    ),
    "release/chat_checks": ("tests/release/test_chat_replies.py",),
    "release/chat_replies": ("tests/release/test_chat_replies.py",),
    "checkpoints": ("tests/checkpoints", "tests/fault_injection", "tests/release/test_tensor_names.py"),
    "checkpoints/adapters": ("tests/checkpoints/test_adapters.py",),
    "checkpoints/adapter_source": (
        "tests/checkpoints/test_adapter_source.py",
        "tests/checkpoints/test_adapters.py",
    ),
    "checkpoints/cache_entries": ("tests/checkpoints/test_cache_entries.py",),
    "checkpoints/forms": ("tests/checkpoints/forms", "tests/release/test_packed_releases.py"),
    "checkpoints/hub": ("tests/checkpoints/test_sources.py", "tests/checkpoints/test_mirror.py"),
    "checkpoints/hub_source": ("tests/checkpoints/test_hub_source.py", "tests/checkpoints/test_mirror.py"),
    "checkpoints/local_model": (
        *("tests/checkpoints/test_sources.py", "tests/checkpoints/test_recognition.py"),
        *("tests/fault_injection/test_folders.py", "tests/fault_injection/test_bad_files.py"),
    ),
    "checkpoints/recognition": (
        "tests/checkpoints/test_recognition.py",
        "tests/checkpoints/test_sources.py",
    ),
    "checkpoints/registry": ("tests/checkpoints/test_registry.py", "tests/checkpoints/test_model_ref.py"),
    "checkpoints/scalars": (
        *("tests/cli/test_read.py", "tests/cli/test_verify.py"),
        *("tests/checkpoints/test_adapters.py", "tests/checkpoints/test_adapter_source.py"),
    ),
    "checkpoints/tensors": (
        *("tests/checkpoints/test_safetensors.py", "tests/checkpoints/test_gguf.py"),
        *("tests/checkpoints/test_decoding.py", "tests/checkpoints/test_scales.py"),
        *("tests/checkpoints/test_locations.py", "tests/checkpoints/test_health.py"),
        *("tests/checkpoints/test_safetensors_parts.py", "tests/cli/test_read.py"),
        *("tests/checkpoints/test_files.py", "tests/checkpoints/test_ranges.py"),
        *("tests/checkpoints/forms", "tests/fault_injection/test_bad_files.py"),
        *("tests/model/test_gguf_conversion.py", "tests/remedy/test_repair.py"),
    ),
    "checkpoints/wheels": ("tests/checkpoints/test_wheels.py",),
    "claims/expectations": ("tests/verdicts/test_expectations.py", "tests/verdicts/test_verdict.py"),
    "pytest_plugin": ("tests/pytest_plugin", "tests/release/test_base_gate.py", "tests/cli/test_compare.py"),
}
_QUIETLY = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not checkpoint")
# Of the replacements for one operator, those that a slip of the pen would make.
_BINARY = {
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Div", "Mod_FloorDiv", "Pow_Mul"),
    *("BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitAnd", "LShift_RShift", "RShift_LShift"),
}
_LEFT_OUT = ("VariableReplacer", "VariableInserter", "NoOp")
# Identity for equality is no slip of a pen; of words that stand in the source it means the same.
_IDENTITY = ("_Is", "_IsNot")


class Mutant(NamedTuple):
    module: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str
    source: str


def modules(name: str) -> list[Path]:
    path = PACKAGE / name
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def tests_of(name: str) -> tuple[str, ...]:
    """Return the tests of a module: its own, or those of the wing that it belongs to."""
    own = next((known for known in (name, name.partition("/")[0]) if known in TESTS), None)
    if own is None or not all(path.exists() for path in modules(name)):
        raise SystemExit(f"no tests are known for {name}; there are some for {', '.join(sorted(TESTS))}")
    return TESTS[own]


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a module that is not the module itself."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = path.read_text(encoding="utf-8")
    meaning = _meaning(source)
    module = ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
    seen = {meaning}
    for name in sorted(operator_names()):
        short = name.partition("/")[2]
        if short.startswith(_LEFT_OUT) or (
            short.endswith(_IDENTITY) and not short.startswith("ReplaceComparisonOperator_Is")
        ):
            continue
        if short.startswith("ReplaceBinaryOperator_") and short.partition("_")[2] not in _BINARY:
            continue
        for occurrence in range(10_000):
            try:
                changed = mutate_code(source, get_operator(name)(), occurrence)
                if changed is None:
                    break
                other = _meaning(changed)
            except (SyntaxError, AttributeError):  # cosmic-ray stumbles over `except module.Error`
                continue
            if other in seen:
                continue
            seen.add(other)
            yield Mutant(module, short, occurrence, *_difference(source, changed), changed)


def _difference(source: str, changed: str) -> tuple[int, str, str]:
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    lines = ((n, was.strip(), now.strip()) for n, (was, now) in enumerate(pairs, 1) if was != now)
    return next(lines, (0, "", ""))


def _meaning(source: str) -> str:
    """Return what a module does, annotations and what only they import left out."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.test, node.body = ast.Constant("annotation"), []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            node.decorator_list = [item for item in node.decorator_list if ast.unparse(item) != "overload"]
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant("annotation")
    return ast.dump(tree)


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a source of its own."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        if name != self.name:
            return None
        package = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            name, self.path, loader=self, submodule_search_locations=package
        )

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, self.path, "exec"), module.__dict__)  # noqa: S102  # that is the point


def preload() -> None:
    """Import, in this process, all that a check imports but the harness itself."""
    sys.path[:0] = [str(SOURCES), str(REPOSITORY)]
    # A fork has none of its parent's threads, and waits for them where they had begun.
    os.environ["OMP_NUM_THREADS"] = "1"
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    from _pytest.assertion.rewrite import AssertionRewritingHook

    # What is imported here is too late to be rewritten; runs that tests start in here would count that.
    AssertionRewritingHook._warn_already_imported = lambda *_: None  # type: ignore[method-assign]

    from superweight.checkpoints.model_ref import parse_model
    from superweight.claims.check import CheckRequest, run_check
    from superweight.claims.run_config import RunConfig

    run_check(CheckRequest(parse_model("tiny-planted"), None, "paper", RunConfig(device="cpu")))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("superweight", "tests")]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


def notices(mutant: Mutant | None, path: Path, tests: tuple[str, ...], seconds: float = 60 * SECONDS) -> str:
    """Run the tests on a mutant, or on the module as it is, in a fork; return what came of it."""
    child = os.fork()
    if child == 0:
        _run_tests(mutant, path, tests)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timed out"


def _run_tests(mutant: Mutant | None, path: Path, tests: tuple[str, ...]) -> None:
    code = 99
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        if mutant is not None:
            sys.meta_path.insert(0, _Instead(mutant.module, path, mutant.source))
        import pytest

        code = pytest.main([*_QUIETLY, *tests])
    finally:
        os._exit(int(code))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="A wing, or a module of one, as above.")
    parser.add_argument("--out", type=Path, required=True, help="Where every mutant's fate is written.")
    parser.add_argument("--again", type=Path, help="Run only what survived in this earlier output.")
    parser.add_argument("--part", default="1/1", help="Which share of the mutants: 1/2 is every other one.")
    parser.add_argument("--sample", type=int, help="Run so many mutants of each name, chosen at random.")
    parser.add_argument("--seed", type=int, default=0, help="What chooses the sample.")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    preload()
    number, count = map(int, options.part.split("/"))
    known = json.loads(options.again.read_text()) if options.again else []
    left = {(row["module"], row["operator"], row["after"]) for row in known if row["fate"] == "survived"}
    rows, begun = [], time.monotonic()
    for name in options.names:
        started = time.monotonic()
        if notices(None, PACKAGE, tests_of(name)) != "survived":
            raise SystemExit(f"the tests of {name} fail without any mutation")
        seconds = max(SECONDS, TIMES * (time.monotonic() - started))
        found = [(path, mutant) for path in modules(name) for mutant in mutants(path)]
        if options.again:
            found = [(path, item) for path, item in found if (item.module, item.operator, item.after) in left]
        if options.sample is not None:
            chosen = random.Random(options.seed)  # noqa: S311  # a sample, and no secret
            found = chosen.sample(found, min(options.sample, len(found)))
        for path, mutant in found[number - 1 :: count]:
            fate = notices(mutant, path, tests_of(name), seconds)
            rows.append({**mutant._asdict(), "fate": fate})
            del rows[-1]["source"]
            if fate == "survived":
                place = f"{mutant.module}:{mutant.line} {mutant.operator}"
                print(place, f"- {mutant.before}", f"+ {mutant.after}", sep="\n  ", flush=True)
            if len(rows) % 20 == 0:
                options.out.write_text(json.dumps(rows, indent=1))
    options.out.write_text(json.dumps(rows, indent=1))
    killed = sum(row["fate"] != "survived" for row in rows)
    minutes = (time.monotonic() - begun) / 60
    print(f"{killed} of {len(rows)} mutants killed in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
