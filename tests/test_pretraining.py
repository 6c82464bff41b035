"""Pretraining from the command line: every preset, resuming, and clear error messages."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import write_raster
from cubes_of_arrays import smooth_cubes
from test_vit_init import make_vit

from ms2hs import progress
from ms2hs.datasets.cubes.packing import prepare
from ms2hs.models.config import PRESETS
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.training import pretraining
from ms2hs.training.engine.loop import FitSettings, fit
from ms2hs.training.pretraining import PretrainOptions, pretrain

# At least two patches on a side, so that some can be hidden.
WINDOWS = {"general": 32, "spectral": 8}
SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
ROOT = Path(__file__).parent.parent


def tiny(name, **changes):
    """Options that make a preset small."""
    fields = SIZES | {"window": WINDOWS.get(name, 16)} | changes
    return ["--preset", name, *(word for item in fields.items() for word in ("--set", "=".join(map(str, item))))]


def few(steps=3, batch=2, precision="float32"):
    return ["--steps", steps, "--batch", batch, "--precision", precision, "--device", "cpu"]


def save_cube(path, values, wavelength_nm):
    """An archive of (band, row, col) reflectance."""
    dn = np.where(np.isnan(values), -32768, np.rint(np.nan_to_num(values) * 1e4)).astype(np.int16)
    arrays = {"dn": np.moveaxis(dn, 0, -1), "scale": 1e-4, "nodata": -32768, "wavelength_nm": wavelength_nm}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def make_corpus(folder, **options):
    for number, cube in enumerate(smooth_cubes(**options)):
        save_cube(folder / f"place{number}.npz", cube.values, cube.grid.wavelength_nm)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus):
    """Small weights of `dlr-ibm-spectral`, trained once, with their checkpoint."""
    output = tmp_path_factory.mktemp("trained") / "w.safetensors"
    changes = {**SIZES, "window": 16}
    pretrain(PretrainOptions("dlr-ibm-spectral", (corpus,), changes=changes, fit=settings_of()), output)
    return output


def settings_of(**changes):
    return FitSettings(**({"steps": 3, "batch": 2, "precision": "float32", "device": "cpu"} | changes))


def log_of(output):
    return [json.loads(line) for line in (output.with_suffix(".run") / "log.jsonl").read_text().splitlines()]


def arrays_of(output):
    return load_weights(str(output)).network.state_dict()


def assert_converts(ms2hs, scene, model):
    code, out, err = ms2hs("convert", scene, "--model", model, "-o", model.parent / "cube.tif")
    assert code == 0, err
    with rasterio.open(out.split()[0]) as made:
        values = made.read(masked=True)
        assert (values.shape[0], values.mask.any()) == (202, False)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_on_cubes_and_converts(name, ms2hs, corpus, s2_tif, tmp_path):
    output = tmp_path / "out.safetensors"
    code, out, err = ms2hs("pretrain", *tiny(name), "--data", corpus, *few(), "-o", output)
    assert (code, out) == (0, f"{output}\n"), err
    assert err == f"note: sha256 {load_weights(str(output)).sha256}\n"
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.run", "out.safetensors"]
    assert [entry["step"] for entry in log_of(output)] == [1, 3]
    assert {"loss", "all_mse", "hidden_mse", "seen_mse", "lr", "gradient_norm"} <= set(log_of(output)[0])
    assert_converts(ms2hs, s2_tif, output)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_on_simulated_scenes(name, ms2hs, tmp_path):
    output = tmp_path / "out.safetensors"
    code, _, err = ms2hs("pretrain", *tiny(name), "--simulated", 3, *few(2), "-o", output)
    assert code == 0, err
    assert "real scenes give better weights: HySpecNet-11k" in err
    assert load_weights(str(output)).card["trained_on"] == ["3 simulated scenes"]


def test_without_data_many_scenes_are_simulated(ms2hs, tmp_path):
    code, _, err = ms2hs("pretrain", *tiny("spectral"), *few(1), "-o", tmp_path / "out.safetensors")
    assert code == 0, err
    assert load_weights(str(tmp_path / "out.safetensors")).card["trained_on"] == ["2000 simulated scenes"]


@pytest.mark.parametrize("name", ["dlr-ibm-spectral", "dlr-ibm-spatial-spectral"])
def test_logged_loss_falls_and_a_picture_is_written(name, ms2hs, corpus, tmp_path):
    output = tmp_path / "out.safetensors"
    words = ["--data", corpus, *few(120, 4), "--lr", "5e-3", "--picture-every", 120]
    assert ms2hs("pretrain", *tiny(name), *words, "-o", output)[0] == 0
    log = log_of(output)
    for part in ("all_mse", "hidden_mse", "seen_mse"):
        assert np.mean([entry[part] for entry in log[-4:]]) < 0.5 * log[0][part]
    assert (tmp_path / "out.run" / "step0000120.png").read_bytes()[:4] == b"\x89PNG"
    late = [entry["all_mse"] for entry in log if entry["step"] > 108]
    assert load_weights(str(output)).card["scores"]["train"]["mse"] == pytest.approx(np.mean(late))


def test_s2mae_continues_with_other_bands_and_sizes(ms2hs, corpus, s2_tif, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    other = make_corpus(tmp_path / "other", bands=63, side=25, seed=1)
    assert ms2hs("pretrain", *tiny("s2mae"), "--data", corpus, *few(), "-o", first)[0] == 0
    words = ["--data", other, "--window", 24, "--init", first, *few()]
    code, _, err = ms2hs("pretrain", *tiny("s2mae"), *words, "-o", second)
    assert code == 0, err
    assert_converts(ms2hs, s2_tif, second)
    assert load_weights(str(second)).card["settings"]["init"] == "first.safetensors"
    code, _, err = ms2hs("pretrain", *tiny("s2mae"), *words, "--lr", "1e-30", "-o", tmp_path / "same.safetensors")
    assert code == 0, err
    begun = arrays_of(tmp_path / "same.safetensors")
    for name, array in arrays_of(first).items():
        torch.testing.assert_close(begun[name], array, rtol=0, atol=1e-20)


def test_initial_weights_bring_their_prior(ms2hs, corpus, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    network = SpectralMAE(pretraining._config(PretrainOptions("spectral", changes=SIZES), load_weights().prior),
                          load_weights().prior)  # fmt: skip
    shifted = load_weights().prior.__class__(**(vars(load_weights().prior) | {"floor": 0.3}))
    save_weights(first, shifted, {}, network)
    code, _, err = ms2hs(
        "pretrain", *tiny("spectral", window=16), "--data", corpus, "--init", first, *few(1), "-o", second
    )
    assert code == 0, err
    made = load_weights(str(second))
    assert made.prior.floor == made.network.prior.floor == pytest.approx(0.3)


def test_initial_weights_accept_other_training_settings(ms2hs, corpus, trained, tmp_path):
    # with masking `sensors` measured bands are tokens of their own, for which these weights have no embedding
    words = [*tiny("dlr-ibm-spectral"), "--set", "masking=spectral,sensors", "--set", "hidden=0.5,0.9"]
    code, _, err = ms2hs(
        "pretrain", *words, "--data", corpus, "--init", trained, *few(), "-o", tmp_path / "out.safetensors"
    )
    assert code == 0, err
    assert "note: w.safetensors has no embed_band.weight, embed_band.bias: initialised at random" in err
    config = load_weights(str(tmp_path / "out.safetensors")).network.config
    assert (config.masking, config.hidden) == (("spectral", "sensors"), (0.5, 0.9))


def test_general_starts_from_a_vit_and_reports_every_array(ms2hs, corpus, s2_tif, tmp_path):
    arrays = make_vit(tmp_path / "vit.safetensors")
    words = [*tiny("general", width=48, depth=3, heads=3, patch=8, window=16), "--data", corpus]
    words += ["--init", tmp_path / "vit.safetensors", *few(2)]
    output = tmp_path / "out.safetensors"
    code, _, err = ms2hs("pretrain", *words, "--lr", "1e-30", "-o", output)
    assert code == 0, err
    (message,) = re.findall(r"note: (\d+) arrays of vit\.safetensors copied; unused: (.*)", err)
    left = [part.partition(":")[0] for part in message[1].split("; ")]
    assert sorted(left) == ["cls_token", "head.bias", "head.weight", "pos_embed"]
    assert int(message[0]) + len(left) == len(arrays)
    begun = arrays_of(output)
    for name, array in arrays.items():
        if name.startswith("blocks."):
            torch.testing.assert_close(begun[name.replace("blocks", "encoder")], array, rtol=0, atol=1e-20)
    assert_converts(ms2hs, s2_tif, output)


def test_left_out_scenes_are_not_trained_on(ms2hs, corpus, tmp_path, monkeypatch):
    shown = []

    def spy(network, task, *words, **options):
        shown.extend(task.cubes)
        return fit(network, task, *words, **options)

    monkeypatch.setattr(pretraining, "fit", spy)
    output = tmp_path / "out.safetensors"
    words = ["--data", corpus, "--leave-out", "place1", "--leave-out", "place3", "--simulated", 2]
    assert ms2hs("pretrain", *tiny("dlr-ibm-spectral"), *words, *few(), "-o", output)[0] == 0
    assert {cube.scene for cube in shown} == {"place0", "place2", "simulated-0-0", "simulated-0-1"}
    card = load_weights(str(output)).card
    assert card["trained_on"] == ["place0", "place2", "2 simulated scenes"]
    assert card["settings"]["leave_out"] == ["place1", "place3"]


def test_split_selects_the_scenes(ms2hs, corpus, tmp_path):
    folder = make_corpus(tmp_path / "corpus")
    (folder / "splits").mkdir()
    (folder / "splits" / "train.csv").write_text("place2\nplace0\n")
    words = ["--data", folder, "--data", corpus]
    code, _, err = ms2hs("pretrain", *tiny("dlr-ibm-spectral"), *words, "--split", "train", *few())
    assert code == 1
    assert "no split 'train'" in err  # of the other folder
    output = tmp_path / "out.safetensors"
    words = ["--data", folder, "--split", "train"]
    assert ms2hs("pretrain", *tiny("dlr-ibm-spectral"), *words, *few(), "-o", output)[0] == 0
    assert load_weights(str(output)).card["trained_on"] == ["place0", "place2"]


def test_card_has_scenes_settings_and_a_reproducing_command(ms2hs, trained, corpus, tmp_path):
    weights = load_weights(str(trained))
    card = weights.card
    assert card["trained_on"] == ["place0", "place1", "place2", "place3"]
    assert card["settings"]["preset"] == "dlr-ibm-spectral"
    assert card["settings"]["fit"]["steps"] == 3
    assert card["settings"]["changes"] == SIZES | {"window": 16}
    assert card["scores"]["train"]["mse"] == log_of(trained)[-1]["all_mse"]
    assert str(corpus.parent) not in json.dumps(card)
    words = card["command"].split()
    assert words[:2] == ["ms2hs", "pretrain"]
    words[words.index("--data") + 1] = str(corpus)
    words[words.index("--output") + 1] = str(tmp_path / "w.safetensors")
    assert ms2hs(*words[1:], "--device", "cpu")[0] == 0
    again = arrays_of(tmp_path / "w.safetensors")
    for name, array in weights.network.state_dict().items():
        assert torch.equal(again[name], array), name


def interrupt_after(monkeypatch, step):
    @contextmanager
    def bar(**_):
        yield lambda done, _steps, _loss: done == step and signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress, "fit_bar", bar)


@pytest.mark.parametrize("name", ["dlr-ibm-spatial-spectral", "spatial-spectral"])
def test_resumed_run_gives_the_same_bytes(name, ms2hs, corpus, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    words = ["pretrain", *tiny(name), "--data", corpus, *few(12), "-o"]
    assert ms2hs(*words, tmp_path / "whole" / "w.safetensors")[0] == 0
    parts = tmp_path / "parts" / "w.safetensors"
    with pytest.MonkeyPatch.context() as patched:
        interrupt_after(patched, 5)
        code, out, err = ms2hs(*words, parts)
    assert (code, out) == (130, "")
    assert re.fullmatch(
        r"ms2hs: interrupted after step 6 of 12; the checkpoint \S+ .* run: ms2hs pretrain --resume .*\n", err
    )
    assert not parts.exists()
    code, _, err = ms2hs(*words, parts, "--resume")
    assert code == 0, err
    assert parts.read_bytes() == (tmp_path / "whole" / "w.safetensors").read_bytes()
    assert [entry["step"] for entry in log_of(parts)] == [1, 10, 12]


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_and_names_resume(corpus, tmp_path):
    words = [*tiny("spectral"), "--data", corpus, *few(100_000), "--checkpoint-every", 2]
    process = start("-m", "ms2hs.cli", "pretrain", *words, "-o", tmp_path / "w.safetensors")
    for _ in range(1000):
        if (tmp_path / "w.run" / "checkpoint.safetensors").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert re.fullmatch(
        r"ms2hs: interrupted after step \d+ of 100000; the checkpoint .* run: ms2hs pretrain --resume .*\n", err
    )
    assert not (tmp_path / "w.safetensors").exists()


def start(*words):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--steps", 4], r"fit\.steps is 3 in the checkpoint, 4 now"),
        (["--lr", 0.5], r"fit\.lr is 0\.001 in the checkpoint, 0\.5 now"),
        (["--set", "decoder_depth=2"], r"config\.decoder_depth is 1 in the checkpoint, 2 now"),
        (["--window", 8], "window is None in the checkpoint, 8 now"),
        (["--leave-out", "place1"], r"scenes is \[4, 'place0', .* in the checkpoint, \[3, 'place0', "),
    ],
)
def test_resume_rejects_other_settings(changed, message, ms2hs, corpus, trained):
    words = [*tiny("dlr-ibm-spectral"), "--data", corpus, *few(), *changed]
    code, _, err = ms2hs("pretrain", *words, "-o", trained, "--resume", "--overwrite")
    assert_clear(code, err, rf"a checkpoint of another configuration: .*{message}")


def test_existing_run_is_replaced_only_with_overwrite(ms2hs, corpus, tmp_path):
    output = tmp_path / "w.safetensors"
    words = ["pretrain", *tiny("dlr-ibm-spectral"), "--data", corpus, *few(), "-o", output]
    assert ms2hs(*words)[0] == 0
    before = output.read_bytes()
    assert_clear(*ms2hs(*words)[::2], r"w\.safetensors exists; it is replaced only on request")
    assert_clear(*ms2hs(*words, "--resume")[::2], r"w\.safetensors exists")
    output.unlink()
    assert_clear(*ms2hs(*words)[::2], r"checkpoint\.safetensors exists; .* --resume")
    assert ms2hs(*words, "--overwrite")[0] == 0
    assert output.read_bytes() == before
    assert len(log_of(output)) == 2


def assert_clear(code, err, message):
    """One line, no traceback: what is wrong, what is allowed, what to do next."""
    assert code not in {0, 130}
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, err
    assert re.search(message, lines[0]), lines[0]
    assert re.fullmatch(r"ms2hs: .+; .+\. [A-Z].+\.", lines[0]), lines[0]


def _unknown(folder, _trained):
    for bands in (40, 30):
        (cube,) = smooth_cubes(1, bands=bands)
        save_cube(folder / f"c{bands}.npz", np.full_like(cube.values, np.nan), cube.grid.wavelength_nm)
    return ["--data", folder]


def _no_wavelengths_in_archives(folder, _trained):
    for bands in (8, 9):
        save_cube(folder / f"c{bands}.npz", smooth_cubes(1, bands=bands)[0].values, None)
    return ["--data", folder]


def _no_wavelengths(folder, _trained):
    for bands in (5, 7):
        write_raster(folder / f"{bands}.tif", np.full((bands, 8, 8), 900, np.int16))
    return ["--data", folder]


def _corrupt_shard(folder, _trained):
    (path, *_) = prepare(make_corpus(folder / "corpus"), folder / "shards").paths
    path.write_bytes(path.read_bytes()[:-100])
    return ["--data", folder / "shards"]


def _init_linear(_folder, _trained):
    return ["--init", ROOT / "weights" / "linear.safetensors"]


def _init_broken(folder, _trained):
    (folder / "broken.safetensors").write_bytes(b"nothing")
    return ["--init", folder / "broken.safetensors"]


def _init_vit(folder, _trained):
    make_vit(folder / "vit.safetensors")
    return ["--init", folder / "vit.safetensors"]


def _init_nowhere(folder, _trained):
    return ["--init", folder / "nowhere.safetensors"]


def _empty(folder, _trained):
    return ["--data", folder]


def _set(*pairs):
    return lambda _folder, _trained: [word for pair in pairs for word in ("--set", pair)]


def _words(*words):
    return lambda _folder, _trained: list(words)


CASES = {
    "unknown preset": (_words("--preset", "huge"), "unknown preset 'huge'; known: dlr-ibm-spatial-spectral, "),
    "empty folder": (_empty, "in is empty; known: "),
    "no folder": (_words("--data", "/nowhere"), "no such folder"),
    "no wavelengths": (_no_wavelengths, "(?i)wavelength"),
    "no wavelengths in archives": (_no_wavelengths_in_archives, "no wavelength_nm; a cube needs"),
    "corrupt shard": (_corrupt_shard, r"shard-00000\.safetensors: not a whole shard"),
    "NaN everywhere": (_unknown, "no pixel known in all bands"),
    "unknown scene": (_words("--leave-out", "elsewhere"), "unknown scene 'elsewhere'; known: place0, place1"),
    "all left out": (_words(*(w for i in range(4) for w in ("--leave-out", f"place{i}"))), "every scene is left out"),
    "unknown setting": (_set("dept=2"), "unknown setting 'dept'; known: decoder_depth, "),
    "no number": (_set("depth=two"), "depth is 'two'; a whole number is needed"),
    "nothing": (_set("depth=0"), "depth is 0; 1 or more is needed"),
    "no heads": (_set("heads=0"), "with width=16, .*heads=0.* cannot be built"),
    "no patch": (_set("patch=0"), "cannot be built"),
    "heads that do not fit": (_set("heads=3"), "widths must be multiples of their numbers of heads"),
    "truth": (_set("staged=maybe"), "staged is 'maybe'; true or false is needed"),
    "one share": (_set("hidden=0.5"), r"hidden is 0\.5; LOW,HIGH between 0 and 1"),
    "too large a share": (_set("hidden=0.5,1.5"), r"hidden is 0\.5,1\.5; LOW,HIGH between 0 and 1"),
    "word for a share": (_set("hidden=.5,most"), "hidden is 'most'; a number is needed"),
    "unknown masking": (_set("masking=some"), "masking is 'some'; one of spectral, "),
    "nothing to see": (_set("masking=spatial"), "masking `spatial` leaves hidden patches without a token"),
    "rank": (_set("rank=1000"), "rank is 1000; the prior has 60 directions"),
    "window": (_words("--window", 12), "windows of 12 pixels; a multiple of the patch, 8, is needed"),
    "one token": (
        _words("--preset", "general", "--set", "patch=8", "--window", 8), "1 patches by 40 groups of bands; masking"
    ),
    "another configuration": (
        lambda _folder, trained: ["--init", trained, "--set", "width=32", "--set", "group=4"],
        (
            "another configuration than preset dlr-ibm-spectral: group 8 instead of 4, width 16 instead of 32; only "
            "training settings"
        ),
    ),
    "linear weights": (_init_linear, r"linear\.safetensors: a linear model; "),
    "broken weights": (_init_broken, r"broken\.safetensors: not a readable safetensors file"),
    "no weights": (_init_nowhere, r"nowhere\.safetensors: no such weights file"),
    "another ViT": (_init_vit, "a ViT of width 48 with 3 blocks; width 16 with 1 is needed"),
    "nothing to resume": (_words("--resume"), "no such checkpoint"),
    "device": (_words("--device", "warp"), "unknown device 'warp'; known: auto, cpu"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_invalid_input_gives_one_clear_message(case, ms2hs, corpus, trained, tmp_path):
    make, message = CASES[case]
    (tmp_path / "in").mkdir()
    words = make(tmp_path / "in", trained)
    data = [] if "--data" in words else ["--data", corpus]
    code, out, err = ms2hs(
        "pretrain", *tiny("dlr-ibm-spectral"), *few(), *data, *words, "-o", tmp_path / "w.safetensors"
    )
    assert out == ""
    assert_clear(code, err, message)
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "depth"], "FIELD=VALUE"),
        (["--lr", "0"], "not a learning rate"),
        (["--lr", "nan"], "not a learning rate"),
        (["--precision", "half"], "'half' is not one of 'auto'"),
        (["--steps", "0"], "steps"),
        (["--seed", "-1"], "seed"),
        (["--model", "linear"], "--data"),
    ],
)
def test_usage_errors_name_the_option(words, message, ms2hs):
    code, out, err = ms2hs("pretrain", "--preset", "spectral", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_help_names_every_preset(ms2hs):
    text = re.sub(r"[\s│]+", " ", ms2hs("pretrain", "--help")[1])
    for name in [*PRESETS, "linear"]:
        assert re.search(rf" {name}[,.:; ]", text), name


def test_only_the_first_process_prints_notes(tmp_path, monkeypatch):
    message = []
    monkeypatch.setenv("RANK", "1")
    asked = PretrainOptions("spectral", changes=SIZES, simulated=2, fit=settings_of(steps=1))
    made = pretrain(asked, tmp_path / "w.safetensors", note=message.append)
    assert message == []
    assert len(made.notes) == 1


@pytest.mark.slow
def test_two_processes_train_as_one(ms2hs, corpus, tmp_path):
    # rank, patch tokens and rarely used parameters: where processes could differ
    words = ["pretrain", *tiny("spatial-spectral"), "--data", corpus, *few(21, 4), "-o"]
    assert ms2hs(*words, tmp_path / "one.safetensors")[0] == 0
    process = start(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "ms2hs.cli", *words,
        tmp_path / "two.safetensors",
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == f"{tmp_path / 'two.safetensors'}\n"
    assert err.count("sha256") == 1
    one, two = (log_of(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        for name in ("step", "loss", "all_mse", "hidden_mse", "seen_mse", "gradient_norm"):
            assert second[name] == pytest.approx(first[name], rel=2e-4), (first["step"], name)
    begun = arrays_of(tmp_path / "one.safetensors")
    for name, array in arrays_of(tmp_path / "two.safetensors").items():
        torch.testing.assert_close(array, begun[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_train_stages(corpus, tmp_path):
    recipe = tmp_path / "stages.toml"
    stage = f'[[stage]]\ndata = "{corpus}"\n'
    recipe.write_text(f'preset = "spectral"\n{stage}steps = 2\n{stage}steps = 3\n')
    output = tmp_path / "w.safetensors"
    process = start(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "ms2hs.cli", "pretrain",
        "--recipe", recipe, "--batch", 2, "--device", "cpu", "-o", output,
    )  # fmt: skip
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    steps = [log_of(path)[-1]["step"] for path in (tmp_path / "w.run" / "stage-1.safetensors", output)]
    assert steps == [2, 3]


def test_shards_train_without_rasterio(corpus, tmp_path):
    prepare(corpus, tmp_path / "shards")
    words = ["pretrain", *tiny("spatial-spectral"), "--data", tmp_path / "shards", *few(2)]
    words += ["-o", tmp_path / "w.safetensors"]
    block = "sys.modules.update(dict.fromkeys(['rasterio', 'h5py', 'xarray', 'prosail', 'matplotlib', 'skimage']))"
    process = start("-c", f"import sys; {block}; from ms2hs.cli.app import main; main()", *words)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"{tmp_path / 'w.safetensors'}\n"), err
    assert load_weights(str(tmp_path / "w.safetensors")).card["trained_on"] == [f"place{i}" for i in range(4)]


def test_real_cubes_of_all_sizes_train_a_preset_that_hides_patches(ms2hs, real_data, tmp_path):
    # with cubes of 3 by 3 pixels, smaller than the preset's patch
    words = ["--data", real_data, *few(12, 2), "--leave-out", "salton_sea", "-o", tmp_path / "w.safetensors"]
    code, _, err = ms2hs("pretrain", *tiny("general"), *words)
    assert code == 0, err
    trained_on = load_weights(str(tmp_path / "w.safetensors")).card["trained_on"]
    assert len(trained_on) > 5
    assert "salton_sea" not in trained_on
