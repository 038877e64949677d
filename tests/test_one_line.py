"""Commands and tools that meet what they cannot use: one line, and nothing lost."""

import errno
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq_steady.commands import get_data, rouge, sensitivity
from fairseq_steady.errors import UserError
from fairseq_steady.inference import averaging
from fairseq_steady.patches.yaml_values import check_keys, check_yaml
from omegaconf import OmegaConf


def measured(folder: Path, *layers: str) -> Path:
    """A checkpoint of an optimizer that has measured these layers."""
    names = [f"encoder.sentence_encoder.layers.{layer}.fc1.weight" for layer in layers]
    names += ["decoder.layers.0.fc1.weight"]
    state = {
        place: {"sensitivity": torch.full((2, 2), place + 1.0)}
        for place in range(len(names))
    }
    group = {"names": names, "params": list(state)}
    optimizer = {"param_groups": [group], "state": state}
    path = folder / "measured.pt"
    torch.save({"model": {}, "last_optimizer_state": optimizer}, path)
    return path


def test_layers_are_drawn_in_their_order(tmp_path: Path) -> None:
    path = measured(tmp_path, "10", "2", "0")
    found = sensitivity.by_layer(torch.load(path, weights_only=True), path)
    assert [*found] == ["encoder.0", "encoder.2", "encoder.10", "decoder.0"]
    assert found["encoder.2"].tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("x.xyz", "x.xyz: its name ends with none of ."),
        ("nowhere/x.png", "nowhere/x.png cannot be written (No such file or directory"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_one_line(
    tmp_path: Path, name: str, problem: str
) -> None:
    layers = {"encoder.0": torch.ones(4)}
    with pytest.raises(UserError) as refused:
        sensitivity.draw(layers, tmp_path / name)
    assert problem in str(refused.value)
    assert not list(tmp_path.rglob("*"))


def test_what_is_no_checkpoint_is_said_of_it(tmp_path: Path) -> None:
    path = tmp_path / "list.pt"
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="list.pt: the whole: input should be a"):
        sensitivity.main([str(path), str(tmp_path / "x.png")])
    torch.save({"x": 1}, path)
    with pytest.raises(UserError, match=r"list.pt: field 'model' is missing"):
        averaging.mean_weights([path, path])


def test_checkpoints_of_other_classes_have_no_mean(tmp_path: Path) -> None:
    paths = []
    for labels in (["0", "1"], ["entailment", "not_entailment"]):
        paths.append(tmp_path / f"{labels[0]}.pt")
        model = {"w": torch.ones(2)}
        torch.save({"model": model, "task_state": {"labels": labels}}, paths[-1])
    averaging.mean_weights([paths[0], paths[0]])
    with pytest.raises(UserError, match=r"has heads for \['entailment', .* \['0', "):
        averaging.mean_weights(paths)


def test_a_mean_does_not_take_the_place_of_what_it_is_of(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = tmp_path / "checkpoint_best.pt"
    best.write_text("")
    flags = [cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path)
    words = [linked / best.name, "b.pt", "--", *flags, f"--save-dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["averaging", *map(str, words)])
    with pytest.raises(UserError, match="best.pt is one of those to average; name"):
        averaging.main()


def test_a_full_disk_is_said_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(get_data, "get", get)
    with pytest.raises(UserError, match=f"^{tmp_path}: No space left on device$"):
        get_data.main(["cola", str(tmp_path)])


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (BrokenPipeError(), SystemExit, "^141$"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            UserError,
            r"^standard output cannot be written to \(No space left on device\)",
        ),
    ],
)
def test_scores_that_nobody_can_read_end_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    kind: type[BaseException],
    said: str,
) -> None:
    """The status of a closed pipe is what a shell says of one."""
    scored = tmp_path / "scored.txt"
    scored.write_text("one\ntwo\n")

    class Closed:
        buffer = property(lambda self: self)

        def write(self, _: bytes) -> None:
            raise error

        def fileno(self) -> int:
            return spare.fileno()

    with (tmp_path / "spare").open("w") as spare:
        monkeypatch.setattr(sys, "stdout", Closed())
        with pytest.raises(kind, match=said):
            rouge.main([str(scored), str(scored)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "optimization.max_updte=3",
            "optimization.max_updte; did you mean optim.*date",
        ),
        ("task.steady_modle=x", "task.steady_modle; did you mean task.steady_model?"),
        ("criterion.nope=3", "criterion.nope; leave it out"),
        ("methd=smart", "methd; did you mean method?"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(words: str, said: str) -> None:
    name, _, value = words.partition("=")
    cfg = OmegaConf.create(
        {
            **{"hydra": {"run": {"dir": "x"}}, "mine": 3, "optimization": {"lr": [1]}},
            "task": {"_name": "cola", "steady_model": "${mine}"},
            "criterion": {"_name": "sift", "sift_lambda": 1.0},
        }
    )
    check_keys(cfg, [])
    OmegaConf.update(cfg, name, value, force_add=True)
    with pytest.raises(UserError, match=f"nothing reads {said}"):
        check_keys(cfg, [f"+{words}"])


def test_code_that_is_typed_with_hydras_plus_is_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = OmegaConf.create({"hydra": {}, "common": {"user_dir": "mine"}, "task": {}})
    with pytest.raises(UserError, match="common.user_dir: mine is code that a file"):
        check_yaml(cfg)
    monkeypatch.setattr(sys, "argv", ["x", "++common.user_dir=mine"])
    check_yaml(cfg)
