"""What a fleet.toml may say, and the one line in which a mistake in it is refused."""

from __future__ import annotations

import pytest

from superweight.core.errors import BadInput
from superweight.fleet.fleet_file import read_fleet
from superweight.fleet.job import Job, decoded, encoded
from superweight.fleet.needs import Needs, Size, needs_of
from superweight.fleet.search import since

GIB = 2**30


@pytest.fixture
def written(tmp_path):
    def written(text):
        path = tmp_path / "fleet.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_options_hold_for_all_and_a_model_s_own_come_first(written):
    """A base makes a comparison of it, sizes and times are read, relative paths lead on from the file."""
    path = written(
        '[options]\ndevice = "cpu"\ntimeout = "5min"\n'
        '[[models]]\nmodel = "org/one"\n'
        '[[models]]\nmodel = "./two"\nbase = "org/one"\ntimeout = "1h"\n'
        'memory = "2GB"\nlimits = "strict.toml"\n'
    )
    one, two = read_fleet(path).jobs()
    assert ("check", "auto", "cpu", 300.0) == (one.mode, one.expect, one.device, one.timeout)
    assert ("compare", "kept", "cpu", 3600.0, 2 * 10**9) == (
        two.mode,
        two.expect,
        two.device,
        two.timeout,
        two.memory,
    )
    assert (str(path.parent), str(path.parent / "strict.toml")) == (two.folder, two.limits)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no models"),
        ("[[models]]\n", "missing required field `model`"),
        ('[[models]]\nmodel = "m"\nmodes = "scan"\n', "unknown field `modes`"),
        ('[[models]]\nmodel = "m"\nmode = "scant"\n', "model m: mode 'scant' is none of scan, check"),
        ('[[models]]\nmodel = "m"\nmode = "compare"\n', "needs a base"),
        ('[[models]]\nmodel = "m"\nstream = true\n', "stream is for mode scan, and this is mode check"),
        (
            '[[models]]\nmodel = "hf://o/n"\nmode = "scan"\ndevice = "cuda"\n',
            "leave device and trust out",
        ),
        ('[[models]]\nmodel = "m"\nexpect = "kept"\n', "expect of mode check 'kept' is none of auto, paper"),
        ('[[models]]\nmodel = "m"\ntimeout = "soon"\n', "'soon' is no length of time"),
        ('[[models]]\nmodel = "m"\nmemory = "much"\n', "'much', which is no size"),
        ('[[models]]\nmodel = "m"\ncpus = -1.0\n', "cpus -1.0 is no number"),
        ('[[models]]\nmodel = "m"\n[[models]]\nmodel = "m"\n', "m stands there twice"),
        ('[[models]]\nmodel = "none/*.json"\nmode = "report"\n', "no file matches"),
        ('[[search]]\norg = "o"\nmode = "compare"\n', "needs a base"),
        ("models = 3", "Expected `array`, got `int`"),
        ("[", "cannot read the fleet"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(written, refusal, text, said):
    """What is wrong, and where."""
    path = written(text)
    line = refusal(read_fleet, path)
    assert said in line
    assert str(path) in line


def test_a_job_is_the_same_after_the_way_to_a_node():
    """Every field passes through JSON."""
    job = Job("org/name", "compare", "card", trust=("pickle",), timeout=1.5, registries=("a.json",))
    assert job == decoded(encoded(job))


def test_another_model_mode_or_base_is_another_folder_and_another_device_is_not():
    """By its folder a model is found again the next night."""
    job = Job("org/name")
    others = [Job("org/other"), Job("org/name", "scan"), Job("org/name", "compare", "b")]
    assert 4 == len({each.id for each in (job, *others)})
    assert job.id == Job("org/name", device="cuda", timeout=1.0).id
    assert "x-" == Job("../.. /x").id.removeprefix("-")[:2]


@pytest.mark.parametrize(
    ("job", "size", "has_gpus", "needs"),
    [
        # Weights in float32 on a CPU, with a tenth for the allocator, and the room of a process.
        (Job("m"), Size(10**9, 2 * 10**9), False, Needs(1.0, 0.0, 4_400_000_000 + 1_500_000_000)),
        (Job("m", dtype="bfloat16"), Size(10**9), False, Needs(1.0, 0.0, 3_700_000_000)),
        # A base beside it.
        (Job("m", base="b"), Size(10**9), False, Needs(1.0, 0.0, 8_800_000_000 + 1_500_000_000)),
        # As stored on a GPU: one holds it; of 24 GB, several on one node.
        (Job("m"), Size(10**9, 2 * 10**9), True, Needs(1.0, 1.0, 2_000_000_000)),
        (Job("m"), Size(70 * 10**9, 140 * 10**9), True, Needs(1.0, 7.0, 36_500_000_000)),
        (Job("m", device="cpu"), Size(10**9), True, Needs(1.0, 0.0, 5_900_000_000)),
        # What is not known is not asked for, and what the job says comes first.
        (Job("m"), Size(), False, Needs(1.0)),
        (Job("m", cpus=2, gpus=0.5, memory=7), Size(10**9), True, Needs(2, 0.5, 7)),
        # Block by block on a CPU: an eighth of the weights.
        (
            Job("m", "scan", stream=True),
            Size(8 * 10**9),
            True,
            Needs(1.0, 0.0, 4_000_000_000 + 1_500_000_000),
        ),
        (Job("hf://o/n", "scan"), Size(), True, Needs(1.0)),
        (Job("m", "report"), Size(10**9), True, Needs(1.0)),
    ],
)
def test_what_a_model_asks_for_follows_from_its_size_and_dtype(job, size, has_gpus, needs):
    """Cores, GPUs and bytes of main memory."""
    assert needs == needs_of(job, size, 24 * 10**9, cluster_has_gpus=has_gpus)


def test_a_node_holds_what_it_has_as_much_of():
    """One that lacks memory or GPUs does not, whatever its cores."""
    node = {"CPU": 8.0, "memory": 10.0 * GIB}
    assert Needs(8, 0, 10 * GIB).fits(node)
    assert not Needs(1, 0, 11 * GIB).fits(node)
    assert not Needs(1, 1).fits(node)
    assert not Needs(9).fits(node)


def test_days_are_lengths_of_time_too():
    """7d is seven times 24h; what is no length is refused."""
    assert 1 > abs((since("7d") - since("168h")).total_seconds())
    assert since(None) is None
    with pytest.raises(BadInput, match="no length of time"):
        since("week")
