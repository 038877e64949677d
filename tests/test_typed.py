"""What is typed wrongly after ``fairseq-steady``, answered before anything starts."""

import pytest
from conftest import ROOT
from fairseq_steady.commands import hydra_train, train
from fairseq_steady.errors import UserError, explanation
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException

EXAMPLES = ROOT / "examples" / "hydra"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config-name=cla", "method=sift"], "has no cla.yaml; did you mean cola?"),
        (["-cn", "xyz.yaml"], "has no xyz.yaml; it has: cola, glue, glue_multitask, "),
        (["method=sift"], f"--config-name is missing; {EXAMPLES} has: cola, glue, "),
    ],
)
def test_a_yaml_that_is_not_there_is_named(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        hydra_train.main([f"--config-dir={EXAMPLES}", *words])
    assert said in str(raised.value)


def test_a_folder_of_yaml_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="^--config-dir nowhere is not a folder$"):
        hydra_train.main(["--config-dir", "nowhere", "--config-name", "cola"])


def test_a_flag_that_the_file_leaves_out_begins_with_a_plus() -> None:
    with (
        initialize_config_dir(str(EXAMPLES), version_base="1.1"),
        pytest.raises(ConfigCompositionException) as raised,
    ):
        compose("cola", ["task.steady_max_length=16"])
    assert explanation(raised.value) == (
        "the configuration has no task.steady_max_length: check its spelling; what its "
        "file leaves out begins with a plus, +task.steady_max_length=16"
    )


def test_the_examples_pass() -> None:
    for name in ("cola", "cola.yaml"):
        hydra_train.check_name([f"--config-dir={EXAMPLES}", f"--config-name={name}"])


def test_training_without_a_task_is_not_translation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as raised:
        train.main(["data", "--lr=1", "--save-dir=x"])
    assert raised.value.code == 2
    assert capsys.readouterr().err == (
        "error: --task is missing: for example --task text_classification; see "
        "fairseq-steady train --help\n"
    )
