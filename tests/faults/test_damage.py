"""Damaged, foreign, newer and incomplete runs: each is a UserError that names the file."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

import fourfold
from children import Nursery
from fourfold import api
from fourfold.cli import main
from fourfold.core.errors import UserError
from fourfold.core.state import load_state
from runs import last_step, lines, logged, state


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    from faulty import FaultySystem

    folder = tmp_path_factory.mktemp("fitted") / "run"
    fourfold.fit(FaultySystem(), out=folder, optimizer={"steps": 8})
    return folder


@pytest.fixture
def run(fitted: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(fitted, tmp_path / "run"))


def replace(path: Path, old: str, new: str) -> None:
    """Change a text file, exactly once."""
    text = path.read_text()
    assert text.count(old) == 1, (old, text)
    path.write_text(text.replace(old, new))


def test_any_flipped_bit_of_the_weights_is_found(run: Path) -> None:
    path = run / "weights.safetensors"
    whole = path.read_bytes()
    system = fourfold.open(run)
    from fourfold.core.state import load_weights

    model = system.model
    rng = random.Random(0)
    for position in range(len(whole)):  # every byte of header and tensors
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="weights.safetensors: damaged"):
            load_weights(path, model)
    path.write_bytes(whole)
    load_weights(path, model)


def test_any_flipped_bit_of_a_checkpoint_is_found(run: Path) -> None:
    path = run / "checkpoints" / "000000008" / "state.safetensors"
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    chosen = [*range(8), *rng.sample(range(8, 8 + header), 300)]
    chosen += rng.sample(range(8 + header, len(whole)), 300)
    for position in chosen:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="state.safetensors: damaged"):
            load_state(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(run: Path, share: float) -> None:
    weights, checkpoint = (
        run / "weights.safetensors",
        run / "checkpoints/000000008/state.safetensors",
    )
    for path in (weights, checkpoint):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="weights.safetensors: damaged"):
        fourfold.open(run).evaluate()
    with pytest.raises(UserError, match="state.safetensors: damaged"):
        api.resume(run)


def test_damage_from_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in run.rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    for line, name in (
        (["evaluate", str(run)], "weights.safetensors"),
        (["fit", "--resume", str(run)], "state.safetensors"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(line)
        said = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert len(said) == 1 and name in said[0] and "damaged" in said[0]


def test_missing_weights_and_checkpoint(run: Path) -> None:
    (run / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="weights.safetensors: no weights there"):
        fourfold.open(run).evaluate()
    (run / "checkpoints/000000008/state.safetensors").unlink()
    with pytest.raises(UserError, match="state.safetensors: no such file"):
        api.resume(run)


def test_a_torn_last_line_of_the_log(nursery: Nursery, run: Path) -> None:
    before = logged(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "los')
    assert fourfold.open(run).metrics.lines[-1]["step"] == 8
    resumed = nursery.run(["fit", "--resume", run, "--steps", "12"])
    assert resumed.code == 0, resumed.stderr
    after = logged(run)
    assert after[: len(before)] == before and after[-1]["step"] == 12
    assert lines(run) == len(after) and last_step(run) == 12


def test_a_run_of_another_system(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "duel", "--resume", str(run)])
    assert stopped.value.code == 2
    assert f"{run}: is a run of faulty, not of duel" in capsys.readouterr().err


def test_a_system_that_is_not_installed(run: Path) -> None:
    replace(run / "system.toml", 'system = "faulty"', 'system = "faulti"')
    with pytest.raises(UserError, match="faulti: no such system; did you mean faulty"):
        fourfold.open(run)


def test_a_newer_format(run: Path) -> None:
    replace(run / "system.toml", "format = 1\n", "format = 2\n")
    with pytest.raises(UserError, match=r"system.toml: written by a newer fourfold \(format 2"):
        fourfold.open(run)
    with pytest.raises(UserError, match="newer fourfold"):
        api.resume(run)


def test_a_format_that_is_no_number(run: Path) -> None:
    replace(run / "system.toml", "format = 1\n", 'format = "one"\n')
    with pytest.raises(UserError, match="system.toml: names no format version"):
        fourfold.open(run)


def test_no_system_toml(run: Path) -> None:
    (run / "system.toml").unlink()
    with pytest.raises(UserError, match=r"not a run \(it has no system.toml\)"):
        fourfold.open(run)
    with pytest.raises(UserError, match="no such run"):
        fourfold.open(run.parent / "rum")


def test_broken_toml(run: Path) -> None:
    text = (run / "system.toml").read_text().splitlines()
    text[3] = 'python = "3.11'
    (run / "system.toml").write_text("\n".join(text))
    with pytest.raises(UserError, match=r"system.toml: not valid TOML: .*line 4"):
        fourfold.open(run)


def test_no_text_in_system_toml(run: Path) -> None:
    (run / "system.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="system.toml: cannot be read"):
        fourfold.open(run)


def test_no_options_in_system_toml(run: Path) -> None:
    text = (run / "system.toml").read_text()
    (run / "system.toml").write_text(text[: text.index("[options]")])
    with pytest.raises(UserError, match="system.toml: damaged: it names no system or no options"):
        fourfold.open(run)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dropout = 0.3", "dropuot = 0.3", "unknown option dropuot; did you mean dropout"),
        ("clip = 1.0", "clipp = 1.0", "unknown option optimizer.clipp; did you mean clip"),
        ("pause = 0.0", "paus = 0.0", "unknown option data.paus; did you mean pause"),
        ("dropout = 0.3", 'dropout = "much"', "dropout: expected a valid number"),
        (
            "accumulate = 2",
            "accumulate = 0",
            "optimizer.accumulate: expected greater than 0, got 0",
        ),
    ],
)
def test_wrong_options_in_system_toml(run: Path, old: str, new: str, message: str) -> None:
    replace(run / "system.toml", old, new)
    with pytest.raises(UserError) as error:
        fourfold.open(run)
    assert str(error.value).startswith(str(run / "system.toml"))
    assert message in str(error.value)


def test_no_data_folder(run: Path) -> None:
    shutil.rmtree(run / "data")
    with pytest.raises(UserError, match="data: missing"):
        fourfold.open(run).evaluate()
    with pytest.raises(UserError, match="data: missing"):
        api.resume(run)


@pytest.mark.parametrize("content", ["", "[", '{"a": 1}', "\x00\x00"])
def test_broken_notes(run: Path, content: str) -> None:
    (run / "notes.json").write_text(content)
    with pytest.raises(UserError, match="notes.json: damaged"):
        fourfold.open(run)


def test_a_damaged_run_does_not_hide_the_others(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, run.parent / "good")
    (run / "system.toml").write_text("[")
    main(["runs", str(run.parent)])
    said = capsys.readouterr().out
    assert "damaged" in said and "good" in said


def test_the_checkpoint_of_a_model_of_another_shape(run: Path) -> None:
    replace(run / "system.toml", "width = 4", "width = 5")
    with pytest.raises(UserError, match="weights.safetensors: these weights do not fit this model"):
        fourfold.open(run).evaluate()
    with pytest.raises(UserError, match="checkpoint"):
        api.resume(run)
    assert state(run)["done"] == 8
